"""Whatever a student's object does ends in one of five outcomes, with a message for the student and nothing of ours in it."""

import random
import signal
import threading
import time
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from checks_helpers import run, student
from course_lib.checks import expect_close, expect_equal, expect_true, gradients, normal
from course_lib.checks.outcomes import ERROR, NOT_ATTEMPTED, OUT_OF_LIMITS, OUTCOMES, PASSED, WRONG
from course_lib.checks.runner import Check, run_check, run_collected
from course_lib.checks.session import local_session
from course_lib.checks.surroundings import restore_surroundings, surroundings

# Frames, paths, and names of our own machinery.
OURS = ("course_lib", "site-packages", "Traceback", ".py", "Remote", "proxy", "HandleRef", "worker", "codec")


def words(result) -> str:
    """Everything a result says to a student."""
    facts = asdict(result)
    facts.pop("pictures"), facts.pop("transcript")
    return " ".join(str(value) for value in facts.values())


def ends(result, outcome: str, *said: str):
    """The result has this outcome, says these words, and nothing of ours."""
    assert result.outcome == outcome, words(result)
    assert result.outcome in OUTCOMES and result.earned == (result.points if outcome == PASSED else 0)
    for part in said:
        assert part in words(result)
    assert not [ours for ours in OURS if ours in words(result)], words(result)
    return result


def returns_one_two(f):
    """The doubled values."""
    expect_close(f(torch.tensor([0.5, 1.0])), torch.tensor([1.0, 2.0]), "two values")


# --- answers that are wrong in a treacherous way ------------------------------------------------------------------------------

