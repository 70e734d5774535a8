"""A lab as the things that get marks: exercises graded by checks, and written questions graded by hand, in the order of the lab."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.cli import CommandError
from course_lib.staff import build, sources
from course_lib.staff.sources import REPO, HEADING

EXERCISE, WRITTEN = "exercise", "written"


class UnknownLab(CommandError, ValueError):
    """There is no such lab."""


@dataclass(frozen=True)
class Item:
    """One thing that gets marks. `cell` is the grade_id of the cell that carries them, `answer` of the cell that the student fills."""

    name: str
    title: str
    points: float
    kind: str  # EXERCISE or WRITTEN

    @property
    def cell(self) -> str:
        return f"check_{self.name}" if self.kind == EXERCISE else self.answer

    @property
    def heading(self) -> str:
        """The title as it stands alone."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def answer(self) -> str:
        return f"{self.kind}_{self.name}"


@dataclass(frozen=True)
class Assignment:
    """One lab: `notebook` is what students were given, `digest` names this state of its source."""

    topic: str
    slug: str
    items: tuple[Item, ...]
    notebook: Any  # nbformat's NotebookNode
    digest: str
    root: Path
    hints: dict[str, str]  # of the known mistakes, by the id that a result carries: "bin_edges/1"

    @property
    def points(self) -> float:
        return sum(item.points for item in self.items)

    @property
    def exercises(self) -> list[Item]:
        return [item for item in self.items if item.kind == EXERCISE]

    @property
    def written(self) -> list[Item]:
        return [item for item in self.items if item.kind == WRITTEN]

    def given(self) -> dict[str, str]:
        """Text of each cell of nbgrader's as students were given it, by grade_id."""
        return {cell.metadata.nbgrader["grade_id"]: cell.source for cell in self.notebook.cells if "nbgrader" in cell.metadata}


def load(topic: str, root: Path = REPO) -> Assignment:
    """The lab of a topic. Raises UnknownLab, and SourceError where its source breaks a rule."""
    if not sources.TOPIC.fullmatch(topic) or not sources.topic_path(topic, root).is_file():
        raise UnknownLab(f"there is no lab {topic!r}; there is {', '.join(sources.topics(root)) or 'none yet'}")
    path = sources.topic_path(topic, root)
    cells = sources.read_cells(path)
    titles = {exercise.name: exercise.title for exercise in sources.exercises(cells)}
    items, hints = [], {}
    for cell in cells:
        if cell.kind == "mistake":
            hints[f"{cell.name}/{1 + sum(known.startswith(f'{cell.name}/') for known in hints)}"] = cell.hint
        if cell.kind == "check":
            items.append(Item(cell.name, titles[cell.name], float(cell.points), EXERCISE))
        elif cell.kind == "written":
            heading = HEADING.fullmatch(cell.source.split("\n", 1)[0].strip())
            items.append(Item(cell.name, heading[2] if heading else cell.name.replace("_", " "), float(cell.points), WRITTEN))
    notebook = build.lab_notebook(topic, build.solution_notebook(topic, cells), root)
    return Assignment(topic, sources.slug(topic), tuple(items), notebook, source_digest(topic, root), root, hints)


def source_digest(topic: str, root: Path = REPO) -> str:
    """Names the state of a lab's source: grading another state is another result."""
    return hashlib.sha256(sources.topic_path(topic, root).read_bytes()).hexdigest()[:16]
