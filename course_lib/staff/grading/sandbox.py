"""A warm parent in bubblewrap that forks one confined child a submission (Linux).

    with Sandbox(modules=["torch"]) as sandbox:
        child = sandbox.fork()
        reply = child.request(b"...", seconds=10)
        sandbox.end_child()

Layers, outside in. bubblewrap gives the parent an empty root with the system and the Python environment read-only, no network, and namespaces
of its own. Each submission is a fork of the parent in further namespaces (processes, mounts, IPC, host name, network), with empty folders in
memory to write to, limits, no capabilities, a filter of system calls, as another user where the grader runs as root, and one descriptor: its
end of a socket pair. Killing it ends everything it started. `describe` says which layers are active, and a self-test from inside refuses to
go on where one that grading rests on is not.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import course_lib
from course_lib.cli import CommandError
from course_lib.staff.sources import REPO

HERE = Path(__file__).resolve().parent
STAFF_ONLY = {"staff", "cards", "cli.py", "__pycache__"}  # of course_lib; not visible inside
WARM_MODULES = (
    "torch", "numpy", "numpy.random", "safetensors.torch", "matplotlib", "matplotlib.pyplot", "IPython.core.interactiveshell", "matplotlib_inline.backend_inline",
    "course_lib.plots", "course_lib.repro", "course_lib.datasets",
)  # fmt: skip
START_SECONDS = 180.0  # importing torch from a cold disk
CONTROL_SECONDS = 60.0  # a fork or a kill on a machine that is busy
MAX_REPLY = 116 * 2**20  # bytes; a worker's longest message (course_lib.checks.codec) and a little more
TICK = 0.25  # seconds between two looks at the memory of a child that is working
FIRST_UID, NUMBER_OF_UIDS = 61184, 4000  # systemd keeps these numbers for users without an account


class SandboxMissing(CommandError):
    """There is no sandbox to run submissions in; the message says why in one line."""


class SandboxLost(Exception):
    """The warm parent is gone or does not answer; a new sandbox has to be started."""


class ChildEnded(Exception):
    """A child can no longer be talked to.

    Attributes:
        why: "time", "memory", "ended" (its process is gone) or "noise" (it sent something unasked or too long).
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Limits:
    """What one submission may use, all its processes together where not said otherwise."""

    memory: int = 4 * 2**30  # bytes, a process; also the sum, as far as it can be watched
    processes: int = 128  # threads included
    file_size: int = 64 * 2**20
    scratch: int = 128 * 2**20  # bytes of files in /tmp, and as much in /dev/shm
    open_files: int = 256
    cpu_seconds: int = 900  # a process

    def resource_limits(self) -> dict[str, int]:
        return {
            "DATA": self.memory, "NPROC": self.processes, "FSIZE": self.file_size, "NOFILE": self.open_files, "CPU": self.cpu_seconds,
            "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0,
        }  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One line of `describe`: what holds, whether it was seen to hold, and whether grading refuses to run without it."""

    name: str
    active: bool
    essential: bool
    words: str


class Sandbox:
    """The warm parent and its present child. A context manager.

    Args:
        modules: imported in the parent, so that submissions have them at once.
        limits: of each submission.
        hide: folders that must not be visible even if they lie in one that is (the system's).
        unsafe: without bubblewrap, namespaces and users: only limits and another process. For trying things out, on any system.
    """

    def __init__(
        self, modules: tuple[str, ...] = (), limits: Limits = Limits(), hide: tuple[Path, ...] = (REPO,), unsafe: bool = False
    ) -> None:
        self.modules, self.limits, self.hide, self.unsafe = (*WARM_MODULES, *modules), limits, hide, unsafe
        self.layers: list[Layer] = []
        self.alive: Callable[[], None] = lambda: None  # called again and again while somebody waits for a process inside
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._child: Child | None = None
        self._cgroups: list[Path] = []
        self._stage: Path | None = None
        self._baseline = 0

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the parent and test the sandbox from inside. Raises SandboxMissing."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the parent, which takes seconds for its imports, and return at once; `wait` has to follow."""
        program = None if self.unsafe else _bubblewrap()
        _sweep(Path(tempfile.gettempdir()), "course-sandbox", shutil.rmtree)
        self._stage = Path(tempfile.mkdtemp(prefix=f"course-sandbox-{os.getpid()}-"))
        self._stage.chmod(0o755)  # it holds nothing that the whole course does not get
        try:
            _copy_student_part(self._stage)
            self._launch(program)
        except BaseException:
            self.close()
            raise

    def wait(self) -> None:
        """Wait for the parent, then test the sandbox from inside. Raises SandboxMissing."""
        try:
            ready = self._heard(START_SECONDS)
            if ready.get("threads") != 1:
                raise SandboxMissing(f"the warm parent has {ready.get('threads')} threads; a fork needs one")
            self._baseline = _anonymous(self._parent_pid()) if not self.unsafe else 0
            self._self_test()
        except SandboxLost as error:
            said = self._said()
            self.close()
            raise SandboxMissing(f"the sandbox does not start: {error}; {said}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything and remove what was made."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._child is not None:
            self._child.socket.close()
            self._child = None
        if self._process is not None:
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for folder in self._cgroups:
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # its last process is still on its way out
                    time.sleep(0.02)
        self._cgroups = []
        if self._stage is not None:
            shutil.rmtree(self._stage, ignore_errors=True)
            self._stage = None

    def restart(self) -> None:
        self.close()
        self.start()

    def _launch(self, program: str | None) -> None:
        control, inside = socket.socketpair()
        self._control = control
        try:
            command = self._command(program, inside.fileno())
            environment = _environment("/tmp") if self.unsafe else {"PATH": os.environ.get("PATH", "")}
            with open(self._stage / "stderr", "wb") as said:
                self._process = subprocess.Popen(
                    command, pass_fds=(inside.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment,
                    start_new_session=True, cwd="/",
                )  # fmt: skip
        finally:
            inside.close()

    def _command(self, program: str | None, control: int) -> list[str]:
        base, executable = Path(sys.base_prefix).resolve(), Path(sys.executable).resolve()
        sites = [Path(p) for p in sys.path if Path(p).name in ("site-packages", "dist-packages") and Path(p).is_dir()]
        options = {
            "control": control, "modules": list(self.modules), "confined": not self.unsafe, "limits": self.limits.resource_limits(),
            "scratch": self.limits.scratch, "drop_to_uid": None,
        }  # fmt: skip
        if program is None:
            options["path"] = [str(self._stage / "course"), *map(str, sites)]
            return [sys.executable, "-s", "-B", str(self._stage / "course" / "parent.py"), json.dumps(options)]

        root = os.geteuid() == 0
        options["drop_to_uid"] = FIRST_UID + os.getpid() % NUMBER_OF_UIDS if root else None
        options["path"] = ["/env/course", *(f"/env/site{i}" for i in range(len(sites)))]
        command = [program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
        command += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
        # What the parent needs to fork children into namespaces, and nothing else; children have none of it.
        needed = ["CAP_SYS_ADMIN", "CAP_SETPCAP", *(["CAP_SETUID", "CAP_SETGID", "CAP_KILL"] if root else [])]
        command += [part for capability in needed for part in ("--cap-add", capability)]
        if not root:
            command += ["--unshare-user"]
        command += ["--perms", "0755", "--dir", "/env", "--perms", "0755", "--dir", "/etc", "--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            path = Path("/", name)
            if path.is_symlink():
                command += ["--symlink", os.readlink(path), str(path)]
            elif path.is_dir():
                command += ["--ro-bind", str(path), str(path)]
        for name in ("ld.so.cache", "alternatives", "localtime"):
            command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for folder in self.hide:
            if folder.resolve().is_relative_to("/usr"):
                command += ["--tmpfs", str(folder.resolve())]
        variables = _environment("/tmp/home")
        if not base.is_relative_to("/usr"):
            command += ["--ro-bind", str(base), "/env/python"]
            executable = Path("/env/python") / executable.relative_to(base)
            variables["LD_LIBRARY_PATH"] = "/env/python/lib"
        for i, site in enumerate(sites):
            command += ["--ro-bind", str(site.resolve()), f"/env/site{i}"]
            if (site / "course_lib").is_dir():  # an installed course has its staff's part in there
                command += ["--tmpfs", f"/env/site{i}/course_lib", "--remount-ro", f"/env/site{i}/course_lib"]
        command += ["--ro-bind", str(self._stage / "course"), "/env/course"]
        command += ["--tmpfs", "/proc", "--dev", "/dev", "--dir", "/home", "--perms", "1777", "--tmpfs", "/tmp"]
        for folder in ("/proc", "/dev", "/"):  # what is writable here would be shared by all submissions
            command += ["--remount-ro", folder]
        for name, value in variables.items():
            command += ["--setenv", name, value]
        command += ["--chdir", "/", str(executable), "-s", "-B", "/env/course/parent.py", json.dumps(options)]
        return self._with_cgroup(command)

    def _with_cgroup(self, command: list[str]) -> list[str]:
        """The same command in control groups of its own where this process may make them, and the first to go when memory runs out."""
        self._cgroups = _make_cgroups(self.limits)
        enter = "".join(f"echo 0 > {folder}/cgroup.procs; " for folder in self._cgroups)
        return ["/bin/sh", "-c", f'echo 500 2>/dev/null > /proc/self/oom_score_adj; {enter}exec "$@"', "sh", *command]

    # --- children ---------------------------------------------------------------------------------------------------

    def fork(self) -> Child:
        """A fresh child; the one before is ended. Raises SandboxLost."""
        self.end_child()
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [b'{"op": "fork"}'], [theirs.fileno()])
        except OSError:
            ours.close()
            raise SandboxLost("the warm parent is gone") from None
        finally:
            theirs.close()
        try:
            answer = self._heard(CONTROL_SECONDS)
            if "forked" not in answer:
                raise SandboxLost(f"the warm parent cannot fork: {answer.get('error')}")
        except SandboxLost:
            ours.close()
            raise
        self._child = child = Child(ours, self)
        child.hello = child.heard(CONTROL_SECONDS)
        if "uid" not in child.hello:
            raise SandboxLost(f"a child does not start: {child.hello.get('failed')}")
        return child

    def end_child(self, patience: float = 0.0) -> int | None:
        """End the child and all its descendants.

        Args:
            patience: seconds that its first process may take to end by itself, when it seems to have.
        Returns: how its first process had ended by then (a status, negative for a signal), None if it had not.
        """
        if self._child is None:
            return None
        self._child.socket.close()
        self._child = None
        try:
            self._control.sendall(json.dumps({"op": "kill", "patience": patience}).encode())
        except OSError:
            raise SandboxLost("the warm parent is gone") from None
        return self._heard(CONTROL_SECONDS).get("status")

    def memory(self) -> int:
        """Bytes that all processes inside hold for themselves, beyond what they share with the warm parent. 0 where it cannot be seen."""
        if self._process is None or self.unsafe:
            return 0
        return sum(max(0, _anonymous(pid) - self._baseline) for pid in _descendants(self._process.pid))

    def _heard(self, seconds: float) -> dict:
        """What the warm parent says next. It is ours, and runs no line of a submission."""
        deadline = time.monotonic() + seconds
        try:
            content = _receive(self._control, deadline, self.alive, 2**20)
            return json.loads(content)
        except (ChildEnded, OSError, ValueError) as error:
            raise SandboxLost(f"the warm parent does not answer: {error}") from None

    def _parent_pid(self) -> int:
        """The warm parent: the last of the chain shell, bubblewrap, bubblewrap's init, parent."""
        return max(_descendants(self._process.pid), key=_anonymous)

    def _said(self) -> str:
        lines = (self._stage / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no reason was given"

    # --- what holds -------------------------------------------------------------------------------------------------

    def describe(self) -> list[Layer]:
        """The layers as the self-test found them at the start."""
        return list(self.layers)

    def _self_test(self) -> None:
        if self.unsafe:
            self.layers = [Layer("sandbox", False, False, "none: submissions can read and change what the grader's user can")]
            return
        secret = self._stage / "secret"
        secret.write_text("not for submissions", encoding="utf-8")
        try:
            child = self.fork()
            source = (HERE / "selftest.py").read_text(encoding="utf-8")
            hidden = [str(secret), str(HERE), str(REPO / "solutions"), *map(str, self.hide), "/etc/shadow", "/root", "/proc/1", "/sys/kernel"]
            found = child.order("test", source=f"HIDDEN, EXPECTED = {hidden!r}, {sorted(_environment(''))!r}\n{source}")
        except ChildEnded as error:
            raise SandboxMissing(f"the sandbox's self-test did not finish: {error.why}: {self._said()}") from None
        self.end_child()
        if "error" in found or not found:
            raise SandboxMissing(f"the sandbox's self-test did not run: {found}")
        self.layers = _layers(found, child.hello, bool(self._cgroups))
        if broken := [layer for layer in self.layers if layer.essential and not layer.active]:
            raise SandboxMissing("the sandbox does not hold: " + "; ".join(f"{layer.name}: {layer.words}" for layer in broken))


class Child:
    """The outer end of the channel to one confined child. Not a byte of what it reads is believed."""

    def __init__(self, connection: socket.socket, sandbox: Sandbox) -> None:
        self.socket, self.sandbox = connection, sandbox
        self.hello: dict = {}

    def request(self, content: bytes, seconds: float) -> bytes:
        """Send a message, return the answer. Raises ChildEnded."""
        deadline = time.monotonic() + seconds
        self.sandbox.alive()
        if select.select([self.socket], [], [], 0)[0]:
            try:
                unasked = self.socket.recv(1)
            except OSError:
                unasked = b""
            raise ChildEnded("noise" if unasked else "ended")
        try:
            self._send(struct.pack("<Q", len(content)) + content, deadline)
            return _receive(self.socket, deadline, self._look, MAX_REPLY)
        except OSError:
            raise ChildEnded("ended") from None

    def order(self, op: str, within: float = 60.0, **fields: object) -> dict:
        """A message for the loader and its answer, a small dict; {} if the answer is none."""
        return self._small_dict(self.request(b"L" + json.dumps({"op": op, **fields}).encode(), within))

    def heard(self, seconds: float) -> dict:
        """What the child says unasked: once, before it runs anything of a submission."""
        try:
            return self._small_dict(_receive(self.socket, time.monotonic() + seconds, self._look, 65536))
        except (ChildEnded, OSError) as error:
            return {"failed": f"it ended ({error})"}

    @staticmethod
    def _small_dict(answer: bytes) -> dict:
        if len(answer) > 65536 or answer[:1] != b"L":
            return {}
        try:
            decoded = json.loads(answer[1:])
        except (ValueError, RecursionError):
            return {}
        return decoded if type(decoded) is dict else {}

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _, writable, _ = select.select([], [self.socket], [], TICK)
            if writable:
                view = view[self.socket.send(view[: 2**16], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
            elif time.monotonic() > deadline:
                raise ChildEnded("time")

    def _look(self) -> None:
        self.sandbox.alive()
        if self.sandbox.memory() > self.sandbox.limits.memory:
            raise ChildEnded("memory")


def _receive(connection: socket.socket, deadline: float, look: Callable[[], None], longest: int) -> bytes:
    """One message. Raises ChildEnded."""
    data, length = bytearray(), None
    while length is None or len(data) < 8 + length:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise ChildEnded("time")
        if not select.select([connection], [], [], min(seconds, TICK))[0]:
            look()
            continue
        part = connection.recv(min(2**20, 8 + (length or 0) - len(data)))
        if not part:
            raise ChildEnded("ended")
        data += part
        if length is None and len(data) >= 8:
            (length,) = struct.unpack_from("<Q", data)
            if length > longest:
                raise ChildEnded("noise")
    return bytes(data[8:])


# ---- what the sandbox is made of -----------------------------------------------------------------------------------------------------------


def _bubblewrap() -> str:
    if not sys.platform.startswith("linux"):
        raise SandboxMissing(f"submissions are graded on Linux, this is {sys.platform}; use a Linux machine or container")
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxMissing("bubblewrap (the program bwrap) is not installed; install the package bubblewrap, submissions run in nothing less")
    return program


def _environment(home: str) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "USER": "student", "LOGNAME": "student", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "",
        "COURSE_PROFILE": "quick", "MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp/matplotlib", "IPYTHONDIR": "/tmp/ipython", "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def _copy_student_part(stage: Path) -> None:
    """course_lib without the staff's part, and the program that runs inside."""
    source, target = Path(course_lib.__file__).resolve().parent, stage / "course" / "course_lib"
    shutil.copytree(source, target, ignore=lambda folder, names: [n for n in names if n in STAFF_ONLY or n.startswith(".")], symlinks=True)
    for name in ("parent.py", "confine.py"):
        shutil.copyfile(HERE / name, stage / "course" / name)
    for path in [stage / "course", *(stage / "course").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _make_cgroups(limits: Limits) -> list[Path]:
    """Control groups below this process's own with limits on memory and processes, those that the system lets us make."""
    wanted = {"memory": {"memory.limit_in_bytes": limits.memory + 2 * 2**30, "memory.max": limits.memory + 2 * 2**30}}
    wanted["pids"] = {"pids.max": limits.processes + 64}
    made = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller, files in wanted.items():
            if controller in controllers.split(",") or controllers == "":
                mount = Path("/sys/fs/cgroup", controller if controllers else "")
                folder = Path(f"{mount}{path.rstrip('/')}", f"course-grading-{os.getpid()}-{time.monotonic_ns()}")
                _sweep(folder.parent, "course-grading", os.rmdir)
                try:
                    folder.mkdir()
                except OSError:
                    continue
                if any(_written(folder / name, value) for name, value in files.items()):
                    made.append(folder)
                else:
                    folder.rmdir()
    return made


def _sweep(folder: Path, prefix: str, remove: Callable[[Path], None]) -> None:
    """Remove what graders that were killed have left: entries `prefix-PID-…` of processes that are gone."""
    for path in folder.glob(f"{prefix}-*-*"):
        pid = path.name.removeprefix(f"{prefix}-").split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and not path.is_symlink():
            try:
                remove(path)
            except OSError:  # another user's, or still on its way out
                pass


def _written(path: Path, value: int) -> bool:
    try:
        path.write_text(str(value), encoding="ascii")
        return True
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    """All processes below one, itself included, as this system's /proc shows them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_bytes()
            except OSError:
                continue
            children.setdefault(int(stat[stat.rindex(b")") + 2 :].split()[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _anonymous(pid: int) -> int:
    """Bytes of memory of a process that are no file's; 0 if it is gone."""
    try:
        text = Path("/proc", str(pid), "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))


def _layers(found: dict, hello: dict, cgroups: bool) -> list[Layer]:
    def layer(name: str, key: str, essential: bool, words: str) -> Layer:
        problem = found.get(key, "not tested")
        return Layer(name, problem == "", essential, words if problem == "" else str(problem))

    user = f"user {hello.get('uid')}, another than the grader's" if hello.get("uid") != os.geteuid() else "the grader's user in a namespace"
    return [
        layer("network", "network", True, "no network: an empty network namespace, only local sockets"),
        layer("files", "files", True, "only the system and the Python environment are visible, read-only; empty folders in memory to write to"),
        layer("processes", "processes", True, "process 1 of its own namespace; killing it ends all descendants"),
        layer("environment", "environment", True, "no variable of the grader's"),
        layer("descriptors", "descriptors", True, "one descriptor, the channel of this submission"),
        layer("capabilities", "capabilities", True, f"none, and none to be gained; {user}"),
        layer("limits", "limits", True, "memory a process, processes, file sizes, open files, CPU seconds; time is kept outside"),
        layer("system calls", "calls", False, "a filter refuses new namespaces, tracing, mounts, keys, foreign sockets and hidden memory"),
        Layer("memory of all together", cgroups, False, "control group" if cgroups else "no control group: watched from outside four times a second"),
    ]