ANSWERS = {  # body of the function: words of the message
    "return None": "a tensor of shape (2,), but is None",
    "return 2": "but is an integer",
    "return NotImplemented": "an object of type NotImplementedType",
    "return ...": "a tensor of shape (2,), but is",
    "return f": "an object of type function",
    "return lambda: x": "an object of type function",
    "return torch": "an object of type module",
    "return type(x)": "an object of type",
    "return (2 * v for v in x)": "an object of type generator",
    "return iter([1.0, 2.0])": "an object of type list_iterator",
    "return map(float, [1, 2])": "an object of type map",
    "return 2 * x.double()": "The dtype is float64, but should be float32",
    "return (2 * x).numpy()": "but is a numpy array",
    "return (2 * x).tolist()": "but is a list",
    "return 2 * x[None]": "The shape is (1, 2), but should be (2,)",
    "return x": "2 of 2 values differ",
    "return x * float('nan')": "NaN means an undefined operation",
    "return x.to('meta')": "on device meta. Create new tensors on the device of the inputs",
    "return (2 * x).to_sparse()": "a tensor with layout sparse_coo",
    "return 2 * x.to(torch.complex128)": "a tensor of type complex128",
    "return [[1.0], [1.0, 2.0]]": "but is a list",
    "return np.array([[1.0], [1.0, 2.0]], dtype=object)": "but is a numpy array of type object",
    "return torch.zeros(1).expand(10**15)": "could not be read: it holds more than 64 MB of numbers",
    "return [0] * 10**6": "could not be read: it has more than 100,000 parts",
    "return 'x' * 10**7": "could not be read: it holds more than 1,000,000 characters",
    "return 1 << 10**6": "could not be read: it is an integer of 1,000,001 bits",
    "a = []; a.append(a); return a": "could not be read: it is nested more than 32 levels deep (or contains itself)",
    "return {type('K', (list,), {'__hash__': lambda s: 1})(): 1}": "could not be read: it has a key of type K",
    "return Always()": "an object of type Always",
    "return Liar()": "an object of type Liar",
    "return Bomb()": "an object of type Bomb",
    "return type('<b>&' * 99, (), {})()": "an object of type <b>&<b>&",
    "return x.as_subclass(Nice)": "2 of 2 values differ",
    "return [1.0, 2.0].__iter__": "an object of type method-wrapper",
}
TREACHEROUS = """
import sys
import numpy as np
import torch
class Always:
    __eq__ = __le__ = __ge__ = __bool__ = lambda *a: True
    __hash__ = None
class Liar:
    __class__ = torch.Tensor
    shape = (2,); dtype = torch.float32; ndim = 1
class Bomb:
    def __getattribute__(self, name): sys.exit("boom")
    def __repr__(self): sys.exit("boom")
    def __eq__(self, other): sys.exit("boom")
    def __del__(self): raise ValueError("boom")
class Nice(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True if func in (torch.equal, torch.allclose, torch.isclose) else super().__torch_function__(func, types, args, kwargs or {})
    __eq__ = lambda self, other: torch.tensor(True)
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("body", ANSWERS)
def test_no_answer_passes_by_accident_or_ends_in_a_traceback(body):
    result = run(returns_one_two, TREACHEROUS + f"def f(x):\n    {body}\n")
    ends(result, WRONG, ANSWERS[body])
    assert result.call == "f([0.5, 1.0])"


@pytest.mark.parametrize(
    "body",
    [
        "return 2 * x",
        "return (2 * x).as_subclass(Nice)",
        "return torch.nn.Parameter(2 * x)",
        "return (2 * x).requires_grad_()",
        "return torch.stack([2 * x, x], 1)[:, 0]",
        "return (2 * x).expand(1, 2)[0]",
        "y = x.clone(); y += x; return y",
        "print('a line'); return 2 * x",
        "import warnings; warnings.warn('careful'); return 2 * x",
        "with torch.inference_mode(): return 2 * x",
        "return torch.tensor((2 * x).tolist())",
    ],
)
def test_right_answers_in_unusual_dress_pass(body, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends(run(returns_one_two, TREACHEROUS + f"def f(x):\n    {body}\n"), PASSED)


def test_looking_at_an_answer_may_raise_anything():
    def check(f):
        f().size

    for error in ("SystemExit('boom')", "GeneratorExit()", "RecursionError()", "Exception()", "BaseException('boom')", "type('E', (Exception,), {})()"):
        source = f"class P:\n    @property\n    def size(self): raise {error}\ndef f(): return P()"
        result = ends(run(check, source), ERROR, error.split("(")[0] if "type" not in error else "E")
        assert result.line["function"] == "size"


# --- errors -----------------------------------------------------------------------------------------------------------------------

ERRORS = {
    "return x + torch.zeros(3)": ("RuntimeError: The size of tensor a (2)", "return x + torch.zeros(3)"),
    "return undefined_name": ("NameError: name 'undefined_name' is not defined", "return undefined_name"),
    "return f(x)": ("RecursionError: maximum recursion depth exceeded", "return f(x)"),
    "exit_(3)": ("SystemExit: 3", "exit_(3)"),
    "raise BaseException('odd')": ("BaseException: odd", "raise BaseException('odd')"),
    "raise KeyboardInterrupt('mine')": ("KeyboardInterrupt: mine", None),
    "raise GeneratorExit": ("GeneratorExit", "raise GeneratorExit"),
    "raise Mute()": ("Mute: (its message could not be read)", "raise Mute()"),
    "raise MuteExit()": ("MuteExit: (its message could not be read)", "raise MuteExit()"),
    "raise Sub()": ("Sub: (its message could not be read)", "raise Sub()"),
    "raise ValueError('x' * 10**6)": ("ValueError: xxx", "raise ValueError('x' * 10**6)"),
    "raise Unwritten('later')": ("Unwritten: later", "raise Unwritten('later')"),
    "return torch.nn.Module()(x)": ('NotImplementedError: Module [Module] is missing the required "forward" function', "return torch.nn.Module()(x)"),
    "raise ExceptionGroup('several', [ValueError(1)])": ("ExceptionGroup: several", "raise ExceptionGroup('several', [ValueError(1)])"),
    "raise ValueError from SystemExit()": ("ValueError", "raise ValueError from SystemExit()"),
    "return sorted([1, 2], key=lambda v: 1 / (v - 1))": ("ZeroDivisionError", "return sorted([1, 2], key=lambda v: 1 / (v - 1))"),
    "return next(iter([]))": ("StopIteration", "return next(iter([]))"),
}
RAISING = """
import torch
exit_ = lambda code: (_ for _ in ()).throw(SystemExit(code))
class Mute(Exception):
    def __str__(self): raise ValueError("no")
