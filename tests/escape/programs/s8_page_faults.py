# /// escape
# promise = "S8"
# trick = "It handles page faults itself, which makes races in the kernel easy to win"
# control = { local = ["seccomp:userfaultfd"], docker = ["seccomp:userfaultfd"] }
# ///
from inside import attempt, call

attempt("userfaultfd", lambda: call(323, 1))
