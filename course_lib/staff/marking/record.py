"""What became of one submission, as it stands in the journal, and how each item of the lab stands in it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from course_lib.checks import outcomes
from course_lib.checks.outcomes import Result
from course_lib.checks.render import overall
from course_lib.staff.marking.assignment import Assignment, Item

GRADED, UNREADABLE, FAILED = "graded", "unreadable", "failed"
MAX_TEXT = 100_000  # characters of one cell that are kept: far more than an answer, far less than a flood
MAX_CELLS = 2_000
FIELDS = {f.name for f in dataclasses.fields(Result)}


@dataclass
class Record:
    """One submission, graded or not.

    Args:
        student: who, as it stands in the gradebook.
        key: names the submission's bytes, the lab's source and the seed; equal keys mean that nothing has to be graded again.
        status: GRADED; UNREADABLE, which is the submission's fault and earns nothing; FAILED, which is ours and is tried again.
        reason: why it was not graded, for the student.
        results: `Result`s as dictionaries.
        written: answers by the question's name; an answer that is missing is a cell that is missing.
        cells: text of the student's own cells by grade_id (helper cells under a name of their own).
        notes: what was odd about the notebook, for the student.
        seconds: wall time of grading.
    """

    student: str
    key: str
    status: str = GRADED
    reason: str = ""
    results: list[dict] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, item: Item) -> list[Result]:
        """The results of one exercise. Pictures stay packed, as dictionaries."""
        return [as_result(r) for r in self.results if r.get("exercise") == item.name]

    def earned(self, item: Item) -> float:
        """Points the checks gave: finite, from 0 to the item's points, whatever stands in the results."""
        values = [float(r.earned) for r in self.of(item) if isinstance(r.earned, (int, float))]
        total = sum(value for value in values if math.isfinite(value) and value > 0)
        return min(total, item.points)

    def outcome(self, item: Item) -> str:
        """One outcome for an exercise; "not attempted" where nothing was run."""
        results = self.of(item)
        return overall(results) if results else outcomes.NOT_ATTEMPTED


def as_result(content: dict) -> Result:
    """A Result out of its dictionary; what a Result does not have is left out."""
    return Result(**{key: value for key, value in content.items() if key in FIELDS})


def from_grader(student: str, key: str, answer: Any, exercises: Iterable[str]) -> Record:
    """A Record out of the core's `SubmissionResult`, with every text cut to a size that pages and gradebook can take.

    The core returns the student's own cells in order. The last one that defines an exercise stands for it, the others are kept as own
    cells.
    """
    results = []
    for result in answer.results:
        content = {name: getattr(result, name) for name in FIELDS if name != "transcript"}  # that was for recognising mistakes
        results.append({name: cut(value, 20_000) if isinstance(value, str) else value for name, value in content.items()})
    sources = [cut(text) for text in answer.cells[:MAX_CELLS]]
    homes = {f"exercise_{name}": index for name in exercises if (index := _home(name, sources)) is not None}
    cells = {name: sources[index] for name, index in homes.items()}
    cells |= {f"own_{index + 1}": text for index, text in enumerate(sources) if index not in homes.values()}
    status, reason = (GRADED, "") if answer.unreadable is None else (UNREADABLE, answer.unreadable)
    notes = [cut(str(note), 1_000) for note in answer.problems[:100]]
    written = {name: cut(text) for name, text in answer.written.items()}
    return Record(student, key, status, cut(reason, 1_000), results, written, cells, notes, float(answer.seconds))


def _home(name: str, sources: list[str]) -> int | None:
    """Which cell is an exercise's: the last that defines its name at the top level."""
    name = re.escape(name)
    defines = re.compile(rf"^(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*(?::[^=\n]*)?=(?!=)", re.MULTILINE)
    found = [index for index, text in enumerate(sources) if defines.search(text)]
    return found[-1] if found else None


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """The text, or its beginning with a remark. Lone surrogates, which no file and no database takes, become question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return text if len(text) <= limit else f"{text[:limit]}\n… ({len(text) - limit:,} characters more were left out)"


def is_answered(assignment: Assignment, item: Item, record: Record) -> bool:
    """Whether the student changed the cell of an answer: an untouched or empty one needs nobody to read it."""
    text = record.written.get(item.name, "") if item.kind != "exercise" else record.cells.get(item.answer, "")
    return bool(text.strip()) and text.strip() != assignment.given().get(item.answer, "").strip()
