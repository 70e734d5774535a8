"""How fast things are: `make bench`. Every figure is a ratio to a reference timed in the same run, so that machines can be compared.

Tests never judge time; this is where it is looked at. Functions are timed by the processor time of one thread, the best guard against a
busy machine, as the median of several repeats in which candidate and reference take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from course_lib.staff import warm

BUDGET = 60.0  # seconds a notebook
SECONDS_FILE = warm.REPO / ".cache" / "tests" / "notebook_seconds.json"  # what the last run of the suite measured
BEGIN = "=== first cell ==="


def alternate(functions: Sequence[Callable[[], object]], repeats: int, least: float = 0.02) -> list[float]:
    """Median processor seconds of one call of each function.

    Args:
        functions: called in turns, so that whatever slows the machine down slows all of them down.
        repeats: how many turns, at least 1.
        least: processor seconds that one measurement takes at least; short calls are repeated within it.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    counts = []
    for function in functions:
        start = time.process_time()
        function()  # warm-up
        counts.append(max(1, round(least / max(time.process_time() - start, 1e-6))))
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for kept, function, count in zip(seconds, functions, counts):
            start = time.process_time()
            for _ in range(count):
                function()
            kept.append((time.process_time() - start) / count)
    return [statistics.median(kept) for kept in seconds]


def row(name: str, ratio: float, note: str) -> str:
    return f"  {name:<58} {ratio:8.2f}   {note}"


# ---- functions of the labs ---------------------------------------------------------------------------------------------------------------


def convolutions(repeats: int) -> list[str]:
    """The two convolutions of lab 01 against torch.nn.functional.conv2d."""
    import torch
    import torch.nn.functional as F

    from course_lib.staff.sources import exercise_namespace

    torch.set_num_threads(1)
    namespace = exercise_namespace("01_convolution_arithmetic")
    generator = torch.Generator().manual_seed(0)
    lines = []
    for batch, in_channels, out_channels, size, kernel, stride in [(4, 3, 16, 64, 3, 1), (4, 32, 64, 28, 3, 1), (4, 16, 32, 57, 5, 2)]:
        x = torch.randn(batch, in_channels, size, size + 3, generator=generator)
        weight = torch.randn(out_channels, in_channels, kernel, kernel, generator=generator)
        bias = torch.randn(out_channels, generator=generator)
        names = ("conv2d_im2col", "conv2d_loops")
        calls = [lambda f=f: f(x, weight, bias, stride=stride, padding=1) for f in (F.conv2d, *(namespace[name] for name in names))]
        with torch.no_grad():
            reference, *ours = alternate(calls, repeats)
        shape = f"{batch}x{in_channels}x{size}x{size + 3} -> {out_channels}, {kernel}x{kernel}, stride {stride}"
        lines += [row(f"{name:<14} {shape}", value / reference, f"F.conv2d: {reference * 1e3:.2f} ms") for name, value in zip(names, ours)]
    return lines


# ---- from import to the first verdict ----------------------------------------------------------------------------------------------------


