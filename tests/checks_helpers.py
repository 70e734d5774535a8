"""What the tests of `course_lib.checks` share: a message there and back, a student's cell, one check run on it."""

import itertools
import linecache
import textwrap

from course_lib.checks.codec import Encoder, HandleRef, decode, pack, unpack
from course_lib.checks.runner import Check, run_check
from course_lib.checks.session import local_session

_cells = itertools.count(1)


def opaque(value) -> HandleRef:
    """The handle that an encoder of these tests gives to whatever has no plain form."""
    return HandleRef(1, type(value).__name__, f"an object of type {type(value).__name__}")


def there_and_back(value):
    """A value as it arrives on the other side."""
    encoder = Encoder(opaque)
    message = {"value": encoder.encode(value)}
    received, tensors = unpack(pack(message, encoder.tensors))
    return decode(received["value"], tensors, lambda handle: handle)


def cell(source: str, namespace: dict) -> dict:
    """Runs `source` in a namespace as a notebook runs a cell: its lines can be shown afterwards."""
    filename = f"<cell {next(_cells)}>"
    source = textwrap.dedent(source).strip("\n") + "\n"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    return namespace


def student(source: str, **names) -> dict:
    """The namespace of a student who ran `source` as one cell."""
    return cell(source, {"__name__": "__main__", **names})


def run(function, namespace, setup=None, *, seed=20, **options):
    """The result of one check function on a student's namespace (or on the text of their cell)."""
    if isinstance(namespace, str):
        namespace = student(namespace)
    options["substitute"] = tuple(options.get("substitute", {}).items())
    check = Check(options.pop("exercise", "f"), function, float(options.pop("points", 1.0)), **options)
    with local_session(namespace, setup or {}) as (session, channel):
        return run_check(check, session, seed, channel)
