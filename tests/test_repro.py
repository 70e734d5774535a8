"""Seeds, devices and profiles, and what is said when the environment asks for something impossible."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import repro

pytestmark = pytest.mark.filterwarnings("error")


def draws() -> tuple:
    return random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()


@given(st.integers(0, 2**32 - 1))
def test_one_seed_fixes_all_three_generators(seed):
    repro.seed_all(seed)
    first = draws()
    assert all(a != b for a, b in zip(first, draws()))
    repro.seed_all(seed)
    assert draws() == first


def test_it_seeds_what_each_library_seeds_itself():
    repro.seed_all(np.int64(7))
    assert random.random() == random.Random(7).random()
    assert np.array_equal(np.random.standard_normal(4), np.random.RandomState(7).standard_normal(4))
    assert torch.equal(torch.randn(4), torch.randn(4, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "3", None, True])
def test_a_seed_numpy_would_not_take_is_named(seed):
    with pytest.raises(ValueError, match="seed must be a whole number") as error:
        repro.seed_all(seed)
    assert repr(seed) in str(error.value)


def machine(monkeypatch, gpus: int, mps: bool, wish: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    if wish is not None:
        monkeypatch.setenv("COURSE_DEVICE", wish)


@pytest.mark.parametrize(
    ("gpus", "mps", "wish", "expected"),
    [
        (0, False, None, "cpu"),
        (0, True, None, "mps"),
        (2, False, None, "cuda"),
        (1, True, None, "cuda"),
        (1, False, "", "cuda"),
        (1, False, "cpu", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cuda", "cuda"),
        (0, True, " cpu ", "cpu"),
    ],
)
def test_device(monkeypatch, gpus, mps, wish, expected):
    machine(monkeypatch, gpus, mps, wish)
    assert repro.pick_device() == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "wish"),
    [(0, "cuda"), (0, "mps"), (1, "cuda:1"), (1, "gpu"), (0, "cuda:0"), (1, ":0"), (0, "CPU"), (0, "tpu")],
)
def test_a_device_that_is_not_here_is_refused_with_the_list_of_those_that_are(monkeypatch, gpus, wish):
    machine(monkeypatch, gpus, False, wish)
    with pytest.raises(ValueError, match="COURSE_DEVICE must be one of .*cpu") as error:
        repro.pick_device()
    assert repr(wish) in str(error.value)


@pytest.mark.parametrize(("value", "expected"), [(None, "quick"), ("", "quick"), ("quick", "quick"), ("full", "full"), ("full ", "full")])
def test_profile(monkeypatch, value, expected):
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    if value is not None:
        monkeypatch.setenv("COURSE_PROFILE", value)
    assert repro.profile() == expected


@pytest.mark.parametrize("value", ["fast", "Full", "0"])
def test_a_profile_that_does_not_exist(monkeypatch, value):
    monkeypatch.setenv("COURSE_PROFILE", value)
    with pytest.raises(ValueError, match='COURSE_PROFILE must be "quick" or "full"'):
        repro.profile()
