"""Which system calls a sandboxed program may not make: rules as data, and the filter made from them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one argument: `(argument & mask) comparison value`."""

    argument: int
    comparison: str
    """`==`, `!=`, `>` or `masked`, the last one with `mask`."""
    value: int
    mask: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """System calls that fail with an error, always or when every condition holds."""

    calls: tuple[str, ...]
    error: int = errno.EPERM
    conditions: tuple[Condition, ...] = field(default=())


_LOW = 0xFFFFFFFF
_NAMESPACES = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_INET6 = 10
_UNKNOWN = -1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

RULES: tuple[Rule, ...] = (
    # Kernel interfaces with a long record of holes, and none that research code needs.
    Rule(
        ("bpf", "perf_event_open", "userfaultfd", "lookup_dcookie", "kcmp", "acct", "syslog", "quotactl", "quotactl_fd")
    ),
    Rule(("io_uring_setup", "io_uring_enter", "io_uring_register"), errno.ENOSYS),
    Rule(("add_key", "keyctl", "request_key", "memfd_secret", "nfsservctl", "uselib", "vhangup", "_sysctl", "sysfs")),
    Rule(("fanotify_init", "name_to_handle_at", "open_by_handle_at")),
    # Other processes.
    Rule(("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd")),
    # File systems.
    Rule(("mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr")),
    Rule(("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "listmount", "statmount")),
    Rule(("swapon", "swapoff")),
    # The machine.
    Rule(("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module", "reboot")),
    Rule(("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname")),
    Rule(("iopl", "ioperm", "modify_ldt", "vm86", "vm86old")),
    # Namespaces. The C library falls back from clone3, whose flags no filter can read, to clone.
    Rule(("setns", "unshare")),
    Rule(("clone3",), errno.ENOSYS),
    *(Rule(("clone",), errno.EPERM, (Condition(0, "masked", flag, flag),)) for flag in _NAMESPACES[1:]),
    # Only the usual kinds of socket: no netlink, packet, vsock, bluetooth, kernel crypto and their like.
    Rule(("socket", "socketpair"), errno.EAFNOSUPPORT, (Condition(0, ">", _INET6),)),
    *(Rule(("socket", "socketpair"), errno.EAFNOSUPPORT, (Condition(0, "==", family),)) for family in range(3, _INET6)),
    # Typing into a terminal that is not ours.
    Rule(("ioctl",), errno.EPERM, (Condition(1, "masked", _TIOCSTI, _LOW),)),
    Rule(("ioctl",), errno.EPERM, (Condition(1, "masked", _TIOCLINUX, _LOW),)),
    # Asking which personality one has is harmless, changing it switches protections off.
    Rule(("personality",), errno.EPERM, (Condition(0, "!=", _LOW),)),
)
"""In `clone`, the bit of CLONE_NEWTIME lies in the exit signal's byte, where the kernel ignores it."""

FOREIGN_ABI = "kill"
"""A call through another architecture's table would pass by every rule, so it ends the process."""


def missing() -> str:
    """Say why no filter can be made here, or return an empty string."""
    try:
        import pyseccomp  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return "libseccomp is not installed (apt-get install libseccomp2)"
    return ""


@cache
def program(rules: tuple[Rule, ...] = RULES) -> bytes:
    """Return the filter as the kernel reads it."""
    import pyseccomp

    comparisons = {"==": pyseccomp.EQ, "!=": pyseccomp.NE, ">": pyseccomp.GT, "masked": pyseccomp.MASKED_EQ}
    filtered = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    filtered.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    for rule in rules:
        for call in rule.calls:
            if pyseccomp.resolve_syscall(pyseccomp.system_arch(), call) == _UNKNOWN:
                # Newer than the library; all of these also need a capability that no execution has.
                continue
            tests = [
                pyseccomp.Arg(test.argument, comparisons[test.comparison], test.mask, test.value)
                if test.comparison == "masked"
                else pyseccomp.Arg(test.argument, comparisons[test.comparison], test.value)
                for test in rule.conditions
            ]
            filtered.add_rule(pyseccomp.ERRNO(rule.error), call, *tests)
    descriptor = os.memfd_create("seccomp")
    with os.fdopen(descriptor, "w+b") as file:
        filtered.export_bpf(file)
        file.seek(0)
        return file.read()


def docker_profile(rules: tuple[Rule, ...] = RULES) -> dict[str, object]:
    """Return the same rules as a profile for container engines."""
    names = {"==": "SCMP_CMP_EQ", "!=": "SCMP_CMP_NE", ">": "SCMP_CMP_GT", "masked": "SCMP_CMP_MASKED_EQ"}
    entries = []
    for rule in rules:
        tests = [
            {
                "index": test.argument,
                "op": names[test.comparison],
                "value": test.mask or test.value,
                "valueTwo": test.value,
            }
            if test.comparison == "masked"
            else {"index": test.argument, "op": names[test.comparison], "value": test.value}
            for test in rule.conditions
        ]
        entries.append({"names": list(rule.calls), "action": "SCMP_ACT_ERRNO", "errnoRet": rule.error, "args": tests})
    # Without subarchitectures: a call of a foreign ABI is killed, as in the filter above.
    return {"defaultAction": "SCMP_ACT_ALLOW", "archMap": [], "syscalls": entries}
