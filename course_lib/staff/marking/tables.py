"""marks.csv: a line a student, a column an exercise."""

from __future__ import annotations

import csv
import io

from course_lib.checks.render import number
from course_lib.staff.marking.assignment import Assignment
from course_lib.staff.marking.gradebook import Mark, Marks
from course_lib.staff.marking.record import FAILED, UNREADABLE, Record

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def rows(assignment: Assignment, marks: dict[str, Marks], records: dict[str, Record]) -> list[dict[str, str]]:
    """One dictionary a student, in order of the students.

    student, lab; the points of each exercise and written question (empty while nobody has graded it); `points`, their sum; `penalty` for
    lateness; `total`; `maximum`; `late`, minutes after the due date, empty when in time; `needs_hand_grading`, names of what a person
    has to
    look at; `could_not_be_read`, why.
    """
    table = []
    for student, found in sorted(marks.items()):
        row = {"student": _text(student), "lab": assignment.topic}
        row |= {item.name: score(found.items.get(item.name, Mark(None))) for item in assignment.items}
        record = records.get(student)
        row |= {
            "points": plain(found.points),
            "penalty": plain(found.penalty),
            "total": plain(found.total),
            "maximum": plain(assignment.points),
            "late": f"{-(-found.seconds_late // 60):.0f}" if found.seconds_late > 0 else "",
            "needs_hand_grading": " ".join(found.needs_hand),
            "could_not_be_read": _text(problem(record)),
        }
        table.append(row)
    return table


def problem(record: Record | None) -> str:
    """Why a submission was not graded, in words, or ""."""
    if record is None or record.status not in (UNREADABLE, FAILED):
        return ""
    return record.reason if record.status == UNREADABLE else f"the grader failed, it will be graded again: {record.reason}"


def score(mark: Mark) -> str:
    return "" if mark.score is None else plain(mark.points)


def plain(value: float) -> str:
    """A number of points with as many digits as it has, two at most: 2, 1.5, 0.33."""
    return number(value) if round(value, 1) == round(value, 2) else f"{value:.2f}"


def _text(value: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value


def write_csv(table: list[dict[str, str]]) -> str:
    """The table as CSV with a head line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]) if table else ["student"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
