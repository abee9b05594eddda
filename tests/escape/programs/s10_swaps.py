# /// escape
# promise = "S10"
# trick = "It swaps files for links and back, without end, also while it is killed"
# verdict = "timed_out"
# limits = { wall_s = 1.5 }
# collect = ["out/*"]
# comes = 20
# control = { local = ["intake:links"], docker = ["intake:links"] }
# gets = 0
# breaks = ["secret"]
# ///
import os
from pathlib import Path

from inside import told

canary = told()["canary"]
Path("out").mkdir()
for number in range(20):
    Path(f"out/{number}").write_text("harmless", encoding="ascii")
for _ in range(3):
    os.fork()
mine = f"next{os.getpid()}"
while True:
    for make in (lambda: os.symlink(canary, mine), lambda: os.symlink(canary, mine), Path(mine).touch):
        for number in range(20):
            make()
            os.replace(mine, f"out/{number}")
