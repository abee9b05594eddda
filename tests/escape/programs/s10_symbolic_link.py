# /// escape
# promise = "S10"
# trick = "It declares a link to a file of the host as its result"
# collect = ["out/*"]
# control = { local = ["intake:links"], docker = ["intake:links"] }
# gets = 0
# breaks = ["secret"]
# ///
from pathlib import Path

from inside import refused, told

Path("out").mkdir()
Path("out/canary").symlink_to(told()["canary"])
Path("out/shadow").symlink_to("/etc/shadow")
Path("out/up").symlink_to("../../../../../../../../../../.." + told()["canary"])
refused("so far", "links are made, and read by whoever collects them")
