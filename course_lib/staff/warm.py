"""Run notebooks in forks of one warm interpreter.

A notebook that starts a kernel of its own pays for its imports again: five to fifteen seconds before the first idea. Here one parent
imports what the notebooks import, computes nothing, and forks a child for each notebook. A child runs the code cells in an IPython shell in
the notebook's own folder, so that display and magics work, and reports the first cell that raises. Cells marked `# NBVAL_CHECK_OUTPUT`
must print what is stored. A child that falls takes nobody along.

    python -m course_lib.staff.warm lectures/*.ipynb         # these notebooks
    python -m course_lib.staff.warm --tests                  # every notebook of the course and the quick tests: `make check`

The parent must stay on one thread: a pool of OpenMP threads does not survive a fork, and the child would wait for it forever. Where forking
is unsafe (macOS) or missing (Windows), each notebook runs in a fresh interpreter instead: the same verdicts, without the speed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CAN_FORK = sys.platform.startswith("linux")
TIMEOUT = 300.0  # seconds: five times the budget of a notebook, for a machine that is busy
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What notebooks import, dearest first. The first optimiser and any part of torchvision both pull in torch._dynamo.
WARM_MODULES = (
    "torch", "torch._dynamo", "torchvision", "torchvision.ops", "torchvision.models", "torchvision.transforms.v2", "sklearn.datasets",
    "sklearn.manifold", "sklearn.linear_model", "skimage.data", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "ipywidgets",
    "tqdm.auto", "nbformat", "safetensors.torch", "IPython.core.interactiveshell", "course_lib.checks", "course_lib.plots",
)  # fmt: skip
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Run:
    """What became of one notebook.

    outcome: "passed", "failed" (a cell raised), "changed" (a marked output differs), "crashed" (the process died) or "timeout".
    cell: number of the code cell where it stopped, counted from 0 over code cells as nbval counts; None when no cell is to blame.
    outputs: one list a code cell, in the notebook format; the data of images is left out.
    """

    name: str
    outcome: str
    message: str = ""
    cell: int | None = None
    seconds: float = 0.0
    outputs: list[list[dict]] = field(default_factory=list)


# ---- in the child ----------------------------------------------------------------------------------------------------------------------


class _Stream(io.TextIOBase):
    """A sys.stdout or sys.stderr that appends to the outputs of the running cell."""

    def __init__(self, name: str, shell) -> None:
        self.name, self.shell = name, shell

    @property
    def encoding(self) -> str:
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for output in self.shell.cell_outputs:
            if output["output_type"] == "stream" and output["name"] == self.name:
                output["text"] += text
                break
        else:
            self.shell.cell_outputs.append({"output_type": "stream", "name": self.name, "text": text})
        return len(text)


def _without_images(data: dict) -> dict:
    return {mime: value if mime.startswith("text/") else "" for mime, value in data.items()}


def make_shell():
    """An IPython shell that keeps the outputs of the running cell in `shell.cell_outputs` instead of showing them."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, **kwargs):
            self.shell.cell_outputs.append(
                {"output_type": "display_data", "data": _without_images(data), "metadata": dict(metadata or {})}
            )

        def clear_output(self, wait=False):
            self.shell.cell_outputs.clear()

    class Hook(DisplayHook):
        def write_output_prompt(self):
            pass

        def write_format_data(self, format_dict, md_dict=None):
            self.shell.cell_outputs.append(
                {"output_type": "execute_result", "data": _without_images(format_dict), "metadata": dict(md_dict or {})}
            )

        def finish_displayhook(self):
            self._is_active = False

    class NotebookShell(InteractiveShell):
        def enable_gui(self, gui=None):
            """`%matplotlib inline` asks for an event loop; there is none here and none is needed."""

        def _showtraceback(self, etype, evalue, stb):
            self.cell_outputs.append(
                {"output_type": "error", "ename": etype.__name__, "evalue": str(evalue), "traceback": [ANSI.sub("", line) for line in stb]}
            )

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    NotebookShell.clear_instance()
    NotebookShell.cell_outputs = []
    shell = NotebookShell.instance(config=config, display_pub_class=Publisher, displayhook_class=Hook)
    return shell


def _is_marked(cell, name: str) -> bool:
    comments = (line.strip().lstrip("# ") for line in cell.source.splitlines() if line.strip().startswith("#"))
    return name in comments or name.lower().replace("_", "-") in cell.metadata.get("tags", [])


