# /// escape
# promise = "S8"
# trick = "It makes a namespace of users, in which it would be root"
# control = { local = ["seccomp:unshare", "seccomp:setns", "user namespaces"], docker = ["seccomp:unshare", "seccomp:setns"] }
# gets = 2
# ///
from inside import attempt, call, reaches

reaches("setns", 308, -1, 0)
attempt("unshare", lambda: call(272, 0x10000000))
