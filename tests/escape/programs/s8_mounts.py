# /// escape
# promise = "S8"
# trick = "It mounts over what it may not write, unmounts, and changes what is mounted"
# control = { local = ["seccomp:mount", "seccomp:umount2", "seccomp:mount_setattr", "seccomp:open_tree", "seccomp:fsconfig"], docker = ["seccomp:mount", "seccomp:umount2", "seccomp:mount_setattr", "seccomp:open_tree", "seccomp:fsconfig"] }
# gets = 5
# ///
from inside import reaches

reaches("mount", 165, 1, 1, 1, 0, 0)
reaches("umount2", 166, b"/\0", 0xFF00)
reaches("mount_setattr", 442, -1, 1, 0xFFFFFF, 1, 1)
reaches("open_tree", 428, -1, 1, 0xFFFFFFFF)
reaches("fsconfig", 431, -1, 99, 0, 0, 0)
