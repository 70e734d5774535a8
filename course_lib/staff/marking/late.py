"""What a late submission costs. The one setting is `LatePolicy.percent_a_day` in nbgrader_config.py."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from nbgrader.plugins import LateSubmissionPlugin
from traitlets import Float
from traitlets.config import Config, PyFileConfigLoader

DAY = 24 * 60 * 60


class LatePolicy(LateSubmissionPlugin):
    """nbgrader's plugin for late submissions, so that nbgrader itself and this course take off the same."""

    percent_a_day = Float(
        0.0,
        help="Percent of the points earned that each day begun after the due date costs: 0 shows that a submission is late and takes "
        "nothing off, "
        "10 takes a tenth a day, 100 gives nothing to late work.",
    ).tag(config=True)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
        """Points taken off, from 0 to `score`; None where nothing is."""
        return penalty(score, total_seconds_late, self.percent_a_day) or None


def penalty(score: float, seconds_late: float, percent_a_day: float) -> float:
    """Points taken off, from 0 to `score`. A second late begins the first day."""
    if seconds_late <= 0 or score <= 0 or percent_a_day <= 0:
        return 0.0
    return min(score, score * percent_a_day / 100 * math.ceil(seconds_late / DAY))


def configuration(root: Path) -> Config:
    """The course's nbgrader_config.py; empty where there is none."""
    if not (root / "nbgrader_config.py").is_file():
        return Config()
    before = list(sys.path)
    try:
        return PyFileConfigLoader("nbgrader_config.py", str(root)).load_config()
    finally:
        sys.path[:] = before


def percent_a_day(config: Config) -> float:
    """The course's setting, 0 to 100 and beyond."""
    return max(0.0, LatePolicy(config=config).percent_a_day)
