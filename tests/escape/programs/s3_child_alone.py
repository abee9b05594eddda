# /// escape
# promise = "S3"
# trick = "A child takes the memory, so that its parent goes on as if nothing had been"
# limits = { memory_mib = 96 }
# control = { local = ["memory"], docker = ["memory"] }
# ///
import subprocess
import sys

from inside import got, refused

done = subprocess.run([sys.executable, "-c", "print(len(bytearray(b'x' * 4096) * 60_000))"], capture_output=True)
(got if done.returncode == 0 else refused)("memory", done.stdout or done.returncode)
