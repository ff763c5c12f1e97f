from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
import scipy.stats

from ngbench.errors import PredictionsError
from ngbench.metrics import KENDALL_TAU, MAE, METRICS, R2, Resamples, bootstrap, tied_with_best

NUM_ROWS = 83
NUM_SEEDS = 3


def paired_bootstrap(metric, predictions, targets, *, seed, against=None, num_resamples=1000, confidence=0.95):
    """The interval of a score, or of one method's score minus another's."""
    found = Resamples.of(metric, predictions, targets, seed=seed, num_resamples=num_resamples)
    if against is not None:
        found = found.minus(Resamples.of(metric, against, targets, seed=seed, method="against", num_resamples=num_resamples))
    return found.interval(confidence)


def accuracies(seed):
    """Targets, a good method's predictions, and those of a slightly worse one that errs on the same rows."""
    rng = np.random.default_rng(seed)
    targets = rng.uniform(size=NUM_ROWS)
    good = targets + rng.normal(scale=0.2, size=NUM_ROWS)
    return good, good + rng.normal(scale=0.05, size=NUM_ROWS), targets


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_the_interval_is_the_quantiles_of_scores_of_the_drawn_rows(metric, example):
    predictions, targets = example(metric, seed=8, num_rows=NUM_ROWS, noise=1.0)
    rng, scores = np.random.default_rng(11), []
    for _ in range(40):
        rows = rng.integers(NUM_ROWS, size=NUM_ROWS)
        scores.append(metric(predictions[rows], targets[rows]))
    interval = paired_bootstrap(metric, predictions, targets, seed=11, num_resamples=40, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(scores, [0.05, 0.95]), rel=1e-12)
    assert interval.score == pytest.approx(metric(predictions, targets), rel=1e-12)
    assert interval.confidence == 0.9


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_rows_and_seeds_are_drawn_apart_and_a_draw_is_the_mean_of_the_drawn_seeds(metric, example):
    pairs = [example(metric, seed=28, num_rows=NUM_ROWS, noise=noise) for noise in (0.5, 1.0, 2.0)]
    stack, targets = np.stack([predictions for predictions, _ in pairs]), pairs[0][1]
    found = Resamples.of(metric, stack, targets, seed=29, method="some", num_resamples=30)
    row_rng, seed_rng = np.random.default_rng(29), np.random.default_rng([29, zlib.crc32(b"some")])
    rows = [row_rng.integers(NUM_ROWS, size=NUM_ROWS) for _ in range(30)]
    seeds = seed_rng.integers(NUM_SEEDS, size=(NUM_SEEDS, 30))
    expected = [
        np.mean([metric(stack[seed][drawn], targets[drawn]) for seed in of_draw])
        for drawn, of_draw in zip(rows, seeds.T, strict=True)
    ]
    np.testing.assert_allclose(found.draws, expected, rtol=1e-12)
    assert found.score == pytest.approx(np.mean([metric(predictions, targets) for predictions in stack]), rel=1e-12)


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


def test_seeds_that_differ_widen_the_interval_as_the_variance_of_their_mean_says():
    targets = np.zeros(NUM_ROWS)
    offsets = np.array([0.2, 0.5, 1.1])
    draws = Resamples.of(MAE, targets + offsets[:, np.newaxis], targets, seed=22, num_resamples=4000).draws
    assert draws.std() == pytest.approx(offsets.std() / np.sqrt(NUM_SEEDS), rel=0.05)
    rows = np.random.default_rng(23).normal(size=NUM_ROWS) ** 2
    both = Resamples.of(MAE, rows + offsets[:, np.newaxis], targets, seed=22, num_resamples=4000).draws
    assert both.std() == pytest.approx(np.hypot(draws.std(), rows.std() / np.sqrt(NUM_ROWS)), rel=0.05)


def test_seeds_of_two_methods_are_drawn_apart_and_rows_together():
    targets, offsets = np.zeros(NUM_ROWS), np.array([[0.2], [0.5], [1.1]])
    by_seed, rows = targets + offsets, np.random.default_rng(24).normal(size=NUM_ROWS)
    other_seeds = paired_bootstrap(MAE, by_seed, targets, against=by_seed, seed=25)
    assert other_seeds.score == 0
    assert other_seeds.high - other_seeds.low == pytest.approx(2 * 1.96 * np.sqrt(2) * offsets.std() / np.sqrt(3), rel=0.15)
    same_rows = paired_bootstrap(MAE, np.stack([rows] * 3), targets, against=np.stack([rows] * 2), seed=25)
    assert (same_rows.low, same_rows.high) == pytest.approx((0.0, 0.0), abs=1e-14)


