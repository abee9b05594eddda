# /// escape
# promise = "S13"
# trick = "It attacks the first process of its own namespace, so that nobody is left to clean up"
# verdict = ["failed", "succeeded"]
# control = { local = ["release"], docker = ["release"] }
# gets = 0
# breaks = ["nothing left"]
# ///
import contextlib
import os
import signal

from inside import refused

for number in (signal.SIGSTOP, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGKILL):
    with contextlib.suppress(OSError):
        os.kill(1, number)
refused("so far", "its init was sent every signal")
