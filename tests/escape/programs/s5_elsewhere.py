# /// escape
# promise = "S5"
# trick = "It looks for a place outside its workspace where it may write"
# control = { local = ["read-only root"], docker = ["read-only root", "uid:root"] }
# ///
from pathlib import Path

from inside import attempt

for folder in (
    "/",
    "/etc",
    "/usr",
    "/usr/lib",
    "/bin",
    "/var/tmp",
    "/var/log",
    "/run",
    "/home",
    "/lab",
    "/dev",
    "/proc",
):
    attempt(folder, lambda folder=folder: Path(folder, "planted").write_bytes(b"x" * 4096))
