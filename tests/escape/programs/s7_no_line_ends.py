# /// escape
# promise = "S7"
# trick = "It prints one line that never ends, for a reader that waits for its end"
# verdict = "too_much_output"
# control = { local = ["output cap"], docker = ["output cap"] }
# breaks = ["output"]
# ///
import os

from inside import got, say

for _ in range(300):
    os.write(1, b"x" * 10_000)
say("\n")
got("output", "3 MB")
