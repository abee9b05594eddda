# /// escape
# promise = "S3"
# trick = "It asks the kernel to kill everybody else first when memory runs short"
# control = { local = ["oom score", "read-only /proc"], docker = ["oom score", "read-only /proc"] }
# ///
from pathlib import Path

from inside import attempt

attempt("score", lambda: Path("/proc/self/oom_score_adj").write_text("0", encoding="ascii"))
