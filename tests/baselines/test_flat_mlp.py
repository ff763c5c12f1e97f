"""The flat MLP learns from weights at their places, and so is the control that invariance checks must refuse."""

from dataclasses import replace

import numpy as np
import pytest

from baselines.flat_mlp import FlatMLP
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import PROBLEM, SEVERAL_STRUCTURES, check_method, fake_dataset

CONTEXT = RunContext(seed=5, budget=Budget(max_epochs=25, num_candidates=1))
SMALL = FlatMLP.Config(width=32, num_layers=1, dropout=0.0, epochs=25, learning_rate=3e-3)


@pytest.fixture(scope="module")
def fitted():
    method = FlatMLP(SMALL)
    method.fit(PROBLEM, fake_dataset(num_graphs=160, seed=1), fake_dataset(num_graphs=40, seed=2), CONTEXT)
    return method


def test_it_learns_what_the_scale_of_the_weights_tells(fitted):
    test = fake_dataset(num_graphs=80, seed=3)
    assert KENDALL_TAU(fitted.predict(test.without_targets()), test.targets) > 0.4


def test_its_predictions_move_when_neurons_are_permuted(fitted):
    test = fake_dataset(num_graphs=80, seed=3)
    shift = np.abs(fitted.predict(test) - fitted.predict(test.scrambled(salt="any")))
    assert shift.max() > 0.01


def test_it_fails_the_check_of_a_method_that_claims_to_be_invariant():
    class Claims(FlatMLP):
        info = replace(FlatMLP.info, invariant=True)

    with pytest.raises(MethodError, match="flat-mlp"):
        check_method(Claims)


def test_it_refuses_several_structures_and_one_that_it_was_not_fitted_on(fitted):
    with pytest.raises(GraphError, match="flat-mlp reads networks of one architecture; got 3"):
        FlatMLP(SMALL).fit(PROBLEM, fake_dataset(SEVERAL_STRUCTURES), fake_dataset(SEVERAL_STRUCTURES), CONTEXT)
    with pytest.raises(GraphError, match="flat-mlp"):
        fitted.predict(fake_dataset(SEVERAL_STRUCTURES[2:3]))


def test_it_must_be_fitted_first():
    with pytest.raises(MethodError, match="flat-mlp has not been fitted"):
        FlatMLP().predict(fake_dataset())


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="epochs is 0"):
        FlatMLP.Config(epochs=0)
