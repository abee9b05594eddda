# /// escape
# promise = "S8"
# trick = "It speaks to the hypervisor, or to other guests, past every network"
# control = { local = ["seccomp:socket"], docker = ["seccomp:socket"] }
# ///
import socket

from inside import attempt

attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
