"""Peaks of a curve."""

from __future__ import annotations

import numpy as np

from silent2music.arrays import DoubleArray, IntArray


def find_peaks(curve: DoubleArray, height: float, distance: int) -> IntArray:
    """Indices of the local maxima of a curve, ascending; of a flat top its middle.

    The same as `scipy.signal.find_peaks`, whose import takes a second.

    Args:
        curve: `[N]`, N >= 1.
        distance: between two peaks at least; the higher one stays.
    """
    borders = np.flatnonzero(np.diff(curve)) + 1
    starts, ends = np.append(0, borders), np.append(borders, len(curve))
    levels = curve[starts]  # of the runs of equal values
    inner = np.arange(1, len(levels) - 1)
    tops = inner[(levels[inner] > levels[inner - 1]) & (levels[inner] > levels[inner + 1])]
    tops = tops[levels[tops] >= height]
    peaks = (starts[tops] + ends[tops] - 1) // 2
    stays = np.ones(len(peaks), dtype=bool)
    for i in np.argsort(curve[peaks])[::-1]:
        if stays[i]:
            first, last = np.searchsorted(peaks, (peaks[i] - distance + 1, peaks[i] + distance))
            stays[first:last] = False
            stays[i] = True
    return np.asarray(peaks[stays], dtype=np.int64)