class MuteExit(Exception):
    def __str__(self): raise SystemExit("no")
class Sub(Exception):
    def __str__(self): return 3
class Unwritten(NotImplementedError): pass
"""


@pytest.mark.parametrize("body", ERRORS)
def test_errors_are_told_with_the_students_own_line(body):
    message, line = ERRORS[body]
    result = ends(run(returns_one_two, RAISING + f"def f(x):\n    {body}\n"), ERROR)
    assert result.message.startswith(message) and len(result.message) < 3000
    if line is not None and "exit_" not in line:
        assert result.line["text"] == line and result.line["function"] in ("f", "<lambda>")


def test_an_error_inside_our_setup_function_points_at_the_line_that_called_it():
    namespace = student("def ours(n):\n    raise ValueError('n must be positive')\n")
    setup = {"ours": namespace["ours"]}
    exec(compile("def f(x):\n    return ours(0)\n", "<cell theirs>", "exec"), namespace)
    result = ends(run(returns_one_two, namespace, setup), ERROR, "ValueError: n must be positive")
    assert result.line["function"] == "f"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(x):\n    raise NotImplementedError()", "`f` is still the empty stub."),
        ("def f(x):\n    raise NotImplementedError", "`f` is still the empty stub."),
        ("def f(x):\n    raise NotImplementedError('todo')", "`f` is still the empty stub."),
        ("def g(x):\n    raise NotImplementedError()\ndef f(x):\n    return g(x)", "`g` is still the empty stub."),
        ("class f:\n    def __init__(self, x):\n        raise NotImplementedError()", "`__init__` is still the empty stub."),
        ("", "`f` is not defined: run the cell that defines it"),
    ],
)
def test_a_stub_is_not_attempted(source, said):
    ends(run(returns_one_two, source), NOT_ATTEMPTED, said)


def test_an_object_that_is_no_function_says_so():
    ends(run(returns_one_two, "f = 3"), ERROR, "TypeError: 'int' object is not callable")


@pytest.mark.parametrize("body", ["raise MemoryError", "return [0] * 10**13", "return np.zeros(10**14)", "return torch.zeros(10**14)"])
def test_out_of_memory(body):
    ends(run(returns_one_two, f"import torch, numpy as np\ndef f(x):\n    {body}"), OUT_OF_LIMITS, "f asked for more memory than there is.")


def test_a_fault_of_a_check_is_not_the_students():
    def before(f):
        1 / 0

    def with_the_answer(f):
        f(torch.ones(1)).append(3)

    def unsendable(f):
        f(nn.Linear(1, 1))

    def missing_argument(f):
        f(torch.ones(1))
        f.attribute

    source = "def f(x): return x"
    assert "The check itself failed (ZeroDivisionError" in run(before, source).message
    assert "The check itself failed (TypeError: a check calls f with an argument that cannot cross: Linear" in run(unsendable, source).message
    assert "could not use what your code returned, tensor (1,)" in run(with_the_answer, source).message
    assert run(missing_argument, source).outcome == WRONG


# --- arguments ------------------------------------------------------------------------------------------------------------------

CHANGES = {
    "x += 1": "`x`",
    "x.data.mul_(2)": "`x`",
    "x.numpy()[0] = 9": "`x`",
    "x.t_()": "`x`",
    "x.resize_(1)": "`x`",
    "x.data = torch.zeros(2, 2)": "`x`",
    "x[0, 0] = float('nan')": "`x`",
    "values.append(1)": "`values`",
    "values[0] = values": "`values`",
    "values.clear()": "`values`",
    "values[0] = torch": "`values`",
    "values.sort()": "`values`",
    "table['b'] = 2": "`table`",
    "table['a'].zero_()": "`table`",
    "del table['a']": "`table`",
    "array *= 2": "`array`",
    "array.sort()": "`array`",
    "x.zero_(); array.fill(0)": "`x` and `array`",
}


@pytest.mark.parametrize("body", CHANGES)
def test_an_argument_changed_in_place_is_named(body):
    def check(f):
        f(torch.ones(2, 2), [3, 2], {"a": torch.ones(1)}, array=np.array([2.0, 1.0]))

    result = run(check, f"import torch\ndef f(x, values, table, array):\n    {body}\n    return x")
    ends(result, WRONG, f"Your code changed its argument {CHANGES[body]} in place. Work on a copy")


@pytest.mark.parametrize(
    ("signature", "name"), [("*xs", "`xs`"), ("x, *rest", "`x`"), ("x, /", "`x`"), ("**options", "`x`"), ("*, x", "`x`")]
)
def test_a_changed_argument_has_a_name_whatever_the_signature(signature, name):
    by_keyword = signature in ("**options", "*, x")

    def check(f):
        f(x=torch.ones(2)) if by_keyword else f(torch.ones(2))

    body = {"*xs": "xs[0].zero_()", "**options": "options['x'].zero_()"}.get(signature, "x.zero_()")
    ends(run(check, f"def f({signature}):\n    {body}"), WRONG, f"changed its argument {name} in place")


def test_a_hostile_signature_has_no_names():
    def check(f):
        f(torch.ones(2))

    source = "class C:\n    __signature__ = property(lambda s: 1 / 0)\n    def __call__(self, x): x.zero_()\nf = C()"
    ends(run(check, source), WRONG, "changed its argument `argument 1` in place")


def test_arguments_that_are_kept_and_answers_that_are_changed_later_reach_no_check():
    source = """
    import torch
    kept, given = [], []
    def f(x):
        for old in kept + given:
            old.zero_()
        kept.append(x)
        given.append(x.clone())
        return given[-1]
    def same(x): return x
    def view(x): return x[:1]
    """

    def check(f, same, view):
        x = torch.ones(2)
        first = f(x)
        second = f(x)
        expect_close([first, second, x], [torch.ones(2)] * 3, "nothing is zero")
        expect_close(same(x).zero_(), torch.zeros(2), "an answer that aliases its input")
        view(x)[0] = 5
        expect_close(x, torch.ones(2), "our input stays as it was")

    ends(run(check, source), PASSED)


def test_answers_of_one_check_are_not_changed_by_the_next_call_in_the_backward_pass():
    source = "import torch\nbuffer = torch.zeros(2)\ndef f(x):\n    return x * 3\ndef g(x):\n    return x.data.zero_().sum()"

    def check(f, g):
        x = torch.ones(2, requires_grad=True)
        y = f(x)
        try:
            g(x)
        except Exception:
            pass
        expect_close(torch.autograd.grad(y.sum(), x)[0], torch.full((2,), 3.0), "gradient")

    ends(run(check, source), PASSED)


# --- generators -------------------------------------------------------------------------------------------------------------------


def test_the_state_of_a_generator_comes_back():
    def check(f):
        ours, theirs = (torch.Generator().manual_seed(5) for _ in range(2))
        expect_equal(f(3, generator=theirs), torch.rand(3, generator=ours), "first")
        expect_equal(f(2, generator=theirs), torch.rand(2, generator=ours), "second goes on")

    ends(run(check, "import torch\ndef f(n, generator): return torch.rand(n, generator=generator)"), PASSED)


@pytest.mark.parametrize("draw", ["torch.rand(n)", "torch.from_numpy(np.random.rand(n))", "torch.tensor([random.random()] * n)", "torch.manual_seed(1)"])
def test_global_random_numbers_are_reported_where_a_generator_was_given(draw):
    def check(f):
        f(3, torch.Generator())

    result = run(check, f"import torch, random\nimport numpy as np\ndef f(n, generator):\n    {draw}\n    return torch.rand(n, generator=generator)")
    ends(result, WRONG, "Your code drew from the global random generator. Pass `generator=generator`")


# --- what student code leaves behind ------------------------------------------------------------------------------------------

LEFT = {  # statement: whether our own side is as it should be
    "torch.set_default_dtype(torch.float64)": lambda: torch.get_default_dtype() == torch.float32,
    "torch.set_grad_enabled(False)": torch.is_grad_enabled,
    "torch.set_num_threads(7)": lambda: True,
    "torch.set_default_device('meta')": lambda: torch.get_default_device().type == "cpu",
    "np.seterr(all='raise')": lambda: np.geterr()["divide"] == "warn",
    "sys.setrecursionlimit(700)": lambda: True,
    "torch.manual_seed(1)": lambda: True,
    "np.random.seed(1)": lambda: True,
    "random.seed(1)": lambda: True,
}


@pytest.mark.parametrize("statement", LEFT)
@pytest.mark.parametrize("where", ["in the function", "in a cell"])
def test_nothing_that_is_left_behind_reaches_an_oracle_a_later_check_or_the_notebook(statement, where):
    imports = "import torch, random, sys\nimport numpy as np\n"
    source = imports + (f"{statement}\ndef f(): pass" if where == "in a cell" else f"def f(): {statement}")
    drawn = []

    def check(f):
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        f()
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        assert LEFT[statement](), "our own surroundings"
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad and torch.ones(1).dtype == torch.float32

    def quiet(f):
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))

    quiet.__name__ = "check"
    before = surroundings()
    try:
        namespace = student(source)
        notebook = surroundings()
        results = [run(check, namespace), run(check, namespace), run(quiet, "f = 1")]
        assert [r.message for r in results] == ["", "", ""]
        assert len(set(drawn)) == 2, "our random numbers repeat, whatever was called between"
        after = surroundings()
        assert after[1:] == notebook[1:] and torch.equal(after.random[0], notebook.random[0])
        assert after.random[2] == notebook.random[2] and np.array_equal(after.random[1][1], notebook.random[1][1])
    finally:
        restore_surroundings(before)


def test_student_code_keeps_its_own_surroundings_between_calls_as_in_a_process_of_its_own():
    def check(change, read):
        expect_equal(read(), torch.float32, "at first")
        change()
        expect_equal(read(), torch.float64, "after the change")

    source = "import torch\ndef change(): torch.set_default_dtype(torch.float64)\ndef read(): return torch.get_default_dtype()"
    namespace = student(source)
    checks = [Check("f", check, 1.0), Check("f", check, 1.0)]
    assert [r.message for r in run_collected(checks, {}, namespace, 20)] == ["", ""]


def test_random_numbers_of_a_check_do_not_depend_on_other_checks():
    drawn = {}

    def first(f, rng):
        drawn.setdefault("first", []).append((normal(rng, 3).tolist(), f(), torch.rand(1).item()))

    def second(rng, f):
        drawn.setdefault("second", []).append((normal(rng, 3).tolist(), f(), torch.rand(1).item()))

    namespace = student("import torch, random\nimport numpy as np\ndef f(): return torch.rand(1).item(), np.random.rand(), random.random()")
    a, b = Check("f", first, 1.0), Check("f", second, 1.0)
    for checks in ([a, b], [b, a], [b], [a]):
        run_collected(checks, {}, namespace, 20)
    assert len(drawn["first"]) == 3 and all(d == drawn["first"][0] for d in drawn["first"])
    assert len(drawn["second"]) == 3 and all(d == drawn["second"][0] for d in drawn["second"])
    assert drawn["first"][0] != drawn["second"][0]
    run_collected([a], {}, namespace, 21)
    assert drawn["first"][-1] != drawn["first"][0]


# --- names ------------------------------------------------------------------------------------------------------------------------


def test_names_of_setup_cells_win_over_the_students():
    def check(make, f):
        expect_equal(f(make()), 3, "a network from our factory")

    source = "def make(): return 0\ndef f(value): return value + 1"
    assert run(check, source, {"make": lambda: 2}).outcome == PASSED
    assert run(check, source).outcome == WRONG


def test_redefined_names_change_nothing():
    source = """
    import torch
    F = helper = expect_close = sum = len = range = print = None
    def f(x): return 2 * x
    """
    ends(run(returns_one_two, source), PASSED)


# --- substitutes ------------------------------------------------------------------------------------------------------------------

HELPER = "def helper(x): {body}\ndef f(x): return helper(x) + helper(x)"
RIGHT = {"right_helper": lambda x: x}


@pytest.mark.parametrize(
    ("body", "outcome", "helped"),
    [
        ("return x", PASSED, False),
        ("return x * 7", PASSED, True),
        ("raise NotImplementedError()", PASSED, True),
        ("raise ValueError", PASSED, True),
        ("raise SystemExit", PASSED, True),
    ],
)
def test_a_wrong_helper_costs_only_its_own_points(body, outcome, helped):
    namespace = student(HELPER.format(body=body))
    theirs = namespace["helper"]
    result = ends(run(returns_one_two, namespace, RIGHT, substitute={"helper": "right_helper"}), outcome)
    assert result.with_substitute is helped and namespace["helper"] is theirs


@pytest.mark.parametrize("f", ["return helper(x)", "raise ValueError", "while True: pass", "raise KeyboardInterrupt"])
def test_a_substitute_is_taken_back_however_the_check_ends(f):
    namespace = student(f"def helper(x): return x\ndef f(x):\n    {f}")
    theirs = namespace["helper"]
    run(returns_one_two, namespace, RIGHT, substitute={"helper": "right_helper"}, seconds=0.05)
    assert namespace["helper"] is theirs


def test_a_missing_helper_is_lent_and_taken_back():
    namespace = student("def f(x): return 2 * helper(x)")
    assert run(returns_one_two, namespace, RIGHT, substitute={"helper": "right_helper"}).with_substitute
    assert "helper" not in namespace


def test_with_a_right_helper_a_wrong_function_stays_wrong_and_its_own_run_is_shown():
    result = run(returns_one_two, "def helper(x): return x\ndef f(x): return helper(x) + 5", RIGHT, substitute={"helper": "right_helper"})
    assert result.outcome == WRONG and not result.with_substitute


# --- forbidden operators --------------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    "return F.conv2d(x, w)",
    "return torch.conv2d(x, w)",
    "c = nn.Conv2d(1, 1, 2, bias=False); c.weight.data = w; return c(x).detach()",
    "return torch.ops.aten.convolution(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)",
    "return torch.ops.aten.conv2d.default(x, w)",
    "return F.conv3d(x[:, :, None], w[:, :, None])[:, :, 0]",
    "try: return F.conv2d(x, w)\n    except Exception: return by_hand(x, w)",
    "try: return F.conv2d(x, w)\n    except: raise ValueError('hidden') from None",
    "try: F.conv2d(x, w)\n    finally: return by_hand(x, w)",
]
BY_HAND = """
import torch
import torch.nn.functional as F
from torch import nn
def by_hand(x, w):
    rows = [[(x[0, 0, i:i + 2, j:j + 2] * w[0, 0]).sum() for j in range(x.shape[3] - 1)] for i in range(x.shape[2] - 1)]
    return torch.stack([torch.stack(row) for row in rows])[None, None]
