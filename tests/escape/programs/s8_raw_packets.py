# /// escape
# promise = "S8"
# trick = "It makes packets of its own, with any sender"
# control = { local = ["capabilities", "seccomp:unshare"], docker = ["capabilities", "uid:root"] }
# ///
import socket

from inside import attempt, call

attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt("network namespace", lambda: call(272, 0x40000000))
attempt("raw in it", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
