# /// escape
# promise = "S16"
# trick = "It kills every process that it may send signals to"
# verdict = ["failed", "lost", "succeeded"]
# needs = ["neighbour"]
# control = { local = ["pid namespace", "uid"], docker = ["pid namespace", "uid"] }
# gets = 0
# breaks = ["neighbour"]
# ///
import os
import signal

from inside import refused, say

refused("so far", "the neighbour lives")
say(os.kill(-1, signal.SIGKILL))
