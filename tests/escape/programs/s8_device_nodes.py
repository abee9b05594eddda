# /// escape
# promise = "S8"
# trick = "It makes a device file for the host's disk"
# control = { docker = ["capabilities", "uid:root"] }
# lacks = { local = "in a user namespace the kernel makes device files for nobody, whatever is switched off" }
# ///
import os
import stat

from inside import attempt

attempt("mknod", lambda: os.mknod("disk", 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
