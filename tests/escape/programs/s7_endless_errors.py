# /// escape
# promise = "S7"
# trick = "It prints to the other stream"
# verdict = "too_much_output"
# control = { local = ["output cap"], docker = ["output cap"] }
# breaks = ["output"]
# ///
import sys

from inside import got

for _ in range(30_000):
    sys.stderr.write("error " * 16 + "\n")
sys.stderr.flush()
got("output", "3 MB")
