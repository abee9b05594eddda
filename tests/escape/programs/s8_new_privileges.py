# /// escape
# promise = "S8"
# trick = "It gains rights by starting a program that has more"
# control = { docker = ["no-new-privileges"] }
# lacks = { local = "bubblewrap itself sets it for all that it starts, and has no way not to" }
# ///
import re
from pathlib import Path

from inside import got, refused

told = re.findall(r"NoNewPrivs:\s+(\d)", Path("/proc/self/status").read_text(encoding="ascii"))[0]
(got if told == "0" else refused)("new privileges", told)
