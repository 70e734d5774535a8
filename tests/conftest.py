"""What every test runs under: no network, one OpenMP thread a process, private settings; and the table of seconds per notebook."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
CACHE = REPO / ".cache" / "tests"
BUDGET = 60.0  # seconds a notebook, imports included, on two cores
OFFLINE = str(REPO / "tests" / "offline")
ONE_WORKER = {"tests/test_browser.py", "tests/test_notebooks.py", "tests/test_site.py", "tests/test_warm.py"}  # with a fixture too dear to make twice
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

sys.path.insert(0, OFFLINE)
import no_network  # noqa: E402

no_network.install()


def _private_environment() -> str:
    """Set the variables that workers, kernels and other processes inherit; return a new folder to remove at the end."""
    # Two workers with two threads each are slower than one worker after the other.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([OFFLINE, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Nobody's settings, start-up files or kernels. A short path: names of sockets end at about 107 characters.
    home = tempfile.mkdtemp(prefix="course-")
    for variable, name in [
        ("IPYTHONDIR", "ipython"),
        ("JUPYTER_CONFIG_DIR", "config"),
        ("JUPYTER_DATA_DIR", "data"),
        ("JUPYTER_RUNTIME_DIR", "run"),
        ("TORCH_HOME", "torch"),
        ("HF_HOME", "huggingface"),
    ]:
        os.environ[variable] = str(Path(home, name))
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Agg as a setting, not as MPLBACKEND: a kernel sets its own backend only where that variable is empty. Kept from run to run, because
    # matplotlib's list of fonts takes seconds to make.
    settings = CACHE / "matplotlib"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "matplotlibrc").write_text("backend: Agg\n", encoding="utf-8")
    os.environ["MPLCONFIGDIR"] = str(settings)
    os.environ.pop("MPLBACKEND", None)
    if not any(settings.glob("fontlist-*.json")):
        subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=False, stderr=subprocess.DEVNULL)
    return home


HOME = None if IS_WORKER else _private_environment()


def pytest_unconfigure(config):
    if HOME is not None:
        shutil.rmtree(HOME, ignore_errors=True)


_kernels = itertools.count()


def _kernel_manager(**settings):
    """The KernelManager that nbval starts kernels with, corrected in two things.

    Over TCP, ipykernel warns that anybody on the machine can listen: where there are sockets in the file system it uses those, each kernel's
    in a place of its own, whatever folder it runs in. And nbval opens a file for what the kernel says on its standard error and never closes
    it, for which the garbage collector would blame whatever test runs at that time.
    """
    from jupyter_client.manager import KernelManager

    class Manager(KernelManager):
        def start_kernel(self, *, stderr=None, **kwargs):
            if stderr is not None:
                stderr.close()
            return super().start_kernel(stderr=subprocess.DEVNULL, **kwargs)

    if os.name == "posix":
        home = Path(os.environ["IPYTHONDIR"]).parent
        settings |= {"transport": "ipc", "ip": str(home / f"kernel-{os.getpid()}-{next(_kernels)}")}
    return Manager(**settings)


def pytest_configure(config):
    import nbval.kernel

    nbval.kernel.KernelManager = _kernel_manager


def is_notebook(nodeid: str) -> bool:
    """Whether the id of a test is a cell of a notebook."""
    return nodeid.split("::")[0].endswith(".ipynb")


def unit_of_work(nodeid: str) -> str:
    """What one worker takes at a time: a notebook, whose cells share a kernel; a module of ONE_WORKER; else a single test."""
    path = nodeid.split("::")[0]
    return path if is_notebook(nodeid) or path in ONE_WORKER else nodeid


def pytest_xdist_make_scheduler(config, log):
    """Longest units first, as --dist loadscope does, with units of our own (loadgroup of pytest-xdist 3.8 groups nothing under pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of_work(nodeid)

    return Scheduling(config, log)


@pytest.fixture
def repo() -> Path:
    """The course's folder."""
    return REPO


# ---- the table of seconds per notebook -------------------------------------------------------------------------------------------------

_seconds: dict[str, float] = {}


def pytest_runtest_logreport(report):
    """Runs in the controller for the reports of every worker. The kernel's start counts: it is the setup of a notebook's first cell."""
    if is_notebook(report.nodeid):
        name = report.nodeid.split("::")[0]
        _seconds[name] = _seconds.get(name, 0.0) + report.duration


def table_of_seconds(seconds: dict[str, float], budget: float) -> list[str]:
    """Lines of the table, longest notebook first; a notebook over the budget is marked."""
    width = max(len(name) for name in seconds)
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    return [f"{name:<{width}}  {value:6.1f} s  {value / budget:4.0%}{'  OVER BUDGET' if value > budget else ''}" for name, value in rows]


def pytest_terminal_summary(terminalreporter):
    if not _seconds or IS_WORKER:
        return
    terminalreporter.section(f"seconds per notebook (budget {BUDGET:g} s, kernel and imports included)")
    for line in table_of_seconds(_seconds, BUDGET):
        terminalreporter.write_line(line)
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "notebook_seconds.json").write_text(json.dumps(_seconds, indent=1) + "\n", encoding="utf-8")
