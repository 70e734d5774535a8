"""The ledger says what is so, and each way in which it may not be so is noticed."""

from __future__ import annotations

import shutil

import pytest

from course_lib.staff import build, ledger
from course_lib.staff.sources import REPO


def test_the_ledger_is_true():
    assert ledger.problems() == []


def test_the_map_has_thirty_one_topics_and_the_world():
    book = ledger.load()
    assert [topic.number for topic in book.topics] == [f"{number:02d}" for number in range(32)]
    assert set(book.parts) == {topic.part for topic in book.topics}


def test_the_readme_shows_the_map_of_the_ledger():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert text == ledger.readme_text()
    for topic in ledger.load().topics:
        assert f"| {topic.number} |" in text


@pytest.fixture
def course(tmp_path):
    for name in ("site", "lectures", "solutions", "data/measurements"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("*.ipynb", "_build", "static"))
    shutil.copy(REPO / "README.md", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('section = "Channels and groups"', 'section = "Channels and gruops"', "no section 'Channels and gruops'"),
        ('exercises = ["im2col"]', 'exercises = ["im2row"]', "no exercise 'im2row'"),
        ('exercises = ["im2col"]', 'exercises = ["conv2d_im2col"]', "the exercise 'im2col' covers nothing"),
        ("mistakes = 98", "mistakes = 97", "98 known mistakes, the ledger says 97"),
        ('measurement = "im2col_ratios"', 'measurement = "ratios"', "no measurement 'ratios' is stored"),
        ('measurement = "im2col_ratios"', 'measurement = "ratios"', "'im2col_ratios' stands behind no claim"),
        ('measurement = "im2col_ratios"\nnotebook = "solution"', 'measurement = "im2col_ratios"\nnotebook = "lecture"', "does not draw"),
        ('topic = "03_transfer_learning"', 'topic = "02_transposed_convolution"', "stands twice"),
        ('topic = "01_convolution_arithmetic"', 'topic = "01_convolution"', "01_convolution_arithmetic is in the course and not in the ledger"),
        ('part = "VIII"', 'part = "IX"', "no part 'IX'"),
    ],
)
def test_what_is_not_so_is_found(course, old, new, said):
    path = ledger.ledger_path(course)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(said in problem for problem in ledger.problems(course)), ledger.problems(course)


def test_an_unknown_field_is_refused(course):
    path = ledger.ledger_path(course)
    path.write_text(path.read_text(encoding="utf-8").replace("builds =", "bulids =", 1), encoding="utf-8")
    with pytest.raises(ledger.LedgerError, match="bulids"):
        ledger.load(course)


def test_a_readme_that_lags_behind_fails_the_build_check(course):
    path = course / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace("| planned |", "| soon |", 1), encoding="utf-8")
    assert any("map" in problem for problem in build._check_ledger(course))


def test_minutes_are_those_of_the_first_cell():
    assert ledger.minutes("01_convolution_arithmetic") == {"lecture": 75, "lab": 120}
