"""How sure a score is: percentile intervals over resampled test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ngbench.errors import PredictionsError
from ngbench.metrics.metric import Metric, checked_pair


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, on all rows, and the range that holds a ``confidence`` share of its resamples."""

    score: float
    low: float
    high: float
    confidence: float


def paired_bootstrap(
    metric: Metric,
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    seed: int,
    against: ArrayLike | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of a score, or of one method's score minus another's, over resampled rows.

    Rows are drawn with replacement, and a seed draws the same rows for every call with as many targets. Both methods of a
    difference are scored on the same resamples: what is hard in one is hard for both, and cancels
    (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3).

    Args:
        metric: The metric; where a resample leaves it undefined, its ``undefined`` value counts.
        predictions: ``[rows]``, or ``[seeds, rows]`` to score the mean over seeds.
        targets: ``[rows]``.
        seed: Of the draw of rows.
        against: The other method's predictions, ``[rows]`` or ``[seeds, rows]``; its score is subtracted.
        num_resamples: How many times the rows are drawn.
        confidence: Share of the resamples between ``low`` and ``high``.

    Raises:
        PredictionsError: Predictions that the metric refuses, or more than two dimensions.
    """
    targets, _ = checked_pair(targets, targets)
    stack = _checked_stack(predictions, targets)
    other_stack = None if against is None else _checked_stack(against, targets)

    def score(rows: np.ndarray) -> float:
        own = _mean_score(metric, stack[:, rows], targets[rows])
        return own if other_stack is None else own - _mean_score(metric, other_stack[:, rows], targets[rows])

    num_rows, rng = len(targets), np.random.default_rng(seed)
    resampled = [score(rng.integers(num_rows, size=num_rows)) for _ in range(num_resamples)]
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(score=score(np.arange(num_rows)), low=float(low), high=float(high), confidence=confidence)


def _checked_stack(predictions: ArrayLike, targets: np.ndarray) -> np.ndarray:
    array = np.asarray(predictions)
    if array.ndim != 2:
        return checked_pair(array, targets)[0][np.newaxis]
    if len(array) == 0:
        raise PredictionsError(f"predictions have shape {list(array.shape)}; expected [seeds, rows] with at least one seed")
    return np.stack([checked_pair(of_seed, targets)[0] for of_seed in array])


def _mean_score(metric: Metric, stack: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean([metric.score_checked(predictions, targets) for predictions in stack]))
