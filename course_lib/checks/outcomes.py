"""How a check can end, and what it then has to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
WRONG = "wrong"
ERROR = "error"
OUT_OF_LIMITS = "out of limits"
NOT_ATTEMPTED = "not attempted"
OUTCOMES = (PASSED, WRONG, ERROR, OUT_OF_LIMITS, NOT_ATTEMPTED)


class CheckEnded(Exception):
    """Ends a check before its last line; the subclasses say how."""


class Wrong(CheckEnded):
    """The student's object answered, and the answer is not right.

    Args:
        case: the case in words, such as "stride 2, padding 1".
        problem: one or more sentences that say what is wrong and what to look at.
        expected, got: descriptions of both values, shown under each other.
        pictures: (got, expected) as 2-D arrays, where a picture tells more.
    """

    def __init__(self, case: str, problem: str, expected: str | None = None, got: str | None = None, pictures: Any = None) -> None:
        super().__init__(f"{case}: {problem}")
        self.case, self.problem, self.expected, self.got, self.pictures = case, problem, expected, got, pictures


class StudentError(CheckEnded):
    """The student's code raised."""

    def __init__(self, type_name: str, bases: list[str], message: str, line: dict | None) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name, self.bases, self.message, self.line = type_name, bases, message, line


class OutOfLimits(CheckEnded):
    """Time or memory ran out."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


class NotAttempted(CheckEnded):
    """The stub is still there, or the object is missing."""


class ForbiddenReached(CheckEnded):
    """The student's code used the operator that the exercise asks them to write."""

    def __init__(self, operator: str) -> None:
        super().__init__(operator)
        self.operator = operator


@dataclass
class Result:
    """What one check function found.

    `points` is what it is worth, `earned` what it gave; `mistake` the id of a recognised mistake ("bin_edges/1") or None.
    """

    name: str
    exercise: str
    points: float
    earned: float
    outcome: str
    mistake: str | None = None
    seconds: float = 0.0
    message: str = ""  # sentences for the student, empty when passed
    doc: str = ""  # what the check checks, in the words of its author
    case: str | None = None
    call: str | None = None
    expected: str | None = None
    got: str | None = None
    line: dict | None = None  # the student's own line: function, number, text
    hint: str | None = None  # the recognised mistake's own hint
    pictures: Any = field(default=None, repr=False)
    transcript: list[str] = field(default_factory=list, repr=False)
    with_substitute: bool = False
