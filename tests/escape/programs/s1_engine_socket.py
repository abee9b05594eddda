# /// escape
# promise = "S1"
# trick = "It speaks to the container engine, and to other services that listen on Unix sockets"
# control = { local = ["no engine socket"], docker = ["no engine socket"] }
# ///
import socket

from inside import attempt

for place in (
    *("/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"),
    *("/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify", "/run/snapd.socket"),
):
    attempt(place, lambda place=place: socket.socket(socket.AF_UNIX).connect(place))