def f(x, w):
    BODY
"""


def convolves(f, rng):
    x, w = normal(rng, 1, 1, 4, 3), normal(rng, 1, 1, 2, 2)
    expect_close(f(x, w), F.conv2d(x, w), "2 x 2 kernel")


@pytest.mark.parametrize("body", CONVOLUTIONS)
def test_the_operator_that_is_to_be_written_is_forbidden(body):
    source = BY_HAND.replace("BODY", body)
    assert run(convolves, source).outcome in (PASSED, ERROR)  # the third hides its own error
    result = run(convolves, source, forbid=("convolution",))
    ends(result, WRONG, "`convolution`", "the operator this exercise asks you to write yourself")


@pytest.mark.parametrize("with_gradient", [False, True])
def test_code_of_ones_own_is_not_forbidden(with_gradient):
    def check(f, rng):
        convolves(f, rng)
        if with_gradient:
            x, w = normal(rng, 1, 1, 4, 3), normal(rng, 1, 1, 2, 2)
            expect_close(gradients(f, x, w), gradients(F.conv2d, x, w), "gradients")

    ends(run(check, BY_HAND.replace("BODY", "return by_hand(x, w)"), forbid=("convolution", "im2col")), PASSED)


def test_what_is_forbidden_in_one_check_is_not_in_the_next():
    namespace = student(BY_HAND.replace("BODY", "return F.conv2d(x, w)"))
    checks = [Check("f", convolves, 1.0, forbid=("convolution",)), Check("f", convolves, 1.0)]
    assert [r.outcome for r in run_collected(checks, {}, namespace, 20)] == [WRONG, PASSED]
    F.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))


# --- time -------------------------------------------------------------------------------------------------------------------------

ENDLESS = {
    "a loop": "while True: pass",
    "a deaf loop": "while True:\n        try: x = x + 1\n        except: pass",
    "a deaf sleep": "import time\n    while True:\n        try: time.sleep(1000)\n        except BaseException: pass",
    "a sleep": "import time; time.sleep(1000)",
    "a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a deaf call": "import time\n    def inner(): time.sleep(1000)\n    while True:\n        try:\n            inner()\n        except:\n            x = x + 1",
    "a stubborn end": "try:\n        while True: pass\n    finally:\n        n = 1\n        return x * 2",
    "another error": "try:\n        while True: pass\n    except BaseException: raise ValueError('hidden')",
    "a swallowed interrupt": "try:\n        while True: pass\n    except BaseException: return 2 * x",
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_interrupted_and_the_next_check_runs(body):
    namespace = student(f"def f(x):\n    {body}\ndef g(x): return 2 * x")
    handler = signal.getsignal(signal.SIGINT)

    def right(g):
        returns_one_two(g)

    results = run_collected([Check("f", returns_one_two, 1.0, seconds=0.1), Check("g", right, 1.0)], {}, namespace, 20)
    ends(results[0], OUT_OF_LIMITS, "Your code did not finish in time.")
    ends(results[1], PASSED)
    assert signal.getsignal(signal.SIGINT) is handler and threading.active_count() < 8


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *a: None], ids=["ignored", "default", "own"])
def test_the_limit_holds_whatever_the_notebook_does_with_interrupts(handler):
    previous = signal.signal(signal.SIGINT, handler)
    try:
        ends(run(returns_one_two, "def f(x):\n    while True: pass", seconds=0.05), OUT_OF_LIMITS)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, previous)


def test_an_endless_attribute_iterator_length_and_backward_pass_are_interrupted():
    source = """
    import itertools, torch
    def endless():
        while True: pass
    class Slow:
        size = property(lambda self: endless())
        def __len__(self): endless()
        def __iter__(self):
            while True: pass
            yield 1
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return 2 * x
        @staticmethod
        def backward(ctx, g): endless()
    def f(): return Slow()
    def g(x): return Twice.apply(x)
    """

    def attribute(f):
        f().size

    def length(f):
        len(f())

    def items(f):
        list(f())

    def backward(g):
        gradients(g, torch.ones(2))

    namespace = student(source)
    for check in (attribute, length, items, backward):
        ends(run(check, namespace, seconds=0.05), OUT_OF_LIMITS, "did not finish in time")


def test_no_interrupt_is_left_over_where_limit_and_work_take_equally_long():
    """Limits from well below to well above what the work takes: always one of two outcomes, and silence afterwards."""
    namespace = student("def f(n):\n    total = 0\n    for i in range(n): total += i\n    return total")
    started = time.perf_counter()
    namespace["f"](200_000)
    unit = time.perf_counter() - started
    seen = set()

    def check(f):
        expect_equal(f(600_000), sum(range(600_000)), "a sum")

    with local_session(namespace, {}) as (session, channel):
        for i in range(40):
            result = run_check(Check("f", check, 1.0, seconds=unit * (0.5 + 4 * i / 40)), session, i, channel)
            assert result.outcome in (PASSED, OUT_OF_LIMITS)
            seen.add(result.outcome)
            for _ in range(200):  # where an interrupt that came too late would strike
                pass
    assert OUT_OF_LIMITS in seen


def test_the_person_at_the_keyboard_still_interrupts():
    def check(f):
        f()

    source = "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGINT)\n    while True: pass"
    with pytest.raises(KeyboardInterrupt):
        run(check, source, seconds=60)
    assert run(returns_one_two, "def f(x): return 2 * x").outcome == PASSED


def test_only_the_students_time_counts():
    def check(f):
        for _ in range(3):
            time.sleep(0.2)
            f()

    assert run(check, "def f(): pass", seconds=0.5).outcome == PASSED


def test_outside_the_main_thread_checks_run_without_a_limit():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(returns_one_two, "def f(x): return 2 * x")))
    thread.start()
    thread.join()
    assert results[0].outcome == PASSED


# --- handles ----------------------------------------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.drop = nn.Dropout(0.5)
        self.width, self.name = width, "net"
    def forward(self, x): return self.drop(self.layer(x))
    def __len__(self): return 7
    def __iter__(self): return iter([self.width, self.layer, "text"])
def count(net): return sum(p.numel() for p in net.parameters())
def lengthy(): return type("L", (), {"__len__": lambda s: -1})()
def bad_length(): return type("L", (), {"__len__": lambda s: "three"})()
"""


