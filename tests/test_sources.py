"""A source that breaks a rule is refused, with the line and the reason; a good one is read as it stands."""

import inspect
import shutil
import traceback
from pathlib import Path

import pytest

from course_lib.staff import sources

FIXTURE = Path(__file__).parent / "fixtures" / "course"
TOPIC = "90_toy"


@pytest.fixture
def course(tmp_path):
    """A copy of the toy course, to be changed."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "course"))


def change(path, old, new, count=1):
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} does not stand in {path.name}"
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def line_of(path, text):
    return next(number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if text in line)


def test_topics_and_paths():
    assert sources.topics(FIXTURE) == sources.lectures(FIXTURE) == [TOPIC]
    assert sources.topic_path("01_convolution_arithmetic") == sources.REPO / "solutions/01_convolution_arithmetic/convolution_arithmetic.py"
    assert sources.lecture_path("01_convolution_arithmetic") == sources.REPO / "lectures/01_convolution_arithmetic.py"
    for bad in ("toy", "1_toy", "90-toy", "../90_toy"):
        with pytest.raises(ValueError, match="topic"):
            sources.topic_path(bad)


def test_cells_are_read_as_they_stand():
    path = sources.topic_path(TOPIC, FIXTURE)
    cells = sources.read_cells(path)
    kinds = [(cell.kind, cell.name) for cell in cells if cell.kind != "plain"]
    assert kinds == [
        ("setup", None), ("setup", None), ("exercise", "doubled"), ("check", "doubled"), ("mistake", "doubled"), ("alternative", "doubled"),
        ("exercise", "shifted"), ("check", "shifted"), ("mistake", "shifted"), ("measure", "mean_scale"), ("written", "growth"),
    ]
    lines = path.read_text(encoding="utf-8").split("\n")
    assert all(lines[cell.line - 1].startswith("# %%") for cell in cells)
    by_kind = {cell.kind: cell for cell in cells}
    assert by_kind["check"].points == 2 and by_kind["written"].points == 2 and by_kind["measure"].seeds == 2
    assert by_kind["mistake"].hint == "An offset of 0 has to be refused."
    assert [cell.tags for cell in cells if "volatile" in cell.tags] == [("volatile",)]
    assert by_kind["written"].cell_type == "markdown" and by_kind["written"].source.startswith("## Exercise 3")
    question, answer = sources.written_parts(by_kind["written"])
    assert question.endswith("again?") and answer.startswith("**Model answer.**") and "**Rubric.**" in answer


def test_exercises():
    first, second = sources.exercises(sources.read_cells(sources.topic_path(TOPIC, FIXTURE)))
    assert first == sources.Exercise("doubled", 1, "double a list", 3, 5, 2, ("by_hand", "any_list"))
    assert (second.name, second.number, second.points, second.checks) == ("shifted", 2, 2, ("adds_and_refuses",))


def test_exercise_namespace_holds_setup_and_solutions_only():
    namespace = sources.exercise_namespace(TOPIC, FIXTURE)
    assert namespace["doubled"]([1, 2]) == [2, 4] and namespace["OFFSETS"] == (0, 3, -2)
    assert not {"mean_scale", "by_hand"} & set(namespace)
    assert inspect.getsource(namespace["doubled"]).startswith("def doubled(values: list[int])")
    path = sources.topic_path(TOPIC, FIXTURE)
    with pytest.raises(ValueError, match="offset must not be 0") as caught:
        namespace["shifted"]([1], 0)
    place = traceback.extract_tb(caught.tb)[-1]
    assert (place.filename, place.lineno) == (str(path), line_of(path, "raise ValueError(f\"offset"))
    with pytest.raises(ValueError, match="topic must be one of 90_toy"):
        sources.exercise_namespace("91_none", FIXTURE)


BROKEN = {  # old text, new text, where the problem is told, what is said
    "unknown key": ('exercise="doubled"', 'exercise="doubled" pionts=3', "pionts", "unknown in the marker of an exercise cell: pionts"),
    "points of an exercise": ('exercise="doubled"', 'exercise="doubled" points=3', 'exercise="doubled" p', "unknown in the marker"),
    "lost quote": ('check="doubled" points=3', 'check="doubled points=3', "points=3", "unknown in the marker"),
    "unknown tag": ('tags=["volatile"]', 'tags=["volatil"]', "volatil", "tags must be a list of setup, volatile"),
    "two things": ('exercise="doubled"', 'exercise="doubled" check="doubled"', 'check="doubled"', "a cell is one thing"),
    "no identifier": ('exercise="doubled"', 'exercise="dou bled"', "dou bled", "must name a python identifier"),
    "points missing": ('check="doubled" points=3', 'check="doubled"', 'check="d', "points of a check cell must be a number above 0"),
    "points zero": ('written="growth" points=2', 'written="growth" points=0', "growth", "points of a written cell must be a number"),
    "seeds missing": (" seeds=2", "", "measure=", "seeds of a measure cell must be an integer above 0"),
    "hint missing": (' hint="An offset of 0 has to be refused."', "", 'mistake="shifted"', "a mistake needs a hint"),
    "written as code": ('[markdown] written="growth"', 'written="growth"', "growth", "a written cell must be markdown"),
    "syntax": ("    return [value + offset", "    return [[value + offset", "return [[value", "not valid python"),
    "exercise without check": ('# %% check="shifted" points=2', "# %%", 'exercise="shifted"', "exercise 'shifted' has no check cell"),
    "check without exercise": ('check="shifted"', 'check="shiftet"', "shiftet", "'shiftet'; exercises are doubled, shifted"),
    "mistake of unknown": ('mistake="shifted"', 'mistake="shift"', 'mistake="shift"', "mistake of an unknown exercise 'shift'"),
    "alternative of unknown": ('alternative="doubled"', 'alternative="x"', 'alternative="x"', "alternative of an unknown exercise"),
    "measure of unknown": ('measure="mean_scale"', 'measure="other"', 'measure="other"', "must define one function `def other(seed)`"),
    "measure without seed": ("mean_scale(seed: int)", "mean_scale(x: int)", "measure=", "must define one function `def mean_scale(seed)`"),
    "points in the heading": ("double a list (3 points", "double a list (4 points", 'check="d', "'doubled' differ: 4 in the heading, 3"),
    "points in the functions": ('"doubled", points=2', '"doubled", points=1', 'check="doubled"', "3 in the marker, 2 in its lab.check"),
    "points in the question": ("say why (2 points", "say why (1 point", "growth", "points differ: 1 in the heading, 2 in the marker"),
    "check of another": ('lab.check("doubled", points=1)', 'lab.check("shifted", points=1)', 'check="d', "is registered for 'shifted'"),
    "check without docstring": ('    """Adds; refuses 0."""\n', "", 'check="shifted"', "needs a docstring"),
    "late setup": ('# %% tags=["volatile"]', '# %% tags=["setup"]', "line 124", "setup cells stand before the first exercise"),
    "another lab": ('Lab("90_toy")', 'Lab("91_toy")', 'tags=["setup"]', "the first setup cell must hold `lab = Lab('90_toy')`"),
    "no hints": ("<details><summary>Hint 1</summary>", "<p>", "## Exercise 1", "needs 2 to 4 hints"),
    "hints out of order": ("Hint 2", "Hint 3", "## Exercise 1", "found [1, 3]"),
    "no blank line": ("Hint 1</summary>\n#\n", "Hint 1</summary>\n", "## Exercise 1", "a blank line must stand after </summary>"),
    "open details": ("# </details>\n", "#\n", "## Exercise 1", "a <details> is not closed"),
    "no heading": ("## Exercise 1: double", "## Task 1: double", "## Task 1", "right above exercise 'doubled' stands its statement"),
    "wrong number": ("## Exercise 2", "## Exercise 3", "## Exercise 3: shift", "this is exercise 2, the heading says 3"),
    "no solution region": ("    ### END SOLUTION\n", "", 'exercise="doubled"', "between '### BEGIN SOLUTION' and"),
    "another name": ("def doubled(values: list", "def twice(values: list", 'exercise="doubled"', "defines no function or class"),
    "mistake lacks a name": ("def shifted(values, offset)", "def shiftet(values, offset)", 'mistake="shifted"', "missing: shifted"),
    "duplicate name": ('written="growth"', 'written="doubled"', "written=", "the name 'doubled' is used twice"),
    "no rubric": ("**Rubric.**", "Rubric.", "growth", "a written question has three parts"),
    "build's line": ("OFFSETS = ", "lab.seal()\nOFFSETS = ", "line 14", "lab.seal() is written by the build"),
    "solution elsewhere": ("OFFSETS = ", "### BEGIN SOLUTION\nOFFSETS = ", "line 14", "only exercise cells are cut"),
    "empty cell": ("print(random.random())", "", "volatile", "the cell is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_source_is_refused_with_file_and_line(course, case):
    old, new, place, message = BROKEN[case]
    path = sources.topic_path(TOPIC, course)
    change(path, old, new)
    line = int(place.removeprefix("line ")) if place.startswith("line ") else line_of(path, place)
    with pytest.raises(sources.SourceError) as caught:
        sources.read_cells(path)
    problems = str(caught.value).splitlines()
    near = [problem for problem in problems if message in problem]
    assert near, problems
    assert near[0].startswith((f"{path}:{line}:", f"{path}:{line - 1}:")), near[0]  # a heading stands one line under its marker


def test_all_problems_are_told_at_once(course):
    path = sources.topic_path(TOPIC, course)
    change(path, "## Exercise 2", "## Exercise 9")
    change(path, "def shifted(values, offset)", "def other(values, offset)")
    with pytest.raises(sources.SourceError) as caught:
        sources.read_cells(path)
    assert len(str(caught.value).splitlines()) == 2


def test_lecture_has_no_exercises(course):
    path = sources.lecture_path(TOPIC, course)
    path.write_text(path.read_text(encoding="utf-8") + '\n# %% exercise="f"\ndef f():\n    pass\n', encoding="utf-8")
    with pytest.raises(sources.SourceError, match="a lecture has no exercise cells"):
        sources.read_cells(path)


TEXTS = {"empty": "", "text before": "import torch\n\n# %%\nx = 1\n", "in a string": '# %%\nx = """\n# %%\n"""\n'}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_outside_of_cells(tmp_path, text):
    path = tmp_path / "lectures" / "91_x.py"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    if text:
        with pytest.raises(sources.SourceError, match=":1"):
            sources.read_cells(path)
    else:
        assert sources.read_cells(path) == []


def test_missing_file(tmp_path):
    with pytest.raises(sources.SourceError, match="cannot be read"):
        sources.read_cells(tmp_path / "none.py")
