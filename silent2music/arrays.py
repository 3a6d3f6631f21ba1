"""Types of NumPy arrays, by precision. What their axes are stands in docstrings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""Single precision: samples and what a network takes."""

DoubleArray = NDArray[np.float64]
"""Double precision: what is measured and computed."""

IntArray = NDArray[np.int64]
"""Indices, codes and counts."""
