# /// escape
# promise = "S14"
# trick = "Whenever one of its processes dies, two others begin"
# verdict = ["cancelled", "too_many_processes"]
# limits = { processes = 40 }
# host = "cancel"
# alone = true
# control = { local = ["kill"], docker = ["kill"] }
# gets = 0
# breaks = ["cancelled in time"]
# ///
import contextlib
import os
import time

from inside import say

end = time.monotonic() + 4
say("ready")
while time.monotonic() < end:
    with contextlib.suppress(OSError):
        if not os.fork():
            os.setsid()
    # So many refused forks that it would be ended for them are another case.
    time.sleep(0.3)
