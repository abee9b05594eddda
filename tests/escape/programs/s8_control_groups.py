# /// escape
# promise = "S8"
# trick = "It finds its control group, and leaves it or names a program for the host to start when it is empty"
# control = { local = ["control groups", "uid:root"], docker = ["control groups", "uid:root"] }
# ///
import os
from pathlib import Path

from inside import attempt, refused

# Opened and closed; nothing is written.
for top in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
    for name in ("cgroup.procs", "notify_on_release", "cgroup.subtree_control"):
        attempt(f"{top}/{name}", lambda place=f"{top}/{name}": os.close(os.open(place, os.O_WRONLY)))
refused("listed", sorted(Path("/sys").iterdir()) if Path("/sys").is_dir() else "no /sys")
