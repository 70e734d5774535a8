"""`course grade` and `course report`.

Three phases, each of which can be killed at any point and started again: submissions into the journal; the journal into the gradebook, one
transaction a student; gradebook and journal into tables and pages, each replaced in one step. Everything that can be refused is refused
before the first of them.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.cli import CommandError
from course_lib.staff.marking import assignment as lab_items
from course_lib.staff.marking import autograded, feedback, gradebook, journal, late, report, similarity, submissions, tables
from course_lib.staff.marking.assignment import Assignment
from course_lib.staff.marking.cluster import Cluster, make_grader
from course_lib.staff.marking.journal import FolderError, Journal
from course_lib.staff.marking.record import FAILED, GRADED, UNREADABLE, Record, from_grader
from course_lib.staff.marking.submissions import Submission
from course_lib.staff.marking.workers import Threads
from course_lib.staff.sources import REPO

CONFIGURATION = '''"""Made by `course grade` so that formgrader, opened in this folder, finds the marks. Yours to change."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = {course_id!r}
c.CourseDirectory.source_directory = "grading"  # formgrader lists a lab that has a folder there, as each graded one has
'''


@dataclass(frozen=True)
class Folder:
    """Where a course's marks are: `out` holds everything, unless gradebook or secret were put elsewhere."""

    out: Path
    db: str | None = None
    secret: Path | None = None

    @property
    def url(self) -> str:
        return self.db or f"sqlite:///{self.out / 'gradebook.db'}"

    @property
    def secret_path(self) -> Path:
        return self.secret or self.out / "course.secret"

    @property
    def lock(self) -> Path:
        return self.out / "grading" / "lock"

    def journal(self, topic: str) -> Path:
        return self.out / "grading" / topic / "journal.jsonl"

    def check(self, root: Path) -> None:
        """Refuse a folder in the course's own checkout, and one that cannot be written."""
        written = [self.secret_path, self.lock, *(self.out / name for name in ("gradebook.db", "autograded", "feedback", "reports"))]
        journal.refuse_checkout(written, root)
        place = self.out
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise FolderError(f"{place}: not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise FolderError(f"{place}: cannot be written")


def grade(
    folder: Path,
    topic: str,
    *,
    out: Path | None = None,
    db: str | None = None,
    secret: Path | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    unsafe: bool = False,
    root: Path = REPO,
    factory: str | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Grade all submissions of a lab.

    Args:
        folder: submitted/{student}/{lab}/{slug}.ipynb.
        topic: of the lab.
        out: where marks go; the parent of `folder` by default.
        factory: "module:function" that makes another grader of `settings`, for tests.
    Returns: whether the grader could look at every submission.
    Raises CommandError, before anything was written, for whatever the instructor has to put right.
    """
    if jobs < 1:
        raise CommandError(f"--jobs must be 1 or more, got {jobs}")
    folder = Path(os.path.abspath(folder))
    place = Folder(Path(os.path.abspath(out)) if out else folder.parent, db, Path(os.path.abspath(secret)) if secret else None)
    lab = lab_items.load(topic, root)
    found = submissions.find(folder, topic, lab.slug)
    place.check(root)
    gradebook.check(place.url, coming=place.out)
    config = late.configuration(root)
    percent, course_id = late.percent_a_day(config), config.CourseDirectory.get("course_id", "default_course")
    with journal.locked(place.lock):
        known = journal.read_secret(place.secret_path)
        key_of = known or journal.new_secret()
        notes = Journal(place.journal(topic))
        keys = {s.student: journal.digest(f"{s.sha256} {lab.digest} {journal.digest(key_of + topic.encode())}") for s in found}
        open_ones = [s for s in found if not notes.is_done(s.student, keys[s.student])]
        settings = {"secret": key_of, "topic": topic, "unsafe": unsafe}
        settings |= {"factory": factory} if factory else {}
        settings |= {"root": str(root)} if root != REPO else {}
        with _graders(settings, lab, folder, jobs, cluster, [s for s in open_ones if not s.problem]) as graders:
            with gradebook.opened(place.url, course_id) as book:
                gradebook.store_assignment(book, lab)
                if known is None:
                    journal.write_secret(place.secret_path, key_of)
                place.journal(topic).parent.mkdir(parents=True, exist_ok=True)
            _grade_open(notes, lab, open_ones, keys, graders)
        with gradebook.opened(place.url, course_id) as book:
            _store(book, lab, notes, found, keys, percent, journal.digest(place.url))
            _write_configuration(place, course_id)
            summary = _write_all(book, place, lab, notes, {s.student: s.timestamp for s in found}, percent)
    say(summary)
    records = [notes.records[s.student] for s in found]
    _tell(say, records, len(open_ones))
    return not any(record.status == FAILED for record in records)


def again(topic: str, out: Path, *, db: str | None = None, root: Path = REPO, say: Callable[[str], None] = print) -> None:
    """Tables and pages once more, with what instructors entered by hand since. Grades nothing."""
    place = Folder(Path(os.path.abspath(out)), db)
    lab = lab_items.load(topic, root)
    if not place.journal(topic).is_file():
        raise FolderError(f"{place.out}: nothing of {topic} was graded here; give the folder that `course grade` wrote to (--out)")
    place.check(root)
    gradebook.check(place.url)
    config = late.configuration(root)
    percent = late.percent_a_day(config)
    with journal.locked(place.lock), gradebook.opened(place.url, config.CourseDirectory.get("course_id", "default_course")) as book:
        notes = Journal(place.journal(topic))
        say(_write_all(book, place, lab, notes, None, percent))


# ---- phase 1: submissions into the journal ---------------------------------------------------------------------------------------------


class _Nobody:
    """Stands in where nothing has to be graded."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def run(self, submissions, topic):
        return iter(())


def _graders(settings: dict, lab: Assignment, folder: Path, jobs: int, cluster: str | None, open_ones: list[Submission]) -> Any:
    if not open_ones:
        return _Nobody()
    if cluster:
        return Cluster(cluster, settings, lab.digest)
    return Threads(lambda: make_grader(settings | {"submissions": str(folder)}), min(jobs, len(open_ones)))


def _grade_open(notes: Journal, lab: Assignment, open_ones: list[Submission], keys: dict[str, str], graders: Any) -> None:
    from tqdm import tqdm

    names = [item.name for item in lab.exercises]
    with tqdm(total=len(open_ones), desc=lab.topic, unit="submission", disable=None, file=sys.stderr) as bar:
        for submission in open_ones:
            if submission.problem:
                notes.graded(
                    Record(submission.student, keys[submission.student], UNREADABLE, submission.problem, notes=list(submission.notes))
                )
                bar.update()
        for submission, result, why in graders.run([s for s in open_ones if not s.problem], lab.topic):
            key = keys[submission.student]
            record = Record(submission.student, key, FAILED, why) if result is None else from_grader(submission.student, key, result, names)
            record.notes = [*submission.notes, *record.notes]
            notes.graded(record)
            bar.update()


# ---- phase 2: the journal into the gradebook -------------------------------------------------------------------------------------------


def _store(book: Any, lab: Assignment, notes: Journal, found: list[Submission], keys: dict[str, str], percent: float, where: str) -> None:
    present = gradebook.students(book, lab)
    for submission in found:
        student, key = submission.student, keys[submission.student]
        before = notes.stored.get(student)
        stamp = submission.timestamp.isoformat() if submission.timestamp else None
        state = f"{key} {notes.records[student].status} {stamp} {where}"
        if student in present and before is not None and before["key"] == state:
            continue
        now = gradebook.store(book, lab, notes.records[student], submission.timestamp, before, percent)
        notes.in_gradebook(student, state, now["answers"], now["scores"])


# ---- phase 3: tables and pages ---------------------------------------------------------------------------------------------------------


def _write_all(book: Any, place: Folder, lab: Assignment, notes: Journal, times: dict | None, percent: float) -> str:
    marks = gradebook.read(book, lab, percent)
    due = gradebook.due_date(book, lab.topic)
    times = times if times is not None else gradebook.timestamps(book, lab)
    records = {student: record for student, record in notes.records.items() if student in marks}
    for student, record in records.items():
        autograded.write(place.out, lab, record)
        page = feedback.feedback_page(lab, record, marks[student], due, times.get(student))
        journal.write_file(feedback.path_of(place.out, student, lab.topic), page)
    pairs = _pairs(lab, records)
    where = report.path_of(place.out, lab.topic)
    journal.write_file(where.with_name("marks.csv"), tables.write_csv(tables.rows(lab, marks, records)))
    journal.write_file(where, report.report_page(lab, records, marks, pairs, due))
    return f"Wrote {where.with_name('marks.csv')}, {where.name} beside it, and {len(records)} pages under {place.out / 'feedback'}."


def _pairs(lab: Assignment, records: dict[str, Record]) -> list[similarity.Pair]:
    given = [cell.source for cell in lab.notebook.cells if cell.cell_type == "code"]
    return similarity.pairs({s: r.cells for s, r in records.items() if r.status == GRADED}, given)


def _write_configuration(place: Folder, course_id: str) -> None:
    path = place.out / "nbgrader_config.py"
    if path.exists():
        return
    text = CONFIGURATION.format(course_id=course_id)
    if place.db:
        text += f"c.CourseDirectory.db_url = {place.db!r}\n"  # with its password: the file is readable by its owner alone
    journal.write_file(path, text, 0o600)


def _tell(say: Callable[[str], None], records: list[Record], new: int) -> None:
    counts = {status: sum(record.status == status for record in records) for status in (GRADED, UNREADABLE, FAILED)}
    earlier = f" ({len(records) - new} of them in an earlier run)" if new < len(records) else ""
    say(f"{counts[GRADED]} graded, {counts[UNREADABLE]} could not be read{earlier}.")
    for record in records:
        if record.status == UNREADABLE:
            say(f"  could not be read: {record.student}: {record.reason}")
    for record in records:
        if record.status == FAILED:
            say(f"  the grader failed, run it again: {record.student}: {record.reason}")


def parse_due(text: str) -> datetime.datetime:
    """A due date as an instructor types it; UTC where no zone is given. CommandError for what is none."""
    try:
        return submissions.parse_time(text)
    except ValueError:
        raise CommandError(
            f"--due must be a time such as '2026-10-09 18:00 Europe/Berlin' or '2026-10-09 18:00 +0200', got {text!r}"
        ) from None
