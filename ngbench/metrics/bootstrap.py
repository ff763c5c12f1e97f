"""How sure a score is: percentile intervals over resampled test rows and seeds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ngbench.errors import PredictionsError
from ngbench.metrics.checks import NUM_AXES
from ngbench.metrics.metric import Metric

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

# Counts of the rows of so many draws are held at once.
_COUNTS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, on all rows, and the range that holds a ``confidence`` share of its resamples."""

    score: float
    low: float
    high: float
    confidence: float

    @property
    def holds_zero(self) -> bool:
        """Whether nothing, or no difference, is within the range."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Resamples:
    """The score of a method, a mean over its seeds, and the same for many draws of test rows and seeds with replacement.

    Rows and seeds are drawn apart from each other, each row with all seeds and each seed with all rows (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 2007; why seeds too: Bouthillier et al., "Accounting for Variance in Machine Learning
    Benchmarks", MLSys 2021). A seed of the draw draws the same rows for every method with as many, so that what is hard in one
    is hard for all and cancels in their difference; the seeds of a method are its own, and drawn by its name. A few seeds show
    less than their variance, three of them two thirds: the interval is then a little too narrow.

    Attributes:
        score: On all rows and seeds.
        draws: Score of each draw, float64 ``[resamples]``.
    """

    score: float
    draws: np.ndarray

    @classmethod
    def of(
        cls,
        metric: Metric,
        predictions: ArrayLike,
        targets: ArrayLike,
        *,
        seed: int,
        method: str = "",
        clusters: ArrayLike | None = None,
        num_resamples: int = NUM_RESAMPLES,
    ) -> Resamples:
        """Resamples of a metric of predictions.

        Args:
            metric: Where a draw leaves it undefined, its ``undefined`` value counts.
            predictions: Of the kind that the metric takes, or with an axis of seeds in front, ``[seeds, rows, ...]``.
            targets: As of the metric.
            seed: Of the draws.
            method: Whose predictions they are.
            clusters: What rows belong to that are not independent, such as the image of a fit, ``[rows]``; drawn as a whole. A
                row of several, such as a pair of networks, ``[rows, members]``, counts as often as the product of their draws.
            num_resamples: How many draws.

        Raises:
            PredictionsError: Predictions that the metric refuses, or no seed.
        """
        stack, targets = _checked_stack(metric, predictions, targets)
        drawn = _draws(len(targets), clusters, seed=seed, num_resamples=num_resamples)
        if metric.of_rows is not None:
            rows = np.stack([metric.of_rows(of_seed, targets) for of_seed in stack])
            scores, draws = _means_of_draws(rows, drawn)
        else:
            scores, draws = _scores_of_draws(metric, stack, targets, drawn)
        if metric.undefined is not None:
            scores, draws = (np.where(np.isnan(found), metric.undefined, found) for found in (scores, draws))
        return cls._over_seeds(scores, draws, seed=seed, method=method)

    @classmethod
    def of_rows(
        cls,
        scores: ArrayLike,
        *,
        seed: int,
        method: str = "",
        clusters: ArrayLike | None = None,
        undefined: float = 0.0,
        num_resamples: int = NUM_RESAMPLES,
    ) -> Resamples:
        """Resamples of a mean over rows, such as over queries, of the ``of_rows`` of a metric of rankings.

        Args:
            scores: Of each row, NaN where it has none and is left out, ``[rows]`` or ``[seeds, rows]``.
            seed: Of the draws.
            method: Whose scores they are.
            clusters: As of `of`.
            undefined: The mean of rows without any score.
            num_resamples: How many draws.

        Raises:
            PredictionsError: Other shapes, nothing to draw, or an infinite score.
        """
        rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
        if rows.ndim != 2 or rows.size == 0 or np.isinf(rows).any():
            raise PredictionsError(
                f"scores of rows have shape {list(np.shape(scores))} and {np.isinf(rows).sum()} infinite values; "
                "expected finite ones, [rows] or [seeds, rows], or NaN where a row has no score"
            )
        found, draws = _means_of_draws(rows, _draws(rows.shape[1], clusters, seed=seed, num_resamples=num_resamples))
        found, draws = (np.where(np.isnan(part), undefined, part) for part in (found, draws))
        return cls._over_seeds(found, draws, seed=seed, method=method)

    @classmethod
    def _over_seeds(cls, scores: np.ndarray, draws: np.ndarray, *, seed: int, method: str) -> Resamples:
        """From scores ``[seeds]`` and of draws of rows ``[seeds, resamples]``."""
        rng = np.random.default_rng([seed, zlib.crc32(method.encode())])
        drawn = rng.integers(len(scores), size=draws.shape)
        return cls(float(scores.mean()), np.take_along_axis(draws, drawn, axis=0).mean(axis=0))

    def minus(self, other: Resamples) -> Resamples:
        """Of the difference to another method, draw by draw.

        Raises:
            PredictionsError: They are of different numbers of draws.
        """
        if self.draws.shape != other.draws.shape:
            raise PredictionsError(
                f"{len(self.draws)} and {len(other.draws)} resamples are not of the same draws; expected as many of both methods"
            )
        return Resamples(self.score - other.score, self.draws - other.draws)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """The percentile interval that holds a share of the draws."""
        low, high = np.quantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(score=self.score, low=float(low), high=float(high), confidence=confidence)


def tied_with_best(
    methods: Mapping[str, Resamples], *, higher_is_better: bool, confidence: float = CONFIDENCE
) -> tuple[str, tuple[str, ...]]:
    """The best method of a table, and all whose difference to it may be nothing, the best among them.

    Args:
        methods: Resamples of each, of the same rows and draws.
        higher_is_better: The metric's direction.
        confidence: Of the interval of a difference that holds zero.

    Raises:
        PredictionsError: No method, or different numbers of draws.
    """
    if not methods:
        raise PredictionsError("no methods were given to compare; expected the resamples of one or more")
    best = (max if higher_is_better else min)(methods, key=lambda name: methods[name].score)
    ties = [name for name, found in methods.items() if found.minus(methods[best]).interval(confidence).holds_zero]
    return best, tuple(ties)


def _checked_stack(metric: Metric, predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked predictions ``[seeds, rows, ...]`` and targets."""
    array = np.asarray(predictions)
    if array.ndim != NUM_AXES[metric.takes] + 1:
        own, targets = metric.checked(array, targets)
        return own[np.newaxis], targets
    if len(array) == 0:
        raise PredictionsError(f"predictions have shape {list(array.shape)}; expected [seeds, rows] with at least one seed")
    pairs = [metric.checked(of_seed, targets) for of_seed in array]
    return np.stack([own for own, _ in pairs]), pairs[0][1]


def _draws(num_rows: int, clusters: ArrayLike | None, *, seed: int, num_resamples: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, int64 ``[resamples, rows]``, some resamples at a time; clusters are drawn as a whole."""
    owner = np.arange(num_rows) if clusters is None else _numbers_of(np.asarray(clusters))
    if len(owner) != num_rows:
        raise PredictionsError(f"{len(owner)} clusters do not match {num_rows} rows; expected the cluster of each row")
    num_clusters = int(owner.max()) + 1
    rng, at_once = np.random.default_rng(seed), max(1, _COUNTS_AT_ONCE // num_rows)
    for first in range(0, num_resamples, at_once):
        drawn = rng.integers(num_clusters, size=(min(at_once, num_resamples - first), num_clusters))
        counts = _counts(drawn)[:, owner]
        yield counts if counts.ndim == 2 else counts.prod(axis=2)


def _numbers_of(clusters: np.ndarray) -> np.ndarray:
    """Different clusters numbered from 0, in the shape that they have."""
    return np.unique(clusters, return_inverse=True)[1].reshape(clusters.shape)


def _counts(drawn: np.ndarray) -> np.ndarray:
    """How often each of so many is among those drawn, int64 ``[resamples, drawn]``."""
    num_resamples, number = drawn.shape
    shifted = drawn + number * np.arange(num_resamples)[:, np.newaxis]
    return np.bincount(shifted.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _means_of_draws(scores: np.ndarray, draws: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the scores ``[seeds, rows]`` that are numbers, ``[seeds]``, and of draws of the rows, ``[seeds, resamples]``."""
    defined = ~np.isnan(scores)
    values, present = np.where(defined, scores, 0.0), defined.astype(np.float64)
    with np.errstate(invalid="ignore"):
        parts = []
        for counts in draws:
            weights = counts.astype(np.float64).T
            parts.append((values @ weights) / (present @ weights))
        return values.sum(axis=1) / present.sum(axis=1), np.concatenate(parts, axis=1)


def _scores_of_draws(
    metric: Metric, stack: np.ndarray, targets: np.ndarray, draws: Iterator[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Score of each of the stacked predictions, ``[seeds]``, and of draws of the rows, ``[seeds, resamples]``."""
    parts = []
    for counts in draws:
        if metric.resampled is not None:
            parts.append(np.stack([metric.resampled(of_seed, targets, counts) for of_seed in stack]))
        else:
            drawn = [np.repeat(np.arange(len(targets)), count) for count in counts]
            parts.append(np.array([[metric.function(of_seed[rows], targets[rows]) for rows in drawn] for of_seed in stack]))
    scores = np.array([metric.function(of_seed, targets) for of_seed in stack])
    return scores, np.concatenate(parts, axis=1)
