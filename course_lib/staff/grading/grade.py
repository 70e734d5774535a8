"""Grade one submission: its cells run in a child of the sandbox, the checks run here and talk to it over a channel.

Marks of one lab are comparable: all students get the same private seed, made of the course's secret and the name of the lab. A regrade with
the same secret gives the same marks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

import numpy as np

from course_lib.checks import outcomes
from course_lib.checks.outcomes import OutOfLimits, Result
from course_lib.checks.runner import Check, name_mistakes, run_check, run_collected
from course_lib.checks.session import Session
from course_lib.staff.grading import submission as reading
from course_lib.staff.grading.sandbox import Child, ChildEnded, Sandbox, SandboxLost
from course_lib.staff.grading.submission import StudentCell, Submission, Unreadable
from course_lib.staff.labs import LabSource

PICTURE_SIDE = 64  # pictures in results are thinned out to this many rows and columns
MAX_WORDS = 2000  # characters of any text in a result
MIN_SECRET = 16  # bytes
MARK_BYTES = 8


@dataclass(frozen=True)
class Times:
    """Seconds of wall time. A grading machine may be busier than a student's: hence `patience`."""

    cell: float = 20.0  # one cell; it is interrupted, and the next one runs
    cells: float = 60.0  # all cells that are no exercises; after that only their definitions run
    total: float = 300.0  # a submission with all its replays
    patience: float = 2.0  # a check's own seconds are multiplied by it
    replays: int = 60  # fresh forks: after a failed exercise, for a substitute, and after a call that ended or hung the session


@dataclass
class SubmissionResult:
    """What grading one submission found. `to_dict` and `from_dict` keep it as JSON.

    Attributes:
        results: one a check, in the order of the lab; all worth nothing if the file could not be read.
        unreadable: why the file could not be read, else None.
        cells: the text of the student's own code cells, in order.
        written: answers to written questions, by name; a question whose answer was not found is missing.
        problems: remarks for the instructor: cells that failed, replays.
    """

    topic: str
    results: list[Result]
    unreadable: str | None = None
    cells: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def earned(self) -> float:
        return sum(r.earned for r in self.results)

    @property
    def points(self) -> float:
        return sum(r.points for r in self.results)

    def to_dict(self) -> dict:
        return {**asdict(replace(self, results=[])), "results": [result_to_dict(r) for r in self.results]}

    @classmethod
    def from_dict(cls, stored: dict) -> SubmissionResult:
        return cls(**{**stored, "results": [Result(**r) for r in stored["results"]]})


def private_seed(secret: bytes, topic: str) -> int:
    """The seed of all checks of a lab when it is graded: 128 bits that only the secret gives.

    Raises: ValueError for a secret under 16 bytes.
    """
    if len(secret) < MIN_SECRET:
        raise ValueError(f"secret must have at least {MIN_SECRET} bytes, got {len(secret)}")
    return int.from_bytes(hmac.new(secret, topic.encode(), hashlib.sha256).digest()[:16], "big")


def grade_submission(
    path: Path | str,
    lab: LabSource,
    seed: int,
    sandbox: Sandbox,
    *,
    root: Path | None = None,
    times: Times = Times(),
    done: list[Result] | None = None,
    tell: Callable[[dict], None] = lambda event: None,
    known: Callable[[str], list[dict]] | None = None,
) -> SubmissionResult:
    """Grade the notebook at `path`.

    Whatever the submission does ends as results: this raises only for faults of ours (SandboxLost, a lab whose setup does not run).

    Args:
        lab: our copy, from `labs.load`.
        seed: see `private_seed`.
        root: folder of submissions, see `submission.read`.
        done: results of earlier checks, when grading goes on after an interruption; these checks do not run again.
        tell: called with {"check": name} before and {"result": …} after each check.
        known: gives the known mistakes of an exercise under this seed; by default `mistakes_at` finds them here.
    """
    started = time.monotonic()
    try:
        notebook = reading.read(path, lab, root)
    except Unreadable as error:
        return could_not_be_read(lab, str(error), time.monotonic() - started)
    except Exception as error:  # a file that we did not think of is one student's, and must not stop the others
        return could_not_be_read(lab, f"reading it failed with {type(error).__name__}: {error}", time.monotonic() - started)
    channel = SandboxChannel(sandbox, lab, notebook, times, started + times.total)
    session = Session(channel)
    results = list(done or [])
    for check in lab.checks[len(results) :]:
        if results and results[-1].exercise != check.exercise:
            channel.next_exercise()
        tell({"check": check.name})
        result = run_check(check, session, seed, channel)
        if channel.fault is not None:  # a fault of ours never counts against a student
            raise channel.fault
        channel.failed |= result.outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED)
        result = _settled(result, channel)
        results.append(result)
        tell({"result": result_to_dict(result)})
    channel.end_child()
    failed = dict.fromkeys(r.exercise for r in results if r.outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED))
    known = known or (lambda exercise: mistakes_at(lab, exercise, seed, sandbox.alive))
    results = name_mistakes(results, [entry for exercise in failed for entry in known(exercise)])
    problems = list(dict.fromkeys(notebook.problems + channel.problems))
    return SubmissionResult(
        lab.topic, results, None, [cell.source for cell in notebook.cells], notebook.written, problems, time.monotonic() - started
    )


