# /// escape
# promise = "S9"
# trick = "It reads the workspace of a run beside it"
# needs = ["neighbour"]
# control = { local = ["host folders", "uid"], docker = ["host folders", "uid"] }
# ///
from pathlib import Path

from inside import attempt, told

attempt("mine", lambda: Path(told()["neighbour"], "mine").read_text(encoding="utf-8"))
