# /// escape
# promise = "S8"
# trick = "It traces another process, and reads and writes its memory"
# control = { local = ["seccomp:ptrace", "seccomp:process_vm_readv", "seccomp:process_vm_writev"], docker = ["seccomp:ptrace", "seccomp:process_vm_readv", "seccomp:process_vm_writev"] }
# gets = 3
# ///
import os
import signal
import time

from inside import attempt, call, reaches

child = os.fork()
if not child:
    time.sleep(5)
    os._exit(0)
attempt("ptrace", lambda: call(101, 16, child, 0, 0))
reaches("process_vm_readv", 310, child, 1, 1, 1, 1, 0)
reaches("process_vm_writev", 311, child, 1, 1, 1, 1, 0)
os.kill(child, signal.SIGKILL)
