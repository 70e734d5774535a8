"""Numbers of a class: how hard an item was, and whether it separates strong from weak."""

from __future__ import annotations

import math
from collections.abc import Sequence

FEWEST = 5  # students, below which a correlation says nothing
BINS = 5


def difficulty(scores: Sequence[float], points: float) -> float | None:
    """Mean share of an item's points, 0 (nobody) to 1 (everybody); None without scores."""
    return sum(scores) / len(scores) / points if scores else None


def discrimination(scores: Sequence[float], totals: Sequence[float]) -> float | None:
    """Correlation of an item with the rest of the lab, -1 to 1.

    r = sum (x - mean x)(y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2) over students, with x the item's points and y the
    points of all other items. For an item that is right or wrong this is the point-biserial correlation. None where it is not defined or
    says nothing: fewer than FEWEST students, or everybody alike.
    """
    if len(scores) < FEWEST:
        return None
    rest = [total - score for score, total in zip(scores, totals)]
    mean_x, mean_y = sum(scores) / len(scores), sum(rest) / len(rest)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in zip(scores, rest))
    xx, yy = sum((x - mean_x) ** 2 for x in scores), sum((y - mean_y) ** 2 for y in rest)
    return xy / math.sqrt(xx * yy) if xx > 1e-12 and yy > 1e-12 else None


def histogram(scores: Sequence[float], points: float) -> list[tuple[str, int]]:
    """How many students earned which share of the points: none, three parts between, all."""
    labels = ["none", "up to ⅓", "up to ⅔", "more", "all"]
    counts = [0] * BINS
    for score in scores:
        share = score / points if points else 0.0
        index = 0 if share <= 1e-9 else 4 if share >= 1 - 1e-9 else 1 if share <= 1 / 3 + 1e-9 else 2 if share <= 2 / 3 + 1e-9 else 3
        counts[index] += 1
    return list(zip(labels, counts))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, linearly between two neighbours."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
