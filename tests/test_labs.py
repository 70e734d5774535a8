"""Every lab: solutions pass, alternatives pass, mistakes are rejected and named, mutants are rejected."""

from __future__ import annotations

import functools

import pytest
from mutants import listed_survivors, survivors

from course_lib.checks.outcomes import PASSED
from course_lib.checks.runner import PUBLIC_SEED, name_mistakes, run_collected
from course_lib.staff.labs import known_mistakes, load
from course_lib.staff.sources import topics

SOLUTION_SEEDS = [PUBLIC_SEED, *range(101, 120)]
MISTAKE_SEEDS = [PUBLIC_SEED, 201, 202, 203, 204]


def exercises_of(topic):
    return [cell.name for cell in load(topic).of_kind("exercise")]


def cells_of(kind):
    """(topic, number of the cell among its kind and exercise, cell) for parametrisation."""
    found = []
    for topic in topics():
        for exercise in exercises_of(topic):
            for number, cell in enumerate(load(topic).of_kind(kind, exercise), 1):
                found.append(pytest.param(topic, number, cell, id=f"{topic}-{exercise}-{number}"))
    return found


EXERCISES = [pytest.param(topic, e, id=f"{topic}-{e}") for topic in topics() for e in exercises_of(topic)]


def run(topic, exercise, namespace, seed):
    lab = load(topic)
    return run_collected([c for c in lab.checks if c.exercise == exercise], lab.setup, namespace, seed)


@functools.cache
def known(topic):
    return known_mistakes(topic)


def failures(results):
    return [f"{r.name}: {r.outcome}: {r.case}: {r.message} {r.expected} / {r.got}" for r in results if r.outcome != PASSED]


def test_there_is_a_lab():
    assert topics()


@pytest.mark.slow
@pytest.mark.parametrize("topic, exercise", EXERCISES)
def test_solution_passes_on_twenty_seeds(topic, exercise):
    namespace = load(topic).namespace()
    for seed in SOLUTION_SEEDS:
        assert not failures(run(topic, exercise, namespace, seed)), f"seed {seed}"


@pytest.mark.parametrize("topic, exercise", EXERCISES)
def test_exercise_has_five_mistakes_and_an_alternative(topic, exercise):
    assert len(load(topic).of_kind("mistake", exercise)) >= 5
    assert len(load(topic).of_kind("alternative", exercise)) >= 1


@pytest.mark.parametrize("topic, number, cell", cells_of("alternative"))
def test_alternative_passes(topic, number, cell):
    namespace = load(topic).namespace(cell)
    for seed in MISTAKE_SEEDS:
        assert not failures(run(topic, cell.name, namespace, seed)), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("topic, number, cell", cells_of("mistake"))
def test_mistake_is_rejected_on_five_seeds(topic, number, cell):
    namespace = load(topic).namespace(cell)
    for seed in MISTAKE_SEEDS:
        assert failures(run(topic, cell.name, namespace, seed)), f"seed {seed}: this wrong answer gets full points"


@pytest.mark.parametrize("topic, exercise", EXERCISES)
def test_each_mistake_is_named_by_its_own_hint(topic, exercise):
    lab = load(topic)
    for number, cell in enumerate(lab.of_kind("mistake", exercise), 1):
        named = name_mistakes(run(topic, exercise, lab.namespace(cell), PUBLIC_SEED), known(topic))
        hints = {r.hint for r in named if r.outcome != PASSED}
        assert hints == {cell.hint}, f"mistake {number} of {exercise} (line {cell.line}) is named {hints}"


@pytest.mark.slow
@pytest.mark.parametrize("topic, exercise", EXERCISES)
def test_mutants_are_rejected(topic, exercise):
    alive, tried = survivors(load(topic), exercise)
    listed = {words for (name, words), reason in listed_survivors(topic).items() if name == exercise}
    assert tried >= 3
    assert set(alive) == listed, "new survivors need a stronger check, or a reason in tests/survivors; dead ones leave the list"


@pytest.mark.parametrize("topic", topics())
def test_every_survivor_has_a_reason(topic):
    for key, reason in listed_survivors(topic).items():
        assert len(reason.split()) >= 4, f"{key}: say why no check can tell this mutant from the solution"
