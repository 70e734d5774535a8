"""`Lab` in the kernel of a student: cells in any order, progress on disk, points, hints; once in a real kernel too."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from checks_helpers import cell
from course_lib.checks import Lab, runner

TOPIC = "91_small"
CARD = {
    "topic": TOPIC,
    "exercises": [
        {"name": "double", "title": "double a tensor", "points": 3, "minutes": 5, "hints": 2, "checks": ["by_hand", "any_shape"]},
        {"name": "shift", "title": "shift a list", "points": 2, "minutes": 5, "hints": 0, "checks": ["adds"]},
    ],
    "written": [{"name": "why", "points": 2}],
    "mistakes": [],
}
SETUP = """
import torch
import torch.nn.functional as F
from course_lib.checks import Lab, expect_close, expect_equal, expect_raises
lab = Lab("91_small", folder=FOLDER)
lab.seal()
"""
MORE_SETUP = """
SCALE = 2
TABLE = {"weights": [torch.ones(2), torch.zeros(2)]}
offsets = [1, 2, 3]

def library_double(x, scale=SCALE):
    return F.relu(x * scale) - F.relu(-x * scale)

class Oracle:
    def __call__(self, x):
        return library_double(x) + sum(w.sum() for w in TABLE["weights"]) - len(TABLE["weights"])
