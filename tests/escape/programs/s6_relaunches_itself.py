# /// escape
# promise = "S6"
# trick = "It starts itself again and again, each time as a new session without parents, and outlives its end"
# verdict = "timed_out"
# limits = { wall_s = 1.0 }
# control = { local = ["deadline"], docker = ["deadline"] }
# ///
import os
import signal
import sys
import time

from inside import got

signal.signal(signal.SIGTERM, signal.SIG_IGN)
begun = float(sys.argv[1]) if len(sys.argv) > 1 else time.monotonic()
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(0.2)
        if time.monotonic() - begun > 2.5:
            got("time", "it still starts itself after its end")
            os._exit(0)
        os.execve(sys.executable, [sys.executable, sys.argv[0], str(begun)], {})
    os._exit(0)
if len(sys.argv) == 1:
    time.sleep(3.5)
