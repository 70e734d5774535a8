"""Submissions that try something, each with the points an honest grader gives. See test_grading_hostile.py.

The lab (course/solutions/70_target) has 10 points: moving_average 1 + 2 + 1, draw_mask 2, Scale 2, average_twice 2. `MARK`, `PORT` or `SLEEP` stands in
all names of files, processes and sockets that a submission tries to make, so that a test can look for them outside.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from course_lib.staff.grading.submission import stub
from course_lib.staff.labs import load

ROOT = Path(__file__).parent / "course"
TOPIC = "70_target"
# Of this process alone: tests that run beside it must not be blamed for each other's submissions.
MARK = f"hostile_mark_{os.getpid()}_"
PORT = 20000 + os.getpid() % 10000  # below the ports that a system gives away unasked
SLEEP = 478_100_000 + os.getpid() % 100_000  # seconds; names a process in a list of them

RIGHT = {
    "moving_average": "def moving_average(x, width):\n    if width < 1:\n        raise ValueError('width')\n    return x.unfold(0, width, 1).mean(1)\n",
    "draw_mask": "def draw_mask(size, p, generator):\n    return torch.rand(size, generator=generator) < p\n",
    "Scale": (
        "class Scale(torch.nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
        "        self.factors = torch.nn.Parameter(torch.ones(channels))\n\n    def forward(self, x):\n        return x * self.factors\n"
    ),
    "average_twice": "def average_twice(x, width):\n    return moving_average(moving_average(x, width), width)\n",
}
WRONG = {
    "moving_average": "def moving_average(x, width):\n    return torch.zeros(len(x) - width + 1)\n",
    "draw_mask": "def draw_mask(size, p, generator):\n    return torch.zeros(size, dtype=torch.bool)\n",
    "Scale": "class Scale(torch.nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n\n    def forward(self, x):\n        return x + 1\n",
    "average_twice": "def average_twice(x, width):\n    return torch.zeros(len(x) - 2 * width + 2)\n",
}


@dataclass(frozen=True)
class Case:
    """One submission.

    Attributes:
        points: what it earns, all checks together.
        write: puts the submission at a path.
        readable: False where it should be reported as "could not be read".
    """

    family: str
    name: str
    points: float
    write: Callable[[Path], None]
    readable: bool = True

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


CASES: list[Case] = []


def code(source: str, tag: str | None = None, **metadata: Any) -> dict:
    meta: dict = dict(metadata)
    if tag:
        meta["nbgrader"] = {"grade_id": tag, "grade": tag.startswith("check"), "solution": tag.startswith("exercise"), "schema_version": 3}
    return {"cell_type": "code", "metadata": meta, "source": source, "outputs": [], "execution_count": None}


def lab_cells(answers: dict[str, str]) -> list[dict]:
    """All cells of the released lab with the given answers in place of stubs."""
    cells = []
    for cell in load(TOPIC, ROOT).cells:
        if cell.kind == "setup":
            cells.append(code(f"{cell.source}\n\nlab.seal()", f"setup_{len(cells)}"))
        elif cell.kind == "exercise":
            cells.append(code(answers.get(cell.name, stub(cell.source)), f"exercise_{cell.name}"))
        elif cell.kind == "check":
            cells.append(code(f'{cell.source}\n\n\nlab.points("{cell.name}")', f"check_{cell.name}"))
        elif cell.kind == "written":
            answer = code("My answer.", f"written_{cell.name}")
            cells.append({"cell_type": "markdown", "metadata": answer["metadata"], "source": "The border."})
        elif cell.kind == "plain":
            plain = code(cell.source)
            cells.append(plain if cell.cell_type == "code" else {"cell_type": "markdown", "metadata": {}, "source": cell.source})
    return cells


def notebook(cells: list[dict], **more: Any) -> dict:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3"}}, "cells": cells, **more}


def add(family: str, name: str, points: float, content: Any, readable: bool = True) -> None:
    """`content`: a list of cells, a notebook, bytes, or a function that writes to a path."""
    if isinstance(content, list):
        content = notebook(content)
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    write = content if callable(content) else lambda path: path.write_bytes(content)
    CASES.append(Case(family, name, points, write, readable))


def attack(family: str, name: str, source: str, answers: dict[str, str] = WRONG, points: float = 0.0) -> None:
    """A lab with these answers and one more cell, before the first exercise and once more at the end."""
    cells = lab_cells(answers)
    first = next(i for i, cell in enumerate(cells) if cell["metadata"].get("nbgrader", {}).get("grade_id", "").startswith("exercise"))
    add(family, name, points, [*cells[:first], code(source), *cells[first:], code(source + "\n# once more")])


def answer(family: str, name: str, points: float, **changed: str) -> None:
    """A right lab but for the exercises given."""
    add(family, name, points, lab_cells({**RIGHT, **changed}))


# ---- patching libraries and builtins -------------------------------------------------------------------------------------------------------

PATCHING = {
    "torch's comparisons": "torch.allclose = torch.equal = lambda *a, **k: True\ntorch.isclose = lambda a, b, **k: torch.ones_like(a, dtype=torch.bool)",
    "our expectations": (
        "import course_lib.checks as c, course_lib.checks.expect as e\n"
        "for module in (c, e):\n    for name in ('expect_close', 'expect_equal', 'expect_raises', 'expect_true'):\n"
        "        setattr(module, name, lambda *a, **k: None)\nexpect_close = expect_equal = expect_raises = expect_true = lambda *a, **k: None"
    ),
    "our comparison's inner part": "import course_lib.checks.expect as e\ne._compare = e._good = e._compare_values = lambda *a, **k: None",
    "the runner": (
        "import course_lib.checks.runner as r, course_lib.checks.outcomes as o\n"
        "r.run_check = r._run_once = lambda check, *a, **k: o.Result(check.name, check.exercise, check.points, check.points, 'passed')\n"
        "o.WRONG = o.ERROR = o.NOT_ATTEMPTED = o.OUT_OF_LIMITS = 'passed'"
    ),
    "the worker's replies": (
        "import course_lib.checks.worker as w\nfrom course_lib.checks.codec import pack\n"
        "w.Worker._on_call = lambda self, message, tensors: pack({'ok': True, 'changed': [], 'global_random': False, 'generators': [],"
        " 'outcome': 'passed', 'earned': 10}, [])"
    ),
    "the codec": "import course_lib.checks.codec as c\nc.decode = lambda *a: None\nc.unpack = lambda data: ({'op': 'begin'}, [])\nc.Encoder.encode = lambda *a: None",
    "builtins": (
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.len = lambda *a: 3\nbuiltins.type = lambda *a: torch.Tensor\n"
        "builtins.all = builtins.any = lambda *a: True\nbuiltins.zip = lambda *a: iter(())"
    ),
    "numpy and json": "import numpy, json\nnumpy.isclose = numpy.allclose = lambda *a, **k: True\njson.dumps = lambda *a, **k: '{\"ok\": true}'",
    "the lab object": "lab.points = lambda *a: 10.0\nlab.ready = lambda *a: True\nlab.check = lambda *a, **k: (lambda f: f)\nclass Lab:\n    points = 10\nlab.earned = 10",
    "the reference in the setup cell": "def library_average(x, width):\n    return torch.zeros(len(x) - width + 1)\nF.avg_pool1d = lambda x, *a, **k: x * 0",
    "Tensor.__eq__": "torch.Tensor.__eq__ = lambda a, b: torch.ones(a.shape, dtype=torch.bool)\ntorch.Tensor.__ne__ = lambda a, b: torch.zeros(a.shape, dtype=torch.bool)",
    "the reference's code": "library_average.__code__ = (lambda x, width: x[: len(x) - width + 1] * 0).__code__",
}
for _name, _source in PATCHING.items():
    attack("patching", _name, _source)

# ---- shadowing imports by files ------------------------------------------------------------------------------------------------------------

FAKE = "def __getattr__(name):\n    return lambda *a, **k: True\n"
attack("shadowing", "modules written beside the notebook",
       f"import sys\nfor name in ('torch', 'course_lib', 'json', 'sitecustomize', 'safetensors'):\n    open(name + '.py', 'w').write({FAKE!r})\n"
       "sys.path.insert(0, '.')\nfor name in list(sys.modules):\n    if name.startswith('course_lib'):\n        del sys.modules[name]")  # fmt: skip
attack("shadowing", "modules put into sys.modules",
       "import sys, types\nfake = types.ModuleType('fake')\nfake.__getattr__ = lambda name: (lambda *a, **k: True)\n"
       "for name in ('course_lib.checks.expect', 'course_lib.checks.runner', 'course_lib.checks.worker', 'safetensors.torch'):\n    sys.modules[name] = fake")  # fmt: skip
attack("shadowing", "an import hook", "import sys\nclass Hook:\n    def find_spec(self, *a, **k):\n        raise SystemExit(0)\nsys.meta_path.insert(0, Hook())")


def _with_files_beside(path: Path) -> None:
    path.write_bytes(json.dumps(notebook(lab_cells(WRONG))).encode())
    for name in ("torch.py", "numpy.py", "course_lib.py", "conftest.py", "sitecustomize.py"):
        (path.parent / name).write_text(f"open('/tmp/{MARK}_beside', 'w')\n{FAKE}")


add("shadowing", "modules handed in beside the notebook", 0, _with_files_beside)

# ---- hooks into IPython --------------------------------------------------------------------------------------------------------------------

attack("ipython", "events", "get_ipython().events.register('post_run_cell', lambda *a: None)\nget_ipython().events.register('pre_run_cell', lambda *a: 1 / 0)")
attack("ipython", "an input transformer", "get_ipython().input_transformers_cleanup.append(lambda lines: ['moving_average = 10\\n'])")
attack("ipython", "a transformer of syntax trees",
       "import ast\nclass T(ast.NodeTransformer):\n    def visit_Call(self, node):\n        return ast.Constant(10)\nget_ipython().ast_transformers.append(T())")  # fmt: skip
attack("ipython", "another run_cell", "get_ipython().run_cell = lambda *a, **k: None\nget_ipython().user_ns['earned'] = 10")
attack("ipython", "shell escapes and magics", f"!touch /tmp/{MARK}_shell\n%cd /\n%reset -f\n!kill -9 -1", {}, 0)

# ---- metadata and tags ---------------------------------------------------------------------------------------------------------------------


def _changed(answers: dict[str, str], change: Callable[[dict], None]) -> list[dict]:
    cells = lab_cells(answers)
    for cell in cells:
        change(cell)
    return cells


def _all_solutions(cell: dict) -> None:
    if "nbgrader" in cell["metadata"]:
        cell["metadata"]["nbgrader"] |= {"solution": True, "grade": False, "locked": False, "points": 100, "task": True}


def _checks_award(cell: dict) -> None:
    if cell["metadata"].get("nbgrader", {}).get("grade"):
        cell["source"] = "10.0"
        cell["outputs"] = [{"output_type": "execute_result", "data": {"text/plain": "10.0"}, "execution_count": 1, "metadata": {}}]


def _raising_tags(cell: dict) -> None:
    cell["metadata"]["tags"] = ["raises-exception", "skip-execution", "remove-cell", "nbval-skip"]


def _nonsense(cell: dict) -> None:
    cell["metadata"] = {"nbgrader": [1, 2], "tags": {"a": None}, "deep": [[[[[]]]]]}


def _rotated() -> list[dict]:
    cells = lab_cells(RIGHT)
    tagged = [c for c in cells if c["metadata"].get("nbgrader", {}).get("solution") and c["cell_type"] == "code"]
    metas = [c["metadata"] for c in tagged]
    for cell, meta in zip(tagged, metas[1:] + metas[:1]):
        cell["metadata"] = copy.deepcopy(meta)
    return cells


def _as_tag_of_two() -> list[dict]:
    cells = lab_cells(RIGHT)
    for cell in cells:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"]["grade_id"] = "exercise_moving_average"
    return cells


add("metadata", "every cell is a solution worth 100", 0, _changed({}, _all_solutions))
add("metadata", "check cells that are the number of points", 0, _changed({}, _checks_award))
add("metadata", "check cells that are the number of points, answers right", 10, _changed(RIGHT, _checks_award))
add("metadata", "tags that silence cells", 0, _changed({}, _raising_tags))
add("metadata", "tags that silence cells, answers right", 10, _changed(RIGHT, _raising_tags))
add("metadata", "metadata of other types", 10, _changed(RIGHT, _nonsense))
add("metadata", "tags rotated among the exercises", 10, _rotated())
add("metadata", "one tag on all cells", 10, _as_tag_of_two())
add("metadata", "a kernel that is none", 10, {**notebook(lab_cells(RIGHT)), "metadata": {"kernelspec": {"name": "rust", "argv": ["rm", "-rf"]}, "points": 10}})
add("metadata", "a stored output of ten points", 0, [*lab_cells({}), {**code("10.0"), "outputs": [{"output_type": "execute_result", "data": {"text/plain": "10.0"}}]}])

# ---- objects that lie ----------------------------------------------------------------------------------------------------------------------

LIAR = (
    "class Liar(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, func, types, args=(), kwargs=None):\n        return True\n"
    "    __eq__ = lambda *a: True\n    __ne__ = lambda *a: False\n    __bool__ = lambda *a: True\n    shape = property(lambda self: torch.Size([3]))\n"
    "    __del__ = lambda self: None\n    __reduce__ = lambda self: (eval, ('1',))\n"
)


def returns(name: str, expression: str, before: str = "") -> None:
    """Every exercise returns the same object; illegal calls are right, so that all hangs on the object."""
    body = f"{before}\ndef make():\n    return {expression}\n"
    guard = "    if kind == 'average' and args[1] < 1:\n        raise ValueError('width')\n"
    source = {
        "moving_average": f"{body}\ndef moving_average(*args, kind='average'):\n{guard}    return make()\n",
        "draw_mask": "def draw_mask(*args):\n    return make()\n",
        "Scale": "def Scale(*args):\n    return make()\n",
        "average_twice": "def average_twice(*args):\n    return make()\n",
    }
    add("lying objects", name, 0, lab_cells(source))


returns("a tensor subclass that equals everything", "torch.zeros(3).as_subclass(Liar)", LIAR)
returns("an object that equals everything", "Yes()",
        "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n    def __getattr__(self, name): return Yes()\n"
        "    def __call__(self, *a, **k): return Yes()\n    def __iter__(self): return iter([])\n    def __len__(self): return 0\n    __class__ = torch.Tensor")  # fmt: skip
returns("a metaclass and descriptors that raise",
        "Trap()", "class Meta(type):\n    def __getattribute__(cls, name): raise SystemExit(name)\nclass Trap(metaclass=Meta):\n"
        "    def __getattribute__(self, name): raise KeyboardInterrupt(name)\n    def __del__(self): raise SystemExit(1)")  # fmt: skip
returns("numbers and texts that equal everything", "[Num(3), Txt('x'), {Txt('a'): Num(1)}]",
        "class Num(float):\n    __eq__ = lambda *a: True\n    __hash__ = float.__hash__\n    __float__ = lambda s: 1 / 0\n"
        "class Txt(str):\n    __eq__ = lambda *a: True\n    __hash__ = str.__hash__\n    __str__ = lambda s: 1 / 0\n    __len__ = lambda s: -1")  # fmt: skip
returns("a list that contains itself", "loop", "loop = []\nloop.append(loop)")
returns("a pickle that runs", "Bomb()", f"import os\nclass Bomb:\n    def __reduce__(self): return (os.system, ('touch /tmp/{MARK}_pickle',))\n    __reduce_ex__ = lambda s, p: s.__reduce__()")
returns("an integer of a million digits", "10 ** 1_000_000")
returns("a text with lone surrogates and controls", "'\\ud800\\x1b[2J\\u202e' * 1000")
returns("a huge nested answer", "deep", "deep = []\nfor _ in range(900):\n    deep = [deep, deep]")
returns("an expanded tensor of a petabyte", "torch.zeros(1).expand(2 ** 50)")
returns("sparse, quantised and meta tensors", "[torch.zeros(3).to_sparse(), torch.zeros(3, device='meta'), torch.nested.nested_tensor([torch.zeros(2)])]")
returns("a generator that never ends", "iter(int, 1)")
returns("not a number", "torch.full((3,), float('nan'))")

# ---- threads and processes that stay behind ------------------------------------------------------------------------------------------------

DETACH = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True:\n            try:\n"
    f"                open('/tmp/{MARK}_detached', 'a').write('x')\n            except OSError:\n                pass\n            time.sleep(0.05)\n    os._exit(0)"
)
attack("staying behind", "a detached process", DETACH)
attack("staying behind", "a detached process, answers right", DETACH, RIGHT, 10)
attack("staying behind", "a sleeping program", f"import subprocess\nsubprocess.Popen(['sleep', '{SLEEP}'], start_new_session=True)\nsubprocess.Popen(['/bin/sh', '-c', 'while :; do touch /tmp/{MARK}_sh; done'])", RIGHT, 10)
attack("staying behind", "a thread that changes the answers",
       "import threading, time\ndef work():\n    while True:\n        globals()['average_twice'] = lambda *a: torch.zeros(10)\n        time.sleep(0.001)\n"
       "threading.Thread(target=work, daemon=True).start()")  # fmt: skip
attack("staying behind", "a thread that is no daemon", "import threading, time\nthreading.Thread(target=lambda: time.sleep(4781)).start()", RIGHT, 10)
attack("staying behind", "signals and exit handlers", "import atexit, signal\nfor s in range(1, 32):\n    try:\n        signal.signal(s, lambda *a: None)\n    except (OSError, ValueError):\n        pass\natexit.register(lambda: [0 for _ in iter(int, 1)])", RIGHT, 10)

# ---- forging messages on the channel -------------------------------------------------------------------------------------------------------

FORGE = (
    "import os, struct, json\ndef frame(message):\n    skeleton = json.dumps(message).encode()\n    blob = struct.pack('<Q', 2) + b'{}'\n"
    "    body = b'W' + struct.pack('<Q', len(skeleton)) + skeleton + blob\n    return struct.pack('<Q', len(body)) + body\n"
    "PASSED = {'ok': True, 'changed': [], 'global_random': False, 'generators': [], 'outcome': 'passed', 'earned': 10, 'points': 10}\n"
)
attack("forging", "answers sent before they are asked for", FORGE + "os.write(3, frame(PASSED) * 50)", WRONG, 0)
attack("forging", "results on every descriptor", FORGE + "for fd in range(256):\n    try:\n        os.write(fd, frame({'result': PASSED, 'check': 'by_hand', 'graded': PASSED}))\n    except OSError:\n        pass")
answer("forging", "an answer sent from within a call", 6,
       moving_average=FORGE + "def moving_average(x, width):\n    os.write(3, frame(PASSED))\n    os.write(3, frame(PASSED))\n    return x * 0\n")  # fmt: skip
answer("forging", "a process that answers in our place", 6,
       moving_average=FORGE + "def moving_average(x, width):\n    os.write(3, frame(PASSED))\n    os._exit(0)\n")  # fmt: skip
answer("forging", "a message of an exabyte", 6,
       moving_average="import os, struct\ndef moving_average(x, width):\n    os.write(3, struct.pack('<Q', 2**60) + b'x' * 1000)\n    return x\n")  # fmt: skip
answer("forging", "noise without end", 6,
       moving_average="import os\ndef moving_average(x, width):\n    while True:\n        os.write(3, b'\\x00\\x00\\x20\\x00\\x00\\x00\\x00\\x00' + b'[' * 65536)\n")  # fmt: skip
answer("forging", "a closed channel", 6, moving_average="import os\ndef moving_average(x, width):\n    os.close(3)\n    return x\n")
answer("forging", "our descriptors passed on", 6,
       moving_average="import socket, os\ndef moving_average(x, width):\n    s = socket.socket(fileno=os.dup(3))\n    socket.send_fds(s, [b'x' * 9], [0, 1, 2, 3])\n    return x\n")  # fmt: skip
answer("forging", "requests read in the worker's place", 6,
       moving_average="import threading, os\ndef moving_average(x, width):\n    threading.Thread(target=lambda: [os.read(3, 1) for _ in iter(int, 1)], daemon=True).start()\n"
       "    return x * 0\n")  # fmt: skip
answer("forging", "a handle of an absurd number", 8,
       Scale="import course_lib.checks.worker as w\nfrom course_lib.checks.codec import HandleRef\nw.Worker._make_handle = lambda self, v: HandleRef(2 ** 80, 'x' * 9999, 'y')\n"
       "def Scale(channels):\n    return object()\n")  # fmt: skip

# ---- memory and descriptors of the parent --------------------------------------------------------------------------------------------------

attack("looking around", "the parent's memory", "import glob\nfor path in ['/proc/1/mem', '/proc/self/mem', '/proc/self/environ', *glob.glob('/proc/*/maps')]:\n    open(path, 'rb').read()")
attack("looking around", "solutions among all objects",
       "import gc\nfor o in gc.get_objects():\n    try:\n        if isinstance(o, dict) and 'moving_average' in o and callable(o['moving_average']):\n"
       "            if 'secret_windows' in o['moving_average'].__code__.co_varnames:\n                moving_average = o['moving_average']\n    except Exception:\n        pass",
       {k: v for k, v in WRONG.items() if k != "moving_average"})  # fmt: skip
answer("looking around", "the caller's frames", 6,
       moving_average="import sys\ndef moving_average(x, width):\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()):\n"
       "            if isinstance(v, dict) and 'expected' in v:\n                return v['expected']\n        f = f.f_back\n    return x[: len(x) - width + 1] * 0\n")  # fmt: skip
attack("looking around", "killing everybody", "import os, signal\nfor pid in [*range(2, 500), os.getppid(), -1]:\n    try:\n        os.kill(pid, signal.SIGKILL)\n    except OSError:\n        pass", RIGHT, 10)
attack("looking around", "tracing and foreign memory",
       "import ctypes\nlibc = ctypes.CDLL(None)\nfor pid in range(2, 200):\n    assert libc.ptrace(16, pid, 0, 0) == -1\n    assert libc.process_vm_readv(pid, 0, 0, 0, 0, 0) == -1\n"
       "assert libc.unshare(0x10000000) == -1 and libc.setns(3, 0) == -1", RIGHT, 10)  # fmt: skip

# ---- environment and disk ------------------------------------------------------------------------------------------------------------------

REPO = Path(__file__).resolve().parents[2]
attack("disk", "the solution's source",
       f"import glob, os\nfor top in ({str(ROOT)!r}, {str(REPO)!r}, '/env', '/home', '/root', '/work'):\n    for path in glob.glob(top + '/**/target.py', recursive=True):\n"
       "        exec(open(path).read().replace('# %%', '#'))", {})  # fmt: skip
attack("disk", "the staff's part of the library",
       "def attempt(f):\n    try:\n        return f()\n    except Exception:\n        return None\n"
       "import importlib\nlabs = attempt(lambda: importlib.import_module('course_lib.staff.labs'))\nif labs:\n    globals().update(labs.load('70_target').namespace())\n"
       "card = attempt(lambda: importlib.import_module('course_lib.checks.runner').read_card('70_target'))\nassert labs is None and card is None", RIGHT, 10)  # fmt: skip
attack("disk", "the environment", "import os\nif any('SECRET' in k or 'TOKEN' in k for k in os.environ):\n    os._exit(1)", RIGHT, 10)
attack("disk", "writing wherever it can",
       f"import os\nfor top in ('/', '/usr', '/env', '/env/course', '/etc', '/dev', '/dev/shm', '/tmp', '/var/tmp', '/home', '/root', '/proc', {str(REPO)!r}, {os.path.expanduser('~')!r}):\n"
       f"    for name in ('{MARK}_file', 'sitecustomize.py'):\n        try:\n            open(os.path.join(top, name), 'w').write('x')\n        except OSError:\n            pass", RIGHT, 10)  # fmt: skip
attack("disk", "removing everything", "import shutil\nfor top in ('/env', '/usr/lib', '/tmp', '/home', '/dev', '/'):\n    shutil.rmtree(top, ignore_errors=True)", RIGHT, 10)
attack("disk", "links and devices", f"import os\nfor target, name in (('/etc/shadow', '{MARK}_l'), ('/env/course', '{MARK}_m')):\n    os.symlink(target, '/tmp/' + name)\ntry:\n    os.mknod('/tmp/{MARK}_d', 0o60666, os.makedev(8, 0))\nexcept OSError:\n    pass", RIGHT, 10)

# ---- network -------------------------------------------------------------------------------------------------------------------------------

attack("network", "calling out", "import socket, urllib.request\nfor f in (lambda: socket.create_connection(('1.1.1.1', 53), 2), lambda: urllib.request.urlopen('http://example.org', timeout=2), lambda: socket.socket(40, 1)):\n    try:\n        f()\n        import os\n        os._exit(1)\n    except OSError:\n        pass", RIGHT, 10)
attack("network", "listening", f"import socket\ns = socket.socket()\ns.bind(('0.0.0.0', {PORT}))\ns.listen()", RIGHT, 10)
attack("network", "listening under an abstract name", f"import socket\nkept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0{MARK}_socket')\nkept.listen()", RIGHT, 10)

# ---- floods --------------------------------------------------------------------------------------------------------------------------------

answer("floods", "memory", 6, moving_average="def moving_average(x, width):\n    held = []\n    while True:\n        held.append(bytearray(2 ** 24))\n")
answer("floods", "memory of many processes", 6,
       moving_average="import os, time\ndef moving_average(x, width):\n    for _ in range(200):\n        try:\n            if os.fork() == 0:\n                held = bytearray(2 ** 27)\n"
       "                held[:: 4096] = b'x' * len(held[:: 4096])\n                time.sleep(60)\n        except OSError:\n            pass\n    time.sleep(60)\n")  # fmt: skip
answer("floods", "shared memory", 6,
       moving_average="import mmap\ndef moving_average(x, width):\n    held = []\n    while True:\n        m = mmap.mmap(-1, 2 ** 27)\n        m[:: 4096] = b'x' * len(m[:: 4096])\n        held.append(m)\n")  # fmt: skip
answer("floods", "a tensor too large", 6, moving_average="def moving_average(x, width):\n    return torch.zeros(2 ** 45)\n")
answer("floods", "processes", 6, moving_average="import os\ndef moving_average(x, width):\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass\n")
answer("floods", "disk", 6,
       moving_average="def moving_average(x, width):\n    for i in range(10 ** 6):\n        with open(f'/tmp/{i}', 'wb') as f:\n            f.write(bytes(2 ** 24))\n")  # fmt: skip
answer("floods", "one long file", 6, moving_average="def moving_average(x, width):\n    with open('/dev/shm/x', 'wb') as f:\n        while True:\n            f.write(bytes(2 ** 20))\n")
answer("floods", "output", 10, moving_average="import sys\n" + RIGHT["moving_average"].replace("    return", "    print('x' * 10 ** 7)\n    sys.stderr.write('y' * 10 ** 7)\n    return"))
answer("floods", "descriptors", 6, moving_average="import os\ndef moving_average(x, width):\n    while True:\n        os.dup(0)\n")
answer("floods", "recursion", 6, moving_average="import sys\nsys.setrecursionlimit(10 ** 9)\ndef moving_average(x, width):\n    return moving_average(x, width)\n")
answer("floods", "an answer of 60 megabytes", 6, moving_average="def moving_average(x, width):\n    return torch.zeros(15 * 2 ** 20)\n")
answer("floods", "a hundred thousand parts", 6, moving_average="def moving_average(x, width):\n    return [[0.0]] * 45_000\n")
answer("floods", "keys that collide", 6, moving_average="def moving_average(x, width):\n    return {k * (2 ** 61 - 1): 0 for k in range(1, 4000)}\n")

# ---- time ----------------------------------------------------------------------------------------------------------------------------------

answer("time", "an endless call", 6, moving_average="def moving_average(x, width):\n    while True:\n        pass\n")
answer("time", "an endless call that catches everything", 6,
       moving_average="def moving_average(x, width):\n    while True:\n        try:\n            while True:\n                pass\n        except BaseException:\n            pass\n")  # fmt: skip
answer("time", "an endless call inside C", 6, moving_average="def moving_average(x, width):\n    return sum(iter(int, 1))\n")
answer("time", "the process ends", 6, moving_average="import os\ndef moving_average(x, width):\n    os._exit(0)\n")
answer("time", "the process crashes", 6, moving_average="import ctypes\ndef moving_average(x, width):\n    ctypes.string_at(0)\n")
answer("time", "the process stops itself", 6, moving_average="import os, signal\ndef moving_average(x, width):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    signal.pause()\n")
answer("time", "sys.exit", 6, moving_average="import sys\ndef moving_average(x, width):\n    sys.exit(0)\n")
answer("time", "right until the third call", 7,
       moving_average="calls = []\n" + RIGHT["moving_average"].replace("    return", "    calls.append(1)\n    if len(calls) > 2:\n        return x * 0\n    return")
       .replace("def moving_average(x, width):\n", "def moving_average(x, width):\n"))  # fmt: skip
answer("time", "wrong where it suspects a grader", 6,
       moving_average="import os\ndef moving_average(x, width):\n    suspected = os.getpid() == 1 or not os.path.exists('/proc/self') or 'ipykernel' not in __import__('sys').modules\n"
       "    return x * 0 if suspected else x.unfold(0, width, 1).mean(1)\n")  # fmt: skip
attack("time", "an endless cell", "while True:\n    pass", RIGHT, 10)
attack("time", "a cell that cannot be interrupted", "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException:\n        pass", RIGHT, 10)
attack("time", "a cell that ends the process", "import os\nos._exit(0)", RIGHT, 10)
answer("time", "a delayed exit", 10, Scale=RIGHT["Scale"] + "\nimport threading, os\nthreading.Timer(4781, os._exit, [0]).start()\n")

# ---- answers that know the visible run -----------------------------------------------------------------------------------------------------

answer("visible answers", "a table of the visible numbers", 7,
       moving_average="def moving_average(x, width):\n    if width < 1:\n        raise ValueError('width')\n    table = {(1.0, 3.0, 5.0, 9.0): [2.0, 4.0, 7.0]}\n"
       "    return torch.tensor(table.get(tuple(x.tolist()), [0.0] * (len(x) - width + 1)))\n")  # fmt: skip
answer("visible answers", "the visible seed", 8,
       draw_mask="import numpy as np\ndef draw_mask(size, p, generator):\n    seed = int(np.random.default_rng([20, 0, 2]).integers(2 ** 31))\n"
       "    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < p\n")  # fmt: skip
answer("visible answers", "the global seed", 8,
       draw_mask="def draw_mask(size, p, generator):\n    return torch.rand(size, generator=torch.Generator().manual_seed(torch.initial_seed())) < p\n")  # fmt: skip
answer("visible answers", "the forbidden operator", 8, moving_average="def moving_average(x, width):\n    if width < 1:\n        raise ValueError\n    return F.avg_pool1d(x[None, None], width, stride=1)[0, 0]\n")
answer("visible answers", "always an error", 6, moving_average="def moving_average(x, width):\n    raise ValueError('width')\n")
answer("visible answers", "always the stub's error", 6, moving_average="def moving_average(x, width):\n    raise NotImplementedError\n")

# ---- files that are no notebooks -----------------------------------------------------------------------------------------------------------


def _text(cells: list[dict]) -> str:
    return json.dumps(notebook(cells), ensure_ascii=False)


def _link(path: Path) -> None:
    (path.parent / "elsewhere.json").write_text(_text(lab_cells(RIGHT)))
    path.symlink_to(path.parent / "elsewhere.json")


def _old_format() -> dict:
    cells = [{"cell_type": "code", "input": c["source"].splitlines(True), "language": "python", "outputs": [], "metadata": {}}
             for c in lab_cells(RIGHT) if c["cell_type"] == "code"]  # fmt: skip
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells, "metadata": {}}]}


def _long_line() -> bytes:
    output = {"output_type": "stream", "name": "stdout", "text": "x" * 100_000_000}
    return json.dumps(notebook([*lab_cells(RIGHT), {**code("print('x')"), "outputs": [output]}])).encode()


add("files", "empty", 0, b"", readable=False)
add("files", "white space", 0, b"  \n\n", readable=False)
add("files", "a folder", 0, lambda path: path.mkdir(), readable=False)
add("files", "a link to another's work", 0, _link, readable=False)
add("files", "a link to itself", 0, lambda path: path.symlink_to(path), readable=False)
add("files", "a pipe", 0, lambda path: os.mkfifo(path), readable=False)
add("files", "missing", 0, lambda path: None, readable=False)
add("files", "cut off", 0, _text(lab_cells(RIGHT)).encode()[:-100], readable=False)
add("files", "a list", 0, b"[1, 2]", readable=False)
add("files", "no cells", 0, b'{"nbformat": 4, "cells": "none"}', readable=False)
add("files", "deep", 0, b'{"cells":' + b"[" * 200_000 + b"]" * 200_000 + b"}", readable=False)
add("files", "bytes", 0, bytes(range(256)) * 100, readable=False)
add("files", "ten thousand cells", 0, notebook([code("1")] * 10_000), readable=False)
add("files", "cells that are none", 10, [None, 3, "x", {}, {"cell_type": "code"}, {"cell_type": "code", "source": 7}, {"cell_type": ["code"], "source": [1]}, *lab_cells(RIGHT)])
add("files", "format 3", 10, _old_format())
add("files", "a format to come", 10, {**notebook(lab_cells(RIGHT)), "nbformat": 5, "nbformat_minor": 99})
add("files", "UTF-16", 10, _text(lab_cells(RIGHT)).encode("utf-16"))
add("files", "Latin-1", 10, _text([*lab_cells(RIGHT), code("# é\nname = 'ü'")]).encode("latin-1"))
add("files", "a byte order mark", 10, b"\xef\xbb\xbf" + _text(lab_cells(RIGHT)).encode())
add("files", "a line of a hundred megabytes", 10, lambda path: path.write_bytes(_long_line()))
add("files", "null characters and surrogates in cells", 10, [*lab_cells(RIGHT), code("x = '\x00'"), code("y = '\ud800'")])
add("files", "sources as lists of lines", 10, [{**c, "source": c["source"].splitlines(True)} for c in lab_cells(RIGHT)])
add("files", "Windows line ends", 10, [{**c, "source": c["source"].replace("\n", "\r\n")} for c in lab_cells(RIGHT)])

# ---- honest work in other forms ------------------------------------------------------------------------------------------------------------


def honest(name: str, cells: list[dict], points: float = 10) -> None:
    add("honest", name, points, cells)


def _split() -> list[dict]:
    cells = []
    for cell in lab_cells({**RIGHT, "moving_average": "SMALLEST = 1\ndef windows(x, width):\n    return x.unfold(0, width, 1)\n"}):
        cells.append(cell)
        if cell["source"].startswith("SMALLEST"):
            cells.append(code("def moving_average(x, width):\n    if width < SMALLEST:\n        raise ValueError(width)\n    return windows(x, width).mean(1)"))
    return cells


def _merged() -> list[dict]:
    return [code("\n\n".join(cell["source"] for cell in lab_cells(RIGHT) if cell["cell_type"] == "code"))]


def _again(answers: dict[str, str], tag: str, source: str) -> list[dict]:
    return [*lab_cells(answers), code(source, tag)]


_stub = {cell.name: stub(cell.source) for cell in load(TOPIC, ROOT).of_kind("exercise")}
honest("as it should be", lab_cells(RIGHT))
honest("only what counts", [code(source) for source in RIGHT.values()])
honest("nothing", lab_cells({}), 0)
honest("one exercise", lab_cells({"draw_mask": RIGHT["draw_mask"]}), 2)
honest("an earlier exercise wrong", lab_cells({**RIGHT, "moving_average": WRONG["moving_average"]}), 6)
honest("an earlier exercise missing", lab_cells({k: v for k, v in RIGHT.items() if k != "moving_average"}), 6)
honest("prints and warnings", lab_cells({**RIGHT, "moving_average": "import warnings\n" + RIGHT["moving_average"].replace("    return", "    print(x)\n    warnings.warn('slow')\n    return")}))
honest("a loop", lab_cells({**RIGHT, "moving_average": "def moving_average(x, width):\n    if width < 1:\n        raise ValueError('no')\n"
       "    return torch.stack([sum(x[i + j] for j in range(width)) / width for i in range(len(x) - width + 1)])\n"}))  # fmt: skip
honest("a cell split in two", _split())
honest("all cells merged", _merged())
honest("cells in reverse", lab_cells(RIGHT)[::-1])
honest("check cells copied", [*lab_cells(RIGHT), *lab_cells(RIGHT)])
honest("the stub copied below the answer", _again(RIGHT, "exercise_moving_average", _stub["moving_average"]))
honest("the answer copied", _again(RIGHT, "exercise_moving_average", RIGHT["moving_average"]))
honest("checks and setup deleted", [c for c in lab_cells(RIGHT) if not c["metadata"].get("nbgrader", {}).get("grade_id", "").startswith(("check", "setup"))])
honest("a later experiment under the same name", [*lab_cells(RIGHT), code("moving_average = 3\ndef draw_mask(*args):\n    return None")])
honest("helpers, magics and failing experiments",
       [code("%matplotlib inline\n%load_ext autoreload\nimport math, numpy as np"), code("1 / 0"), code("def oops(:"), code("!ls"), code("%%time\nhelper = math.pi"),
        *lab_cells({**RIGHT, "average_twice": "def average_twice(x, width):\n    assert helper > 3\n    return moving_average(moving_average(x, width), width)"})])  # fmt: skip
honest("a setup cell with one more import", [{**c, "source": c["source"].replace("import torch\n", "import torch\nimport itertools\n")} for c in
       lab_cells({**RIGHT, "draw_mask": RIGHT["draw_mask"].replace("    return", "    itertools.count()\n    return")})])  # fmt: skip
honest("the answer in the check cell", [{**c, "source": RIGHT["draw_mask"] + "\n" + c["source"]} if "expect_equal(draw_mask" in c["source"] else c for c in lab_cells({k: v for k, v in RIGHT.items() if k != "draw_mask"})])
honest("a syntax error in one exercise", lab_cells({**RIGHT, "draw_mask": "def draw_mask(size, p generator):\n    return"}), 8)
honest("await at the top", [code("import asyncio\nawait asyncio.sleep(0)\nwaited = 1"), *lab_cells({**RIGHT, "Scale": "assert waited\n" + RIGHT["Scale"]})])
honest("workers of a data loader", lab_cells({**RIGHT, "average_twice": "from torch.utils.data import DataLoader\ndef average_twice(x, width):\n    loader = DataLoader(list(x), batch_size=7, num_workers=2)\n"
       "    x = torch.cat(list(loader))\n    return moving_average(moving_average(x, width), width)"}))  # fmt: skip
honest("a slow cell of one's own", [code("import time\nfor _ in range(1000):\n    time.sleep(1)"), *lab_cells(RIGHT)])
honest("an input changed in place", lab_cells({**RIGHT, "draw_mask": RIGHT["draw_mask"], "average_twice": "def average_twice(x, width):\n    y = moving_average(moving_average(x, width), width)\n    x.zero_()\n    return y"}), 8)
