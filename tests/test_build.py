"""Notebooks are what their sources make: built twice they are equal, nbgrader makes the same lab, and drift and leaks are found."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course_lib.checks.notebook import content_id
from course_lib.staff import build, leaks, sources
from course_lib.staff.measure import measure

REPO = Path(__file__).resolve().parents[1]
FIXTURE = Path(__file__).parent / "fixtures" / "course"
TOPIC = "90_toy"

pytestmark = pytest.mark.xdist_group("build")  # one worker: they share one built course


def new_course(folder):
    """A whole course in `folder`: this library and configuration, and the toy topic alone, not built yet."""
    shutil.copytree(FIXTURE, folder)
    shutil.copytree(REPO / "course_lib", folder / "course_lib", ignore=shutil.ignore_patterns("__pycache__", "cards"))
    shutil.copy(REPO / "nbgrader_config.py", folder)
    return folder


def read(path):
    return nbformat.read(path, 4)


def cell_of(notebook, identity):
    return next(cell for cell in notebook.cells if cell.id == identity)


def run(course, *arguments, cwd=None):
    """A command as from a terminal, in the course of that folder."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(course), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # nbgrader calls alembic by name
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd or course, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built course, not to be changed."""
    course = new_course(tmp_path_factory.mktemp("built") / "course")
    measure(TOPIC, root=course)
    build.build([], course)
    return course


@pytest.fixture
def course(built, tmp_path):
    """A copy of the built course, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "course"))


@pytest.fixture(scope="module")
def solution(built):
    return read(build.paths(TOPIC, built)["solution"])


@pytest.fixture(scope="module")
def lab(built):
    return read(build.paths(TOPIC, built)["lab"])


# What is built ----------------------------------------------------------------------------------------------------------------------------


def test_solution_notebook(solution):
    source = sources.topic_path(TOPIC, FIXTURE).read_text(encoding="utf-8")
    ids = [cell.id for cell in solution.cells if "-" not in cell.id]
    assert ids == [
        "setup_1", "setup_2", "exercise_doubled", "check_doubled", "alternative_doubled_1", "exercise_shifted", "check_shifted",
        "question_growth", "written_growth",
    ]
    assert "wrong_square" in source and "wrong_square" not in json.dumps(solution)  # mistakes are in no notebook
    alternative = cell_of(solution, "alternative_doubled_1")
    assert alternative.cell_type == "markdown" and alternative.source.startswith("<details>") and "other_way +" in alternative.source
    assert cell_of(solution, "setup_1").source.endswith("\nlab.seal()") and cell_of(solution, "setup_2").source.endswith("\nlab.seal()")
    assert cell_of(solution, "check_doubled").source.endswith('\nlab.points("doubled")')
    assert "It is" not in cell_of(solution, "question_growth").source and "**Rubric.**" in cell_of(solution, "written_growth").source


def test_nbgrader_metadata(solution):
    from nbgrader.nbgraderformat import MetadataValidator

    MetadataValidator().validate_nb(solution)
    facts = {cell.id: dict(cell.metadata.nbgrader) for cell in solution.cells if "nbgrader" in cell.metadata}
    flags = {name: (fact["grade"], fact["solution"], fact["locked"], fact.get("points")) for name, fact in facts.items()}
    assert flags == {
        "setup_1": (False, False, True, None),
        "setup_2": (False, False, True, None),
        "exercise_doubled": (False, True, False, None),
        "check_doubled": (True, False, True, 3),
        "exercise_shifted": (False, True, False, None),
        "check_shifted": (True, False, True, 2),
        "question_growth": (False, False, True, None),
        "written_growth": (True, True, False, 2),
    }
    assert all(fact["schema_version"] == 3 and fact["grade_id"] == name for name, fact in facts.items())


def test_stored_outputs(solution, built):
    lecture = read(build.paths(TOPIC, built)["lecture"])
    for notebook in (solution, lecture):
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        text = json.dumps([cell.outputs for cell in code])
        assert "stderr" not in text and str(built) not in text
        assert "execution" not in json.dumps([cell.metadata for cell in code]) and "version" not in notebook.metadata.language_info
    assert cell_of(lecture, content_id("code", lecture.cells[3].source)).outputs[0].text == "3\n"
    assert "[0, 2, 4, 6, 8]" in json.dumps([cell.get("outputs", []) for cell in solution.cells])
    assert cell_of(solution, "check_doubled").outputs[-1].data["text/plain"] == "3.0"


