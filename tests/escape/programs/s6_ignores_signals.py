# /// escape
# promise = "S6"
# trick = "It ignores every signal that can be ignored, and works on"
# verdict = "timed_out"
# limits = { wall_s = 1.0 }
# control = { local = ["deadline"], docker = ["deadline"] }
# ///
import contextlib
import signal
import time

from inside import got

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    with contextlib.suppress(OSError):
        signal.signal(number, signal.SIG_IGN)
end = time.monotonic() + 3
while time.monotonic() < end:
    time.sleep(0.1)
got("time", "three times what it was given")
