from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from baselines.flat_mlp import FlatMLP
from ngbench.errors import ConfigError, MethodError
from ngbench.methods import Budget, RunContext, make_method, method_class, methods
from ngbench.testing import PROBLEMS, check_method, fake_classes, fake_dataset

ON_IMAGES_OF_A_ZOO = {"functional-distance", "activation-matching"}
"""Methods that run networks on the images of their zoo, which fakes lack; files of their own test them."""

PREDICTING = [
    name
    for name in methods
    if hasattr(method_class(name), "predict") and "classification" in (method_class(name).info.kinds or ("classification",))
]


@pytest.mark.parametrize("name", sorted(set(methods) - ON_IMAGES_OF_A_ZOO))
def test_every_registered_method_keeps_the_rules(name):
    check_method(name)
    assert method_class(name).info.name == name


@pytest.mark.parametrize("name", PREDICTING)
def test_every_registered_method_that_predicts_learns_classes_of_the_scale_of_weights(name):
    train, val, test = (fake_classes(fake_dataset(num_graphs=size, seed=size)) for size in (121, 61, 121))
    problem, method = PROBLEMS["classification"], make_method(name)
    method.fit(problem, train, val, RunContext(seed=1, budget=Budget(max_epochs=10, num_candidates=1)))
    predictions = method.predict(test.without_targets())
    assert predictions.shape == (121, 3)
    np.testing.assert_allclose(predictions.sum(axis=1), 1.0)
    accuracy, chance = problem.metric(predictions, test.targets), np.bincount(test.targets).max() / 121
    if method.info.access == "none":
        assert accuracy <= chance
    else:
        assert accuracy > chance + 0.1


def test_the_first_methods_are_registered():
    assert {"mean", "hyperparameters", "weight-statistics", "flat-mlp", "ng-gnn"} <= set(methods)


class ClaimsInvariance(FlatMLP):
    """The control: flattened weights change with the order of neurons."""

    info = replace(FlatMLP.info, invariant=True)


def test_flattened_weights_fail_the_check_of_invariance():
    assert not FlatMLP.info.invariant
    with pytest.raises(MethodError, match="predictions of method 'flat-mlp' move by up to .* when hidden neurons are permuted"):
        check_method(ClaimsInvariance)


@pytest.mark.parametrize(
    ("name", "setting", "text"),
    [
        ("ng-gnn", "num_layers=0", "num_layers is 0; expected a number above 0"),
        ("ng-gnn", "clip=-1", "clip is -1.0; expected a number from 0 upward"),
        ("ng-gnn", "dropout=1.5", "dropout is 1.5; expected a share, at least 0 and below 1"),
        ("ng-t", "num_heads=0", "num_heads is 0; expected a number above 0"),
        ("ng-t", "num_heads=3", "attention_channels is 64 with num_heads 3; expected a multiple of it"),
        ("deepset", "clip=0", "clip is 0.0; expected a number above 0"),
        ("matrix-cnn", "channels=0", "channels is 0; expected a number above 0"),
        ("flat-mlp", "dropout=1", "dropout is 1.0; expected a share, at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_built(name, setting, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        make_method(name, dict([setting.split("=")]))
