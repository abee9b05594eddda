# /// escape
# promise = "S9"
# trick = "It reads every file that it can read, and prints what looks like a secret"
# control = { local = ["host folders"], docker = ["host folders"] }
# breaks = ["secret"]
# ///
import os
from pathlib import Path

from inside import got, refused, told

MARK = b"-".join([b"canary", b""])
for top in ("/", "/proc/1/root", "/proc/1/cwd", "/proc/self/fd", str(Path(told()["canary"]).parents[1])):
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in {"proc", "sys", "usr", "lib", "lib64", "dev"}]
        for name in names:
            try:
                # Of a pipe the end would never come.
                text = Path(folder, name).read_bytes()[:1000] if Path(folder, name).is_file() else b""
            except OSError:
                continue
            if MARK in text:
                got(name, text.decode())
for place in (
    "/etc/shadow",
    "/etc/machine-id",
    str(Path("/root", ".profile")),
    told()["canary"],
    f"{told()['state']}/keys",
):
    try:
        got(place, Path(place).read_text(encoding="utf-8"))
    except OSError as error:
        refused(place, error)
