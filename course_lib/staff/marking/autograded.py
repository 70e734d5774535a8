"""The notebook that formgrader shows of a submission: our copy of the lab with the student's answers in it, made harmless."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_output

from course_lib.checks.render import exercise_panel
from course_lib.staff.marking.assignment import EXERCISE, Assignment
from course_lib.staff.marking.clean import clean_markdown
from course_lib.staff.marking.journal import write_file
from course_lib.staff.marking.record import FAILED, GRADED, Record


def path_of(out: Path, student: str, assignment: Assignment) -> Path:
    """Where nbgrader looks for it."""
    return out / "autograded" / student / assignment.topic / f"{assignment.slug}.ipynb"


def notebook_of(assignment: Assignment, record: Record) -> nbformat.NotebookNode:
    """The lab with the student's text in each cell they were to fill, and below each check what it said and the points it gave.

    Everything else is ours. Markdown of the student is cleaned, code is shown and never run, messages are plain text.
    """
    notebook = copy.deepcopy(assignment.notebook)
    items = {item.cell: item for item in assignment.items}
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        name = about.get("grade_id", "")
        if about.get("solution") and cell.cell_type == "code" and name in record.cells:
            cell.source = record.cells[name]
        elif about.get("solution") and name.startswith("written_") and name.removeprefix("written_") in record.written:
            cell.source = clean_markdown(record.written[name.removeprefix("written_")])
        elif name in items and items[name].kind == EXERCISE:
            cell.execution_count = 1
            cell.outputs = _outputs(items[name], record)
    said = _said(record)
    if said:
        notebook.cells.insert(0, new_markdown_cell(said, id="about-this-submission"))
    own = [(name, text) for name, text in record.cells.items() if name not in assignment.given()]
    if own:
        notebook.cells.append(new_markdown_cell(f"**The student's own cells** ({len(own)})", id="own-cells"))
        for number, (name, text) in enumerate(own, 1):
            notebook.cells.append(nbformat.v4.new_code_cell(text, id=f"own-cell-{number}"))
    return notebook


def _outputs(item, record: Record) -> list:
    if record.status == FAILED:
        return [new_output("stream", name="stdout", text="Not graded yet: the grader itself failed.\n")]
    earned = record.earned(item) if record.status == GRADED else 0.0
    text = f"Could not be read: {record.reason}"
    if record.status == GRADED:
        text = exercise_panel(
            {"name": item.name, "points": item.points, "hints": 0}, [replace(r, pictures=None) for r in record.of(item)], 0
        ).text
    points = new_output("execute_result", data={"text/plain": repr(float(earned))}, execution_count=1)
    return [new_output("stream", name="stdout", text=text + "\n"), points]


def _said(record: Record) -> str:
    parts = []
    if record.status != GRADED:
        words = "This submission could not be read" if record.status != FAILED else "The grader itself failed on this submission"
        parts.append(f"**{words}:** {clean_markdown(record.reason)}")
    parts += [f"- {clean_markdown(note)}" for note in record.notes]
    return "\n".join(parts)


def write(out: Path, assignment: Assignment, record: Record) -> Path:
    """Store the notebook where nbgrader looks for it."""
    path = path_of(out, record.student, assignment)
    write_file(path, json.dumps(notebook_of(assignment, record), ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    return path
