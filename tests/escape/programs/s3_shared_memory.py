# /// escape
# promise = "S3"
# trick = "It hides memory in /dev/shm and /tmp, which are memory too"
# verdict = ["out_of_memory", "failed"]
# limits = { memory_mib = 64, storage_mib = 512 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
from pathlib import Path

from inside import got

for folder in ("/dev/shm", "/tmp"):
    with Path(folder, "hidden").open("wb", buffering=0) as file:
        for _ in range(28):
            file.write(bytes(2**20))
held = [b"x" * 2**20 for _ in range(60)]
got("memory", f"{len(held) + 56} MiB")
