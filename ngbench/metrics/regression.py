"""How far predictions lie from the targets."""

from __future__ import annotations

import numpy as np

from ngbench.metrics.metric import Metric


def r2(predictions: np.ndarray, targets: np.ndarray) -> float:
    """R²: the share of the targets' variance that the predictions explain, 1 - Σ(prediction - target)² / Σ(target - mean)².

    Zero for the mean of the targets themselves, negative without limit for worse predictions. NaN where the targets are
    constant, also when the predictions are perfect: there is no variance to explain.

    >>> r2(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    0.5
    """
    deviations, errors = targets - targets.mean(), predictions - targets
    variation = float(deviations @ deviations)
    # The mean of equal numbers may be rounded, so that a constant is told by its extremes; a spread below 1e-162 squares to zero.
    if targets.min() == targets.max() or variation == 0.0:
        return float("nan")
    return 1.0 - float(errors @ errors) / variation


def absolute_errors(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Distance of each prediction from its target, ``[rows]``."""
    return np.abs(predictions - targets)


def mae(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Mean absolute error, in units of the target.

    >>> mae(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.5]))
    0.5
    """
    return float(absolute_errors(predictions, targets).mean())


def rmse(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Root of the mean squared error, in units of the target.

    >>> rmse(np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 2.0, 2.0, 3.0]))
    1.0
    """
    return float(np.sqrt(np.square(predictions - targets).mean()))


R2 = Metric(
    "r2",
    "R²",
    r2,
    higher_is_better=True,
    bounds=(-np.inf, 1.0),
    undefined=0.0,
    description="R², the share of the targets' variance explained; 0, as for predicting their mean, where they are constant.",
)

MAE = Metric(
    "mae",
    "MAE",
    mae,
    higher_is_better=False,
    bounds=(0.0, np.inf),
    undefined=None,
    description="Mean absolute error, in units of the target.",
    of_rows=absolute_errors,
)

RMSE = Metric(
    "rmse",
    "RMSE",
    rmse,
    higher_is_better=False,
    bounds=(0.0, np.inf),
    undefined=None,
    description="Root of the mean squared error, in units of the target.",
)
