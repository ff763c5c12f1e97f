"""What a metric is, and what it accepts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ngbench.errors import PredictionsError

# Squares of larger numbers leave the range of float64.
LARGEST_MAGNITUDE = 1e150


@dataclass(frozen=True)
class Metric:
    """A score of predictions against targets, and the facts about it that tests, tables and docs read.

    Attributes:
        name: Its name in results, ``snake_case``.
        title: As it is printed.
        function: ``(predictions, targets) -> float`` on checked float64 arrays ``[rows]``; NaN where the formula is undefined.
        higher_is_better: The direction in which methods are ranked.
        bounds: Least and greatest value.
        undefined: The score where ``function`` gives NaN; None for a metric that is defined everywhere.
        description: The formula in words, and when it is undefined.
    """

    name: str
    title: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    bounds: tuple[float, float]
    undefined: float | None
    description: str

    def __call__(self, predictions: ArrayLike, targets: ArrayLike) -> float:
        """The score of predictions ``[rows]`` against targets ``[rows]``.

        Raises:
            PredictionsError: Other than two numeric, finite, equally long, non-empty vectors.
        """
        return self.score_checked(*checked_pair(predictions, targets))

    def score_checked(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """The score of arrays that `checked_pair` returned, or rows of them; for loops that check once and score often."""
        score = self.function(predictions, targets)
        return self.undefined if self.undefined is not None and math.isnan(score) else score

    def is_better(self, score: float, other: float) -> bool:
        """Whether a score is strictly better than another in the metric's own direction."""
        return score > other if self.higher_is_better else score < other


def checked_pair(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets as float64 vectors of one length.

    Raises:
        PredictionsError: Either is no vector, not numeric, empty or not finite, or their lengths differ.
    """
    predictions, targets = _checked_vector("predictions", predictions), _checked_vector("targets", targets)
    if len(predictions) != len(targets):
        raise PredictionsError(
            f"{len(predictions)} predictions do not match {len(targets)} targets; give one prediction per target, in their order"
        )
    return predictions, targets


def _checked_vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise PredictionsError(f"{name} have shape {list(array.shape)}; expected one dimension, [rows]; give one number per row")
    if array.size == 0:
        raise PredictionsError(f"{name} are empty; expected at least one row to score")
    if array.dtype.kind not in "iuf":
        raise PredictionsError(f"{name} have dtype {array.dtype}; expected real numbers; convert them to floats")
    array = array.astype(np.float64)
    unusable = ~(np.abs(array) < LARGEST_MAGNITUDE)
    if unusable.any():
        row = int(np.argmax(unusable))
        raise PredictionsError(
            f"{name} hold {unusable.sum()} of {array.size} values that are not finite numbers below {LARGEST_MAGNITUDE:g}, "
            f"the first is {array[row]} in row {row}; give a finite number for every row"
        )
    return array
