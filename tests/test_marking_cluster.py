"""Submissions on a Dask cluster on loopback: one of two workers dies in the middle, and nothing is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import marking_helpers as helpers
import pytest
from marking_helpers import QUICK, TOPIC, state_of_gradebook, submit

from course_lib.staff.marking import cluster, run

pytest.importorskip("distributed", reason="the extra scale is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="marks are written on Linux or macOS")]


@pytest.fixture
def address(tmp_path):
    """A scheduler and two workers of one thread each, in processes of their own."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(helpers.REPO), os.environ.get("PYTHONPATH", "")])
    }
    environment |= {"DASK_DISTRIBUTED__WORKER__PRELOAD": "[]", "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": tmp_path}
    ready = tmp_path / "scheduler.json"
    processes = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                   "--scheduler-file", str(ready)], **quiet)]  # fmt: skip
    try:
        for _ in range(1200):
            if ready.exists() and ready.stat().st_size:
                break
            time.sleep(0.1)
        import json

        where = json.loads(ready.read_text())["address"]
        for _ in range(2):
            processes.append(subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", where, "--host", "127.0.0.1", "--nthreads", "1",
                                               "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path)], **quiet))  # fmt: skip
        from distributed import Client

        with Client(where, timeout=120, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield where
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def test_one_of_two_workers_dies_in_the_middle(address, tmp_path):
    root = helpers.make_course(tmp_path / "course")
    lab = helpers.lab_notebook(root)
    folder = tmp_path / "teaching" / "submitted"
    for number in range(16):
        path = submit(folder, f"s{number:02d}", lab, ["right", "squared", "lenient"][number % 3], "An answer.")
        if number == 7:  # the first worker that gets it dies, and no other
            path.write_text(path.read_text().replace("That was the toy.", "first one dies"))
    (folder / "zed" / TOPIC).mkdir(parents=True)
    flag = tmp_path / "died"
    settings = {"secret": b"s", "topic": TOPIC, "unsafe": False, "factory": QUICK, "root": str(root), "once": str(flag)}
    original = cluster.Cluster.__init__

    def with_flag(self, where, _, digest):
        original(self, where, settings, digest)

    said = []
    patch = pytest.MonkeyPatch()
    patch.setattr(cluster.Cluster, "__init__", with_flag)
    try:
        fine = run.grade(folder, TOPIC, root=root, factory=QUICK, cluster=address, say=said.append)
    finally:
        patch.undo()
    assert flag.exists(), "a worker died"
    assert fine and "16 graded, 1 could not be read" in "\n".join(said)
    in_cluster = state_of_gradebook(f"sqlite:///{tmp_path}/teaching/gradebook.db")
    run.grade(folder, TOPIC, root=root, factory=QUICK, out=tmp_path / "alone", say=lambda line: None)
    assert in_cluster == state_of_gradebook(f"sqlite:///{tmp_path}/alone/gradebook.db")


def test_a_worker_with_another_state_of_the_lab_refuses(tmp_path):
    root = helpers.make_course(tmp_path / "course")
    settings = {"secret": b"s", "topic": TOPIC, "unsafe": False, "factory": QUICK, "root": str(root)}
    result, why = cluster.grade_remotely(settings, "another", TOPIC, "toy.ipynb", b"{}")
    assert result is None and "holds another state of 90_toy" in why
    result, why = cluster.grade_remotely(settings | {"root": str(tmp_path)}, "another", TOPIC, "toy.ipynb", b"{}")
    assert result is None and "has no 90_toy" in why
