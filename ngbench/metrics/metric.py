"""What a metric is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ngbench.metrics.checks import CHECKS, Takes


@dataclass(frozen=True)
class Metric:
    """A score of predictions against targets, and the facts about it that tests, tables and docs read.

    Attributes:
        name: Its name in results, ``snake_case``.
        title: As it is printed.
        function: ``(predictions, targets) -> float`` on checked arrays of the kind that it takes; NaN where the formula is
            undefined.
        higher_is_better: The direction in which methods are ranked.
        bounds: Least and greatest value.
        undefined: The score where ``function`` gives NaN; None for a metric that is defined everywhere.
        description: The formula in words, and when it is undefined.
        takes: The kind of predictions and targets, as of `ngbench.metrics.checks.Takes`.
        of_rows: ``(predictions, targets) -> [rows]`` where the metric is the mean of a score of each row, NaN where a row has
            none; None otherwise.
        resampled: ``(predictions, targets, counts) -> [resamples]``: ``function`` of many draws of rows at once, given how
            often each row was drawn, int64 ``[resamples, rows]``; None where calling it for each draw is fast enough.
    """

    name: str
    title: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    bounds: tuple[float, float]
    undefined: float | None
    description: str
    takes: Takes = "numbers"
    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None

    def __call__(self, predictions: ArrayLike, targets: ArrayLike) -> float:
        """The score of predictions against targets, of the shapes that `takes` says.

        Raises:
            PredictionsError: They are of another kind, not finite, empty, or not as many.
        """
        return self.score_checked(*self.checked(predictions, targets))

    def checked(self, predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and targets as the arrays that the formula reads.

        Raises:
            PredictionsError: As of the call.
        """
        return CHECKS[self.takes](predictions, targets)

    def score_checked(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """The score of arrays that `checked` returned, or rows of them; for loops that check once and score often."""
        score = self.function(predictions, targets)
        return self.undefined if self.undefined is not None and math.isnan(score) else score

    def is_better(self, score: float, other: float) -> bool:
        """Whether a score is strictly better than another in the metric's own direction."""
        return score > other if self.higher_is_better else score < other