def run_to_first_verdict(notebook: Path) -> dict[str, float]:
    """Run a notebook's cells in this process up to and with the first check; wall and processor seconds from its first cell on."""
    source = json.loads(notebook.read_text(encoding="utf-8"))
    shell = warm.make_shell()  # a kernel has IPython before the first cell
    progress = warm.Progress(notebook.resolve().parent)
    os.chdir(notebook.parent)
    print(BEGIN, file=sys.stderr, flush=True)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        for cell in source["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "code":
                shell.run_cell(text).raise_error()
                if "lab.points(" in text:
                    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    finally:
        progress.put_back()
    raise ValueError(f"{notebook} has no check")


def import_shares(log: str) -> dict[str, float]:
    """Seconds of imports by top-level package, in a log of `python -X importtime` after the line BEGIN; each without what it imports."""
    seconds: dict[str, float] = {}
    for line in log.partition(BEGIN)[2].splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().split(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(parts[0]) / 1e6
    return seconds


def first_verdict() -> list[str]:
    """Seconds from the first cell of a solution to its first verdict, in a fresh process, against `import torch` in another."""
    notebooks = sorted(warm.REPO.glob("solutions/*/*.ipynb"))
    if not notebooks:
        return ["  there is no solution notebook yet: make build"]
    environment = {**os.environ, **dict.fromkeys(warm.THREAD_VARIABLES, "1"), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = ["-m", "course_lib.staff.bench", "--first-verdict", str(notebooks[0])]

    def fresh(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *arguments], cwd=warm.REPO, env=environment, capture_output=True, text=True, check=True)

    time_torch = "import time; t = time.process_time(); import torch; print(time.process_time() - t)"
    fresh("-c", "import torch")  # from the disk into memory
    torch_alone = float(fresh("-c", time_torch).stdout)
    measured = json.loads(fresh(*command).stdout.splitlines()[-1])
    shares = import_shares(fresh("-X", "importtime", *command).stderr)
    total = sum(shares.values())
    name = f"first cell to first verdict of {notebooks[0].stem}"
    lines = [row(name, measured["processor"] / torch_alone, f"import torch: {torch_alone:.2f} s of the processor")]
    lines.append(f"      {measured['processor']:.2f} s of the processor, {measured['wall']:.2f} s by the clock. Imports, each package without what it imports:")
    dearest = sorted(shares.items(), key=lambda share: -share[1])[:8]
    lines.append("      " + ", ".join(f"{package} {seconds:.2f} s ({seconds / total:.0%})" for package, seconds in dearest))
    return lines


# ---- RoI operators, scenes and grading, in modules of their own --------------------------------------------------------------------------


def rois(repeats: int) -> list[str]:
    from course_lib.staff.bench_rois import bench_rows

    return bench_rows(repeats)


def scenes(repeats: int) -> list[str]:
    from course_lib.staff.bench_scenes import bench_rows

    return bench_rows(repeats)


def explorers(repeats: int) -> list[str]:
    from course_lib.staff.bench_explore import bench_rows

    return bench_rows(repeats)


def grading() -> list[str]:
    from course_lib.staff.bench_grading import bench_rows

    return bench_rows()


# ---- the suite ---------------------------------------------------------------------------------------------------------------------------


def notebook_seconds() -> list[str]:
    """What the last run of the suite took for each notebook, against the budget."""
    if not SECONDS_FILE.exists():
        return ["  no run of the suite has been timed here yet: make test"]
    seconds = json.loads(SECONDS_FILE.read_text(encoding="utf-8"))
    return [row(name, value / BUDGET, f"{value:.1f} s") for name, value in sorted(seconds.items(), key=lambda item: -item[1])]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_lib.staff.bench", description="Print ratios, each with its reference.")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="turns of each measurement (default 9)")
    parser.add_argument("--first-verdict", type=Path, metavar="NOTEBOOK", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.first_verdict:
        print(json.dumps(run_to_first_verdict(options.first_verdict)))
        return 0
    for variable in warm.THREAD_VARIABLES:
        os.environ[variable] = "1"
    for title, lines in [
        ("Functions, one thread: times as long as the library", lambda: convolutions(options.repeats)),
        ("RoI operators, one thread: times as long as torchvision", lambda: rois(options.repeats)),
        ("Start, a fresh process: times as long as `import torch`", first_verdict),
        ("Scenes: share of the time that 150 a second on two cores leave", lambda: scenes(options.repeats)),
        ("Explorers, one thread: times as long as an empty plot of the same size", lambda: explorers(options.repeats)),
        ("Grading lab 01: submissions, times as many as plain nbgrader", grading),
        (f"Notebooks in the last run of the suite: share of {BUDGET:g} s", notebook_seconds),
    ]:
        print(title)
        print("\n".join(lines()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
