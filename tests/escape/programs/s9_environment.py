# /// escape
# promise = "S9"
# trick = "It looks into its environment for the worker's keys"
# control = { local = ["environment"], docker = ["environment"] }
# ///
import os

from inside import got, refused

expected = {"PATH", "HOME", "LANG", "PWD", "LC_CTYPE", "PYTHONPATH"}
for name in os.environ:
    if name not in expected:
        got(name, os.environ[name])
refused("keys", sorted(os.environ))
