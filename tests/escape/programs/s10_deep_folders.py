# /// escape
# promise = "S10"
# trick = "It makes folders in folders, deeper than whoever walks them has room for"
# collect = ["d/**"]
# control = { local = ["intake:depth"], docker = ["intake:depth"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os

from inside import refused

for _ in range(200):
    os.mkdir("d")
    os.chdir("d")
with open("bottom", "w", encoding="ascii") as file:
    file.write("deep")
refused("so far", "a file lies 200 folders deep")
