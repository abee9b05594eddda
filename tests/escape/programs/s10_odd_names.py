# /// escape
# promise = "S10"
# trick = "It gives its files names that end a line, colour a terminal, run backwards or are no text at all"
# collect = ["out/*"]
# control = { local = ["intake:names"], docker = ["intake:names"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os
from pathlib import Path

from inside import refused

Path("out").mkdir()
for name in (
    *("line\nbreak", "\x1b[31mred", "\x1b]0;title\x07", "gpj\u202etxt.exe", "e\u0301", "a\u200bb", "back\\slash"),
    *("\u3164", "\x85", "\ufeffmark", "x" * 255, "\u2066isolated", "\U000e0041tag"),
):
    Path("out", name).touch()
os.close(os.open(b"out/\xff\xfe", os.O_CREAT))
os.unlink("out/" + "x" * 255)
refused("so far", "odd names are made")