def test_a_module_is_called_asked_and_walked_through_from_afar():
    def check(Net, count, rng):
        net = Net(4)
        x = normal(rng, 5, 3)
        expect_equal((net.width, net.name, len(net), net.training), (4, "net", 7, True), "attributes")
        expect_true(not torch.equal(net(x), net(x)), "training", "dropout draws")
        net.eval()
        expect_equal(net.training, False, "eval")
        state = net.state_dict()
        expect_equal(sorted(state), ["layer.bias", "layer.weight"], "state")
        oracle = nn.Linear(3, 4)
        oracle.load_state_dict({key.removeprefix("layer."): value for key, value in state.items()})
        expect_close(net(x), oracle(x), "our copy")
        expect_close(gradients(net, x), gradients(oracle, x), "gradients of a module")
        net.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
        expect_close(net(x), torch.zeros(5, 4), "loaded")
        width, layer, text = net
        expect_equal((width, text), (4, "text"), "items")
        expect_close(layer(x), torch.zeros(5, 4), "a handle among the items")
        expect_equal(count(net), 16, "passed back")
        expect_equal(count([net][0].layer), 16, "a part passed back")
        expect_equal(layer.weight.shape, (4, 3), "a parameter is a tensor")
        expect_equal(net.forward(x).shape, (5, 4), "a method")

    ends(run(check, NET), PASSED)


