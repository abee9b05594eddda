# /// escape
# promise = "S8"
# trick = "It types commands into a terminal that it was given"
# control = { local = ["seccomp:ioctl"], docker = ["seccomp:ioctl"] }
# ///
from inside import reaches

reaches("TIOCSTI", 16, 0, 0x5412, b"x")
reaches("TIOCSTI with high bits", 16, 0, 0x1_0000_5412, b"x")
