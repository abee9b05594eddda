# /// escape
# promise = "S16"
# trick = "It asks the scheduler to prefer it to everybody else"
# control = { docker = ["capabilities", "uid:root"] }
# lacks = { local = "in a user namespace nobody has that right, whatever is switched off" }
# ///
import os

from inside import attempt

attempt("nice", lambda: os.nice(-5))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
