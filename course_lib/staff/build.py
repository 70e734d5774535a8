"""Make the notebooks of the course out of their text sources, and find out whether the stored ones are still those.

solutions/NN_slug/slug.py -> solutions/NN_slug/slug.ipynb (executed), labs/NN_slug/slug.ipynb (cut by nbgrader's own preprocessors),
                             course_lib/cards/NN_slug.json
lectures/NN_slug.py       -> lectures/NN_slug.ipynb (executed)

Two builds of one source give equal bytes, apart from the outputs of cells tagged "volatile".
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.checks.notebook import content_id
from course_lib.checks.outcomes import NOT_ATTEMPTED, PASSED
from course_lib.checks.runner import PUBLIC_SEED, run_collected
from course_lib.cli import CommandError
from course_lib.staff import labs, leaks, ledger, sources
from course_lib.staff.preprocess import PRIVATE
from course_lib.staff.sources import REPO, Cell

NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"},
}
CELL_SECONDS = 600  # a cell that takes longer hangs: a whole notebook has 60 s
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


class BuildError(CommandError):
    """A notebook could not be built; the message is for the author."""


# Notebooks in memory ----------------------------------------------------------------------------------------------------------------------


def lecture_notebook(topic: str, cells: list[Cell]) -> nbformat.NotebookNode:
    """The lecture's notebook without outputs."""
    return _notebook(topic, [_plain(cell) for cell in cells])


def solution_notebook(topic: str, cells: list[Cell]) -> nbformat.NotebookNode:
    """The solution notebook without outputs: all cells but mistakes, alternatives folded under their check, with nbgrader's metadata."""
    alternatives: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.kind == "alternative":
            alternatives.setdefault(cell.name, []).append(cell)
    made, setups = [], 0
    for cell in cells:
        if cell.kind == "setup":
            setups += 1
            made.append(_graded(new_code_cell(f"{cell.source}\n\nlab.seal()"), cell, f"setup_{setups}", locked=True))
        elif cell.kind == "exercise":
            made.append(_graded(new_code_cell(cell.source), cell, f"exercise_{cell.name}", solution=True))
        elif cell.kind == "check":
            source = f'{cell.source}\n\n\nlab.points("{cell.name}")'
            made.append(_graded(new_code_cell(source), cell, f"check_{cell.name}", grade=True, locked=True, points=cell.points))
            made.extend(_alternative(other, number) for number, other in enumerate(alternatives.get(cell.name, []), 1))
        elif cell.kind == "written":
            question, answer = sources.written_parts(cell)
            made.append(_graded(new_markdown_cell(question), cell, f"question_{cell.name}", locked=True))
            made.append(_graded(new_markdown_cell(answer), cell, f"written_{cell.name}", grade=True, solution=True, points=cell.points))
        elif cell.kind in ("plain", "measure"):
            made.append(_plain(cell))
    return _notebook(topic, made)


def lab_notebook(topic: str, solution: nbformat.NotebookNode, root: Path = REPO) -> nbformat.NotebookNode:
    """The lab that nbgrader makes of a solution notebook, by the preprocessors in nbgrader_config.py.

    SaveCells is left out: it writes to the gradebook and changes no cell.
    """
    from traitlets.config import PyFileConfigLoader
    from traitlets.utils.importstring import import_item

    path_before = list(sys.path)
    config = PyFileConfigLoader("nbgrader_config.py", str(root)).load_config()
    sys.path[:] = path_before
    notebook = copy.deepcopy(solution)
    resources = {"nbgrader": {"notebook": sources.slug(topic), "assignment": topic, "student": "."}}
    for name in config.GenerateAssignment.preprocessors:
        if not name.endswith(".SaveCells"):
            notebook, resources = import_item(name)(config=config).preprocess(notebook, resources)
    return notebook


