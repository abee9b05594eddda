# /// escape
# promise = "S16"
# trick = "It writes into the workspace of a run beside it"
# needs = ["neighbour"]
# control = { local = ["host folders", "uid"], docker = ["host folders", "uid"] }
# breaks = ["neighbour's files"]
# ///
import time
from pathlib import Path

from inside import attempt, told

attempt("mine", lambda: Path(told()["neighbour"], "mine").write_text("yours", encoding="utf-8"))
time.sleep(0.4)
