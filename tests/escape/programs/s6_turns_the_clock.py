# /// escape
# promise = "S6"
# trick = "It sets the machine's clock back, so that its end never comes"
# control = { local = ["seccomp:settimeofday", "seccomp:clock_settime", "seccomp:adjtimex"], docker = ["seccomp:settimeofday", "seccomp:clock_settime", "seccomp:adjtimex"] }
# gets = 3
# ///
from inside import reaches

# Each with an address that is none, so that no clock is changed whatever lets it pass.
reaches("settimeofday", 164, 1, 0)
reaches("clock_settime", 227, 0, 1)
reaches("adjtimex", 159, 1)
