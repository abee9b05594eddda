# /// escape
# promise = "S3"
# trick = "Many processes take a little each"
# verdict = "out_of_memory"
# limits = { memory_mib = 96 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
import os
import time

from inside import got

pids = []
for _ in range(8):
    pid = os.fork()
    if not pid:
        held = b"x" * 30_000_000
        time.sleep(1.5)
        os._exit(0)
    pids.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
if any(codes):
    raise SystemExit(1)
got("memory", "240 MB in eight processes")
