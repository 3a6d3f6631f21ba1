"""Means and differences of means with bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray

N_RESAMPLES = 2000


Interval = dict[str, Any]
"""`mean` of n items, `low` and `high` ends of its 95 % bootstrap interval, `n`, and whether it `excludes_zero`."""


def interval_text(value: Interval | None, style: str = ".3f") -> str:
    """An interval for reading, `mean [low, high]`; nothing of none."""
    return "" if not value else f"{value['mean']:{style}} [{value['low']:{style}}, {value['high']:{style}}]"


def spread(values: Sequence[float]) -> dict[str, float]:
    """A distribution in five figures."""
    names, shares = ("min", "percentile_5", "median", "percentile_95", "max"), (0, 5, 50, 95, 100)
    return dict(zip(names, np.percentile(values, shares).tolist(), strict=True))


def validate_values(values: DoubleArray) -> bool:
    """Whether a list of scores, levels or samples has entries; it must be one-dimensional and finite."""
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected one list of finite values, got shape {values.shape}.")
    if values.size == 0:
        warnings.warn(
            "no items: the list is empty, the score the worst, an interval undefined.", stacklevel=3
        )
    return bool(values.size)


def bootstrap_mean(values: DoubleArray, seed: int = 0) -> Interval:
    """The mean with its 95 % percentile bootstrap interval (Efron, Annals of Statistics 7(1), 1979).

    Args:
        values: `[n]`, one per item.
    """
    if not validate_values(values):
        return _interval(float("nan"), np.full(1, np.nan), 0)
    return _interval(float(values.mean()), _resampled_means(values, np.random.default_rng(seed)), values.size)


def paired_difference(values: DoubleArray, null_values: DoubleArray, seed: int = 0) -> Interval:
    """Mean of `values - null_values`, item by item, with its 95 % bootstrap interval over items.

    Args:
        values: `[n]` scores under the true condition.
        null_values: `[n]` scores of the same items under the null.

    Raises:
        ValueError: if the lengths differ.
    """
    if values.shape != null_values.shape:
        raise ValueError(
            f"a paired difference needs equal lengths, got {values.shape} and {null_values.shape}."
        )
    return bootstrap_mean(values - null_values, seed)


def bootstrap_ratio(values: DoubleArray, other_values: DoubleArray, seed: int = 0) -> Interval:
    """Mean of `values` over mean of `other_values` of the same items, with its 95 % bootstrap interval over items.

    Args:
        values: `[n]`; other_values: `[n]`, not negative, of a mean above 0.

    Raises:
        ValueError: if the lengths differ.
    """
    if values.shape != other_values.shape:
        raise ValueError(f"a ratio needs equal lengths, got {values.shape} and {other_values.shape}.")
    if not (validate_values(values) and validate_values(other_values)):
        return _interval(float("nan"), np.full(1, np.nan), 0)
    means = [_resampled_means(each, np.random.default_rng(seed)) for each in (values, other_values)]
    least = 1e-3 * float(other_values.mean())
    return _interval(
        float(values.mean() / other_values.mean()), means[0] / np.maximum(means[1], least), values.size
    )


def mean_difference(values: DoubleArray, other_values: DoubleArray, seed: int = 0) -> Interval:
    """Difference of the means of two independent groups, with its 95 % bootstrap interval.

    Args:
        values: `[n]`; other_values: `[m]`, of other items.
    """
    if not (validate_values(values) and validate_values(other_values)):
        return _interval(float("nan"), np.full(1, np.nan), 0)
    rng = np.random.default_rng(seed)
    gaps = _resampled_means(values, rng) - _resampled_means(other_values, rng)
    return _interval(float(values.mean() - other_values.mean()), gaps, min(values.size, other_values.size))


def mean_figures(rows: Sequence[Mapping[str, float]], names: Iterable[str], seed: int) -> dict[str, Interval]:
    """The mean of each figure over the items that have it, by `bootstrap_mean`."""
    values = {name: np.array([row[name] for row in rows if name in row]) for name in names}
    return {name: bootstrap_mean(own, seed) for name, own in values.items() if own.size}


def figure_differences(
    rows: Sequence[Mapping[str, float]], nulls: Sequence[Mapping[str, float]], names: Iterable[str], seed: int
) -> dict[str, Interval]:
    """The `paired_difference` of each figure over the items that have it under both, if there are two or more."""
    result = {}
    for name in names:
        both = [(r[name], s[name]) for r, s in zip(rows, nulls, strict=True) if name in r and name in s]
        if len(both) >= 2:
            values, null_values = np.array(both).T
            result[name] = paired_difference(values, null_values, seed)
    return result


def _resampled_means(values: DoubleArray, rng: np.random.Generator) -> DoubleArray:
    return np.asarray(values[rng.integers(0, values.size, (N_RESAMPLES, values.size))].mean(axis=1))


def _interval(mean: float, resampled: DoubleArray, n: int) -> Interval:
    low, high = (float(value) for value in np.percentile(resampled, [2.5, 97.5]))
    return {"mean": mean, "low": low, "high": high, "n": n, "excludes_zero": low > 0 or high < 0}
