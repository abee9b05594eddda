# /// escape
# promise = "S9"
# trick = "It reads what other processes were started with"
# control = { local = ["pid namespace"], docker = ["pid namespace"] }
# breaks = ["secret"]
# ///
from pathlib import Path

from inside import got, refused, told

place = Path(f"/proc/{told()['pid']}/cmdline")
try:
    got("command line", place.read_bytes().replace(b"\0", b" ").decode())
except OSError as error:
    refused("command line", error)
