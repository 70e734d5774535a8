"""A new topic builds and passes all checks before its author has written a line."""

from __future__ import annotations

import json
import shutil

import mutants
import nbformat
import pytest

from course_lib.checks.outcomes import PASSED
from course_lib.checks.runner import PUBLIC_SEED, name_mistakes, run_collected
from course_lib.staff import build, labs, skeleton
from course_lib.staff.sources import REPO, UnknownTopic

TOPIC = "03_transfer_learning"


@pytest.fixture
def course(tmp_path):
    root = tmp_path / "course"
    for folder in ("site", "solutions", "labs", "lectures"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(REPO / "course_lib", root / "course_lib", ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    (root / "course_lib" / "cards").mkdir(exist_ok=True)
    shutil.copy(REPO / "nbgrader_config.py", root)
    ledger = '[part]\nI = "One"\n\n[[topic]]\ntopic = "03_transfer_learning"\ntitle = "transfer learning"\npart = "I"\nbuilds = "x"\n'
    (root / "site" / "ledger.toml").write_text(ledger, encoding="utf-8")
    (root / "README.md").write_text("<!-- map: made by `course build` from site/ledger.toml -->\n<!-- end of the map -->\n", encoding="utf-8")
    return root


@pytest.mark.slow
def test_what_it_writes_builds_and_names_every_mistake(course):
    skeleton.new(TOPIC, course, say=lambda _: None)
    build.build([TOPIC], course, say=lambda _: None)
    assert build.check([TOPIC], course) == []
    lab = labs.load(TOPIC, course)
    (checks,) = [[c for c in lab.checks if c.exercise == "mean_colour"]]
    known = labs.known_mistakes(TOPIC, course)
    assert len(known) >= 5
    for seed in (PUBLIC_SEED, 201, 202):
        for cell in lab.of_kind("mistake", "mean_colour"):
            results = run_collected(checks, lab.setup, lab.namespace(cell), seed)
            assert any(result.outcome != PASSED for result in results), cell.hint
            if seed == PUBLIC_SEED:
                assert {r.hint for r in name_mistakes(results, known) if r.outcome != PASSED} == {cell.hint}
    alive, tried = mutants.survivors(lab, "mean_colour")
    assert tried > 3 and alive == []
    text = json.dumps(nbformat.read(build.paths(TOPIC, course)["lab"], 4))
    assert "TOPIC" not in text and "SLUG" not in text and "TITLE" not in text and "lectures/03_transfer_learning.ipynb" in text


def test_it_never_writes_over_what_is_there(course):
    skeleton.new(TOPIC, course, say=lambda _: None)
    lecture = course / "lectures" / f"{TOPIC}.py"
    lecture.write_text("mine", encoding="utf-8")
    with pytest.raises(skeleton.SkeletonError, match="exists already"):
        skeleton.new(TOPIC, course)
    assert lecture.read_text(encoding="utf-8") == "mine"


def test_a_topic_outside_of_the_ledger_or_without_a_number_is_refused(course):
    with pytest.raises(skeleton.SkeletonError, match="ledger"):
        skeleton.new("77_gardening", course)
    with pytest.raises(UnknownTopic):
        skeleton.new("gardening", course)