def card(topic: str, cells: list[Cell], root: Path = REPO) -> dict:
    """What a student's Lab needs to know about its topic: exercises, points, hints, and fingerprints of known mistakes."""
    return {
        "topic": topic,
        "exercises": [
            {
                "name": exercise.name,
                "title": exercise.title,
                "points": exercise.points,
                "minutes": exercise.minutes,
                "hints": exercise.hints,
                "checks": list(exercise.checks),
            }
            for exercise in sources.exercises(cells)
        ],
        "written": [{"name": cell.name, "points": cell.points} for cell in cells if cell.kind == "written"],
        "mistakes": labs.known_mistakes(topic, root),
    }


def verify(topic: str, cells: list[Cell], root: Path = REPO) -> None:
    """Run solution, alternatives and mistakes through the checks with the public seed.

    Raises BuildError where the solution or an alternative fails a check, and where a mistake passes all of its exercise.
    """
    path = sources.topic_path(topic, root)
    try:
        lab = labs.load(topic, root)
        lab.namespace()
    except CommandError:
        raise
    except Exception as error:
        raise BuildError(sources.told(error, path)) from error

    def results(cell: Cell):
        checks = [check for check in lab.checks if check.exercise == cell.name]
        replacements = [cell] if cell.kind != "exercise" else []
        return run_collected(checks, lab.setup, lab.namespace(*replacements), PUBLIC_SEED)

    for cell in cells:
        where = f"{_relative(lab.path, root)}:{cell.line}"
        if cell.kind in ("exercise", "alternative"):
            for result in results(cell):
                if result.outcome != PASSED:
                    said = ": ".join(filter(None, [result.case, result.message]))
                    raise BuildError(f"{where}: this {cell.kind} of {cell.name!r} fails the check {result.name!r}: {said}")
        elif cell.kind == "mistake":
            if all(result.outcome in (PASSED, NOT_ATTEMPTED) for result in results(cell)):
                raise BuildError(f"{where}: this mistake of {cell.name!r} fails no check")


def _notebook(topic: str, cells: list) -> nbformat.NotebookNode:
    taken = set()
    for cell in cells:
        wanted, number = cell.id, 1
        while cell.id in taken:  # the same text twice
            number += 1
            cell.id = f"{wanted}-{number}"
        taken.add(cell.id)
    metadata = copy.deepcopy(NOTEBOOK_METADATA) | {"course": {"topic": topic}}
    return new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)


def _plain(cell: Cell):
    new = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    notebook_cell = new(cell.source, id=content_id(cell.cell_type, cell.source))
    return _tagged(notebook_cell, cell)


def _graded(notebook_cell, cell: Cell, grade_id: str, *, grade=False, solution=False, locked=False, points=None):
    notebook_cell.id = grade_id
    notebook_cell.metadata["nbgrader"] = {
        "grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": 3, "solution": solution, "task": False,
    }
    if points is not None:
        notebook_cell.metadata["nbgrader"]["points"] = points
    return _tagged(notebook_cell, cell)


def _tagged(notebook_cell, cell: Cell):
    tags = [tag for tag in cell.tags if tag != "setup"]
    if tags:
        notebook_cell.metadata["tags"] = tags
    return notebook_cell


def _alternative(cell: Cell, number: int):
    count = f" {number}" if number > 1 else ""
    source = f"<details><summary>Another right answer{count}</summary>\n\n```python\n{cell.source}\n```\n\n</details>"
    return new_markdown_cell(source, id=f"alternative_{cell.name}_{number}", metadata={PRIVATE: "only"})


# Execution --------------------------------------------------------------------------------------------------------------------------------


