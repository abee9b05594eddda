# /// escape
# promise = "S8"
# trick = "It has the kernel start a program of its own when something crashes, and changes other settings of the host"
# control = { local = ["read-only /proc/sys", "read-only /proc", "uid:root"], docker = ["read-only /proc/sys", "uid:root"] }
# gets = 2
# ///
import os

from inside import attempt

for name in ("kernel/core_pattern", "vm/panic_on_oom", "kernel/modprobe", "vm/drop_caches"):
    # Opened and closed; nothing is written.
    attempt(name, lambda name=name: os.close(os.open(f"/proc/sys/{name}", os.O_WRONLY)))
attempt("sysrq", lambda: os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY)))
