# /// escape
# promise = "S10"
# trick = "It declares pipes and sockets, at which whoever reads them waits for ever"
# collect = ["out/*"]
# control = { local = ["intake:kinds"], docker = ["intake:kinds"] }
# gets = 0
# breaks = ["artifacts"]
# ///
import os
import socket
from pathlib import Path

from inside import refused

Path("out").mkdir()
os.mkfifo("out/pipe")
socket.socket(socket.AF_UNIX).bind("out/socket")
refused("so far", "a pipe and a socket are made")
