# /// escape
# promise = "S5"
# trick = "It deletes its files and keeps them open, so that nobody who counts names sees them"
# verdict = "out_of_storage"
# limits = { storage_mib = 64 }
# control = { local = ["storage"], docker = ["storage"] }
# ///
import os

from inside import got

files = []
for number in range(33):
    files.append(os.open(f"part{number}", os.O_RDWR | os.O_CREAT))
    os.unlink(f"part{number}")
    for _ in range(4):
        if os.write(files[-1], b"x" * 2**20) < 2**20:
            raise SystemExit(1)
got("storage", "132 MiB without a name")
