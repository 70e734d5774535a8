"""What the tests of marking share: a course with the toy lab alone, submissions for it, and a grader that is quick and trusts everybody.

Run as a program this is a warm server: each line on stdin is a run in JSON, done in a fork that a test may kill; see `Runs`.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

REPO = Path(__file__).resolve().parents[1]
TOPIC, SLUG = "90_toy", "toy"
ANSWERS = {  # what a student may write for the two exercises of the toy lab
    "right": (
        "def doubled(values):\n    return [2 * v for v in values]",
        "def shifted(values, offset):\n    if not offset:\n        raise ValueError\n    return [v + offset for v in values]",
    ),  # fmt: skip
    "squared": ("def doubled(values):\n    return [v**2 for v in values]", None),
    "lenient": (
        "def doubled(values):\n    return [2 * v for v in values]",
        "def shifted(values, offset):\n    return [v + offset for v in values]",
    ),
    "crash": ("def doubled(values):\n    return values.nothing", None),
    "empty": (None, None),
}


def make_course(folder: Path) -> Path:
    """A course's folder with the toy lab and the configuration, without code: what `root` means."""
    shutil.copytree(REPO / "tests" / "fixtures" / "course", folder)
    shutil.copy(REPO / "nbgrader_config.py", folder)
    return folder


def lab_notebook(root: Path) -> dict:
    """The lab as students get it, as plain JSON."""
    from course_lib.staff.marking import assignment

    return json.loads(json.dumps(assignment.load(TOPIC, root).notebook))


