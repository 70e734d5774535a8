"""`course release`: the folder that students get of a lab, made in one step, and its due date noted where grading reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import course_lib
from course_lib.cli import CommandError
from course_lib.staff import build, leaks, sources
from course_lib.staff.marking import assignment, gradebook, journal, late
from course_lib.staff.marking.assignment import Assignment
from course_lib.staff.marking.run import parse_due
from course_lib.staff.marking.tables import plain
from course_lib.staff.sources import REPO

PACKAGE = Path(course_lib.__file__).resolve().parent
STAFF_ONLY = {"staff", "cards"}  # folders of the package; the lab's own card is put in by itself
README = """# {title}

{points} points, {minutes} minutes or so.{due}

## Start

With Python 3.11 or newer, in this folder:

    python -m venv .venv
    .venv/bin/python -m pip install -r requirements.txt
    .venv/bin/python -m jupyterlab {slug}.ipynb

(On Windows `.venv\\Scripts\\python` in place of `.venv/bin/python`.) Your own environment does as well, if it has what
`requirements.txt` names.

## Work

Fill the cells that say `YOUR CODE HERE`, run the cell below each to see what it earns, and answer the written questions where they say
`YOUR ANSWER HERE`. Add cells as you like; leave the others as they are. All checks at once, from the command line:

    .venv/bin/python -m course_lib.cli check {slug}.ipynb

## Hand in

The file `{slug}.ipynb` under this very name, and nothing else. Grading runs the same checks on other random inputs of the same kind, and
only the
cells you wrote.
"""


def release(topic: str, folder: Path | str, *, due: str | None = None, out: Path | str | None = None, db: str | None = None,
            root: Path = REPO, say: Callable[[str], None] = print) -> Path:  # fmt: skip
    """Make the folder of a lab for students, and note the due date in the gradebook.

    Args:
        topic: of the lab.
        folder: new or empty, outside of the course's checkout.
        due: a time; without one the gradebook is left alone.
        out: the folder of the gradebook, the one above `folder` by default: the rule of `course grade`, so that `released` and
        `submitted` side
            by side share one.
    Raises CommandError before anything was written.
    """
    lab = assignment.load(topic, root)
    folder = Path(os.path.abspath(folder))
    moment = parse_due(due) if due else None
    url = db or f"sqlite:///{Path(os.path.abspath(out)) if out else folder.parent}/gradebook.db"
    journal.refuse_checkout([folder], root)
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise CommandError(f"{folder}: students get a new or an empty folder, this one is neither")
    if not folder.parent.is_dir():
        raise CommandError(f"{folder.parent}: there is no such folder")
    if moment:
        gradebook.check(url)
    cells = sources.read_cells(sources.topic_path(topic, root))
    found = leaks.in_lab(lab.notebook, cells)
    if found:
        raise CommandError(f"the lab gives something away, nothing was released: {found[0]}")
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _fill(scratch, lab, cells, due, root)
        if folder.exists():
            folder.rmdir()
        os.replace(scratch, folder)
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if moment:
        config = late.configuration(root)
        with gradebook.opened(url, config.CourseDirectory.get("course_id", "default_course")) as book:
            gradebook.set_due_date(book, topic, moment)
        say(f"Due {moment:%Y-%m-%d %H:%M} UTC, noted in the gradebook that `course grade` reads.")
    say(f"Wrote {folder}: hand out all of it.")
    return folder


def _fill(folder: Path, lab: Assignment, cells: list, due: str | None, root: Path) -> None:
    folder.mkdir()
    (folder / f"{lab.slug}.ipynb").write_text(build.notebook_text(lab.notebook), encoding="utf-8", newline="\n")
    shutil.copytree(PACKAGE, folder / "course_lib", ignore=_left_out, symlinks=True)
    (folder / "course_lib" / "cards").mkdir()
    stored = build.paths(lab.topic, root)["card"]  # `course build --check` holds it to its source
    card = stored.read_text(encoding="utf-8") if stored.is_file() else build.card_text(build.card(lab.topic, cells, root))
    (folder / "course_lib" / "cards" / f"{lab.topic}.json").write_text(card, encoding="utf-8", newline="\n")
    measured = root / "data" / "measurements" / f"{lab.topic}.json"
    if measured.is_file() and "measurements" in json.dumps(lab.notebook):
        (folder / "data" / "measurements").mkdir(parents=True)
        shutil.copyfile(measured, folder / "data" / "measurements" / measured.name)
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8", newline="\n")
    minutes = sum(exercise.minutes for exercise in sources.exercises(cells))
    said = f" Due {due}{'' if re.search('[A-Za-z]|[+-][0-9]{2}:?[0-9]{2}$', due) else ' UTC'}." if due else ""
    title = lab.slug.replace("_", " ").capitalize()
    readme = README.format(title=title, points=plain(lab.points), minutes=minutes, due=said, slug=lab.slug)
    (folder / "README.md").write_text(readme, encoding="utf-8", newline="\n")


def _left_out(folder: str, names: list[str]) -> list[str]:
    top = Path(folder).resolve() == PACKAGE
    return [
        n
        for n in names
        if (top and n in STAFF_ONLY) or n.startswith(".") or n == "__pycache__" or n.endswith((".pyc", ".pyo", ".egg-info"))
    ]


def requirements() -> list[str]:
    """What a student installs: the course's own dependencies, in the versions of the lock."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower(): line for line in project["dependencies"]}
    pins = [line.strip() for line in (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines()]
    pinned = [line for line in pins if re.split(r"[=<>! ;]", line)[0].lower() in wanted]
    missing = [line for name, line in wanted.items() if not any(re.split(r"[=<>! ;]", pin)[0].lower() == name for pin in pinned)]
    return sorted(pinned + missing)
