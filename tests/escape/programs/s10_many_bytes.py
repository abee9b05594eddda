# /// escape
# promise = "S10"
# trick = "It declares more bytes than may come out"
# limits = { storage_mib = 32 }
# collect = ["out/*"]
# control = { local = ["intake:total_bytes"], docker = ["intake:total_bytes"] }
# gets = 0
# breaks = ["artifacts"]
# ///
from pathlib import Path

from inside import refused

Path("out").mkdir()
Path("out/big").write_bytes(b"x" * 6_000_000)
refused("so far", "6 MB are written, and 4 MiB may come out")
