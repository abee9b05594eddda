# /// escape
# promise = "S4"
# trick = "It forks without end"
# verdict = ["too_many_processes", "failed"]
# limits = { processes = 40, wall_s = 15 }
# checks = ["responsive"]
# control = { local = ["pids"], docker = ["pids"] }
# ///
import os
import time

from inside import got

count = 0
while count < 150:
    try:
        if not os.fork():
            time.sleep(2)
            os._exit(0)
        count += 1
    except OSError:
        pass
got("processes", count)
