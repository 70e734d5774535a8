"""Take a process's powers away: namespaces, mounts, limits, capabilities, system calls. Linux, by way of libc.

This file and `parent.py` are copied into the sandbox and import nothing of the course. Each function raises OSError where the
system refuses; who calls decides whether a layer may be missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_NEW = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 22, 24, 36, 38, 47

# number on x86_64, number on aarch64: what no exercise needs, and what kernels have been broken by
DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),  # memory that no limit of ours sees
}  # fmt: skip
MISSING = {"clone3": (435, 435), "memfd_create": (319, 279), "memfd_secret": (447, 447)}  # callers know what to do without
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
CLONE, SOCKET = (56, 220), (41, 198)

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Namespaces of this process's own (that of processes: of its children's)."""
    _checked(_libc.unshare(flags), "unshare")


def private_mounts() -> None:
    """From here on mounts of this process are seen by nobody else."""
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")


def mount_tmpfs(path: str, size: int, mode: str = "1777") -> None:
    """A fresh, empty folder in memory at `path` for up to `size` bytes."""
    options = f"size={size},nr_inodes=20000,mode={mode}".encode()
    _checked(_libc.mount(b"tmpfs", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), f"tmpfs on {path}")


def become_subreaper() -> None:
    """Orphans among the descendants become children of this process."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def drop_user(uid: int) -> None:
    """Become another user and nobody's group. Needs the right to."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """No capabilities, now or after any program is started."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    for number in range(64):  # the kernel says where they end; what cannot be dropped was not there
        _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    _libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    header = struct.pack("<Ii", 0x20080522, 0)
    _checked(_libc.capset(header, struct.pack("<6I", 0, 0, 0, 0, 0, 0)), "dropping capabilities")
    _checked(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")


def set_limits(limits: dict[str, int]) -> None:
    """Limits of this process and its children: `RLIMIT_` names without the prefix."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def filter_system_calls() -> bool:
    """Refuse the system calls above, new namespaces, and sockets of any kind but local ones, from now on and for all descendants.

    Returns: False on a processor whose numbers are not known here.
    """
    machine = platform.machine()
    if machine not in MACHINES or struct.calcsize("P") != 8:
        return False
    column, audit = MACHINES[machine]

    load, jump_equal, jump_at_least, jump_set, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000

    def refuse(number: int) -> int:
        return 0x00050000 | number

    code = [(load, 0, 0, 4), (jump_equal, 1, 0, audit), (ret, 0, 0, kill), (load, 0, 0, 0)]
    if column == 0:  # the 32-bit numbers of x86_64 begin here
        code += [(jump_at_least, 0, 1, 0x40000000), (ret, 0, 0, refuse(errno.EPERM))]
    for table, answer in ((DENIED, errno.EPERM), (MISSING, errno.ENOSYS)):
        for numbers in table.values():
            code += [(jump_equal, 0, 1, numbers[column]), (ret, 0, 0, refuse(answer))]
    code += [(jump_equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (jump_set, 0, 1, ALL_NEW), (ret, 0, 0, refuse(errno.EPERM)), (ret, 0, 0, allow)]
    code += [(jump_equal, 0, 4, SOCKET[column]), (load, 0, 0, 16), (jump_equal, 1, 0, 1), (ret, 0, 0, refuse(errno.EAFNOSUPPORT)), (ret, 0, 0, allow)]
    code += [(ret, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program)))
    _checked(_libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "filter of system calls")
    return True
