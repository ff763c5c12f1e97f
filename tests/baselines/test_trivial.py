from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from baselines.fitting import boosting
from baselines.trivial import Hyperparameters, Majority, Mean
from ngbench.errors import MethodError
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.testing import PROBLEM, PROBLEMS, fake_classes, fake_dataset

NUM_TRAIN, NUM_VAL, NUM_TEST = 83, 41, 29


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(boosting, "CANDIDATES", tuple({**candidate, "max_iter": 40} for candidate in boosting.CANDIDATES))


def context(*, seed=0):
    return RunContext(seed=seed, budget=Budget(max_epochs=1, num_candidates=2))


@pytest.fixture(scope="module")
def splits():
    return tuple(fake_dataset(num_graphs=size, seed=seed) for seed, size in enumerate((NUM_TRAIN, NUM_VAL, NUM_TEST)))


def fitted(splits, **options):
    method = Hyperparameters()
    method.fit(PROBLEM, splits[0], splits[1], context(**options))
    return method


def with_columns(dataset, **columns):
    return replace(dataset, hyperparameters={**dataset.hyperparameters, **columns})


def test_the_mean_is_that_of_the_training_targets_alone(splits):
    train, val, test = splits
    method = Mean()
    method.fit(PROBLEM, replace(train, targets=np.arange(NUM_TRAIN)), val, context())
    predictions = method.predict(test)
    np.testing.assert_array_equal(predictions, np.full(NUM_TEST, 41.0))
    assert predictions.dtype == np.float64
    assert method.num_parameters == 1


def test_the_majority_gives_the_shares_of_the_classes_in_training_alone(splits):
    train, val, test = splits
    method = Majority()
    classes = np.repeat([2, 0], [60, NUM_TRAIN - 60])
    method.fit(
        PROBLEMS["classification"], replace(train, targets=classes), replace(val, targets=np.ones(NUM_VAL, int)), context()
    )
    predictions = method.predict(test)
    np.testing.assert_allclose(predictions, np.tile([23 / 83, 0, 60 / 83], (NUM_TEST, 1)), rtol=1e-15)
    assert (predictions.dtype, method.num_parameters) == (np.float64, 3)


def test_hyperparameters_predict_classes_too(splits):
    train, val, test = (fake_classes(split) for split in splits)
    method = Hyperparameters()
    method.fit(PROBLEMS["classification"], train, val, context())
    predictions = method.predict(test.without_targets())
    assert predictions.shape == (NUM_TEST, 3)
    assert PROBLEMS["classification"].metric(predictions, test.targets) > 0.8


def test_hyperparameters_predict_what_the_recipe_tells(splits):
    test = splits[2]
    assert PROBLEM.metric(fitted(splits).predict(test.without_targets()), test.targets) > 0.6


def test_hyperparameters_never_look_at_the_weights(splits):
    test = splits[2]
    other_weights = replace(fake_dataset(num_graphs=NUM_TEST, seed=7), hyperparameters=test.hyperparameters)
    method = fitted(splits)
    np.testing.assert_array_equal(method.predict(other_weights), method.predict(test))
    assert not np.array_equal(method.predict(fake_dataset(num_graphs=NUM_TEST, seed=7)), method.predict(test))


def test_a_column_of_texts_alone_is_enough_to_predict_from(splits):
    kinds = np.array(["adam", "sgd", "rmsprop"])
    effect = {"adam": 0.9, "sgd": 0.1, "rmsprop": 0.5}

    def of_kind(dataset):
        column = kinds[np.arange(len(dataset)) % 3]
        targets = np.array([effect[kind] for kind in column])
        return replace(dataset, hyperparameters={"optimizer": column}, targets=targets)

    train, val, test = map(of_kind, splits)
    np.testing.assert_allclose(fitted((train, val)).predict(test), test.targets, atol=0.1)


@pytest.mark.parametrize("dtype", ["U8", "S8", object])
def test_texts_of_any_dtype_are_categories(splits, dtype):
    def retyped(dataset):
        return with_columns(dataset, activation=dataset.hyperparameters["activation"].astype(dtype))

    train, val, test = splits
    expected = fitted(splits).predict(test)
    np.testing.assert_array_equal(fitted((retyped(train), retyped(val))).predict(retyped(test)), expected)


def test_a_category_that_training_lacks_counts_as_missing(splits):
    test = splits[2]
    unseen = [with_columns(test, activation=np.full(NUM_TEST, name)) for name in ("aaa", "zzz")]
    method = fitted(splits)
    predictions = [method.predict(dataset) for dataset in unseen]
    assert np.isfinite(predictions).all()
    np.testing.assert_array_equal(*predictions)


def test_a_missing_number_is_predicted_from_the_rest(splits):
    test = splits[2]
    method = fitted(splits)
    assert np.isfinite(method.predict(with_columns(test, init_scale=np.full(NUM_TEST, np.nan)))).all()


def test_the_order_of_columns_does_not_matter_when_predicting(splits):
    test = splits[2]
    method = fitted(splits)
    reversed_columns = dict(reversed(test.hyperparameters.items()))
    np.testing.assert_array_equal(method.predict(replace(test, hyperparameters=reversed_columns)), method.predict(test))


def test_networks_without_recipe_columns_are_refused_when_fitting(splits):
    train, val, _ = splits
    bare = replace(train, hyperparameters={})
    with pytest.raises(
        MethodError, match="'hyperparameters' got 83 networks without recipe columns; expected a zoo that has them"
    ):
        Hyperparameters().fit(PROBLEM, bare, val, context())


def test_networks_that_lack_a_fitted_column_are_refused_with_its_name(splits):
    test = splits[2]
    bare = GraphDataset(test.ids, test.bundles, None, {"activation": test.hyperparameters["activation"]})
    with pytest.raises(
        MethodError, match="fitted on columns activation, init_scale, of which the networks lack init_scale; expected"
    ):
        fitted(splits).predict(bare)


def test_a_seed_gives_the_same_predictions_twice_and_another_seed_others(splits):
    test = splits[2]
    np.testing.assert_array_equal(fitted(splits, seed=3).predict(test), fitted(splits, seed=3).predict(test))
    assert not np.array_equal(fitted(splits, seed=3).predict(test), fitted(splits, seed=4).predict(test))


def test_a_column_that_all_training_networks_lack_is_left_out(splits):
    def with_heads(dataset, heads):
        return replace(dataset, hyperparameters={**dataset.hyperparameters, "num_heads": np.full(len(dataset), heads)})

    train, val, test = splits
    method = fitted((with_heads(train, np.nan), with_heads(val, np.nan)))
    np.testing.assert_array_equal(method.predict(with_heads(test, 4.0)), fitted(splits).predict(test))
