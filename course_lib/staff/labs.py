"""A lab as objects: its checks, solutions, mistakes and alternatives, executed from the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.checks.outcomes import PASSED
from course_lib.checks.runner import PUBLIC_SEED, Check, collect, run_collected
from course_lib.staff.sources import REPO, Cell, execute, exercises, new_namespace, read_cells, topic_path


@dataclass(frozen=True)
class LabSource:
    """One lab, loaded. `setup` holds the names of the setup cells, as checks see them."""

    topic: str
    path: Path
    cells: list[Cell]
    setup: dict[str, Any]
    checks: list[Check]

    def of_kind(self, kind: str, exercise: str | None = None) -> list[Cell]:
        return [c for c in self.cells if c.kind == kind and exercise in (None, c.name)]

    def namespace(self, *replacements: Cell) -> dict[str, Any]:
        """Setup and solutions, with the given cells (mistakes, alternatives) executed on top."""
        given = [c for c in self.cells if c.kind in ("setup", "exercise")]
        return execute([*given, *replacements], new_namespace(self.path), self.path)


_loaded: dict[tuple[Path, int], LabSource] = {}


def load(topic: str, root: Path = REPO) -> LabSource:
    """The lab of a topic. A source is read once for each time it was saved."""
    path = topic_path(topic, root)
    key = (path, path.stat().st_mtime_ns if path.is_file() else 0)
    if key not in _loaded:
        if not path.is_file():
            raise ValueError(f"topic must have a source {path}, got {topic!r}")
        cells = read_cells(path)
        setup = execute([c for c in cells if c.kind == "setup"], {"__name__": f"setup_{topic}"}, path)
        visible = {name: value for name, value in setup.items() if not name.startswith("_")}
        checks = [check for c in cells if c.kind == "check" for check in collect(c.script, f"{path}:{c.name}", visible)]
        _loaded[key] = LabSource(topic, path, cells, visible, checks)
    return _loaded[key]


def known_mistakes(topic: str, root: Path = REPO) -> list[dict]:
    """The card's entries for all mistakes of a lab: how each answers the public cases of the checks it fails.

    Returns: [{"id": "bin_edges/1", "exercise": …, "hint": …, "checks": {check name: [digest of each answer]}}].
    """
    lab = load(topic, root)
    entries = []
    for exercise in [e.name for e in exercises(lab.cells)]:
        checks = [c for c in lab.checks if c.exercise == exercise]
        for number, cell in enumerate(lab.of_kind("mistake", exercise), 1):
            results = run_collected(checks, lab.setup, lab.namespace(cell), PUBLIC_SEED)
            failed = {r.name: r.transcript for r in results if r.outcome != PASSED}
            entries.append({"id": f"{exercise}/{number}", "exercise": exercise, "hint": cell.hint, "checks": failed})
    return entries
