# /// escape
# promise = "S6"
# trick = "It finds where its time limit is written, and writes a longer one"
# verdict = "timed_out"
# limits = { wall_s = 1.5 }
# control = { local = ["deadline"], docker = ["deadline"] }
# ///
import os
import resource
import signal
import time
from pathlib import Path

from inside import attempt, got, told

TOLD = told()
for place in (
    "/in/told.json",
    *(f"{TOLD['state']}/executions/{TOLD['name']}/{name}.json" for name in ("plan", "spec", "started")),
    f"/sys/fs/cgroup/cpu/fh/{TOLD['name']}/cpu.cfs_quota_us",
):
    attempt(place, lambda place=place: Path(place).write_text('{"wall_s": 86400}', encoding="ascii"))
signal.setitimer(signal.ITIMER_REAL, 0)
os.environ["TIMEOUT"] = "86400"
resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Path("config.toml").write_text("timeout = 86400\n", encoding="ascii")
time.sleep(3)
got("time", "twice what it was given")
