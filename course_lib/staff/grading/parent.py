"""The program inside the sandbox: a warm parent that forks one confined child a submission, and what the child does.

    python parent.py '{"control": 5, ...}'

The parent imports what labs import, computes nothing (a pool of threads does not survive a fork), and waits for orders on its control
socket: `fork` comes with one end of a socket pair for the child, `kill` ends the child and all its descendants. It never runs a line of a
submission and never listens to a child.

The child gives up every power, then serves its own socket: messages that begin with `L` load cells, messages that begin with `W` are for
the `Worker` of the checks. From the first cell on the child is the submission's, and nothing it says is trusted.

Messages on both sockets: 8 bytes of length, then the content.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import os
import random
import signal
import socket
import struct
import sys
import time

import confine

MAX_FRAME = 128 * 2**20
MARK = 9  # bytes before a message for the worker, which its answer repeats
CHANNEL = 3  # the child's only descriptor beyond the three standard ones
SHELL: list = []  # the one shell, made in the warm parent


def receive(connection: socket.socket) -> bytes | None:
    """One message, None at the end."""
    head = _exactly(connection, 8)
    if head is None:
        return None
    (length,) = struct.unpack("<Q", head)
    if length > MAX_FRAME:
        raise ValueError(f"a message of {length} bytes")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(length - len(data), 2**20))
        if not part:
            return None
        data += part
    return bytes(data)


def send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(struct.pack("<Q", len(content)) + content)


# ---- the parent ------------------------------------------------------------------------------------------------------------------------


class Parent:
    """Forks and ends children, one at a time."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.control = socket.socket(fileno=options["control"])
        self.control.set_inheritable(False)
        self.child = 0

    def run(self) -> None:
        warm_up(self.options["modules"])
        if self.options["confined"]:
            confine.become_subreaper()
        gc.collect()
        gc.freeze()  # the collector of a child need not touch, and so copy, the pages of all this
        self._say({"ready": True, "threads": threads(), "uid": os.getuid(), "python": sys.version.split()[0]})
        while True:
            order, channel = self._order()
            if order is None:
                self.end_child()
                return
            if order["op"] == "fork":
                self._fork(channel)
            elif order["op"] == "kill":
                self._say({"status": self.end_child(order["patience"])})

    def _order(self) -> tuple[dict | None, int]:
        data, descriptors, _, _ = socket.recv_fds(self.control, 65536, 1)
        if not data:
            return None, -1
        return json.loads(data), descriptors[0] if descriptors else -1

    def _say(self, message: dict) -> None:
        send(self.control, json.dumps(message).encode())

    def _fork(self, channel: int) -> None:
        self.end_child()
        try:
            self.child = self._fork_confined(channel) if self.options["confined"] else self._fork_plain(channel)
            self._say({"forked": self.child})
        except OSError as error:
            self._say({"error": str(error)})
        finally:
            os.close(channel)

    def _fork_plain(self, channel: int) -> int:
        child = os.fork()
        if child == 0:
            self._in_child(channel)
        return child

    def _fork_confined(self, channel: int) -> int:
        """A grandchild that is process 1 of a namespace of its own: killing it ends all that it started."""
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            try:
                os.close(reading)
                confine.unshare(
                    confine.CLONE_NEWPID | confine.CLONE_NEWNS | confine.CLONE_NEWIPC | confine.CLONE_NEWUTS | confine.CLONE_NEWNET
                )
                child = os.fork()
                if child == 0:
                    os.close(writing)
                    self._in_child(channel)
                os.write(writing, str(child).encode())
            except BaseException as error:
                os.write(writing, f"-{error}".encode())
            finally:
                os._exit(0)
        os.close(writing)
        answer = os.read(reading, 4096).decode("utf-8", "replace")
        os.close(reading)
        os.waitpid(between, 0)
        if not answer.isdigit():
            raise OSError(f"no namespaces for a child: {answer[1:] or 'it could not be forked'}")
        return int(answer)

    def _in_child(self, channel: int) -> None:
        status = 70
        try:
            self.control.detach()
            child_main(channel, self.options)
            status = 0
        except BaseException as error:
            try:
                os.write(CHANNEL, _framed(b"L" + json.dumps({"failed": f"{type(error).__name__}: {error}"[:1000]}).encode()))
            except OSError:
                pass
        finally:
            os._exit(status)

    def end_child(self, patience: float = 0.0) -> int | None:
        """End the child with all its descendants. Returns how it ended: a status, negative for a signal; None if there was none."""
        if not self.child:
            return None
        deadline = time.monotonic() + patience
        finished, status = os.waitpid(self.child, os.WNOHANG)
        while not finished and time.monotonic() < deadline:
            time.sleep(0.005)
            finished, status = os.waitpid(self.child, os.WNOHANG)
        if not self.options["confined"]:
            _kill(os.killpg, self.child)
        if not finished:
            _kill(os.kill, self.child)
            _, status = os.waitpid(self.child, 0)  # with a namespace of its own: returns when all in it are gone
        self.child = 0
        while True:  # orphans of it, where there is no namespace to end them
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        return None if not finished else os.waitstatus_to_exitcode(status)


