"""Feedback and class report: escaped, without scripts, readable by everybody; and the numbers on them."""

import base64
import dataclasses
import re
import struct
from html.parser import HTMLParser

import marking_helpers as helpers
import numpy as np
import pytest
from marking_helpers import TOPIC

from course_lib.checks.outcomes import ERROR, PASSED, WRONG, Result
from course_lib.staff.marking import assignment, pages, statistics
from course_lib.staff.marking.feedback import duration, feedback_page
from course_lib.staff.marking.gradebook import Mark, Marks
from course_lib.staff.marking.pictures import picture
from course_lib.staff.marking.record import UNREADABLE, Record, cut, from_grader
from course_lib.staff.marking.report import report_page
from course_lib.staff.marking.similarity import Pair, pairs, tokens
from course_lib.staff.marking.tables import rows, write_csv

EVIL = "</pre></td><script>alert(1)</script><img src=x onerror=alert(1)>\"'`<a href=javascript:alert(1)>x</a>\u202e"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return assignment.load(TOPIC, helpers.make_course(tmp_path_factory.mktemp("pages") / "course"))


def evil_record(student=EVIL):
    fields = {
        "message": EVIL,
        "doc": EVIL,
        "case": EVIL,
        "call": EVIL,
        "expected": EVIL,
        "got": EVIL + "2",
        "hint": EVIL,
        "mistake": f"doubled/{EVIL}",
    }
    wrong = Result("by_hand", "doubled", 1.0, 0.0, WRONG, **fields, line={"function": EVIL, "number": EVIL, "text": EVIL})
    plane = {"shape": [2, 2], "float32": base64.b64encode(np.eye(2, dtype="<f4").tobytes()).decode()}
    wrong.pictures = [plane, plane]
    other = Result("any_list", "doubled", 2.0, 2.0, PASSED, with_substitute=True)
    return Record(student, "k", results=[vars(wrong), vars(other), vars(Result("adds", "shifted", 2.0, 0.0, ERROR, message=EVIL))],
                  written={"growth": EVIL}, cells={"exercise_doubled": EVIL}, notes=[EVIL])  # fmt: skip


def marks_of(student, doubled=2.0, shifted=0.0, growth=None, **others):
    items = {"doubled": Mark(doubled), "shifted": Mark(shifted, comment=EVIL), "growth": Mark(growth, needs_hand=growth is None)}
    return Marks(student, items, **others)


class Outline(HTMLParser):
    """What a screen reader and a keyboard find."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.levels, self.headers, self.ids, self.links, self.bad = [], [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "th":
            self.headers.append(found.get("scope"))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found.get("href"))
        if tag in ("svg", "img") and not (found.get("aria-label") or found.get("alt")):
            self.bad.append(f"{tag} without words")
        if any(name.startswith("on") for name in found) or found.get("src", "data:").split(":")[0] != "data":
            self.bad.append(f"{tag} {attributes}")


@pytest.fixture(scope="module")
def both(lab):
    record = evil_record()
    unreadable = Record("zed", "k", UNREADABLE, EVIL)
    students = {EVIL: marks_of(EVIL, seconds_late=90_000.0, penalty=0.5), "zed": marks_of("zed", 0.0)}
    report = report_page(lab, {EVIL: record, "zed": unreadable}, students, [Pair(EVIL, "zed", 0.9, 30, True)], None)
    return {
        "feedback": feedback_page(lab, record, students[EVIL], None, None),
        "unreadable": feedback_page(lab, unreadable, students["zed"], None, None),
        "report": report,
    }


@pytest.mark.parametrize("name", ["feedback", "unreadable", "report"])
def test_pages_are_safe_and_usable(both, name):
    html = both[name]
    page = Outline(html)
    assert page.bad == [] and not {"script", "iframe", "object", "form", "link", "base"} & set(page.tags)
    assert (
        "alert(1)</script>" not in html
        and "onerror=alert(1)>" not in html
        and "\u202e" not in html
        and "javascript:" not in "".join(page.links)
    )
    assert (
        '<meta http-equiv="Content-Security-Policy" content="default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;; '
        'img-src data:'
        in html
    )
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.levels, page.levels[1:])), page.levels
    assert set(page.headers) <= {"row", "col"} and page.headers
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#")) and len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links), "a self-contained page leads nowhere else"
    assert {"main", "header", "footer"} <= set(page.tags) and '<html lang="en">' in html and 'name="viewport"' in html
    assert "http://" not in html and "https://" not in html


def test_feedback_says_what_happened(both, lab):
    html = both["feedback"]
    for words in ("Grading ran the same checks as your notebook, on other random inputs of the same kind.", "A mistake we know:", "Still to be graded by hand",
                  "1 day 1 hour late, which costs 0.5 points", "given a right helper from the earlier exercise", "data:image/png;base64,", "<dt>expected</dt>"):  # fmt: skip
        assert words in html, words
    assert "could not be read" in both["unreadable"] and "Grading ran the same" not in both["unreadable"]


def test_report_says_what_is_measured(both):
    html = both["report"]
    for words in (
        "A hint where to look, not a verdict.",
        "point-biserial",
        "r = Σ(x − x̄)(y − ȳ)",
        "Could not be read",
        "2 to grade by hand",
        "word for word",
        "90%",
    ):
        assert words in html, words


def test_a_class_of_nobody_and_of_one_has_a_report(lab):
    assert "Nothing was graded" in report_page(lab, {}, {}, [], None)
    one = {"ada": Record("ada", "k")}
    assert "–" in report_page(lab, one, {"ada": marks_of("ada")}, [], None)


def test_durations():
    assert [duration(s) for s in (1, 60, 61, 3600, 90_000, 200_000)] == [
        "1 minute",
        "1 minute",
        "2 minutes",
        "1 hour",
        "1 day 1 hour",
        "2 days 7 hours",
    ]


def test_pictures_of_any_values_are_valid_and_what_is_no_picture_is_none():
    def plane(array):
        return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}

    values = np.array([[0.0, np.nan, np.inf], [-np.inf, 1e38, -1e38]])
    for got, expected in [(values, values), (values, np.zeros((2, 3))), (np.zeros((64, 1)), np.ones((64, 1)))]:
        html = picture(plane(got), plane(expected))
        data = base64.b64decode(re.search('base64,([^"]+)', html)[1])
        width, height = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and f'width="{width}" height="{height}"' in html
    from io import BytesIO

    from matplotlib.image import imread

    assert imread(BytesIO(data), format="png").shape[:2] == (height, width)
    for broken in ({}, {"shape": [2, 2], "float32": "AAAA"}, {"shape": "x"}, None):
        assert picture(broken, plane(values)) == ""
    assert picture(plane(np.zeros((2, 2))), plane(np.zeros((3, 2)))) == ""


def test_numbers_of_a_class():
    assert statistics.difficulty([1, 0, 2], 2) == 0.5 and statistics.difficulty([], 2) is None
    scores, totals = [0, 0, 1, 1, 1, 0], [3, 4, 9, 7, 8, 2]
    rest = [t - s for s, t in zip(scores, totals)]
    assert statistics.discrimination(scores, totals) == pytest.approx(np.corrcoef(scores, rest)[0, 1])
    assert statistics.discrimination([1] * 6, totals) is None and statistics.discrimination([0, 1], [1, 2]) is None
    assert [n for _, n in statistics.histogram([0, 1, 1.5, 2, 3, 3], 3)] == [1, 1, 2, 0, 2]
    for share in (0.0, 0.25, 0.5, 0.95, 1.0):
        assert statistics.quantile(totals, share) == pytest.approx(np.quantile(totals, share))


def test_similarity_sees_through_renaming_and_leaves_honest_ones_alone():
    given = ["def f(x):\n    raise NotImplementedError()"]
    long = "\n".join(
        f"    part_{i} = [value * {i} + offset[{i}] for value in numbers if value > {i} - {i + 1}]\n    total += sum(part_{i}) ** {i}"
        for i in range(8)
    )
    first = f"def f(numbers):\n    total = 0\n{long}\n    return total"
    renamed = "# mine!\n" + re.sub(r"\btotal\b", "s", re.sub(r"part_", "q", first.replace("    ", "  ")))
    other = "def f(x):\n" + "\n".join(
        f"    x = torch.roll(x, {i}).clamp(min={i}).reshape(-1, {i + 2}).mean(dim=1, keepdim=True)" for i in range(9)
    )
    found = pairs(
        {"ada": {"c": first}, "bob": {"c": renamed}, "cleo": {"c": other}, "dan": {"c": first}, "eve": {}, "fay": {"c": given[0]}}, given
    )
    assert {(p.first, p.second, p.word_for_word) for p in found} == {("ada", "bob", False), ("ada", "dan", True), ("bob", "dan", False)}
    assert all(p.similarity >= 0.8 for p in found)
    assert pairs({f"s{i}": {"c": first} for i in range(40)}, given) == [], "what everybody has is the exercise's shape"
    assert pairs({"ada": {"c": first}, "bob": {"c": first}}, [first]) == [], "what was given is not copied"


@pytest.mark.parametrize(
    "text", ["", "x = 'unclosed", "def f(:\n\t  \x00 %% ü ((", "print 'hello'", "\\", "'''", "x" * 10_000, "  indented\n wrong"]
)
def test_tokens_of_anything(text):
    assert isinstance(tokens(text), list)
    assert pairs({"ada": {"c": text * 3}, "bob": {"c": text * 3}}, [text]) is not None


def test_table_for_spreadsheets(lab):
    table = rows(lab, {"=cmd": marks_of("=cmd"), "ada": marks_of("ada", growth=1.5)}, {"=cmd": Record("=cmd", "k", UNREADABLE, "+1")})
    text = write_csv(table)
    assert (
        text.splitlines()[0] == "student,lab,doubled,shifted,growth,points,penalty,total,maximum,late,needs_hand_grading,could_not_be_read"
    )
    assert text.splitlines()[1:] == ["'=cmd,90_toy,2,0,,2,0,2,7,,growth,'+1", "ada,90_toy,2,0,1.5,3.5,0,3.5,7,,,"]


def test_records_are_cut_to_size_and_cells_find_their_exercise():
    from types import SimpleNamespace

    sources = [
        "import torch",
        "def shifted(v):\n    return 1",
        "doubled = lambda v: v\nclass shifted: pass",
        "doubled == 3",
        "x" * 200_000,
        "bad \ud800 \x00",
    ]
    answer = SimpleNamespace(results=[], unreadable=None, cells=sources, written={"growth": "y" * 200_000}, problems=["p"] * 500, seconds=1)
    record = from_grader("ada", "k", answer, ["doubled", "shifted"])
    assert record.cells["exercise_doubled"] == record.cells["exercise_shifted"] == sources[2] and set(record.cells) >= {
        "own_1",
        "own_2",
        "own_4",
        "own_5",
        "own_6",
    }
    assert len(record.written["growth"]) < 110_000 and "100,000 characters more" in record.written["growth"] and len(record.notes) == 100
    assert record.cells["own_6"] == "bad ? \ufffd" and cut("a" * 5, 5) == "a" * 5
    assert dataclasses.asdict(record)


def test_an_odd_backquote_stays():
    assert pages.with_code("a `b` <c>") == "a <code>b</code> &lt;c&gt;" and pages.with_code("it`s <c>") == "it`s &lt;c&gt;"
