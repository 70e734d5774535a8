"""Expected, got and their difference as one small PNG, made without a drawing library: a class has thousands of them."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np

SIDE = 132  # pixels of a panel, at most
GAP = 8
PAPER = 255


def picture(got: dict, expected: dict) -> str:
    """An <img> of two planes as the core packs them ({"shape", "float32"}), expected at the left, got, absolute difference; "" where it
    cannot be."""
    try:
        planes = [_unpacked(plane) for plane in (expected, got)]
    except (KeyError, TypeError, ValueError):
        return ""
    if planes[0].shape != planes[1].shape or planes[0].ndim != 2 or not planes[0].size:
        return ""
    with np.errstate(all="ignore"):
        difference = np.abs(planes[1].astype(np.float64) - planes[0])
    low, high = _limits(planes[0])
    panels = [_grey(planes[0], low, high), _grey(planes[1], low, high), _grey(difference, *_limits(difference, 0.0))]
    factor = max(1, SIDE // max(planes[0].shape))
    panels = [np.kron(panel, np.ones((factor, factor), np.uint8)) for panel in panels]
    gap = np.full((panels[0].shape[0], GAP), PAPER, np.uint8)
    image = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    bad = ~(difference <= 1e-5 * max(abs(low), abs(high), 1e-12))
    rows, columns = np.flatnonzero(bad.any(1)), np.flatnonzero(bad.any(0))
    where = (
        f"they differ in rows {rows[0]} to {rows[-1]} and columns {columns[0]} to {columns[-1]} of {bad.shape}"
        if len(rows)
        else "they hardly differ"
    )
    alt = f"Expected, got and their absolute difference, from left to right, dark is small: {where}"
    data = base64.b64encode(_png(image)).decode()
    return f'<img src="data:image/png;base64,{data}" width="{image.shape[1]}" height="{image.shape[0]}" alt="{escape(alt)}">'


def _unpacked(plane: dict) -> np.ndarray:
    rows, columns = (int(side) for side in plane["shape"])
    return np.frombuffer(base64.b64decode(plane["float32"]), "<f4").reshape(rows, columns)


def _limits(plane: np.ndarray, low: float | None = None) -> tuple[float, float]:
    finite = plane[np.isfinite(plane)].astype(np.float64)
    if not finite.size:
        return 0.0, 1.0
    return (float(finite.min()) if low is None else low), float(finite.max())


def _grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        scaled = (plane.astype(np.float64) - low) / (high - low or 1.0)
    return (255 * np.clip(np.nan_to_num(scaled, nan=1.0, posinf=1.0, neginf=0.0), 0.0, 1.0)).astype(np.uint8)


def _png(grey: np.ndarray) -> bytes:
    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1).tobytes()  # each row begins with its filter, none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b"")
