# /// escape
# promise = "S8"
# trick = "It switches off that addresses are random"
# control = { local = ["seccomp:personality"], docker = ["seccomp:personality"] }
# ///
from inside import attempt, call

attempt("personality", lambda: call(135, 0x0040000))
