# /// escape
# promise = "S5"
# trick = "It makes files that hold nothing, until the table of files is full"
# verdict = "out_of_storage"
# limits = { storage_mib = 16 }
# control = { local = ["storage"], docker = ["storage"] }
# ///
from pathlib import Path

from inside import got

for number in range(6000):
    Path(str(number)).touch()
got("files", 6000)