def comparable(outputs: Sequence[dict]) -> dict[str, list[str]]:
    """The part of a cell's outputs that must not change: what it printed, and results and displays as text."""
    kept: dict[str, list[str]] = {"stdout": [], "text/plain": []}
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            kept["stdout"] = ["".join(kept["stdout"]) + output["text"]]
        elif output["output_type"] in ("execute_result", "display_data") and "image/png" not in output["data"]:
            kept["text/plain"].append(output["data"].get("text/plain", ""))
    return kept


def run_notebook(path: Path) -> Run:
    """Run every code cell of a notebook in this process, which afterwards is good for nothing else."""
    import nbformat

    run = Run(str(path), "passed")
    notebook = nbformat.read(path, as_version=4)
    os.chdir(path.parent)
    sys.path.insert(0, "")
    shell = make_shell()
    sys.stdout, sys.stderr = _Stream("stdout", shell), _Stream("stderr", shell)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        shell.cell_outputs = []
        run.outputs.append(shell.cell_outputs)
        if _is_marked(cell, "NBVAL_SKIP"):
            continue
        result = shell.run_cell(cell.source, store_history=True)
        if not result.success and not (_is_marked(cell, "NBVAL_RAISES_EXCEPTION") or "raises-exception" in cell.metadata.get("tags", [])):
            errors = ["\n".join(output["traceback"]) for output in shell.cell_outputs if output["output_type"] == "error"]
            run.outcome, run.cell = "failed", number
            run.message = errors[-1] if errors else repr(result.error_before_exec or result.error_in_exec)
            return run
        if run.outcome == "passed" and cell.execution_count is not None and _is_marked(cell, "NBVAL_CHECK_OUTPUT"):
            stored, now = comparable(cell.outputs), comparable(shell.cell_outputs)
            if stored != now:
                kind = next(kind for kind in stored if stored[kind] != now[kind])
                run.outcome, run.cell = "changed", number
                run.message = f"{kind} stored:\n{''.join(stored[kind])}\n{kind} now:\n{''.join(now[kind])}"
    return run


def run_quick_tests() -> Run:
    """The unit tests that are not marked slow, in this process."""
    import matplotlib
    import pytest

    matplotlib.use("Agg")
    os.chdir(REPO)
    status = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", "--color=no", "tests"])
    return Run("tests", "passed" if status == 0 else "failed", f"pytest ended with status {int(status)}")


# ---- in the parent ---------------------------------------------------------------------------------------------------------------------


def warm_up() -> None:
    """Import what notebooks need, on one thread; RuntimeError when a second thread has started."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for module in WARM_MODULES:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:  # a notebook that needs it will say so
            print(f"not warmed up: {error}", file=sys.stderr)
    assert_one_thread()


def assert_one_thread() -> None:
    """RuntimeError unless this process has one thread and torch would use one."""
    import torch

    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()
    if threads != 1 or torch.get_num_threads() != 1:
        raise RuntimeError(f"a fork needs a parent on one thread: this one has {threads}, torch would use {torch.get_num_threads()}")


class Progress:
    """A student's progress files beside a notebook, put back as they were: a run by the staff is nobody's work on the lab."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, {path: path.read_bytes() for path in folder.glob("*.progress.json")}

    def put_back(self) -> None:
        for path in self.folder.glob("*.progress.json"):
            if path not in self.kept:
                path.unlink()
        for path, content in self.kept.items():
            path.write_bytes(content)