def execute(notebook: nbformat.NotebookNode, folder: Path, root: Path = REPO, label: str = "") -> list[str]:
    """Run the notebook in `folder`, in place, and make its outputs fit to be stored; returns remarks for the author.

    Raises BuildError where a cell raises or where an output could not be the same tomorrow.
    """
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bar = tqdm(total=len(code_cells), desc=label, unit="cell", leave=False, disable=None)
    with bar, tempfile.TemporaryDirectory(prefix="course-") as scratch:
        manager = AsyncKernelManager(kernel_name="python3", connection_file=str(Path(scratch) / "kernel.json"))
        if sys.platform != "win32" and len(scratch) < 80:  # a socket's path may have about 107 characters
            manager.transport = "ipc"
            manager.ip = str(Path(scratch) / "ipc")
        client = NotebookClient(
            notebook, km=manager, timeout=CELL_SECONDS, record_timing=False, store_widget_state=False, coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}}, on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute(env=_environment(root, Path(scratch)), cleanup_kc=True)
        except CellExecutionError as error:
            raise BuildError(f"{label}: a cell raises\n{COLOUR.sub('', str(error))}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"{label}: {str(error).splitlines()[0]}") from None
    remarks, faults = [], []
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            said, wrong = _settle_outputs(cell, root)
            remarks.extend(f"{label}: cell {number} ({cell.id}): {remark}" for remark in said)
            faults.extend(f"{label}: cell {number} ({cell.id}): {fault}" for fault in wrong)
    notebook.metadata = nbformat.from_dict(copy.deepcopy(NOTEBOOK_METADATA) | {"course": notebook.metadata["course"]})
    if faults:
        raise BuildError("\n".join(faults))
    return remarks


def _environment(root: Path, scratch: Path) -> dict:
    """The kernel's environment: the course of `root`, two threads, no GPU, the quick profile, and no configuration of the user."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits sleeps: on a busy machine spinning costs many times the work
        "CUDA_VISIBLE_DEVICES": "",
        "COURSE_PROFILE": "quick",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(scratch),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _settle_outputs(cell, root: Path = REPO) -> tuple[list[str], list[str]]:
    """Take out of a cell's outputs what is no part of its result: progress bars and widgets.

    Returns remarks about what was taken out, and faults: what another run or another machine would show otherwise.
    """
    remarks, faults, kept = [], [], []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            said = [line for line in output.text.split("\n") if line.strip() and "\r" not in line and "%|" not in line]
            if said:
                remarks.append(f"its stderr is not stored: {said[0].strip()[:200]}")
        elif "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            pass  # a widget lives in the kernel; its number is another one in each run
        else:
            output.pop("transient", None)
            kept.append(output)
    cell.outputs = kept
    text = json.dumps(kept, ensure_ascii=False)
    if "volatile" not in cell.metadata.get("tags", []) and ADDRESS.search(text):
        faults.append("its output holds a memory address, another one in each run; print something else or tag the cell volatile")
    home = str(Path.home())  # "/" for users without one
    if str(root) in text or (len(home) > 1 and f"{home}{os.sep}" in text):
        faults.append("its output holds a path of this machine")
    return remarks, faults


# Files ------------------------------------------------------------------------------------------------------------------------------------


def notebook_text(notebook: nbformat.NotebookNode) -> str:
    """The notebook as it is stored."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4) + "\n"


def write_if_changed(path: Path, text: str) -> bool:
    """Replace the file in one step, and only where its text differs. Returns whether it did."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8", newline="\n")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return True


def _write_notebook(path: Path, notebook: nbformat.NotebookNode) -> bool:
    """Write unless the stored notebook differs in volatile outputs only."""
    text = notebook_text(notebook)
    try:
        if _without_volatile(nbformat.reads(path.read_text(encoding="utf-8"), 4)) == _without_volatile(nbformat.reads(text, 4)):
            return False
    except (OSError, ValueError, AttributeError):  # missing, or not a notebook: to be written
        pass
    return write_if_changed(path, text)


def _without_volatile(notebook) -> dict:
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if "volatile" in cell.metadata.get("tags", []):
            cell.outputs = []
    return notebook


def card_text(content: dict) -> str:
    """The card as it is stored."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def paths(topic: str, root: Path = REPO) -> dict[str, Path]:
    """Where the four things made for a topic are stored."""
    slug = sources.slug(topic)
    return {
        "solution": root / "solutions" / topic / f"{slug}.ipynb",
        "lab": root / "labs" / topic / f"{slug}.ipynb",
        "card": root / "course_lib" / "cards" / f"{topic}.json",
        "lecture": root / "lectures" / f"{topic}.ipynb",
    }


# Build and check --------------------------------------------------------------------------------------------------------------------------


def chosen(names: list[str], root: Path = REPO) -> list[str]:
    """The topics meant by `names` (all where there are none); UnknownTopic for one that does not exist."""
    known = sorted({*sources.topics(root), *sources.lectures(root)})
    for name in names:
        if name not in known:
            raise sources.UnknownTopic(f"no such topic: {name!r}; there is {', '.join(known) or 'none yet'}")
    return list(names) or known


def build(names: list[str], root: Path = REPO, say=print) -> None:
    """Build the topics; raises SourceError or BuildError at the first that cannot be built, and never writes a notebook that failed."""
    for topic in chosen(names, root):
        at = paths(topic, root)
        if sources.topic_path(topic, root).is_file():
            cells = sources.read_cells(sources.topic_path(topic, root))
            solution = solution_notebook(topic, cells)
            lab = lab_notebook(topic, solution, root)
            found = leaks.in_lab(lab, cells)
            if found:
                raise BuildError("\n".join(f"{_relative(at['lab'], root)}: {leak}" for leak in found))
            verify(topic, cells, root)
            _report(say, root, at["card"], write_if_changed(at["card"], card_text(card(topic, cells, root))))
            seconds = _execute(solution, at["solution"], root, say)
            _report(say, root, at["solution"], _write_notebook(at["solution"], solution), seconds)
            _report(say, root, at["lab"], write_if_changed(at["lab"], notebook_text(lab)))
        if sources.lecture_path(topic, root).is_file():
            lecture = lecture_notebook(topic, sources.read_cells(sources.lecture_path(topic, root)))
            seconds = _execute(lecture, at["lecture"], root, say)
            _report(say, root, at["lecture"], _write_notebook(at["lecture"], lecture), seconds)
    if ledger.ledger_path(root).is_file():
        _report(say, root, root / "README.md", write_if_changed(root / "README.md", ledger.readme_text(root)))


def check(names: list[str], root: Path = REPO) -> list[str]:
    """Problems of the stored notebooks, cards, labs and measurements of the topics: drift from the sources, leaks. Nothing is executed."""
    from course_lib.staff import measure

    problems = []
    for topic in chosen(names, root):
        at = paths(topic, root)
        try:
            if sources.topic_path(topic, root).is_file():
                problems += _check_solution(topic, at, root)
            if sources.lecture_path(topic, root).is_file():
                lecture = lecture_notebook(topic, sources.read_cells(sources.lecture_path(topic, root)))
                problems += _compare(at["lecture"], lecture, root, executed=True)
            problems += measure.stale(topic, root)
        except (sources.SourceError, BuildError) as error:
            problems += str(error).splitlines()
    return problems if names else problems + _orphans(root) + _check_ledger(root)


def _check_ledger(root: Path) -> list[str]:
    if not ledger.ledger_path(root).is_file():
        return []
    problems = [f"site/ledger.toml: {problem}" for problem in ledger.problems(root)]
    if (root / "README.md").read_text(encoding="utf-8") != ledger.readme_text(root):
        problems.append("README.md: its map is not the one that site/ledger.toml makes")
    return problems


def _check_solution(topic: str, at: dict[str, Path], root: Path) -> list[str]:
    cells = sources.read_cells(sources.topic_path(topic, root))
    solution = solution_notebook(topic, cells)
    problems = _compare(at["solution"], solution, root, executed=True)
    problems += _compare(at["lab"], lab_notebook(topic, solution, root), root, executed=False)
    text = card_text(card(topic, cells, root))
    if not at["card"].is_file():
        problems.append(f"{_relative(at['card'], root)}: missing")
    elif at["card"].read_text(encoding="utf-8") != text:
        problems.append(f"{_relative(at['card'], root)}: differs from what its source makes")
    problems += [f"{_relative(path, root)}: {leak}" for path, leak in leaks.in_folder(at["lab"], cells)]
    allowed = {sources.topic_path(topic, root), at["solution"]}
    for path in sorted(at["solution"].parent.rglob("*")):
        if path.is_file() and path not in allowed and not leaks.is_ignored(path):
            problems.append(f"{_relative(path, root)}: nbgrader would hand it out with the lab; data files stand in data/")
    return problems


def _compare(path: Path, expected, root: Path, executed: bool) -> list[str]:
    """What differs in content between a stored notebook and the one made from its source, apart from outputs."""
    name = _relative(path, root)
    if not path.is_file():
        return [f"{name}: missing"]
    try:
        stored = nbformat.reads(path.read_text(encoding="utf-8"), nbformat.NO_CONVERT)
        nbformat.validate(stored)
    except Exception as error:
        return [f"{name}: not a valid notebook: {str(error).splitlines()[0]}"]
    problems = []
    for key in ("nbformat", "nbformat_minor", "metadata"):
        if stored.get(key) != expected[key]:
            problems.append(f"{name}: its {key} differs from what its source makes")
    if len(stored.cells) != len(expected.cells):
        problems.append(f"{name}: has {len(stored.cells)} cells, its source makes {len(expected.cells)}")
    for number, (got, wanted) in enumerate(zip(stored.cells, expected.cells), 1):
        parts = [key for key in ("id", "cell_type", "source", "metadata") if got.get(key) != wanted[key]]
        if parts:
            problems.append(f"{name}: cell {number} ({wanted.id}) differs from its source in {', '.join(parts)}")
            if "id" in parts:
                break  # what follows is shifted
        if got.cell_type == "code" and executed and not parts:
            if got.execution_count is None:
                problems.append(f"{name}: cell {number} ({got.id}) was never run")
            if any(output.output_type == "error" for output in got.outputs):
                problems.append(f"{name}: cell {number} ({got.id}) stores an error")
    return problems


def _orphans(root: Path) -> list[str]:
    """Generated files whose source is gone."""
    with_solution, with_lecture = set(sources.topics(root)), set(sources.lectures(root))
    made = {(root / "lectures" / f"{topic}.ipynb") for topic in with_lecture}
    for topic in with_solution:
        made |= {path for name, path in paths(topic, root).items() if name != "lecture"}
    stored = [path for pattern in ("lectures/*.ipynb", "course_lib/cards/*.json", "solutions/*/*.ipynb") for path in root.glob(pattern)]
    in_labs = [path for path in (root / "labs").rglob("*") if path.is_file() and path.parent.name not in with_solution]
    stored += [path for path in in_labs if not leaks.is_ignored(path)]
    return [f"{_relative(path, root)}: has no source" for path in sorted(stored) if path not in made]


def _execute(notebook, path: Path, root: Path, say) -> float:
    start = time.perf_counter()
    progress = path.parent / f".{notebook.metadata['course']['topic']}.progress.json"  # Lab's; the author's own work stays
    before = progress.read_bytes() if progress.is_file() else None
    progress.unlink(missing_ok=True)
    try:
        for remark in execute(notebook, path.parent, root, _relative(path, root)):
            say(remark)
    finally:
        progress.unlink(missing_ok=True)
        if before is not None:
            progress.write_bytes(before)
    return time.perf_counter() - start


def _report(say, root: Path, path: Path, written: bool, seconds: float | None = None) -> None:
    took = f" ({seconds:.0f} s)" if seconds is not None else ""
    say(f"{'wrote' if written else 'same '} {_relative(path, root)}{took}")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
