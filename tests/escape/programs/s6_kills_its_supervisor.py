# /// escape
# promise = "S6"
# trick = "It sends signals to those who watch over it"
# control = { local = ["pid namespace", "uid:root"], docker = ["pid namespace", "uid:root"] }
# ///
import os

from inside import attempt, told

# Signal 0 asks only whether it could be sent.
attempt("a process of the host", lambda: os.kill(told()["pid"], 0))
