"""Read and validate the text sources of lectures and solutions.

A source is a py:percent script. One marker a cell says what the cell is (see CONTRIBUTING.md): `tags=["setup"]`, `exercise="f"`,
`check="f" points=4`, `mistake="f" hint="..."`, `alternative="f"`, `[markdown] written="w" points=2`, `measure="m" seeds=5`, or none.
`read_cells` refuses a source that breaks a rule, with every problem found, as `file:line: what is wrong`.
"""

from __future__ import annotations

import ast
import re
import sys
import traceback
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from course_lib.cli import CommandError

REPO = Path(__file__).resolve().parents[2]

NAMED_KINDS = ("exercise", "check", "mistake", "alternative", "written", "measure")
KEYS = {  # what may stand beside each marker; tags may stand anywhere
    "setup": set(),
    "exercise": set(),
    "check": {"points"},
    "mistake": {"hint"},
    "alternative": set(),
    "written": {"points"},
    "measure": {"seeds"},
    "plain": set(),
}
TAGS = {"setup", "volatile"}
MARKER = re.compile(r"^#\s*%%(?!%)")
HEADING = re.compile(r"## Exercise (\d+): (.+?) \((\d+(?:\.\d+)?) points?, (\d+) minutes?\)")
HINT = re.compile(r"<details>\s*<summary>Hint (\d+)</summary>(.*)")
TOPIC = re.compile(r"\d\d_[a-z][a-z0-9_]*")
MODEL_ANSWER, RUBRIC = "**Model answer.**", "**Rubric.**"


class SourceError(CommandError, ValueError):
    """A source breaks the rules; the message holds one line `file:line: what` for each problem."""


class UnknownTopic(CommandError, ValueError):
    """There is no topic of this name."""


@dataclass(frozen=True)
class Cell:
    """One cell of a source."""

    kind: str  # setup, exercise, check, mistake, alternative, written, measure or plain
    name: str | None  # of the exercise, question or measurement; None for setup and plain
    cell_type: str  # "code" or "markdown"
    source: str  # as it stands in a notebook (magics are live)
    points: float  # of a check or written cell, else 0
    hint: str | None  # of a mistake
    tags: tuple[str, ...]
    line: int  # 1-based line of the marker in the file
    seeds: int = 0  # of a measure cell
    script: str = ""  # the lines as they stand in the file, that is as plain python (magics are comments)


@dataclass(frozen=True)
class Exercise:
    """What heading, statement and check cell say about one exercise."""

    name: str
    number: int
    title: str
    points: float
    minutes: int
    hints: int
    checks: tuple[str, ...]  # names of the check functions, in order


def slug(topic: str) -> str:
    """"01_convolution_arithmetic" -> "convolution_arithmetic"; UnknownTopic for what is not NN_slug."""
    if not TOPIC.fullmatch(topic):
        raise UnknownTopic(f"topic must look like '01_convolution_arithmetic', got {topic!r}")
    return topic.split("_", 1)[1]


def topics(root: Path = REPO) -> list[str]:
    """Topics that have a solution source, in order."""
    folders = sorted(path.name for path in (root / "solutions").glob("[0-9][0-9]_*"))
    return [name for name in folders if TOPIC.fullmatch(name) and topic_path(name, root).is_file()]


def lectures(root: Path = REPO) -> list[str]:
    """Topics that have a lecture source, in order."""
    return sorted(path.stem for path in (root / "lectures").glob("[0-9][0-9]_*.py") if TOPIC.fullmatch(path.stem))


def topic_path(topic: str, root: Path = REPO) -> Path:
    """The source of a lab and its solution: solutions/NN_slug/slug.py."""
    return root / "solutions" / topic / f"{slug(topic)}.py"


def lecture_path(topic: str, root: Path = REPO) -> Path:
    """The source of a lecture: lectures/NN_slug.py."""
    slug(topic)
    return root / "lectures" / f"{topic}.py"


def read_cells(path: Path | str) -> list[Cell]:
    """The validated cells of a source, in order.

    A source in a folder named `lectures` may have setup, plain and measure cells only. Raises SourceError with all problems.
    """
    path = Path(path)
    problems: list[tuple[int, str]] = []
    cells = _parse(path, problems)
    if not problems:  # what the rules below say about a source that does not even parse would mislead
        _validate(path, cells, problems)
    if problems:
        raise SourceError("\n".join(f"{path}:{line}: {what}" for line, what in sorted(problems)))
    return cells


def exercises(cells: list[Cell]) -> list[Exercise]:
    """The exercises of validated cells, in order."""
    checks = {cell.name: cell for cell in cells if cell.kind == "check"}
    found = []
    for above, cell in zip(cells, cells[1:]):
        if cell.kind == "exercise":
            number, title, points, minutes = HEADING.fullmatch(above.source.split("\n", 1)[0].strip()).groups()
            names = tuple(function.name for function, _, _ in _check_functions(ast.parse(checks[cell.name].script)))
            hints = len(HINT.findall(above.source))
            found.append(Exercise(cell.name, int(number), title, _number(points), int(minutes), hints, names))
    return found


