"""How well predictions order the rows: rank correlations, which no monotone rescaling of the predictions changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ngbench.metrics.metric import Metric

_ROWS_AT_ONCE = 512

# scipy.stats takes 0.4 s to import, and most commands only name a metric: the functions import it.


def kendall_tau(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Kendall's τ_b: concordant minus discordant pairs of rows, as a share of the pairs that are not tied.

    τ_b = (P - Q) / sqrt((P + Q + T) (P + Q + U)): P pairs are concordant, Q discordant, T tied in the predictions only and U in
    the targets only (Kendall, "The treatment of ties in ranking problems", Biometrika 1945). NaN where either vector is constant.

    >>> round(kendall_tau(np.array([0.1, 0.4, 0.3]), np.array([0.2, 0.5, 0.9])), 6)
    0.333333
    """
    from scipy.stats import kendalltau

    if _is_constant(predictions) or _is_constant(targets):
        return float("nan")
    result: Any = kendalltau(predictions, targets)  # scipy has no types
    return float(result.statistic)


def resampled_kendall_tau(predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's τ_b of many draws of rows, ``[resamples]``; NaN where a draw leaves either vector constant.

    A pair of rows stands in a draw as often as the product of their counts. So P - Q is a quadratic form of the counts, whose
    matrix all draws share; that takes a third of the time of as many sorts.

    Args:
        predictions: ``[rows]``.
        targets: ``[rows]``.
        counts: How often each row was drawn, ``[resamples, rows]``.
    """
    # multiples of a half below 2²³ are exact in float32, and no sum exceeds the number of rows
    dtype = np.float32 if counts.sum(axis=1).max() < 2**23 else np.float64
    weights, difference = counts.astype(dtype), np.zeros(len(counts))
    for first in range(0, len(targets), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        # each pair once: rows of this stretch with those from its first on, where pairs within it count twice
        order = _order(predictions[rows], predictions[first:]) * _order(targets[rows], targets[first:])
        order[:, : len(order)] /= 2
        sums = weights[:, first:] @ order.T.astype(dtype)
        difference += np.einsum("br,br->b", sums, counts[:, rows], dtype=np.float64)
    untied = [_untied_pairs(values, counts) for values in (predictions, targets)]
    with np.errstate(invalid="ignore"):
        return difference / (np.sqrt(untied[0]) * np.sqrt(untied[1]))


def _order(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where a value is greater than another, -1 where it is smaller, 0 where they are equal, float32 ``[values, others]``."""
    greater = (values[:, np.newaxis] > others).astype(np.float32)
    greater -= values[:, np.newaxis] < others
    return greater


def _untied_pairs(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pairs of drawn rows with different values, float64 ``[resamples]``."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    tied = np.add.reduceat(counts[:, order], starts, axis=1).astype(np.float64)
    return (np.square(counts.sum(axis=1, dtype=np.float64)) - np.square(tied).sum(axis=1)) / 2


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Spearman's ρ: Pearson correlation of the ranks, where tied rows share their mean rank. NaN where either vector is constant.

    >>> spearman(np.array([0.1, 0.4, 0.3]), np.array([0.2, 0.5, 0.9]))
    0.5
    """
    from scipy.stats import rankdata

    if _is_constant(predictions) or _is_constant(targets):
        return float("nan")
    ranks, target_ranks = rankdata(predictions), rankdata(targets)
    # Ranks are multiples of a half, so that these sums are exact; clipping undoes the rounding of the root.
    ranks, target_ranks = ranks - (len(ranks) + 1) / 2, target_ranks - (len(ranks) + 1) / 2
    correlation = ranks @ target_ranks / np.sqrt((ranks @ ranks) * (target_ranks @ target_ranks))
    return float(np.clip(correlation, -1.0, 1.0))


def _is_constant(values: np.ndarray) -> bool:
    return values.min() == values.max()


KENDALL_TAU = Metric(
    "kendall_tau",
    "Kendall τ_b",
    kendall_tau,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    undefined=0.0,
    description="Kendall's τ_b of predictions and targets; 0 where either is constant, since neither then orders the rows.",
    resampled=resampled_kendall_tau,
)

SPEARMAN = Metric(
    "spearman",
    "Spearman ρ",
    spearman,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    undefined=0.0,
    description="Spearman's ρ, the correlation of ranks; 0 where predictions or targets are constant.",
)
