"""Every submission of the corpus gets exactly the points that an honest grader gives, and nothing outside the sandbox changes."""

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "hostile"))
from corpus import CASES, MARK, PORT, ROOT, SLEEP, TOPIC  # noqa: E402

from course_lib.staff.grading.judge import Grader  # noqa: E402
from course_lib.staff.grading.sandbox import FIRST_UID, NUMBER_OF_UIDS  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("grading"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="submissions are graded on Linux"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]
SECRET = b"a secret for tests only"
MEMORY = 2 * 2**30


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    os.environ["COURSE_SECRET_TOKEN"] = "not for submissions"
    limits = {"memory": MEMORY, "processes": 64}
    times = {"patience": 0.5, "cell": 2.0, "cells": 6.0, "total": 60.0}
    with Grader(SECRET, topics=(TOPIC,), root=ROOT, limits=limits, times=times) as grader:
        yield grader
    del os.environ["COURSE_SECRET_TOKEN"]


def traces(grader: Grader) -> list[str]:
    """What submissions of the corpus would leave outside: files, sockets, processes (of the user that this grader's children are)."""
    user = FIRST_UID + grader._process.pid % NUMBER_OF_UIDS
    found = [str(path) for top in ("/", "/tmp", "/dev/shm", "/var/tmp", "/home", Path.home(), Path(__file__).parents[1]) for path in Path(top).glob(f"*{MARK}*")]
    for table in ("tcp", "udp", "unix"):
        text = Path("/proc/net", table).read_text(encoding="utf-8", errors="replace")
        found += [line for line in text.splitlines() if MARK in line or f":{PORT:04X} " in line]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path("/proc", pid, "status").read_text()
            command = Path("/proc", pid, "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        uid = int(status.split("Uid:")[1].split()[0])
        if uid == user or str(SLEEP) in command.split() or f"{MARK}_sh" in command:
            found.append(f"process {pid} of user {uid}: {command}")
    return found


def test_the_corpus_is_large_and_varied():
    families = Counter(case.family for case in CASES)
    assert len(CASES) >= 60 and len(families) >= 12
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_points(case, grader, tmp_path):
    path = tmp_path / "target.ipynb"
    case.write(path)
    result = grader.grade(path, TOPIC)
    seen = "\n".join([*(f"{r.name}: {r.outcome} {r.earned:g}/{r.points:g} {r.message}" for r in result.results), *result.problems])
    assert result.earned == case.points, seen
    assert result.points == 10
    assert (result.unreadable is None) == case.readable, result.unreadable
    assert "fail" not in (result.unreadable or ""), result.unreadable
    assert not [r for r in result.results if "check itself failed" in r.message], seen
    assert traces(grader) == [], seen
    json.dumps(result.to_dict()).encode()


def test_a_good_submission_after_all_that(grader, tmp_path):
    case = next(case for case in CASES if case.id == "honest: as it should be")
    case.write(tmp_path / "target.ipynb")
    result = grader.grade(tmp_path / "target.ipynb", TOPIC)
    assert result.earned == 10 and result.problems == [] and result.written == {"borders": "The border."}
