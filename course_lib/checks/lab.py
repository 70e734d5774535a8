"""`Lab`: what a lab notebook talks to."""

from __future__ import annotations

import __future__
import ast
import copy
import hashlib
import json
import linecache
import math
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
from torch import Tensor

from course_lib.checks import outcomes, render
from course_lib.checks.outcomes import Result
from course_lib.checks.runner import PUBLIC_SEED, Check, bound_names, collect, name_mistakes, read_card, run_check
from course_lib.checks.session import local_session

FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
_sealed: dict[str, tuple[dict, dict, dict]] = {}  # by topic: a namespace, what its setup cells made, and our own copy of that


class Lab:
    """The checks, points and progress of one lab in the kernel of the student who works on it.

    Args:
        topic: folder of the lab, such as "01_convolution_arithmetic".
        folder: where progress is kept; the notebook's own folder by default.
    """

    def __init__(self, topic: str, folder: str | Path = ".") -> None:
        self.topic = topic
        self._store = Path(folder) / f".{topic}.progress.json"
        self._setup: dict[str, Any] = {}  # names of the setup cells, for the student's side
        self._ours: dict[str, Any] = {}  # the same for ours: copies that no student code reaches
        self._student: dict[str, Any] = {}
        self._cells: dict[str, dict[str, Check]] = {}  # checks of a cell by its file name, collected once
        self._results: dict[str, dict[str, Result]] = {}
        self._shown: dict[str, float] = {}
        self._card: dict | None = None

    # --- lines that the build adds ------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Last line of a setup cell: the names it made are what checks see, whatever is redefined or changed later."""
        frame = sys._getframe(1)
        self._student = frame.f_globals
        filename = frame.f_code.co_filename
        source = "".join(linecache.getlines(filename, frame.f_globals))
        made = {name: self._student[name] for name in bound_names(source) if name in self._student}
        known = _sealed.get(self.topic)
        if known is None or known[0] is not self._student:
            known = _sealed[self.topic] = (self._student, {}, {"__name__": self._student["__name__"]})
        _, self._setup, self._ours = known  # also of other setup cells, when only this one is run again
        self._setup |= made
        self._ours |= {name: _copied(value) for name, value in made.items()}
        # Functions and classes once more, with our copies as their globals: a student may give `F` another meaning.
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        definitions = ast.Module([node for node in ast.parse(source).body if isinstance(node, kinds)], [])
        exec(compile(definitions, filename, "exec", frame.f_code.co_flags & FUTURE, dont_inherit=True), self._ours)

    def points(self, exercise: str) -> float:
        """Last line of a check cell: shows how the exercise stands and returns its points."""
        results = list(self._results.get(exercise, {}).values())
        if not results:
            raise RuntimeError(f"no check of {exercise!r} has run in this kernel; run its check cell from the first line")
        results = name_mistakes(results, self.card["mistakes"])
        self._results[exercise] = {r.name: r for r in results}
        entry = self._remember(exercise, results)
        render.show(render.exercise_panel(self._exercise(exercise), results, entry["failures"]))
        return float(sum(r.earned for r in results))

    # --- what authors and students write --------------------------------------------------------------------------------

    def check(
        self,
        exercise: str,
        *,
        points: float,
        forbid: tuple[str, ...] = (),
        substitute: dict[str, str] | None = None,
        seconds: float = 10.0,
        largest: int | None = None,
    ) -> Callable[[Callable], Callable]:
        """Decorator of a check function; runs it at once on the student's objects.

        Args:
            exercise: what it is about.
            points: what it is worth.
            forbid: words; an operator of torch with one of them in its name ends the call ("convolution", "im2col").
            substitute: {"student's helper": "name of a setup cell"}: used in a second run when the first one fails.
            seconds: limit for the whole check function.
            largest: how many numbers a tensor may hold that an operator of torch returns; a larger one ends the call.
        """

        def decorate(function: Callable) -> Callable:
            check = self._collected(function)
            with local_session(self._student, self._setup) as (session, channel):
                result = run_check(check, session, PUBLIC_SEED, channel)
            self._results.setdefault(exercise, {})[check.name] = result
            return function

        return decorate

    def ready(self, exercise: str) -> bool:
        """Whether all checks of an exercise passed in this kernel; if not, one line says what to do."""
        results = self._results.get(exercise, {})
        names = set(self._exercise(exercise)["checks"])
        if names <= {name for name, r in results.items() if r.outcome == outcomes.PASSED}:
            return True
        todo = "solve it first" if results else "run its check first"
        print(f"This part uses your `{exercise}`: {todo}, then run this cell again.")
        return False

    def progress(self) -> None:
        """A table of all exercises and a bar; points of an earlier session count until their check runs again."""
        stored = self._load()
        rows = []
        for exercise in self.card["exercises"]:
            results = list(self._results.get(exercise["name"], {}).values())
            earlier = stored.get(exercise["name"])
            earned = sum(r.earned for r in results) if results else (earlier or {}).get("earned", 0.0)
            outcome = render.overall(results) if results else (earlier or {}).get("outcome", outcomes.NOT_ATTEMPTED)
            rows.append({**exercise, "earned": earned, "outcome": outcome, "earlier": not results and earlier is not None})
        render.show(render.progress_panel(self.topic, rows, self.card["written"]))

    # --- helpers --------------------------------------------------------------------------------------------------------

    @property
    def card(self) -> dict:
        if self._card is None:
            self._card = read_card(self.topic)
        return self._card

    def _exercise(self, name: str) -> dict:
        for exercise in self.card["exercises"]:
            if exercise["name"] == name:
                return exercise
        names = ", ".join(e["name"] for e in self.card["exercises"])
        raise ValueError(f"exercise must be one of {names}; got {name!r}")

    def _collected(self, function: Callable) -> Check:
        """The check again, from the text of its cell, in the names of the setup cells: as a grader will see it."""
        if not self._student:
            raise RuntimeError("run the notebook's first code cell (imports and `lab`) before a check")
        filename = function.__code__.co_filename
        if filename not in self._cells:
            source = "".join(linecache.getlines(filename, function.__globals__))
            self._cells[filename] = {c.name: c for c in collect(source, filename, self._ours)}
        return self._cells[filename][function.__name__]

    def _load(self) -> dict:
        try:
            stored = json.loads(self._store.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # none yet, or not readable: then there is no earlier progress to show
            return {}
        return {name: entry for name, entry in stored.items() if _sound(entry)} if isinstance(stored, dict) else {}

    def _remember(self, exercise: str, results: list[Result]) -> dict:
        """Progress on disk. A failure counts once per different answer, so that running a cell twice costs no hint."""
        stored = self._load()
        seen = stored.get(exercise, {}).get("seen", [])
        outcome = render.overall(results)
        answer = "|".join(f"{r.name}:{r.outcome}:{','.join(r.transcript)}" for r in results)
        answer = hashlib.blake2s(answer.encode(), digest_size=6).hexdigest()
        if outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED) and answer not in seen:
            seen = [*seen, answer]
        entry = {"failures": len(seen), "seen": seen, "earned": sum(r.earned for r in results), "outcome": outcome}
        stored[exercise] = entry
        try:
            self._store.write_text(json.dumps(stored, indent=1), encoding="utf-8")
        except OSError:  # a read-only folder: progress then lasts as long as the kernel
            pass
        return entry


def _copied(value: Any) -> Any:
    """Data of a setup cell, out of the reach of code that changes it in place; anything else as it is."""
    if type(value) not in (Tensor, np.ndarray, list, tuple, dict, set):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # it holds something that cannot be copied
        return value


def _sound(entry: Any) -> bool:
    """Whether an entry of the progress file is what `_remember` writes."""
    if not isinstance(entry, dict) or entry.get("outcome") not in outcomes.OUTCOMES:
        return False
    earned, seen = entry.get("earned"), entry.get("seen")
    return type(earned) in (int, float) and math.isfinite(earned) and isinstance(seen, list) and all(isinstance(s, str) for s in seen)
