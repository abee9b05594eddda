# /// escape
# promise = "S5"
# trick = "It writes many files, none of them large"
# verdict = "out_of_storage"
# limits = { storage_mib = 64 }
# checks = ["disk"]
# breaks = ["disk"]
# control = { local = ["storage"], docker = ["storage"] }
# ///
from pathlib import Path

from inside import got

for number in range(130):
    Path(f"part{number}").write_bytes(b"x" * 2**20)
got("storage", "130 MiB in 130 files")
