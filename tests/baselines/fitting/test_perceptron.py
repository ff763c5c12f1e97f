"""The perceptron on a table: standardised, imputed and flagged, trained as modules on networks are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.fitting import perceptron
from baselines.fitting.perceptron import Config, Perceptron
from baselines.fitting.tables import Table
from ngbench.errors import ConfigError
from ngbench.methods import Budget, RunContext
from ngbench.testing import PROBLEM, fake_dataset

NUM_TRAIN, NUM_VAL, NUM_FEATURES = 203, 61, 5
CONFIG = Config(epochs=15, width=16, num_layers=2, learning_rate=1e-2)
CONTEXT = RunContext(seed=4, budget=Budget(max_epochs=100, num_candidates=1))


def table(num_graphs, seed):
    """The first feature decides, the third is missing in places, the fourth everywhere, the others say nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_graphs, NUM_FEATURES))
    targets = 0.5 + 0.4 * np.tanh(features[:, 0]) + 0.02 * rng.normal(size=num_graphs)
    features[:, 1] = 1000 + 0.01 * features[:, 1]
    features[::3, 2] = np.nan
    features[:, 3] = np.nan
    return Table(features, targets)


TRAIN, VAL = table(NUM_TRAIN, 0), table(NUM_VAL, 1)


def inputs_of(module, features):
    """What the first layer reads."""
    seen = []
    module.layers.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module(torch.from_numpy(features))
    return seen[0].detach().numpy()


def test_features_have_median_zero_and_missing_ones_are_that_median_and_flagged():
    module = Perceptron(CONFIG, TRAIN.features, num_outputs=1).double().eval()
    inputs = inputs_of(module, TRAIN.features)
    assert inputs.shape == (NUM_TRAIN, NUM_FEATURES + 2)
    np.testing.assert_allclose(np.median(inputs[:, :2], axis=0), 0, atol=1e-12)
    low, high = np.quantile(inputs[:, :2], (0.16, 0.84), axis=0)
    np.testing.assert_allclose((high - low) / 2, 1, rtol=1e-12)
    np.testing.assert_array_equal(inputs[::3, 2], 0)
    np.testing.assert_array_equal(inputs[:, 3], 0)
    np.testing.assert_array_equal(inputs[:, 5], np.arange(NUM_TRAIN) % 3 == 0)
    np.testing.assert_array_equal(inputs[:, 6], 1)


def test_a_feature_that_training_never_lacked_counts_as_its_median_where_it_is_missing():
    module = Perceptron(CONFIG, TRAIN.features, num_outputs=1).double().eval()
    features = VAL.features.copy()
    features[:, 1] = np.nan
    expected = VAL.features.copy()
    expected[:, 1] = float(module.centre[1])
    torch.testing.assert_close(module(torch.from_numpy(features)), module(torch.from_numpy(expected)), rtol=0, atol=0)


def test_a_diverged_network_neither_sets_the_scale_nor_reaches_the_layers():
    features = TRAIN.features.copy()
    features[5, 0] = 1e300
    module = Perceptron(CONFIG, features, num_outputs=1).eval()
    assert np.abs(inputs_of(module, features)).max() <= CONFIG.clip
    torch.testing.assert_close(module.scale[0], Perceptron(CONFIG, TRAIN.features, num_outputs=1).scale[0], rtol=0.1, atol=0.0)


def test_a_feature_that_never_varies_is_only_shifted():
    features = TRAIN.features.copy()
    features[:, 4] = 0.25
    module = Perceptron(CONFIG, features, num_outputs=1)
    assert (float(module.centre[4]), float(module.scale[4])) == (0.25, 1.0)


def test_it_learns_and_gives_float64_within_the_bounds():
    module = perceptron.fit(PROBLEM, TRAIN, config=CONFIG, val=VAL, context=CONTEXT)
    test = table(97, 2)
    predictions = perceptron.predict(module, test.features, problem=PROBLEM)
    assert predictions.dtype == np.float64
    assert PROBLEM.metric(predictions, test.targets) > 0.7
    assert predictions.min() >= 0
    assert predictions.max() <= 1


def test_a_seed_gives_the_same_perceptron_twice_and_another_seed_another():
    def predictions(seed):
        context = RunContext(seed=seed, budget=Budget(max_epochs=2, num_candidates=1))
        module = perceptron.fit(PROBLEM, TRAIN, config=CONFIG, val=VAL, context=context)
        return perceptron.predict(module, VAL.features, problem=PROBLEM)

    np.testing.assert_array_equal(predictions(1), predictions(1))
    assert not np.array_equal(predictions(1), predictions(2))


@pytest.mark.parametrize(("max_epochs", "expected"), [(3, 3), (100, 15)])
def test_the_budget_limits_the_epochs(max_epochs, expected):
    seen = []
    budget = Budget(max_epochs=max_epochs, num_candidates=1)
    context = RunContext(seed=0, budget=budget, progress=lambda done, total, text="": seen.append(total))
    perceptron.fit(PROBLEM, TRAIN, config=CONFIG, val=VAL, context=context)
    assert set(seen) == {expected * NUM_TRAIN}


def test_a_table_has_the_targets_of_its_networks_and_its_rows_in_their_order():
    networks = fake_dataset(num_graphs=7)
    built = Table.of(np.arange(14.0).reshape(7, 2), networks)
    np.testing.assert_array_equal(built.targets, networks.targets)
    assert len(built) == 7
    np.testing.assert_array_equal(built.to("cpu").batch(np.array([3, 1])), [[6.0, 7.0], [2.0, 3.0]])


@pytest.mark.parametrize("option", [{"width": 0}, {"num_layers": -1}, {"clip": 0.0}, {"dropout": 1.0}])
def test_options_out_of_range_are_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=f"^{name} is {value}; expected"):
        Config(**option)
