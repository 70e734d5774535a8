"""The set-up says the same thing everywhere (dependencies, lock, make, README, continuous integration), and the guards of the suite hold."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import no_network
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
ELSEWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737): no machine has it
# The oldest and newest Python of the workflows, on each system they run on.
MACHINES = [
    {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system, "os_name": os_name, "platform_machine": cpu}
    for python in ("3.11", "3.12", "3.13")
    for system, os_name, cpu in [("linux", "posix", "x86_64"), ("darwin", "posix", "arm64"), ("win32", "nt", "AMD64")]
]


def text(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def requirements_of_project() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra), *PROJECT["build-system"]["requires"]]
    return [Requirement(line) for line in lines]


def pins() -> list[Requirement]:
    lines = (line.strip() for line in text("requirements.lock").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))


def make_calls(source: str) -> set[str]:
    """Targets of all `make` commands in a text: at the start of a line of code, or between backquotes."""
    return set(re.findall(r"(?:^|`|run: |exec |&& )\s*make ([a-z]+)", source, re.MULTILINE))


# ---- one list of dependencies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine['sys_platform']}-{machine['python_version']}")
def test_lock_pins_every_dependency_once(machine):
    applicable = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(machine)]
    versions = {pin.name.lower(): str(pin.specifier) for pin in applicable}
    assert len(versions) == len(applicable), "a package is pinned twice for one machine"
    for requirement in requirements_of_project():
        pinned = versions.get(requirement.name.lower())
        assert pinned is not None, f"{requirement} is in pyproject.toml, not in requirements.lock: run make lock"
        fits = requirement.specifier.contains(pinned.removeprefix("=="), prereleases=True)
        assert fits, f"{requirement} is pinned to {pinned}: run make lock"


def test_lock_pins_exactly():
    for pin in pins():
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), f"{pin} is no exact pin"
        assert pin.url is None


def test_environment_yml_brings_python_and_the_course_only():
    environment = yaml.safe_load(text("environment.yml"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['project']['requires-python']}", "pip"]
    assert pip == {"pip": ["-e ."]}
    assert environment["name"] == PROJECT["project"]["name"]


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock", "environment.yml"])
def test_no_index_address(name):
    found = re.findall(r"https?://\S+|--(?:extra-)?index-url\S*|--find-links\S*|--trusted-host\S*|file://\S+", text(name))
    assert found == []


def test_supported_python_is_what_the_workflows_run():
    workflow = yaml.safe_load(text(".github/workflows/tests.yml"))
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    matrix = workflow["jobs"]["suite"]["strategy"]["matrix"]
    assert [version for version in matrix["python"] if Version(version) not in supported] == []
    assert min(matrix["python"], key=Version) == "3.11"
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_licences_are_named():
    assert PROJECT["project"]["license"] == "BSD-3-Clause"
    assert text("LICENSE").startswith("BSD 3-Clause License")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text("LICENSE-text")


def test_command_exists():
    module, function = PROJECT["project"]["scripts"]["course"].split(":")
    code = f"from {module} import {function}; {function}(['--help'])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "build" in finished.stdout


# ---- commands --------------------------------------------------------------------------------------------------------------------------


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@needs_make
def test_make_alone_lists_every_target():
    finished = subprocess.run(["make", "--no-print-directory"], cwd=REPO, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    listed = {line.split()[1] for line in finished.stdout.splitlines()}
    assert listed == make_targets()
    assert {"lab", "test", "check", "build", "bench"} <= listed


def copy_of_environment_files(folder: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPO / name, folder)


@needs_make
@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
def test_environment_is_made_once_and_again_when_the_lock_changes(tmp_path):
    """A stand-in for Python that writes down how it is called: no package is installed, and what would be is seen."""
    copy_of_environment_files(tmp_path)
    calls = tmp_path / "calls"
    python = tmp_path / "python-stand-in"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{calls}"\n'
        'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi\n',
        encoding="utf-8",
    )  # fmt: skip
    python.chmod(0o755)
    tools = tmp_path / "tools"  # a PATH without uv
    tools.mkdir()
    for name in ("sh", "awk", "cp", "mkdir", "touch", "id", "rm", "make"):
        (tools / name).symlink_to(shutil.which(name))

    def make_env() -> list[str]:
        calls.write_text("", encoding="utf-8")
        finished = subprocess.run(
            ["make", "env", f"PYTHON={python}"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return calls.read_text(encoding="utf-8").splitlines()

    first = make_env()
    assert first[0].startswith("-c ")  # asked for its version
    assert "-m venv .venv" in first
    assert [line for line in first if "pip install" in line and "-r requirements.lock" in line]
    assert [line for line in first if "pip install" in line and "--no-deps" in line and "-e ." in line]
    assert make_env() == []
    stamp = (tmp_path / ".venv" / ".installed").stat().st_mtime
    os.utime(tmp_path / "requirements.lock", (stamp + 10, stamp + 10))
    again = make_env()
    assert "-m venv .venv" not in again
    assert [line for line in again if "-r requirements.lock" in line]


@needs_make
@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
def test_old_python_is_refused_with_a_reason(tmp_path):
    copy_of_environment_files(tmp_path)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    finished = subprocess.run(["make", "env", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode != 0
    assert "3.11 or later" in finished.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/tests.yml", ".github/workflows/gpu.yml"])
def test_named_make_targets_exist(name):
    calls = make_calls(text(name))
    assert calls, "this file is about make targets and names none"
    assert calls <= make_targets()


def test_readme_names_the_two_commands():
    assert {"lab", "test"} <= make_calls(text("README.md"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text(name)) + re.findall(r"""(?:src|href)=["']([^"'#]+)""", text(name))
    missing = [target for target in targets if not target.startswith("http") and not (REPO / target).exists()]
    assert missing == []


def test_readme_shows_what_the_lab_says():
    """The wrong answer that the README quotes gets the panel that it quotes, from the lab's own checks (lines `…` stand for more of them)."""
    from course_lib.checks.render import exercise_panel
    from course_lib.checks.runner import PUBLIC_SEED, read_card, run_checks

    example = text("README.md").partition("## How a check works")[2]
    answer, panel = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", example, re.DOTALL).groups()
    namespace: dict = {}
    exec(answer, namespace)
    card = read_card("01_convolution_arithmetic")
    results = run_checks("01_convolution_arithmetic", namespace, PUBLIC_SEED, ["output_size"])
    exercise = next(entry for entry in card["exercises"] if entry["name"] == "output_size")
    said = iter(exercise_panel(exercise, results, failures=1).text.splitlines())
    missing = [line for line in panel.splitlines() if line.strip() != "…" and line not in said]  # in this order
    assert missing == []


def test_ci_runs_exactly_the_suite():
    commands = [line for line in text(".ci/run").splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "exec make test </dev/null"
    assert os.name != "posix" or os.access(REPO / ".ci/run", os.X_OK)


@pytest.mark.parametrize("path", sorted((REPO / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflow_is_well_formed(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        assert any("actions/checkout" in step.get("uses", "") for step in job["steps"])
        assert any("make " in step.get("run", "") for step in job["steps"])


def test_gpu_job_runs_the_notebooks_at_full_size():
    (job,) = yaml.safe_load(text(".github/workflows/gpu.yml"))["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "gpu"]
    assert job["env"] == {"COURSE_PROFILE": "full"}
    assert job["steps"][-1]["run"] == "make notebooks"


# ---- no network ------------------------------------------------------------------------------------------------------------------------


def test_pytest_reaches_no_other_machine():
    with pytest.raises(no_network.NetworkAccess):
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    with pytest.raises(no_network.NetworkAccess):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(no_network.NetworkAccess), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"hello", (ELSEWHERE, 53))


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            assert client.getpeername() == server.getsockname()
    assert socket.getaddrinfo("localhost", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", b"localhost", "", None])
def test_local_hosts(host):
    assert no_network.is_local(host)


@pytest.mark.parametrize("host", ["example.org", ELSEWHERE, "2001:db8::1", b"example.org", "10.0.0.1", "localhost.example.org"])
def test_hosts_elsewhere(host):
    assert not no_network.is_local(host)


ATTEMPT = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)"


def test_other_python_processes_reach_no_other_machine():
    finished = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True)
    assert finished.returncode != 0
    assert "NetworkAccess" in finished.stderr


@pytest.mark.slow
def test_kernels_reach_no_other_machine_and_have_private_settings(tmp_path):
    """In the kind of kernel that nbval starts."""
    from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel

    kernel = RunningKernel(CURRENT_ENV_KERNEL_NAME, cwd=str(tmp_path))
    try:
        outputs = {}
        for name, code in [
            ("network", ATTEMPT),
            ("settings", "import os; print(os.environ['IPYTHONDIR'], get_ipython().ipython_dir)"),
            ("backend", "import os; print(os.environ['MPLBACKEND'], os.environ['OMP_NUM_THREADS'])"),
        ]:
            request = kernel.execute_cell_input(code, allow_stdin=False)
            kernel.await_reply(request, timeout=60)
            while (message := kernel.get_message("iopub", timeout=60))["content"].get("execution_state") != "idle":
                if message["msg_type"] in ("error", "stream"):
                    outputs[name] = message["content"].get("ename") or message["content"]["text"].split()
    finally:
        kernel.stop()
    assert outputs["network"] == "NetworkAccess"
    assert outputs["settings"] == [os.environ["IPYTHONDIR"]] * 2
    assert outputs["backend"] == ["module://matplotlib_inline.backend_inline", "1"]
    if os.name == "posix":
        assert kernel_transport() == "ipc"


def kernel_transport() -> str:
    import nbval.kernel

    return nbval.kernel.KernelManager().transport


def test_caches_of_model_hubs_are_private():
    home = Path(os.environ["IPYTHONDIR"]).parent
    assert {Path(os.environ[name]).parent for name in ("TORCH_HOME", "HF_HOME", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR")} == {home}
    assert not Path(os.environ["TORCH_HOME"]).exists(), "something stored a model"


# ---- the suite itself ------------------------------------------------------------------------------------------------------------------


def write_notebook(path: Path, *sources: str) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)


@pytest.fixture
def small_course(tmp_path) -> Path:
    """A course with our settings and conftest, two notebooks of two cells each, and one test."""
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    shutil.copytree(REPO / "tests" / "offline", tmp_path / "tests" / "offline")
    shutil.copy(REPO / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_small.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
    write_notebook(tmp_path / "lectures" / "one.ipynb", "x = 1", "assert x == 1")
    write_notebook(tmp_path / "solutions" / "two" / "two.ipynb", "import os; y = 2", "assert y == 2")
    return tmp_path


def run_suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "2", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_notebooks_run_whole_on_one_worker_and_their_seconds_are_shown(small_course):
    finished = run_suite(small_course)  # a second cell fails where another worker ran the first
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "5 passed" in finished.stdout.splitlines()[-1]
    table = finished.stdout[finished.stdout.index("seconds per notebook") :]
    assert re.search(r"lectures/one\.ipynb +\d+\.\d s +\d+%", table)
    stored = json.loads((small_course / ".cache" / "tests" / "notebook_seconds.json").read_text(encoding="utf-8"))
    assert set(stored) == {"lectures/one.ipynb", "solutions/two/two.ipynb"}
    assert all(value > 0 for value in stored.values())


@pytest.mark.slow
def test_failing_cell_and_attempted_download_fail_the_suite(small_course):
    download = "import urllib.request\nurllib.request.urlopen('http://example.org')"
    write_notebook(small_course / "lectures" / "three.ipynb", "z = 3", download)
    finished = run_suite(small_course)
    assert finished.returncode == 1
    assert "1 failed, 6 passed" in finished.stdout.splitlines()[-1]
    assert "NetworkAccess" in finished.stdout


def test_cells_of_a_notebook_are_one_unit_and_tests_are_single():
    from conftest import unit_of_work

    assert unit_of_work("lectures/one.ipynb::Cell 0") == unit_of_work("lectures/one.ipynb::Cell 11") == "lectures/one.ipynb"
    assert unit_of_work("tests/test_notebooks.py::test_a[1]") == unit_of_work("tests/test_notebooks.py::test_b")
    assert unit_of_work("tests/test_x.py::test_a[1]") != unit_of_work("tests/test_x.py::test_a[2]")


def test_table_marks_what_is_over_the_budget():
    from conftest import table_of_seconds

    assert table_of_seconds({"short.ipynb": 6.0, "long.ipynb": 90.0}, 60.0) == [
        "long.ipynb     90.0 s  150%  OVER BUDGET",
        "short.ipynb     6.0 s   10%",
    ]


@pytest.mark.parametrize("module, fails", [("course_lib.made_up", True), ("test_made_up", True), ("somebody.elses", False)])
def test_warnings_are_errors_in_our_own_code(module, fails):
    """A warning that points at a module of ours raises under the suite's filters."""
    import warnings

    def warn():
        warnings.warn_explicit("old", DeprecationWarning, f"{module}.py", 1, module=module, registry={})

    if fails:
        with pytest.raises(DeprecationWarning):
            warn()
    else:
        with pytest.warns(DeprecationWarning):
            warn()
