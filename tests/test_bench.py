"""The bench measures what it says; how fast anything is, no test judges."""

import subprocess
import sys
from pathlib import Path

import pytest
from course_lib.staff import bench

REPO = Path(__file__).resolve().parents[1]


def test_functions_take_turns_and_each_is_called():
    calls = []
    seconds = bench.alternate([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, least=0.0)
    assert "".join(calls) == "ab" + "ab" * 3  # one warm-up each, then the turns
    assert len(seconds) == 2 and all(value >= 0 for value in seconds)


def test_no_repeat_is_refused():
    with pytest.raises(ValueError, match="repeats"):
        bench.alternate([], repeats=0)


def test_imports_are_summed_by_package_and_only_after_the_first_cell():
    log = "\n".join([
        "import time: self [us] | cumulative | imported package",
        "import time:   5000000 |    5000000 | IPython",
        bench.BEGIN,
        "import time:    200000 |     200000 |   torch.nn",
        "import time:   1000000 |    1200000 | torch",
        "a line that a cell printed",
        "import time:    300000 |     300000 | numpy",
    ])  # fmt: skip
    assert bench.import_shares(log) == pytest.approx({"torch": 1.2, "numpy": 0.3})


def test_notebooks_against_their_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SECONDS_FILE", tmp_path / "seconds.json")
    assert "make test" in bench.notebook_seconds()[0]
    bench.SECONDS_FILE.write_text('{"a.ipynb": 30.0, "b.ipynb": 45.0}', encoding="utf-8")
    first, second = bench.notebook_seconds()
    assert first.split() == ["b.ipynb", "0.75", "45.0", "s"]
    assert second.split() == ["a.ipynb", "0.50", "30.0", "s"]


@pytest.mark.slow
def test_first_verdict_is_reached_in_a_fresh_process(tmp_path):
    import json

    from nbformat.v4 import new_code_cell, new_notebook, writes

    cells = [
        new_code_cell("import types\nlab = types.SimpleNamespace(points=lambda name: 2.0)"),
        new_code_cell("from pathlib import Path\nPath('.t.progress.json').write_text('{}')\nlab.points('f')"),
        new_code_cell("raise RuntimeError('after the first verdict')"),
    ]
    notebook = tmp_path / "toy.ipynb"
    notebook.write_text(writes(new_notebook(cells=cells)), encoding="utf-8")
    command = [sys.executable, "-m", "course_lib.staff.bench", "--first-verdict", str(notebook)]
    finished = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert set(json.loads(finished.stdout.splitlines()[-1])) == {"wall", "processor"}
    assert not (tmp_path / ".t.progress.json").exists()


@pytest.mark.slow
def test_roi_operators_are_timed_forward_and_with_backward():
    from course_lib.staff import bench_rois

    rows = bench_rois.bench_rows(repeats=1, channels=2, size=12, num_rois=3)
    assert [line.split()[0] for line in rows] == ["roi_pool", "roi_pool", "roi_align", "roi_align"]
    assert ["backward" in line for line in rows] == [False, True, False, True]
    assert all("torchvision:" in line for line in rows)
