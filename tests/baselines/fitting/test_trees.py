from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from baselines.fitting.trees import Trees
from ngbench.errors import ResultError

NUM_TRAIN, NUM_TEST, NUM_FEATURES = 150, 211, 5
IS_CATEGORICAL = np.array([False, True, False, True, False])
OPTIONS = {"max_iter": 12, "max_leaf_nodes": 9, "min_samples_leaf": 4, "early_stopping": False, "random_state": 0}


def features(num_rows, seed):
    """Numbers and codes of 40 and of 3 categories, some missing."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(num_rows, NUM_FEATURES))
    table[:, 1], table[:, 3] = rng.integers(0, 40, num_rows), rng.integers(0, 3, num_rows)
    table[rng.random(table.shape) < 0.1] = np.nan
    return table


def score(table):
    return np.nan_to_num(table[:, 0]) + (np.nan_to_num(table[:, 1]) % 7 > 2) - np.nan_to_num(table[:, 3])


TRAIN, TEST = features(NUM_TRAIN, 0), features(NUM_TEST, 1)


@pytest.mark.parametrize("is_categorical", [None, IS_CATEGORICAL])
def test_trees_predict_as_scikit_learn_does_to_the_bit(is_categorical):
    model = HistGradientBoostingRegressor(categorical_features=is_categorical, **OPTIONS).fit(TRAIN, score(TRAIN))
    trees = Trees.of(model)
    assert (len(trees.bitsets) > 0) == (is_categorical is not None)
    np.testing.assert_array_equal(trees.predict(TEST), model.predict(TEST))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probabilities_of_classes_are_those_of_scikit_learn(num_classes):
    labels = np.digitize(score(TRAIN), np.linspace(-1, 1, num_classes - 1))
    model = HistGradientBoostingClassifier(categorical_features=IS_CATEGORICAL, **OPTIONS).fit(TRAIN, labels)
    trees = Trees.of(model)
    np.testing.assert_allclose(trees.probabilities(TEST), model.predict_proba(TEST), rtol=1e-12)
    np.testing.assert_array_equal(trees.classes, np.arange(num_classes))


def test_unknown_categories_count_as_missing():
    model = HistGradientBoostingRegressor(categorical_features=IS_CATEGORICAL, **OPTIONS).fit(TRAIN, score(TRAIN))
    unknown, missing = TEST.copy(), TEST.copy()
    unknown[:, 1], missing[:, 1] = 99, np.nan
    np.testing.assert_array_equal(Trees.of(model).predict(unknown), Trees.of(model).predict(missing))


def test_a_row_is_read_by_itself():
    trees = Trees.of(HistGradientBoostingRegressor(**OPTIONS).fit(TRAIN, score(TRAIN)))
    alone = np.concatenate([trees.predict(row[None]) for row in TEST])
    np.testing.assert_array_equal(trees.predict(TEST), alone)
    assert trees.predict(TEST[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["left", "right", "feature", "roots", "order", "bitset", "threshold"])
def test_arrays_that_are_no_trees_are_refused(name):
    trees = Trees.of(HistGradientBoostingRegressor(**OPTIONS).fit(TRAIN, score(TRAIN)))
    array = getattr(trees, name)
    wrong = array[:-1] if name == "threshold" else np.full_like(array, 10**6)
    with pytest.raises(ResultError, match=f"arrays of {len(trees.value)} nodes on {NUM_FEATURES} features are no trees"):
        replace(trees, **{name: wrong})


def test_a_tree_that_leads_back_to_its_parent_is_refused():
    trees = Trees.of(HistGradientBoostingRegressor(**OPTIONS).fit(TRAIN, score(TRAIN)))
    left = trees.left.copy()
    inner = np.flatnonzero(left != np.arange(len(left)))
    left[inner[1]] = inner[0]
    with pytest.raises(ResultError, match="are no trees"):
        replace(trees, left=left)
