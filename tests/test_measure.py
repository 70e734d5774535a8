"""Measurements: what is run, what is stored, and when stored numbers are called stale."""

import json
import shutil
from pathlib import Path

import pytest

from course_lib import measurements
from course_lib.staff import measure, sources

FIXTURE = Path(__file__).parent / "fixtures" / "course"
TOPIC = "90_toy"


@pytest.fixture
def course(tmp_path):
    """The toy course with a library of two modules, measured."""
    course = Path(shutil.copytree(FIXTURE, tmp_path / "course"))
    write(course / "course_lib" / "numbers.py", '"""Numbers."""\nfrom . import deeper\n\n\ndef one():\n    return deeper.ONE\n')
    write(course / "course_lib" / "deeper.py", "ONE = 1\n")
    write(course / "course_lib" / "__init__.py", "")
    measure.measure(TOPIC, root=course, say=lambda text: None)
    return course


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def stored(course):
    return json.loads(measure.measurement_path(TOPIC, course).read_text(encoding="utf-8"))


def test_numbers_of_every_seed_are_stored(course, monkeypatch):
    assert measure.stale(TOPIC, course) == []
    monkeypatch.setattr(measurements, "FOLDER", course / "data" / "measurements")
    spread = measurements.load(TOPIC, "spread")
    assert [record["seed"] for record in spread] == [0, 1, 2] and spread[0]["count"] == 4
    assert spread[0]["spread"] == pytest.approx(2.0591260281974)  # of 1, 2, 3, 6 and the seed 0
    assert len(measurements.load(TOPIC, "mean_scale")) == 2  # of the solution, which uses an exercise and a setup function
    assert "torch" in measurements.machine(TOPIC, "spread")


def test_the_machine_is_told_without_names_of_hosts_or_users(course):
    import getpass
    import platform

    words = stored(course)["spread"]["machine"]
    assert platform.node() not in words and f"{getpass.getuser()}" not in words.split(" ") and "core" in words


def test_missing_numbers_are_a_clear_error(course, monkeypatch):
    monkeypatch.setattr(measurements, "FOLDER", course / "data" / "measurements")
    with pytest.raises(KeyError, match="no measurement 'other', only mean_scale, spread"):
        measurements.load(TOPIC, "other")
    with pytest.raises(FileNotFoundError, match="run `course measure 91_none` once"):
        measurements.load("91_none", "other")


def test_one_measurement_alone(course):
    path = measure.measurement_path(TOPIC, course)
    kept = stored(course)["mean_scale"]
    path.write_text(json.dumps({"mean_scale": kept, "left": {}}), encoding="utf-8")
    assert [problem.split(": ")[1].split(";")[0] for problem in measure.stale(TOPIC, course)] == [
        "left is measured nowhere any more", "spread was never measured",
    ]
    measure.measure(TOPIC, "spread", root=course, say=lambda text: None)
    assert set(stored(course)) == {"mean_scale", "spread"} and stored(course)["mean_scale"] == kept
    with pytest.raises(measure.MeasureError, match="no measurement 'left' in 90_toy; there is mean_scale, spread"):
        measure.measure(TOPIC, "left", root=course)


