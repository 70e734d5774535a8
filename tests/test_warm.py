"""The warm interpreter tells the same verdicts as a kernel would, and a notebook that falls takes nobody along."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from course_lib.staff import warm

REPO = Path(__file__).resolve().parents[1]


def write_notebook(path: Path, *sources: str, printed: str | None = None) -> Path:
    """A notebook; `printed` is stored as what its last cell printed."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(source) for source in sources]
    if printed is not None:
        cells[-1].execution_count = len(cells)
        cells[-1].outputs = [new_output("stream", name="stdout", text=printed)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


NOTEBOOKS = {
    "passes": ["import pathlib", "print(pathlib.Path.cwd().name)\n41 + 1"],
    "displays": [
        "%matplotlib inline\nimport matplotlib.pyplot as plt",
        "from IPython.display import display, HTML\ndisplay(HTML('<b>bold</b>'))\nplt.plot([1, 2]);",
        "import torch\n(torch.ones(300, 300) @ torch.ones(300, 300)).sum().item()",
    ],
    "raises": ["x = 1", "def half(n):\n    return n / 0\nhalf(x)", "print('never')"],
    "syntax": ["def f(:\n    pass"],
    "expected": ["# NBVAL_RAISES_EXCEPTION\nraise ValueError('shown to the reader')", "print('after')"],
    "skipped": ["# NBVAL_SKIP\nraise ValueError", "print('after')"],
    "dies": ["import os, signal\nos.kill(os.getpid(), signal.SIGTERM)"],
    "hangs": ["import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\ntime.sleep(300)"],
    "progress": ["from pathlib import Path\nPath('.old.progress.json').write_text('lost')\nPath('.new.progress.json').write_text('new')"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, warm.Run]:
    """Outcomes of all notebooks above in one warm interpreter (a fresh one: pytest's own has threads, and may not fork)."""
    folder = tmp_path_factory.mktemp("warm")
    for name, sources in NOTEBOOKS.items():
        write_notebook(folder / name / f"{name}.ipynb", *sources)
    (folder / "progress" / ".old.progress.json").write_text("a student's", encoding="utf-8")
    write_notebook(folder / "same" / "same.ipynb", "# NBVAL_CHECK_OUTPUT\nprint(2 + 2)", printed="4\n")
    write_notebook(folder / "changed" / "changed.ipynb", "# NBVAL_CHECK_OUTPUT\nprint(2 + 2)", printed="5\n")
    write_notebook(folder / "unmarked" / "unmarked.ipynb", "print(2 + 2)", printed="5\n")
    finished = warm_command(sorted(folder.glob("*/*.ipynb")), folder, "--timeout", "30")
    assert finished.returncode == 1
    runs = [warm.Run(**run) for run in json.loads((folder / "runs.json").read_text(encoding="utf-8"))]
    return {Path(run.name).stem: run for run in runs} | {"folder": folder, "printed": finished.stdout}


def warm_command(notebooks: list[Path], folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "course_lib.staff.warm", *map(str, notebooks), "--json", str(folder / "runs.json"), *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


pytestmark = pytest.mark.slow


def test_each_notebook_gets_one_verdict(runs):
    found = {name: run.outcome for name, run in runs.items() if isinstance(run, warm.Run)}
    assert found == {
        "passes": "passed", "displays": "passed", "raises": "failed", "syntax": "failed", "expected": "passed", "skipped": "passed",
        "dies": "crashed", "hangs": "timeout", "progress": "passed", "same": "passed", "changed": "changed", "unmarked": "passed",
    }  # fmt: skip
    assert "7 passed, 5 failed" in runs["printed"]


def test_runs_in_the_notebooks_folder_and_keeps_outputs(runs):
    stream, result = runs["passes"].outputs[1]
    assert stream["text"] == "passes\n"
    assert (result["output_type"], result["data"]["text/plain"]) == ("execute_result", "42")


def test_display_magics_and_figures_work(runs):
    html, figure = runs["displays"].outputs[1]
    assert html["data"]["text/html"] == "<b>bold</b>"
    assert "image/png" in figure["data"]
    assert runs["displays"].outputs[2][0]["data"]["text/plain"] == "27000000.0"


def test_failure_names_cell_and_line(runs):
    assert runs["raises"].cell == 1
    assert "ZeroDivisionError" in runs["raises"].message
    assert "return n / 0" in runs["raises"].message
    assert len(runs["raises"].outputs) == 2, "ran on after the failure"
    assert "code cell 1" in runs["printed"]
    assert runs["syntax"].cell == 0 and "SyntaxError" in runs["syntax"].message


def test_changed_output_shows_both(runs):
    assert runs["changed"].cell == 0
    assert "stored:\n5" in runs["changed"].message and "now:\n4" in runs["changed"].message


def test_dead_and_endless_notebooks_are_told_apart(runs):
    assert re.search("(signal|status) 15", runs["dies"].message)  # the second is how Windows says it
    assert "still running after 30 s" in runs["hangs"].message


def test_progress_of_a_student_is_left_alone(runs):
    folder = runs["folder"] / "progress"
    assert (folder / ".old.progress.json").read_text(encoding="utf-8") == "a student's"
    assert not (folder / ".new.progress.json").exists()


def test_fresh_interpreters_say_the_same(tmp_path):
    good = write_notebook(tmp_path / "good.ipynb", "1 + 1")
    bad = write_notebook(tmp_path / "bad.ipynb", "1 + 1", "1 / 0")
    dead = write_notebook(tmp_path / "dead.ipynb", "import os\nos._exit(3)")
    finished = warm_command([good, bad, dead], tmp_path, "--no-fork")
    assert finished.returncode == 1
    runs = {Path(run["name"]).stem: run for run in json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))}
    assert {name: run["outcome"] for name, run in runs.items()} == {"good": "passed", "bad": "failed", "dead": "crashed"}
    assert runs["bad"]["cell"] == 1 and "ZeroDivisionError" in runs["bad"]["message"]
    assert "status 3" in runs["dead"]["message"]


def test_all_passed_is_success_and_a_missing_file_is_not(tmp_path):
    good = write_notebook(tmp_path / "good.ipynb", "1 + 1")
    assert warm_command([good], tmp_path, "--no-fork").returncode == 0
    missing = warm_command([tmp_path / "none.ipynb"], tmp_path, "--no-fork")
    assert missing.returncode == 2
    assert "no such notebook" in missing.stderr


def test_second_thread_is_refused():
    code = (
        "import threading, time\n"
        "from course_lib.staff import warm\n"
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "try:\n    warm.assert_one_thread()\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert "a parent on one thread" in finished.stdout, finished.stderr


def test_at_least_one_at_a_time():
    with pytest.raises(ValueError, match="jobs"):
        next(warm.run_all(["x.ipynb"], jobs=0))
