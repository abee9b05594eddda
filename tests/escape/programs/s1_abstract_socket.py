# /// escape
# promise = "S1"
# trick = "It connects to a Unix socket of the host that has no place in any folder"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# ///
import socket

from inside import attempt, told

attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect(b"\0" + told()["abstract"].encode()))
