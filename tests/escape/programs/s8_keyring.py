# /// escape
# promise = "S8"
# trick = "It keeps secrets, and talks to others, in the kernel's keyrings"
# control = { local = ["seccomp:add_key", "seccomp:keyctl"], docker = ["seccomp:add_key", "seccomp:keyctl"] }
# gets = 2
# ///
from inside import attempt, call

attempt("add_key", lambda: call(248, b"user\0", b"canary\0", b"secret", 6, -2))
attempt("keyctl", lambda: call(250, 0, -2, 1))
