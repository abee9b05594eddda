# /// escape
# promise = "S2"
# trick = "It puts a socket or a forwarder of its own where the gateway's are"
# network = "allow:semantic-scholar"
# control = { local = ["read-only /egress"], docker = ["read-only /egress"] }
# gets = 3
# ///
import os
from pathlib import Path

from inside import attempt

for name, act in {
    "forwarder": lambda: Path("/egress/forward.py").write_text("", encoding="ascii"),
    "plant": lambda: Path("/egress/planted").touch(),
    "mode": lambda: os.chmod("/egress/socket", 0o666),
    "rename": lambda: os.rename("/egress/socket", "/egress/old"),
    "unlink": lambda: os.unlink("/egress/old"),
}.items():
    attempt(name, act)
