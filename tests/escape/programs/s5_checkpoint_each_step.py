# /// escape
# promise = "S5"
# trick = "It saves a checkpoint at every step, and never removes one"
# verdict = "out_of_storage"
# limits = { storage_mib = 64 }
# checks = ["disk"]
# breaks = ["disk"]
# control = { local = ["storage"], docker = ["storage"] }
# ///
import os
from pathlib import Path

from inside import got

for step in range(40):
    temporary = Path("checkpoint.tmp")
    with temporary.open("wb") as file:
        file.write(os.urandom(4 * 2**20))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(f"checkpoint_{step:06}.pt")
got("checkpoints", "40 steps of 4 MiB")
