"""The flat MLP learns from weights at their places, and so is the control that invariance checks must refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.flat_mlp import FlatMLP, FlatNetwork
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.loading import GraphBatch
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import ONE_STRUCTURE, PROBLEM, SEVERAL_STRUCTURES, check_method, fake_dataset

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


@pytest.mark.parametrize("option", [{"epochs": 0}, {"width": 0}, {"num_layers": -1}, {"weight_noise": -0.5}, {"clip": 0.0}])
def test_options_out_of_range_are_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=f"^{name} is {value}; expected a number"):
        FlatMLP.Config(**option)


def test_the_activation_is_read_whatever_the_order_of_the_topologies(fitted):
    test = fake_dataset(num_graphs=37, seed=3)
    (bundle,) = test.bundles
    other = replace(bundle, variant=1 - bundle.variant)
    reordered = replace(bundle, variants=bundle.variants[::-1], variant=1 - bundle.variant)
    of_other, of_reordered = (fitted.predict(replace(test, bundles=(changed,))) for changed in (other, reordered))
    assert np.abs(of_other - fitted.predict(test)).min() > 0
    np.testing.assert_array_equal(of_reordered, fitted.predict(test))


def network_of(values):
    network = FlatNetwork(SMALL, ONE_STRUCTURE, num_outputs=1)
    network.standardise(values)
    return network


def test_a_diverged_network_does_not_set_the_scale_and_is_read():
    values = fake_dataset(num_graphs=60).bundles[0].values.clone()
    usual = network_of(values)
    values[7] *= 1e30
    with_diverged = network_of(values).eval()
    torch.testing.assert_close(with_diverged.scale, usual.scale, rtol=0.3, atol=0.0)
    bundle = replace(fake_dataset(num_graphs=60).bundles[0], values=values)
    assert with_diverged(GraphBatch((bundle,))).abs().max() < 100


def test_a_position_that_never_varies_is_only_shifted():
    values = fake_dataset(num_graphs=60).bundles[0].values.clone()
    values[:, 3] = 0.25
    network = network_of(values)
    assert (network.centre[3], network.scale[3]) == (0.25, 1.0)


def test_noise_falls_on_the_weights_in_training_only():
    batch = fake_dataset(num_graphs=9).batch()
    network = network_of(batch.bundles[0].values)
    assert not torch.equal(network.train()(batch), network(batch))
    assert torch.equal(network.eval()(batch), network(batch))


def test_parameters_are_counted(fitted):
    # One-hot: input, output, and for each of two convolutions two activations.
    num_inputs = ONE_STRUCTURE[0].num_values + 6
    assert fitted.num_parameters == (num_inputs + 1) * 32 + 33