def submit(
    folder: Path, student: str, notebook: dict, kind: str = "right", written: str | None = None, timestamp: str | None = None
) -> Path:
    """Write a student's submission; answers are those of ANSWERS."""
    notebook = copy.deepcopy(notebook)
    texts = dict(zip(("exercise_doubled", "exercise_shifted"), ANSWERS[kind]), written_growth=written)
    for cell in notebook["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if texts.get(name) is not None:
            cell["source"] = texts[name]
    home = folder / student / TOPIC
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{SLUG}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    if timestamp is not None:
        (home / "timestamp.txt").write_text(timestamp, encoding="utf-8")
    return home / f"{SLUG}.ipynb"


class Quick:
    """Looks at the text of a submission, and says of it what a real grader would: the interface of the core's Grader."""

    def __init__(self, settings: dict) -> None:
        self.settings = settings

    def __enter__(self) -> Quick:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def grade(self, path, topic):
        from course_lib.cli import CommandError

        text = Path(path).read_text(encoding="utf-8", errors="replace")
        if "grader, fail" in text:
            raise CommandError("no memory for a sandbox")
        if "grader, raise" in text:
            raise RuntimeError("a fault of ours")
        if "worker, die" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "first worker, die" in text or "once" in self.settings:
            flag = Path(self.settings.get("once", "/nonexistent"))
            if "first one dies" in text and flag.parent.is_dir() and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        try:
            cells = json.loads(text)["cells"]
        except (ValueError, KeyError, TypeError) as error:
            return SimpleNamespace(results=[], unreadable=f"it is not JSON: {error}", cells=[], written={}, problems=[], seconds=0.01)
        given = {"exercise_doubled": None, "exercise_shifted": None, "written_growth": None}
        for cell in cells:
            name = cell["metadata"].get("nbgrader", {}).get("grade_id")
            if name in given:
                given[name] = cell["source"]
        results = judge("doubled", given["exercise_doubled"]) + judge("shifted", given["exercise_shifted"])
        own = [text for name, text in given.items() if name.startswith("exercise") and text and "NotImplementedError" not in text]
        written = {} if given["written_growth"] is None else {"growth": given["written_growth"]}
        return SimpleNamespace(results=results, unreadable=None, cells=own, written=written, problems=[], seconds=0.01)


def judge(exercise: str, text: str | None) -> list:
    from course_lib.checks.outcomes import ERROR, NOT_ATTEMPTED, PASSED, WRONG, Result

    checks = {"doubled": [("by_hand", 1.0), ("any_list", 2.0)], "shifted": [("adds_and_refuses", 2.0)]}[exercise]
    right = {"doubled": "2 *", "shifted": "raise ValueError"}[exercise]
    found = []
    for name, points in checks:
        result = Result(name, exercise, points, 0.0, WRONG, doc=f"What {name} checks.", seconds=0.001, transcript=["f00d"])
        if text is None or "NotImplementedError" in text:
            result.outcome, result.message = NOT_ATTEMPTED, f"`{exercise}` is still the empty stub."
        elif right in text:
            result.outcome, result.earned = PASSED, points
        elif "nothing" in text:
            result.outcome, result.message = ERROR, "AttributeError: 'list' object has no attribute 'nothing'"
            result.line = {"function": exercise, "number": 2, "text": "return values.nothing"}
        else:
            result.case, result.message, result.expected, result.got = "1 and -4", "The first number differs.", "[2, -8]", "[1, 16]"
            result.mistake = f"{exercise}/1"
            result.hint = {
                "doubled": "You squared the numbers: twice as large is 2 * value.",
                "shifted": "An offset of 0 has to be refused.",
            }[exercise]
        found.append(result)
    return found


def quick(settings: dict) -> Quick:
    """The factory of `Quick`."""
    return Quick(settings)


QUICK = "marking_helpers:quick"


def state_of_gradebook(url: str) -> dict:
    """Everything a gradebook holds but its random identifiers."""
    from nbgrader.api import Gradebook

    with Gradebook(url, "deep-learning-beyond-classification") as book:
        found: dict = {
            "assignments": {a.name: (a.duedate, a.max_score) for a in book.assignments},
            "students": sorted(s.id for s in book.students),
        }
        for assignment in book.assignments:
            for notebook in assignment.notebooks:
                for kind in ("grade_cells", "solution_cells", "source_cells"):
                    cells = [{k: v for k, v in cell.to_dict().items() if k != "id"} for cell in getattr(notebook, kind)]
                    found[notebook.name, kind] = sorted(cells, key=lambda cell: cell["name"])
            for submission in assignment.submissions:
                for notebook in submission.notebooks:
                    found[submission.student_id] = {
                        "timestamp": submission.timestamp,
                        "penalty": notebook.late_submission_penalty,
                        "grades": {g.name: (g.auto_score, g.manual_score, g.extra_credit, g.needs_manual_grade) for g in notebook.grades},
                        "comments": {c.name: (c.auto_comment, c.manual_comment) for c in notebook.comments},
                    }
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file that a run leaves for people, by its path."""
    kept = [p for name in ("autograded", "feedback", "reports") for p in sorted((folder / name).rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in kept}


class Runs:
    """A warm interpreter that grades in forks of itself, each of which can be killed. A context manager."""

    def __enter__(self) -> Runs:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def __call__(self, submitted: Path, root: Path, kill_at: int = -1, seconds: float = -1.0) -> tuple[int, int]:
        """(exit status, effects on the disk). Killed before the n-th effect, or after so many seconds, whatever it does then."""
        order = {"submitted": str(submitted), "root": str(root), "kill_at": kill_at, "seconds": seconds}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status, effects = self._process.stdout.readline().split()
        return int(status), int(effects)


def _serve() -> None:
    from nbgrader.api import Gradebook  # noqa: F401  (warm)
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from course_lib.staff.marking import run

    sys.modules["marking_helpers"] = sys.modules["__main__"]
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            effects = 0

            def effect(*_):
                nonlocal effects
                if effects == order["kill_at"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                effects += 1

            for name in ("fsync", "replace", "mkdir", "unlink"):
                original = getattr(os, name)
                setattr(os, name, lambda *a, _original=original, **k: (effect(), _original(*a, **k))[1])
            event.listen(Engine, "before_cursor_execute", effect)
            event.listen(Engine, "commit", effect)
            if order["seconds"] >= 0:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, max(order["seconds"], 1e-6))
            status = 1
            try:
                run.grade(Path(order["submitted"]), TOPIC, root=Path(order["root"]), factory=QUICK, say=lambda line: None)
                status = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os.write(writer, str(effects).encode())
                os._exit(status)
        os.close(writer)
        _, ended = os.waitpid(child, 0)
        effects = os.read(reader, 100).decode() or "-1"
        os.close(reader)
        print(os.waitstatus_to_exitcode(ended), effects, flush=True)


if __name__ == "__main__":
    _serve()
