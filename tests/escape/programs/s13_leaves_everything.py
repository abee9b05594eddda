# /// escape
# promise = "S13"
# trick = "It leaves behind whatever it can: processes, files in memory, sockets, a volume full of files"
# control = { local = ["release"], docker = ["release"] }
# gets = 0
# breaks = ["nothing left"]
# ///
import os
import socket
import time
from pathlib import Path

from inside import refused

Path("/dev/shm/left").write_bytes(b"x" * 1000)
Path("/tmp/left").write_bytes(b"x" * 1000)
for number in range(500):
    Path(f"left{number}").touch()
socket.socket(socket.AF_UNIX).bind(b"\0left")
for _ in range(5):
    if not os.fork():
        os.setsid()
        time.sleep(60)
refused("so far", "all of it is there when the program ends")
