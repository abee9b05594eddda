# /// escape
# promise = "S8"
# trick = "It loads programs into the kernel"
# control = { local = ["seccomp:bpf"], docker = ["seccomp:bpf"] }
# ///
from inside import reaches

reaches("bpf", 321, 0, -1, 1 << 20)
