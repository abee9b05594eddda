# /// escape
# promise = "S5"
# trick = "It reserves room without writing"
# verdict = ["failed", "out_of_storage"]
# limits = { storage_mib = 64 }
# checks = ["disk"]
# breaks = ["disk"]
# control = { local = ["storage"], docker = ["storage"] }
# ///
import os

from inside import got

for number in range(3):
    file = os.open(f"part{number}", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 50 * 2**20)
got("storage", "150 MiB reserved")