SAME = {
    "a comment": ("    # How large the largest of ten numbers is.", "    # Another comment."),
    "a docstring": ('"""Largest absolute value, 0 for an empty list."""', '"""Other words."""'),
    "layout": ("values = doubled([generator", "values =  doubled( [generator"),
    "another exercise": ("[value + offset for value in values]\n    ### END", "[offset + value for value in values]\n    ### END"),
    "a mistake": ("wrong_square**2", "wrong_square**3"),
    "text": ("That was the toy.", "That was it."),
    "a setup name that is not used": ("OFFSETS = (0,", "OFFSETS = (1,"),
    "a later cell": ("# %% [markdown]\n# That was", "# %%\nscale_of = None\n\n# %% [markdown]\n# That was"),
}
OTHER = {
    "the function": ("generator.randint(0, 9)", "generator.randint(0, 8)"),
    "an exercise it uses": ("2 * secret_value", "secret_value * 2"),
    "a setup function it uses": ("default=0)", "default=1)"),
    "an import": ("import random\n", "import secrets as random\n"),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_matter_keeps_numbers_fresh(course, case):
    change(sources.topic_path(TOPIC, course), *SAME[case])
    assert measure.stale(TOPIC, course) == []


@pytest.mark.parametrize("case", OTHER)
def test_changed_code_makes_numbers_stale(course, case):
    change(sources.topic_path(TOPIC, course), *OTHER[case])
    assert measure.stale(TOPIC, course) == [
        "data/measurements/90_toy.json: mean_scale comes from older code; run `course measure 90_toy --name mean_scale`"
    ]


def test_more_seeds_and_broken_files_are_found(course):
    change(sources.lecture_path(TOPIC, course), "seeds=3", "seeds=4")
    assert "lacks some of its 4 seeds" in measure.stale(TOPIC, course)[0]
    measure.measurement_path(TOPIC, course).write_text("{", encoding="utf-8")
    assert "not JSON" in measure.stale(TOPIC, course)[0]


def test_a_changed_module_makes_numbers_stale(course):
    """The modules of course_lib that the measurement needs, those that they import, and no others."""
    lecture = sources.lecture_path(TOPIC, course)
    cells = '\n# %%\nfrom course_lib import numbers\n\n# %% measure="ones" seeds=1\ndef ones(seed):\n    return {"one": numbers.one()}\n'
    lecture.write_text(lecture.read_text(encoding="utf-8") + cells, encoding="utf-8")
    cells = sources.read_cells(lecture)
    ones, spread = cells[-1], next(cell for cell in cells if cell.name == "spread")
    before = measure.code_hash(cells, ones, course), measure.code_hash(cells, spread, course)
    change(course / "course_lib" / "numbers.py", '"""Numbers."""', '"""Other words."""  # and a comment')
    assert measure.code_hash(cells, ones, course) == before[0]
    change(course / "course_lib" / "deeper.py", "ONE = 1", "ONE = 2")
    assert measure.code_hash(cells, ones, course) != before[0] and measure.code_hash(cells, spread, course) == before[1]


def test_plain_cells_of_a_lecture_give_names_but_run_no_calls(course):
    lecture = sources.lecture_path(TOPIC, course)
    cells = '''
# %%
def half(x):
    return x / 2


raise SystemExit("a training run, not to be repeated")

# %% measure="halves" seeds=2
def halves(seed):
    values = [seed]
    return {"half": half(values[0])}
'''
    lecture.write_text(lecture.read_text(encoding="utf-8") + cells, encoding="utf-8")
    measure.measure(TOPIC, "halves", root=course, say=lambda text: None)
    assert stored(course)["halves"]["records"] == [{"seed": 0, "half": 0.0}, {"seed": 1, "half": 0.5}]
    change(lecture, "values = [1, 2, 3, 6]", "values = [1, 2, 3, 7]")  # a global of the same name as a local one
    assert ["spread" in problem for problem in measure.stale(TOPIC, course)] == [True]


@pytest.mark.parametrize("result", ["3", "{}", "{'seed': 1}", "{'x': float('nan')}", "{'x': 'words'}", "{3: 4}", "{'x': [1]}"])
def test_results_must_be_finite_numbers_by_name(course, result):
    lecture = sources.lecture_path(TOPIC, course)
    change(lecture, '{"spread": statistics.pstdev(values + [seed]), "count": len(values)}', result)
    before = stored(course)
    with pytest.raises(measure.MeasureError, match=r"spread\(seed\) must return"):
        measure.measure(TOPIC, root=course)
    assert stored(course) == before


def test_a_measurement_that_raises_is_told_with_its_line(course):
    lecture = sources.lecture_path(TOPIC, course)
    change(lecture, "statistics.pstdev(values + [seed])", "values[seed + 99]")
    with pytest.raises(measure.MeasureError, match=r"lectures/90_toy.py:23: IndexError: list index out of range"):
        measure.measure(TOPIC, root=course)


def test_tensors_and_numpy_scalars_are_numbers():
    import numpy as np
    import torch

    numbers = measure._numbers("f", {"a": torch.tensor(2), "b": np.float64(0.5), "c": True})
    assert json.dumps(numbers) == '{"a": 2, "b": 0.5, "c": true}'


def test_one_name_in_lecture_and_solution_is_refused(course):
    change(sources.lecture_path(TOPIC, course), 'measure="spread"', 'measure="mean_scale"')
    change(sources.lecture_path(TOPIC, course), "def spread", "def mean_scale")
    with pytest.raises(sources.SourceError, match="'mean_scale' is also measured in the lecture"):
        measure.stale(TOPIC, course)
