# /// escape
# promise = "S10"
# trick = "It declares twenty thousand files"
# limits = { storage_mib = 1100, memory_mib = 1024, wall_s = 40 }
# comes = 100
# collect = ["out/*"]
# control = { local = ["intake:artifacts"], docker = ["intake:artifacts"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os
from pathlib import Path

from inside import refused

Path("out").mkdir()
for number in range(20_000):
    os.close(os.open(f"out/{number:06}", os.O_CREAT | os.O_WRONLY))
refused("so far", "twenty thousand files are made")
