"""Types of NumPy arrays, by precision, and indices spread over one. What their axes are stands in docstrings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""Single precision: samples and what a network takes."""

DoubleArray = NDArray[np.float64]
"""Double precision: what is measured and computed."""

IntArray = NDArray[np.int64]
"""Indices, codes and counts."""


def evenly(n: int, most: int) -> list[int]:
    """At most so many of the indices below n, evenly spread, the first and the last among them.

    Example:
        >>> evenly(5, 3), evenly(2, 3)
        ([0, 2, 4], [0, 1])
    """
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))]