class Fork:
    """A forked child that runs `work()` and stores its Run as JSON; its output goes to a log file."""

    def __init__(self, work: Callable[[], Run], result: Path, log: Path) -> None:
        assert_one_thread()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        try:
            os.setsid()  # a group of its own, so that a timeout ends the processes it started as well
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _store(work(), result)
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            sys.__stdout__.flush()
            sys.__stderr__.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """Exit status once it has ended (negative: the signal that ended it), None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def end(self) -> None:
        _kill_group(self.pid)
        if self.returncode is None:
            os.waitpid(self.pid, 0)


class Fresh:
    """The same with a fresh interpreter, where there is no safe fork. `argument` is a notebook or "--quick-tests"."""

    def __init__(self, argument: str, result: Path, log: Path) -> None:
        command = [sys.executable, "-m", "course_lib.staff.warm", "--child", argument, "--json", str(result)]
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=os.name == "posix",
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
            )  # fmt: skip

    def poll(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        if os.name == "posix":
            _kill_group(self.process.pid)
        else:
            self.process.kill()
        self.process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # the second is what macOS says of a group that has just ended
        pass


def _store(run: Run, result: Path) -> None:
    result.write_text(json.dumps(asdict(run)), encoding="utf-8")


def run_all(names: Sequence[str], *, jobs: int = 2, timeout: float = TIMEOUT, fork: bool = CAN_FORK) -> Iterator[Run]:
    """Run notebooks, `jobs` at a time, and yield each Run as it ends. The name "--quick-tests" stands for the quick unit tests."""
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    waiting, running = list(names), {}
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    os.environ["IPYTHONDIR"] = str(folder / "ipython")  # nobody's startup files and profile
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                result, log = folder / f"{len(waiting)}.json", folder / f"{len(waiting)}.log"
                progress = Progress(Path(name).resolve().parent)
                if fork:
                    work = run_quick_tests if name == "--quick-tests" else lambda name=name: run_notebook(Path(name).resolve())
                    child = Fork(work, result, log)
                else:
                    child = Fresh(name, result, log)
                running[name] = (child, time.monotonic(), result, log, progress)
            for name, (child, start, result, log, progress) in list(running.items()):
                seconds = time.monotonic() - start
                status = child.poll()
                if status is None and seconds < timeout:
                    continue
                child.end()  # also what it may have left running
                progress.put_back()
                del running[name]
                text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
                if status is None:
                    run = Run(name, "timeout", f"still running after {timeout:g} s\n{text[-2000:]}")
                elif status != 0 or not result.exists():
                    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                    run = Run(name, "crashed", f"the process {how}\n{text[-4000:]}")
                else:
                    run = Run(**json.loads(result.read_text(encoding="utf-8")))
                    run.name = name
                    if name == "--quick-tests":
                        run.message = text
                run.seconds = seconds
                yield run
            time.sleep(0.02)
    finally:
        for child, *_, progress in running.values():
            child.end()
            progress.put_back()
        shutil.rmtree(folder, ignore_errors=True)


def course_notebooks() -> list[str]:
    """Every lecture, lab (unfilled) and solution, relative to the course's folder."""
    patterns = ("lectures/*.ipynb", "labs/*/*.ipynb", "solutions/*/*.ipynb")
    return [path.relative_to(REPO).as_posix() for pattern in patterns for path in sorted(REPO.glob(pattern))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_lib.staff.warm", description="Run notebooks in forks of one warm interpreter.")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="default: every notebook of the course")
    parser.add_argument("--tests", action="store_true", help="also run the unit tests that are not marked slow")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help=f"seconds for each (default {TIMEOUT:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store all outcomes and outputs")
    parser.add_argument("--no-fork", action="store_true", help="a fresh interpreter for each")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _store(run_quick_tests() if options.child == "--quick-tests" else run_notebook(Path(options.child).resolve()), options.json)
        return 0

    missing = [name for name in options.notebooks if not Path(name).is_file()]
    if missing:
        parser.error(f"no such notebook: {', '.join(missing)}")
    names = list(options.notebooks)
    if not names:
        os.chdir(REPO)
        names = course_notebooks()
    if options.tests:
        names.insert(0, "--quick-tests")  # the longest first
    start = time.monotonic()
    fork = CAN_FORK and not options.no_fork
    if fork:
        warm_up()
        print(f"{'warm':>8} {time.monotonic() - start:6.1f} s  imports, once", flush=True)
    runs = []
    for run in run_all(names, jobs=options.jobs, timeout=options.timeout, fork=fork):
        runs.append(run)
        quick_tests = run.name == "--quick-tests"
        print(f"{run.outcome:>8} {run.seconds:6.1f} s  {'unit tests' if quick_tests else run.name}", flush=True)
        if quick_tests:
            print("\n".join(f"         {line}" for line in run.message.splitlines()[-1 if run.outcome == "passed" else 0 :]), flush=True)
        elif run.outcome != "passed":
            where = f"code cell {run.cell}\n" if run.cell is not None else ""
            print("\n".join(f"         {line}" for line in (where + run.message).splitlines()), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs]), encoding="utf-8")
    failed = sum(run.outcome != "passed" for run in runs)
    print(f"{len(runs) - failed} passed, {failed} failed in {time.monotonic() - start:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
