"""What must survive a kill: the journal of a lab's grading; and what guards a course's folder: its lock and its secret.

The journal is a file of JSON lines that is only ever added to, each line on disk before the next submission counts as done. A line that a
kill tore is no JSON and says nothing; the last word on a student is the last line about them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from course_lib.cli import CommandError
from course_lib.staff.marking.record import FAILED, Record

FORMAT = 1


class FolderError(CommandError):
    """A folder or file of the course cannot be used; the message is for the instructor."""


class Journal:
    """Records of graded submissions, and what of them has reached the gradebook.

    Attributes:
        records: the latest Record of each student.
        stored: for each student the last (key, {question: digest of the answer}) that the gradebook holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.stored: dict[str, dict] = {}
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if entry["format"] == FORMAT and entry["kind"] == "graded":
                record = Record(**entry["record"])
                self.records[record.student] = record
            elif entry["format"] == FORMAT and entry["kind"] == "stored":
                self.stored[entry["student"]] = entry
        except (ValueError, KeyError, TypeError):  # torn by a kill, or not ours
            pass

    def is_done(self, student: str, key: str) -> bool:
        """Whether this very submission was graded; where the grader itself failed, it was not."""
        record = self.records.get(student)
        return record is not None and record.key == key and record.status != FAILED

    def graded(self, record: Record) -> None:
        """Note what became of a submission; when this returns, it is on disk."""
        self.records[record.student] = record
        self._append({"kind": "graded", "record": dataclasses.asdict(record)})

    def in_gradebook(self, student: str, key: str, answers: dict[str, str], scores: dict[str, float | None]) -> None:
        """Note that the gradebook holds this state of a student's submission."""
        entry = {"kind": "stored", "student": student, "key": key, "answers": answers, "scores": scores}
        self.stored[student] = entry
        self._append(entry)

    def _append(self, entry: dict) -> None:
        new = not self.path.exists()
        line = json.dumps({"format": FORMAT, **entry}, ensure_ascii=True, separators=(",", ":"))
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_in_newline(file):  # what a kill tore stays a line of its own
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(self.path.parent)


def _ends_in_newline(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: a reader, or the next run after a kill, sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")  # one name: what a kill leaves behind, the next run replaces
    try:
        number = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(number, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


# ---- the lock --------------------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One run at a time in a course's folder; FolderError says who is at work there.

    The system itself forgets the lock of a process that ends, however it ends, so a file left by a killed run locks nobody out. A run that
    ends in an error before it wrote anything leaves no file and no folder.
    """
    try:
        import fcntl
    except ImportError:
        raise FolderError("marks are written on Linux or macOS; run this there, or in a container") from None
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            # Not flock: its locks outlive us in every process forked from us.
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(number, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise FolderError(f"{path.parent.parent}: {holder} is at work here; wait until it has ended") from None
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(number, 0)
            if made and {entry.name for entry in os.scandir(path.parent)} == {path.name}:
                path.unlink()
                for folder in made:
                    with suppress(OSError):
                        folder.rmdir()
    finally:
        os.close(number)


# ---- the secret ------------------------------------------------------------------------------------------------------------------------


def read_secret(path: Path) -> bytes | None:
    """The secret of a course, from which private seeds are made, so that a regrade meets the same random inputs; None where there is
    none yet."""
    if not os.path.lexists(path):
        return None
    try:
        about = path.stat()
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: the course's secret cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None
    if os.name == "posix" and about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FolderError(f"{path}: others can read the course's secret; take their rights away: chmod 600 '{path}'")
    if len(content) < 32:
        words = "delete it to have a new one made (a regrade then meets other random inputs)"
        raise FolderError(f"{path}: a secret has 32 characters or more, this file has {len(content)}; {words}")
    return content.encode()


def new_secret() -> bytes:
    """256 random bits as text."""
    return secrets.token_hex(32).encode()


def write_secret(path: Path, secret: bytes) -> None:
    """Store a secret, readable by its owner alone."""
    write_file(path, secret.decode() + "\n", 0o600)
    _sync_folder(path.parent)


def digest(text: str | bytes) -> str:
    """A short name for a content."""
    return hashlib.sha256(text.encode("utf-8", "replace") if isinstance(text, str) else text).hexdigest()[:16]


def refuse_checkout(paths: list[Path], root: Path) -> None:
    """FolderError where what grading writes would lie among the course's own files, from where it can reach students by one `git add`."""
    inside = [path for path in paths if path.resolve().is_relative_to(root.resolve())]
    if not inside:
        return
    try:
        command = ["git", "-C", str(root), "check-ignore", "-q", "--no-index", "--"]
        ignored = all(subprocess.run([*command, str(path.resolve())], capture_output=True).returncode == 0 for path in inside)
    except OSError:  # no git: nothing is known to be ignored
        ignored = False
    if not ignored:
        raise FolderError(
            f"{inside[0]} lies in the course's own folder; submissions, marks and the secret belong outside of it (--out, --secret)"
        )
