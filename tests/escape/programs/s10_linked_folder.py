# /// escape
# promise = "S10"
# trick = "A folder that it declares is a link to a folder of the host"
# collect = ["out/**"]
# control = { local = ["intake:links", "intake:file systems"], docker = ["intake:links", "intake:file systems"] }
# gets = 0
# breaks = ["secret"]
# ///
from pathlib import Path

from inside import refused, told

Path("out").symlink_to(Path(told()["canary"]).parent)
refused("so far", "a link is made, and followed by whoever collects")
