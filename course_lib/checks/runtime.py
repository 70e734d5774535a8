"""The seed of the check that runs right now, for helpers that draw random numbers on its behalf."""

from __future__ import annotations

from contextvars import ContextVar

_seed: ContextVar[int] = ContextVar("seed of the running check", default=0)


def current_seed() -> int:
    return _seed.get()


def set_current_seed(seed: int) -> None:
    _seed.set(seed)
