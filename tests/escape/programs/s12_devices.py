# /// escape
# promise = "S12"
# trick = "It opens GPUs that were not leased to it"
# control = { local = ["no devices"], docker = ["no devices"] }
# ///
import os
from pathlib import Path

from inside import attempt, got

for name in (*(f"nvidia{number}" for number in range(8)), "nvidiactl", "nvidia-uvm", "dri/renderD128", "kfd", "dxg"):
    attempt(name, lambda name=name: os.close(os.open(f"/dev/{name}", os.O_RDWR)))
for place in Path("/dev").glob("nvidia*"):
    got("listed", place)
