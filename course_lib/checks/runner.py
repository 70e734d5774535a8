"""Runs check functions: injects proxies by name, gives each its own random numbers, turns every ending into a result."""

from __future__ import annotations

import inspect
import json
import linecache
import symtable
import time
import traceback
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

import numpy as np

from course_lib.checks import fingerprint, outcomes
from course_lib.checks.outcomes import (
    ForbiddenReached,
    NotAttempted,
    OutOfLimits,
    Result,
    StudentError,
    Wrong,
)
from course_lib.checks.runtime import current_seed, set_current_seed
from course_lib.checks.session import Channel, Session, local_session
from course_lib.checks.surroundings import seed_random

PUBLIC_SEED = 20  # the seed of every student's own kernel; graders use private ones
CARDS = Path(__file__).parent.parent / "cards"


@dataclass(frozen=True)
class Check:
    """One check function and what `lab.check` said about it."""

    exercise: str
    function: Callable[..., None]
    points: float
    forbid: tuple[str, ...] = ()
    substitute: tuple[tuple[str, str], ...] = ()
    seconds: float = 10.0
    largest: int | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def doc(self) -> str:
        return " ".join((inspect.getdoc(self.function) or self.name.replace("_", " ")).split())


class Collector:
    """Stands in for `lab` while a check cell is executed: gathers its checks and runs none."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(
        self,
        exercise: str,
        *,
        points: float,
        forbid: tuple[str, ...] = (),
        substitute: dict[str, str] | None = None,
        seconds: float = 10.0,
        largest: int | None = None,
    ) -> Callable[[Callable], Callable]:
        """See `Lab.check`."""

        def decorate(function: Callable) -> Callable:
            pairs = tuple((substitute or {}).items())
            self.checks.append(Check(exercise, function, float(points), tuple(forbid), pairs, seconds, largest))
            return function

        return decorate

    def seal(self) -> None:
        """Setup cells end in this; here nothing is to be kept."""

    def points(self, exercise: str) -> float:
        """Check cells end in this; here nothing was run."""
        return 0.0


def collect(source: str, filename: str, setup: dict[str, Any]) -> list[Check]:
    """The checks of one check cell, which sees the names of the setup cells and its own, nothing of the student's."""
    if filename not in linecache.cache:
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    collector = Collector()
    exec(compile(source, filename, "exec", dont_inherit=True), {**setup, "lab": collector})
    return collector.checks


def bound_names(source: str) -> set[str]:
    """The names that running a cell binds in its namespace."""
    table = symtable.symtable(source, "cell", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def run_check(check: Check, session: Session, seed: int, channel: Channel | None = None) -> Result:
    """One check function on the objects of a session.

    Its random numbers depend on the seed and the names of exercise and check alone, so neither the order of checks nor
    an added one changes what another sees. With substitutes it runs a second time if the student's own helper failed.
    """
    result = _run_once(check, session, seed, channel, {})
    if check.substitute and result.outcome != outcomes.PASSED:
        helped = _run_once(check, session, seed, channel, dict(check.substitute))
        if helped.earned > result.earned:
            return replace(helped, with_substitute=True)
    return result


def _run_once(check: Check, session: Session, seed: int, channel: Channel | None, substitute: dict[str, str]) -> Result:
    started = time.perf_counter()
    stream = zlib.crc32(f"{check.exercise}/{check.name}".encode())
    result = Result(check.name, check.exercise, check.points, 0.0, outcomes.WRONG, doc=check.doc)
    set_current_seed(int(np.random.default_rng([seed, stream, 1]).integers(2**31)))
    seed_random(current_seed())  # what an oracle draws by itself, the weights of a layer for instance
    injected = {
        name: np.random.default_rng([seed, stream, 2]) if name == "rng" else session.named(name)
        for name in inspect.signature(check.function).parameters
    }
    session.forget()
    try:
        if channel is not None:
            channel.start(check.seconds, fresh=bool(substitute))
        session.begin(int(np.random.default_rng([seed, stream]).integers(2**31)), substitute, check.forbid, check.largest)
        check.function(**injected)
        result.outcome, result.earned = outcomes.PASSED, check.points
    except Wrong as end:
        result.case, result.message = end.case, end.problem
        result.expected, result.got, result.pictures = end.expected, end.got, end.pictures
    except StudentError as end:
        result.outcome, result.line = outcomes.ERROR, end.line
        result.message = f"{end.type_name}: {end.message}" if end.message else end.type_name
    except OutOfLimits as end:
        result.outcome, result.message = outcomes.OUT_OF_LIMITS, str(end)
    except NotAttempted as end:
        result.outcome, result.message = outcomes.NOT_ATTEMPTED, str(end)
    except ForbiddenReached as end:
        result.message = f"Your code reached `{end.operator}`, the operator this exercise asks you to write yourself."
    except Exception as error:  # the check could not use what came back; `_unusable` tells a fault of ours apart
        result.message = _unusable(error, session)
    if result.outcome != outcomes.PASSED:
        result.call = session.last_call
    result.transcript = list(session.transcript)
    result.seconds = time.perf_counter() - started
    return result


def _unusable(error: Exception, session: Session) -> str:
    if session.last_answer is None or isinstance(error, (NameError, ImportError)):  # no answer causes these
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"The check itself failed ({type(error).__name__}: {error}, line {place.lineno}); this is not your fault, please report it."
    return f"The check could not use what your code returned, {session.last_answer}: {error}."


def read_card(topic: str) -> dict:
    """What a kernel needs to know about a lab: exercises, points, number of hints, fingerprints of known mistakes."""
    path = CARDS / f"{topic}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in CARDS.glob("*.json"))) or "none"
        raise ValueError(f"topic names a lab of this course, got {topic!r}; there are: {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def name_mistakes(results: list[Result], mistakes: list[dict]) -> list[Result]:
    """The same results, with a recognised mistake's id and hint on the failed checks of its exercise."""
    named = []
    for result in results:
        group = [r for r in results if r.exercise == result.exercise]
        known = [m for m in mistakes if m["exercise"] == result.exercise]
        found = fingerprint.recognise(group, known) if result.outcome not in (outcomes.PASSED, outcomes.NOT_ATTEMPTED) else None
        named.append(replace(result, mistake=found["id"], hint=found["hint"]) if found else result)
    return named


def run_collected(checks: list[Check], setup: dict[str, Any], namespace: dict[str, Any], seed: int) -> list[Result]:
    """The given checks on the objects of `namespace`, in this process."""
    with local_session(namespace, setup) as (session, channel):
        return [run_check(check, session, seed, channel) for check in checks]


def run_checks(topic: str, namespace: dict[str, Any], seed: int, exercises: list[str] | None = None) -> list[Result]:
    """All checks of a topic, or of the exercises named, on the objects of `namespace`.

    Args:
        topic: such as "01_convolution_arithmetic".
        namespace: what a student's kernel holds, for instance `exercise_namespace(topic)` with some names replaced.
        seed: with `PUBLIC_SEED` known mistakes are named.
    Returns: one `Result` a check function, in the order of the lab.
    """
    from course_lib.staff.labs import load  # the checks' own text lives with the sources

    lab = load(topic)
    chosen = [c for c in lab.checks if exercises is None or c.exercise in exercises]
    results = run_collected(chosen, lab.setup, namespace, seed)
    if seed != PUBLIC_SEED or not (CARDS / f"{topic}.json").exists():
        return results
    return name_mistakes(results, read_card(topic)["mistakes"])
