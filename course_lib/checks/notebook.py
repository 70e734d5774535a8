"""Run a student's notebook from the command line: `course check NOTEBOOK`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from course_lib.cli import CommandError


class UnreadableNotebook(CommandError, ValueError):
    """The file is not a notebook, or not a lab of this course."""


def content_id(prefix: str, source: str) -> str:
    """The id that the build gives to a cell without a name: a digest of its text, so that an untouched cell of ours is recognised."""
    return f"{prefix}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def read_notebook(path: Path | str) -> dict:
    """The notebook as a dictionary; UnreadableNotebook in one line for whatever is not a lab."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableNotebook(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise UnreadableNotebook(f"{path}: not a notebook (a .ipynb file is JSON)") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and isinstance(cell.get("metadata"), dict) for cell in cells):
        raise UnreadableNotebook(f"{path}: not a notebook of format 4 (no list of cells)")
    if not any(_grade_id(cell).startswith("check_") for cell in cells):
        raise UnreadableNotebook(f"{path}: not a lab of this course: it has no check cells")
    return notebook


def run_notebook(path: Path | str) -> bool:
    """Run setup, exercise, own and check cells of a lab in order, print what they say, then the table of progress.

    A cell that raises is told and the next one runs. Untouched demonstrations of ours are skipped: they cost time and earn nothing.
    Returns whether all automatic points of the lab were earned. Works in the notebook's folder and replaces `__main__`: meant for a
    process of its own.
    """
    path = Path(path).resolve()
    notebook = read_notebook(path)
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.chdir(path.parent)
    shell = _shell()
    earned: dict[str, float] = {}
    for number, cell in enumerate(notebook["cells"], 1):
        source = _text(cell.get("source", ""))
        if cell.get("cell_type") != "code" or not source.strip() or _is_demonstration(cell, source):
            continue
        grade_id = _grade_id(cell)
        outcome = shell.run_cell(source, silent=False, store_history=False)
        if not outcome.success:
            error = type(outcome.error_in_exec or outcome.error_before_exec).__name__
            print(f"Cell {number} ({grade_id or 'your own'}) stopped with {error}; the cells after it run all the same.", flush=True)
        if grade_id.startswith("check_"):
            result = outcome.result if outcome.success else None
            earned[grade_id.removeprefix("check_")] = float(result) if isinstance(result, (int, float)) else 0.0
    lab = shell.user_ns.get("lab")
    if lab is not None:
        shell.run_cell("lab.progress()", store_history=False)
    wanted = _points(notebook)
    missing = sorted(name for name in wanted if name not in earned)
    if missing:
        print(f"The notebook has no check cell of: {', '.join(missing)}. Get a fresh copy of the lab, and copy your answers into it.")
    total = sum(min(earned.get(name, 0.0), points) for name, points in wanted.items())
    print(f"{total:g} of {sum(wanted.values()):g} points", flush=True)
    return all(earned.get(name, 0.0) >= points - 1e-9 for name, points in wanted.items())


def _shell():
    """A plain IPython without history, colours and the user's profile."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.xmode = "Context"
    shell = InteractiveShell.instance(config=config)
    sys.stdout.flush()
    return shell


def _points(notebook: dict) -> dict[str, float]:
    """Points by exercise: from the card of the topic where there is one, since a student may have lost a check cell."""
    topic = notebook.get("metadata", {}).get("course", {}).get("topic", "")
    card = Path(__file__).resolve().parents[1] / "cards" / f"{topic}.json"
    if topic and card.is_file():
        return {exercise["name"]: exercise["points"] for exercise in json.loads(card.read_text(encoding="utf-8"))["exercises"]}
    checks = [cell for cell in notebook["cells"] if _grade_id(cell).startswith("check_")]
    return {_grade_id(cell).removeprefix("check_"): cell["metadata"]["nbgrader"].get("points", 0) for cell in checks}


def _is_demonstration(cell: dict, source: str) -> bool:
    identity = str(cell.get("id", ""))
    return not _grade_id(cell) and identity.startswith(content_id("code", source))


def _grade_id(cell: dict) -> str:
    nbgrader = cell["metadata"].get("nbgrader")
    return str(nbgrader.get("grade_id", "")) if isinstance(nbgrader, dict) else ""


def _text(source) -> str:
    return "".join(source) if isinstance(source, list) else str(source)
