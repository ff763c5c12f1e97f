from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest

from ngbench.errors import PredictionsError
from ngbench.metrics import METRICS, Metric, Takes

NUM_ROWS = 37
EVERY_METRIC = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
NUMBERS = [metric for metric in METRICS.values() if metric.takes == "numbers"]
EVERY_METRIC_OF_NUMBERS = pytest.mark.parametrize("metric", NUMBERS, ids=lambda metric: metric.name)


def halves(predictions: np.ndarray, targets: np.ndarray) -> float:
    return float("nan") if predictions[0] == targets[0] else 0.5


HALVES = Metric("halves", "½", halves, higher_is_better=True, bounds=(0.0, 1.0), undefined=0.25, description="Half or less.")


def test_the_registry_holds_the_metrics_of_every_task_under_their_own_names():
    by_kind = {kind: {name for name, metric in METRICS.items() if metric.takes == kind} for kind in get_args(Takes)}
    assert by_kind == {
        "numbers": {"kendall_tau", "spearman", "r2", "mae", "rmse"},
        "probabilities": {"accuracy", "macro_f1", "ece", "nll"},
        "rankings": {"map", "recall_at_1", "recall_at_10", "ndcg", "mate_rank"},
    }
    assert all(metric.name == name for name, metric in METRICS.items())


@EVERY_METRIC
def test_perfect_predictions_reach_the_best_bound_and_no_worse_ones_do(metric, example):
    perfect, reversed_order = metric(*example(metric, seed=0)), metric(*example(metric, seed=0, worst=True))
    assert perfect == metric.bounds[1 if metric.higher_is_better else 0]
    assert metric.is_better(perfect, reversed_order)
    assert not metric.is_better(reversed_order, perfect)
    assert not metric.is_better(perfect, perfect)


@EVERY_METRIC
def test_less_noise_scores_better_in_the_declared_direction(metric, example):
    scores = [metric(*example(metric, seed=1, num_rows=101, noise=noise)) for noise in (0.05, 1.0, 6.0)]
    assert metric.is_better(scores[0], scores[1])
    assert metric.is_better(scores[1], scores[2])


@EVERY_METRIC
@pytest.mark.parametrize("noise", [0.0, 0.5, 40.0])
def test_scores_stay_in_bounds(metric, example, noise):
    for seed in range(8):
        for worst in (False, True):
            score = metric(*example(metric, seed=seed, num_rows=1 + 3 * seed, noise=noise, worst=worst))
            assert metric.bounds[0] <= score <= metric.bounds[1]


@EVERY_METRIC
def test_the_order_of_rows_does_not_matter(metric, example):
    predictions, targets = example(metric, seed=2, noise=1.0)
    order = np.random.default_rng(3).permutation(NUM_ROWS)
    assert metric(predictions[order], targets[order]) == pytest.approx(metric(predictions, targets), rel=1e-12)


@EVERY_METRIC
def test_a_mean_of_scores_of_rows_is_the_metric_and_reads_each_row_alone(metric, example):
    predictions, targets = example(metric, seed=4, noise=3.0)
    if metric.of_rows is None:
        # no mean of rows: one row alone has another score
        parts = [metric(predictions[[row]], targets[[row]]) for row in range(NUM_ROWS)]
        assert np.mean(parts) != pytest.approx(metric(predictions, targets), rel=1e-6)
        return
    rows = metric.of_rows(*metric.checked(predictions, targets))
    assert rows.shape == (NUM_ROWS,)
    assert np.nanmean(rows) == pytest.approx(metric(predictions, targets), rel=1e-12)
    alone = [metric.of_rows(*metric.checked(predictions[[row]], targets[[row]]))[0] for row in range(NUM_ROWS)]
    np.testing.assert_allclose(rows, alone, rtol=1e-12)


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.resampled], ids=lambda metric: metric.name)
def test_scores_of_many_draws_are_those_of_each_draw_of_rows(metric, example):
    predictions, targets = example(metric, seed=5, num_rows=7, noise=1.0)
    draws = np.random.default_rng(6).integers(7, size=(60, 7))
    draws[0] = 3
    counts = np.stack([np.bincount(rows, minlength=7) for rows in draws])
    found = metric.resampled(predictions, targets, counts)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found, [metric.function(predictions[rows], targets[rows]) for rows in draws], atol=1e-12)


@EVERY_METRIC
def test_inputs_are_left_unchanged(metric, example):
    predictions, targets = example(metric, seed=7, noise=1.0)
    before = predictions.copy(), targets.copy()
    metric(predictions, targets)
    np.testing.assert_array_equal(predictions, before[0])
    np.testing.assert_array_equal(targets, before[1])


@EVERY_METRIC
def test_lists_and_smaller_types_of_the_same_values_score_alike(metric, example):
    predictions, targets = example(metric, seed=8, worst=True)
    expected = metric(predictions, targets)
    assert metric(predictions.tolist(), targets.tolist()) == expected
    smaller = np.float32 if targets.dtype == np.float64 else np.uint8
    assert metric(predictions.astype(np.float32), targets.astype(smaller)) == expected


@EVERY_METRIC
def test_scores_are_plain_floats(metric, example):
    assert type(metric(*example(metric, seed=9, noise=1.0))) is float
    assert type(metric(*example(metric, seed=9, num_rows=1))) is float


@EVERY_METRIC
def test_a_score_is_a_number_where_the_formula_is_undefined(metric, example):
    predictions, targets = example(metric, seed=10, num_rows=3)
    if metric.takes == "rankings":
        targets = np.where(targets == 3, 3, 0)
    elif metric.takes == "numbers":
        targets = np.full(3, 2.0)
    undefined = math.isnan(metric.function(*metric.checked(predictions, targets)))
    assert undefined == (metric.undefined is not None)
    assert metric.bounds[0] <= metric(predictions, targets) <= metric.bounds[1]


def test_the_undefined_value_stands_in_for_nan_only():
    assert HALVES([1.0, 2.0], [1.0, 2.0]) == 0.25
    assert HALVES([1.0, 2.0], [3.0, 2.0]) == 0.5
    assert math.isnan(dataclasses.replace(HALVES, undefined=None)([1.0], [1.0]))


def test_a_metric_cannot_be_edited():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METRICS["mae"].higher_is_better = True


@EVERY_METRIC_OF_NUMBERS
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
    assert all(np.isfinite(metric(predictions, targets)) for metric in NUMBERS)


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
