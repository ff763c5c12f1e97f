from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ngbench.errors import PredictionsError
from ngbench.metrics import METRICS, Metric

NUM_ROWS = 37
EVERY_METRIC = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))


def halves(predictions: np.ndarray, targets: np.ndarray) -> float:
    return float("nan") if predictions[0] == targets[0] else 0.5


HALVES = Metric("halves", "½", halves, higher_is_better=True, bounds=(0.0, 1.0), undefined=0.25, description="Half or less.")


def test_the_registry_holds_the_metrics_of_the_first_task_under_their_own_names():
    assert set(METRICS) == {"kendall_tau", "spearman", "r2", "mae", "rmse"}
    assert all(metric.name == name for name, metric in METRICS.items())


@EVERY_METRIC
def test_perfect_predictions_reach_the_best_bound_and_no_worse_ones_do(metric):
    rng = np.random.default_rng(0)
    targets = rng.permutation(NUM_ROWS).astype(float)
    perfect, reversed_order = metric(targets, targets), metric(-targets, targets)
    assert perfect == metric.bounds[1 if metric.higher_is_better else 0]
    assert metric.is_better(perfect, reversed_order)
    assert not metric.is_better(reversed_order, perfect)
    assert not metric.is_better(perfect, perfect)


@EVERY_METRIC
def test_less_noise_scores_better_in_the_declared_direction(metric):
    rng = np.random.default_rng(1)
    targets, noise = rng.normal(size=NUM_ROWS), rng.normal(size=NUM_ROWS)
    scores = [metric(targets + scale * noise, targets) for scale in (0.01, 0.3, 3.0)]
    assert metric.is_better(scores[0], scores[1])
    assert metric.is_better(scores[1], scores[2])


@EVERY_METRIC
def test_inputs_are_left_unchanged(metric):
    predictions, targets = np.random.default_rng(2).normal(size=(2, NUM_ROWS))
    before = predictions.copy(), targets.copy()
    metric(predictions, targets)
    np.testing.assert_array_equal((predictions, targets), before)


@EVERY_METRIC
def test_lists_integers_and_float32_score_as_their_float64_values(metric):
    predictions, targets = [3, 1, 2, 2], [5, 1, 4, 2]
    expected = metric(np.array(predictions, dtype=np.float64), np.array(targets, dtype=np.float64))
    assert metric(predictions, targets) == expected
    assert metric(np.array(predictions, dtype=np.float32), np.array(targets, dtype=np.uint8)) == expected


@EVERY_METRIC
def test_scores_are_plain_floats(metric):
    assert type(metric([1.0, 2.0], [1.0, 3.0])) is float
    assert type(metric([1.0, 1.0], [3.0, 3.0])) is float


def test_the_undefined_value_stands_in_for_nan_only():
    assert HALVES([1.0, 2.0], [1.0, 2.0]) == 0.25
    assert HALVES([1.0, 2.0], [3.0, 2.0]) == 0.5
    assert math.isnan(dataclasses.replace(HALVES, undefined=None)([1.0], [1.0]))


def test_a_metric_cannot_be_edited():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METRICS["mae"].higher_is_better = True


@EVERY_METRIC
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e150])
def test_values_that_are_not_finite_are_refused_with_their_row(metric, value):
    values = np.arange(NUM_ROWS, dtype=float)
    broken = values.copy()
    broken[[5, 9]] = value
    with pytest.raises(PredictionsError, match=rf"predictions hold 2 of 37 values .* {value} in row 5;".replace("+", r"\+")):
        metric(broken, values)
    with pytest.raises(PredictionsError, match="targets hold 2 of 37 values .* in row 5;"):
        metric(values, broken)


def test_the_largest_magnitude_allowed_is_scored_without_overflow():
    predictions, targets = np.array([9e149, -9e149, 0.0]), np.array([-9e149, 9e149, 0.0])
    assert all(np.isfinite(metric(predictions, targets)) for metric in METRICS.values())


def test_vectors_of_different_length_are_refused_with_both_lengths():
    with pytest.raises(PredictionsError, match="3 predictions do not match 5 targets"):
        METRICS["mae"](np.zeros(3), np.zeros(5))


@pytest.mark.parametrize(("shape", "text"), [((), r"\[\]"), ((3, 1), r"\[3, 1\]"), ((2, 3, 5), r"\[2, 3, 5\]")])
def test_anything_but_a_vector_is_refused_with_its_shape(shape, text):
    with pytest.raises(PredictionsError, match=f"predictions have shape {text}"):
        METRICS["mae"](np.zeros(shape), np.zeros(3))


def test_empty_vectors_are_refused():
    with pytest.raises(PredictionsError, match="predictions are empty"):
        METRICS["mae"]([], [])


@pytest.mark.parametrize("values", [["0.1", "0.2"], [True, False], [1j, 2j], [None, 1.0]])
def test_other_than_real_numbers_are_refused_with_their_dtype(values):
    with pytest.raises(PredictionsError, match=f"targets have dtype {np.asarray(values).dtype}"):
        METRICS["mae"]([0.1, 0.2], values)
