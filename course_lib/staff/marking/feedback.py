"""A page a student: what each exercise earned, why, and what to look at next."""

from __future__ import annotations

import datetime
from pathlib import Path

from course_lib.checks import outcomes
from course_lib.checks.outcomes import Result
from course_lib.staff.marking.assignment import EXERCISE, WRITTEN, Assignment, Item
from course_lib.staff.marking.gradebook import Mark, Marks
from course_lib.staff.marking.pages import kind, mark, meter, page, table, text, with_code
from course_lib.staff.marking.pictures import picture
from course_lib.staff.marking.record import FAILED, GRADED, Record, is_answered
from course_lib.staff.marking.tables import plain

OTHER_INPUTS = "Grading ran the same checks as your notebook, on other random inputs of the same kind."


def path_of(out: Path, student: str, topic: str) -> Path:
    """Where nbgrader's own feedback would stand, so that `nbgrader release_feedback` finds the folder."""
    return out / "feedback" / student / topic / "feedback.html"


def feedback_page(
    assignment: Assignment, record: Record, marks: Marks, due: datetime.datetime | None, submitted: datetime.datetime | None
) -> str:
    """The page. Times are UTC."""
    title = f"{assignment.topic}: feedback for {record.student}"
    head = [
        f"<h1>{text(assignment.slug.replace('_', ' ').capitalize())}</h1>",
        f'<p class="soft">Lab {text(assignment.topic)} · {text(record.student)}</p>',
        f'<p class="big"><strong>{plain(marks.total)} of {plain(assignment.points)} points</strong></p>',
        meter(marks.total / assignment.points, f"{plain(marks.total)} of {plain(assignment.points)} points", 300),
    ]
    waiting = [item for item in assignment.items if marks.items.get(item.name, Mark(None)).score is None]
    if waiting and record.status != FAILED:
        names = ", ".join(f"“{text(item.title)}”" for item in waiting)
        head.append(f"<p>Still to be graded by hand: {names}. These points are not in the sum yet.</p>")
    head.append(_lateness(marks, due, submitted))
    body = []
    if record.status == GRADED:
        body.append(f"<p>{OTHER_INPUTS}</p>")
    else:
        words = (
            "Your submission could not be read"
            if record.status != FAILED
            else "The grader itself failed on your submission; your instructor knows"
        )
        body.append(f'<div class="notice" role="note"><p><strong>{words}.</strong> {text(record.reason)}</p></div>')
    if record.notes:
        body.append(
            "<details open><summary>What was odd about the "
            f"notebook</summary><ul>{''.join(f'<li>{text(n)}</li>' for n in record.notes)}</ul></details>"
        )
    body.append(_overview(assignment, record, marks))
    body += [_item(assignment, number, item, record, marks) for number, item in enumerate(assignment.items, 1)]
    foot = (
        "<p>Points of an exercise are those of its checks that passed. Hints stand in the lab, folded, under each exercise's statement.</p>"
    )
    return page(title, "\n".join(head), "\n".join(body), foot)


def _lateness(marks: Marks, due: datetime.datetime | None, submitted: datetime.datetime | None) -> str:
    said = []
    if submitted is not None:
        said.append(f"Handed in {submitted:%Y-%m-%d %H:%M} UTC")
    if due is not None:
        said.append(f"due {due:%Y-%m-%d %H:%M} UTC" if said else f"Due {due:%Y-%m-%d %H:%M} UTC")
    if marks.seconds_late > 0:
        cost = f"costs {plain(marks.penalty)} points" if marks.penalty else "costs nothing"
        said.append(f"{duration(marks.seconds_late)} late, which {cost}")
    return f'<p class="soft">{"; ".join(said)}.</p>' if said else ""


