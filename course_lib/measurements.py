"""Stored numbers of measurements over several seeds, for the notebooks that draw them.

A measurement is a function `name(seed) -> dict of numbers` in a notebook; `course measure TOPIC` runs it for each seed and stores the
numbers in data/measurements/TOPIC.json.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "data" / "measurements"


def load(topic: str, name: str) -> list[dict]:
    """The stored records of one measurement.

    Args:
        topic: such as "01_convolution_arithmetic".
        name: of the measured function.

    Returns:
        One dictionary a seed, in the order of seeds: {"seed": 0, ...} with the numbers that the function returned.

    Raises:
        FileNotFoundError: nothing was measured yet for the topic.
        KeyError: the topic has no such measurement.
    """
    path = FOLDER / f"{topic}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no measurements of {topic!r} are stored: run `course measure {topic}` once ({path})")
    stored = json.loads(path.read_text(encoding="utf-8"))
    if name not in stored:
        raise KeyError(f"{path.name} has no measurement {name!r}, only {', '.join(sorted(stored)) or 'none'}: run `course measure {topic}`")
    return stored[name]["records"]


def machine(topic: str, name: str) -> str:
    """The machine that a measurement was taken on, in words; timings compare on one machine only."""
    load(topic, name)
    return json.loads((FOLDER / f"{topic}.json").read_text(encoding="utf-8"))[name]["machine"]
