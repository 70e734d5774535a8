"""What a reply of a worker may look like. A submission can forge replies, so each field is looked at before it is used."""

from __future__ import annotations

from typing import Any, Callable

from torch import Tensor

from course_lib.checks.codec import MAX_HANDLE, CodecError

MAX_NAMES = 1000  # arguments that changed, classes an exception extends
MAX_LINE = 2000  # characters kept of any text in a reply


def check_reply(reply: dict, tensors: list[Tensor], generators: int) -> dict:
    """The reply with its texts cut to `MAX_LINE`. Raises CodecError where a field is missing or is not what a `Worker` sends.

    Args:
        reply, tensors: what `unpack` gave.
        generators: how many generators the call was given, all of which must come back; 0 for other requests.
    """
    kinds = [kind for kind in ("ok", "missing", "forbidden", "too_large", "unsendable", "error") if kind in reply]
    _expect(len(kinds) == 1, "it says nothing, or several things")
    kind = kinds[0]
    if kind == "error":
        return {"error": _error(reply["error"])}
    if kind != "ok":
        return {kind: _words(reply[kind])}
    checked = {
        "ok": reply["ok"],
        "changed": [_words(name) for name in _list(reply.get("changed", []), MAX_NAMES)],
        "global_random": reply.get("global_random", False),
        "generators": _list(reply.get("generators", []), MAX_NAMES),
    }
    _expect(type(checked["global_random"]) is bool and len(checked["generators"]) == generators, "its fields")
    if "tape" in reply:
        checked["tape"] = _tape(reply["tape"], tensors)
    return checked


def _tape(tape: Any, tensors: list[Tensor]) -> tuple[int, list[int]]:
    _expect(type(tape) is list and len(tape) == 2, "its gradients")
    number, tracked = tape
    _expect(_whole(number, MAX_HANDLE) and type(tracked) is list and bool(tracked), "its gradients")
    _expect(all(_whole(i, len(tensors)) and (tensors[i].is_floating_point() or tensors[i].is_complex()) for i in tracked), "its gradients")
    _expect(len(set(tracked)) == len(tracked), "its gradients")
    return number, tracked


def _error(error: Any) -> dict:
    _expect(type(error) is dict, "its error")
    line = error.get("line")
    if line is not None:
        _expect(type(line) is dict and _whole(line.get("number"), 10**9), "its error")
        line = {"function": _words(line.get("function")), "number": line["number"], "text": _words(line.get("text"))}
    bases = [_words(base) for base in _list(error.get("bases"), MAX_NAMES)]
    return {"type": _words(error.get("type")), "bases": bases, "message": _words(error.get("message")), "line": line}


def _list(value: Any, longest: int) -> list:
    _expect(type(value) is list and len(value) <= longest, "a list")
    return value


def _words(value: Any) -> str:
    _expect(type(value) is str, "a text")
    return value[:MAX_LINE].encode("utf-8", "replace").decode("utf-8")


def _whole(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise CodecError(f"a malformed message: {what}")


def check_gradients(answer: Any, inputs: list[Tensor], restore: Callable[[Tensor, int], Tensor]) -> list[Tensor | None]:
    """The answer to a request for gradients: for each input None or a tensor of its shape and dtype.

    Args:
        restore: puts the axes of the gradient with this number back in the input's order.
    Raises: CodecError.
    """
    _expect(type(answer) in (tuple, list) and len(answer) == len(inputs), "its gradients")
    back = []
    for i, (gradient, x) in enumerate(zip(answer, inputs)):
        if gradient is not None:
            _expect(isinstance(gradient, Tensor), "its gradients")
            gradient = restore(gradient, i)
            _expect(gradient.shape == x.shape and gradient.dtype == x.dtype, "its gradients")
        back.append(gradient)
    return back
