"""The student's side of a check: runs their objects on values that arrive as messages and answers with messages.

In a notebook a `Worker` lives in the student's own kernel; a grader puts the same `Worker` behind a process boundary.
It judges nothing. It reports what was returned or raised, and what a caller cannot see from outside: whether an
argument was changed in place, whether a forbidden operator ran or a tensor grew too large, whether global random numbers were drawn.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
import linecache
from typing import Any, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from course_lib.checks.codec import CodecError, Encoder, HandleRef, Named, decode, pack, type_name, unpack
from course_lib.checks.surroundings import random_states, restore_surroundings, same_random_states, seed_random, surroundings

MAX_ITERATION = 10_000  # items fetched from an iterator that a check walks through
MAX_MESSAGE = 2_000  # characters kept of an exception's message


class ForbiddenOperator(Exception):
    """Raised inside the student's call when it reaches an operator that the exercise asks them to write."""


class TooLarge(Exception):
    """Raised inside the student's call when an operator returns a tensor of more numbers than the check allows."""


class _WatchMode(TorchDispatchMode):
    """Looks at every operator: ends the call at a forbidden one, and at one that returns too large a tensor.

    Args:
        words: an operator with one of them in its name is forbidden.
        largest: numbers that the memory behind a tensor may hold (a view that repeats rows holds them once), or None.
    """

    def __init__(self, words: tuple[str, ...], largest: int | None) -> None:
        super().__init__()
        self.words = words
        self.largest = largest
        self.seen: dict[str, str] = {}  # what the reply says, should the student's code go on

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it would import torch._dynamo: 4 seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = operator_name(func, args)
        if any(word in name for word in self.words):
            self.seen = {"forbidden": name}
            raise ForbiddenOperator(name)
        result = func(*args, **(kwargs or {}))
        if self.largest is not None:
            numbers = max(map(_numbers_held, result if isinstance(result, (list, tuple)) else [result]), default=0)
            if numbers > self.largest:
                self.seen = {"too_large": f"Your code made a tensor of {numbers:,} numbers (by `{name}`); here {self.largest:,} are allowed."}
                raise TooLarge(name)
        return result


def _numbers_held(value: Any) -> int:
    """How many numbers fit in the memory that a tensor refers to; 0 for anything else."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return 0
    return value.untyped_storage().nbytes() // value.element_size()


def operator_name(func: Any, args: tuple) -> str:
    """Such as "im2col". What PyTorch runs as `convolution` with `transposed` set is "convolution_transposed", so that a check can forbid
    that one alone, or both by "convolution"."""
    name = func._schema.name.split("::")[-1]
    transposed = any(a.name == "transposed" and value for a, value in zip(func._schema.arguments, args))
    return name + "_transposed" if transposed else name


def _exempt(function: Any) -> Any:
    """A substitute made of library calls: what is forbidden to the student, or too large for them, is not so to it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


def vector_jacobian(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor]) -> tuple[Tensor | None, ...]:
    """One gradient an input, None where no output depends on it. The graph is kept.

    By way of the scalar product, since `torch.autograd.grad` imports sympy (2 s) when it is given cotangents.
    """
    with torch.enable_grad():  # a backward pass calls this with gradients switched off
        scalar = sum((o * c.conj()).real.sum() for o, c in zip(outputs, cotangents))
    return torch.autograd.grad(scalar, inputs, retain_graph=True, allow_unused=True)


def _stored(output: Tensor, order: list[int] | None) -> Tensor:
    """An output with its axes in the order in which it is sent: what a cotangent then comes back for."""
    return output if order is None else output.permute(order)


