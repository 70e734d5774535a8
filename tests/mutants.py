"""Automatic mutants of a lab's solutions: each small change of a solution that a check must notice.

Run it to see what survives, ready to be copied into tests/survivors/TOPIC.toml with a reason:

    python tests/mutants.py 01_convolution_arithmetic [EXERCISE …]
"""

from __future__ import annotations

import ast
import copy
import sys
import tomllib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

from course_lib.checks.outcomes import PASSED
from course_lib.checks.runner import run_collected
from course_lib.staff.labs import LabSource, load
from course_lib.staff.sources import Cell

SEED = 7  # any seed but the public one
SECONDS = 3.0  # of a mutant in one check; an endless loop is rejected by the clock
SURVIVORS = Path(__file__).parent / "survivors"

SWAPPED_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SWAPPED_NAMES = {
    "min": "max", "max": "min", "amin": "amax", "amax": "amin", "sum": "mean", "mean": "sum", "floor": "ceil", "ceil": "floor",
    "zeros": "ones", "ones": "zeros", "new_zeros": "new_ones", "new_ones": "new_zeros", "zeros_like": "ones_like", "sin": "cos",
    "cos": "sin", "exp": "log", "log": "exp", "argmax": "argmin", "argmin": "argmax", "any": "all", "all": "any", "rows": "columns",
}  # fmt: skip
DROPPED_METHODS = {"clone", "contiguous", "abs", "sqrt", "double", "float", "detach", "flip", "sort", "t", "transpose", "permute"}


@dataclass(frozen=True)
class Mutant:
    """One changed solution. `words` says what changed: the statement before and after."""

    exercise: str
    words: str
    tree: ast.Module


def mutants(cell: Cell) -> Iterator[Mutant]:
    """All mutants of an exercise cell, each different from the others; only solution regions are touched."""
    tree = ast.parse(cell.script)
    regions = _solution_lines(cell.script)
    sites = [node for node in ast.walk(tree) if getattr(node, "lineno", None) in regions]
    skipped = {inner for node in sites for inner in _not_behaviour(node)}
    seen = {ast.unparse(tree)}
    for number, node in enumerate(ast.walk(tree)):
        if node in skipped or getattr(node, "lineno", None) not in regions:
            continue
        for change in _changes(node):
            mutated = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(mutated)) if i == number)
            before = ast.unparse(_statement(mutated, target))
            new = change(target)
            if new is not target:
                mutated = _Replace(target, new).visit(mutated)
            mutated = ast.fix_missing_locations(mutated)
            text = ast.unparse(mutated)
            if text not in seen:
                seen.add(text)
                yield Mutant(cell.name, _words(before, tree, mutated), mutated)


def survivors(lab: LabSource, exercise: str) -> tuple[list[str], int]:
    """Mutants of one exercise that all its checks let pass, and how many were tried."""
    (cell,) = lab.of_kind("exercise", exercise)
    checks = [replace(c, seconds=SECONDS) for c in lab.checks if c.exercise == exercise]
    namespace = lab.namespace()
    if any(r.outcome != PASSED for r in run_collected(checks, lab.setup, namespace, SEED)):
        raise ValueError(f"exercise {exercise!r}: the solution itself fails a check, so that no mutant could survive")
    alive, tried = [], 0
    for mutant in mutants(cell):
        tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a mutant makes torch or python complain about is its own affair
            try:
                exec(compile(mutant.tree, f"<mutant of {exercise}>", "exec"), namespace)
            except Exception:  # a mutant that does not even define the function is noticed
                continue
            for check in checks:
                if run_collected([check], lab.setup, namespace, SEED)[0].outcome != PASSED:
                    break
            else:
                alive.append(mutant.words)
    return alive, tried


def listed_survivors(topic: str) -> dict[tuple[str, str], str]:
    """(exercise, mutant) -> reason, from tests/survivors/TOPIC.toml."""
    path = SURVIVORS / f"{topic}.toml"
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["survivor"] if path.exists() else []
    return {(e["exercise"], e["mutant"]): e["reason"] for e in entries}


