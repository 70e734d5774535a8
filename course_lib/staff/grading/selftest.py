# Runs in a confined child before any submission does: `found[layer]` is "" where it holds, else what was possible.
# `HIDDEN` (paths that must not be there) and `EXPECTED` (names of variables) stand above. Not imported by anything: its text is sent inside.
import ctypes
import errno
import os
import resource
import signal
import socket


def network():
    for family, address in ((socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 9))):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)
            return f"a socket reaches {address[0]}"
        except OSError:
            pass
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") and can_list() else ["lo"]
    return "" if set(names) <= {"lo"} else f"interfaces {names}"


def can_list():
    try:
        socket.if_nameindex()
        return True
    except OSError:
        return False


def files():
    for path in HIDDEN:  # noqa: F821
        if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            return f"{path} is visible"
    for folder in ("/", "/usr", "/usr/lib", "/usr/bin", "/env", "/env/course", "/env/course/course_lib", "/dev", "/proc", "/home", "/etc", "/bin/.."):
        try:
            os.close(os.open(os.path.join(folder, "written"), os.O_CREAT | os.O_WRONLY))
            return f"{folder} can be written to"
        except OSError:
            pass
    for folder in ("/tmp", "/dev/shm", os.getcwd()):
        with open(os.path.join(folder, "probe"), "w") as stream:
            stream.write("x")
        os.remove(os.path.join(folder, "probe"))
    if os.path.exists("/env/course/course_lib/staff") or os.path.exists("/env/course/course_lib/cards"):
        return "the staff's part of course_lib is visible"
    return ""


def processes():
    if os.getpid() != 1:
        return f"it is process {os.getpid()}, not 1 of its own namespace"
    seen = []
    for pid in range(2, 2000):
        try:
            os.kill(pid, 0)
            seen.append(pid)
        except ProcessLookupError:
            pass
        except PermissionError:
            seen.append(pid)
    return f"other processes can be reached: {seen}" if seen else ""


def environment():
    set_inside = {"LD_LIBRARY_PATH", "PWD", "LC_CTYPE", "TERM", "COLUMNS", "LINES", "SHLVL", "_"}
    foreign = [n for n in os.environ if n not in EXPECTED and n not in set_inside and not n.startswith(("KMP_", "TORCH"))]  # noqa: F821
    return f"variables {foreign} are visible" if foreign else ""


def descriptors():
    import stat

    for number in range(0, 4096):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        if number > 3 or number < 3 and not stat.S_ISCHR(mode) or number == 3 and not stat.S_ISSOCK(mode):
            return f"descriptor {number} is open"
    return ""


def capabilities():
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(24)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capget(header, data) != 0 or any(data.raw):
        return "it has capabilities"
    if libc.prctl(39, 0, 0, 0, 0) != 1:
        return "it could gain privileges"
    if libc.prctl(3, 0, 0, 0, 0) != 0:
        return "it can be traced"
    if os.getgroups():
        return f"it has groups {os.getgroups()}" if os.getuid() >= 61184 else ""
    for uid in {0, os.getuid() + 1}:
        try:
            if os.getuid() != uid:
                os.setuid(uid)
                return f"it can become user {uid}"
        except OSError:
            pass
    return ""


def limits():
    for name in ("DATA", "NPROC", "FSIZE", "NOFILE", "CPU", "CORE"):
        soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        if soft == resource.RLIM_INFINITY or hard == resource.RLIM_INFINITY:
            return f"no limit {name}"
    try:
        held = bytearray(resource.getrlimit(resource.RLIMIT_DATA)[0])
        return f"{len(held)} bytes could be had"
    except MemoryError:
        pass
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("/tmp/long", "wb") as stream:
            stream.truncate(resource.getrlimit(resource.RLIMIT_FSIZE)[0] + 1)
        return "a file could be too long"
    except OSError:
        pass
    finally:
        os.remove("/tmp/long")
    return ""


def calls():
    libc = ctypes.CDLL(None, use_errno=True)
    for name, call in {
        "a new user namespace": lambda: libc.unshare(0x10000000),
        "tracing": lambda: libc.ptrace(0, 0, None, None),
        "a mount": lambda: libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None),
        "shared memory": lambda: min(libc.shmget(0, 4096, 0o1600), 0),
        "memory behind a descriptor": lambda: min(libc.memfd_create(b"x", 0), 0),
    }.items():
        ctypes.set_errno(0)
        if call() == 0:
            return f"{name} is possible"
        if ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            return f"{name}: {os.strerror(ctypes.get_errno())}"
    return ""


for test in (network, files, processes, environment, descriptors, capabilities, limits, calls):
    try:
        found[test.__name__] = test()  # noqa: F821
    except Exception as error:
        found[test.__name__] = f"{type(error).__name__}: {error}"  # noqa: F821
