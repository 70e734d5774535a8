"""`course release`: students get all they need and nothing they should not have."""

import json
import os
import subprocess
import sys

import marking_helpers as helpers
import nbformat
import pytest
from marking_helpers import SLUG, TOPIC, state_of_gradebook

from course_lib.cli import CommandError, main
from course_lib.staff import sources
from course_lib.staff.marking.release import release


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return helpers.make_course(tmp_path_factory.mktemp("release") / "course")


@pytest.fixture(scope="module")
def released(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teaching") / "released"
    release(TOPIC, folder, due="2026-10-09 18:00 Europe/Berlin", root=root, say=lambda line: None)
    return folder


def test_what_students_get(released):
    top = sorted(p.name for p in released.iterdir())
    assert top == ["README.md", "course_lib", "requirements.txt", f"{SLUG}.ipynb"]
    files = [p.relative_to(released).as_posix() for p in released.rglob("*") if p.is_file()]
    assert f"course_lib/cards/{TOPIC}.json" in files and "course_lib/checks/lab.py" in files and "course_lib/cli.py" in files
    assert [f for f in files if "staff" in f or "__pycache__" in f or f.endswith(".pyc") or "/." in f] == []
    assert [f for f in files if f.startswith("course_lib/cards/")] == [f"course_lib/cards/{TOPIC}.json"]
    nbformat.validate(nbformat.read(released / f"{SLUG}.ipynb", 4))


def test_no_solution_and_no_mistake_in_any_file(released, root):
    text = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in released.rglob("*") if p.is_file())
    for secret in (
        "secret_value",
        "wrong_square",
        "other_way",
        "lenient",
        "BEGIN SOLUTION\n    result",
        "Exponentially",
        "One point for the word",
    ):
        assert secret not in text, secret
    for cell in sources.read_cells(sources.topic_path(TOPIC, root)):
        if cell.kind in ("mistake", "alternative"):
            assert cell.source not in text


def test_due_date_stands_in_readme_and_gradebook(released):
    readme = (released / "README.md").read_text()
    assert "Due 2026-10-09 18:00 Europe/Berlin." in readme and "7 points" in readme and f"`{SLUG}.ipynb`" in readme
    state = state_of_gradebook(f"sqlite:///{released.parent}/gradebook.db")
    assert str(state["assignments"][TOPIC][0]) == "2026-10-09 16:00:00"


def test_requirements_are_the_lock_s(released):
    lines = (released / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch==") for line in lines) and not any(
        line.startswith(("nbgrader", "pytest", "distributed")) for line in lines
    )


def test_the_lab_runs_there_with_nothing_else(released):
    """The checks of the untouched lab run from the released folder alone: nothing is earned, nothing is missing."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "course_lib.cli", "check", f"{SLUG}.ipynb"]
    finished = subprocess.run(command, cwd=released, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 1 and "0 of 5 points" in finished.stdout, finished.stdout + finished.stderr
    assert str(released) in subprocess.run(
        [sys.executable, "-c", "import course_lib; print(course_lib.__file__)"], cwd=released, env=environment, capture_output=True, text=True
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topic": "99_nothing"}, "there is no lab '99_nothing'"),
        ({"due": "next Friday"}, "--due must be a time such as"),
        ({"due": "2026-10-09 18:00 Middle/Earth"}, "--due must be a time such as"),
        ({"folder": "full"}, "students get a new or an empty folder"),
        ({"folder": "no/such/place"}, "there is no such folder"),
        ({"db": "sqlite:////dev/null/x.db", "due": "2026-10-09 18:00"}, "cannot be used"),
    ],
)
def test_refused_with_one_line_and_nothing_written(tmp_path, root, options, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    options = {"topic": TOPIC, "folder": "new", **options}
    with pytest.raises(CommandError) as caught:
        release(options.pop("topic"), tmp_path / options.pop("folder"), root=root, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_not_into_the_checkout(root):
    with pytest.raises(CommandError, match="lies in the course's own folder"):
        release(TOPIC, root / "released", root=root)


def test_commands_say_what_is_wrong_in_one_line_with_status_2(tmp_path, capsys):
    for arguments in (
        ["grade", str(tmp_path), "--lab", "99_nothing"],
        ["report", "--lab", "99_nothing", "--out", str(tmp_path)],
        ["release", "99_nothing", str(tmp_path / "x")],
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"course {arguments[0]}: there is no lab '99_nothing'") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as ended:
        main(["grade", str(tmp_path)])
    assert ended.value.code == 2
    assert json.dumps(capsys.readouterr().err).count("--lab")
