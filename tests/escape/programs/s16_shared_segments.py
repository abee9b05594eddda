# /// escape
# promise = "S16"
# trick = "It reads and writes shared memory of System V, which knows no folder"
# control = { local = ["ipc namespace"], docker = ["ipc namespace"] }
# ///
import ctypes

from inside import attempt, call, told

KEY = told()["segment"]
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
attempt("segment", lambda: ctypes.string_at(libc.shmat(call(29, KEY, 0, 0), None, 0x1000), 6))
