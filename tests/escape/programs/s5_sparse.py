# /// escape
# promise = "S5"
# trick = "It makes a file of a terabyte that takes no room"
# control = { local = ["rlimits:fsize"], docker = ["rlimits:fsize"] }
# ///
import os
import signal
from pathlib import Path

from inside import attempt

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
Path("big").touch()
attempt("sparse", lambda: os.truncate("big", 2**40))
