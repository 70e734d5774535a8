"""Find in a lab what only staff may see: solutions, mistakes, model answers, outputs, private metadata, compiled files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat

from course_lib.staff import sources
from course_lib.staff.preprocess import PRIVATE
from course_lib.staff.sources import Cell

LONG = 24  # characters: a solution's line of this length is nowhere in the lab by chance
SHORT = 4  # a shorter one ("x", "else:") says nothing
NOTEBOOK_KEYS = {"kernelspec", "language_info", "course"}
CELL_KEYS = {"nbgrader", "tags", "deletable", "editable"}
NBGRADER_KEYS = {"grade", "grade_id", "locked", "schema_version", "solution", "task", "points", "checksum", "cell_type"}
COMPILED = {"__pycache__", ".ipynb_checkpoints"}


def in_folder(lab: Path, cells: list[Cell]) -> list[tuple[Path, str]]:
    """Leaks in the folder of the lab notebook `lab`: (file, what leaks)."""
    found = []
    for path in sorted(lab.parent.rglob("*")):
        if path.is_dir():
            if path.name in COMPILED:
                found.append((path, "compiled files or checkpoints"))
        elif COMPILED & set(path.parts):
            pass  # the folder is named already
        elif path.suffix == ".pyc":
            found.append((path, "a compiled file"))
        elif path == lab:
            try:
                notebook = nbformat.reads(path.read_text(encoding="utf-8"), nbformat.NO_CONVERT)
            except Exception as error:
                found.append((path, f"not a notebook: {str(error).splitlines()[0]}"))
            else:
                found += [(path, what) for what in in_lab(notebook, cells)]
        elif not is_ignored(path):
            found.append((path, "a file that no source makes"))
    return found


def is_ignored(path: Path) -> bool:
    """Whether the list in nbgrader_config.py keeps a file from students (a compiled one in labs/ is a leak all the same)."""
    return bool(COMPILED & set(path.parts)) or path.name.endswith((".pyc", ".progress.json"))


def in_lab(notebook, cells: list[Cell]) -> list[str]:
    """Leaks in a lab notebook made from the source `cells`."""
    found = [f"private metadata of the notebook: {key}" for key in sorted(set(notebook.metadata) - NOTEBOOK_KEYS)]
    secrets = secret_lines(cells)
    for number, cell in enumerate(notebook.cells, 1):
        where = f"cell {number} ({cell.get('id', 'no id')})"
        private = (set(cell.metadata) - CELL_KEYS) | (set(cell.metadata.get("nbgrader", {})) - NBGRADER_KEYS)
        if private:
            found.append(f"{where}: private metadata: {', '.join(sorted(private))}")
        if cell.get("outputs") or cell.get("execution_count"):
            found.append(f"{where}: has outputs")
        text = _flat(cell.source + "\n" + json.dumps(cell.get("outputs", []), ensure_ascii=False).replace("\\n", "\n"))
        found += [f"{where}: {what}: {line}" for line, what in secrets.items() if line in text]
    return found


def secret_lines(cells: list[Cell]) -> dict[str, str]:
    """Lines that must not stand in the lab, without their spaces' number, with what they are.

    A long line of a solution or model answer is secret wherever else it stands. Other lines are secret unless they also stand in what a
    student is given, outside of the solutions: in a signature, a setup cell, a check or the text.
    """
    given = _flat("\n".join(_given(cell) for cell in cells))
    secrets: dict[str, str] = {}
    for cell in cells:
        what, text = {
            "exercise": ("solution text", _solution(cell)),
            "mistake": ("text of a mistake", cell.source),
            "alternative": ("text of another answer", cell.source),
            "written": ("text of a model answer", sources.written_parts(cell)[1] if cell.kind == "written" else ""),
        }.get(cell.kind, ("", ""))
        for line in text.split("\n"):
            line = _flat(line)
            always = len(line) >= LONG and cell.kind in ("exercise", "written")
            if always or (len(line) >= SHORT and re.search(r"\w{3}", line) and line not in given):
                secrets.setdefault(line, what)
    return secrets


def _given(cell: Cell) -> str:
    """What of a cell a student is given."""
    if cell.kind in ("mistake", "alternative"):
        return ""
    if cell.kind == "written":
        return sources.written_parts(cell)[0]
    if cell.kind == "exercise":
        return "\n".join(line for line, cut in _marked(cell) if not cut) + "\n# YOUR CODE HERE\nraise NotImplementedError()"
    return cell.source


def _solution(cell: Cell) -> str:
    return "\n".join(line for line, cut in _marked(cell) if cut and "### BEGIN" not in line and "### END" not in line)


def _marked(cell: Cell) -> list[tuple[str, bool]]:
    """The lines of an exercise, each with whether nbgrader cuts it."""
    marked, cut = [], False
    for line in cell.source.split("\n"):
        cut = cut or "### BEGIN SOLUTION" in line
        marked.append((line, cut))
        cut = cut and "### END SOLUTION" not in line
    return marked


def _flat(text: str) -> str:
    """Each line without indentation, any run of blanks as one space."""
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))
