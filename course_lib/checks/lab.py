"""`Lab`: what a lab notebook talks to."""

from __future__ import annotations

import json
import linecache
import sys
from pathlib import Path
from typing import Any, Callable

from course_lib.checks import outcomes, render
from course_lib.checks.outcomes import Result
from course_lib.checks.runner import PUBLIC_SEED, Check, bound_names, collect, name_mistakes, read_card, run_check
from course_lib.checks.session import local_session


class Lab:
    """The checks, points and progress of one lab in the kernel of the student who works on it.

    Args:
        topic: folder of the lab, such as "01_convolution_arithmetic".
        folder: where progress is kept; the notebook's own folder by default.
    """

    def __init__(self, topic: str, folder: str | Path = ".") -> None:
        self.topic = topic
        self._store = Path(folder) / f".{topic}.progress.json"
        self._setup: dict[str, Any] = {}
        self._student: dict[str, Any] = {}
        self._cells: dict[str, dict[str, Check]] = {}  # checks of a cell by its file name, collected once
        self._results: dict[str, dict[str, Result]] = {}
        self._shown: dict[str, float] = {}
        self._card: dict | None = None

    # --- lines that the build adds ------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Last line of a setup cell: the names it made are what checks see, whatever is redefined later."""
        frame = sys._getframe(1)
        self._student = frame.f_globals
        source = "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals))
        self._setup |= {name: self._student[name] for name in bound_names(source) if name in self._student}

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
    ) -> Callable[[Callable], Callable]:
        """Decorator of a check function; runs it at once on the student's objects.

        Args:
            exercise: what it is about.
            points: what it is worth.
            forbid: words; an operator of torch with one of them in its name ends the call ("convolution", "im2col").
            substitute: {"student's helper": "name of a setup cell"}: used in a second run when the first one fails.
            seconds: limit for the whole check function.
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
            self._cells[filename] = {c.name: c for c in collect(source, filename, self._setup)}
        return self._cells[filename][function.__name__]

    def _load(self) -> dict:
        try:
            return json.loads(self._store.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or not readable: then there is no earlier progress to show
            return {}

    def _remember(self, exercise: str, results: list[Result]) -> dict:
        """Progress on disk. A failure counts once per different answer, so that running a cell twice costs no hint."""
        stored = self._load()
        entry = stored.get(exercise, {"failures": 0, "last": None})
        outcome = render.overall(results)
        last = "|".join(f"{r.name}:{r.outcome}:{','.join(r.transcript)}" for r in results)
        if outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED) and last != entry["last"]:
            entry["failures"] += 1
        entry = {**entry, "last": last, "earned": sum(r.earned for r in results), "outcome": outcome}
        stored[exercise] = entry
        try:
            self._store.write_text(json.dumps(stored, indent=1), encoding="utf-8")
        except OSError:  # a read-only folder: progress then lasts as long as the kernel
            pass
        return entry
