# /// escape
# promise = "S3"
# trick = "It writes into files that have no name and no file system"
# verdict = ["out_of_memory"]
# limits = { memory_mib = 64, storage_mib = 512 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
import os

from inside import got

file = os.memfd_create("hidden")
for _ in range(200):
    os.write(file, bytes(2**20))
got("memory", os.fstat(file).st_size)
