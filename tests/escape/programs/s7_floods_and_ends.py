# /// escape
# promise = "S7"
# trick = "It prints all at once from many processes, and is gone before anybody counts"
# verdict = "too_much_output"
# control = { local = ["output cap"], docker = ["output cap"] }
# breaks = ["output"]
# ///
import os

from inside import got

for _ in range(8):
    if not os.fork():
        for _ in range(50):
            os.write(1, b"x" * 9_999 + b"\n")
        os._exit(0)
for _ in range(8):
    os.wait()
got("output", "4 MB")
