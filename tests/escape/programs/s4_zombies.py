# /// escape
# promise = "S4"
# trick = "It keeps its dead children, which fill the table of processes as well as living ones"
# verdict = ["too_many_processes", "failed"]
# limits = { processes = 40, wall_s = 15 }
# control = { local = ["pids"], docker = ["pids"] }
# ///
import os

from inside import got

count = 0
for _ in range(150):
    if not os.fork():
        os._exit(0)
    count += 1
got("zombies", count)
