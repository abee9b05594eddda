# /// escape
# promise = "S8"
# trick = "It talks to the kernel's own services"
# control = { local = ["seccomp:socket"], docker = ["seccomp:socket"] }
# ///
import socket

from inside import attempt

attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