def could_not_be_read(lab: LabSource, why: str, seconds: float = 0.0) -> SubmissionResult:
    """The result of a submission that is none."""
    results = [_unearned(check, outcomes.NOT_ATTEMPTED, f"The notebook could not be read: {why}.") for check in lab.checks]
    return SubmissionResult(lab.topic, results, why, seconds=seconds)


def stopped_result(lab: LabSource, name: str) -> Result:
    """The result of a check that took the grader's process with it."""
    check = next(check for check in lab.checks if check.name == name)
    return _unearned(check, outcomes.OUT_OF_LIMITS, "The check was stopped: what your code returned needed too much time or memory to look at.")


def _unearned(check: Check, outcome: str, message: str) -> Result:
    return Result(check.name, check.exercise, check.points, 0.0, outcome, message=message, doc=check.doc)


def mistakes_at(lab: LabSource, exercise: str, seed: int, alive: Callable[[], None] = lambda: None) -> list[dict]:
    """How each known mistake of an exercise answers its checks under this seed, found by our own code in this process. It takes seconds.

    `alive` is called between mistakes, for whoever waits.
    """
    checks = [check for check in lab.checks if check.exercise == exercise]
    entries = []
    for number, cell in enumerate(lab.of_kind("mistake", exercise), 1):
        alive()
        results = run_collected(checks, lab.setup, lab.namespace(cell), seed)
        failed = {r.name: r.transcript for r in results if r.outcome != outcomes.PASSED}
        entries.append({"id": f"{exercise}/{number}", "exercise": exercise, "hint": cell.hint, "checks": failed})
    return entries


class SandboxChannel:
    """Carries the messages of a `Session` to a child in which the submission's cells have run.

    A child that ended, hung, or sent what it was not asked for is gone for good: the check under way fails, and the next one finds a fresh
    child in which the same cells have run again. An exercise that failed leaves nothing behind either: the next one gets a fresh child, and
    so does a check that runs again with a substitute.
    """

    def __init__(self, sandbox: Sandbox, lab: LabSource, notebook: Submission, times: Times, deadline: float) -> None:
        self.sandbox, self.lab, self.notebook, self.times, self.deadline = sandbox, lab, notebook, times, deadline
        self.problems: list[str] = []
        self.fault: SandboxLost | None = None
        self.failed = False  # whether a check has failed in the present child
        self.failed_homes: dict[str, str] = {}  # exercise -> what its own cell ended with
        self._skipped: set[int] = set()  # cells that end the process or never return
        self._forks = 0
        self._child: Child | None = None
        self._seconds_left = 0.0

    def next_exercise(self) -> None:
        """What the last exercise did to its process must not cost the next one anything."""
        if self.failed:
            self._child = None
            self.failed = False

    def start(self, seconds: float, fresh: bool = False) -> None:
        """A check begins: its student's code has this many seconds. Brings a fresh child if there is none, or if one is asked for."""
        if fresh:
            self._child = None
        self._seconds_left = seconds * self.times.patience
        while self._child is None:
            if self._forks > self.times.replays or time.monotonic() > self.deadline:
                raise OutOfLimits("time", "The time for the whole notebook was used up by the checks before.")
            self._forks += 1
            try:
                self._child = self._loaded(self._fork())
            except Exception as error:  # of ours: a runner that takes it for the student's must not have the last word
                self.fault = error if isinstance(error, SandboxLost) else SandboxLost(f"{type(error).__name__}: {error}")
                raise OutOfLimits("sandbox", str(error)) from None

    def __call__(self, request: bytes) -> bytes:
        if self._child is None:
            raise OutOfLimits("process", "Your code had ended its process before.")
        began = time.monotonic()
        try:
            # The worker repeats these random bytes: what was written into the channel beforehand is no answer.
            mark = b"W" + secrets.token_bytes(MARK_BYTES)
            answer = self._child.request(mark + request, max(0.01, min(self._seconds_left, self.deadline - began)))
        except ChildEnded as error:
            raise self._lost(error) from None
        self._seconds_left -= time.monotonic() - began
        if not answer.startswith(mark):
            raise self._lost(ChildEnded("noise"))
        return answer[len(mark) :]

    def _lost(self, error: ChildEnded) -> OutOfLimits:
        self._child = None
        status = self.end_child(0.2 if error.why == "ended" else 0.0)
        if error.why == "time":
            return OutOfLimits(
                "time", "Your code did not finish in time. Look for a loop that never ends, or for work done again and again."
            )
        if error.why == "memory":
            return OutOfLimits("memory", "Your code took more memory than there is for one notebook.")
        if error.why == "noise":
            return OutOfLimits("process", "Something in your notebook wrote to the grader's channel; the check was stopped.")
        how = "" if status is None else f" (signal {-status})" if status < 0 else f" (exit status {status})"
        return OutOfLimits("process", f"Your code ended its process{how} before it answered.")

    def _fork(self) -> Child:
        try:
            return self.sandbox.fork()
        except SandboxLost:  # a submission may have taken the memory of the warm parent
            self.sandbox.restart()
            return self.sandbox.fork()

    def end_child(self, patience: float = 0.0) -> int | None:
        """End the child and all it started; see `Sandbox.end_child`."""
        try:
            return self.sandbox.end_child(patience)
        except SandboxLost:
            self.sandbox.restart()
            return None

    def _loaded(self, child: Child) -> Child | None:
        """The child with all cells run; None if one of them ended it (that cell will be left out next time)."""
        try:
            for cell in self.lab.of_kind("setup"):
                answer = child.order("setup", source=cell.source)
                if answer.get("problem", "") is not None:
                    raise SandboxLost(f"a setup cell of {self.lab.topic} does not run in the sandbox: {answer.get('problem')}")
            for cell in self.lab.of_kind("exercise"):
                child.order("stub", source=reading.stub(cell.source))
            child.order("sealed")
        except ChildEnded as error:  # no line of the submission has run yet
            raise SandboxLost(f"the setup cells of {self.lab.topic} did not finish in the sandbox: {error.why}") from None
        again: list[StudentCell] = []
        own_seconds = 0.0  # of cells that are no exercises
        for last_pass, cells in ((False, self.notebook.cells), (True, again)):
            for cell in cells:
                if cell.number in self._skipped:
                    continue
                began = time.monotonic()
                try:
                    problem = self._run(child, cell, cell.home is None and own_seconds > self.times.cells)
                except ChildEnded as error:
                    self._leave_out(cell, error.why)
                    return None
                if cell.home is None:
                    own_seconds += time.monotonic() - began
                if problem is not None and problem.startswith("NameError") and not last_pass:
                    again.append(cell)
                else:
                    self._note(cell, problem)
        try:
            child.order("judge", 10.0)
        except ChildEnded:
            self.problems.append("something in the notebook ended the process after its last cell")
            self.end_child()
            return None
        return child

    def _run(self, child: Child, cell: StudentCell, definitions_only: bool) -> str | None:
        """Run a cell; returns what it ended with, None if nothing. Raises ChildEnded."""
        seconds = min(self.times.cell, max(1.0, self.deadline - time.monotonic()))
        answer = child.order("cell", seconds + 5.0, source=cell.source, home=cell.home, seconds=seconds, definitions_only=definitions_only)
        problem = answer.get("problem", answer.get("error"))
        return None if problem is None else _words(problem)

    def _leave_out(self, cell: StudentCell, why: str) -> None:
        did = {"time": "never returned", "memory": "took too much memory", "ended": "ended the process"}.get(why, "wrote to the grader's channel")
        self._skipped.add(cell.number)
        self.problems.append(f"cell {cell.number} {did} and was left out")
        if cell.home:
            self.failed_homes[cell.home] = f"it {did}"
        self.end_child()

    def _note(self, cell: StudentCell, problem: str | None) -> None:
        if problem is not None:
            self.problems.append(f"cell {cell.number} stopped with {problem[:200]}")
            if cell.home:
                self.failed_homes[cell.home] = problem


