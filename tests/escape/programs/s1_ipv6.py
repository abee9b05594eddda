# /// escape
# promise = "S1"
# trick = "It tries the other version of the protocol, also with the old addresses in it"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 5
# ///
import socket

from inside import attempt, told

PORT = told()["port"]
for address in ("::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fd00:ec2::254", "2606:4700:4700::1111"):
    attempt(address, lambda address=address: socket.create_connection((address, PORT), 0.5).getpeername())
