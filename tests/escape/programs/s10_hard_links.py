# /// escape
# promise = "S10"
# trick = "It gives one file many names, so that it is counted once and taken often"
# collect = ["out/*"]
# control = { local = ["intake:hard links"], docker = ["intake:hard links"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os
from pathlib import Path

from inside import attempt, refused

Path("out").mkdir()
Path("out/0").write_bytes(b"x" * 1000)
for number in range(1, 10):
    os.link("out/0", f"out/{number}")
attempt("of a frozen file", lambda: os.link("/in/frozen.txt", "out/frozen"))
refused("so far", "a file has ten names")
