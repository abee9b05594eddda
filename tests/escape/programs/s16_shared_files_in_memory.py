# /// escape
# promise = "S16"
# trick = "It reads what others keep in /dev/shm"
# control = { local = ["own /dev/shm"], docker = ["own /dev/shm"] }
# ///
from pathlib import Path

from inside import attempt

attempt("canary", lambda: Path("/dev/shm/fumehood-canary").read_text(encoding="ascii"))