def test_lab(lab):
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in lab.cells)
    stub = cell_of(lab, "exercise_shifted")
    assert stub.source.endswith("# YOUR CODE HERE\n    raise NotImplementedError()") and '"""Add offset' in stub.source
    assert cell_of(lab, "written_growth").source == "YOUR ANSWER HERE"
    for name in ("setup_1", "check_doubled", "question_growth"):
        assert (cell_of(lab, name).metadata.deletable, cell_of(lab, name).metadata.editable) == (False, False)
    assert not stub.metadata.deletable and "editable" not in stub.metadata
    assert not [cell for cell in lab.cells if cell.id.startswith("alternative")]
    assert lab.metadata.course == {"topic": TOPIC}


def test_card(built):
    card = json.loads(build.paths(TOPIC, built)["card"].read_text(encoding="utf-8"))
    assert card["topic"] == TOPIC and card["written"] == [{"name": "growth", "points": 2}]
    assert card["exercises"][0] == {
        "name": "doubled", "title": "double a list", "points": 3, "minutes": 5, "hints": 2, "checks": ["by_hand", "any_list"],
    }
    assert [(known["id"], known["hint"][:9]) for known in card["mistakes"]] == [("doubled/1", "You squar"), ("shifted/1", "An offset")]
    assert set(card["mistakes"][0]["checks"]) == {"by_hand", "any_list"}
    assert "lenient" not in json.dumps(card)


@pytest.mark.slow
def test_building_again_gives_the_same(built, tmp_path):
    """In another folder: equal bytes but for the volatile output. After a change of the source drift is found, and a build mends it."""
    files = [path.relative_to(built) for path in build.paths(TOPIC, built).values()]
    other = new_course(tmp_path / "other")
    measure(TOPIC, root=other)
    build.build([TOPIC], other)
    for file in files:
        first, second = ((root / file).read_text(encoding="utf-8") for root in (built, other))
        if file.parts[0] == "solutions":
            assert first != second, "random.random() is volatile"
            first, second = (build.notebook_text(build._without_volatile(nbformat.reads(text, 4))) for text in (first, second))
        assert first == second, file
    assert not [path for path in other.rglob("*") if path.name.endswith((".progress.json", ".tmp"))]

    source = sources.topic_path(TOPIC, other)
    source.write_text(source.read_text(encoding="utf-8").replace("first numbers.", "first five numbers."), encoding="utf-8")
    problems = build.check([TOPIC], other)
    assert [problem.split(":")[0] for problem in problems] == ["solutions/90_toy/toy.ipynb", "labs/90_toy/toy.ipynb"], problems
    assert all("differs from its source in id, source" in problem for problem in problems)
    times = {file: (other / file).stat().st_mtime_ns for file in files}
    said = []
    build.build([], other, said.append)
    assert build.check([], other) == []
    assert {file.suffix for file in files if (other / file).stat().st_mtime_ns != times[file]} == {".ipynb"}
    assert [line[:5] for line in said] == ["same ", "wrote", "wrote", "same "], said


def test_a_notebook_that_differs_in_volatile_outputs_only_is_not_written(course):
    path = build.paths(TOPIC, course)["solution"]
    notebook = read(path)
    volatile = next(cell for cell in notebook.cells if "volatile" in cell.metadata.get("tags", []))
    volatile.outputs[0].text = "0.5\n"
    assert not build._write_notebook(path, notebook)
    cell_of(notebook, "check_doubled").outputs[-1].data["text/plain"] = "2.0"
    assert build._write_notebook(path, notebook) and read(path) == notebook
    assert not [other for other in path.parent.iterdir() if other.name.startswith(".")]


@pytest.mark.slow
def test_nbgrader_makes_the_same_lab(built, course):
    """`nbgrader generate_assignment` over the committed solution notebook, with the committed configuration."""
    shutil.rmtree(course / "labs")
    (course / "solutions" / TOPIC / f".{TOPIC}.progress.json").write_text("{}")
    done = run(course, "-m", "nbgrader", "generate_assignment", TOPIC)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (course / "labs" / TOPIC).iterdir()] == ["toy.ipynb"], "nothing but the notebook is handed out"
    assert (course / "labs" / TOPIC / "toy.ipynb").read_bytes() == (built / "labs" / TOPIC / "toy.ipynb").read_bytes()


# Drift and leaks --------------------------------------------------------------------------------------------------------------------------


def edit(path, change):
    """Change a stored notebook as with an editor."""
    notebook = read(path)
    change(notebook)
    nbformat.write(notebook, path)


def test_a_fresh_build_has_no_problems(built):
    assert build.check([], built) == [] and build.check([TOPIC], built) == []


