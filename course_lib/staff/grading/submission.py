"""Read a submitted notebook, whatever is in it, and decide which of its cells run.

Only text is looked at here; nothing is executed, parsed as Python, or validated. The rules:

1. Our copy of the lab decides. Its setup cells and its empty stubs run first; checks come from it alone.
2. A code cell with the text of one of ours (setup, check, given demonstration, empty stub) does not run, wherever it stands, however often
   it was copied, whatever its metadata says. Comments, blank lines and trailing spaces do not count.
3. All other code cells are the student's and run in the order of the notebook: exercises, helpers, changed cells of ours, merged and split
   ones. Inside the sandbox `lab` checks nothing and `lab.ready` is False, so a merged check does no harm. A cell that fails is noted, and
   the next one runs. Cells that failed because a name was missing run again at the end: the order of cells does not matter for definitions.
4. An exercise is what the last cell tagged with its name made of it, if one defines it; else what the last cell of all made of it, as in the
   student's own kernel. So a later experiment under the same name costs nothing, and lost or exchanged tags change nothing.
5. Text cells, outputs, kernel names and all other metadata decide nothing. Answers to written questions are found by tag.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.staff.labs import LabSource

MAX_FILE = 192 * 2**20  # a notebook with a line of 100 MB in an output is still read
MAX_CELLS = 2000
MAX_SOURCE = 1_000_000  # characters of one cell
STUB = "raise NotImplementedError()"  # what nbgrader puts in place of a solution


class Unreadable(Exception):
    """The file is no notebook that could be graded; the message says why, for student and instructor."""


@dataclass(frozen=True)
class StudentCell:
    """A code cell that runs.

    Attributes:
        number: its place among all cells of the notebook, from 1.
        home: the exercise it is tagged with, or None.
    """

    number: int
    source: str
    home: str | None


@dataclass
class Submission:
    """What a notebook holds that matters."""

    cells: list[StudentCell]
    written: dict[str, str] = field(default_factory=dict)  # answers by the name of the question
    problems: list[str] = field(default_factory=list)  # remarks for the instructor


def read(path: Path | str, lab: LabSource, root: Path | None = None) -> Submission:
    """The student's cells of the notebook at `path`.

    Args:
        root: folder that the file has to be in, with no symbolic link on the way; by default only the file itself may be none.
    Raises: Unreadable.
    """
    problems: list[str] = []
    notebook = _parsed(_bytes(Path(path), root), problems)
    submission = Submission([], {}, problems)
    ours = {normal(text) for text in our_cells(lab)}
    exercises = {cell.name for cell in lab.of_kind("exercise")}
    questions = {cell.name for cell in lab.of_kind("written")}
    cells = _cells(notebook)
    if len(cells) > MAX_CELLS:
        raise Unreadable(f"it has {len(cells):,} cells, more than {MAX_CELLS:,}")
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, dict):
            problems.append(f"cell {number} is no cell")
            continue
        source = _source(cell)
        if source is None or len(source) > MAX_SOURCE:
            problems.append(f"cell {number} has no text, or too much of it")
            continue
        tag = _tag(cell)
        if cell.get("cell_type") == "code":
            if source.strip() and normal(source) not in ours:
                home = tag.removeprefix("exercise_")
                submission.cells.append(StudentCell(number, source, home if home in exercises else None))
        elif (question := tag.removeprefix("written_")) in questions:
            submission.written[question] = source
    return submission


def our_cells(lab: LabSource) -> list[str]:
    """The texts of all code cells of the released lab."""
    texts = []
    for cell in lab.cells:
        if cell.cell_type != "code" or cell.kind in ("mistake", "alternative"):
            continue
        texts.append(stub(cell.source) if cell.kind == "exercise" else cell.source)
        if cell.kind == "setup":
            texts.append(f"{cell.source}\n\nlab.seal()")
        elif cell.kind == "check":
            texts.append(f'{cell.source}\n\n\nlab.points("{cell.name}")')
    return texts


def stub(source: str) -> str:
    """An exercise cell as students get it: each marked solution replaced by one line that raises."""
    return re.sub(r"(?ms)^([ \t]*)### BEGIN SOLUTION.*?### END SOLUTION[^\n]*", lambda match: match[1] + STUB, source)


def normal(source: str) -> str:
    """A cell's text for comparison: without comment lines, blank lines and trailing spaces."""
    lines = (line.rstrip() for line in source.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def _bytes(path: Path, root: Path | None) -> bytes:
    if root is not None:
        at = Path(os.path.abspath(root))
        try:
            parts = Path(os.path.abspath(path)).relative_to(at).parts
        except ValueError:
            raise Unreadable("it is not in the folder of submissions") from None
        for part in parts:
            at = at / part
            if at.is_symlink():
                raise Unreadable(f"{part!r} is a symbolic link; hand in the file itself")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except (OSError, ValueError) as error:
        link = os.path.islink(path)
        raise Unreadable("it is a symbolic link; hand in the file itself" if link else f"it cannot be opened: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
        os.close(descriptor)
        if stat.S_ISREG(status.st_mode):
            raise Unreadable(f"it has {status.st_size / 2**20:,.0f} MB, more than {MAX_FILE // 2**20}")
        raise Unreadable("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(MAX_FILE + 1)
    if not data.strip():
        raise Unreadable("it is empty")
    return data


def _parsed(data: bytes, problems: list[str]) -> dict:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        problems.append("the file is not UTF-8; what could not be read is replaced")
    try:
        notebook = json.loads(text)
    except RecursionError:
        raise Unreadable("it is nested too deeply for a notebook") from None
    except MemoryError:
        raise Unreadable("reading it takes too much memory") from None
    except ValueError as error:
        raise Unreadable(f"it is not JSON: {str(error)[:200]}") from None
    if not isinstance(notebook, dict):
        raise Unreadable(f"it is JSON, but a {type(notebook).__name__} and no notebook")
    return notebook


def _cells(notebook: dict) -> list:
    cells = notebook.get("cells")
    if isinstance(cells, list):  # format 4 and whatever may come after it
        return cells
    sheets = notebook.get("worksheets")
    if isinstance(sheets, list):  # format 3
        return [cell for sheet in sheets if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list) for cell in sheet["cells"]]
    raise Unreadable(f"it is JSON, but no notebook: no list of cells (format {str(notebook.get('nbformat'))[:20]})")


def _source(cell: dict) -> str | None:
    source: Any = cell.get("source", cell.get("input"))  # format 3 calls it input
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source.encode("utf-8", "replace").decode("utf-8") if isinstance(source, str) else None


def _tag(cell: dict) -> str:
    """The name that nbgrader gave the cell, or that our builds give it, "" if it has none."""
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    for tag in (nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None, cell.get("id")):
        if isinstance(tag, str) and tag:
            return tag
    return ""