class Worker:
    """Answers requests about the objects of one namespace.

    Args:
        student: the student's namespace; exercises are looked up here each time they are named.
        setup: names of the setup cells as they were before any student code ran; they win over the student's.
    """

    def __init__(self, student: dict[str, Any], setup: dict[str, Any]) -> None:
        self.student = student
        self.setup = setup
        self._replaced: dict[str, Any] = {}
        self._surroundings = surroundings()
        self._reset()

    def _reset(self) -> None:
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # id of an object -> its handle's number
        self._tapes: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._count = itertools.count(1)

    # --- requests ---------------------------------------------------------------------------------------------------

    def handle(self, request: bytes) -> bytes:
        """One request in, one reply out; never raises for what student code does."""
        message, tensors = unpack(request)
        return getattr(self, f"_on_{message['op']}")(message, tensors)

    def _on_begin(self, message: dict, tensors: list[Tensor]) -> bytes:
        """A new check: forget handles and what the last one left changed, seed the global generators, put substitutes in place."""
        self._reset()
        restore_surroundings(self._surroundings)
        seed_random(message["seed"])
        self.end_substitution()
        for name, substitute in message["substitute"].items():
            self._replaced[name] = self.student.get(name, self._replaced)  # itself marks "was not there"
            self.student[name] = _exempt(self.setup[substitute])
        return pack({"ok": None}, [])

    def end_substitution(self) -> None:
        for name, original in self._replaced.items():
            if original is self._replaced:
                self.student.pop(name, None)
            else:
                self.student[name] = original
        self._replaced = {}

    def _on_call(self, message: dict, tensors: list[Tensor]) -> bytes:
        target = message["target"]
        if "named" in target and target["named"] not in self.setup and target["named"] not in self.student:
            return pack({"missing": target["named"]}, [])
        function = self._resolve(HandleRef(*target["handle"]) if "handle" in target else Named(target["named"]))
        leaves = []
        for index in message["grad"]:
            tensors[index] = tensors[index].requires_grad_()
            leaves.append(tensors[index])
        args = [decode(node, tensors, self._resolve) for node in message["args"]]
        kwargs = {key: decode(node, tensors, self._resolve) for key, node in message["kwargs"].items()}
        generators = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]
        before = self._values([*args, *kwargs.values()])
        states = random_states() if generators else None
        watched = message["forbid"] or message["largest"] is not None
        mode = _WatchMode(tuple(message["forbid"]), message["largest"]) if watched else contextlib.nullcontext()
        with torch.enable_grad() if leaves else contextlib.nullcontext():
            try:
                with mode:
                    result = function(*args, **kwargs)
            except KeyboardInterrupt:  # a time limit, or the person at the keyboard
                raise
            except BaseException as error:  # SystemExit too: a submission must not end the notebook
                if seen := getattr(mode, "seen", None):
                    return pack(seen, [])
                return pack({"error": self._describe_error(error)}, [])
        if seen := getattr(mode, "seen", None):  # the student's code caught the refusal and went on
            return pack(seen, [])
        try:
            return self._answer(result, args, kwargs, function, before, states, generators, leaves)
        except KeyboardInterrupt:
            raise
        except CodecError as error:
            return pack({"unsendable": str(error)}, [])
        except BaseException as error:  # a hostile object: its own methods ran while we looked at it
            return pack({"unsendable": f"looking at it raised {type_name(type(error))}"}, [])

    def _answer(
        self, result: Any, args: list, kwargs: dict, function: Any, before: list[bytes], states: tuple | None, generators: list, leaves: list[Tensor]
    ) -> bytes:
        """What a call returned and what it did on the way, as a reply."""
        after = self._values([*args, *kwargs.values()])
        changed = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
        names = self._argument_names(function, len(args), list(kwargs)) if changed else []
        encoder = Encoder(self._make_handle)
        reply: dict[str, Any] = {
            "changed": [names[i] for i in changed],
            "global_random": states is not None and not same_random_states(states, random_states()),
            "ok": encoder.encode(result),
            "generators": [encoder.encode(generator) for generator in generators],
        }
        if leaves:
            tracked = [i for i, t in enumerate(encoder.originals) if t is not None and t.requires_grad]
            if tracked:
                number = next(self._count)
                self._tapes[number] = ([_stored(encoder.originals[i], encoder.orders[i]) for i in tracked], leaves)
                reply["tape"] = [number, tracked]
        return pack(reply, encoder.tensors)

    def _on_attribute(self, message: dict, tensors: list[Tensor]) -> bytes:
        return self._reply(lambda: getattr(self._objects[message["number"]], message["name"]))

    def _on_items(self, message: dict, tensors: list[Tensor]) -> bytes:
        return self._reply(lambda: list(itertools.islice(iter(self._objects[message["number"]]), MAX_ITERATION)))

    def _on_length(self, message: dict, tensors: list[Tensor]) -> bytes:
        return self._reply(lambda: len(self._objects[message["number"]]))

    def _on_vjp(self, message: dict, tensors: list[Tensor]) -> bytes:
        outputs, leaves = self._tapes[message["tape"]]

        return self._reply(lambda: vector_jacobian(outputs, leaves, tensors))

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _reply(self, compute: Any) -> bytes:
        try:
            encoder = Encoder(self._make_handle)
            return pack({"ok": encoder.encode(compute())}, encoder.tensors)
        except KeyboardInterrupt:
            raise
        except CodecError as error:
            return pack({"unsendable": str(error)}, [])
        except BaseException as error:
            return pack({"error": self._describe_error(error)}, [])

    def _resolve(self, ref: HandleRef | Named) -> Any:
        if isinstance(ref, HandleRef):
            return self._objects[ref.number]
        return self.setup[ref.name] if ref.name in self.setup else self.student[ref.name]

    def _make_handle(self, value: Any) -> HandleRef:
        if id(value) not in self._numbers:
            number = next(self._count)
            self._objects[number], self._numbers[id(value)] = value, number
        name = type_name(type(value))
        return HandleRef(self._numbers[id(value)], name, f"an object of type {name}")

    def _values(self, arguments: list[Any]) -> list[bytes]:
        """The plain values of each argument as bytes, to see what a call changed. Generators are meant to change."""
        values = []
        for argument in arguments:
            encoder = Encoder(self._make_handle)
            if isinstance(argument, torch.Generator):
                values.append(b"")
                continue
            try:
                values.append(json.dumps(encoder.encode(argument)).encode() + pack({}, encoder.tensors))
            except CodecError:  # what arrived could be encoded, so it was changed into something that cannot
                values.append(b"changed")
        return values

    @staticmethod
    def _argument_names(function: Any, positional: int, keywords: list[str]) -> list[str]:
        try:
            parameters = list(inspect.signature(function).parameters)
        except Exception:  # a built-in function has none, and a hostile object may do anything
            parameters = []
        names = parameters[:positional] + [f"argument {i + 1}" for i in range(len(parameters), positional)]
        return names + keywords

    def _describe_error(self, error: BaseException) -> dict:
        """Type and message, and the last line of the student's own code on the way there."""
        line = None
        ours = self._setup_codes()  # setup cells share the namespace, and are nothing that a student wrote
        for frame, number in self._frames(error):
            if frame.f_globals is self.student and frame.f_code not in ours and "site-packages" not in frame.f_code.co_filename:
                text = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
                line = {"function": frame.f_code.co_name, "number": number, "text": text}
        try:
            text = str.__str__(str(error))
        except KeyboardInterrupt:
            raise
        except BaseException:
            text = "(its message could not be read)"
        bases = [type_name(kind) for kind in type(error).__mro__ if kind not in (object, BaseException)] or ["BaseException"]
        return {"type": bases[0], "bases": bases, "message": text[:MAX_MESSAGE], "line": line}

    def _setup_codes(self) -> set:
        """The code of functions and methods of the setup cells."""
        functions = [value for value in self.setup.values() if inspect.isfunction(value)]
        for value in self.setup.values():
            if isinstance(value, type):
                functions += [method for method in vars(value).values() if inspect.isfunction(method)]
        return {function.__code__ for function in functions}

    @staticmethod
    def _frames(error: BaseException) -> Iterator[tuple[Any, int]]:
        traceback = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame, traceback.tb_lineno
            traceback = traceback.tb_next
