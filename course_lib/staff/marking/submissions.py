"""Who submitted what, and when: nbgrader's folder layout submitted/{student}/{lab}/{slug}.ipynb, read with suspicion.

Everything in these folders was put there by students: names, links, pipes, folders in place of files. Nothing here opens what is no plain
file, follows a link, or trusts a size.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from course_lib.staff.marking.journal import FolderError, digest

MAX_NAME = 128  # characters of a student's name in nbgrader's gradebook
MAX_BYTES = 512 * 2**20  # of a notebook


@dataclass(frozen=True)
class Submission:
    """One student's folder for one lab.

    Args:
        student: the folder's name, as text that gradebook and pages can take.
        path: of the notebook, whether or not there is one.
        problem: why the notebook cannot even be opened, or "".
        sha256: of the notebook's bytes, or of the problem.
        timestamp: when it was handed in, UTC without a zone as nbgrader keeps it; None where unknown.
        notes: what was odd.
    """

    student: str
    path: Path
    problem: str
    sha256: str
    timestamp: datetime.datetime | None = None
    notes: tuple[str, ...] = ()


def find(folder: Path, topic: str, slug: str) -> list[Submission]:
    """All submissions of a lab, in order of the students' names. FolderError where there is none."""
    try:
        names = sorted(os.fsencode(entry.name) for entry in os.scandir(folder) if not entry.name.startswith("."))
    except NotADirectoryError:
        raise FolderError(f"{folder}: not a folder; expected nbgrader's layout {folder.name}/STUDENT/{topic}/{slug}.ipynb") from None
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from None
    found = []
    for raw in names:
        home = folder / os.fsdecode(raw)
        if not home.is_symlink() and home.is_dir() and os.path.lexists(home / topic):
            found.append(_read(home / topic, student_name(raw), slug))
    if not found:
        raise FolderError(f"{folder}: no submission of {topic}; expected nbgrader's layout {folder.name}/STUDENT/{topic}/{slug}.ipynb")
    return found


def student_name(raw: bytes) -> str:
    """A folder's name as a student's: bytes that are no text and control characters become \\x.., a long name is cut and told apart by a
    digest."""
    text = raw.decode("utf-8", "backslashreplace")
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda match: f"\\x{ord(match[0]):02x}", text)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 10]}~{digest(raw)[:8]}"


def _read(folder: Path, student: str, slug: str) -> Submission:
    path = folder / f"{slug}.ipynb"
    if folder.is_symlink():
        return _unreadable(student, path, "the folder is a link")
    if not folder.is_dir():
        return _unreadable(student, path, f"{folder.name} is a file, not a folder")
    timestamp, notes = _timestamp(folder / "timestamp.txt")
    try:
        sha256 = _sha256(path)
    except FileNotFoundError:
        others = sorted(other.name for other in folder.glob("*.ipynb") if other.name != path.name)[:3]
        beside = f"; there is {', '.join(repr(name)[1:-1] for name in others)}" if others else ""
        return _unreadable(student, path, f"{path.name} is missing{beside}", timestamp, notes)
    except _NotAFile as problem:
        return _unreadable(student, path, f"{path.name} is {problem}", timestamp, notes)
    except OSError as error:
        return _unreadable(student, path, f"{path.name}: {error.strerror}", timestamp, notes)
    return Submission(student, path, "", sha256, timestamp, notes)


def _unreadable(student, path, problem, timestamp=None, notes=()) -> Submission:
    return Submission(student, path, problem, hashlib.sha256(problem.encode("utf-8", "replace")).hexdigest(), timestamp, notes)


class _NotAFile(Exception):
    """What stands at a path is no plain file of a sensible size."""


def _open(path: Path):
    """A plain file, opened without following a link and without waiting for a pipe."""
    about = os.lstat(path)
    kinds = [(stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (lambda mode: not stat.S_ISREG(mode), "not a plain file")]
    for is_kind, words in kinds:
        if is_kind(about.st_mode):
            raise _NotAFile(words)
    if about.st_size > MAX_BYTES:
        raise _NotAFile(f"larger than {MAX_BYTES // 2**20} MB")
    return open(
        os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)), "rb"
    )


def _sha256(path: Path) -> str:
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(submission: Submission) -> bytes:
    """The notebook's bytes, for a worker on another machine."""
    with _open(submission.path) as file:
        return file.read(MAX_BYTES)


def _timestamp(path: Path) -> tuple[datetime.datetime | None, tuple[str, ...]]:
    """The time in nbgrader's timestamp.txt, such as "2015-02-02 15:58:23.948203 America/Los_Angeles"."""
    try:
        with _open(path) as file:
            text = file.read(200).decode("utf-8").strip()
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError, _NotAFile):
        return None, ("timestamp.txt could not be read, so nobody knows when this was handed in.",)
    try:
        return parse_time(text), ()
    except ValueError:
        return None, (f"timestamp.txt holds no time ({text[:40]!r}), so nobody knows when this was handed in.",)


def parse_time(text: str) -> datetime.datetime:
    """A time such as "2026-10-09 18:00:00.5 Europe/Berlin", in UTC without a zone; UTC where none is given. ValueError for what is none.

    Not by nbgrader's own function, which takes an offset of +0200 for two hundred seconds.
    """
    import dateutil.parser
    import dateutil.tz

    match = re.fullmatch(r"(\d{4}-\d\d?-\d\d?(?:[T ][\d:.]+)?)\s*([+-]\d\d:?\d\d|[A-Za-z][\w/+-]*)?", text.strip())
    if match is None:
        raise ValueError(f"not a time: {text!r}")
    zone = match[2] or "UTC"
    if zone[0] in "+-":
        found = dateutil.parser.isoparse("2000-01-01T00:00" + zone).tzinfo
    else:
        found = dateutil.tz.gettz({"Z": "UTC"}.get(zone, zone))
    if found is None:
        raise ValueError(f"not a time zone: {zone!r}")
    try:
        moment = dateutil.parser.parse(match[1]).replace(tzinfo=found)
        return moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except OverflowError:
        raise ValueError(f"not a time: {text!r}") from None
