"""Records of the two sizes say what was run, and the same code runs at both."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.staff import profiles


pytestmark = pytest.mark.slow


@pytest.fixture
def notebook(tmp_path):
    cells = [new_code_cell("from course_lib import repro\nprint('size', {'quick': 1, 'full': 100}[repro.profile()])\nx = bytearray(200_000_000)")]
    path = tmp_path / "toy.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_record_holds_what_was_printed_at_that_size(notebook):
    quick, full = (profiles.run(notebook, profile) for profile in ("quick", "full"))
    assert quick["printed"] == "size 1\n" and full["printed"] == "size 100\n"
    assert quick["memory_mb"] > 190 and quick["seconds"] > 0
    assert quick["gpu"] is None  # torch was never imported
    assert len(nbformat.read(notebook, 4).cells) == 1 and "outputs" in json.loads(notebook.read_text())["cells"][0]


def test_records_stand_side_by_side_and_a_failure_is_told(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profiles, "REPO", tmp_path)
    out = tmp_path / "profiles.json"
    for profile in ("quick", "full"):
        assert profiles.main([str(notebook), "--profile", profile, "--out", str(out)]) == 0
    assert set(json.loads(out.read_text())["toy.ipynb"]) == {"quick", "full"}
    broken = tmp_path / "broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), broken)
    assert profiles.main([str(broken), "--out", str(out)]) == 1
    assert "broken.ipynb" in capsys.readouterr().err and "broken.ipynb" not in json.loads(out.read_text())
