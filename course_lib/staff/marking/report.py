"""A page a class: how hard each item was, which misconceptions there are, who needs a second look."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from pathlib import Path

from course_lib.checks import outcomes
from course_lib.checks.render import SEVERITY, word
from course_lib.staff.marking.assignment import EXERCISE, Assignment, Item
from course_lib.staff.marking.feedback import duration
from course_lib.staff.marking.gradebook import Marks
from course_lib.staff.marking.pages import bars, meter, page, table, text, with_code
from course_lib.staff.marking.record import FAILED, GRADED, UNREADABLE, Record
from course_lib.staff.marking.similarity import FEWEST, GRAM, LIKE, Pair
from course_lib.staff.marking.statistics import FEWEST as FEWEST_STUDENTS
from course_lib.staff.marking.statistics import difficulty, discrimination, histogram, quantile
from course_lib.staff.marking.tables import plain

NAMES = 12  # students named in one place before "and n more"


def path_of(out: Path, topic: str) -> Path:
    """Where the class report stands; marks.csv stands beside it."""
    return out / "reports" / topic / "report.html"


def report_page(
    assignment: Assignment, records: dict[str, Record], marks: dict[str, Marks], pairs: list[Pair], due: datetime.datetime | None
) -> str:
    """The page. Results carry the ids of known mistakes, which the grader recognises under the private seed; `due` is UTC."""
    graded = {student: record for student, record in records.items() if record.status == GRADED and student in marks}
    head = [
        f"<h1>Class report: {text(assignment.slug.replace('_', ' '))}</h1>",
        f'<p class="soft">Lab {text(assignment.topic)} · {len(records)} submission{"s" * (len(records) != 1)}, {len(graded)} graded'
        + (f" · due {due:%Y-%m-%d %H:%M} UTC" if due else "")
        + "</p>",
        '<nav aria-label="Sections"><p><a href="#attention">To look at</a> · <a href="#totals">Totals</a> · <a '
        'href="#items">Questions</a> · '
        '<a href="#mistakes">Misconceptions</a> · <a href="#similar">Near-identical</a> · <a href="#time">Time</a></p></nav>',
    ]
    body = [
        _attention(assignment, records, marks),
        _totals(assignment, graded, marks),
        _items(assignment, graded, marks),
        _mistakes(assignment, graded),
        _similar(pairs),
        _time(graded),
    ]
    foot = "<p>For instructors: names and marks of a class. Marks of single students stand in marks.csv beside this page.</p>"
    return page(f"{assignment.topic}: class report", "\n".join(head), "\n".join(body), foot)


def _names(students: list[str]) -> str:
    shown = ", ".join(text(student) for student in students[:NAMES])
    return shown + (f" and {len(students) - NAMES} more" if len(students) > NAMES else "")


def _attention(assignment: Assignment, records: dict[str, Record], marks: dict[str, Marks]) -> str:
    unreadable = [[(text(s), ""), (text(r.reason), "w")] for s, r in sorted(records.items()) if r.status == UNREADABLE]
    failed = [[(text(s), ""), (text(r.reason), "w")] for s, r in sorted(records.items()) if r.status == FAILED]
    parts = ['<section aria-labelledby="attention"><h2 id="attention">To look at</h2>']
    if unreadable:
        parts.append(
            "<h3>Could not be read</h3><p>These earned nothing. Ask for a new copy, put it in place of the old one, and grade again.</p>"
        )
        parts.append(table("Submissions that could not be read", ["student", "why"], unreadable, stack=True))
    if failed:
        parts.append("<h3>The grader failed</h3><p>No fault of the students. The next run tries these again.</p>")
        parts.append(table("Submissions on which the grader failed", ["student", "why"], failed, stack=True))
    for item in assignment.items:
        waiting = [s for s, found in marks.items() if s in records and item.name in found.needs_hand]
        if waiting:
            parts.append(f"<p><strong>{len(waiting)} to grade by hand</strong> in “{text(item.title)}”: {_names(waiting)}</p>")
    late = [s for s, found in marks.items() if s in records and found.seconds_late > 0]
    if late:
        longest = max(marks[s].seconds_late for s in late)
        parts.append(f"<p><strong>{len(late)} late</strong>, by {duration(longest)} at most: {_names(late)}</p>")
    odd = [s for s, record in records.items() if record.notes and record.status == GRADED]
    if odd:
        parts.append(f"<details><summary>{len(odd)} odd notebook{'s' * (len(odd) != 1)}, graded all the same</summary><ul>")
        parts += [f"<li>{text(s)}: {text(' '.join(records[s].notes))[:600]}</li>" for s in sorted(odd)[:100]]
        parts.append("</ul></details>")
    if len(parts) == 1:
        parts.append("<p>Nothing: all submissions were read and need no hand.</p>")
    return "\n".join([*parts, "</section>"])


def _totals(assignment: Assignment, graded: dict[str, Record], marks: dict[str, Marks]) -> str:
    head = '<section aria-labelledby="totals"><h2 id="totals">Totals</h2>'
    if not graded:
        return f"{head}<p>Nothing was graded.</p></section>"
    totals = [marks[s].total for s in graded]
    low, middle, high = (quantile(totals, share) for share in (0.25, 0.5, 0.75))
    edges = [assignment.points * i / 5 for i in range(6)]
    counts = []
    for i, (a, b) in enumerate(zip(edges, edges[1:])):
        counts.append((f"{plain(a)} – {plain(b)}", sum(a <= t and (t < b or i == 4) for t in totals)))
    said = f"Median {plain(middle)} of {plain(assignment.points)} points; the middle half of the class has {plain(low)} to {plain(high)}."
    return f"{head}<p>{said}</p>{bars(counts, 'Students by points')}</section>"


def _items(assignment: Assignment, graded: dict[str, Record], marks: dict[str, Marks]) -> str:
    students = sorted(graded)
    parts = ['<section aria-labelledby="items"><h2 id="items">Questions</h2>']
    rows = []
    for item in assignment.items:
        scored = [s for s in students if marks[s].items[item.name].score is not None]
        scores = [marks[s].items[item.name].points for s in scored]
        waiting = len(students) - len(scored)
        mean = None if waiting else difficulty(scores, item.points)  # those graded first are not the class
        r = None if waiting else discrimination(scores, [marks[s].points for s in scored])
        remark = f"{waiting} still to be graded" if waiting else _remark(mean, r)
        share = "–" if mean is None else f"{mean:.0%}{meter(mean, f'{mean:.0%} of the points')}"
        shown = "–" if r is None else f"{r:+.2f}"
        rows.append(
            [(text(item.heading), ""), (plain(item.points), "n"), (str(len(scored)), "n"), (share, ""), (shown, "n"), (remark, "w")]
        )  # fmt: skip
    parts.append(
        table(
            "Difficulty and discrimination",
            ["question", "points", "graded", "mean share of points", "discrimination", "remark"],
            rows,
            stack=True,
        )
    )
    parts.append(
        "<details><summary>What these numbers are</summary><p><strong>Mean share</strong> (difficulty): mean of the points earned "
        "over the points "
        "possible; high is easy.</p><p><strong>Discrimination</strong>: the point-biserial correlation of the question with the "
        "rest of the lab, "
        "r = Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)² · Σ(y − ȳ)²) over students, with x the points of the question and y the points of all "
        "other questions. "
        "Near 0 or below it, those who know the rest do no better here: look at the question. It needs "
        f"{FEWEST_STUDENTS} students or more, and says little below thirty; “–” stands where it is not defined.</p></details>"
    )
    parts.append('<div class="grid">')
    for item in assignment.items:
        scores = [marks[s].items[item.name].points for s in students if marks[s].items[item.name].score is not None]
        if scores and len(scores) == len(students):
            drawn = bars(histogram(scores, item.points), f"Students by share of the points in {item.title}")
            checks = _outcomes(item, graded) if item.kind == EXERCISE else ""
            parts.append(f"<div><h3>{text(item.heading)}</h3>{drawn}{checks}</div>")
    parts.append("</div>")
    return "\n".join([*parts, "</section>"])


def _remark(mean: float | None, r: float | None) -> str:
    said = []
    if mean is not None and mean < 0.3:
        said.append("hard")
    if mean is not None and mean > 0.95:
        said.append("nearly everybody has it")
    if r is not None and r < 0.1:
        said.append("does not separate strong from weak")
    return ", ".join(said)


def _outcomes(item: Item, graded: dict[str, Record]) -> str:
    by_check: dict[str, Counter] = defaultdict(Counter)
    docs: dict[str, str] = {}
    for record in graded.values():
        for r in record.of(item):
            by_check[r.name][r.outcome] += 1
            docs[r.name] = r.doc or r.name
    if not by_check:
        return ""
    order = [outcomes.PASSED, *[o for o in SEVERITY if o != outcomes.PASSED]]
    shown = [o for o in order if any(counts[o] for counts in by_check.values())]
    rows = [[(with_code(docs[name]), "w"), *((str(counts[o]), "n") for o in shown)] for name, counts in by_check.items()]
    drawn = table("Students by outcome", ["check", *map(word, shown)], rows, stack=True)
    return f"<details><summary>Checks of “{text(item.title)}”</summary>{drawn}</details>"


def _mistakes(assignment: Assignment, graded: dict[str, Record]) -> str:
    who: dict[str, list[str]] = defaultdict(list)
    unnamed: dict[str, list[str]] = defaultdict(list)
    hints = dict(assignment.hints)
    for student, record in sorted(graded.items()):
        for item in assignment.exercises:
            results = record.of(item)
            found = {r.mistake: r.hint for r in results if r.mistake}
            for identity, hint in found.items():
                who[identity].append(student)
                hints.setdefault(identity, hint or "")
            if not found and any(r.outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED) for r in results):
                unnamed[item.name].append(student)
    parts = ['<section aria-labelledby="mistakes"><h2 id="mistakes">Misconceptions</h2>']
    parts.append("<p>Wrong answers that equal a mistake we know, case by case, on the inputs of the grading.</p>")
    titles = {item.name: item.heading for item in assignment.items}
    if who:
        rows = [
            [(text(titles.get(i.split("/")[0], i)), ""), (str(len(s)), "n"), (with_code(hints.get(i, "")), "w"), (_names(s), "w")]
            for i, s in sorted(who.items(), key=lambda entry: (-len(entry[1]), entry[0]))
        ]
        parts.append(table("Known mistakes by number of students", ["question", "students", "the hint they read", "who"], rows, stack=True))
    else:
        parts.append("<p>No wrong answer equals a mistake we know.</p>")
    if unnamed:
        parts.append("<h3>Wrong in a way nobody has named yet</h3><p>Worth reading: a new mistake, with a hint, helps the next class.</p>")
        rows = [
            [(text(titles[name]), ""), (str(len(s)), "n"), (_names(s), "w")]
            for name, s in sorted(unnamed.items(), key=lambda entry: -len(entry[1]))
        ]
        parts.append(table("Wrong answers without a name", ["question", "students", "who"], rows, stack=True))
    return "\n".join([*parts, "</section>"])


def _similar(pairs: list[Pair]) -> str:
    parts = [
        '<section aria-labelledby="similar"><h2 id="similar">Near-identical submissions</h2>',
        "<p><strong>A hint where to look, not a verdict.</strong> Short exercises have few right answers, and students may have "
        "worked together with leave. "
        "Read both submissions before you think anything of it.</p>",
    ]
    if pairs:
        rows = [
            [
                (f"{text(p.first)} and {text(p.second)}", ""),
                (f"{p.similarity:.0%}", "n"),
                (str(p.shared), "n"),
                ("word for word" if p.word_for_word else "", ""),
            ]
            for p in pairs
        ]
        parts.append(table("Pairs, the most alike first", ["submissions", "similarity", "shared passages", ""], rows, stack=True))
    else:
        parts.append(f"<p>No pair is {LIKE:.0%} alike or more.</p>")
    parts.append(
        "<details><summary>How this is measured</summary><p>Code is cut into tokens; comments, layout and the names a student "
        f"chose do not count. Runs of {GRAM} "
        "tokens are hashed and thinned out by winnowing (Schleimer, Wilkerson and Aiken, 2003); what was handed out with the lab, "
        "and what more than a fifth of "
        "the class has, is left out. Similarity is the share of the smaller submission's passages that the other one has too. "
        "Submissions with fewer than "
        f"{FEWEST} passages of their own are not compared.</p></details>"
    )
    return "\n".join([*parts, "</section>"])


def _time(graded: dict[str, Record]) -> str:
    head = '<section aria-labelledby="time"><h2 id="time">Time</h2>'
    if not graded:
        return f"{head}<p>Nothing was graded.</p></section>"
    seconds = [record.seconds for record in graded.values()]
    slowest = sorted(graded.values(), key=lambda record: -record.seconds)[:5]
    limits = [r.student for r in graded.values() if any(result.get("outcome") == outcomes.OUT_OF_LIMITS for result in r.results)]
    said = f"Grading took {quantile(seconds, 0.5):.2f} s a submission (median), {quantile(seconds, 0.95):.2f} s at the 95th percentile."
    rows = [[(text(record.student), ""), (f"{record.seconds:.2f}", "n")] for record in slowest]
    ran_out = f"<p><strong>{len(limits)} ran out of time or memory</strong> in a check: {_names(sorted(limits))}</p>" if limits else ""
    return f"{head}<p>{said}</p>{ran_out}{table('The slowest submissions', ['student', 'seconds'], rows)}</section>"
