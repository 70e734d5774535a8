"""Run the measurements of a topic for their seeds and store the numbers with a hash of the code they came from.

A measurement is a cell `measure="name" seeds=5` of a lecture or solution that defines `name(seed) -> dict of numbers`. It may use all names
of setup and exercise cells, and functions, classes, imports and assignments of plain cells above it; calls that stand alone in plain cells
(training runs, plots) are not executed.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import json
import math
import os
import platform
import types
from pathlib import Path

from course_lib.cli import CommandError
from course_lib.staff import sources
from course_lib.staff.sources import REPO, Cell


class MeasureError(CommandError):
    """A measurement could not be taken."""


def measurement_path(topic: str, root: Path = REPO) -> Path:
    """Where the numbers of a topic are stored."""
    return root / "data" / "measurements" / f"{topic}.json"


def measure(topic: str, name: str | None = None, root: Path = REPO, say=print) -> None:
    """Take all measurements of a topic, or the one called `name`, and store them.

    Stored numbers of measurements that have left the sources are dropped. Raises MeasureError.
    """
    from tqdm import tqdm

    from course_lib.staff.build import write_if_changed

    if topic not in {*sources.topics(root), *sources.lectures(root)}:
        raise sources.UnknownTopic(f"no such topic: {topic!r}")
    found = _measure_cells(topic, root)
    if name is not None and name not in found:
        raise MeasureError(f"no measurement {name!r} in {topic}; there is {', '.join(sorted(found)) or 'none'}")
    path = measurement_path(topic, root)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stored = {key: value for key, value in stored.items() if key in found}
    for key, (source, cells, cell) in found.items():
        if name in (None, key):
            try:
                function = _namespace(source, cells, cell)[key]
                seeds = tqdm(range(cell.seeds), desc=f"{topic} {key}", unit="seed", leave=False, disable=None)
                records = [{"seed": seed} | _numbers(key, function(seed)) for seed in seeds]
            except CommandError:
                raise
            except Exception as error:
                raise MeasureError(sources.told(error, source)) from error
            stored[key] = {"code": code_hash(cells, cell, root), "machine": machine_in_words(), "records": records}
            say(f"measured {key} of {topic}: {cell.seeds} seeds")
    if found:
        write_if_changed(path, json.dumps(dict(sorted(stored.items())), indent=1, ensure_ascii=False) + "\n")
        say(f"stored in {path.relative_to(root).as_posix()}")
    else:
        say(f"{topic} has no measure cells")


def stale(topic: str, root: Path = REPO) -> list[str]:
    """What is missing, out of date or left over among the stored measurements of a topic."""
    found = _measure_cells(topic, root)
    path = measurement_path(topic, root)
    where = path.relative_to(root).as_posix()
    try:
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return [f"{where}: not JSON; run `course measure {topic}`"]
    problems = [f"{where}: {name} is measured nowhere any more; run `course measure {topic}`" for name in sorted(set(stored) - set(found))]
    for name, (_, cells, cell) in found.items():
        again = f"run `course measure {topic} --name {name}`"
        if name not in stored:
            problems.append(f"{where}: {name} was never measured; {again}")
        elif stored[name].get("code") != code_hash(cells, cell, root):
            problems.append(f"{where}: {name} comes from older code; {again}")
        elif [record.get("seed") for record in stored[name].get("records", [])] != list(range(cell.seeds)):
            problems.append(f"{where}: {name} lacks some of its {cell.seeds} seeds; {again}")
    return problems


def code_hash(cells: list[Cell], cell: Cell, root: Path = REPO) -> str:
    """A hash of the code that a measurement needs: the statements of its source and the modules of course_lib, without comments,
    docstrings and layout."""
    needed = [node for _, _, node in _needed(cells, cell)]
    modules = sorted(_course_modules(needed, root).items())
    text = json.dumps([[_canonical(node) for node in needed], [[name, _canonical(tree)] for name, tree in modules]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def machine_in_words() -> str:
    """Processor, cores, system and versions, without names of hosts or users."""
    import torch

    processor = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = os.cpu_count()
    return (f"{processor}, {cores} core{'s' if cores != 1 else ''}, {device}, {platform.system()}, Python {platform.python_version()}, "
            f"torch {torch.__version__.split('+')[0]}, {torch.get_num_threads()} threads")


def _measure_cells(topic: str, root: Path) -> dict[str, tuple[Path, list[Cell], Cell]]:
    """By name: (source, its cells, the measure cell) of lecture and solution."""
    found = {}
    for path in (sources.lecture_path(topic, root), sources.topic_path(topic, root)):
        if path.is_file():
            cells = sources.read_cells(path)
            for cell in cells:
                if cell.kind == "measure":
                    if cell.name in found:
                        what = f"{cell.name!r} is also measured in the lecture; the numbers share one file"
                        raise sources.SourceError(f"{path}:{cell.line}: {what}")
                    found[cell.name] = (path, cells, cell)
    return found


def _numbers(name: str, result) -> dict:
    """The result of a measured function as plain numbers; MeasureError for anything else."""
    if not isinstance(result, dict) or not result:
        raise MeasureError(f"{name}(seed) must return a dictionary of numbers, got {type(result).__name__}")
    numbers = {}
    for key, value in result.items():
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(key, str) or key == "seed" or not isinstance(value, (bool, int, float)) or not math.isfinite(value):
            raise MeasureError(f"{name}(seed) must return finite numbers by name (not 'seed'), got {key!r}: {value!r}")
        numbers[key] = value
    return numbers


# The code that a measurement needs --------------------------------------------------------------------------------------------------------


def _namespace(path: Path, cells: list[Cell], cell: Cell) -> dict:
    """Setup, exercise and measure cells above and of the measurement, and what it needs of plain cells, executed."""
    namespace = sources.new_namespace(path)
    wanted = {(line, index) for line, index, _ in _needed(cells, cell)}
    for other in _above(cells, cell):
        if other.kind in ("setup", "exercise", "measure"):
            sources.execute([other], namespace, path)
        else:
            tree = ast.parse(other.script)
            tree.body = [node for index, node in enumerate(tree.body) if (other.line, index) in wanted]
            if tree.body:
                exec(compile(ast.increment_lineno(tree, other.line), str(path), "exec"), namespace)
    return namespace


def _above(cells: list[Cell], cell: Cell) -> list[Cell]:
    kinds = ("setup", "exercise", "measure", "plain")
    return [other for other in cells if other.cell_type == "code" and other.kind in kinds and other.line <= cell.line]


def _needed(cells: list[Cell], cell: Cell) -> list[tuple[int, int, ast.stmt]]:
    """The top-level statements that bind what the measured function uses, directly or through others: (line of cell, index, statement)."""
    statements = [(other.line, index, node) for other in _above(cells, cell) for index, node in enumerate(ast.parse(other.script).body)]
    names = {(line, index): _names(node) for line, index, node in statements}
    wanted, needed, size = {cell.name}, set(), -1
    while len(needed) > size:
        size = len(needed)
        for key, (bound, used) in names.items():
            if key not in needed and bound & wanted:
                needed.add(key)
                wanted |= used
    return [statement for statement in statements if statement[:2] in needed]


def _names(node: ast.stmt) -> tuple[set[str], set[str]]:
    """Global names that a statement binds, and those that it uses, functions in it included."""
    code = compile(ast.Module([node], []), "<statement>", "exec")
    bound = {step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_NAME", "STORE_GLOBAL")}
    used, codes = set(), [code]
    while codes:
        code = codes.pop()
        used |= {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return bound, used


def _course_modules(nodes: list[ast.stmt], root: Path) -> dict[str, ast.Module]:
    """The modules of course_lib that statements import, directly or through others, by name."""
    found: dict[str, ast.Module] = {}
    todo = [name for node in nodes for name in _imported(node, "")]
    while todo:
        name = todo.pop()
        base = root.joinpath(*name.split("."))
        path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if name not in found and path is not None and name != "course_lib":
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            todo += _imported(found[name], package)
    return found


def _imported(tree: ast.AST, package: str) -> list[str]:
    """Names that may be modules of course_lib among the imports of a tree."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module or "") if part)
            names += [module] + [f"{module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "course_lib"]


def _canonical(node) -> list | str:
    """A syntax tree as nested lists, the same in every version of python: no positions, docstrings, contexts or empty fields."""
    if isinstance(node, ast.AST):
        fields = []
        documentable = isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Module))
        documented = documentable and ast.get_docstring(node) is not None
        for key, value in ast.iter_fields(node):
            if key == "body" and documented:
                value = value[1:]
            if value not in (None, []) and key not in ("ctx", "kind", "type_comment", "type_ignores"):
                fields.append([key, _canonical(value)])
        return [type(node).__name__, *fields]
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return repr(node)
