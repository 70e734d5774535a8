"""The ledger of the course, `site/ledger.toml`: what each topic covers, and where that is taught, exercised, judged and measured.

The map of the site and the table of the README are made from it. `problems` finds every link of it that leads nowhere.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.cli import CommandError
from course_lib.staff import sources
from course_lib.staff.measure import measurement_path
from course_lib.staff.sources import REPO

README_BEGIN, README_END = "<!-- map: made by `course build` from site/ledger.toml -->", "<!-- end of the map -->"
HEADING = re.compile(r"^#{1,4} +(.+?)\s*$", re.MULTILINE)


class LedgerError(CommandError):
    """The ledger cannot be read."""


@dataclass(frozen=True)
class Row:
    """One thing that a topic covers.

    Attributes:
        what: the statement, a sentence.
        section: heading of the lecture where it is taught.
        exercises: names of the exercises that practise it; may be empty.
        oracle: what knows the right answer where it is exercised.
    """

    what: str
    section: str
    exercises: tuple[str, ...] = ()
    oracle: str = ""


@dataclass(frozen=True)
class Claim:
    """A measured statement of a topic: the sentence, the name of its measurement, and which notebook draws it (lecture or solution)."""

    what: str
    measurement: str
    notebook: str


@dataclass(frozen=True)
class Topic:
    """A line of the map. `mistakes` is how many known wrong answers its lab has; rows and claims are empty while it is planned."""

    topic: str
    title: str
    part: str
    builds: str
    systems: str = ""
    mistakes: int = 0
    covers: tuple[Row, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def number(self) -> str:
        return self.topic[:2]

    @property
    def complete(self) -> bool:
        return bool(self.covers)


@dataclass(frozen=True)
class Ledger:
    parts: dict[str, str]  # numeral -> title, in order
    topics: tuple[Topic, ...] = field(default=())

    def of_part(self, numeral: str) -> list[Topic]:
        return [topic for topic in self.topics if topic.part == numeral]


def ledger_path(root: Path = REPO) -> Path:
    return root / "site" / "ledger.toml"


def load(root: Path = REPO) -> Ledger:
    """Read the ledger. Raises LedgerError where an entry has a field too many or too few."""
    path = ledger_path(root)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        topics = []
        for entry in content["topic"]:
            entry = dict(entry)
            rows = tuple(Row(**(row | {"exercises": tuple(row.get("exercises", ()))})) for row in entry.pop("covers", ()))
            claims = tuple(Claim(**claim) for claim in entry.pop("claims", ()))
            topics.append(Topic(**entry, covers=rows, claims=claims))
        return Ledger(dict(content["part"]), tuple(topics))
    except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise LedgerError(f"site/ledger.toml: {error}") from error


def problems(root: Path = REPO) -> list[str]:
    """Everything in the ledger that is not so, and everything in the course that the ledger leaves out."""
    ledger = load(root)
    found = []
    listed = [topic.topic for topic in ledger.topics]
    found += [f"{topic} stands twice" for topic in sorted({t for t in listed if listed.count(t) > 1})]
    present = {*sources.topics(root), *sources.lectures(root)}
    found += [f"{topic} is in the course and not in the ledger" for topic in sorted(present - set(listed))]
    for topic in ledger.topics:
        if topic.part not in ledger.parts:
            found.append(f"{topic.topic}: there is no part {topic.part!r}")
        if topic.complete:
            found += [f"{topic.topic}: {problem}" for problem in _topic_problems(topic, root)]
        elif topic.topic in sources.topics(root) and topic.topic in sources.lectures(root):
            found.append(f"{topic.topic}: lecture and lab are there, but the ledger does not say what they cover")
    return found


def _topic_problems(topic: Topic, root: Path) -> list[str]:
    found = []
    has_lab = topic.topic in sources.topics(root)
    if topic.topic not in sources.lectures(root):
        return ["there is no lecture"]
    cells = {"lecture": sources.read_cells(sources.lecture_path(topic.topic, root))}
    if has_lab:
        cells["solution"] = sources.read_cells(sources.topic_path(topic.topic, root))
    text = "\n".join(cell.source for cell in cells["lecture"] if cell.cell_type == "markdown")
    headings = {heading.replace("`", "") for heading in HEADING.findall(text)}
    exercises = {cell.name for cell in cells.get("solution", ()) if cell.kind in ("exercise", "written")}
    covered = {name for row in topic.covers for name in row.exercises}
    for row in topic.covers:
        if row.section.replace("`", "") not in headings:
            found.append(f"the lecture has no section {row.section!r}")
        if bool(row.exercises) != bool(row.oracle):
            found.append(f"{row.what!r} needs exercises and their oracle, or neither")
    found += [f"there is no exercise {name!r}" for name in sorted(covered - exercises)]
    found += [f"the exercise {name!r} covers nothing" for name in sorted(exercises - covered)]
    mistakes = sum(cell.kind == "mistake" for cell in cells.get("solution", ()))
    if mistakes != topic.mistakes:
        found.append(f"the lab has {mistakes} known mistakes, the ledger says {topic.mistakes}")
    return found + _claim_problems(topic, cells, root)


def _claim_problems(topic: Topic, cells: dict, root: Path) -> list[str]:
    found = []
    path = measurement_path(topic.topic, root)
    stored = set(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else set()
    claimed = {claim.measurement for claim in topic.claims}
    found += [f"no measurement {name!r} is stored" for name in sorted(claimed - stored)]
    found += [f"the measurement {name!r} stands behind no claim" for name in sorted(stored - claimed)]
    for claim in topic.claims:
        source = "\n".join(cell.source for cell in cells.get(claim.notebook, ()))
        if f'"{claim.measurement}"' not in source:
            found.append(f"the {claim.notebook} does not draw the measurement {claim.measurement!r}")
    return found


def minutes(topic: str, root: Path = REPO) -> dict[str, int]:
    """Minutes of a topic's lecture and lab, as their first cell says: {"lecture": 75, "lab": 120}; what is missing is left out."""
    found = {}
    for name, listed, path in (
        ("lecture", sources.lectures(root), sources.lecture_path(topic, root)),
        ("lab", sources.topics(root), sources.topic_path(topic, root)),
    ):
        if topic in listed:
            said = re.search(r"\*\*Time:\*\*\s+about\s+(\d+)\s+minutes", sources.read_cells(path)[0].source)
            if said is None:
                raise LedgerError(f"{path.name}: the first cell does not say **Time:** about N minutes")
            found[name] = int(said.group(1))
    return found


def readme_table(ledger: Ledger) -> str:
    """The map as a table of the README: a line a topic."""
    lines = ["| no. | topic | you build | state |", "| --- | --- | --- | --- |"]
    for numeral, title in ledger.parts.items():
        lines.append(f"| **{numeral}** | **{title}** | | |")
        for topic in ledger.of_part(numeral):
            name = f"[{topic.title}](lectures/{topic.topic}.ipynb)" if topic.complete else topic.title
            lines.append(f"| {topic.number} | {name} | {topic.builds} | {'**complete**' if topic.complete else 'planned'} |")
    return "\n".join(lines)


def readme_text(root: Path = REPO) -> str:
    """The README with the map of the ledger. Raises LedgerError where the README has no place for it."""
    text = (root / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not begin or not end:
        raise LedgerError(f"README.md has no lines {README_BEGIN} and {README_END}")
    return f"{before}{begin}\n\n{readme_table(load(root))}\n\n{end}{after}"
