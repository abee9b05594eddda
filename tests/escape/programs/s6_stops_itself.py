# /// escape
# promise = "S6"
# trick = "It stands still, where no handler and no timer of its own would ever run"
# verdict = "timed_out"
# limits = { wall_s = 1.0 }
# control = { local = ["deadline"], docker = ["deadline"] }
# ///
import os
import signal
import time

from inside import got

parent = os.getpid()
if not os.fork():
    time.sleep(2.5)
    got("time", "two and a half times what it was given")
    os.kill(parent, signal.SIGCONT)
    os._exit(0)
os.kill(parent, signal.SIGSTOP)
