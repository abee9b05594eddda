# /// escape
# promise = "S1"
# trick = "It calls to everybody at once"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 2
# ///
import socket

from inside import attempt, told

PORT = told()["port"]
for address in ("224.0.0.251", "255.255.255.255"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        place = (address, PORT)
        attempt(address, lambda packets=packets, place=place: packets.sendto(b"secret", place))
