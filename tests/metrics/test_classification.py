from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ngbench.metrics import ACCURACY, ECE, MACRO_F1, NLL

NUM_ROWS, NUM_CLASSES = 71, 4
EVERY_METRIC = pytest.mark.parametrize("metric", [ACCURACY, MACRO_F1, ECE, NLL], ids=lambda metric: metric.name)
SIZES = st.tuples(st.integers(1, 17), st.integers(2, 5))
CASES = SIZES.flatmap(
    lambda sizes: st.tuples(
        arrays(np.float64, sizes, elements=st.floats(0, 1)), arrays(np.int64, sizes[0], elements=st.integers(0, sizes[1] - 1))
    )
)


def normalized(weights):
    weights = weights + 1e-9
    return weights / weights.sum(axis=1, keepdims=True)


def predicted(seed, *, num_classes=NUM_CLASSES):
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_classes, size=NUM_ROWS)
    return normalized(rng.gamma(1.0, size=(NUM_ROWS, num_classes)) + np.eye(num_classes)[targets]), targets


def ece_by_bins(probabilities, targets, *, num_bins=15):
    """Guo et al. (2017), equations 2 and 3, bin by bin."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for m in range(1, num_bins + 1):
        inside = (confidence > (m - 1) / num_bins) & (confidence <= m / num_bins)
        if inside.any():
            total += inside.sum() / len(targets) * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_sklearn(seed):
    probabilities, targets = predicted(seed)
    named = probabilities.argmax(axis=1)
    assert ACCURACY(probabilities, targets) == pytest.approx(sklearn.metrics.accuracy_score(targets, named), rel=1e-12)
    assert MACRO_F1(probabilities, targets) == pytest.approx(sklearn.metrics.f1_score(targets, named, average="macro"), rel=1e-12)
    loss = sklearn.metrics.log_loss(targets, probabilities, labels=range(NUM_CLASSES))
    assert NLL(probabilities, targets) == pytest.approx(loss, rel=1e-12)
    assert ECE(probabilities, targets) == pytest.approx(ece_by_bins(probabilities, targets), rel=1e-12)


def test_classes_that_do_not_occur_are_left_out_of_the_mean_and_those_only_predicted_count_as_zero():
    # Of five classes the targets have 0 and 1, the predictions name 0 and 4: F1 is 2/3, 0 and 0, and classes 2 and 3 are out.
    probabilities, targets = np.eye(5)[[0, 0, 4]], np.array([0, 1, 0])
    assert MACRO_F1(probabilities, targets) == pytest.approx((0.5 + 0 + 0) / 3)
    named = probabilities.argmax(axis=1)
    assert MACRO_F1(probabilities, targets) == pytest.approx(sklearn.metrics.f1_score(targets, named, average="macro"))


def test_macro_f1_counts_each_class_alike_where_accuracy_counts_rows():
    probabilities, targets = np.eye(2)[[0] * 10], np.array([0] * 9 + [1])
    assert ACCURACY(probabilities, targets) == 0.9
    assert MACRO_F1(probabilities, targets) == pytest.approx(0.5 * 18 / 19)


def test_calibration_error_computed_by_hand():
    # Confidences 0.62 and 0.66, one bin of two: one is right, |1/2 - 0.64|; 0.9 in another bin: right, |1 - 0.9|.
    probabilities = np.array([[0.62, 0.38], [0.66, 0.34], [0.9, 0.1]])
    assert ECE(probabilities, [0, 1, 0]) == pytest.approx(2 / 3 * 0.14 + 1 / 3 * 0.1)


def test_a_bin_holds_its_upper_edge():
    # 0.6 is the upper edge of the ninth bin, with 0.56 in it; 0.61 is in the tenth. Both bins err by their own mean.
    probabilities = np.array([[0.6, 0.4], [0.56, 0.44], [0.61, 0.39]])
    assert ECE(probabilities, [0, 1, 0]) == pytest.approx((abs(1 - 1.16) + abs(1 - 0.61)) / 3)


def test_predictions_that_mean_what_they_say_have_no_calibration_error():
    rng = np.random.default_rng(6)
    probabilities = normalized(rng.gamma(1.0, size=(40_000, NUM_CLASSES)))
    targets = (probabilities.cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1)
    assert ECE(probabilities, targets) < 0.02
    assert ECE(normalized(probabilities**4), targets) > 0.1


def test_the_first_of_equally_probable_classes_is_taken():
    assert ACCURACY(np.full((4, 2), 0.5), [0, 0, 0, 1]) == 0.75


def test_a_certain_mistake_costs_no_more_than_rounding_tells():
    assert NLL([[1.0, 0.0]], [1]) == pytest.approx(52 * np.log(2)) == NLL.bounds[1]
    assert str(NLL([[1.0, 0.0]], [0])) == "0.0"


@EVERY_METRIC
@given(case=CASES)
def test_scores_stay_in_bounds(metric, case):
    assert metric.bounds[0] <= metric(normalized(case[0]), case[1]) <= metric.bounds[1]


@EVERY_METRIC
@given(case=CASES, seed=st.integers(0, 2**16))
def test_scores_do_not_depend_on_the_order_of_rows_or_on_rows_there_twice(metric, case, seed):
    probabilities, targets = normalized(case[0]), case[1]
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(len(targets)), 2))
    assert metric(probabilities[order], targets[order]) == pytest.approx(metric(probabilities, targets), rel=1e-9, abs=1e-12)


@EVERY_METRIC
@given(seed=st.integers(0, 2**16))
def test_scores_do_not_depend_on_the_names_of_classes(metric, seed):
    probabilities, targets = predicted(seed)
    names = np.random.default_rng(seed).permutation(NUM_CLASSES)
    renamed = np.empty_like(probabilities)
    renamed[:, names] = probabilities
    assert metric(renamed, names[targets]) == pytest.approx(metric(probabilities, targets), rel=1e-12)


@given(case=CASES)
def test_calibration_error_is_at_most_the_mean_distance_of_confidence_from_being_right(case):
    probabilities, targets = normalized(case[0]), case[1]
    right = probabilities.argmax(axis=1) == targets
    assert ECE(probabilities, targets) <= np.abs(right - probabilities.max(axis=1)).mean() + 1e-12
    assert ECE(probabilities, targets) >= abs(right.mean() - probabilities.max(axis=1).mean()) - 1e-12