def _framed(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _kill(function, pid: int) -> None:
    try:
        function(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def threads() -> int:
    """Threads of this process, where the system tells."""
    import threading

    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()


def warm_up(modules: list[str]) -> None:
    """Import what submissions will import; what is not installed is missing in them, too."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            pass
    import course_lib.checks
    import course_lib.checks.lab
    import torch

    torch.set_num_threads(1)
    course_lib.checks.Lab = course_lib.checks.lab.Lab = QuietLab
    SHELL.append(make_shell())


class QuietLab:
    """Stands in for `Lab`: inside the sandbox no check runs and nothing is awarded."""

    def __init__(self, topic: str, *args, **kwargs) -> None:
        self.topic = topic

    def check(self, exercise: str, **settings):
        return lambda function: function

    def seal(self) -> None:
        pass

    def points(self, exercise: str) -> float:
        return 0.0

    def ready(self, exercise: str) -> bool:
        return False

    def progress(self) -> None:
        pass


def make_shell():
    """An IPython shell, so that magics, `!` and `await` in cells mean what they mean in a notebook."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            """`%matplotlib inline` asks for an event loop; there is none here and none is needed."""

        def showtraceback(self, *args, **kwargs):
            """Nobody reads it, and a traceback looks at objects of the submission."""

        def showsyntaxerror(self, *args, **kwargs):
            """Nobody reads it."""

        def init_virtualenv(self):
            pass

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.autocall = 0
    return Shell.instance(config=config)


# ---- the child -------------------------------------------------------------------------------------------------------------------------


def child_main(channel: int, options: dict) -> None:
    """Give up all powers, then serve the channel until it closes."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(channel, 60)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.dup2(60, CHANNEL)
    os.closerange(CHANNEL + 1, 65536)  # with it the control socket: a submission has nothing that leads to the parent
    os.setsid()
    if options["confined"]:
        confine.private_mounts()
        confine.mount_tmpfs("/tmp", options["scratch"])
        confine.mount_tmpfs("/dev/shm", options["scratch"])
    filtered = False
    if options["confined"]:
        if options["drop_to_uid"] is not None:
            confine.drop_user(options["drop_to_uid"])
        os.makedirs("/tmp/home/work")
        os.chdir("/tmp/home/work")
        confine.set_limits(options["limits"])
        confine.drop_capabilities()
        filtered = confine.filter_system_calls()
    else:
        limits = options["limits"] if sys.platform.startswith("linux") else {}
        confine.set_limits({name: value for name, value in limits.items() if name not in ("NPROC", "FSIZE")})
    connection = socket.socket(fileno=CHANNEL)
    Child(connection, SHELL[0], filtered).serve()


class CellTimeout(BaseException):
    """Interrupts a cell that takes too long."""


class Child:
    """Runs cells in the shell, then answers the checks."""

    def __init__(self, connection: socket.socket, shell, filtered: bool) -> None:
        self.connection, self.shell, self.filtered = connection, shell, filtered
        self.namespace = shell.user_ns
        self.given = set(self.namespace)
        self.setup: dict = {}
        self.homes: dict = {}
        self.worker = None
        seed_everything()

    def serve(self) -> None:
        """First a word on how the child stands, then answers."""
        send(self.connection, b"L" + json.dumps({"uid": os.getuid(), "pid": os.getpid(), "filtered": self.filtered}).encode())
        while (message := receive(self.connection)) is not None:
            if message[:1] == b"W":
                send(self.connection, message[:MARK] + self.worker.handle(message[MARK:]))
                continue
            order = json.loads(message[1:])
            try:
                answer = getattr(self, f"on_{order['op']}")(order)
            except BaseException as error:  # whatever a submission did to us: it hears of it
                answer = {"error": f"{type(error).__name__}"}
            send(self.connection, b"L" + json.dumps(answer).encode())

    def on_test(self, order: dict) -> dict:
        """Trusted code of ours, before any cell: what the self-test tries from inside."""
        found: dict = {}
        exec(order["source"], {"found": found})
        return found

    def on_setup(self, order: dict) -> dict:
        """A cell of our own copy. The names it makes are what checks use, whatever a submission redefines."""
        problem = self._run(order["source"], None)
        self.setup |= {k: v for k, v in self.namespace.items() if k not in self.given and not k.startswith("_")}
        return {"problem": problem}

    def on_stub(self, order: dict) -> dict:
        return {"problem": self._run(order["source"], None)}

    def on_sealed(self, order: dict) -> dict:
        seed_everything()
        return {}

    def on_cell(self, order: dict) -> dict:
        """A submission's cell. `home` names an exercise whose definition, if this cell makes one, is the one that counts."""
        source = definitions_only(order["source"]) if order["definitions_only"] else order["source"]
        before = self.namespace.get(order["home"]) if order["home"] else None
        problem = self._run(source, order["seconds"])
        if order["home"] and self.namespace.get(order["home"]) is not before:
            self.homes[order["home"]] = self.namespace[order["home"]]
        return {"problem": problem}

    def on_judge(self, order: dict) -> dict:
        """All cells have run: each exercise is what its own cell made of it, else what the last cell made."""
        from course_lib.checks.worker import Worker

        self.namespace.update(self.homes)
        self.worker = Worker(self.namespace, self.setup)
        return {}

    def _run(self, source: str, seconds: float | None) -> str | None:
        """Run a cell; returns what it ended with, None if nothing."""
        if seconds is not None:
            signal.signal(signal.SIGALRM, _too_long)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            result = self.shell.run_cell(source, store_history=False)
            error = result.error_before_exec or result.error_in_exec
        except CellTimeout as late:
            error = late
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if error is None:
            return None
        try:
            return f"{type(error).__name__}: {error}"[:500]
        except BaseException:
            return type(error).__name__


def _too_long(number, frame):
    raise CellTimeout("it took too long and was interrupted")


def seed_everything() -> None:
    """The same global random numbers for each submission and each replay of it."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def definitions_only(source: str) -> str:
    """A cell without what it does: imports, functions, classes and assignments of constants."""
    from IPython.core.inputtransformer2 import TransformerManager

    tree = ast.parse(TransformerManager().transform_cell(source))
    kept = [
        node for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        or isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Lambda, ast.Name, ast.Attribute))
    ]  # fmt: skip
    return "\n\n".join(map(ast.unparse, kept))


def main() -> None:
    options = json.loads(sys.argv[1])
    sys.path[:0] = options["path"]
    Parent(options).run()


if __name__ == "__main__":
    main()
