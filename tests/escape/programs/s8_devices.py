# /// escape
# promise = "S8"
# trick = "It opens the devices of the host: its memory, its disks, its hypervisor"
# control = { local = ["no devices"], docker = ["no devices"] }
# ///
import os

from inside import attempt

for name in (
    "mem",
    "kmem",
    "port",
    "kmsg",
    "kvm",
    "fuse",
    "vda",
    "sda",
    "nvme0n1",
    "dm-0",
    "mapper/control",
    "net/tun",
):
    attempt(name, lambda name=name: os.close(os.open(f"/dev/{name}", os.O_RDONLY)))
