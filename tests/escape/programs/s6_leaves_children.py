# /// escape
# promise = "S6"
# trick = "It ends at once, and leaves a child of its own session to work on"
# control = { local = ["end with the first process"], docker = ["end with the first process"] }
# ///
import os
import sys
import time

from inside import got, refused

if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(1)
        got("time", "the program is long over")
    os._exit(0)
os.wait()
refused("so far", "the child sleeps while the program ends")
sys.exit()