@pytest.mark.parametrize("name", ["lengthy", "bad_length"])
def test_a_length_that_lies_is_an_error_of_the_student(name):
    def check(f):
        len(f())

    assert run(check, NET.replace(f"def {name}(", "def f(")).outcome in (ERROR, WRONG)


def test_a_missing_attribute_of_a_handle_is_told():
    def check(Net):
        Net(2).height

    ends(run(check, NET), ERROR, "AttributeError: 'Net' object has no attribute 'height'")


def test_an_endless_generator_can_be_walked_through_in_part():
    def check(f):
        expect_equal(list(f())[:3], [0, 1, 2], "counting")

    ends(run(check, "import itertools\ndef f(): return itertools.count()"), PASSED)


# --- results ----------------------------------------------------------------------------------------------------------------------


def test_partial_credit_is_by_check_function():
    def small(f):
        expect_equal(f(1), 2, "1")

    def large(f):
        expect_equal(f(100), 200, "100")

    checks = [Check("f", small, 1.0), Check("f", large, 2.0)]
    results = run_collected(checks, {}, student("def f(n): return 2"), 20)
    assert [(r.name, r.points, r.earned, r.outcome) for r in results] == [("small", 1.0, 1.0, PASSED), ("large", 2.0, 0.0, WRONG)]
    assert results[1].call == "f(100)" and (results[1].expected, results[1].got, results[1].case) == ("200", "2", "100")


def test_a_wrong_outcome_says_case_shapes_values_first_difference_and_call():
    def check(f):
        """Twice as large."""
        expect_close(f(torch.tensor([1.0, 2.0]), scale=0.5), torch.tensor([1.0, 4.0]), "two numbers, scale 0.5")

    result = ends(run(check, "def f(x, scale): return x"), WRONG)
    assert result.case == "two numbers, scale 0.5" and result.doc == "Twice as large."
    assert result.message == "1 of 2 values differ, the first at index [1]: 2.0 should be 4.0."
    assert result.expected == "tensor (2,) float32 [1.0, 4.0]" and result.got == "tensor (2,) float32 [1.0, 2.0]"
    assert result.call == "f([1.0, 2.0], scale=0.5)"
