# /// escape
# promise = "S4"
# trick = "A shell runs itself twice, and each of those twice"
# verdict = ["too_many_processes", "failed"]
# limits = { processes = 40, wall_s = 15 }
# control = { local = ["pids"], docker = ["pids"] }
# ///
import subprocess
from pathlib import Path

from inside import got

Path("twice.sh").write_text(
    '[ "$1" -gt 0 ] || { sleep 2; echo x >> leaves; exit 0; }\n'
    "sh twice.sh $(($1 - 1)) & a=$!; sh twice.sh $(($1 - 1)) & b=$!; wait $a && wait $b\n",
    encoding="ascii",
)
if subprocess.run(["sh", "twice.sh", "6"]).returncode or len(Path("leaves").read_text(encoding="ascii")) < 128:
    raise SystemExit(1)
got("processes", "127 shells")
