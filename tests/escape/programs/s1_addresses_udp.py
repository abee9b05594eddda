# /// escape
# promise = "S1"
# trick = "It sends packets that need no answer"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 6
# ///
import socket

from inside import attempt, told

PORT = told()["port"]
for address in ("127.0.0.1", "172.17.0.1", "192.168.0.1", "169.254.169.254", "1.1.1.1", "8.8.8.8"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.settimeout(0.5)

        def ask(packets: socket.socket = packets, address: str = address) -> bytes:
            packets.sendto(b"secret", (address, PORT))
            return packets.recv(100)

        attempt(address, ask)
