"""Values that cross between a check and the code under test.

A message is a JSON skeleton and one safetensors blob, never a pickle. What crosses is plain: numbers, strings, lists,
tuples, dicts, sets, tensors and arrays on the CPU. A subclass arrives as the type it extends, an `nn.Parameter` as a
tensor, and whatever has no plain form (a module, a function, a generator) as a handle: a number and a few words.
The same code serves a notebook's own kernel and a process boundary, so that both see the same values.

`unpack` and `decode` take every byte for hostile: behind a process boundary a submission can write messages of its own.
Sizes are looked at before anything is parsed, and whatever is not exactly what `pack` makes raises `CodecError`.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

MAX_BYTES = 64 * 2**20  # numbers of one message: a batch of images is about 1 MB, so this is room, not a target
MAX_DEPTH = 32  # deeper than any sensible answer; also what stops a list that contains itself
MAX_ITEMS = 100_000  # entries of all lists, tuples, dicts and sets together
MAX_INT_BITS = 4096  # Python refuses to print larger integers quickly
MAX_TEXT = 1_000_000  # characters of all strings, bytes and digits of large integers together
MAX_AXES = 32  # numpy's old limit; no answer of the course has more than 6
MAX_SKELETON = 24 * 2**20  # bytes of JSON: MAX_ITEMS numbers and MAX_TEXT characters, each 12 bytes when escaped
MAX_MARKS = 2 * MAX_TEXT  # brackets and commas in it: what bounds the objects that parsing it makes
MAX_MESSAGE = MAX_BYTES + 2 * MAX_SKELETON  # bytes of one message
MAX_HANDLE = 2**53
MAX_WORDS = 200  # characters of a handle's description


class CodecError(ValueError):
    """A value that cannot cross; the message says which part and why, in words for the person who returned it."""


@dataclass(frozen=True)
class HandleRef:
    """Stands for an object that stayed on the other side."""

    number: int
    type_name: str
    words: str


@dataclass(frozen=True)
class Named:
    """Stands for an object of the other side's namespace, by its name there."""

    name: str


DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def plain_tensor(value: Tensor) -> Tensor:
    """The values of any tensor as a detached `torch.Tensor`, whatever its subclass overrides."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(value, Tensor).detach()


def reason_not_plain(value: Tensor) -> str | None:
    """Why a tensor has no plain values on the CPU, or None if it has."""
    if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"a tensor of type {type_name(type(value))}"  # what it holds is up to its own code
    with torch._C.DisableTorchFunctionSubclass():  # and by torch's own attributes: a subclass may say anything of its layout and device
        layout, device, dtype = (getattr(Tensor, name).__get__(value) for name in ("layout", "device", "dtype"))
        if layout is not torch.strided:
            return f"a tensor with layout {str(layout).removeprefix('torch.')}"
        if device.type != "cpu":
            return f"a tensor on device {device}"
        if dtype not in _SAFE_DTYPES or Tensor.is_nested.__get__(value):
            return f"a {'nested ' if dtype in _SAFE_DTYPES else ''}tensor of type {str(dtype).removeprefix('torch.')}"
    return None


def type_name(kind: type) -> str:
    """The name of a class, whatever its metaclass says, and not a page of it."""
    return type.__dict__["__name__"].__get__(kind)[: MAX_WORDS // 2]


_SAFE_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
}  # fmt: skip


class Encoder:
    """Turns values into a skeleton; tensors are collected in `tensors`.

    Args:
        handle: called with an object that has no plain form, returns the `HandleRef` that stands for it.
    """

    def __init__(self, handle: Callable[[Any], HandleRef]) -> None:
        self.handle = handle
        self.tensors: list[Tensor] = []
        self.originals: list[Tensor | None] = []  # the tensor each entry of `tensors` was made from, None for arrays
        self.orders: list[list[int] | None] = []  # how each was permuted to be contiguous, None if it was not
        self.items = 0
        self.bytes = 0
        self.text = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise CodecError(f"it is nested more than {MAX_DEPTH} levels deep (or contains itself)")
        self.items += 1
        if self.items > MAX_ITEMS:
            raise CodecError(f"it has more than {MAX_ITEMS:,} parts")
        kind = type(value)
        if value is None or kind is bool:
            return value
        if value is Ellipsis:
            return {"ellipsis": 1}
        if issubclass(kind, (int, np.integer)):
            number = int.__index__(value) if issubclass(kind, int) else int(value)
            if number.bit_length() > MAX_INT_BITS:
                raise CodecError(f"it is an integer of {number.bit_length():,} bits")
            if number.bit_length() > 64:
                self._count_text(number.bit_length() // 3)
            return number
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, np.floating):
            return float(value)
        if kind is np.bool_:
            return bool(value)
        if issubclass(kind, complex):
            number = complex.__complex__(value)
            return {"complex": [number.real, number.imag]}
        if issubclass(kind, str):
            text = str.__str__(value)
            self._count_text(len(text))
            return text
        if kind is bytes:
            self._count_text(len(value))
            return {"bytes": base64.b64encode(value).decode()}
        if issubclass(kind, list):
            return {"list": [self.encode(item, depth + 1) for item in list.__iter__(value)]}
        if issubclass(kind, tuple):
            return {"tuple": [self.encode(item, depth + 1) for item in tuple.__iter__(value)]}
        if kind in (set, frozenset):
            return {kind.__name__: sorted((self._encode_key(item, depth + 1) for item in value), key=json.dumps)}
        if issubclass(kind, dict):
            pairs = [[self._encode_key(k, depth + 1), self.encode(v, depth + 1)] for k, v in dict.items(value)]
            return {"dict": pairs}
        if kind is slice:
            return {"slice": [self.encode(part, depth + 1) for part in (value.start, value.stop, value.step)]}
        if kind is torch.dtype:
            return {"dtype": str(value).removeprefix("torch.")}
        if kind is torch.Generator:
            return {"generator": self._tensor(value.get_state(), None)}
        if issubclass(kind, Tensor):
            return self._encode_tensor(value)
        if issubclass(kind, np.ndarray):
            return self._encode_array(np.ndarray.view(value, np.ndarray))
        if kind is HandleRef:
            return {"handle": [value.number, value.type_name, value.words]}
        if kind is Named:
            return {"named": value.name}
        ref = self.handle(value)
        return self.encode(ref, depth)

    def _encode_key(self, value: Any, depth: int) -> Any:
        """An entry of a set or a key of a dict, which has to be one on the other side too."""
        node = self.encode(value, depth)
        if not _hashable(node):
            raise CodecError(f"it has a key of type {type_name(type(value))}")
        return node

    def _encode_array(self, value: np.ndarray) -> Any:
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            ref = self.handle(value)
            return {"handle": [ref.number, "ndarray", f"a numpy array of type {value.dtype.name[: MAX_WORDS // 2]}"]}
        self._count_bytes(value.nbytes)  # before it is copied: a broadcast array is large in name only
        array = np.array(value, dtype=value.dtype.newbyteorder("="), copy=True, order="C")
        return {"array": self._store(torch.from_numpy(array), None)}

    def _count_text(self, characters: int) -> None:
        self.text += characters
        if self.text > MAX_TEXT:
            raise CodecError(f"it holds more than {MAX_TEXT:,} characters of text")

    def _encode_tensor(self, value: Tensor) -> Any:
        if reason := reason_not_plain(value):
            ref = self.handle(value)
            return {"handle": [ref.number, "Tensor", reason]}
        plain = plain_tensor(value).resolve_conj().resolve_neg()
        # A transposed tensor stays transposed: some answers are right on contiguous inputs only, and a check may ask.
        order = sorted(range(plain.ndim), key=lambda axis: -plain.stride(axis))
        stored = plain.permute(order)
        if plain.is_contiguous() or not stored.is_contiguous():
            return {"tensor": self._tensor(plain, value)}
        return {"tensor": self._tensor(stored, value, order), "order": order}

    def _tensor(self, plain: Tensor, original: Tensor | None, order: list[int] | None = None) -> int:
        self._count_bytes(plain.numel() * plain.element_size())
        return self._store(plain.contiguous().clone(), original, order)

    def _count_bytes(self, size: int) -> None:
        self.bytes += size
        if self.bytes > MAX_BYTES:
            raise CodecError(f"it holds more than {MAX_BYTES // 2**20} MB of numbers")

    def _store(self, copy: Tensor, original: Tensor | None, order: list[int] | None = None) -> int:
        if copy.ndim > MAX_AXES:
            raise CodecError(f"it has {copy.ndim} axes, more than {MAX_AXES}")
        self.tensors.append(copy)
        self.originals.append(original)
        self.orders.append(order)
        return len(self.tensors) - 1


def _hashable(node: Any) -> bool:
    """Whether what a skeleton describes can be a key."""
    if not isinstance(node, dict):
        return True
    (kind, content), *_ = node.items()
    if kind in ("tuple", "frozenset"):
        return all(map(_hashable, content))
    return kind not in ("list", "set", "dict", "array", "slice")


def inverse_order(order: list[int]) -> list[int]:
    """The permutation that undoes `order`."""
    return sorted(range(len(order)), key=order.__getitem__)


def decode(node: Any, tensors: list[Tensor], handle: Callable[[HandleRef | Named], Any]) -> Any:
    """The value that a skeleton and its tensors describe; `handle` resolves what stayed on the other side.

    Raises CodecError for whatever an `Encoder` would not have written.
    """
    try:
        return _Decoder(tensors, handle).decode(node, 0)
    except CodecError:
        raise
    except Exception as error:  # forged content that a constructor refuses: an unhashable key, a state of the wrong size
        raise CodecError(f"a malformed message: {type(error).__name__}") from None


class _Decoder:
    def __init__(self, tensors: list[Tensor], handle: Callable[[HandleRef | Named], Any]) -> None:
        self.tensors, self.handle = tensors, handle
        self.items = 0

    def decode(self, node: Any, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH + 1 or self.items > 2 * MAX_ITEMS:
            raise CodecError("a malformed message: too deep or too long")
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if isinstance(node, str):
            return _text(node)
        if not isinstance(node, dict) or not node:
            raise CodecError(f"a malformed message: {str(node)[:80]}")
        (kind, content), *rest = node.items()
        if rest and [kind, *(key for key, _ in rest)] != ["tensor", "order"]:
            raise CodecError("a malformed message: a part with several kinds")
        match kind:
            case "list":
                return self._all(content, depth)
            case "tuple":
                return tuple(self._all(content, depth))
            case "set":
                return set(self._all(content, depth))
            case "frozenset":
                return frozenset(self._all(content, depth))
            case "dict":
                _expect(type(content) is list and all(type(pair) is list and len(pair) == 2 for pair in content))
                return {self.decode(key, depth + 1): self.decode(item, depth + 1) for key, item in content}
            case "tensor":
                return self._permuted(self._tensor(content), node.get("order"))
            case "array":
                return self._tensor(content).numpy()
            case "complex":
                _expect(type(content) is list and len(content) == 2 and all(type(part) in (int, float) for part in content))
                return complex(*content)
            case "bytes":
                _expect(type(content) is str)
                return base64.b64decode(content, validate=True)
            case "slice":
                parts = self._all(content, depth)
                _expect(len(parts) == 3)
                return slice(*parts)
            case "dtype":
                _expect(type(content) is str and content in DTYPES)
                return DTYPES[content]
            case "ellipsis":
                return Ellipsis
            case "generator":
                generator = torch.Generator()
                generator.set_state(self._tensor(content))
                return generator
            case "handle":
                _expect(type(content) is list and len(content) == 3 and type(content[0]) is int and 0 <= content[0] < MAX_HANDLE)
                _expect(all(type(words) is str and len(words) <= MAX_WORDS for words in content[1:]))
                return self.handle(HandleRef(content[0], _text(content[1]), _text(content[2])))
            case "named":
                _expect(type(content) is str)
                return self.handle(Named(content))
        raise CodecError(f"a malformed message: unknown kind {str(kind)[:40]!r}")

    def _all(self, content: Any, depth: int) -> list:
        _expect(type(content) is list)
        return [self.decode(item, depth + 1) for item in content]

    def _tensor(self, index: Any) -> Tensor:
        _expect(type(index) is int and 0 <= index < len(self.tensors))
        return self.tensors[index]

    @staticmethod
    def _permuted(tensor: Tensor, order: Any) -> Tensor:
        if order is None:
            return tensor
        _expect(type(order) is list and all(type(axis) is int for axis in order) and sorted(order) == list(range(tensor.ndim)))
        return tensor.permute(inverse_order(order))


def _expect(condition: bool) -> None:
    if not condition:
        raise CodecError("a malformed message")


def _text(text: str) -> str:
    """The same characters, lone surrogates replaced: nothing can print or store those."""
    return text.encode("utf-8", "replace").decode("utf-8")


def pack(message: dict, tensors: list[Tensor]) -> bytes:
    """One message as bytes: 8 bytes of length, the JSON skeleton, the tensors as safetensors."""
    skeleton = json.dumps(message, separators=(",", ":")).encode()
    blob = safetensors.torch.save({str(i): tensor for i, tensor in enumerate(tensors)})
    return struct.pack("<Q", len(skeleton)) + skeleton + blob


def unpack(data: bytes) -> tuple[dict, list[Tensor]]:
    """The inverse of `pack`. Raises CodecError for anything that is not such a message."""
    try:
        _expect(len(data) <= MAX_MESSAGE)
        (length,) = struct.unpack_from("<Q", data)
        _expect(length <= MAX_SKELETON)
        skeleton, blob = data[8 : 8 + length], data[8 + length :]
        _expect(sum(map(skeleton.count, (b"[", b"{", b","))) <= MAX_MARKS)
        message = json.loads(skeleton)
        _expect(type(message) is dict)
        (header,) = struct.unpack_from("<Q", blob)
        _expect(header <= MAX_SKELETON)
        loaded = safetensors.torch.load(blob)
        _expect(len(loaded) <= MAX_ITEMS)
        return message, [_sound(loaded[str(i)]) for i in range(len(loaded))]
    except CodecError:
        raise
    except Exception as error:  # truncated, forged or foreign bytes: whatever the parsers make of them
        raise CodecError(f"a malformed message: {type(error).__name__}") from None


def _sound(tensor: Tensor) -> Tensor:
    """A tensor as an encoder sends it; a forged truth value is 0 or 1 after all."""
    _expect(tensor.dtype in _SAFE_DTYPES and tensor.ndim <= MAX_AXES)
    return tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor
