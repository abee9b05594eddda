# /// escape
# promise = "S11"
# trick = "It plants modules that every later program of this image would import first"
# control = { local = ["read-only packages"], docker = ["read-only packages"] }
# ///
import sys
from pathlib import Path

from inside import attempt

places = {path for path in sys.path if path.startswith(("/usr", "/lab"))} | {"/usr/lib/python3/dist-packages", "/lab"}
for folder in sorted(places):
    for name in ("sitecustomize.py", "numpy.py", "planted.pth"):
        attempt(
            f"{folder}/{name}", lambda place=f"{folder}/{name}": Path(place).write_text("x = 1\n", encoding="ascii")
        )
