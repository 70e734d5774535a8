"""How fast submissions are graded: `python -m course_lib.staff.grading.bench [TOPIC] [--number N]`.

Grades copies of a lab's own solution, one grader, and prints the seconds of its start and submissions a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from course_lib.staff.grading.judge import Grader
from course_lib.staff.sources import REPO, read_cells, topic_path, topics


def solution_notebook(topic: str, root: Path = REPO) -> dict:
    """A notebook with the lab's setup, solutions and checks, as a perfect student would hand it in."""
    cells = []
    for cell in read_cells(topic_path(topic, root)):
        if cell.cell_type == "code" and cell.kind in ("setup", "exercise", "check", "plain"):
            metadata = {"nbgrader": {"grade_id": f"{cell.kind}_{cell.name}"}} if cell.name else {}
            cells.append({"cell_type": "code", "metadata": metadata, "source": cell.source, "outputs": [], "execution_count": None})
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def bench(topic: str, number: int = 30, root: Path = REPO) -> dict:
    """Seconds to start, seconds of the first submission (which reads the lab) and of each later one, and submissions a minute."""
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        path = Path(folder, "solution.ipynb")
        path.write_text(json.dumps(solution_notebook(topic, root)), encoding="utf-8")
        started = time.perf_counter()
        with Grader(b"the secret of a bench", topics=(topic,), root=root) as grader:
            ready = time.perf_counter()
            result = grader.grade(path, topic)
            first = time.perf_counter()
            if result.earned != result.points:
                raise ValueError(f"the solution of {topic} earns {result.earned} of {result.points} points")
            for _ in range(number):
                grader.grade(path, topic)
            seconds = (time.perf_counter() - first) / number
    return {
        "topic": topic, "checks": len(result.results), "start": ready - started, "first": first - ready, "each": seconds, "a_minute": 60 / seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast submissions are graded.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="default: all")
    parser.add_argument("--number", type=int, default=30, help="submissions of each lab (default 30)")
    parser.add_argument("--root", type=Path, default=REPO, help="folder of a course (default: this one)")
    options = parser.parse_args()
    print(f"{'lab':<32} {'checks':>6} {'start s':>8} {'first s':>8} {'each s':>8} {'a minute':>9}")
    for topic in options.topics or topics(options.root):
        row = bench(topic, options.number, options.root)
        print(f"{row['topic']:<32} {row['checks']:>6} {row['start']:>8.1f} {row['first']:>8.2f} {row['each']:>8.3f} {row['a_minute']:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
