# /// escape
# promise = "S8"
# trick = "It restarts the machine, or starts another kernel"
# control = { local = ["seccomp:reboot", "seccomp:unshare", "capabilities"], docker = ["seccomp:reboot", "capabilities", "uid:root"] }
# ///
import os

from inside import call, reaches

# Without the magic numbers it is an error for everybody.
reaches("reboot", 169, 0, 0, 0, 0)
try:
    call(272, 0x20000000)
except OSError:
    raise SystemExit from None
if not os.fork():
    reaches("reboot from a namespace of its own", 169, 0, 0, 0, 0)
    os._exit(0)
os.wait()
