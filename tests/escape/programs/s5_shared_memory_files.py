# /// escape
# promise = "S5"
# trick = "It fills /dev/shm, which no volume limits"
# verdict = ["failed", "out_of_storage"]
# limits = { storage_mib = 256 }
# control = { local = ["size of /dev/shm"], docker = ["size of /dev/shm"] }
# ///
from pathlib import Path

from inside import got

with Path("/dev/shm/big").open("wb", buffering=0) as file:
    for _ in range(140):
        if file.write(bytes(2**20)) < 2**20:
            raise SystemExit(1)
got("storage", "140 MiB in /dev/shm")
