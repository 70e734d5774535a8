"""Checks: what a lab asks of a student's code, and how it answers.

    lab = Lab("12_roi_pooling")                      # in the setup cell

    @lab.check("roi_align", points=4)                # in the check cell, right under the exercise
    def agrees_with_torchvision(roi_align, rng):
        ...

How it fits together, from the outside in:

    lab       `Lab`, what a notebook talks to
    render    a result as HTML and as plain text
    runner    runs check functions, names known mistakes
    expect    what a check asks of an answer
    session   our side: proxies for the student's objects
    codec     plain values as messages
    worker    the student's side: runs their objects
"""

from course_lib.checks.expect import expect_close, expect_equal, expect_raises, expect_true, gradients, normal
from course_lib.checks.lab import Lab
from course_lib.checks.outcomes import Result
from course_lib.checks.runner import PUBLIC_SEED, run_checks

__all__ = [
    "PUBLIC_SEED",
    "Lab",
    "Result",
    "expect_close",
    "expect_equal",
    "expect_raises",
    "expect_true",
    "gradients",
    "normal",
    "run_checks",
]