def duration(seconds: float) -> str:
    """3 days 4 hours, 20 minutes: the two largest units that say it."""
    minutes = max(1, -(-int(seconds) // 60))
    parts = [(minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute")]
    said = [f"{n} {unit}{'s' if n > 1 else ''}" for n, unit in parts if n]
    return " ".join(said[:2])


def _overview(assignment: Assignment, record: Record, marks: Marks) -> str:
    rows = []
    for number, item in enumerate(assignment.items, 1):
        found = marks.items.get(item.name, Mark(None))
        link = f'<a href="#item-{number}">{text(item.heading)}</a>'
        rows.append([(link, ""), (_state(assignment, item, record, found), ""), (points_of(found, item), "n")])
    return table("Points by exercise", ["exercise", "state", "points"], rows)


def points_of(found: Mark, item: Item) -> str:
    return f"{plain(found.points) if found.score is not None else '–'} / {plain(item.points)}"


def _state(assignment: Assignment, item: Item, record: Record, found: Mark) -> str:
    if found.by_hand:
        return "graded by hand"
    if record.status != GRADED:
        return "not graded"
    if item.kind == EXERCISE:
        return mark(record.outcome(item))
    return "waits for grading by hand" if is_answered(assignment, item, record) else mark(outcomes.NOT_ATTEMPTED)


def _item(assignment: Assignment, number: int, item: Item, record: Record, marks: Marks) -> str:
    found = marks.items.get(item.name, Mark(None))
    graded = record.status == GRADED and item.kind == EXERCISE
    css = kind(record.outcome(item)) if graded else "open"
    name = f' <span class="soft">(<code>{text(item.name)}</code>)</span>' if item.kind == EXERCISE else ""
    parts = [
        f'<section class="exercise {css}" aria-labelledby="item-{number}">',
        f'<h2 id="item-{number}">{number}. {text(item.heading)}{name}</h2>',
        f"<p>{_state(assignment, item, record, found)} · <strong>{points_of(found, item)} points</strong></p>",
    ]
    if found.extra:
        parts.append(f"<p>{plain(found.extra)} of them are extra credit.</p>")
    if found.by_hand and item.kind == EXERCISE:
        parts.append(f"<p>The checks gave {plain(record.earned(item))}; a person gave {plain(found.score or 0.0)}.</p>")
    if found.comment:
        parts.append(f'<div class="hint"><p><strong>Comment:</strong></p><pre>{text(found.comment)}</pre></div>')
    if graded:
        parts += _exercise(record.of(item))
    elif item.kind == WRITTEN and is_answered(assignment, item, record):
        parts.append(f"<details><summary>Your answer</summary><pre>{text(record.written[item.name])}</pre></details>")
    parts.append("</section>")
    return "\n".join(parts)


def _exercise(results: list[Result]) -> list[str]:
    if not results:
        return ["<p>No check ran.</p>"]
    if all(r.outcome == outcomes.NOT_ATTEMPTED for r in results):
        return ["<p>The stub is still there, so no check could run.</p>"]
    parts = []
    for hint in dict.fromkeys(r.hint for r in results if r.hint):
        parts.append(f'<div class="hint"><p><strong>A mistake we know:</strong> {with_code(hint)}</p></div>')
    for r in results:
        points = f'<span class="soft">({plain(r.earned)} of {plain(r.points)} points)</span>'
        parts.append(f'<h3 class="check">{mark(r.outcome)}: {with_code(r.doc or r.name)} {points}</h3>')
        parts += facts(r)
    return parts


def facts(r: Result) -> list[str]:
    """What one check has to say: sentences, then case, call, line, expected and got."""
    if r.outcome == outcomes.PASSED:
        return (
            ["<p>Right, given a right helper from the earlier exercise; your own helper still has to be mended.</p>"]
            if r.with_substitute
            else []
        )
    parts = [f"<p>{with_code(r.message)}</p>"] if r.message else []
    lines = [("case", r.case), ("last call", r.call if r.outcome != outcomes.NOT_ATTEMPTED else None)]
    if r.line and r.line.get("text"):
        lines.append((f"your line {r.line.get('number', '?')}, in {r.line.get('function', '?')}", r.line["text"]))
    lines += [("expected", r.expected), ("got", r.got)] if r.expected != r.got else [("both are", r.expected)]
    said = "".join(f"<dt>{text(label)}</dt><dd><pre>{text(value)}</pre></dd>" for label, value in lines if value is not None)
    if said:
        parts.append(f"<dl>{said}</dl>")
    if isinstance(r.pictures, (list, tuple)) and len(r.pictures) == 2:
        drawn = picture(*r.pictures)
        if drawn:
            parts.append(f'<figure>{drawn}<figcaption class="soft">Expected, got, absolute difference.</figcaption></figure>')
    return parts
