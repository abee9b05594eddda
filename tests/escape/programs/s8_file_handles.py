# /// escape
# promise = "S8"
# trick = "It opens files by handles, which know no folder and no mount"
# control = { local = ["seccomp:name_to_handle_at", "seccomp:open_by_handle_at"], docker = ["seccomp:name_to_handle_at"] }
# ///
import ctypes

from inside import attempt, call

handle = ctypes.create_string_buffer(b"\x80" + bytes(203), 204)
attempt("name_to_handle_at", lambda: call(303, -100, b"/work\0", handle, ctypes.create_string_buffer(8), 0))
