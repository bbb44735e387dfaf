"""The heat of an explanation inside a box: its share, and itself."""

from __future__ import annotations

import numpy as np


def inside(heat: np.ndarray, box: np.ndarray) -> tuple[float, bool] | None:
    """The share of the heat inside a box, and whether the maximum is inside (pointing game).

    Args:
        heat: (H, W), not negative.
        box: (4,) x1, y1, x2, y2 in pixels; a pixel is inside if its centre is.

    Returns:
        None if the heat is all zeros.
    """
    within = _within(heat.shape, box)
    total = heat.sum(dtype=np.float64)
    if not total:
        return None
    return float(heat[within].sum(dtype=np.float64) / total), bool(within.flat[heat.argmax()])


def area_share(shape: tuple[int, ...], box: np.ndarray) -> float:
    """The share of a picture's pixels (H, W) inside a box, as `inside` for evenly spread heat."""
    return float(_within(shape, box).mean())


def _within(shape: tuple[int, ...], box: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(size) + 0.5 for size in shape)
    x1, y1, x2, y2 = box
    return np.outer((rows > y1) & (rows < y2), (columns > x1) & (columns < x2))


def scaled_in_box(heat: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The heat inside a box, scaled to 0 to 1, and 0 outside."""
    x1, y1 = np.floor(box[:2]).astype(int).clip(0)
    x2, y2 = np.ceil(box[2:]).astype(int)
    part = heat[y1:y2, x1:x2]
    scaled = np.zeros_like(heat)
    if part.size and part.max() > part.min():
        scaled[y1:y2, x1:x2] = (part - part.min()) / (part.max() - part.min())
    return scaled
