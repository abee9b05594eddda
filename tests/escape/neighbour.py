"""Another execution, which only wants to be left alone: it watches its file, and says when somebody changed it."""

import os
import time
from pathlib import Path

mine = Path("/work/mine")
mine.write_text("mine", encoding="utf-8")
os.write(1, b"on\n")
for _ in range(600):
    time.sleep(0.1)
    if mine.read_text(encoding="utf-8") != "mine":
        os.write(1, b"changed\n")