def swap(notebook):
    notebook.cells[3], notebook.cells[4] = notebook.cells[4], notebook.cells[3]


DRIFT = {
    "source": (lambda nb: cell_of(nb, "check_doubled").update(source="lab.points('doubled')"), "(check_doubled) differs from its source"),
    "order": (swap, "differs from its source in id, cell_type, source, metadata"),
    "cell missing": (lambda nb: nb.cells.pop(), "cells, its source makes"),
    "cell added": (lambda nb: nb.cells.append(nbformat.v4.new_code_cell("1 + 1")), "cells, its source makes"),
    "points": (lambda nb: cell_of(nb, "check_doubled").metadata.nbgrader.update(points=4), "differs from its source in metadata"),
    "lock": (lambda nb: cell_of(nb, "setup_1").metadata.nbgrader.update(locked=False), "differs from its source in metadata"),
    "kernel": (lambda nb: nb.metadata.kernelspec.update(name="other"), "its metadata differs"),
}


@pytest.mark.parametrize("which", ["solution", "lab"])
@pytest.mark.parametrize("case", DRIFT)
def test_drift_of_a_stored_notebook_is_found(course, which, case):
    change, message = DRIFT[case]
    path = build.paths(TOPIC, course)[which]
    edit(path, change)
    problems = build.check([TOPIC], course)
    assert any(problem.startswith(str(path.relative_to(course).as_posix())) and message in problem for problem in problems), problems


def test_missing_unrun_and_failed_notebooks_are_found(course):
    at = build.paths(TOPIC, course)
    at["card"].unlink()
    at["lab"].write_text("no notebook", encoding="utf-8")
    edit(at["lecture"], lambda nb: nb.cells[3].update(execution_count=None))
    edit(at["solution"], lambda nb: nb.cells[1].update(outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]))
    problems = build.check([], course)
    for wanted in ("cards/90_toy.json: missing", "labs/90_toy/toy.ipynb: not a valid notebook", "was never run", "stores an error"):
        assert any(wanted in problem for problem in problems), (wanted, problems)
    shutil.rmtree(course / "labs")
    assert "labs/90_toy/toy.ipynb: missing" in build.check([], course)


def test_a_changed_card_is_found(course):
    at = build.paths(TOPIC, course)
    at["card"].write_text(at["card"].read_text(encoding="utf-8").replace('"points": 3', '"points": 4'), encoding="utf-8")
    assert build.check([], course) == ["course_lib/cards/90_toy.json: differs from what its source makes"]


def test_what_has_no_source_is_found(course):
    (course / "labs" / "91_gone").mkdir()
    for name in ("labs/91_gone/gone.ipynb", "lectures/91_gone.ipynb", "course_lib/cards/91_gone.json", "solutions/90_toy/notes.md"):
        (course / name).write_text("{}", encoding="utf-8")
    problems = build.check([], course)
    assert {problem.split(":")[0] for problem in problems} == {
        "labs/91_gone/gone.ipynb", "lectures/91_gone.ipynb", "course_lib/cards/91_gone.json", "solutions/90_toy/notes.md",
    }


def test_a_stale_measurement_is_found(course):
    path = sources.lecture_path(TOPIC, course)
    path.write_text(path.read_text(encoding="utf-8").replace("values + [seed]", "values + [2 * seed]"), encoding="utf-8")
    assert any("spread comes from older code" in problem for problem in build.check([], course))


