"""Marks in nbgrader's gradebook, by nbgrader's own interface: any database that SQLAlchemy knows, one transaction a student.

Writing the same state twice changes nothing. What an instructor gave by hand (scores, extra credit, comments) is never written over; where
the answer or the automatic score below it changed, the grade asks to be looked at again.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.cli import CommandError
from course_lib.staff.marking import late
from course_lib.staff.marking.assignment import EXERCISE, Assignment
from course_lib.staff.marking.journal import digest
from course_lib.staff.marking.record import FAILED, GRADED, Record, is_answered

NO_RESPONSE = "No response."  # nbgrader's own words


class GradebookError(CommandError):
    """The gradebook cannot be used; the message is one line for the instructor."""


@contextlib.contextmanager
def opened(url: str, course_id: str) -> Iterator[Any]:
    """nbgrader's Gradebook at a database URL, made where there is none. Whatever the database objects to becomes a GradebookError."""
    from sqlalchemy.exc import SQLAlchemyError

    shown = url
    gradebook = None
    quiet = logging.getLogger("tornado.application")  # where nbgrader sends a traceback before it raises
    before, quiet.disabled = quiet.disabled, True
    try:
        shown = _writable(url, None)
        from nbgrader.api import Gradebook

        _prepare(url)
        gradebook = Gradebook(url, course_id)
        yield gradebook
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise GradebookError(f"the gradebook {shown} cannot be used: {_reason(error)}") from None
    except ValueError as error:  # nbgrader's InvalidEntry, around an error of the database
        if type(error).__module__ != "nbgrader.api":
            raise
        raise GradebookError(f"the gradebook {shown} cannot be used: {_reason(error)}") from None
    finally:
        quiet.disabled = before
        if gradebook is not None:
            gradebook.close()


