"""What crosses between a check and a student's code arrives as it was, and whatever cannot cross is refused in words."""

import json
import math
import struct
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from checks_helpers import opaque, there_and_back
from course_lib.checks import codec
from course_lib.checks.codec import CodecError, Encoder, HandleRef, decode, pack, unpack

# --- plain values ---------------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.binary(max_size=8)
    | st.just(Ellipsis)
    | st.sampled_from([torch.float32, torch.int64, torch.bfloat16, torch.bool])
)
keys = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4) | st.floats(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(keys, inner, max_size=4)
    | st.sets(keys, max_size=4),
    max_leaves=12,
)


def identical(a, b) -> bool:
    """Equal with types, signs of zero and NaN; written without anything of `course_lib`."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return identical(a.real, b.real) and identical(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(identical(k, j) and identical(v, w) for (k, v), (j, w) in zip(a.items(), b.items()))
    return a == b


@settings(max_examples=150, deadline=None)
@given(values)
def test_plain_values_arrive_as_they_were(value):
    assert identical(there_and_back(value), value)


@pytest.mark.parametrize("value", [-0.0, math.inf, -math.inf, math.nan, True, 1, 1.0, 2**4000, -(2**63), "", "\0", (), [], {}, slice(1, None, 2)])
def test_single_values(value):
    assert identical(there_and_back(value), value)


def test_keys_and_containers_keep_their_types():
    value = {1: "int", "1": "str", (1, "a"): (1, [2, (3,)]), None: {4: 5.0}}
    back = there_and_back(value)
    assert identical(back, value) and type(back[(1, "a")][1]) is list and type(back[(1, "a")][1][1]) is tuple


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.uint8(255), 255),
        (np.float32(0.5), 0.5),
        (np.float64(-0.0), -0.0),
        (np.float16(math.inf), math.inf),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (torch.Size([1, 2]), (1, 2)),
        (types.SimpleNamespace, None),
    ],
)
def test_scalars_of_numpy_arrive_as_python_numbers(value, plain):
    if plain is None:
        assert isinstance(there_and_back(value), HandleRef)
    else:
        assert identical(there_and_back(value), plain)


def test_a_surrogate_is_replaced_since_nobody_can_print_it():
    assert there_and_back("a\ud800b") == "a?b"


# --- tensors and arrays -----------------------------------------------------------------------------------------------------

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]


def bits(x: torch.Tensor) -> bytes:
    """The memory of a tensor in its logical order, by way of numpy."""
    return x.contiguous().view(torch.uint8).numpy().tobytes() if x.ndim else x.reshape(1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", FLOATING + WHOLE, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3), (2, 1, 3, 2)], ids=str)
def test_tensors_of_every_type_and_shape(dtype, shape):
    x = torch.randint(0, 2, shape).to(dtype)
    if dtype in FLOATING and x.numel():
        x.view(-1)[0] = math.nan
    back = there_and_back(x)
    assert type(back) is torch.Tensor and back.dtype == dtype and back.shape == shape and bits(back) == bits(x)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_a_permuted_tensor_stays_permuted_and_equal(case):
    shape, order = case
    x = torch.arange(float(math.prod(shape))).reshape(shape).permute(order)
    back = there_and_back(x)
    assert torch.equal(back, x)
    assert back.is_contiguous() == x.is_contiguous()
    if x.numel() and 1 not in x.shape:  # strides of other axes mean nothing
        assert back.stride() == x.stride()


def base():
    return torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: base()[:, ::2, 1:3],
        lambda: base()[:1].expand(5, 3, 4),
        lambda: torch.zeros(1).expand(3),
        lambda: base().unfold(2, 2, 1),
        lambda: base().as_strided((2, 2), (1, 1)),
        lambda: base().to(memory_format=torch.contiguous_format).movedim(0, 2),
        lambda: torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
        lambda: torch.view_as_complex(torch.arange(6.0).reshape(3, 2)).conj(),
        lambda: torch.view_as_complex(torch.arange(6.0).reshape(3, 2)).conj().imag,
        lambda: nn.Parameter(base()),
        lambda: base().requires_grad_() * 2,
    ],
)
def test_views_of_every_kind_arrive_equal_plain_and_detached(make):
    x = make()
    back = there_and_back(x)
    assert type(back) is torch.Tensor and not back.requires_grad and not back.is_conj() and not back.is_neg()
    assert torch.equal(back, x.detach())


def test_tensors_that_share_memory_arrive_apart():
    x = torch.zeros(3)
    a, (b, c) = there_and_back([x, (x, x[:2])])
    a += 1
    assert b.tolist() == [0, 0, 0] and c.tolist() == [0, 0]


def test_what_was_sent_is_a_copy():
    x = torch.zeros(3)
    encoder = Encoder(opaque)
    encoder.encode(x), encoder.encode(np.frombuffer(b"\0\0\0\0", np.uint8))
    x += 1
    assert encoder.tensors[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6)[::-2],
        np.array(2.5),
        np.zeros((0, 3), np.float16),
        np.broadcast_to(np.float32(1), (2, 2)),
        np.arange(3, dtype=">i4"),
        np.array([2**16 - 1], np.uint16),
        np.array([2**64 - 1], np.uint64),
        np.array([True, False]),
        np.ma.masked_array([1, 2], [False, True]),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype.str}-{a.shape}",
)
def test_arrays(array):
    back = there_and_back(array)
    assert type(back) is np.ndarray and back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=") and np.array_equal(back, np.asarray(array))


def test_a_generator_crosses_as_its_state():
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    back = there_and_back(generator)
    assert torch.equal(torch.rand(5, generator=back), torch.rand(5, generator=generator))


# --- subclasses, lies and what has no plain form --------------------------------------------------------------------------


def explode(*args, **kwargs):
    raise AssertionError("a method of the value was called")


def armed(kind: type, *names: str) -> type:
    """A subclass of `kind` whose methods all raise."""
    return type("Armed", (kind,), {name: explode for name in names})


BOMBS = ("__eq__", "__repr__", "__str__", "__len__", "__iter__", "__getitem__", "__bool__", "__getattribute__", "__reduce_ex__", "__lt__")


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: armed(int, *BOMBS, "__int__", "__index__", "bit_length")(3), 3),
        (lambda: armed(float, *BOMBS, "__float__")(0.5), 0.5),
        (lambda: armed(complex, *BOMBS, "__complex__")(1, 2), 1 + 2j),
        (lambda: armed(str, *BOMBS, "__add__", "encode")("abc"), "abc"),
        (lambda: armed(list, *BOMBS)([1, (2,)]), [1, (2,)]),
        (lambda: armed(tuple, *BOMBS)((1, [2])), (1, [2])),
        (lambda: armed(dict, *BOMBS, "items", "keys", "__contains__")({1: 2}), {1: 2}),
    ],
    ids=["int", "float", "complex", "str", "list", "tuple", "dict"],
)
def test_a_subclass_arrives_as_the_type_it_extends_and_runs_nothing(make, plain):
    assert identical(there_and_back(make()), plain)


class Overriding(torch.Tensor):
    """A tensor that takes part in everything: every function of torch, and the attributes a reader looks at."""

    __torch_function__ = classmethod(explode)
    device = layout = dtype = shape = is_quantized = is_nested = property(explode)
    detach = clone = contiguous = permute = stride = numel = resolve_conj = explode


class Dispatching(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return explode()


class LyingArray(np.ndarray):
    dtype = nbytes = property(explode)
    __array_finalize__ = __array_function__ = __array_ufunc__ = lambda *a, **k: None
    __array__ = copy = view = astype = tobytes = explode


def test_a_tensor_subclass_arrives_as_a_plain_tensor_whatever_it_overrides():
    back = there_and_back(torch.arange(3.0).as_subclass(Overriding))
    assert type(back) is torch.Tensor and back.tolist() == [0, 1, 2]


def test_an_array_subclass_arrives_as_a_plain_array():
    back = there_and_back(np.arange(3.0).view(LyingArray))
    assert type(back) is np.ndarray and back.tolist() == [0, 1, 2]


class LyingClass:
    __class__ = torch.Tensor
    __module__ = "torch"


class LyingMeta(type):
    __name__ = property(lambda cls: 7)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LyingClass(), "an object of type LyingClass"),
        (NotImplemented, "an object of type NotImplementedType"),
        ((i for i in ()), "an object of type generator"),
        (iter([]), "an object of type list_iterator"),
        (range(3), "an object of type range"),
        (math, "an object of type module"),
        (lambda: 0, "an object of type function"),
        (nn.Linear(1, 1), "an object of type Linear"),
        (object(), "an object of type object"),
        (torch.zeros(2, device="meta"), "a tensor on device meta"),
        (torch.zeros(2, device="meta").as_subclass(Overriding), "a tensor on device meta"),
        (torch.zeros(2).as_subclass(Dispatching), "a tensor of type Dispatching"),
        (torch.eye(2).to_sparse(), "a tensor with layout sparse_coo"),
        (torch.zeros(2, dtype=torch.complex128), "a tensor of type complex128"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "a tensor of type float8_e4m3fn"),
        (np.array([[1], [1, 2]], dtype=object), "a numpy array of type object"),
        (np.array(["a"]), "a numpy array of type str32"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_has_no_plain_form_arrives_as_a_handle_with_words(value, words):
    back = there_and_back(value)
    assert isinstance(back, HandleRef) and back.words == words


def test_the_name_of_a_class_is_cut_and_its_metaclass_is_not_asked():
    assert codec.type_name(LyingMeta("Kind", (), {})) == "Kind"
    assert len(codec.type_name(type("x" * 10_000, (), {}))) <= codec.MAX_WORDS


# --- limits -----------------------------------------------------------------------------------------------------------------


def self_containing():
    value = []
    value.append(value)
    return value


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (self_containing, "contains itself"),
        (lambda: nested(codec.MAX_DEPTH + 1), "levels deep"),
        (lambda: 1 << codec.MAX_INT_BITS, "integer of 4,097 bits"),
        (lambda: "x" * (codec.MAX_TEXT + 1), "characters of text"),
        (lambda: b"x" * (codec.MAX_TEXT + 1), "characters of text"),
        (lambda: ["x" * 1000] * (codec.MAX_TEXT // 1000 + 1), "characters of text"),
        (lambda: [0] * (codec.MAX_ITEMS + 1), "parts"),
        (lambda: torch.zeros(1).expand(10**15), "MB of numbers"),
        (lambda: np.broadcast_to(np.zeros(1), (10**15,)), "MB of numbers"),
        (lambda: [torch.zeros(2**20).expand(2**3, -1)] * 3, "MB of numbers"),
        (lambda: torch.zeros([1] * 40), "40 axes"),
        (lambda: np.zeros([1] * 40), "40 axes"),
        (lambda: {type("L", (list,), {"__hash__": lambda s: 1})([1]): 2}, "a key of type L"),
        (lambda: {type("D", (dict,), {"__hash__": lambda s: 1})()}, "a key of type D"),
    ],
)
def test_too_much_is_refused_in_words(make, words):
    with pytest.raises(CodecError, match=words):
        Encoder(opaque).encode(make())


def test_the_limits_themselves_may_be_reached():
    assert there_and_back(nested(codec.MAX_DEPTH)) == nested(codec.MAX_DEPTH)
    assert there_and_back((1 << codec.MAX_INT_BITS) - 1) == (1 << codec.MAX_INT_BITS) - 1
    assert len(there_and_back("\u2603" * codec.MAX_TEXT)) == codec.MAX_TEXT
    assert len(there_and_back([0] * (codec.MAX_ITEMS - 1))) == codec.MAX_ITEMS - 1


# --- bytes that no encoder made -----------------------------------------------------------------------------------------------


def message() -> bytes:
    encoder = Encoder(opaque)
    node = encoder.encode([1, {"a": torch.arange(6.0).reshape(2, 3).T}, (np.arange(3), torch.Generator()), {1, 2}, slice(1), 2j, b"b", len])
    return pack({"op": "call", "value": node}, encoder.tensors)


def read(data: bytes):
    received, tensors = unpack(data)
    return decode(received.get("value"), tensors, lambda handle: handle)


def harmless(data: bytes) -> None:
    """Reading these bytes gives a value or CodecError, and never anything else."""
    try:
        read(data)
    except CodecError as error:
        assert "malformed message" in str(error)


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 8, struct.pack("<Q", 2**63), struct.pack("<Q", 2) + b"{}", b"{}" * 9])
def test_bytes_that_are_no_message(data):
    with pytest.raises(CodecError, match="malformed message"):
        unpack(data)


def test_every_truncation_is_refused():
    whole = message()
    read(whole)
    for length in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
        with pytest.raises(CodecError):
            read(whole[:length])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_harmless(data):
    harmless(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_message_with_changed_bytes_is_harmless(data):
    changed = bytearray(message())
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, min(len(changed), 700) - 1))] = data.draw(st.integers(0, 255))
    harmless(bytes(changed))


nodes = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            "list tuple set frozenset dict tensor order array complex bytes slice dtype ellipsis generator handle named float32".split()
        ),
        inner,
        max_size=2,
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(nodes)
def test_a_forged_skeleton_is_harmless(node):
    harmless(pack({"value": node}, [torch.zeros(2, 3), torch.arange(3), torch.zeros(2, dtype=torch.bfloat16)]))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        '{"value":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"value":' + '{"list":[' * 5_000 + "]}" * 5_000 + "}",
        '{"value":{"tensor":5}}',
        '{"value":{"tensor":-1}}',
        '{"value":{"tensor":true}}',
        '{"value":{"tensor":0,"order":[0,0]}}',
        '{"value":{"generator":0}}',
        '{"value":{"handle":["1","a","b"]}}',
        '{"value":{"dict":[[{"list":[]},1]]}}',
        '{"value":' + "9" * 5_000 + "}",
    ],
    ids=lambda t: t[:40],
)
def test_forged_messages(text):
    blob = pack({}, [torch.zeros(2, 3)])[8 + len(b"{}") :]
    with pytest.raises(CodecError, match="malformed message"):
        read(struct.pack("<Q", len(text)) + text.encode() + blob)


def test_a_forged_truth_value_is_true_or_false():
    data = bytearray(pack({"value": {"tensor": 0}}, [torch.tensor([True, False, True])]))
    data[-3:] = b"\x07\x00\x01"
    assert bits(read(bytes(data))) == b"\1\0\1"


def test_a_skeleton_is_json_that_any_tool_reads():
    data = message()
    (length,) = struct.unpack_from("<Q", data)
    assert json.loads(data[8 : 8 + length])["op"] == "call"