lab.seal()
"""
STUB = "def double(x):\n    raise NotImplementedError()\ndef shift(values, offset):\n    raise NotImplementedError()"
RIGHT = "def double(x):\n    return x + x"
WRONG = "def double(x):\n    return x * {factor}"
CHECK = '''
def cases():
    return [torch.ones(2), torch.arange(6.0).reshape(2, 3) - 2]

@lab.check("double", points=1)
def by_hand(double):
    """One number."""
    expect_equal(double(torch.tensor(3.0)), torch.tensor(6.0), "3")

@lab.check("double", points=2)
def any_shape(double, rng):
    """Any shape."""
    for x in cases():
        expect_close(double(x), Oracle()(x), f"shape {tuple(x.shape)}")
        expect_close(double(x), library_double(x), f"shape {tuple(x.shape)}")
lab.points("double")
'''
SHIFT_CHECK = '''
@lab.check("shift", points=2)
def adds(shift):
    """Adds, and leaves the list as it was."""
    expect_equal(shift(offsets, SCALE), [o + SCALE for o in offsets], "offsets")
    expect_equal(offsets, [1, 2, 3], "as it was")
lab.points("shift")
'''


@pytest.fixture
def cards(tmp_path, monkeypatch):
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / f"{TOPIC}.json").write_text(json.dumps(CARD), encoding="utf-8")
    monkeypatch.setattr(runner, "CARDS", folder)
    return folder


@pytest.fixture
def kernel(cards, tmp_path):
    """A namespace in which the setup cells ran."""
    return start(tmp_path)


def start(folder) -> dict:
    namespace = {"__name__": "__main__", "FOLDER": str(folder)}
    cell(SETUP, namespace)
    return cell(MORE_SETUP, namespace)


def says(capsys) -> str:
    return capsys.readouterr().out


def outcomes(namespace, exercise="double") -> list[str]:
    return [result.outcome for result in namespace["lab"]._results[exercise].values()]


# --- a student's way through a lab -------------------------------------------------------------------------------------------


def test_from_the_stub_to_full_points(kernel, capsys):
    cell(STUB, kernel)
    cell(CHECK, kernel)
    assert "○ double: 0 of 3 points (not attempted)" in says(capsys)
    cell("ready = lab.ready('double')", kernel)
    assert kernel["ready"] is False and "solve it first, then run this cell again" in says(capsys)
    cell(WRONG.format(factor=3), kernel)
    cell(CHECK, kernel)
    text = says(capsys)
    assert "✗ double: 0 of 3 points (wrong)" in text and "9.0 should be 6.0" in text and "open Hint 1" in text
    cell(RIGHT, kernel)
    cell(CHECK, kernel)
    assert "✓ double: 3 of 3 points (passed)" in says(capsys) and kernel["lab"].ready("double") and says(capsys) == ""


def test_points_are_a_finite_float_and_partial(kernel, capsys):
    cell("def double(x):\n    return x * 2 if x.ndim == 0 else x", kernel)
    cell(CHECK.replace('lab.points("double")', 'earned = lab.points("double")'), kernel)
    assert kernel["earned"] == 1.0 and type(kernel["earned"]) is float and "1 of 3 points" in says(capsys)


def test_a_demonstration_before_the_check_says_what_to_run(kernel, capsys):
    assert kernel["lab"].ready("double") is False
    assert says(capsys) == "This part uses your `double`: run its check first, then run this cell again.\n"


def test_names_that_a_student_redefines_or_changes_do_not_reach_a_check(kernel, capsys):
    cell(
        """
        TABLE["weights"][0].mul_(5)
        TABLE["more"] = 1
        offsets.append(4)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        F = SCALE = TABLE = offsets = Oracle = cases = expect_close = sum = len = torch = Lab = None
        def library_double(x, scale=1): return None
        def double(x): return x + x
        def shift(values, offset): return [v + offset for v in values]
        """,
        kernel,
    )
    import torch

    try:
        cell(CHECK, kernel)
        cell(SHIFT_CHECK, kernel)
    finally:
        torch.set_default_dtype(torch.float32)
    text = says(capsys)
    assert "✓ double: 3 of 3 points" in text and "✓ shift: 2 of 2 points" in text


def test_cells_run_again_and_in_another_order(kernel, capsys):
    cell(RIGHT, kernel)
    cell(CHECK, kernel)
    cell(SETUP, kernel)  # a new Lab; the names of the other setup cell are known from before
    cell(CHECK, kernel)
    assert says(capsys).count("3 of 3 points") == 2
    cell(MORE_SETUP.replace("SCALE = 2", "SCALE = 3"), kernel)
    cell(CHECK + "\n", kernel)  # another cell with the same text
    assert "0 of 3 points" not in says(capsys)
    cell(SETUP, kernel)
    cell(MORE_SETUP, kernel)
    cell(CHECK, kernel)
    assert "3 of 3 points" in says(capsys)


def test_another_notebook_of_the_same_process_knows_nothing_of_the_first(kernel, tmp_path, capsys):
    other = cell(SETUP, {"__name__": "__main__", "FOLDER": str(tmp_path)})
    cell(RIGHT, other)
    cell(CHECK, other)
    assert "The check itself failed (NameError: name 'Oracle' is not defined" in says(capsys)


def test_setup_may_use_annotations_of_the_future(cards, tmp_path, capsys):
    namespace = cell("from __future__ import annotations\n" + SETUP, {"__name__": "__main__", "FOLDER": str(tmp_path)})
    cell("from __future__ import annotations\ndef g(x: Unknown) -> Later: return x\nlab.seal()", namespace)
    assert namespace["lab"]._ours["g"](3) == 3 and namespace["lab"]._ours["g"] is not namespace["g"]


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("lab.points('double')", RuntimeError, "no check of 'double' has run in this kernel"),
        ("lab.ready('dubble')", ValueError, "exercise must be one of double, shift; got 'dubble'"),
        ("Lab('91_small').check('double', points=1)(lambda double: 0)", RuntimeError, "run the notebook's first code cell"),
        ("Lab('92_other').progress()", ValueError, "topic names a lab of this course, got '92_other'; there are: 91_small"),
    ],
)
def test_what_cannot_be_done_is_said_clearly(kernel, line, error, words):
    with pytest.raises(error, match=re.escape(words)):
        cell(line, kernel)


def test_without_cards_the_error_names_the_topic(kernel, cards, monkeypatch):
    (cards / f"{TOPIC}.json").unlink()
    with pytest.raises(ValueError, match="topic names a lab of this course, got '91_small'; there are: none"):
        Lab(TOPIC).progress()


# --- hints ------------------------------------------------------------------------------------------------------------------------


def hint(capsys) -> str:
    return re.search(r"open Hint (\d)", says(capsys)).group(1)


def test_a_hint_is_counted_for_each_different_wrong_answer(kernel, capsys):
    shown = []
    for factor in (3, 3, 4, 3, 4, 5):  # going back to an answer seen before costs nothing
        cell(WRONG.format(factor=factor), kernel)
        cell(CHECK, kernel)
        shown.append(hint(capsys))
    assert shown == ["1", "1", "2", "2", "2", "2"]
    store = json.loads(next(iter(kernel["lab"]._store.parent.glob(".91_small.progress.json"))).read_text())
    assert store["double"]["failures"] == 3


def test_right_and_empty_answers_count_no_hint(kernel, capsys):
    for source in (STUB, RIGHT, STUB, WRONG.format(factor=3)):
        cell(source, kernel)
        cell(CHECK, kernel)
    assert hint(capsys) == "1"


def test_an_exercise_without_hints_names_none(kernel, capsys):
    cell("def shift(values, offset): return values", kernel)
    cell(SHIFT_CHECK, kernel)
    assert "Hint" not in says(capsys)


# --- progress ---------------------------------------------------------------------------------------------------------------------


def test_progress_survives_a_restart_until_the_check_runs_again(kernel, tmp_path, capsys):
    cell(RIGHT, kernel)
    cell(CHECK, kernel)
    says(capsys)
    kernel["lab"].progress()
    assert re.search(r"91_small: 3 of 5 points .*\n.*✓ double +3/3 +passed +double a tensor\n.*○ shift +0/2 +not attempted +shift a list\n.*2 points", says(capsys))
    again = start(tmp_path)
    again["lab"].progress()
    assert re.search(r"✓ double +3/3 +passed \(earlier session\)", says(capsys))
    assert again["lab"].ready("double") is False
    cell(STUB, again)
    cell(CHECK, again)
    says(capsys)
    again["lab"].progress()
    assert re.search(r"91_small: 0 of 5 points .*\n.*○ double +0/3 +not attempted +double a tensor\n", says(capsys))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"double": 3}',
        b'{"double": {}}',
        b'{"double": {"earned": "3", "outcome": "passed", "seen": []}}',
        b'{"double": {"earned": NaN, "outcome": "passed", "seen": []}}',
        b'{"double": {"earned": 3, "outcome": "perfect", "seen": []}}',
        b'{"double": {"earned": 3, "outcome": "wrong", "seen": [[1]]}}',
        b'{"double": {"failures": 0, "last": null}, "gone": {"earned": 1, "outcome": "passed", "seen": []}}',
    ],
    ids=lambda c: c[:40].decode("latin1"),
)
def test_a_damaged_progress_file_costs_the_progress_and_nothing_else(kernel, tmp_path, capsys, content):
    (tmp_path / f".{TOPIC}.progress.json").write_bytes(content)
    kernel["lab"].progress()
    assert "0 of 5 points" in says(capsys)
    cell(RIGHT, kernel)
    cell(CHECK, kernel)
    start(tmp_path)["lab"].progress()
    assert "3 of 5 points" in says(capsys)


def test_where_nothing_can_be_written_progress_lasts_as_long_as_the_kernel(cards, tmp_path, capsys):
    for folder in (tmp_path / "missing", tmp_path / "cards" / f"{TOPIC}.json"):  # no such folder, and a file in its place
        namespace = start(folder)
        cell(RIGHT, namespace)
        cell(CHECK, namespace)
        namespace["lab"].progress()
        assert "91_small: 3 of 5 points" in says(capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions bind nobody here")
def test_a_read_only_folder(cards, tmp_path, capsys):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    namespace = start(folder)
    cell(RIGHT, namespace)
    cell(CHECK, namespace)
    assert "3 of 3 points" in says(capsys)


# --- real interpreters ------------------------------------------------------------------------------------------------------------

FRESH = """
import sys
import torch
import course_lib.checks
# torch imports part of torch.testing by itself; the first call of assert_close imports sympy.
HEAVY = ("torch._dynamo", "sympy", "matplotlib", "torchvision", "sklearn", "IPython", "torch._inductor")
loaded = lambda: [name for name in HEAVY if name in sys.modules]
assert not loaded(), f"import course_lib.checks loads {loaded()}"
sys.path.insert(0, "tests")
from checks_helpers import run
from course_lib.checks import expect_close, gradients, normal
requests = []
from course_lib.checks import worker
handle = worker.Worker.handle
worker.Worker.handle = lambda self, request: requests.append(len(request)) or handle(self, request)
def check(f, rng):
    x = normal(rng, 4, 3)
    expect_close(f(x), x * x, "values")
    expect_close(gradients(f, x), gradients(lambda x: x * x, x), "gradients")
