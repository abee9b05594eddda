# /// escape
# promise = "S8"
# trick = "It makes system calls through a ring, where no filter sees them"
# control = { local = ["seccomp:io_uring_setup"], docker = ["seccomp:io_uring_setup"] }
# ///
import ctypes

from inside import attempt, call

attempt("io_uring_setup", lambda: call(425, 1, ctypes.create_string_buffer(200)))
