"""Where chance, hardware and size are decided: one seed, one device, one profile."""

from __future__ import annotations

import os
import random
from typing import Literal

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (CPU and every GPU).

    Call it in the cell that builds a model, so that running the cell again gives the same weights. Data and samples use a
    generator of their own instead. On a GPU some sums run in no fixed order: equal seeds then agree closely, not bit for bit.

    Args:
        seed: whole number, 0 <= seed < 2**32 (the range NumPy takes).

    Raises:
        ValueError: the seed is no whole number or out of range.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))


def pick_device() -> torch.device:
    """The fastest device here: a CUDA GPU, else Apple's (mps), else the CPU. COURSE_DEVICE=cpu (or cuda:1, ...) overrides.

    Raises:
        ValueError: COURSE_DEVICE names no device, or one that this machine does not have.
    """
    wish = os.environ.get("COURSE_DEVICE", "").strip()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = [f"cuda:{i}" for i in range(gpus)] + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]
    if not wish:
        return torch.device(present[0].removesuffix(":0"))
    if wish not in present and f"{wish}:0" not in present:
        raise ValueError(f"COURSE_DEVICE must be one of {', '.join(present)} on this machine, got {wish!r}")
    return torch.device(wish)


def profile() -> Literal["quick", "full"]:
    """The size a notebook runs at, from COURSE_PROFILE: "quick" (a laptop's CPU, the default) or "full" (a GPU).

    Raises:
        ValueError: COURSE_PROFILE is anything else.
    """
    name = os.environ.get("COURSE_PROFILE", "").strip() or "quick"
    if name not in ("quick", "full"):
        raise ValueError(f'COURSE_PROFILE must be "quick" or "full", got {name!r}')
    return name