def _solution_lines(script: str) -> set[int]:
    lines, inside = set(), False
    for number, line in enumerate(script.split("\n"), 1):
        if "### END SOLUTION" in line:
            inside = False
        if inside:
            lines.add(number)
        if "### BEGIN SOLUTION" in line:
            inside = True
    return lines


def _not_behaviour(node: ast.AST) -> Iterator[ast.AST]:
    """What a caller cannot be asked to notice: annotations, docstrings, the words of an error message."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        for argument in node.exc.args:
            yield from ast.walk(argument)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield from ast.walk(node)
    for field in ("annotation", "returns"):
        if isinstance(getattr(node, field, None), ast.AST):
            yield from ast.walk(getattr(node, field))
    if isinstance(node, ast.JoinedStr):
        yield from ast.walk(node)


def _changes(node: ast.AST) -> Iterator:
    """Functions that turn a copy of this node into a mutated one (in place, or by returning another node)."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPPED_OPERATORS:
        yield lambda n: _set(n, op=SWAPPED_OPERATORS[type(n.op)]())
    if isinstance(node, ast.BinOp):
        yield lambda n: n.left
        yield lambda n: n.right
    if isinstance(node, ast.BoolOp):
        for i in range(len(node.values)):
            yield lambda n, i=i: n.values[i]
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in SWAPPED_OPERATORS:
                yield lambda n, i=i: _set(n, ops=[*n.ops[:i], SWAPPED_OPERATORS[type(n.ops[i])](), *n.ops[i + 1 :]])
    if isinstance(node, ast.UnaryOp):
        yield lambda n: n.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: _set(n, value=n.value + 1)
        yield lambda n: _set(n, value=n.value - 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: _set(n, value=not n.value)
    if isinstance(node, (ast.Tuple, ast.List)) and isinstance(node.ctx, ast.Load):
        for i in range(len(node.elts) - 1):
            yield lambda n, i=i: _set(n, elts=[*n.elts[:i], n.elts[i + 1], n.elts[i], *n.elts[i + 2 :]])
    if isinstance(node, ast.Call):
        for i in range(len(node.keywords)):
            yield lambda n, i=i: _set(n, keywords=n.keywords[:i] + n.keywords[i + 1 :])
        if len(node.args) >= 2:
            yield lambda n: _set(n, args=[n.args[1], n.args[0], *n.args[2:]])
        if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_METHODS:
            yield lambda n: n.func.value
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SWAPPED_NAMES:
        yield lambda n: _set(n, id=SWAPPED_NAMES[n.id])
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED_NAMES:
        yield lambda n: _set(n, attr=SWAPPED_NAMES[n.attr])
    if isinstance(node, (ast.AugAssign, ast.Expr, ast.If, ast.For, ast.While)):
        yield lambda n: ast.Pass()
    if isinstance(node, ast.IfExp):
        yield lambda n: n.body
        yield lambda n: n.orelse


def _set(node: ast.AST, **fields) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


def _statement(tree: ast.AST, target: ast.AST) -> ast.stmt:
    """The innermost statement that holds a node."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and any(inner is target for inner in ast.walk(n))]
    return min(found, key=lambda n: sum(1 for _ in ast.walk(n)))


def _words(before: str, original: ast.Module, mutated: ast.Module) -> str:
    """`statement before -> statement after`, first lines where a statement has several."""
    old, new = ast.unparse(original).split("\n"), ast.unparse(mutated).split("\n")
    first = next(i for i, pair in enumerate(zip([*old, ""], [*new, ""])) if pair[0] != pair[1])
    return f"{old[first].strip()} -> {new[first].strip() if len(new) == len(old) else '(removed or shortened) ' + new[first].strip()}"


def main(arguments: list[str]) -> None:
    topic, *chosen = arguments
    lab, known = load(topic), listed_survivors(topic)
    for exercise in chosen or [c.name for c in lab.of_kind("exercise")]:
        alive, tried = survivors(lab, exercise)
        print(f"# {exercise}: {tried} mutants, {len(alive)} survive")
        for words in alive:
            reason = known.get((exercise, words), "")
            print(f'[[survivor]]\nexercise = "{exercise}"\nmutant = {_toml(words)}\nreason = {_toml(reason)}\n')


def _toml(text: str) -> str:
    return "'" + text + "'" if "'" not in text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    main(sys.argv[1:])
