# /// escape
# promise = "S10"
# trick = "It declares a file that is small on its disk, and large on the disk of whoever copies it"
# limits = { storage_mib = 32 }
# collect = ["out/*"]
# control = { local = ["intake:sparse"], docker = ["intake:sparse"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os
from pathlib import Path

from inside import refused

Path("out").mkdir()
Path("out/holes").touch()
os.truncate("out/holes", 4_000_000)
refused("so far", "a file of holes is made")
