"""How sure one can be of a mean or of a difference of means."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from silent2music.arrays import DoubleArray

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval over n items.

    Attributes:
        mean: of the items.
        low, high: 2.5th and 97.5th percentile of the resampled means.
        n: number of items.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is sure at 95 %."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def validate_items(values: DoubleArray) -> bool:
    """Whether a list of scores has entries, else mean and interval are NaN; it must be one-dimensional and finite."""
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected one list of finite scores, got shape {values.shape}.")
    if values.size == 0:
        warnings.warn("no items; the interval is not defined.", stacklevel=3)
    return bool(values.size)


def bootstrap_mean(values: DoubleArray, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Interval:
    """The mean with its 95 % percentile bootstrap interval (Efron, Annals of Statistics 7(1), 1979).

    Args:
        values: `[n]`, one per item.
        seed: of the resampling.
        n_resamples: how often to draw.
    """
    if not validate_items(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, (n_resamples, values.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), values.size)


def paired_difference(values: DoubleArray, null_values: DoubleArray, seed: int = 0) -> Interval:
    """Mean of `values - null_values`, item by item, with its 95 % bootstrap interval over items.

    Args:
        values: `[n]` scores under the true condition.
        null_values: `[n]` scores of the same items under the null.
        seed: of the resampling.

    Raises:
        ValueError: if the lengths differ.
    """
    if values.shape != null_values.shape:
        raise ValueError(
            f"a paired difference needs equal lengths, got {values.shape} and {null_values.shape}."
        )
    return bootstrap_mean(values - null_values, seed)


def mean_difference(values: DoubleArray, other_values: DoubleArray, seed: int = 0) -> Interval:
    """Difference of the means of two independent groups, with its 95 % bootstrap interval.

    Args:
        values: `[n]`; other_values: `[m]`, of other items.
        seed: of the resampling.
    """
    if not (validate_items(values) and validate_items(other_values)):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    first, second = (
        v[rng.integers(0, v.size, (N_RESAMPLES, v.size))].mean(axis=1) for v in (values, other_values)
    )
    low, high = np.percentile(first - second, [2.5, 97.5])
    mean = float(values.mean() - other_values.mean())
    return Interval(mean, float(low), float(high), min(values.size, other_values.size))
