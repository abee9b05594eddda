# /// escape
# promise = "S8"
# trick = "It measures other processes through the processor's counters"
# control = { local = ["seccomp:perf_event_open"], docker = ["seccomp:perf_event_open"] }
# ///
from inside import reaches

reaches("perf_event_open", 298, 1, 0, -1, -1, 0)