def _settled(result: Result, channel: SandboxChannel) -> Result:
    """The result as it is reported: an exercise that looks untouched because its own cell failed is said to have failed."""
    failure = channel.failed_homes.get(result.exercise)
    if failure and result.outcome == outcomes.NOT_ATTEMPTED:
        result = replace(result, outcome=outcomes.ERROR, message=f"The cell of `{result.exercise}` did not run to its end: {failure}")
    return result


# ---- results as JSON -----------------------------------------------------------------------------------------------------------------------


def result_to_dict(result: Result) -> dict:
    """A result as JSON: texts cut to a sensible length, pictures thinned out and packed."""
    stored = asdict(replace(result, pictures=None))
    for key in ("message", "doc", "case", "call", "expected", "got", "hint"):
        stored[key] = None if stored[key] is None else _words(stored[key])
    if stored["line"] is not None:
        stored["line"] = {key: _words(value) if isinstance(value, str) else value for key, value in stored["line"].items()}
    stored["pictures"] = None if result.pictures is None else [_picture(p) for p in result.pictures]
    return stored


def _picture(plane: Any) -> dict:
    array = np.asarray(plane, dtype=np.float32) if isinstance(plane, np.ndarray) else plane.detach().float().numpy()
    steps = [max(1, -(-side // PICTURE_SIDE)) for side in array.shape]
    thin = np.ascontiguousarray(array[:: steps[0], :: steps[1]], dtype="<f4")
    return {"shape": list(thin.shape), "float32": base64.b64encode(thin.tobytes()).decode()}


def picture_array(stored: dict) -> np.ndarray:
    """(rows, columns) float32 of one picture in a stored result."""
    return np.frombuffer(base64.b64decode(stored["float32"]), "<f4").reshape(stored["shape"])


def _words(text: Any) -> str:
    text = text if isinstance(text, str) else type(text).__name__
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text[:MAX_WORDS])
