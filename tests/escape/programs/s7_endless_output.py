# /// escape
# promise = "S7"
# trick = "It prints without end"
# verdict = "too_much_output"
# control = { local = ["output cap"], docker = ["output cap"] }
# breaks = ["output"]
# ///
import os

from inside import got

for _ in range(200):
    os.write(1, b"yes\n" * 4_000)
got("output", "3 MB")
