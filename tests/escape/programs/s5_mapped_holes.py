# /// escape
# promise = "S5"
# trick = "It makes files of holes, maps them, and fills the holes through memory"
# verdict = ["failed", "out_of_storage"]
# limits = { storage_mib = 64, memory_mib = 512 }
# control = { local = ["storage"], docker = ["storage"] }
# ///
import mmap
import os

from inside import got

for number in range(3):
    file = os.open(f"part{number}", os.O_RDWR | os.O_CREAT)
    os.truncate(file, 50 * 2**20)
    held = mmap.mmap(file, 0)
    for place in range(0, len(held), 4096):
        held[place] = 1
    held.flush()
got("storage", "150 MiB of filled holes")
