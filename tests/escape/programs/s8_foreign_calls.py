# /// escape
# promise = "S8"
# trick = "It makes its calls through the table of another architecture, which the filter does not list"
# verdict = "failed"
# control = { local = ["seccomp:foreign table"], docker = ["seccomp:foreign table"] }
# ///
import ctypes
import mmap

from inside import got

# mov eax, 20 (getpid of i386); int 0x80; ret
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))
got("pid", ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
