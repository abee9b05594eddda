# /// escape
# promise = "S10"
# trick = "Two files differ only in upper and lower case, so that one replaces the other elsewhere"
# collect = ["out/**"]
# comes = 1
# control = { local = ["intake:case"], docker = ["intake:case"] }
# gets = 0
# breaks = ["artifacts"]
# ///
from pathlib import Path

from inside import refused

for name in ("A/x", "a/x"):
    Path("out", name).parent.mkdir(parents=True)
    Path("out", name).write_text(name, encoding="ascii")
refused("so far", "two names are made")
