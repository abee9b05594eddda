# /// escape
# promise = "S4"
# trick = "It starts threads without end"
# verdict = ["too_many_processes", "failed"]
# limits = { processes = 40, wall_s = 15 }
# control = { local = ["pids"], docker = ["pids"] }
# ///
import threading
import time

from inside import got

threads = [threading.Thread(target=time.sleep, args=(1.5,)) for _ in range(150)]
for thread in threads:
    thread.start()
got("threads", threading.active_count())
