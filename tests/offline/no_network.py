"""Refuse every connection that leaves this machine.

The course runs offline, and the tests prove it: with this hook an attempt raises, in pytest itself and in every Python process that it starts
(sitecustomize.py beside this file installs it there). NetworkAccess is no OSError on purpose: a library that quietly falls back when it finds no
network would hide the attempt. Nothing is imported here, since each interpreter pays for it.
"""

import sys


class NetworkAccess(RuntimeError):
    """A test, or a notebook under test, tried to reach another machine."""


def is_local(host) -> bool:
    """Whether a host, as text, bytes or None, is this machine: a loopback address or its name, or no address at all."""
    if host is None:
        return True
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    return host in ("", "localhost", "0.0.0.0", "::", "::1") or host.startswith("127.")


def _hook(event: str, arguments: tuple) -> None:
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not is_local(address[0]):  # text or bytes: a socket in the file system
            raise NetworkAccess(f"{event} to {address[0]!r}: the course and its tests run without a network")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not is_local(arguments[0]):
        raise NetworkAccess(f"{event} of {arguments[0]!r}: the course and its tests run without a network")


def install() -> bool:
    """Install the hook in this process, once; there is no way back. True where this call did it."""
    if hasattr(sys, "_course_no_network"):
        return False
    sys._course_no_network = True
    sys.addaudithook(_hook)
    return True
