# /// escape
# promise = "S8"
# trick = "It changes what it takes for the root, and walks out of the old one"
# control = { local = ["seccomp:chroot"], docker = ["seccomp:chroot"] }
# ///
from inside import reaches

reaches("chroot", 161, 1)