def _reason(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"{line} (the driver of this kind of database is not installed)"
    return line.removeprefix("(sqlite3.OperationalError) ")


def check(url: str, coming: Path | None = None) -> None:
    """Refuse, before anything is made, a database that cannot be written. `coming` is a folder that there will be."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _writable(url, coming)
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise GradebookError(f"the gradebook {_shown(url)} cannot be used: {_reason(error)}") from None


def _shown(url: str) -> str:
    """The URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return repr(url)


def _writable(url: str, coming: Path | None) -> str:
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    shown = _shown(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.database.startswith(("file:", ":memory:")):
        path = Path(parsed.database)
        if not path.parent.is_dir() and path.parent != coming:
            raise GradebookError(f"the gradebook {shown} cannot be used: there is no folder {path.parent}")
        for place in [path] if path.exists() else [path.parent]:
            if place.exists() and not os.access(place, os.W_OK):
                raise GradebookError(f"the gradebook {shown} cannot be used: {place} is read-only")
        if not path.exists():
            return shown
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if parsed.get_backend_name() == "sqlite":
                connection.execute(text("BEGIN IMMEDIATE"))  # fails where the file is locked or no database
                connection.execute(text("CREATE TABLE is_it_writable (x INTEGER)"))
                connection.execute(text("ROLLBACK"))
    finally:
        engine.dispose()
    return shown


def _prepare(url: str) -> None:
    """The tables and the version of the schema, in a database that has none or, after a kill, only a part.

    nbgrader would do it, by a program that has to be on PATH and takes seconds.
    """
    from nbgrader.api import Base
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(url)
    try:
        tables = set(inspect(engine).get_table_names())
        if not tables >= {*Base.metadata.tables, "alembic_version"}:
            Base.metadata.create_all(engine)
        with engine.begin() as connection:
            if "alembic_version" not in tables:
                connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
            if not connection.execute(text("SELECT count(*) FROM alembic_version")).scalar():
                connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:version)"), {"version": _schema_version()})
    finally:
        engine.dispose()


def _schema_version() -> str:
    """The newest version of the schema that the installed nbgrader knows."""
    from alembic.script import ScriptDirectory
    from nbgrader.dbutil import ALEMBIC_DIR

    return ScriptDirectory(ALEMBIC_DIR).get_current_head()


@contextlib.contextmanager
def transaction(gradebook) -> Iterator[None]:
    """All calls inside are one transaction. nbgrader's interface commits in each of them, so that a kill could leave half a student."""
    session = gradebook.db
    commit = session.commit
    session.commit = session.flush
    try:
        yield
        commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        del session.commit


# ---- the lab ---------------------------------------------------------------------------------------------------------------------------


def cells_of(assignment: Assignment) -> tuple[dict, dict, dict]:
    """Grade, solution and source cells by name, each as the fields that `nbgrader generate_assignment` stores."""
    grade, solution, source = {}, {}, {}
    for cell in assignment.notebook.cells:
        about = cell.metadata.get("nbgrader")
        if not about:
            continue
        name = about["grade_id"]
        if about["grade"]:
            grade[name] = {"max_score": float(about["points"]), "cell_type": cell.cell_type}
        if about["solution"]:
            solution[name] = {}
        if about["grade"] or about["solution"] or about["locked"]:
            source[name] = {
                "cell_type": cell.cell_type,
                "locked": about["locked"],
                "source": cell.source,
                "checksum": about.get("checksum"),
            }
    return grade, solution, source


def store_assignment(gradebook, assignment: Assignment) -> None:
    """The lab itself. GradebookError where the gradebook holds submissions of a lab with other cells, as nbgrader has it."""
    from nbgrader.api import MissingEntry

    topic, slug = assignment.topic, assignment.slug
    wanted = cells_of(assignment)
    with transaction(gradebook):
        gradebook.update_or_create_assignment(topic)
        try:
            notebook = gradebook.find_notebook(slug, topic)
        except MissingEntry:
            pass
        else:
            stored = [{cell.name for cell in cells} for cells in (notebook.grade_cells, notebook.solution_cells, notebook.source_cells)]
            if stored != [set(cells) for cells in wanted]:
                if notebook.submissions:
                    odd = sorted(set.union(*(have ^ set(cells) for have, cells in zip(stored, wanted))))
                    raise GradebookError(f"the gradebook holds submissions of another {topic}, with other cells ({', '.join(odd[:5])}); "
                                         "grade into a gradebook of its own (--db), or remove that assignment: nbgrader db assignment remove")  # fmt: skip
                gradebook.remove_notebook(slug, topic)
        kernel = json.dumps(assignment.notebook.metadata.get("kernelspec", {}))
        gradebook.update_or_create_notebook(slug, topic, kernelspec=kernel)
        makers = gradebook.update_or_create_grade_cell, gradebook.update_or_create_solution_cell, gradebook.update_or_create_source_cell
        for make, cells in zip(makers, wanted):
            for name, about in cells.items():
                make(name, slug, topic, **about)


def set_due_date(gradebook, topic: str, due: datetime.datetime | None) -> None:
    """The due date (UTC without a zone) where nbgrader keeps it."""
    gradebook.update_or_create_assignment(topic, duedate=due)


# ---- a student -------------------------------------------------------------------------------------------------------------------------


def store(
    gradebook, assignment: Assignment, record: Record, timestamp: datetime.datetime | None, before: dict | None, percent: float
) -> dict:
    """One student's automatic scores, in one transaction.

    Args:
        before: what the journal says the gradebook held ({"answers", "scores"}), None where nothing is known.
        percent: of the points, that a day late costs.
    Returns: what it holds now, for the journal: {"answers": {question: digest}, "scores": {exercise: points or None}}.
    """
    topic, slug = assignment.topic, assignment.slug
    now = state_of(assignment, record)
    before = before or {"answers": {}, "scores": {}}
    with transaction(gradebook):
        gradebook.update_or_create_student(record.student)
        with gradebook.db.no_autoflush:
            submission = gradebook.update_or_create_submission(topic, record.student, timestamp=timestamp)
        notebook = gradebook.find_submission_notebook(slug, topic, record.student)
        grades = {grade.name: grade for grade in notebook.grades}
        comments = {comment.name: comment for comment in notebook.comments}
        for item in assignment.items:
            grade = grades[item.cell]
            if item.kind == EXERCISE:
                score, changed = now["scores"][item.name], before["scores"].get(item.name) != now["scores"][item.name]
            else:
                score = 0.0 if record.status != FAILED and not is_answered(assignment, item, record) else None
                changed = before["answers"].get(item.name) != now["answers"][item.name]
            grade.auto_score = score
            if grade.manual_score is None:
                grade.needs_manual_grade = score is None
            elif changed:
                grade.needs_manual_grade = True
            if item.answer in comments:
                comments[item.answer].auto_comment = (
                    None if record.status == FAILED or is_answered(assignment, item, record) else NO_RESPONSE
                )
        notebook.late_submission_penalty = late.penalty(_score(grades.values()), _seconds_late(submission), percent) or None
    return now


def state_of(assignment: Assignment, record: Record) -> dict:
    """What the gradebook is to hold: points by exercise (None where the grader failed), a digest of each written answer."""
    scores = {
        item.name: None if record.status == FAILED else (record.earned(item) if record.status == GRADED else 0.0)
        for item in assignment.exercises
    }
    return {"answers": {item.name: digest(record.written.get(item.name, "")) for item in assignment.written}, "scores": scores}


def _score(grades) -> float:
    score = 0.0
    for grade in grades:
        base = grade.manual_score if grade.manual_score is not None else grade.auto_score
        score += (base + (grade.extra_credit or 0.0)) if base is not None else 0.0  # as nbgrader counts
    return score


def _seconds_late(submission) -> float:
    if submission.assignment.duedate is None:  # with an extension and no due date nbgrader itself stumbles
        return 0.0
    return float(submission.total_seconds_late)


# ---- reading back ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Mark:
    """How one item stands. `score` is None while nobody gave one; `comment` is what an instructor wrote below the answer."""

    score: float | None
    extra: float = 0.0
    by_hand: bool = False
    needs_hand: bool = False
    comment: str = ""

    @property
    def points(self) -> float:
        return (self.score + self.extra) if self.score is not None else 0.0


@dataclass
class Marks:
    """What the gradebook holds of one student for one lab."""

    student: str
    items: dict[str, Mark] = field(default_factory=dict)
    seconds_late: float = 0.0
    penalty: float = 0.0

    @property
    def points(self) -> float:
        return sum(mark.points for mark in self.items.values())

    @property
    def total(self) -> float:
        return max(0.0, self.points - self.penalty)

    @property
    def needs_hand(self) -> list[str]:
        return [name for name, mark in self.items.items() if mark.needs_hand]


def read(gradebook, assignment: Assignment, percent: float) -> dict[str, Marks]:
    """Marks of all students, manual ones included, by student. Penalties are brought up to the scores as they are now."""
    from nbgrader.api import Assignment as AssignmentRow
    from nbgrader.api import MissingEntry, Notebook, SubmittedAssignment, SubmittedNotebook
    from sqlalchemy.orm import selectinload

    try:
        gradebook.find_notebook(assignment.slug, assignment.topic)
    except MissingEntry:
        raise GradebookError(
            f"the gradebook has no {assignment.topic}; grade first: course grade SUBMISSIONS --lab {assignment.topic}"
        ) from None
    query = (
        gradebook.db.query(SubmittedNotebook)
        .join(SubmittedNotebook.assignment).join(SubmittedAssignment.assignment).join(SubmittedNotebook.notebook)
        .filter(AssignmentRow.name == assignment.topic, Notebook.name == assignment.slug)
        .options(*map(selectinload, (SubmittedNotebook.grades, SubmittedNotebook.comments, SubmittedNotebook.assignment)))
    )  # fmt: skip
    found = {}
    for notebook in query:
        grades = {grade.name: grade for grade in notebook.grades}
        comments = {comment.name: comment.manual_comment or "" for comment in notebook.comments}
        marks = Marks(notebook.assignment.student_id, seconds_late=_seconds_late(notebook.assignment))
        for item in assignment.items:
            grade = grades.get(item.cell)
            if grade is None:
                continue
            by_hand = grade.manual_score is not None
            score = grade.manual_score if by_hand else grade.auto_score
            marks.items[item.name] = Mark(
                score, grade.extra_credit or 0.0, by_hand, bool(grade.needs_manual_grade), comments.get(item.answer, "")
            )
        marks.penalty = late.penalty(marks.points, marks.seconds_late, percent)
        if (notebook.late_submission_penalty or 0.0) != marks.penalty:
            notebook.late_submission_penalty = marks.penalty or None
        found[marks.student] = marks
    gradebook.db.commit()
    return dict(sorted(found.items()))


def students(gradebook, assignment: Assignment) -> set[str]:
    """Who has a submission of the lab in the gradebook."""
    return {submission.student_id for submission in gradebook.assignment_submissions(assignment.topic)}


def timestamps(gradebook, assignment: Assignment) -> dict[str, datetime.datetime | None]:
    """When each student handed in, UTC without a zone."""
    return {submission.student_id: submission.timestamp for submission in gradebook.assignment_submissions(assignment.topic)}


def due_date(gradebook, topic: str) -> datetime.datetime | None:
    """The due date in the gradebook, UTC without a zone."""
    from nbgrader.api import MissingEntry

    try:
        return gradebook.find_assignment(topic).duedate
    except MissingEntry:
        return None
