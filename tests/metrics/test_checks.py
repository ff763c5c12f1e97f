from __future__ import annotations

import numpy as np
import pytest

from ngbench.errors import PredictionsError
from ngbench.metrics import METRICS
from ngbench.metrics.checks import checked_probabilities, checked_rankings

NUM_ROWS, NUM_CLASSES = 6, 3
NUM_QUERIES, NUM_ENTRIES = 4, 5
OF_KIND = {kind: [metric for metric in METRICS.values() if metric.takes == kind] for kind in ("probabilities", "rankings")}


def classified():
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(NUM_CLASSES), size=NUM_ROWS), rng.integers(NUM_CLASSES, size=NUM_ROWS)


def ranked():
    rng = np.random.default_rng(1)
    grades = rng.integers(3, size=(NUM_QUERIES, NUM_ENTRIES))
    grades[:, 2] = 3
    return rng.normal(size=(NUM_QUERIES, NUM_ENTRIES)), grades


def edited(array, row, value):
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize("metric", OF_KIND["probabilities"], ids=lambda metric: metric.name)
@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([0.5, 0.25, 0.3], "1 of 6 rows that are no probabilities, the first is row 4 with least value 0.25 and sum 1.05"),
        ([1.1, 0.2, -0.3], "the first is row 4 with least value -0.3 and sum 1;"),
        ([np.nan, 0.5, 0.5], "1 of 18 values that are not finite .* nan in row 4"),
        ([np.inf, 0.0, 0.0], "1 of 18 values that are not finite .* inf in row 4"),
        ([0.0, 0.0, 0.0], "least value 0 and sum 0;"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused_by_every_metric_of_them(metric, row, text):
    predictions, targets = classified()
    with pytest.raises(PredictionsError, match=text):
        metric(edited(predictions, 4, row), targets)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ([0, 1, 3, 2, 7, 0], "2 of 6 classes outside 0 to 2, the first is 3 in row 2; expected indices of the 3 classes"),
        ([0, 1, -1, 2, 1, 0], "the first is -1 in row 2"),
        ([0.0, 1.0, 1.0, 2.0, 1.0, 0.0], "targets have dtype float64; expected integers, the indices of classes"),
        ([True] * 6, "targets have dtype bool"),
        ([0, 1], "6 predictions do not match 2 targets"),
        ([[0, 1, 2]], r"targets have shape \[1, 3\]; expected one dimension, \[rows\]"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets, text):
    with pytest.raises(PredictionsError, match=text):
        checked_probabilities(classified()[0], targets)


@pytest.mark.parametrize(
    ("predictions", "text"),
    [
        (np.zeros(6), r"predictions have shape \[6\]; expected 2 dimensions, \[rows, classes\]; give one number for each"),
        (np.zeros((2, 6, 3)), r"predictions have shape \[2, 6, 3\]"),
        (np.zeros((0, 3)), "predictions are empty"),
        (np.full((6, 3), "a"), "predictions have dtype <U1"),
    ],
)
def test_other_shapes_than_rows_and_classes_are_refused(predictions, text):
    with pytest.raises(PredictionsError, match=text):
        checked_probabilities(predictions, classified()[1])


def test_probabilities_written_in_half_precision_are_taken_and_sum_to_one_again():
    predictions, targets = classified()
    found, _ = checked_probabilities(predictions.astype(np.float16), targets)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(found, predictions, atol=1e-3)


@pytest.mark.parametrize("metric", OF_KIND["rankings"], ids=lambda metric: metric.name)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_similarities_that_are_no_numbers_are_refused_by_every_metric_of_rankings(metric, value):
    similarity, grades = ranked()
    with pytest.raises(PredictionsError, match=f"1 of 20 similarities .* the first is {value} of query 3 to entry 1"):
        metric(edited(similarity, (3, 1), value), grades)


def test_a_similarity_of_minus_infinity_is_taken():
    similarity, grades = ranked()
    assert checked_rankings(edited(similarity, (3, 1), -np.inf), grades)[0][3, 1] == -np.inf


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (((1, 2), 0), "query 1 has 0 entries of grade 3"),
        (((2, 4), 3), "query 2 has 2 entries of grade 3"),
        (((2, 4), 4), "1 of 20 grades outside 0 to 3, the first is 4 in row 2"),
    ],
)
def test_grades_without_exactly_one_mate_are_refused(edit, text):
    similarity, grades = ranked()
    with pytest.raises(PredictionsError, match=text):
        checked_rankings(similarity, edited(grades, *edit))


def test_grades_of_another_shape_are_refused():
    similarity, grades = ranked()
    with pytest.raises(PredictionsError, match=r"similarities have shape \[4, 5\] and grades \[4, 4\]"):
        checked_rankings(similarity, grades[:, :4])
