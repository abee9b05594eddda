# /// escape
# promise = "S3"
# trick = "It maps memory, locks it, and touches each page"
# verdict = "out_of_memory"
# limits = { memory_mib = 64 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
import mmap

from inside import call, got

size = 200 * 2**20
held = mmap.mmap(-1, size)
try:
    call(151, 3)  # mlockall
except OSError:
    pass
for place in range(0, size, 4096):
    held[place] = 1
got("memory", size)
