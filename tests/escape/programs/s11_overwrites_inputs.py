# /// escape
# promise = "S11"
# trick = "It writes over the frozen parts, removes them, renames them, or makes itself their owner"
# control = { local = ["read-only /in", "owner of /in", "hash check"], docker = ["read-only /in", "owner of /in", "hash check"] }
# gets = 3
# ///
import os
from pathlib import Path

from inside import attempt

FROZEN = "/in/frozen.txt"
for name, act in {
    "append": lambda: open(FROZEN, "ab").write(b"changed"),
    "chmod": lambda: os.chmod(FROZEN, 0o777),
    "truncate": lambda: os.truncate(FROZEN, 0),
    "rename": lambda: os.rename(FROZEN, "/in/other.txt"),
    "unlink": lambda: os.unlink("/in/told.json"),
    "plant": lambda: Path("/in/sitecustomize.py").write_text("", encoding="ascii"),
    "folder": lambda: os.rename("/in", "/work/in"),
    "times": lambda: os.utime("/in"),
}.items():
    attempt(name, act)
