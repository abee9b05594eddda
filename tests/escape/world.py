"""Who listens outside, and a network of our own in which every address of the world is answered by that listener."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_RTM_NEWROUTE, _NEW, _TABLE_LOCAL, _RTN_LOCAL, _RTA_OIF, _LOOPBACK = 24, 0x405, 255, 2, 4, 1
_NLMSG_ERROR = 2
_DNS, _HTTP = 53, 80
_QUESTION = 12
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class Listeners:
    """Sockets that count who came: TCP, UDP and an abstract Unix one, in the network of the thread that opens them."""

    def __init__(self, name: str, *, everywhere: bool = False) -> None:
        self.hits: list[str] = []
        self.abstract = f"fumehood-escape-{name}"
        hosts = ["::"] if everywhere else ["127.0.0.1", *_bridge()]
        first = self._tcp(hosts[0], 0)
        self.port: int = first.getsockname()[1]
        self._streams = [first, *(self._tcp(host, self.port) for host in hosts[1:])]
        self._packets = [self._udp(host, self.port) for host in hosts]
        if everywhere:
            self._streams.append(self._tcp("::", _HTTP))
            self._packets.append(self._udp("::", _DNS))
            group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
            for one in self._packets:
                with suppress(OSError):
                    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(b"\0" + self.abstract.encode())
        unix.listen()
        self._streams.append(unix)
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        os.close(self._ending)
        self._thread.join()
        for one in [*self._streams, *self._packets]:
            one.close()
        os.close(self._end)

    def _tcp(self, host: str, port: int) -> socket.socket:
        if ":" in host:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server((host, port))

    def _udp(self, host: str, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if ":" in host:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        return made

    def _serve(self) -> None:
        while True:
            watched: list[int | socket.socket] = [self._end, *self._streams, *self._packets]
            for one in select.select(watched, [], [])[0]:
                if isinstance(one, int):
                    return
                with suppress(OSError):
                    self._answer(one)

    def _answer(self, one: socket.socket) -> None:
        if one in self._packets:
            data, sender = one.recvfrom(4096)
            self.hits.append(f"udp {one.getsockname()} {sender}")
            one.sendto(_dns_answer(data), sender)
            return
        stream, sender = one.accept()
        with stream:
            self.hits.append(f"stream {one.getsockname()!r} {sender!r}")
            stream.settimeout(1)
            with suppress(OSError):
                if stream.recv(4096):
                    stream.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\ncanary")


class World:
    """A network namespace where each address is local, so that every attempt to get out arrives at our listeners."""

    def __init__(self, name: str, process: int | None = None) -> None:
        """Make it, or make one of the network namespace that a process has."""
        self._namespace = -1
        self.listeners: Listeners = _in_a_thread(lambda: self._make(name, process))

    def _make(self, name: str, process: int | None) -> Listeners:
        if process is None:
            _check(_libc.unshare(_CLONE_NEWNET))
        else:
            descriptor = os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _check(_libc.setns(descriptor, _CLONE_NEWNET))
            os.close(descriptor)
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        # The engine switches this version of the protocol off in its containers.
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0", encoding="ascii")
        _bring_up("lo")
        for family in (socket.AF_INET, socket.AF_INET6):
            _make_all_local(family)
        return Listeners(name, everywhere=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread, and what it starts, be in that network for a while."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self._namespace, _CLONE_NEWNET))
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET))
            os.close(home)

    def close(self) -> None:
        """Stop listening; the network goes with its last user."""
        self.listeners.close()
        os.close(self._namespace)


def _in_a_thread(act: Callable[[], T]) -> T:
    """Do something in a thread that ends afterwards, since it changes what a thread is in."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _bridge() -> list[str]:
    """Return the host's address on the engine's bridge, where there is one: other containers reach it."""
    if not Path("/sys/class/net/docker0").exists():
        return []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        import fcntl

        with suppress(OSError):
            found = fcntl.ioctl(asking, 0x8915, struct.pack("256s", b"docker0"))
            return [socket.inet_ntoa(found[20:24])]
    return []


def _bring_up(device: str) -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        name = device.encode()
        (flags,) = struct.unpack_from("h", fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sh22x", name, 0)), 16)
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | _IFF_UP))


def _make_all_local(family: int) -> None:
    route = struct.pack("=8BI", family, 0, 0, 0, _TABLE_LOCAL, 3, 254, _RTN_LOCAL, 0)
    body = route + struct.pack("=HHI", 8, _RTA_OIF, _LOOPBACK)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        asking.sendall(struct.pack("=IHHII", 16 + len(body), _RTM_NEWROUTE, _NEW, 1, 0) + body)
        answer = asking.recv(4096)
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == _NLMSG_ERROR and code:
        raise OSError(-code, f"no route for family {family}: {os.strerror(-code)}")


def _dns_answer(asked: bytes) -> bytes:
    """Answer that any name is 127.0.0.1; what is no question comes back as it was."""
    if len(asked) <= _QUESTION:
        return asked
    end = asked.find(b"\0", _QUESTION) + 5
    is_ipv4 = asked[end - 4 : end - 2] == b"\0\x01"
    head = asked[:2] + b"\x81\x80" + b"\0\x01" + (b"\0\x01" if is_ipv4 else b"\0\0") + bytes(4)
    record = b"\xc0\x0c\0\x01\0\x01" + bytes(4) + b"\0\x04" + socket.inet_aton("127.0.0.1")
    return head + asked[_QUESTION:end] + (record if is_ipv4 else b"")


def _check(done: int) -> None:
    if done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
