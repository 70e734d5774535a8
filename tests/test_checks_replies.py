"""A reply can be forged by a submission: every malformed one ends as a result of its check, none as an exception of ours."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.checks import expect_close, gradients, outcomes
from course_lib.checks.codec import MAX_ITEMS, CodecError, Encoder, decode, pack, unpack
from course_lib.checks.runner import Check, run_check
from course_lib.checks.session import Session
from course_lib.checks.worker import Worker


class Forger:
    """A channel whose answers to calls are made up; `begin` is answered as a worker would."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def start(self, seconds, fresh=False):
        pass

    def __call__(self, request):
        message, _ = unpack(request)
        return pack({"ok": None}, []) if message["op"] == "begin" else self.replies.pop(0)


def result_of(*replies, function=None):
    def wants_three(f):
        expect_close(f(torch.ones(3)), torch.tensor([3.0]), "three ones")

    forger = Forger(*replies)
    return run_check(Check("f", function or wants_three, 1.0), Session(forger), 1, forger)


def ok(node, tensors=(), **fields):
    return pack({"ok": node, "changed": [], "global_random": False, "generators": [], **fields}, list(tensors))


def framed(skeleton: bytes, blob: bytes | None = None) -> bytes:
    return struct.pack("<Q", len(skeleton)) + skeleton + (pack({}, [])[10:] if blob is None else blob)


