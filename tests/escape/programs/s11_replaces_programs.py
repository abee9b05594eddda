# /// escape
# promise = "S11"
# trick = "It replaces the interpreter and the loader that whoever measures it would start"
# control = { local = ["read-only root"], docker = ["read-only root", "uid:root"] }
# ///
import os
import shutil

from inside import attempt

for place in ("/usr/bin/python3", "/bin/sh", "/lab/bin/python", "/etc/ld.so.preload", "/etc/passwd", "/etc/hosts"):
    attempt(place, lambda place=place: os.close(os.open(place, os.O_WRONLY | os.O_CREAT)))
attempt("folder", lambda: shutil.move("/lab", "/work/lab"))
