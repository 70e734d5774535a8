"""What an import costs: the modules that a notebook pays for in seconds are imported only where they are used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def loaded(*names: str) -> set[str]:
    """The modules that a fresh interpreter has after importing these."""
    code = f"import sys\n{''.join(f'import {name}' + chr(10) for name in names)}import json\nprint(json.dumps(list(sys.modules)))"
    environment = os.environ | {"PYTHONWARNINGS": "error:::course_lib"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=REPO)
    return set(json.loads(out.stdout))


def test_the_package_itself_imports_nothing():
    modules = loaded("course_lib")
    assert "course_lib" in modules
    costly = {"torch", "torchvision", "numpy", "sklearn", "skimage", "matplotlib", "IPython", "ipywidgets", "nbgrader", "nbformat"}
    assert modules & costly == set()
    assert {name for name in modules if name.startswith("course_lib")} == {"course_lib"}


def test_what_most_notebooks_import_pays_for_torch_and_no_more():
    ours = {f"course_lib.{name}" for name in ("datasets", "metrics", "repro", "training")}
    modules = loaded(*sorted(ours))
    assert ours | {"torch"} <= modules
    assert modules & {"torchvision", "sklearn", "skimage", "torch._dynamo", "matplotlib", "IPython", "ipywidgets"} == set()


@pytest.mark.slow
def test_figures_pay_for_matplotlib_and_no_more():
    modules = loaded("course_lib.plots")
    assert "matplotlib.pyplot" in modules
    assert modules & {"torch", "torchvision", "sklearn", "skimage", "scipy", "IPython", "ipywidgets"} == set()


@pytest.mark.slow
def test_reading_data_imports_neither_package_that_ships_it():
    code = """
import sys
from course_lib import datasets
datasets.digits("train"), datasets.photograph("china"), datasets.photograph("cat"), datasets.stereo_motorcycle()
assert not set(sys.modules) & {"sklearn", "skimage", "scipy", "torchvision", "imageio"}, "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
