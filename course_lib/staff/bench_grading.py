"""Rows of `make bench` about grading: `course grade` against plain `nbgrader autograde` on the same notebook, in one run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from course_lib.staff.bench import row
from course_lib.staff.sources import REPO

TOPIC = "01_convolution_arithmetic"
PLAIN, OURS = 3, 60  # submissions
CONFIGURATION = '''"""The course's own configuration in a folder of the bench."""
c = get_config()
load_subconfig({path!r})
c.Execute.timeout = 600
'''


def submission_of(lab: object, answers: dict[str, str]) -> str:
    """The lab's notebook with the answers of a perfect student in its exercise cells, as text."""
    filled = json.loads(json.dumps(lab.notebook))
    for cell in filled["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id", "")
        if name.startswith("exercise_"):
            cell["source"] = answers[name.removeprefix("exercise_")]
    return json.dumps(filled)


def submit(folder: Path, lab: object, text: str, number: int) -> None:
    for student in range(number):
        home = folder / "submitted" / f"student_{student:03d}" / lab.topic
        home.mkdir(parents=True)
        (home / f"{lab.slug}.ipynb").write_text(text, encoding="utf-8")


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds by the clock, and of the processor in all its processes, that a command of Python takes. Raises ValueError if it fails."""
    programs = Path(sys.executable).parent  # nbgrader calls alembic
    environment = {**os.environ, "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")])}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip().splitlines()
        raise ValueError(f"{' '.join(arguments)} ended with {run.returncode}: {said[-1] if said else 'it said nothing'}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(database: Path, topic: str) -> set[float]:
    """The different scores that a gradebook holds for a lab."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{database}") as book:
        return {submission.score for submission in book.assignment_submissions(topic)}


def bench_rows(plain: int = PLAIN, ours: int = OURS, topic: str = TOPIC) -> list[str]:
    """How many times as many submissions a minute: both commands from their start to marks in a gradebook, one job each.

    Ours also writes feedback, tables and a report, and its start is shared by `ours` submissions; what each takes once it runs has its own
    row.
    """
    if not sys.platform.startswith("linux"):
        return ["  submissions are graded on Linux"]
    from course_lib.staff.grading.bench import bench
    from course_lib.staff.marking import assignment
    from course_lib.staff.sources import read_cells, topic_path

    lab = assignment.load(topic)
    answers = {cell.name: cell.source for cell in read_cells(topic_path(topic)) if cell.kind == "exercise"}
    text = submission_of(lab, answers)
    with tempfile.TemporaryDirectory(prefix="course-bench-") as name:
        theirs, own = Path(name, "nbgrader"), Path(name, "course")
        source = theirs / "solutions" / topic / f"{lab.slug}.ipynb"
        source.parent.mkdir(parents=True)
        source.write_bytes((REPO / "solutions" / topic / source.name).read_bytes())
        configuration = CONFIGURATION.format(path=str(REPO / "nbgrader_config.py"))
        (theirs / "nbgrader_config.py").write_text(configuration, encoding="utf-8")
        timed(theirs, "nbgrader", "generate_assignment", topic, "--force")
        submit(theirs, lab, text, plain)
        submit(own, lab, text, ours)
        plain_wall, plain_processor = (seconds / plain for seconds in timed(theirs, "nbgrader", "autograde", topic))
        command = ("course_lib.cli", "grade", str(own / "submitted"), "--lab", topic)
        wall, processor = (seconds / ours for seconds in timed(own, *command))
        found = scores(theirs / "gradebook.db", topic), scores(own / "gradebook.db", topic)
        if found[0] != found[1] or len(found[0]) != 1:
            raise ValueError(f"the same notebook earns {found[0]} points from nbgrader and {found[1]} from the course")
    core = bench(topic, ours)
    rows = [
        ("course grade, by the clock", plain_wall / wall, f"{60 / wall:.0f} a minute; nbgrader autograde: {60 / plain_wall:.1f}"),
        ("course grade, by the processor", plain_processor / processor, f"{processor:.2f} s each; nbgrader: {plain_processor:.1f} s"),
        ("its grader alone, once it runs", plain_wall / core["each"], f"{core['a_minute']:.0f} a minute, {core['start']:.0f} s to start"),
    ]
    return [row(*content) for content in rows]


if __name__ == "__main__":
    print("\n".join(bench_rows()))