def written_parts(cell: Cell) -> tuple[str, str]:
    """A written cell as (question, model answer and rubric)."""
    at = cell.source.index(MODEL_ANSWER)
    return cell.source[:at].rstrip(), cell.source[at:].strip()


def execute(cells: list[Cell], namespace: dict, path: Path) -> dict:
    """Execute code cells of the source at `path` in `namespace` and return it.

    Line numbers are those of the file, so that tracebacks and inspect.getsource show it.
    """
    for cell in cells:
        if cell.cell_type == "code":
            tree = ast.increment_lineno(ast.parse(cell.script, str(path)), cell.line)
            exec(compile(tree, str(path), "exec"), namespace)
    return namespace


def told(error: BaseException, path: Path) -> str:
    """`file:line: KeyError: 'x'` of an exception that left code of the source at `path`; the line is the innermost one of the source."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1] if lines else 1}: {type(error).__name__}: {error}"


def exercise_namespace(topic: str, root: Path = REPO) -> dict:
    """Setup and exercise cells of a solution, executed in a fresh namespace, and nothing else."""
    path = topic_path(topic, root)
    if not path.is_file():
        raise UnknownTopic(f"topic must be one of {', '.join(topics(root)) or '(there is none)'}, got {topic!r}")
    return execute([cell for cell in read_cells(path) if cell.kind in ("setup", "exercise")], new_namespace(path), path)


def new_namespace(path: Path) -> dict:
    """An empty namespace for cells of the source at `path`: that of a module, by whose name classes find their source and annotations."""
    module = types.ModuleType(f"source_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    return module.__dict__


def defined_names(tree: ast.Module) -> set[str]:
    """Names of functions and classes defined at the top level."""
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


# Parsing ----------------------------------------------------------------------------------------------------------------------------------


def _parse(path: Path, problems: list) -> list[Cell]:
    import jupytext

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}:1: cannot be read: {error}") from None
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if MARKER.match(line)]
    notebook_cells = jupytext.reads(text, fmt="py:percent").cells if starts else []
    if len(starts) != len(notebook_cells):
        what = f"{len(starts)} lines start a cell with '# %%', but jupytext finds {len(notebook_cells)} cells"
        problems.append((1, f"{what}: text before the first marker, or a marker inside a string"))
        return []
    cells = []
    for notebook_cell, start, stop in zip(notebook_cells, starts, starts[1:] + [len(lines) + 1]):
        script = "\n".join(lines[start : stop - 1]).rstrip()
        cell = _cell(notebook_cell, start, script, lines[start - 1], problems)
        if cell is not None:
            cells.append(cell)
    return cells


def _cell(notebook_cell, line: int, script: str, marker: str, problems: list) -> Cell | None:
    metadata = dict(notebook_cell.metadata)
    metadata.pop("lines_to_next_cell", None)  # jupytext's own
    before = len(problems)

    def wrong(what):
        problems.append((line, what))

    tags = metadata.pop("tags", [])
    if not isinstance(tags, list) or any(tag not in TAGS for tag in tags):
        wrong(f"tags must be a list of {_words(TAGS)}, got {tags!r}")
        tags = []
    kinds = [kind for kind in NAMED_KINDS if kind in metadata] + ["setup"] * ("setup" in tags)
    if len(kinds) > 1:
        wrong(f"a cell is one thing, this one is {_words(kinds)}")
        return None
    kind = kinds[0] if kinds else "plain"
    name = metadata.pop(kind, None)
    unknown = set(metadata) - KEYS[kind]
    if unknown:
        wrong(f"unknown in the marker of {_a(kind)} cell: {_words(unknown)} ({marker.strip()!r}); "
              f"allowed: {_words(KEYS[kind] | {'tags'})}")
    if kind in NAMED_KINDS and not (isinstance(name, str) and name.isidentifier() and len(name) <= 40):
        wrong(f"{kind} must name a python identifier of up to 40 characters, got {name!r}")
        return None
    if notebook_cell.cell_type not in ("code", "markdown"):
        wrong(f"cells are code or markdown, this one is {notebook_cell.cell_type}")
    wanted = "markdown" if kind == "written" else "code"
    if kind != "plain" and notebook_cell.cell_type != wanted:
        wrong(f"a {kind} cell must be {wanted}, this one is {notebook_cell.cell_type}")
    points, seeds, hint = metadata.get("points", 0), metadata.get("seeds", 0), metadata.get("hint")
    if "points" in KEYS[kind] and not (_is_number(points) and points > 0):
        wrong(f"points of a {kind} cell must be a number above 0, got {metadata.get('points')!r}")
    if kind == "measure" and not (type(seeds) is int and seeds > 0):
        wrong(f"seeds of a measure cell must be an integer above 0, got {metadata.get('seeds')!r}")
    if kind == "mistake" and not (isinstance(hint, str) and hint.strip()):
        wrong(f"a mistake needs a hint, the sentence that a student reads who made it, got {hint!r}")
    if not notebook_cell.source.strip():
        wrong("the cell is empty")
    if len(problems) > before:
        return None
    return Cell(kind, name, notebook_cell.cell_type, notebook_cell.source, points, hint, tuple(tags), line, seeds, script)


# Validation -------------------------------------------------------------------------------------------------------------------------------


def _validate(path: Path, cells: list[Cell], problems: list) -> None:
    trees: dict[int, ast.Module] = {}
    for cell in cells:
        if cell.cell_type == "code":
            try:
                trees[cell.line] = ast.parse(cell.script)
            except SyntaxError as error:
                problems.append((cell.line + (error.lineno or 1), f"not valid python: {error.msg}"))
    if problems:
        return

    def wrong(cell, what):
        problems.append((cell.line, what))

    lecture = path.parent.name == "lectures"
    for cell in cells:
        if lecture and cell.kind not in ("setup", "plain", "measure"):
            wrong(cell, f"a lecture has no {cell.kind} cells")
        if cell.cell_type == "code" and cell.kind != "exercise" and "### BEGIN SOLUTION" in cell.source:
            if cell.kind in ("check", "setup", "plain", "measure"):
                wrong(cell, f"'### BEGIN SOLUTION' stands in a {cell.kind} cell; only exercise cells are cut")
        for method in ("seal", "points"):
            if cell.cell_type == "code" and any(_is_lab_call(node, method) for node in ast.walk(trees[cell.line])):
                wrong(cell, f"lab.{method}() is written by the build, take it out")
    _validate_names(cells, trees, wrong)
    if not lecture:
        _validate_setup(path, cells, trees, wrong)
        _validate_exercises(cells, trees, wrong)


def _validate_names(cells, trees, wrong) -> None:
    seen = Counter()
    for cell in cells:
        if cell.kind in ("exercise", "written", "measure"):
            seen[cell.name] += 1
            if seen[cell.name] > 1:
                wrong(cell, f"the name {cell.name!r} is used twice; exercises, questions and measurements share one list of names")
        if cell.kind == "measure":
            functions = [node for node in trees[cell.line].body if isinstance(node, ast.FunctionDef) and node.name == cell.name]
            if len(functions) != 1 or [arg.arg for arg in functions[0].args.args] != ["seed"]:
                wrong(cell, f"measure={cell.name!r} must define one function `def {cell.name}(seed)`")


def _validate_setup(path, cells, trees, wrong) -> None:
    setups = [cell for cell in cells if cell.kind == "setup"]
    first_exercise = min((cell.line for cell in cells if cell.kind == "exercise"), default=None)
    for cell in setups:
        if first_exercise is not None and cell.line > first_exercise:
            wrong(cell, "setup cells stand before the first exercise: checks must not see names made after student code ran")
    labs = [ast.unparse(node) for node in ast.walk(trees[setups[0].line])
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["lab"]] if setups else []
    wanted = f"lab = Lab({path.parent.name!r})"
    if not setups or labs != [wanted]:
        wrong(setups[0] if setups else cells[0], f"the first setup cell must hold `{wanted}`, got {labs or 'no such line'}")


def _validate_exercises(cells, trees, wrong) -> None:
    by_name = {cell.name: cell for cell in cells if cell.kind == "exercise"}
    checks: dict[str, Cell] = {}
    number = 0
    for index, cell in enumerate(cells):
        above = cells[index - 1] if index else None
        if cell.kind in ("check", "mistake", "alternative") and cell.name not in by_name:
            wrong(cell, f"{cell.kind} of an unknown exercise {cell.name!r}; exercises are {_words(by_name)}")
        elif cell.kind in ("mistake", "alternative"):
            missing = defined_names(trees[by_name[cell.name].line]) - defined_names(trees[cell.line])
            if missing:
                wrong(cell, f"the {cell.kind} of {cell.name!r} must define what the exercise cell defines, missing: {_words(missing)}")
        elif cell.kind == "check":
            if cell.name in checks:
                wrong(cell, f"a second check cell of {cell.name!r}; one cell holds all its checks")
            if by_name[cell.name].line > cell.line:
                wrong(cell, f"the check of {cell.name!r} stands above its exercise")
            checks[cell.name] = cell
            _validate_check(cell, trees[cell.line], wrong)
        elif cell.kind == "exercise":
            number += 1
            _validate_statement(above, cell, number, wrong)
            lines = cell.source.split("\n")
            begins = [index for index, line in enumerate(lines) if "### BEGIN SOLUTION" in line]
            ends = [index for index, line in enumerate(lines) if "### END SOLUTION" in line]
            if not begins or len(begins) != len(ends) or sorted(begins + ends)[::2] != begins:
                wrong(cell, "the body of an exercise stands between '### BEGIN SOLUTION' and '### END SOLUTION'")
            if cell.name not in defined_names(trees[cell.line]):
                wrong(cell, f"exercise={cell.name!r} defines no function or class of this name")
        elif cell.kind == "written":
            heading = HEADING.fullmatch(cell.source.split("\n", 1)[0].strip())
            if heading:
                number += 1
                if int(heading[1]) != number:
                    wrong(cell, f"this is exercise {number}, the heading says {heading[1]}")
                if float(heading[3]) != cell.points:
                    wrong(cell, f"points differ: {heading[3]} in the heading, {cell.points} in the marker")
            answer, rubric = (cell.source.find(f"\n{part}") for part in (MODEL_ANSWER, RUBRIC))
            if not 0 < answer < rubric:
                wrong(cell, f"a written question has three parts: the question, then lines that begin with {MODEL_ANSWER} and {RUBRIC}")
    statements = {cell.name: above for above, cell in zip(cells, cells[1:]) if cell.kind == "exercise"}
    for name, cell in by_name.items():
        if name not in checks:
            wrong(cell, f"exercise {name!r} has no check cell")
            continue
        heading = HEADING.fullmatch(statements[name].source.split("\n", 1)[0].strip()) if name in statements else None
        if heading and float(heading[3]) != checks[name].points:
            wrong(checks[name], f"points of {name!r} differ: {heading[3]} in the heading, {checks[name].points} in the marker of the check")


def _validate_statement(above, cell, number, wrong) -> None:
    heading = HEADING.fullmatch(above.source.split("\n", 1)[0].strip()) if above is not None and above.cell_type == "markdown" else None
    if heading is None or above.kind != "plain":
        wrong(above or cell, f"right above exercise {cell.name!r} stands its statement, a markdown cell that begins "
                             f"'## Exercise {number}: ... (N points, M minutes)'")
        return
    if int(heading[1]) != number:
        wrong(above, f"this is exercise {number}, the heading says {heading[1]}")
    lines = above.source.split("\n")
    hints = [(HINT.match(line), after) for line, after in zip(lines, lines[1:] + [""]) if "<summary>Hint" in line]
    numbers = [int(match[1]) if match else None for match, _ in hints]
    if not 2 <= len(hints) <= 4 or numbers != list(range(1, len(hints) + 1)):
        form = "`<details><summary>Hint 1</summary>`, a blank line, text, `</details>`"
        wrong(above, f"exercise {cell.name!r} needs 2 to 4 hints, each {form}; found {numbers}")
    if any(match and (match[2].strip() or after.strip()) for match, after in hints):
        wrong(above, f"in the hints of {cell.name!r} a blank line must stand after </summary>, or markdown in them is not rendered")
    if above.source.count("<details>") != above.source.count("</details>"):
        wrong(above, f"in the statement of {cell.name!r} a <details> is not closed")


def _validate_check(cell, tree, wrong) -> None:
    functions = _check_functions(tree)
    for function, name, points in functions:
        if name != cell.name:
            wrong(cell, f"check function {function.name!r} is registered for {name!r}, its cell is check={cell.name!r}")
        if not (_is_number(points) and points > 0):
            wrong(cell, f"check function {function.name!r} needs points=, a number above 0")
        if not ast.get_docstring(function):
            wrong(cell, f"check function {function.name!r} needs a docstring: it is what the student reads")
    for name, count in Counter(function.name for function, _, _ in functions).items():
        if count > 1:
            wrong(cell, f"two check functions are called {name!r}")
    total = sum(points for _, _, points in functions if _is_number(points))
    if abs(total - cell.points) > 1e-9:
        wrong(cell, f"points of {cell.name!r} differ: {cell.points} in the marker, {_number(total)} in its lab.check functions")


def _check_functions(tree: ast.Module) -> list[tuple[ast.FunctionDef, str | None, float | None]]:
    """(function, exercise, points) for each function decorated with lab.check; None for what is not written as a literal."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if _is_lab_call(call, "check"):
                    points = next((_literal(keyword.value) for keyword in call.keywords if keyword.arg == "points"), None)
                    found.append((node, _literal(call.args[0]) if call.args else None, points))
    return found


def _is_lab_call(node, method: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == f"lab.{method}"


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value) -> float:
    """3.0 and "3" -> 3, "2.5" -> 2.5."""
    value = float(value)
    return int(value) if value.is_integer() else value


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _words(names) -> str:
    return ", ".join(sorted(names)) or "(none)"


TOPICS = topics()
