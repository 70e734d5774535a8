"""What holds of every notebook as it stands in the repository. That lectures and solutions run is nbval's part of the suite."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPO = Path(__file__).resolve().parents[1]
LECTURES = sorted(REPO.glob("lectures/*.ipynb"))
LABS = sorted(REPO.glob("labs/*/*.ipynb"))
SOLUTIONS = sorted(REPO.glob("solutions/*/*.ipynb"))
EXECUTED = LECTURES + SOLUTIONS
SIZE_LIMIT = 1_000_000  # bytes: what a browser opens at once, and a repository can carry some hundred of


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def grade_id(cell) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def result_of(outputs: list) -> str | None:
    """The text of a cell's last result."""
    results = [output["data"]["text/plain"] for output in outputs if output["output_type"] == "execute_result"]
    return results[-1] if results else None


def text_of(outputs: list) -> str:
    """All that a cell shows, as text."""
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_there_is_a_topic():
    assert LECTURES and LABS and SOLUTIONS


def test_every_topic_is_whole():
    """A lecture, a lab and a solution; and each comes from a text source."""
    topics = {path.parent.name for path in SOLUTIONS}
    gallery = {"00_the_world"}  # shows the data of all topics and has no lab
    assert topics == {path.parent.name for path in LABS} == {path.stem for path in LECTURES} - gallery
    assert {path.stem for path in (REPO / "lectures").glob("*.py")} == topics | gallery
    assert {path.parent.name for path in REPO.glob("solutions/*/*.py")} == topics


@pytest.mark.parametrize("path", EXECUTED + LABS, ids=name_of)
def test_format_and_size(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < SIZE_LIMIT


@pytest.mark.parametrize("path", EXECUTED, ids=name_of)
def test_outputs_are_of_one_clean_run(path):
    cells = [cell for cell in code_cells(read(path)) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert "error" not in [output.output_type for output in cell.outputs], cell.source


@pytest.mark.parametrize("path", LABS, ids=name_of)
def test_lab_has_no_outputs(path):
    for cell in code_cells(read(path)):
        assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", SOLUTIONS, ids=name_of)
def test_solution_shows_full_points(path):
    checks = [cell for cell in code_cells(read(path)) if grade_id(cell).startswith("check_")]
    assert checks
    shown = {grade_id(cell): result_of(cell.outputs) for cell in checks}
    assert shown == {grade_id(cell): str(float(cell.metadata.nbgrader.points)) for cell in checks}


def images_without_text(notebook) -> list[str]:
    """Every picture of a notebook that a reader who cannot see it learns nothing of."""
    found = []
    for number, cell in enumerate(notebook.cells):
        sources = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            sources.append(data.get("text/html", ""))
            # JupyterLab drops the alternative text of a bare image: course_lib.plots.show puts out an <img> instead.
            found += [f"cell {number}: bare {mime}" for mime in data if mime.startswith("image/")]
        for source in sources:
            found += [f"cell {number}: {image[:80]}" for image in re.findall(r"!\[\s*\]\([^)]*\)", source)]
            for image in re.findall(r"<img\b[^>]*>", source):
                if not re.search(r"""\balt=(?:"[^"]*\w[^"]*"|'[^']*\w[^']*')""", image):
                    found.append(f"cell {number}: {image[:80]}")
    return found


@pytest.mark.parametrize("path", EXECUTED + LABS, ids=name_of)
def test_images_have_alternative_text(path):
    assert images_without_text(read(path)) == []


def test_images_without_alternative_text_are_found():
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    html = new_output("display_data", data={"text/html": '<img src="data:,x"><img alt="" src="y"><img alt="a plot" src="z">'})
    bare = new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})
    notebook = new_notebook(cells=[new_markdown_cell("![](a.png) ![a cat](b.png)"), new_code_cell("1", outputs=[html, bare])])
    found = images_without_text(notebook)
    assert len(found) == 4
    assert not any("a cat" in image or "a plot" in image for image in found)


# ---- the lab as a student gets it ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unfilled(tmp_path_factory) -> dict[str, dict]:
    """Every lab, nothing filled in, run in a copy of its folder."""
    folder = tmp_path_factory.mktemp("unfilled")
    copies = []
    for path in LABS:
        copy = folder / "labs" / path.parent.name
        shutil.copytree(path.parent, copy, ignore=shutil.ignore_patterns("*.progress.json", ".ipynb_checkpoints"))
        copies.append(copy / path.name)
    stored = folder / "runs.json"
    command = [sys.executable, "-m", "course_lib.staff.warm", *map(str, copies), "--json", str(stored)]
    finished = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert stored.exists(), finished.stdout + finished.stderr
    runs = json.loads(stored.read_text(encoding="utf-8"))
    return {Path(run["name"]).relative_to(folder).as_posix(): run for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("path", LABS, ids=name_of)
def test_unfilled_lab_runs_to_the_end_for_nothing(path, unfilled):
    run = unfilled[name_of(path)]
    assert run["outcome"] == "passed", run["message"]
    cells = code_cells(read(path))
    assert len(run["outputs"]) == len(cells)
    checks = {grade_id(cell): outputs for cell, outputs in zip(cells, run["outputs"]) if grade_id(cell).startswith("check_")}
    assert checks
    assert {name: result_of(outputs) for name, outputs in checks.items()} == dict.fromkeys(checks, "0.0")
    assert [name for name, outputs in checks.items() if "not attempted" not in text_of(outputs).lower()] == []
