# /// escape
# promise = "S2"
# trick = "It has a way out for one purpose, and looks for a network beside it"
# network = "allow:semantic-scholar"
# control = { local = ["network"], docker = ["network"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 3
# ///
import socket

from inside import attempt, told

PORT = told()["port"]
for address in ("127.0.0.1", "172.17.0.1", "169.254.169.254", "1.1.1.1", "::1"):
    attempt(address, lambda address=address: socket.create_connection((address, PORT), 0.5).getpeername())
attempt("name", lambda: socket.getaddrinfo("api.semanticscholar.org", 443))
