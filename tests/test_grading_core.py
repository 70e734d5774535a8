"""The sandbox, the judge and the reading of notebooks, one property at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.cli import CommandError
from course_lib.staff.grading import judge
from course_lib.staff.grading import sandbox as module
from course_lib.staff.grading.grade import SubmissionResult, picture_array, private_seed
from course_lib.staff.grading.judge import Grader, GraderFault
from course_lib.staff.grading.sandbox import ChildEnded, Limits, Sandbox, SandboxLost, SandboxMissing
from course_lib.staff.grading.submission import Unreadable, normal, read, stub
from course_lib.staff.labs import load

ROOT = Path(__file__).parent / "hostile" / "course"
SECRET = b"a secret for tests only"
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("bwrap") is None, reason="submissions are graded on Linux with bubblewrap"
)
together = pytest.mark.xdist_group("grading")


def notebook_file(path: Path, *cells: str | tuple[str, str]) -> Path:
    made = []
    for cell in cells:
        source, tag = cell if isinstance(cell, tuple) else (cell, None)
        metadata = {"nbgrader": {"grade_id": tag}} if tag else {}
        made.append({"cell_type": "code", "metadata": metadata, "source": source, "outputs": []})
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}), encoding="utf-8")
    return path


# ---- reading -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab():
    return load("70_target", ROOT)


def test_cells_of_ours_do_not_run_wherever_they_stand(lab, tmp_path):
    check, setup, demonstration = lab.of_kind("check")[0], lab.of_kind("setup")[0], [c for c in lab.of_kind("plain") if c.cell_type == "code"][0]
    own = ("def moving_average(x, width):\n    return x", "exercise_moving_average")
    path = notebook_file(
        tmp_path / "n.ipynb", check.source, check.source + '\n\n\nlab.points("moving_average")', "helper = 1", setup.source + "\n\nlab.seal()  \n\n",
        demonstration.source, "# a remark\n" + demonstration.source, own, stub(lab.of_kind("exercise")[0].source), "   \n",
    )  # fmt: skip
    submission = read(path, lab)
    assert [(cell.number, cell.home) for cell in submission.cells] == [(3, None), (7, "moving_average")]
    assert submission.problems == []


def test_a_changed_cell_of_ours_runs(lab, tmp_path):
    path = notebook_file(tmp_path / "n.ipynb", ("import torch, math", "setup_1"), (lab.of_kind("check")[0].source + "\nx = 1", "check_moving_average"))
    assert [cell.home for cell in read(path, lab).cells] == [None, None]


def test_the_stub_is_what_nbgrader_makes(lab):
    assert stub("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n\nx = 1") == "def f():\n    raise NotImplementedError()\n\nx = 1"
    nbgrader = "def f():\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert normal(nbgrader) == normal(stub("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"))


def test_a_file_outside_the_submissions_or_behind_a_link_is_not_read(lab, tmp_path):
    root, other = tmp_path / "submitted", tmp_path / "other"
    (root / "anna").mkdir(parents=True)
    other.mkdir()
    notebook_file(other / "n.ipynb", "x = 1")
    notebook_file(root / "anna" / "n.ipynb", "x = 1")
    (root / "bert").symlink_to(root / "anna")
    (root / "carl").symlink_to(other)
    assert read(root / "anna" / "n.ipynb", lab, root).cells
    for path in (root / "bert" / "n.ipynb", root / "carl" / "n.ipynb", other / "n.ipynb", root / ".." / "other" / "n.ipynb"):
        with pytest.raises(Unreadable, match="link|not in the folder"):
            read(path, lab, root)


def test_too_large_a_file_is_not_read(lab, tmp_path):
    with open(tmp_path / "n.ipynb", "wb") as stream:
        stream.truncate(200 * 2**20)
    with pytest.raises(Unreadable, match="200 MB"):
        read(tmp_path / "n.ipynb", lab)


def test_the_private_seed_hangs_on_secret_and_lab_alone():
    assert private_seed(SECRET, "01_a") == private_seed(SECRET, "01_a")
    assert len({private_seed(SECRET, "01_a"), private_seed(SECRET, "01_b"), private_seed(SECRET + b"!", "01_a")}) == 3
    assert private_seed(SECRET, "01_a") > 2**64
    with pytest.raises(ValueError, match="at least 16 bytes, got 5"):
        private_seed(b"short", "01_a")


# ---- the sandbox ---------------------------------------------------------------------------------------------------------------------------


def test_without_bubblewrap_grading_refuses_in_one_line(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(SandboxMissing) as refused:
        Sandbox().start()
    assert "bubblewrap" in str(refused.value) and "\n" not in str(refused.value)
    assert isinstance(refused.value, CommandError)


def test_on_another_system_grading_refuses_in_one_line(monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(SandboxMissing, match="Linux"):
        Sandbox().start()


def test_a_bubblewrap_that_fails_is_a_refusal_with_its_reason(monkeypatch, tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("submissions are graded on Linux")
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(module.shutil, "which", lambda name: str(program))
    folder = tmp_path / "temporary"  # of this test alone: other graders of this machine have theirs in the common one
    folder.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(folder))
    with pytest.raises(SandboxMissing, match="No permissions to create new namespace"):
        Sandbox().start()
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=Limits(memory=2**30, processes=40)) as sandbox:
        yield sandbox


def tried(sandbox, source: str) -> dict:
    child = sandbox.fork()
    try:
        return child.order("test", source=source)
    finally:
        sandbox.end_child()


@on_linux
@together
@pytest.mark.slow
def test_all_layers_hold(sandbox):
    layers = {layer.name: layer for layer in sandbox.describe()}
    assert all(layer.active for layer in layers.values() if layer.essential)
    assert {"network", "files", "processes", "environment", "descriptors", "capabilities", "limits"} <= {n for n, l in layers.items() if l.essential}


@on_linux
@together
@pytest.mark.slow
def test_a_layer_that_does_not_hold_is_a_refusal(sandbox, monkeypatch):
    from course_lib.staff.grading.sandbox import _layers

    found = dict.fromkeys(("files", "processes", "environment", "descriptors", "capabilities", "limits", "calls"), "") | {"network": "a socket reaches 1.1.1.1"}
    network = _layers(found, {"uid": 61200}, False)[0]
    assert (network.name, network.active, network.essential, network.words) == ("network", False, True, "a socket reaches 1.1.1.1")
    monkeypatch.setattr(module, "_layers", lambda *a: [network])
    with pytest.raises(SandboxMissing, match="does not hold: network: a socket reaches"):
        sandbox._self_test()


@on_linux
@together
@pytest.mark.slow
def test_children_share_nothing(sandbox):
    write = "import os\nopen('/tmp/left', 'w').write('x')\nopen('/dev/shm/left', 'w').write('x')\nimport builtins\nbuiltins.left = 1\nfound['uid'] = os.getuid()"
    look = "import os, builtins\nfound['seen'] = os.path.exists('/tmp/left') or os.path.exists('/dev/shm/left') or hasattr(builtins, 'left')"
    assert tried(sandbox, write)["uid"] > 0
    assert tried(sandbox, look) == {"seen": False}


@on_linux
@together
@pytest.mark.slow
def test_all_descendants_end_with_a_child(sandbox):
    child = sandbox.fork()
    source = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(1000)\n        os._exit(0)"
    child.order("test", source=source)
    inside = len(module._descendants(sandbox._process.pid))
    sandbox.end_child()
    left = len(module._descendants(sandbox._process.pid))
    assert inside >= left + 4


@on_linux
@together
@pytest.mark.slow
def test_time_memory_noise_and_ends_are_told_apart(sandbox):
    for source, why in [
        ("while True: pass", "time"),
        ("import os\nos._exit(3)", "ended"),
        ("import os\nos.write(3, b'x' * 100)", "noise"),
        (
            "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        held = bytearray(2 ** 28)\n"
            "        held[:: 4096] = b'x' * len(held[:: 4096])\n        time.sleep(100)\ntime.sleep(100)",
            "memory",
        ),
    ]:
        child = sandbox.fork()
        with pytest.raises(ChildEnded) as ended:
            child.order("test", within=3.0 if why == "time" else 30.0, source=source)
        assert ended.value.why == why or why == "memory" and ended.value.why == "ended"  # the control group may be first
        status = sandbox.end_child(1.0 if why == "ended" else 0.0)
        assert why != "ended" or status == 3


@on_linux
@together
@pytest.mark.slow
def test_a_lost_parent_is_noticed_and_replaced(sandbox):
    os.kill(sandbox._parent_pid(), signal.SIGKILL)
    with pytest.raises(SandboxLost):
        sandbox.fork()
    sandbox.restart()
    assert tried(sandbox, "found['x'] = 1") == {"x": 1}


@on_linux
@together
@pytest.mark.slow
def test_it_ends_with_the_grader(tmp_path):
    program = (
        "import os, sys\nfrom course_lib.staff.grading.sandbox import Sandbox\nsandbox = Sandbox()\nsandbox.start()\nchild = sandbox.fork()\n"
        "print(sandbox._process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    repo = str(Path(__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, cwd=repo, env={**os.environ, "PYTHONPATH": repo})
    pid = int(run.stdout)
    for _ in range(100):
        if not Path("/proc", str(pid)).exists():
            break
        time.sleep(0.1)
    assert not Path("/proc", str(pid)).exists()


@on_linux
@together
@pytest.mark.slow
def test_it_works_for_a_user_without_rights(tmp_path):
    """As root by way of another user, who may not look into every Python environment: then there is nothing to test."""
    if os.geteuid() != 0:
        pytest.skip("this user is one, so all other tests are this test")
    nobody = dict(user=65534, group=65534, extra_groups=[])
    repo = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": repo, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path)}
    try:
        reached = subprocess.run([sys.executable, "-c", "import course_lib.staff.grading.sandbox"], cwd=repo, env=environment, capture_output=True, **nobody)
    except OSError:
        reached = None
    if reached is None or reached.returncode != 0:
        pytest.skip("another user cannot use this Python environment")
    program = (
        "from course_lib.staff.grading.sandbox import Sandbox\nwith Sandbox() as s:\n    child = s.fork()\n    print(child.hello['uid'])\n"
        "    print([l.name for l in s.describe() if not l.active])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=repo, env=environment, capture_output=True, text=True, timeout=200, **nobody)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "65534"


# ---- the judge -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grader():
    with Grader(SECRET, topics=("70_target", "71_naive"), root=ROOT, own_seconds=8.0) as grader:
        yield grader


RIGHT = (
    "def moving_average(x, width):\n    if width < 1:\n        raise ValueError\n    return x.unfold(0, width, 1).mean(1)",
    "def draw_mask(size, p, generator):\n    return torch.rand(size, generator=generator) < p",
)


@on_linux
@together
@pytest.mark.slow
def test_a_result_survives_json_and_names_mistakes(grader, tmp_path):
    summed = RIGHT[0].replace("mean", "sum")
    result = grader.grade(notebook_file(tmp_path / "n.ipynb", (summed, "exercise_moving_average"), RIGHT[1], "1 / 0"), "70_target")
    stored = json.loads(json.dumps(result.to_dict()))
    assert SubmissionResult.from_dict(stored).to_dict() == result.to_dict()
    assert {r.exercise: r.mistake for r in result.results}["moving_average"] == "moving_average/1"
    assert result.earned == 2 and result.points == 10
    assert result.problems == ["cell 3 stopped with ZeroDivisionError: division by zero"]
    assert result.cells == [summed, RIGHT[1], "1 / 0"]
    for r in result.results:
        for picture in r.pictures or ():
            assert picture_array(picture).ndim == 2


@on_linux
@together
@pytest.mark.slow
def test_known_mistakes_are_worked_out_once_and_in_nobodys_time(tmp_path, monkeypatch):
    once, asked = judge.Once(), []
    monkeypatch.setattr(judge, "_once", lambda key, find: once(key, lambda: (asked.append(key[-1]), time.sleep(2), find())[-1]))
    path = notebook_file(tmp_path / "n.ipynb", (RIGHT[0].replace("mean", "sum"), "exercise_moving_average"), RIGHT[1])
    began, seconds = time.monotonic(), 0.0
    with Grader(SECRET, topics=("70_target",), root=ROOT) as one, Grader(SECRET, topics=("70_target",), root=ROOT) as other:
        started = time.monotonic() - began
        for grader in (one, other, one):
            result = grader.grade(path, "70_target")
            assert {r.mistake for r in result.results if r.exercise == "moving_average" and not r.earned} == {"moving_average/1"}
            seconds += result.seconds
        assert seconds <= time.monotonic() - began - started - 2, "the two seconds are nobody's"
    assert asked == ["moving_average"]


def test_what_is_worked_out_once_is_tried_again_when_it_failed():
    once, answers = judge.Once(), iter([None, [{"id": "f/1"}]])
    assert once(("f",), lambda: next(answers)) is None
    assert once(("f",), lambda: next(answers)) == [{"id": "f/1"}]
    assert once(("f",), lambda: next(answers)) == [{"id": "f/1"}]


@on_linux
@together
@pytest.mark.slow
def test_grading_again_gives_the_same(grader, tmp_path):
    path = notebook_file(tmp_path / "n.ipynb", *RIGHT, "def average_twice(x, width):\n    return x[: len(x) - 4] + torch.rand(1)")
    first, second = grader.grade(path, "70_target"), grader.grade(path, "70_target")
    for result in (*first.results, *second.results):
        result.seconds = 0.0
    assert first.results == second.results


@on_linux
@together
@pytest.mark.slow
@pytest.mark.parametrize("answer", ["return 10 ** 15", "return 2 ** 60", "return -1", "return 'three'"])
def test_a_check_that_trusts_an_answer_costs_that_check_alone(grader, tmp_path, answer):
    path = notebook_file(tmp_path / "n.ipynb", f"def small_number():\n    {answer}")
    result = grader.grade(path, "71_naive")
    assert [r.earned for r in result.results] == [1, 0, 1]
    assert grader.grade(notebook_file(tmp_path / "r.ipynb", "def small_number():\n    return 3"), "71_naive").earned == 4


@on_linux
@together
@pytest.mark.slow
def test_a_judge_that_is_killed_is_replaced(grader, tmp_path):
    path = notebook_file(tmp_path / "n.ipynb", *RIGHT)
    expected = grader.grade(path, "70_target").earned
    grader._process.kill()
    assert grader.grade(path, "70_target").earned == expected == 6


@on_linux
@together
@pytest.mark.slow
def test_memory_descriptors_and_processes_stay_as_they_are(grader, tmp_path):
    """Over 1,000 submissions the judge was seen to grow by 1 MB. Here 6 MB in 32: a fifth of a megabyte kept of each is over it."""
    kinds = (RIGHT, (RIGHT[0].replace("mean", "sum"), RIGHT[1]), ("def moving_average(x, width):\n    1 / 0", "import os\nos._exit(1)"), ())
    paths = [notebook_file(tmp_path / f"{number}.ipynb", *cells) for number, cells in enumerate(kinds)]

    def state() -> tuple[int, int, set[int], list[int]]:
        judge_pid = grader._process.pid
        inside = module._descendants(judge_pid)
        sizes = [int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in inside]
        return sizes[0], max(sizes[1:]), set(inside), [len(os.listdir(f"/proc/{pid}/fd")) for pid in inside]

    for number in range(8):  # the first of each kind brings what all later ones use
        grader.grade(paths[number % 4], "70_target")
    before = state()
    for number in range(32):
        grader.grade(paths[number % 4], "70_target")
    after = state()
    assert after[2:] == before[2:]
    assert after[0] - before[0] < 6 * 2**20 and after[1] - before[1] < 6 * 2**20


@on_linux
@together
@pytest.mark.slow
def test_an_unknown_lab_is_a_fault_and_not_the_end(grader, tmp_path):
    path = notebook_file(tmp_path / "n.ipynb", *RIGHT)
    with pytest.raises(GraderFault, match="99_none"):
        grader.grade(path, "99_none")
    assert grader.grade(path, "70_target").earned == 6


@pytest.mark.slow
@together
def test_without_a_sandbox_only_when_asked(tmp_path):
    path = notebook_file(tmp_path / "n.ipynb", *RIGHT, "import os\ndef average_twice(x, width):\n    os._exit(0)")
    with Grader(SECRET, topics=("70_target",), root=ROOT, unsafe=True) as grader:
        assert [layer["active"] for layer in grader.describe()] == [False]
        assert grader.grade(path, "70_target").earned == 6


def test_a_short_secret_and_a_lost_lab_are_faults():
    with pytest.raises(GraderFault, match="98_nowhere"), Grader(SECRET, topics=("98_nowhere",), root=ROOT, unsafe=True):
        pass
