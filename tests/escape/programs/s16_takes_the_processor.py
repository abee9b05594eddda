# /// escape
# promise = "S16"
# trick = "It computes on every processor, with many threads of equal right"
# limits = { cpus = 0.1, wall_s = 15 }
# alone = true
# checks = ["cpu"]
# control = { local = ["cpu"], docker = ["cpu"] }
# gets = 0
# breaks = ["cpu"]
# ///
import os
import time

from inside import refused

refused("so far", "four processes compute")
pids = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            pass
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
