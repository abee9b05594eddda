# /// escape
# promise = "S1"
# trick = "It connects to twenty kinds of address: the host, its networks, the metadata service, the world"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 20
# ///
import socket

from inside import attempt, told

PORT = told()["port"]
ADDRESSES = (
    *("127.0.0.1", "127.1.2.3", "127.255.255.254", "0.0.0.0", "10.0.0.1", "10.0.2.2", "100.64.0.1", "172.17.0.1"),
    *("172.18.0.1", "172.31.0.2", "192.168.0.1", "192.168.1.254", "169.254.169.254", "169.254.170.2", "168.63.129.16"),
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "198.18.0.1", "203.0.113.5"),
)


def connect(address: str) -> str:
    with socket.create_connection((address, PORT), 0.5) as stream:
        stream.sendall(b"hello")
        return stream.recv(100).decode()


for address in ADDRESSES:
    attempt(address, lambda address=address: connect(address))