LEAKS = {
    "solution": ("result = [2 * secret_value for secret_value in values]", "solution text"),
    "solution, laid out anew": ("x = 1\n        result  =  [2 * secret_value for secret_value in values]", "solution text"),
    "short line": ("return result", "solution text"),
    "in a comment": ("# raise ValueError(f\"offset must not be 0, got {offset}\")", "solution text"),
    "mistake": ("return [wrong_square**2 for wrong_square in values]", "text of a mistake"),
    "alternative": ("return [other_way + other_way for other_way in values]", "text of another answer"),
    "model answer": ("**Model answer.** Exponentially: after $n$ steps it is $2^n$ times as large.", "text of a model answer"),
    "rubric": ("**Rubric.** One point for the word, one for the formula.", "text of a model answer"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_leaked_text_is_found(course, case):
    text, what = LEAKS[case]
    path = build.paths(TOPIC, course)["lab"]
    edit(path, lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell(f"Look:\n{text}", id="planted")))
    assert any("labs/90_toy/toy.ipynb: cell" in problem and f"(planted): {what}" in problem for problem in build.check([TOPIC], course))


def test_other_leaks_are_found(course):
    path = build.paths(TOPIC, course)["lab"]

    def plant(notebook):
        said = "return [wrong_square**2 for wrong_square in values]\n"
        cell_of(notebook, "check_doubled").outputs = [nbformat.v4.new_output("stream", text=said)]
        cell_of(notebook, "exercise_doubled").metadata["course_staff"] = "hint"
        notebook.metadata["author"] = "somebody"

    edit(path, plant)
    (path.parent / "__pycache__").mkdir()
    (path.parent / "__pycache__" / "toy.cpython-311.pyc").write_bytes(b"")
    (path.parent / "toy.pyc").write_bytes(b"")
    (path.parent / "toy.py").write_text("", encoding="utf-8")
    (path.parent / f".{TOPIC}.progress.json").write_text("{}", encoding="utf-8")  # of somebody who worked here; never handed out
    problems = "\n".join(build.check([TOPIC], course))
    for wanted in (
        "(check_doubled): has outputs", "(check_doubled): text of a mistake", "(exercise_doubled): private metadata: course_staff",
        "private metadata of the notebook: author", "__pycache__: compiled files", "toy.pyc: a compiled file",
        "toy.py: a file that no source makes",
    ):
        assert wanted in problems, wanted
    assert "progress" not in problems


def test_a_build_that_would_leak_is_refused(course):
    """The author showed the solution's line in a cell of the lab."""
    path = sources.topic_path(TOPIC, course)
    line = "result = [2 * secret_value for secret_value in values]"
    path.write_text(path.read_text(encoding="utf-8").replace("# That was the toy.", f"# That was the toy: `{line}`."), encoding="utf-8")
    before = build.paths(TOPIC, course)["lab"].read_bytes()
    with pytest.raises(build.BuildError, match="solution text: result = "):
        build.build([TOPIC], course)
    assert build.paths(TOPIC, course)["lab"].read_bytes() == before


def test_what_a_student_is_given_is_no_secret():
    secrets = leaks.secret_lines(sources.read_cells(sources.topic_path(TOPIC, FIXTURE)))
    assert "def doubled(values):" in secrets  # the mistake's signature has no annotations, the student's has
    assert "def shifted(values: list[int], offset: int) -> list[int]:" not in secrets and "if offset == 0:" in secrets


# Sources that cannot be built -------------------------------------------------------------------------------------------------------------


WRONG = {
    "solution fails": ("2 * secret_value", "3 * secret_value", "this exercise of 'doubled' fails the check 'by_hand'"),
    "alternative fails": ("other_way + other_way", "other_way", "this alternative of 'doubled' fails the check 'by_hand'"),
    "setup raises": ("OFFSETS = (0,", "OFFSETS = (missing,", r"solutions/90_toy/toy.py:15: NameError: name 'missing'"),
    "mistake passes": ("wrong_square**2", "2 * wrong_square", "this mistake of 'doubled' fails no check"),
}


@pytest.mark.parametrize("case", WRONG)
def test_answers_that_are_not_what_they_say(course, case):
    old, new, message = WRONG[case]
    path = sources.topic_path(TOPIC, course)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(build.BuildError, match=message):
        build.build([TOPIC], course)


def test_a_notebook_that_raises_is_not_stored(course):
    path = sources.lecture_path(TOPIC, course)
    sources.topic_path(TOPIC, course).unlink()
    path.write_text(path.read_text(encoding="utf-8") + '\n# %%\nraise KeyError("here")\n', encoding="utf-8")
    before = build.paths(TOPIC, course)["lecture"].read_bytes()
    with pytest.raises(build.BuildError, match="(?s)lectures/90_toy.ipynb: a cell raises.*KeyError: 'here'"):
        build.build([TOPIC], course)
    assert build.paths(TOPIC, course)["lecture"].read_bytes() == before


def test_outputs_are_settled():
    cell = nbformat.v4.new_code_cell("f")
    stream = nbformat.v4.new_output
    cell.outputs = [
        stream("stream", name="stderr", text="  0%|          | 0/3 [00:00<?, ?it/s]\r100%|####| 3/3\n"),
        stream("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "FloatProgress()"}),
        stream("stream", name="stdout", text="kept\n"),
    ]
    assert build._settle_outputs(cell) == ([], []) and [output.text for output in cell.outputs] == ["kept\n"]
    cell.outputs = [stream("stream", name="stderr", text="UserWarning: look\n")]
    assert build._settle_outputs(cell) == (["its stderr is not stored: UserWarning: look"], []) and cell.outputs == []
    cell.outputs = [stream("execute_result", data={"text/plain": "<function f at 0x7f0123456789>"})]
    assert "memory address" in build._settle_outputs(cell)[1][0]
    cell.metadata["tags"] = ["volatile"]
    assert build._settle_outputs(cell) == ([], [])
    cell.outputs = [stream("stream", name="stdout", text=f"{REPO}/data/x.png\n")]
    assert build._settle_outputs(cell) == ([], ["its output holds a path of this machine"])


def test_two_cells_of_one_text_have_two_ids():
    cell = sources.Cell("plain", None, "code", "f(1)", 0, None, (), 1)
    ids = [cell.id for cell in build.lecture_notebook("90_toy", [cell, cell, cell]).cells]
    assert ids == [content_id("code", "f(1)") + tail for tail in ("", "-2", "-3")]


# The commands -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_course_build_check_from_the_command_line(course, monkeypatch, capsys):
    from course_lib.cli import main

    edit(build.paths(TOPIC, course)["lab"], lambda nb: nb.cells.pop())
    done = run(course, "-m", "course_lib.cli", "build", "--check", TOPIC)
    assert done.returncode == 1 and "labs/90_toy/toy.ipynb: has" in done.stderr and "Traceback" not in done.stderr
    monkeypatch.setattr(build, "check", lambda topics: [])
    assert main(["build", "--check"]) == 0 and "no lab gives an answer away" in capsys.readouterr().out


REFUSED = [("build", "91_none"), ("build", "--check", "nonsense"), ("measure", "91_none"), ("check", "none.ipynb")]


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_command_that_cannot_run_says_one_line(arguments, capsys):
    from course_lib.cli import main

    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"course {arguments[0]}: ") and said.count("\n") == 1


def answers(course, **solved):
    """The lab with the cells of the named exercises as given, saved where a student would have it."""
    path = build.paths(TOPIC, course)["lab"]
    notebook = read(path)
    for name, source in solved.items():
        cell_of(notebook, f"exercise_{name}").source = source
    return path, notebook


@pytest.mark.slow
def test_course_check_of_a_solved_lab(course, solution):
    path, notebook = answers(course, **{name: cell_of(solution, f"exercise_{name}").source for name in ("doubled", "shifted")})
    own = nbformat.v4.new_code_cell("%time helper = 1\nraise KeyError('mine')", id="0a1b2c3d")
    notebook.cells.insert(4, own)
    ours = next(cell for cell in notebook.cells if cell.id == content_id("code", cell.source) and "range(5)" in cell.source)
    changed = nbformat.v4.new_code_cell(ours.source + "\nprint('once changed, it is', 'your own')", id=f"{ours.id}-2")
    notebook.cells.append(changed)
    nbformat.write(notebook, path)
    done = run(course, "-m", "course_lib.cli", "check", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 points" in done.stdout and "Cell 5 (your own) stopped with KeyError" in done.stdout
    assert done.stdout.count("[0, 2, 4, 6, 8]") == 1 and "it is your own" in done.stdout  # the untouched demonstration did not run
    assert "<" not in done.stdout.replace("<module>", "").replace("<cell", "").replace("in <", ""), "plain text, no HTML"


@pytest.mark.slow
def test_course_check_of_half_a_lab(course):
    path, notebook = answers(course, doubled="def doubled(values):\n    return [value**2 for value in values]\n")
    notebook.cells = [cell for cell in notebook.cells if cell.id != "check_shifted"]
    nbformat.write(notebook, path)
    done = run(course, "-m", "course_lib.cli", "check", path.name, cwd=path.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "You squared the numbers" in done.stdout and "no check cell of: shifted" in done.stdout
    assert done.stdout.rstrip().endswith("0 of 5 points")


NO_LABS = ["", "[]", '{"cells": 3}', '{"cells": []}', '{"cells": [{"metadata": {}, "source": "1"}]}', '{"cells": [1]}']


@pytest.mark.parametrize("text", NO_LABS)
def test_course_check_of_what_is_no_lab(tmp_path, capsys, text):
    from course_lib.cli import main

    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="utf-8")
    assert main(["check", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.slow
def test_a_students_part_needs_no_tools_of_the_staff():
    """Checks, measurements and the command itself import without nbgrader, nbformat, jupytext and our staff package."""
    code = (
        "import sys, course_lib.cli, course_lib.checks.notebook, course_lib.measurements\n"
        "found = [name for name in ('nbgrader', 'nbformat', 'nbclient', 'jupytext', 'course_lib.staff') if name in sys.modules]\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = run(REPO, "-c", code)
    assert done.returncode == 0, done.stderr