THREE = torch.tensor([3.0])
FORGED = {
    "nothing": b"",
    "noise": bytes(range(256)) * 20,
    "a length beyond the end": struct.pack("<Q", 2**63) + b"{}",
    "deep json": framed(b"[" * 200_000 + b"]" * 200_000),
    "deep dicts": framed(b'{"ok":' * 100_000 + b"1" + b"}" * 100_000),
    "many small parts": framed(b'{"ok":[' + b"[]," * 3_000_000 + b"[]]}"),
    "a long skeleton": framed(b'{"ok":"' + b"x" * (25 * 2**20) + b'"}'),
    "an integer of a million digits": framed(b'{"ok":' + b"1" * 1_000_000 + b"}"),
    "a list for a message": framed(b"[1]"),
    "no kind": pack({}, []),
    "two kinds": pack({"ok": None, "missing": "f"}, []),
    "another tensor's index": ok({"tensor": 7}, [THREE]),
    "a negative index": ok({"tensor": -1}, [THREE]),
    "a true index": ok({"tensor": False}, [THREE]),
    "a text for an index": ok({"tensor": "0"}, [THREE]),
    "an order that repeats": ok({"tensor": 0, "order": [0, 0]}, [torch.ones(2, 2)]),
    "an order of text": ok({"tensor": 0, "order": "01"}, [torch.ones(2, 2)]),
    "a part with two kinds": ok({"tensor": 0, "list": []}, [THREE]),
    "an unknown kind": ok({"pickle": "gASV"}),
    "an unhashable key": ok({"dict": [[{"list": []}, 1]]}),
    "pairs of three": ok({"dict": [[1, 2, 3]]}),
    "a set of lists": ok({"set": [{"list": []}]}),
    "half a complex number": ok({"complex": [1]}),
    "bytes that are none": ok({"bytes": "%%%"}),
    "an unknown dtype": ok({"dtype": "__class__"}),
    "a generator's state of the wrong size": ok({"generator": 0}, [torch.zeros(3, dtype=torch.uint8)]),
    "a generator's state of noise": ok({"generator": 0}, [torch.full((5056,), 255, dtype=torch.uint8)]),
    "a name of ours": ok({"named": "lab"}),
    "a handle beyond all numbers": ok({"handle": [2**70, "Linear", "an object"]}),
    "a handle of text": ok({"handle": ["1", "Linear", "an object"]}),
    "a handle of two": ok({"handle": [1, "Linear"]}),
    "a handle with a long description": ok({"handle": [1, "Linear", "x" * 10_000]}),
    "a generator nobody sent": ok(None, generators=[None]),
    "changed names of numbers": ok(None, changed=[1]),
    "randomness as text": ok(None, global_random="no"),
    "gradients of nothing": ok({"tensor": 0}, [THREE], tape=[1, []]),
    "gradients of another tensor": ok({"tensor": 0}, [THREE], tape=[1, [4]]),
    "gradients of integers": ok({"tensor": 0}, [torch.tensor([3])], tape=[1, [0]]),
    "gradients twice": ok({"tensor": 0}, [THREE], tape=[1, [0, 0]]),
    "an error of text": pack({"error": "ValueError"}, []),
    "an error without a type": pack({"error": {"bases": [], "message": "", "line": None}}, []),
    "an error at a line of text": pack({"error": {"type": "E", "bases": [], "message": "", "line": "1"}}, []),
    "an error with classes of numbers": pack({"error": {"type": "E", "bases": [1], "message": "", "line": None}}, []),
    "missing a number": pack({"missing": 3}, []),
    "forty axes": ok({"tensor": 0}, [torch.ones([1] * 40)]),
    "a tensor of eighths": ok({"tensor": 0}, [torch.ones(1).to(torch.float8_e4m3fn)]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_reply_is_a_wrong_answer(name):
    result = result_of(FORGED[name])
    assert (result.outcome, result.earned) == (outcomes.WRONG, 0.0)
    assert "could not be read" in result.message


@pytest.mark.parametrize(
    "blob",
    [
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 40 * 2**20) + b" " * (40 * 2**20),
        (lambda h: struct.pack("<Q", len(h)) + h)(json.dumps({"0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()) + b"abcd",
        (lambda h: struct.pack("<Q", len(h)) + h)(json.dumps({"1": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()) + b"abcd",
        (lambda h: struct.pack("<Q", len(h)) + h)(json.dumps({"0": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()) + b"abcd",
    ],
    ids=["endless header", "long header", "a shape beyond its bytes", "another name", "another dtype"],
)
def test_forged_tensors_are_refused(blob):
    with pytest.raises(CodecError):
        unpack(framed(b'{"ok":null}', blob))


def test_a_forged_truth_value_is_zero_or_one():
    header = json.dumps({"0": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}).encode()
    _, (tensor,) = unpack(framed(b"{}", struct.pack("<Q", len(header)) + header + bytes([0, 1, 2, 255])))
    assert tensor.view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_lone_surrogates_and_long_texts_do_not_reach_a_message():
    error = {"type": "E\ud800", "bases": ["E"], "message": "\udfff" * 10_000, "line": {"function": "f", "number": 1, "text": "\ud800"}}
    result = result_of(pack({"error": error}, []))
    assert result.outcome == outcomes.ERROR
    (result.message + result.line["text"]).encode()
    assert len(result.message) < 5000
    result_of(ok("\ud800")).got.encode()


def test_forged_gradients_are_wrong_answers():
    def differentiates(f):
        gradients(f, torch.ones(3, 2).T)

    def answer(node, tensors=()):
        call = ok({"tensor": 0}, [THREE], tape=[1, [0]])
        return result_of(call, ok(node, tensors), function=differentiates)

    fine = torch.ones(3, 2)  # in the order in which it crossed
    assert answer({"tuple": [{"tensor": 0}]}, [fine]).outcome == outcomes.PASSED
    for node, tensors in [
        (None, []),
        ({"tuple": []}, []),
        ({"tuple": [1]}, []),
        ({"tuple": [{"tensor": 0}]}, [torch.ones(2, 3)]),
        ({"tuple": [{"tensor": 0}]}, [torch.ones(6)]),
        ({"tuple": [{"tensor": 0}]}, [fine.double()]),
        ({"tuple": [{"tensor": 0}, {"tensor": 0}]}, [fine]),
    ]:
        result = answer(node, tensors)
        assert result.outcome == outcomes.WRONG and "could not be read" in result.message, node


def test_a_proxy_for_an_absurd_handle_is_a_wrong_answer():
    result = result_of(ok({"handle": [2**52, "Tensor", "a tensor"]}))
    assert result.outcome == outcomes.WRONG


def test_our_side_starts_each_check_afresh_even_when_no_worker_is_left():
    class Dead(Forger):
        def start(self, seconds, fresh=False):
            raise outcomes.OutOfLimits("time", "over")

    dead = Dead()
    session = Session(dead)
    session.transcript.append("of the check before")
    result = run_check(Check("f", lambda f: f(1), 1.0), session, 1, dead)
    assert (result.outcome, result.message, result.transcript) == (outcomes.OUT_OF_LIMITS, "over", [])


def test_a_worker_refuses_to_send_what_would_be_refused():
    for value in ("x" * 1_000_001, ["x" * 600_000] * 2, torch.ones([1] * 40), b"x" * 2_000_000, [2**4000] * 2000, [0] * (MAX_ITEMS + 1)):
        reply, _ = unpack(Worker({"f": lambda value=value: value}, {}).handle(pack(CALL, [])))
        assert "unsendable" in reply


CALL = {"op": "call", "target": {"named": "f"}, "args": [], "kwargs": {}, "forbid": [], "largest": None, "grad": []}
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_plain_values_survive_the_journey(value):
    encoder = Encoder(None)
    message, tensors = unpack(pack({"ok": encoder.encode(value)}, encoder.tensors))
    assert repr(decode(message["ok"], tensors, None)) == repr(value)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_one_wrong_byte_is_a_value_or_a_codec_error(position, byte):
    encoder = Encoder(None)
    node = encoder.encode({"a": [1, (2.5, None)], "b": torch.arange(6.0).reshape(2, 3).T, "c": np.ones(2)})
    data = bytearray(pack({"ok": node}, encoder.tensors))
    data[position % len(data)] = byte
    try:
        message, tensors = unpack(bytes(data))
        decode(message.get("ok"), tensors, None)
    except CodecError:
        pass
