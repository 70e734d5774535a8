"""The same facts as HTML and as plain text, safe whatever a student's values hold, with pictures that have words."""

import base64
import re
import warnings
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checks_helpers import run
from course_lib.checks import expect_close, render
from course_lib.checks.outcomes import ERROR, NOT_ATTEMPTED, OUT_OF_LIMITS, OUTCOMES, PASSED, WRONG, Result

EXERCISE = {"name": "f", "title": "write f", "points": 3, "minutes": 5, "hints": 3, "checks": ["a", "b"]}
ALLOWED = {
    "div": {"style", "role", "aria-label", "aria-valuemin", "aria-valuemax", "aria-valuenow"},
    "span": {"style", "aria-hidden"},
    "img": {"src", "alt", "style"},
    "th": {"style"},
    "td": {"style"},
    "tr": {"style"},
    "table": {"style"},
    "strong": {"style"},
    "code": {"style"},
    "em": set(),
    "thead": set(),
    "tbody": set(),
}


class Reader(HTMLParser):
    """What a reader of the page sees and hears; refuses tags and attributes that we do not write, and tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in ALLOWED and {name for name, _ in attributes} <= ALLOWED[tag], (tag, attributes)
        if tag == "img":
            found = dict(attributes)
            self.images.append((found["src"], found["alt"]))
            self.text.append(f" {found['alt']} ")
        else:
            self.open.append(tag)
        if tag in ("div", "td", "th", "tr"):
            self.text.append(" ")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text.append(" " if tag in ("div", "td", "th", "tr") else "")

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        raise AssertionError("a comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


def tokens(text: str) -> list[str]:
    """Words and signs, without what is layout: blanks, the colon after a label, the backticks that become code."""
    return [token for token in re.findall(r"\w+|[^\w\s]", text) if token not in (":", "`")]


def facts(panel: render.Panel) -> tuple[list[str], list[str]]:
    """Tokens of the text and of the page; a picture is called one in the text only."""
    plain = tokens(re.sub(r"^ +picture: ", "", panel.text, flags=re.MULTILINE))
    return plain, tokens("".join(Reader(panel.html).text))


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.sampled_from(
    ["<script>alert(1)</script>", "</div>", "a & b &amp; c", "\"'><img src=x onerror=alert(1)>", "`code`", "one ` tick", "<!-- x", "]]>", "&#60;b&#62;"]
)
results = st.builds(
    Result,
    name=st.just("a"),
    exercise=st.just("f"),
    points=st.sampled_from([1.0, 0.5, 2.0]),
    earned=st.sampled_from([0.0, 1.0]),
    outcome=st.sampled_from(OUTCOMES),
    message=texts,
    doc=texts,
    case=st.none() | texts,
    call=st.none() | texts,
    expected=st.none() | texts,
    got=st.none() | texts,
    hint=st.none() | texts,
    line=st.none() | st.fixed_dictionaries({"function": texts, "number": st.integers(1, 99), "text": texts}),
    with_substitute=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(results, min_size=1, max_size=3), st.integers(0, 5))
def test_page_and_text_say_the_same_whatever_the_values_hold(found, failures):
    plain, page = facts(render.exercise_panel(EXERCISE, found, failures))
    assert plain == page


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(texts, texts, st.sampled_from(OUTCOMES), st.booleans()), min_size=1, max_size=4))
def test_progress_as_page_and_as_text(rows):
    rows = [{"name": n, "title": t, "points": 2, "earned": 1.5, "outcome": o, "earlier": e} for n, t, o, e in rows]
    panel = render.progress_panel("91_small", rows, [{"name": "why", "points": 2}])
    Reader(panel.html)
    _, page = facts(panel)
    assert sorted(set(tokens(re.sub(r"\[[#.]+\]$", "", panel.text.split("\n")[0]))) - set(page)) == []
    for row, line in zip(rows, panel.text.split("\n")[1:]):
        for fact in (row["name"], row["title"], render.word(row["outcome"]), "1.5", "earlier session" if row["earlier"] else ""):
            assert not set(tokens(fact)) - set(tokens(line)) and not set(tokens(fact)) - set(page)


def test_a_students_values_are_escaped():
    def check(f):
        expect_close(f(torch.ones(2)), ["a"], "<i>case</i>")

    script = "<script>alert('x')</script>"
    result = run(check, f"def f(x): return [{script!r}]")
    panel = render.exercise_panel(EXERCISE, [result], 1)
    assert script in panel.text and "<script" not in panel.html and "&lt;script&gt;" in panel.html and "<i>" not in panel.html
    error = run(check, f"def f(x): raise ValueError({script!r})")
    panel = render.exercise_panel(EXERCISE, [error], 1)
    assert f"ValueError: {script}" in panel.text and "<script" not in panel.html


# --- outcomes -----------------------------------------------------------------------------------------------------------------------


def of(outcome, **facts):
    return Result("a", "f", 1.0, 1.0 if outcome == PASSED else 0.0, outcome, doc="what is checked", **facts)


@pytest.mark.parametrize(
    ("found", "overall"),
    [
        ([PASSED, PASSED], PASSED),
        ([NOT_ATTEMPTED, NOT_ATTEMPTED], NOT_ATTEMPTED),
        ([PASSED, NOT_ATTEMPTED], NOT_ATTEMPTED),
        ([PASSED, WRONG], WRONG),
        ([WRONG, NOT_ATTEMPTED], WRONG),
        ([WRONG, OUT_OF_LIMITS], OUT_OF_LIMITS),
        ([WRONG, ERROR, OUT_OF_LIMITS, PASSED], ERROR),
    ],
)
def test_the_outcome_of_an_exercise(found, overall):
    assert render.overall([of(o) for o in found]) == overall


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([of(PASSED)], ["✓ f: 1 of 3 points (passed)", "✓ [1/1] what is checked", "Graded on other random inputs of the same kind."]),
        ([of(NOT_ATTEMPTED)], ["○ f: 0 of 3 points (not attempted)", "Not attempted yet. Write your code in the cell above"]),
        ([of(PASSED), of(NOT_ATTEMPTED)], ["○ f: 1 of 3 points", "Checks marked ○ wait for the part that is still empty."]),
        ([of(ERROR, message="KeyError: 1")], ["! f: 0 of 3 points (error in your code)", "KeyError: 1", "open Hint 1"]),
        ([of(OUT_OF_LIMITS, message="Too slow.")], ["⧗ f: 0 of 3 points (out of time or memory)", "Too slow."]),
        ([of(WRONG, case="two", expected="1.0", got="2.0", call="f(2)")], ["case:      two", "last call: f(2)", "expected:  1.0", "got:       2.0"]),
        ([of(WRONG, hint="You squared.", mistake="f/1")], ["Known mistake: You squared."]),
        ([of(PASSED, with_substitute=True)], ["given a right helper from the earlier exercise; your own helper still has to be mended"]),
        ([of(ERROR, line={"function": "g", "number": 3, "text": "return 1 / 0"})], ["your line: return 1 / 0   (line 3 of the cell, in g)"]),
    ],
)
def test_what_each_outcome_says(found, said):
    text = render.exercise_panel(EXERCISE, found, 1).text
    for part in said:
        assert part in text


@pytest.mark.parametrize(("points", "words"), [(2.0, "2"), (0.5, "0.5"), (17.25, "17.25"), (0.0, "0"), (10.0, "10"), (2.9999999999, "3")])
def test_points_are_told_without_rounding_a_quarter_away(points, words):
    assert render.number(points) == words


def test_a_known_mistake_is_named_once_above_the_checks():
    found = [of(WRONG, hint="You squared.", mistake="f/1"), of(ERROR, hint="You squared.", mistake="f/1")]
    panel = render.exercise_panel(EXERCISE, found, 1)
    assert panel.html.count("You squared.") == 1
    assert panel.text.splitlines()[1].strip() == "Known mistake: You squared."
    assert "Mend the known mistake first" in panel.text and "open Hint" not in panel.text  # the hints go by count, the mistake is certain


@pytest.mark.parametrize(("failures", "hint"), [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_next_hint_and_never_one_that_is_not_there(failures, hint):
    assert f"open Hint {hint} under" in render.exercise_panel(EXERCISE, [of(WRONG)], failures).text
    assert "Hint" not in render.exercise_panel({**EXERCISE, "hints": 0}, [of(WRONG)], failures).text


def test_outside_a_kernel_the_text_is_printed(capsys):
    panel = render.exercise_panel(EXERCISE, [of(PASSED)], 0)
    render.show(panel)
    assert capsys.readouterr().out == panel.text + "\n"
    assert panel._repr_mimebundle_() == {"text/html": panel.html, "text/plain": panel.text}


# --- pictures -----------------------------------------------------------------------------------------------------------------------


def picture(got, expected):
    """The page of an answer that is wrong in a plane, its only image and the words for it."""

    def check(f):
        expect_close(f(), expected, "a plane")

    result = run(check, {"__name__": "__main__", "f": lambda: got})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = render.exercise_panel(EXERCISE, [result], 1)
    ((source, alt),) = Reader(panel.html).images
    plain, page = facts(panel)
    assert plain == page
    return base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True), alt


def test_a_wrong_image_is_shown_with_the_place_of_the_difference_in_words():
    expected = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(0))
    got = expected.clone()
    got[1, 2:5, 3:9] += 1
    data, alt = picture(got, expected)
    assert data.startswith(b"\x89PNG") and len(data) > 1000
    assert alt == "expected, got and their difference: rows 2 to 4 and columns 3 to 8 of (8, 9)"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_values_that_cannot_be_drawn_are_drawn_around(value):
    expected = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    got = expected.clone()
    got[3, 4] = value
    assert picture(got, expected)[1].endswith("rows 3 to 3 and columns 4 to 4 of (8, 8)")
    if value != 1e30:  # beside that, a difference of one is none
        both = got.clone()
        both[6, 6] += 1
        assert picture(both, got)[1].endswith("rows 6 to 6 and columns 6 to 6 of (8, 8)")


@pytest.mark.parametrize("expected", [torch.zeros(6, 6), torch.full((6, 6), float("nan")), torch.ones(6, 6, dtype=torch.bool), torch.ones(1, 6, 6).long()])
def test_planes_without_contrast_of_any_type(expected):
    got = ~expected if expected.dtype == torch.bool else torch.full_like(expected, 3)
    assert picture(got, expected)[1].endswith("rows 0 to 5 and columns 0 to 5 of (6, 6)")
