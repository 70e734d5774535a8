"""`Grader`: grades submissions in a process of its own, under limits and watched from outside.

    with Grader(secret) as grader:
        result = grader.grade(path, "01_convolution_arithmetic")

A check works with what a submission returned, here, outside the sandbox: a number can be absurd, a text endless, a tensor shaped to crash a
library. So checks run in this separate process (`python -m course_lib.staff.grading.judge`), which holds the sandbox and tells each result as
it is found. If it dies or stalls, the check under way has failed, and a new one goes on with the next. Several graders can work at once.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lib.cli import CommandError
from course_lib.staff.grading.sandbox import Limits, Sandbox, SandboxLost, SandboxMissing
from course_lib.staff.sources import REPO, Cell, read_cells, topic_path

OWN_SECONDS = 60.0  # without a sign of life: the judge tells when it waits for the sandbox, so this is work of its own
START_SECONDS = 300.0
MEMORY = 12 * 2**30  # bytes of the judge's own data, so that it and not the machine gives way
MAX_LOST = 5  # judges that one submission may take with it
MAX_EVENT = 64 * 2**20


class GraderFault(CommandError):
    """Grading cannot go on for a reason that is no submission's."""


class Once:
    """Known mistakes that one judge has worked out, for all graders of this process. Others wait meanwhile instead of doing the same."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[tuple, threading.Lock] = {}
        self._found: dict[tuple, list[dict]] = {}

    def __call__(self, key: tuple, find: Callable[[], list[dict] | None]) -> list[dict] | None:
        """What was found for `key`; `find` is called where nothing was, and its None (the judge is gone) is not kept."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._found:
                found = find()
                if found is None:
                    return None
                self._found[key] = found
            return self._found[key]


_once = Once()


class Grader:
    """A judge process with its warm sandbox. A context manager.

    Args:
        secret: of the course, at least 16 bytes; private seeds are made of it.
        topics: labs whose imports the sandbox warms up with; others can be graded too.
        root: folder of the course with its `solutions`.
        submissions: folder that submissions have to be in (no symbolic links on the way), or None.
        unsafe: without a sandbox; for trying things out with code of one's own.
        own_seconds: how long the judge may be silent before it counts as stalled.
        limits, times: fields of `sandbox.Limits` and `grade.Times` that differ from the default.
    Raises on entering: SandboxMissing, GraderFault.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        topics: tuple[str, ...] = (),
        root: Path = REPO,
        submissions: Path | None = None,
        unsafe: bool = False,
        own_seconds: float = OWN_SECONDS,
        limits: dict[str, int] | None = None,
        times: dict[str, float] | None = None,
    ) -> None:
        self.settings = {
            "secret": secret.hex(), "topics": list(topics), "root": str(Path(root).resolve()), "unsafe": unsafe,
            "submissions": None if submissions is None else os.path.abspath(submissions), "limits": limits or {}, "times": times or {},
        }  # fmt: skip
        self.own_seconds = own_seconds
        self.layers: list[dict] = []
        self._stalled = False
        self._process: subprocess.Popen | None = None
        self._buffer = bytearray()

    def __enter__(self) -> Grader:
        self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def describe(self) -> list[dict]:
        """The layers of the sandbox: name, active, essential, words."""
        return self.layers

    def grade(self, path: Path | str, topic: str) -> Any:
        """A `SubmissionResult`, whatever is at `path`. Raises GraderFault for a fault of ours (an unknown lab, no memory for a sandbox)."""
        from course_lib.staff.grading.grade import SubmissionResult

        started, done, current, lost = time.monotonic(), [], None, 0
        common = 0.0  # seconds of work that is done once for all submissions: no student's
        while True:
            if self._process is None:
                self._start()
            self._say({"grade": os.fspath(path), "topic": topic, "done": done, "give_up": lost > MAX_LOST, "used": time.monotonic() - started - common})
            while (event := self._heard(self.own_seconds)) is not None:
                if "check" in event:
                    current = event["check"]
                elif "result" in event:
                    done.append(event["result"])
                    current = None
                elif "mistakes" in event:
                    began = time.monotonic()
                    answered = self._tell_mistakes(topic, event["state"], event["mistakes"])
                    common += time.monotonic() - began
                    if not answered:
                        break
                elif "graded" in event:
                    event["graded"]["seconds"] = time.monotonic() - started - common
                    return SubmissionResult.from_dict(event["graded"])
                elif "fault" in event:
                    raise GraderFault(event["fault"])
            self._stop()
            lost += 1
            if lost > MAX_LOST + 1:
                raise GraderFault(f"the judge falls again and again at {path}")
            if current is not None:
                done.append({"lost": current})
                current = None
            elif lost > 1:
                lost = MAX_LOST + 1  # it falls before the first check: what is left is reported as it is

    def _tell_mistakes(self, topic: str, state: str, exercise: str) -> bool:
        """Answer a judge that asks for the known mistakes of an exercise: what another has found, or that it shall find them itself.

        Returns: whether it is still there.
        """

        def find() -> list[dict] | None:
            self._say({"entries": None})
            while (event := self._heard(self.own_seconds)) is not None:
                if "entries" in event:
                    return event["entries"]
            return None

        asked = []
        entries = _once((self.settings["root"], topic, state, self.settings["secret"], exercise), lambda: asked.append(True) or find())
        if entries is not None and not asked:
            self._say({"entries": entries})
        return entries is not None

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        package = str(Path(__file__).resolve().parents[3])
        environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
        self._buffer.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.staff.grading.judge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self._say(self.settings)
        while (event := self._heard(START_SECONDS)) is not None and "alive" in event:
            pass
        if event is None or "layers" not in event:
            self._stop()
            if event is not None and "missing" in event:
                raise SandboxMissing(event["missing"])
            raise GraderFault(event["fault"] if event else "the judge does not start")
        self.layers = event["layers"]

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.stdin.close()  # it then closes its sandbox and ends
        try:
            self._process.wait(5 if not self._stalled else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the sandbox dies with it
            self._process.wait()
        self._process.stdout.close()
        self._process = None
        self._stalled = False

    def _say(self, message: dict) -> None:
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone, which the next answer shows

    def _heard(self, seconds: float) -> dict | None:
        """The judge's next event; None if it is gone or silent for so long."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._stalled = True
                return None
            part = os.read(self._process.stdout.fileno(), 2**20)
            if not part or len(self._buffer) > MAX_EVENT:
                return None
            self._buffer += part
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return json.loads(line)