def test_a_mean_of_given_scores_of_rows_has_the_interval_of_a_metric_that_is_one():
    predictions, _, targets = accuracies(seed=30)
    stack = np.stack([predictions, predictions + 0.1])
    of_metric = Resamples.of(MAE, stack, targets, seed=31, num_resamples=50)
    of_rows = Resamples.of_rows(np.abs(stack - targets), seed=31, num_resamples=50)
    assert of_rows.score == pytest.approx(of_metric.score, rel=1e-14)
    np.testing.assert_allclose(of_rows.draws, of_metric.draws, rtol=1e-12)


def test_rows_without_a_score_are_left_out_of_each_draw():
    scores = np.array([0.0, 1.0, np.nan, np.nan])
    found = Resamples.of_rows(scores, seed=32, undefined=-7.0, num_resamples=500)
    rng, expected = np.random.default_rng(32), []
    for _ in range(500):
        drawn = scores[rng.integers(4, size=4)]
        drawn = drawn[~np.isnan(drawn)]
        expected.append(drawn.mean() if len(drawn) else -7.0)
    assert found.score == 0.5
    assert -7.0 in expected
    np.testing.assert_allclose(found.draws, expected, rtol=1e-14)


def test_draws_held_at_once_do_not_change_them(monkeypatch):
    predictions, _, targets = accuracies(seed=33)
    whole = Resamples.of(KENDALL_TAU, predictions, targets, seed=34, num_resamples=25)
    monkeypatch.setattr(bootstrap, "_COUNTS_AT_ONCE", 4 * NUM_ROWS)
    np.testing.assert_array_equal(Resamples.of(KENDALL_TAU, predictions, targets, seed=34, num_resamples=25).draws, whole.draws)


@pytest.mark.parametrize("scores", [np.zeros((0, 3)), np.zeros((2, 3, 5)), [0.5, np.inf], []])
def test_scores_of_rows_that_cannot_be_drawn_are_refused(scores):
    with pytest.raises(PredictionsError, match=re.escape(f"scores of rows have shape {list(np.shape(scores))} and")):
        Resamples.of_rows(scores, seed=0)


def test_methods_are_tied_with_the_best_where_their_difference_may_be_nothing():
    good, close, targets = accuracies(seed=35)
    rng = np.random.default_rng(36)
    entrants = {"poor": targets + rng.normal(size=NUM_ROWS), "close": close, "good": good}
    found = {name: Resamples.of(MAE, values, targets, seed=37, method=name) for name, values in entrants.items()}
    best, ties = tied_with_best(found, higher_is_better=False)
    assert best == min(found, key=lambda name: found[name].score)
    assert ties == ("close", "good")
    for name in entrants:
        interval = paired_bootstrap(MAE, entrants[name], targets, against=entrants[best], seed=37)
        assert interval.holds_zero == (name in ties)
    assert tied_with_best(found, higher_is_better=True) == ("poor", ("poor",))


def test_a_table_without_methods_or_with_other_draws_is_refused():
    with pytest.raises(PredictionsError, match="no methods were given"):
        tied_with_best({}, higher_is_better=True)
    found = [Resamples.of_rows([0.0, 1.0], seed=0, num_resamples=count) for count in (5, 7)]
    with pytest.raises(PredictionsError, match="5 and 7 resamples are not of the same draws"):
        found[0].minus(found[1])


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


def test_rows_of_a_cluster_are_drawn_together_so_that_copies_add_no_certainty():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=60)
    predictions = targets + rng.normal(size=60)
    alone = Resamples.of(METRICS["mae"], predictions, targets, seed=3)
    order = rng.permutation(240)
    copied = [np.repeat(array, 4)[order] for array in (predictions, targets, np.arange(60))]
    together = Resamples.of(METRICS["mae"], copied[0], copied[1], seed=3, clusters=copied[2])
    apart = Resamples.of(METRICS["mae"], copied[0], copied[1], seed=3)
    np.testing.assert_allclose(together.draws, alone.draws, rtol=1e-12)
    assert apart.draws.std() < 0.6 * alone.draws.std()
    rows = np.abs(predictions - targets)
    of_rows = Resamples.of_rows(np.repeat(rows, 4)[order], seed=3, clusters=copied[2])
    np.testing.assert_allclose(of_rows.draws, alone.draws, rtol=1e-12)


def test_a_cluster_for_each_row_is_expected():
    with pytest.raises(PredictionsError, match="3 clusters do not match 4 rows; expected the cluster of each row"):
        Resamples.of(METRICS["mae"], np.zeros(4), np.ones(4), seed=0, clusters=[0, 0, 1])
