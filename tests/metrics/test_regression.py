from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ngbench.metrics import MAE, R2, RMSE

NUM_ROWS = 53
SKLEARN = {
    "r2": sklearn.metrics.r2_score,
    "mae": sklearn.metrics.mean_absolute_error,
    "rmse": sklearn.metrics.root_mean_squared_error,
}
EVERY_METRIC = pytest.mark.parametrize("metric", [R2, MAE, RMSE], ids=["r2", "mae", "rmse"])
PAIRS = st.integers(1, 19).flatmap(lambda rows: st.tuples(*2 * [arrays(np.float64, rows, elements=st.floats(-1e3, 1e3))]))


def by_formula(name, predictions, targets):
    """Plain Python, from the definitions."""
    pairs = list(zip(predictions.tolist(), targets.tolist(), strict=True))
    if name == "mae":
        return statistics.fmean(abs(p - t) for p, t in pairs)
    mean_square = statistics.fmean((p - t) ** 2 for p, t in pairs)
    return math.sqrt(mean_square) if name == "rmse" else 1 - mean_square / statistics.pvariance(targets.tolist())


@EVERY_METRIC
def test_values_equal_sklearn_and_the_formula(metric):
    rng = np.random.default_rng(6)
    targets = rng.uniform(size=NUM_ROWS)
    predictions = targets + rng.normal(scale=0.3, size=NUM_ROWS)
    assert metric(predictions, targets) == pytest.approx(by_formula(metric.name, predictions, targets), rel=1e-12)
    assert metric(predictions, targets) == pytest.approx(SKLEARN[metric.name](targets, predictions), rel=1e-12)


def test_r2_is_not_symmetric_and_takes_predictions_first():
    predictions, targets = [0.0, 0.0, 3.0], [0.0, 1.0, 2.0]
    assert R2(predictions, targets) == pytest.approx(1 - 2 / 2)
    assert R2(targets, predictions) == pytest.approx(1 - 2 / 6)


def test_r2_of_the_targets_mean_is_zero():
    targets = np.random.default_rng(7).normal(size=NUM_ROWS)
    assert R2(np.full(NUM_ROWS, targets.mean()), targets) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("predictions", [[0.1] * 7, [0.2] * 7, list(range(7))])
def test_r2_is_zero_where_the_targets_are_constant(predictions):
    # The mean of seven times 0.1 is not 0.1 in float64: the variance alone would not tell.
    targets = [0.1] * 7
    assert math.isnan(R2.function(np.array(predictions, dtype=float), np.array(targets)))
    assert R2(predictions, targets) == 0.0 == R2.undefined


def test_r2_is_zero_where_the_targets_spread_is_too_small_to_square():
    assert R2([1.0, 2.0], [1e-170, 2e-170]) == 0.0


@pytest.mark.parametrize("metric", [MAE, RMSE], ids=["mae", "rmse"])
def test_errors_are_defined_for_constants_and_for_one_row(metric):
    assert metric.undefined is None
    assert metric([0.25] * 3, [0.75] * 3) == 0.5
    assert metric([0.25], [0.75]) == 0.5


@EVERY_METRIC
@given(pair=PAIRS)
def test_scores_stay_in_bounds(metric, pair):
    assert metric.bounds[0] <= metric(*pair) <= metric.bounds[1]


@given(pair=PAIRS)
def test_errors_are_symmetric_and_mae_is_at_most_rmse(pair):
    # Errors below 1e-162 square to zero.
    predictions, targets = np.round(pair, 9)
    assert MAE(predictions, targets) == MAE(targets, predictions)
    assert RMSE(predictions, targets) == RMSE(targets, predictions)
    assert MAE(predictions, targets) <= RMSE(predictions, targets) * (1 + 1e-12)