source = "def f(x): return x * FACTOR * x"
right = run(check, source.replace("FACTOR", "1"), forbid=("convolution",))
wrong = run(check, source.replace("FACTOR", "2"), forbid=("mul",))
assert (right.outcome, wrong.outcome) == ("passed", "wrong"), (right, wrong)
assert len(requests) == 6, requests  # begin, call, call, backward; begin, call
assert not loaded(), f"a check loads {loaded()}"
"""


@pytest.mark.slow
def test_neither_the_import_nor_a_first_verdict_loads_what_takes_seconds(repo):
    done = subprocess.run([sys.executable, "-c", FRESH], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_in_a_real_kernel(cards, tmp_path):
    import nbformat
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook()
    sources = [
        f"FOLDER = {str(tmp_path)!r}\nimport course_lib.checks.runner as runner\nfrom pathlib import Path\nrunner.CARDS = Path({str(cards)!r})",
        SETUP,
        MORE_SETUP,
        STUB,
        CHECK,
        "def double(x):\n    raise ValueError('<b>mine</b>')",
        CHECK,
        "F = None\ndef double(x):\n    while True: pass",
        CHECK.replace("points=1)", "points=1, seconds=0.3)").replace("points=2)", "points=2, seconds=0.3)"),
        "def double(x):\n    return x + x",
        CHECK,
        "lab.progress()",
        "import sys; [name for name in ('torch._dynamo', 'sympy', 'matplotlib') if name in sys.modules]",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    with tempfile.TemporaryDirectory(prefix="course-") as scratch:
        manager = AsyncKernelManager(kernel_name="python3", connection_file=str(Path(scratch) / "kernel.json"))
        if os.name == "posix":  # over TCP ipykernel warns that anybody on the machine can listen
            manager.transport, manager.ip = "ipc", str(Path(scratch) / "ipc")
        client = NotebookClient(notebook, timeout=120, km=manager, resources={"metadata": {"path": str(tmp_path)}})
        client.execute(cleanup_kc=True)

    def panel(number):
        data = [output["data"] for output in notebook.cells[number].outputs if output["output_type"] == "display_data"]
        assert len(data) == 1 and set(data[0]) == {"text/html", "text/plain"}
        return data[0]["text/plain"], data[0]["text/html"]

    def value(number):
        return [o["data"]["text/plain"] for o in notebook.cells[number].outputs if o["output_type"] == "execute_result"]

    assert "not attempted" in panel(4)[0] and value(4) == ["0.0"]
    text, html = panel(6)
    assert "ValueError: <b>mine</b>" in text and "&lt;b&gt;mine&lt;/b&gt;" in html and "<b>mine" not in html
    assert "your line: raise ValueError('<b>mine</b>')   (line 2 of the cell, in double)" in re.sub(" +", " ", text).replace("') (", "')   (")
    assert "out of time or memory" in panel(8)[0] and value(8) == ["0.0"]
    assert "3 of 3 points" in panel(10)[0] and value(10) == ["3.0"]
    assert "91_small: 3 of 5 points" in panel(11)[0]
    assert value(12) == ["[]"]
    for number in (4, 6, 8, 10, 11):
        assert "course_lib" not in panel(number)[0] + panel(number)[1] and "Traceback" not in panel(number)[0]
