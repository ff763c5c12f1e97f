from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ngbench.metrics import KENDALL_TAU, SPEARMAN

NUM_ROWS = 61
EITHER = pytest.mark.parametrize("metric", [KENDALL_TAU, SPEARMAN], ids=["kendall_tau", "spearman"])
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float)
PAIRS = st.integers(1, 23).flatmap(lambda rows: st.tuples(*2 * [arrays(np.float64, rows, elements=NUMBERS)]))


def tau_b_by_pairs(predictions, targets):
    """Kendall (1945) by its definition, over all pairs of rows."""
    upper = np.triu_indices(len(predictions), k=1)
    order = np.sign(np.subtract.outer(predictions, predictions))[upper]
    target_order = np.sign(np.subtract.outer(targets, targets))[upper]
    return (order * target_order).sum() / math.sqrt(np.count_nonzero(order) * np.count_nonzero(target_order))


def spearman_by_counting(predictions, targets):
    """The Pearson correlation of ranks, where a rank is how many rows lie below plus half of those tied."""
    ranks = [[(values < value).sum() + 0.5 * (values == value).sum() for value in values] for values in (predictions, targets)]
    return np.corrcoef(ranks)[0, 1]


def rows_with_ties(seed, *, num_values):
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_values, size=NUM_ROWS) / 8
    return targets + rng.integers(3, size=NUM_ROWS) / 4, targets


@pytest.mark.parametrize("num_values", [2, 5, 1000])
def test_kendall_tau_equals_scipy_and_the_definition_with_ties(num_values):
    predictions, targets = rows_with_ties(seed=3, num_values=num_values)
    assert KENDALL_TAU(predictions, targets) == pytest.approx(tau_b_by_pairs(predictions, targets), abs=1e-14)
    assert KENDALL_TAU(predictions, targets) == pytest.approx(scipy.stats.kendalltau(predictions, targets).statistic, abs=1e-14)


def test_kendall_tau_is_the_variant_that_corrects_for_ties():
    predictions, targets = rows_with_ties(seed=4, num_values=3)
    tau_c = scipy.stats.kendalltau(predictions, targets, variant="c").statistic
    assert abs(KENDALL_TAU(predictions, targets) - tau_c) > 0.01


@pytest.mark.parametrize("num_values", [2, 5, 1000])
def test_spearman_equals_scipy_and_the_definition_with_ties(num_values):
    predictions, targets = rows_with_ties(seed=5, num_values=num_values)
    assert SPEARMAN(predictions, targets) == pytest.approx(spearman_by_counting(predictions, targets), abs=1e-14)
    assert SPEARMAN(predictions, targets) == pytest.approx(scipy.stats.spearmanr(predictions, targets).statistic, abs=1e-14)


def test_values_computed_by_hand():
    # Of the six pairs five are concordant and one, the two middle rows, is discordant; ρ = 1 - 6·2 / (4·15).
    assert KENDALL_TAU([1.0, 3.0, 2.0, 4.0], [10.0, 20.0, 30.0, 40.0]) == pytest.approx(4 / 6)
    assert SPEARMAN([1.0, 3.0, 2.0, 4.0], [10.0, 20.0, 30.0, 40.0]) == pytest.approx(0.8)


@EITHER
@pytest.mark.parametrize(("predictions", "targets"), [([2.0] * 3, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [2.0] * 3), ([1.0], [2.0])])
def test_constant_predictions_or_targets_score_zero(metric, predictions, targets):
    assert math.isnan(metric.function(np.array(predictions), np.array(targets)))
    assert metric(predictions, targets) == 0.0 == metric.undefined


@EITHER
@given(pair=PAIRS)
def test_rank_correlations_stay_in_bounds_and_are_symmetric(metric, pair):
    predictions, targets = pair
    score = metric(predictions, targets)
    assert metric.bounds[0] <= score <= metric.bounds[1]
    assert score == pytest.approx(metric(targets, predictions), abs=1e-14)


@EITHER
@given(pair=PAIRS)
def test_rank_correlations_change_sign_with_the_predictions(metric, pair):
    predictions, targets = pair
    assert metric(-predictions, targets) == pytest.approx(-metric(predictions, targets), abs=1e-14)


@EITHER
@given(pair=PAIRS)
def test_rank_correlations_read_only_the_order(metric, pair):
    predictions, targets = pair
    ranks = scipy.stats.rankdata(predictions, method="dense")
    assert metric(ranks**3, targets) == metric(predictions, targets)


@EITHER
@given(pair=PAIRS, seed=st.integers(0, 2**16))
def test_rank_correlations_do_not_depend_on_the_order_of_rows(metric, pair, seed):
    predictions, targets = pair
    order = np.random.default_rng(seed).permutation(len(targets))
    assert metric(predictions[order], targets[order]) == pytest.approx(metric(predictions, targets), abs=1e-14)