# ---- the judge -----------------------------------------------------------------------------------------------------------------------------


def lab_modules(cells: list[Cell]) -> tuple[str, ...]:
    """What the setup cells of a lab import, and what its optimisers would import at their first use."""
    names: list[str] = []
    for cell in cells:
        if cell.kind != "setup":
            continue
        for node in ast.walk(ast.parse(cell.script)):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if any("optim" in cell.source for cell in cells):
        names.append("torch._dynamo")
    return tuple(dict.fromkeys(names))


def main() -> None:
    """Read settings, then one order a line, from stdin; tell events on stdout."""
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints to stderr

    def tell(event: dict) -> None:
        events.write(json.dumps(event).encode() + b"\n")
        events.flush()

    last = [0.0]

    def alive() -> None:
        if time.monotonic() > last[0] + 1.0:
            last[0] = time.monotonic()
            tell({"alive": True})

    settings = json.loads(sys.stdin.readline())
    if sys.platform.startswith("linux"):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))

    root, secret = Path(settings["root"]), bytes.fromhex(settings["secret"])
    submissions = None if settings["submissions"] is None else Path(settings["submissions"])
    try:
        modules = tuple(dict.fromkeys(name for topic in settings["topics"] for name in lab_modules(read_cells(topic_path(topic, root)))))
        hide = (REPO, root, *([submissions] if submissions else []))
        sandbox = Sandbox(modules, Limits(**settings["limits"]), hide, settings["unsafe"])
        sandbox.alive = alive
        sandbox.launch()
    except SandboxMissing as error:
        return tell({"missing": str(error)})
    except (ValueError, TypeError, CommandError) as error:
        return tell({"fault": str(error)})

    # Torch is imported here while the warm parent does the same.
    from course_lib.staff.grading.grade import Times, could_not_be_read, grade_submission, mistakes_at, private_seed, stopped_result
    from course_lib.staff.labs import load
    from course_lib.checks.outcomes import Result

    known: dict[tuple[int, str], list[dict]] = {}  # what this judge was told or has found

    try:
        private_seed(secret, "")
        for topic in settings["topics"]:
            load(topic, root)  # now, and not in the time of the first submission
        sandbox.wait()
    except SandboxMissing as error:
        return tell({"missing": str(error)})
    except (ValueError, CommandError) as error:
        return tell({"fault": str(error)})
    tell({"layers": [asdict(layer) for layer in sandbox.describe()]})
    try:
        for line in sys.stdin:
            order = json.loads(line)
            try:
                lab = load(order["topic"], root)
                done = [
                    stopped_result(lab, r["lost"]) if "lost" in r else Result(**{**r, "pictures": None}) for r in order["done"]
                ]  # fmt: skip
                pictures = [r.get("pictures") for r in order["done"]]
                if order["give_up"] and not done:
                    graded = could_not_be_read(lab, "the grader fell when it looked at it")
                else:
                    times = Times(**settings["times"])
                    if order["give_up"]:
                        times = Times(**{**asdict(times), "total": 0.0})
                    elif done:
                        times = Times(**{**asdict(times), "total": max(0.0, times.total - order["used"])})
                    seed = private_seed(secret, lab.topic)

                    def mistakes(exercise: str) -> list[dict]:
                        key = (id(lab), exercise)  # `load` keeps every lab, so that an id means one
                        if key not in known:
                            tell({"mistakes": exercise, "state": str(lab.path.stat().st_mtime_ns)})
                            entries = json.loads(sys.stdin.readline())["entries"]
                            if entries is None:
                                entries = mistakes_at(lab, exercise, seed, alive)
                                tell({"entries": entries})
                            known[key] = entries
                        return known[key]

                    graded = grade_submission(
                        order["grade"], lab, seed, sandbox, root=submissions, times=times, done=done, tell=tell, known=mistakes
                    )
                stored = graded.to_dict()
                for result, picture in zip(stored["results"], pictures):
                    result["pictures"] = picture
                tell({"graded": stored})
            except (SandboxLost, SandboxMissing, ValueError, CommandError) as error:
                tell({"fault": str(error)})
    finally:
        sandbox.close()


if __name__ == "__main__":
    main()
