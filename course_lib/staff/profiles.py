"""Run the course's notebooks at one of its two sizes and record seconds, memory and what they print.

    python -m course_lib.staff.profiles --profile full lectures/*.ipynb solutions/*/*.ipynb

A record goes to data/measurements/profiles.json, beside those of other notebooks; the site's page on coverage shows them. A record of the
full profile that was not made on a GPU says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from course_lib.staff.measure import machine_in_words
from course_lib.staff.sources import REPO

PRINTED = 6_000  # characters kept of what a notebook prints
CELL_SECONDS = 3_600
ASK = """
import json as _json, sys as _sys
_torch = _sys.modules.get("torch")
_gpu = _torch is not None and _torch.cuda.is_available()
try:
    import resource
    _peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if _sys.platform == "darwin" else 2**10)
except ImportError:  # Windows
    _peak = None
print(_json.dumps({
    "memory_mb": None if _peak is None else round(_peak),
    "gpu": _torch.cuda.get_device_name() if _gpu else None,
    "gpu_memory_mb": round(_torch.cuda.max_memory_allocated() / 2**20) if _gpu else None,
}))
"""


def records_path(root: Path = REPO) -> Path:
    return root / "data" / "measurements" / "profiles.json"


def load(root: Path = REPO) -> dict[str, dict[str, dict]]:
    """notebook -> profile -> record; empty where nothing was recorded."""
    path = records_path(root)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run(notebook: Path, profile: str, root: Path = REPO) -> dict:
    """Execute a notebook in a kernel of its own and return its record: seconds, memory in MB, GPU, machine, and what it printed.

    The stored notebook is not changed. Raises nbclient's errors where a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    content = nbformat.read(notebook, 4)
    content.cells.append(new_code_cell(ASK))
    client = NotebookClient(content, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, store_widget_state=False,
                            resources={"metadata": {"path": str(notebook.parent)}})  # fmt: skip
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = time.perf_counter()
    client.execute(env=os.environ | {"COURSE_PROFILE": profile, "PYTHONPATH": os.pathsep.join(paths)})
    seconds = time.perf_counter() - start
    streams = [output.text for cell in content.cells if cell.cell_type == "code" for output in cell.outputs if output.get("name") == "stdout"]
    asked = json.loads(streams.pop())
    return {"seconds": round(seconds, 1), **asked, "machine": machine_in_words(), "printed": "".join(streams)[-PRINTED:]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_lib.staff.profiles", description="Run notebooks at one size and record how it went.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--out", type=Path, default=records_path(), help="the file of records (default: data/measurements/profiles.json)")
    options = parser.parse_args(arguments)
    failed = 0
    for notebook in options.notebooks:
        name = notebook.resolve().relative_to(REPO).as_posix()
        try:
            record = run(notebook.resolve(), options.profile)
        except Exception as error:  # the other notebooks go on
            print(f"{name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
            failed += 1
            continue
        records = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
        records.setdefault(name, {})[options.profile] = record
        options.out.write_text(json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}: {record['seconds']} s, {record['memory_mb']} MB, {record['gpu'] or 'no GPU'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
