# /// escape
# promise = "S14"
# trick = "It ignores that it is cancelled"
# verdict = "cancelled"
# host = "cancel"
# alone = true
# control = { local = ["kill"], docker = ["kill"] }
# gets = 0
# breaks = ["cancelled in time"]
# ///
import signal
import time

from inside import say

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
say("ready")
end = time.monotonic() + 4
while time.monotonic() < end:
    time.sleep(0.1)
