from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ngbench.errors import PredictionsError
from ngbench.metrics import KENDALL_TAU, MAE, METRICS, R2, paired_bootstrap

NUM_ROWS = 83
NUM_SEEDS = 3


def accuracies(seed):
    """Targets, a good method's predictions, and those of a slightly worse one that errs on the same rows."""
    rng = np.random.default_rng(seed)
    targets = rng.uniform(size=NUM_ROWS)
    good = targets + rng.normal(scale=0.2, size=NUM_ROWS)
    return good, good + rng.normal(scale=0.05, size=NUM_ROWS), targets


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_the_interval_is_the_quantiles_of_scores_of_the_drawn_rows(metric):
    predictions, _, targets = accuracies(seed=8)
    rng, scores = np.random.default_rng(11), []
    for _ in range(40):
        rows = rng.integers(NUM_ROWS, size=NUM_ROWS)
        scores.append(metric(predictions[rows], targets[rows]))
    interval = paired_bootstrap(metric, predictions, targets, seed=11, num_resamples=40, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(scores, [0.05, 0.95]), rel=1e-12)
    assert interval.score == pytest.approx(metric(predictions, targets), rel=1e-12)
    assert interval.confidence == 0.9


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    predictions, _, targets = accuracies(seed=9)
    interval = paired_bootstrap(KENDALL_TAU, predictions, targets, seed=0, num_resamples=2000)
    expected = scipy.stats.bootstrap(
        (predictions, targets),
        lambda p, t: scipy.stats.kendalltau(p, t).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.01)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    predictions, _, targets = accuracies(seed=10)
    interval = paired_bootstrap(MAE, predictions, targets, seed=2, num_resamples=2000)
    standard_error = np.abs(predictions - targets).std() / np.sqrt(NUM_ROWS)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.08)


def test_the_difference_is_scored_on_the_same_rows_for_both_methods():
    predictions, other, targets = accuracies(seed=12)
    interval = paired_bootstrap(KENDALL_TAU, predictions, targets, against=other, seed=13, num_resamples=40)
    rng, differences = np.random.default_rng(13), []
    for _ in range(40):
        rows = rng.integers(NUM_ROWS, size=NUM_ROWS)
        differences.append(KENDALL_TAU(predictions[rows], targets[rows]) - KENDALL_TAU(other[rows], targets[rows]))
    assert (interval.low, interval.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-14)
    assert interval.score == pytest.approx(KENDALL_TAU(predictions, targets) - KENDALL_TAU(other, targets), abs=1e-14)


def test_the_paired_interval_is_far_narrower_than_one_from_separate_draws():
    predictions, other, targets = accuracies(seed=14)
    paired = paired_bootstrap(MAE, predictions, targets, against=other, seed=15)
    apart = [paired_bootstrap(MAE, rows, targets, seed=seed) for seed, rows in ((16, predictions), (17, other))]
    widths = [interval.high - interval.low for interval in apart]
    assert paired.high - paired.low < 0.5 * np.hypot(*widths)


def test_a_method_against_itself_differs_by_exactly_nothing():
    predictions, _, targets = accuracies(seed=18)
    interval = paired_bootstrap(R2, predictions, targets, against=predictions, seed=19, num_resamples=20)
    assert (interval.score, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_swapping_the_methods_mirrors_the_interval():
    predictions, other, targets = accuracies(seed=20)
    forward = paired_bootstrap(KENDALL_TAU, predictions, targets, against=other, seed=21, num_resamples=50)
    backward = paired_bootstrap(KENDALL_TAU, other, targets, against=predictions, seed=21, num_resamples=50)
    mirrored = -backward.score, -backward.high, -backward.low
    assert (forward.score, forward.low, forward.high) == pytest.approx(mirrored, abs=1e-14)


def test_a_stack_of_seeds_is_scored_by_its_mean():
    _, _, targets = accuracies(seed=22)
    stack = targets + np.random.default_rng(23).normal(scale=0.2, size=(NUM_SEEDS, NUM_ROWS))
    interval = paired_bootstrap(KENDALL_TAU, stack, targets, seed=24, num_resamples=1)
    rows = np.random.default_rng(24).integers(NUM_ROWS, size=NUM_ROWS)
    assert interval.score == pytest.approx(np.mean([KENDALL_TAU(of_seed, targets) for of_seed in stack]))
    assert interval.low == interval.high
    assert interval.low == pytest.approx(np.mean([KENDALL_TAU(of_seed[rows], targets[rows]) for of_seed in stack]))


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    predictions, _, targets = accuracies(seed=25)
    first, again, other = (paired_bootstrap(MAE, predictions, targets, seed=seed, num_resamples=30) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low
    assert first.score == other.score


def test_undefined_resamples_count_as_the_metrics_undefined_value():
    # Half of the resamples of two rows draw one row twice, which leaves R² undefined.
    interval = paired_bootstrap(R2, [0.0, 1.0], [0.0, 1.0], seed=3, num_resamples=200)
    assert (interval.score, interval.low, interval.high) == (1.0, 0.0, 1.0)


def test_predictions_that_a_metric_refuses_are_refused_for_either_method():
    predictions, other, targets = accuracies(seed=26)
    broken = other.copy()
    broken[7] = np.nan
    with pytest.raises(PredictionsError, match="1 of 83 values .* nan in row 7"):
        paired_bootstrap(MAE, broken, targets, seed=0)
    with pytest.raises(PredictionsError, match="1 of 83 values .* nan in row 7"):
        paired_bootstrap(MAE, predictions, targets, against=np.stack([other, broken]), seed=0)
    with pytest.raises(PredictionsError, match="5 predictions do not match 83 targets"):
        paired_bootstrap(MAE, predictions, targets, against=other[:5], seed=0)


def test_a_stack_without_seeds_is_refused():
    _, _, targets = accuracies(seed=27)
    with pytest.raises(PredictionsError, match=r"shape \[0, 83\]"):
        paired_bootstrap(MAE, np.zeros((0, NUM_ROWS)), targets, seed=0)
