"""Hard cuts of a clip: where one picture follows another that is lastingly unlike it.

Each frame is compared, as a picture of a few hundred points, with the one before it and with those some frames before.
A cut stands out from the differences around it, which a pan does not; and what was seen before it does not come
back within a fifth of a second, which it does after a flash. Dissolves and fades are no cuts here.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.export.picture.clip import Clip, opened, picture
from silent2music.processes import StepProgress

WIDTH, HEIGHT = 32, 18
SHIFTS = [(y, x) for y in (-1, 0, 1) for x in (-2, -1, 0, 1, 2)]
"""By so many points of the small picture a camera may move within a frame."""

FLASH_SECONDS = 0.2
"""What is seen for less is a flash and no scene."""

LEAST_DIFFERENCE = 8.0
"""Mean difference of a cut's pictures, of 255."""

PROMINENCE, AROUND = 2.5, 6
"""A cut is so many times the median difference of the frames around it, on either side."""

RETURNED = 0.4
"""A picture whose difference from an earlier one is less than this share of a cut's has come back."""


def find_cuts(clip: Clip, progress: StepProgress | None = None) -> tuple[float, ...]:
    """The first frame of each scene but the first, in seconds after the clip's first frame.

    Args:
        clip: decoded once, in memory that does not grow.

    Raises:
        AudioError: if the clip's picture cannot be decoded.
    """
    n_lags = max(2, round(FLASH_SECONDS * float(clip.rate))) + 1
    differences, seconds = _differences(clip, n_lags, progress)
    return tuple(float(seconds[t]) for t in cuts_of(differences))


def _differences(clip: Clip, n_lags: int, progress: StepProgress | None) -> tuple[DoubleArray, DoubleArray]:
    """`[T, L]` the difference of each frame from those 1 to L before it, infinite where there is none, and its time."""
    before: deque[FloatArray] = deque(maxlen=n_lags)
    rows: list[DoubleArray] = []
    seconds: list[float] = []
    with opened(clip.path) as container:
        stream = picture(container, clip.path)
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            small = _small(frame)
            row = np.full(n_lags, np.inf)
            for i, other in enumerate(before):
                row[i] = _moved(small, other) if i == 0 else float(np.abs(small - other).mean())
            before.appendleft(small)
            rows.append(row)
            seconds.append(len(seconds) / float(clip.rate) if frame.time is None else frame.time)
            if progress is not None:
                progress(min(len(rows), clip.n_frames), clip.n_frames)
    return np.array(rows), np.array(seconds) - float(clip.begin)


def _small(frame: Any) -> FloatArray:
    """A frame as `[3, HEIGHT, WIDTH]` of luma and chroma, 0 to 255."""
    small = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv444p", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.float32)


def _moved(a: FloatArray, b: FloatArray) -> float:
    """The least mean difference of two pictures, one moved a little."""
    middle = a[:, 1:-1, 2:-2]
    return min(
        float(np.abs(middle - b[:, 1 + y : HEIGHT - 1 + y, 2 + x : WIDTH - 2 + x]).mean()) for y, x in SHIFTS
    )


def cuts_of(differences: DoubleArray) -> list[int]:
    """Frames that begin a scene.

    Args:
        differences: `[T, L]` of each frame from those 1 to L before it.
    """
    n_frames, n_lags = differences.shape
    step, found = differences[:, 0], list[int]()
    for t in range(1, n_frames):
        if step[t] < LEAST_DIFFERENCE:
            continue
        around = [step[max(1, t - AROUND) : t], step[t + 1 : t + 1 + AROUND]]
        usual = max((float(np.median(part)) for part in around if len(part)), default=0.0)
        back = differences[t, 1:]  # this frame, and those before the last
        forth = [differences[t + lag, lag] for lag in range(1, n_lags) if t + lag < n_frames]
        returns = min([*back, *forth], default=np.inf) < RETURNED * step[t]
        if step[t] >= PROMINENCE * usual and not returns and (not found or t - found[-1] >= n_lags - 1):
            found.append(t)
    return found
