# /// escape
# promise = "S5"
# trick = "It writes one file without end"
# verdict = "out_of_storage"
# limits = { storage_mib = 64 }
# checks = ["disk"]
# breaks = ["disk"]
# control = { local = ["storage", "rlimits:fsize"], docker = ["storage", "rlimits:fsize"] }
# ///
from pathlib import Path

from inside import got

with Path("big").open("wb", buffering=0) as file:
    for _ in range(130):
        if file.write(b"x" * 2**20) < 2**20:
            raise SystemExit(1)
got("storage", Path("big").stat().st_size)
