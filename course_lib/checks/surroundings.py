"""The state of the interpreter that code reads and writes without naming it: random generators, default types and the like.

In a notebook a check and the code under test share one interpreter, behind a process boundary they do not. Each side
keeps surroundings of its own here too, so that both places say the same.
"""

from __future__ import annotations

import random
import sys
from typing import Any, NamedTuple

import numpy as np
import torch


class Surroundings(NamedTuple):
    """All of it at one moment."""

    random: tuple
    dtype: torch.dtype
    device: torch.device
    grad: bool
    threads: int
    numpy_errors: dict[str, Any]
    recursion: int
    modes: int  # dispatch modes in force: one is left behind where an interrupt hits its exit


def surroundings() -> Surroundings:
    return Surroundings(
        random_states(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        np.geterr(),
        sys.getrecursionlimit(),
        torch._C._len_torch_dispatch_stack(),
    )


def restore_surroundings(saved: Surroundings) -> None:
    while torch._C._len_torch_dispatch_stack() > saved.modes:
        torch._C._pop_torch_dispatch_stack(None)
    if torch.get_default_device() != saved.device:
        torch.set_default_device(None if saved.device.type == "cpu" else saved.device)
    torch.set_default_dtype(saved.dtype)
    torch.set_grad_enabled(saved.grad)
    if torch.get_num_threads() != saved.threads:
        torch.set_num_threads(saved.threads)
    np.seterr(**saved.numpy_errors)
    sys.setrecursionlimit(saved.recursion)
    restore_random_states(saved.random)


def usual_surroundings() -> None:
    """What a fresh interpreter starts with, as far as an oracle's values depend on it."""
    if torch.get_default_device().type != "cpu":
        torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")


def seed_random(seed: int) -> None:
    """Seed the three global random generators a call could draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> tuple:
    """The states of the three global random generators."""
    return torch.random.get_rng_state(), np.random.get_state(), random.getstate()


def restore_random_states(states: tuple) -> None:
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def same_random_states(a: tuple, b: tuple) -> bool:
    return torch.equal(a[0], b[0]) and np.array_equal(a[1][1], b[1][1]) and a[1][2:] == b[1][2:] and a[2] == b[2]
