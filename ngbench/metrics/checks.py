"""What kinds of predictions there are, and what each must be before it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ngbench.errors import PredictionsError

Takes = Literal["numbers", "probabilities", "rankings"]
"""Kinds of predictions, with their targets.

``numbers``: ``[rows]``; targets ``[rows]``.
``probabilities``: of classes, ``[rows, classes]``; targets are class indices, int64 ``[rows]``.
``rankings``: similarity of queries to the entries of a gallery, ``[queries, gallery]``; targets are grades of relevance, int64
``[queries, gallery]``: 0 none, 1 related, 2 near, 3 the query's mate, of which each query has one.
"""

MATE = 3

# Squares of larger numbers leave the range of float64.
LARGEST_MAGNITUDE = 1e150

# Probabilities written in half precision still sum to one within this.
SUM_TOLERANCE = 2e-3


def checked_numbers(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets as float64 vectors of one length.

    Raises:
        PredictionsError: Either is no vector, not numeric, empty or not finite, or their lengths differ.
    """
    predictions, targets = _checked_vector("predictions", predictions), _checked_vector("targets", targets)
    _check_lengths(predictions, targets)
    return predictions, targets


def checked_probabilities(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float64 ``[rows, classes]`` whose rows sum to one, and class indices as int64 ``[rows]``.

    Raises:
        PredictionsError: The predictions are no matrix of numbers from 0 whose rows sum to one, or the targets no integers
            below the number of classes, or there are not as many.
    """
    array = _checked_numeric("predictions", predictions, axes=("rows", "classes")).astype(np.float64)
    _check_finite("predictions", array)
    sums = array.sum(axis=1)
    wrong = (array < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise PredictionsError(
            f"predictions hold {wrong.sum()} of {len(array)} rows that are no probabilities, the first is row {row} with least "
            f"value {array[row].min():g} and sum {sums[row]:g}; expected values from 0 that sum to 1: give a softmax's output"
        )
    classes = _checked_integers(targets, axes=("rows",), limit=array.shape[1], named="classes")
    _check_lengths(array, classes)
    return array / sums[:, np.newaxis], classes


def checked_rankings(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Similarities ``[queries, gallery]``, not copied, and their grades of relevance as integers of the same shape.

    A similarity may be minus infinity: farther than all others.

    Raises:
        PredictionsError: Either is no matrix of its numbers, their shapes differ, or a query has not one mate.
    """
    array = _checked_numeric("predictions", predictions, axes=("queries", "gallery"))
    unusable = np.isnan(array) | (array == np.inf)
    if unusable.any():
        query, entry = np.argwhere(unusable)[0]
        raise PredictionsError(
            f"predictions hold {unusable.sum()} of {array.size} similarities that are no numbers below infinity, the first is "
            f"{array[query, entry]} of query {query} to entry {entry}; give a similarity for every entry of the gallery"
        )
    grades = _checked_integers(targets, axes=("queries", "gallery"), limit=MATE + 1, named="grades")
    if grades.shape != array.shape:
        raise PredictionsError(
            f"similarities have shape {list(array.shape)} and grades {list(grades.shape)}; expected one grade for each similarity"
        )
    mates = (grades == MATE).sum(axis=1)
    if (mates != 1).any():
        query = int(np.argmax(mates != 1))
        raise PredictionsError(
            f"query {query} has {mates[query]} entries of grade {MATE} in its gallery; expected one, its own mate"
        )
    return array, grades


CHECKS: Mapping[Takes, Callable[[ArrayLike, ArrayLike], tuple[np.ndarray, np.ndarray]]] = MappingProxyType(
    {"numbers": checked_numbers, "probabilities": checked_probabilities, "rankings": checked_rankings}
)

NUM_AXES: Mapping[Takes, int] = MappingProxyType({"numbers": 1, "probabilities": 2, "rankings": 2})
"""Axes that predictions of a kind have."""


def _checked_vector(name: str, values: ArrayLike) -> np.ndarray:
    array = _checked_numeric(name, values, axes=("rows",)).astype(np.float64)
    _check_finite(name, array)
    return array


def _checked_numeric(name: str, values: ArrayLike, *, axes: tuple[str, ...]) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != len(axes):
        counted = "one dimension" if len(axes) == 1 else f"{len(axes)} dimensions"
        given = "one number per row" if len(axes) == 1 else f"one number for each of {' and '.join(axes)}"
        raise PredictionsError(f"{name} have shape {list(array.shape)}; expected {counted}, [{', '.join(axes)}]; give {given}")
    if array.size == 0:
        raise PredictionsError(f"{name} are empty; expected at least one row to score")
    if array.dtype.kind not in "iuf":
        raise PredictionsError(f"{name} have dtype {array.dtype}; expected real numbers; convert them to floats")
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    unusable = ~(np.abs(array) < LARGEST_MAGNITUDE)
    if unusable.any():
        place = tuple(np.argwhere(unusable)[0])
        raise PredictionsError(
            f"{name} hold {unusable.sum()} of {array.size} values that are not finite numbers below {LARGEST_MAGNITUDE:g}, "
            f"the first is {array[place]} in row {place[0]}; give a finite number for every row"
        )


def _checked_integers(values: ArrayLike, *, axes: tuple[str, ...], limit: int, named: str) -> np.ndarray:
    array = _checked_numeric("targets", values, axes=axes)
    if array.dtype.kind not in "iu":
        raise PredictionsError(f"targets have dtype {array.dtype}; expected integers, the indices of {named}")
    outside = (array < 0) | (array >= limit)
    if outside.any():
        place: Any = tuple(np.argwhere(outside)[0])
        raise PredictionsError(
            f"targets hold {outside.sum()} of {array.size} {named} outside 0 to {limit - 1}, the first is {array[place]} in row "
            f"{place[0]}; expected indices of the {limit} {named}"
        )
    return array.astype(np.int64, copy=False) if array.ndim == 1 else array


def _check_lengths(predictions: np.ndarray, targets: np.ndarray) -> None:
    if len(predictions) != len(targets):
        raise PredictionsError(
            f"{len(predictions)} predictions do not match {len(targets)} targets; give one prediction per target, in their order"
        )
