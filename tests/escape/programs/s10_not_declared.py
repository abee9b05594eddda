# /// escape
# promise = "S10"
# trick = "It leaves files that nobody asked for among its results"
# collect = ["out/*.npz"]
# control = { local = ["intake:globs"], docker = ["intake:globs"] }
# gets = 0
# breaks = ["artifacts"]
# ///
from pathlib import Path

from inside import refused

Path("out/more").mkdir(parents=True)
for name in ("out/x.sh", "out/more/y.npz", "z.npz", ".hidden", "out/.npz.py"):
    Path(name).write_text("not asked for", encoding="ascii")
refused("so far", "files are written that were not declared")
