from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import GraphError, MethodError
from ngbench.graph import trace
from ngbench.methods import MethodInfo
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    OTHER_FAMILIES,
    SEVERAL_STRUCTURES,
    check_method,
    cnn_topology,
    fake_dataset,
    fake_graphs,
    mlp_topology,
)

INFO = MethodInfo(name="spread", title="Spread of weights", access="weights", invariant=True, any_architecture=True, paper="none")


class Spread:
    """Keeps every rule: the standard deviation of all weights of a network, shifted to the training targets."""

    info = INFO
    num_parameters = 1

    def fit(self, problem, train, val, context):
        self.shift = float(np.mean(train.targets))

    def predict(self, networks):
        spread = np.empty(len(networks))
        for bundle in networks.bundles:
            spread[bundle.index.numpy()] = bundle.values.double().sort(dim=1).values.std(dim=1).numpy()
        return spread + self.shift


def test_a_fake_mlp_is_what_trace_gives():
    module = nn.Sequential(
        OrderedDict(linear0=nn.Linear(5, 7), act0=nn.Tanh(), linear1=nn.Linear(7, 4), act1=nn.Tanh(), linear2=nn.Linear(4, 3))
    )
    assert trace(module, torch.zeros(1, 5)).topology == mlp_topology((5, 7, 4, 3), activation="tanh")


def test_a_fake_cnn_is_what_trace_gives():
    layers = OrderedDict(
        conv0=nn.Conv2d(2, 6, (3, 2)),
        act0=nn.ReLU(),
        conv1=nn.Conv2d(6, 4, (3, 2)),
        act1=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(4, 5),
    )
    traced = trace(nn.Sequential(layers), torch.zeros(1, 2, 9, 8)).topology
    assert traced == cnn_topology((2, 6, 4), num_classes=5, kernel=(3, 2))


def test_the_fake_structures_are_one_and_several():
    assert len({topology.structure for topology in ONE_STRUCTURE}) == 1
    assert len(set(ONE_STRUCTURE)) == 2
    assert len({topology.structure for topology in SEVERAL_STRUCTURES}) == 3


def test_fakes_are_the_same_for_a_seed_and_others_for_another():
    rows = [torch.stack([graph.row() for graph in fake_graphs(num_graphs=7, seed=seed)]) for seed in (3, 3, 4)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert set(fake_dataset(num_graphs=7, seed=3).ids).isdisjoint(fake_dataset(num_graphs=7, seed=4).ids)


def test_fakes_have_zeros_and_repeated_weights_among_random_ones():
    random, zeros, repeated = (graph.row() for graph in fake_graphs(num_graphs=3))
    assert (random == 0).sum() == 0
    assert len(random.unique()) == len(random)
    assert (zeros == 0).float().mean() > 0.2
    assert len(repeated.unique()) < len(repeated) / 2


def test_the_columns_and_targets_of_a_fake_fit_its_networks():
    dataset = fake_dataset(SEVERAL_STRUCTURES, num_graphs=11)
    assert list(dataset.hyperparameters["activation"][:4]) == ["relu", "tanh", "relu", "silu"]
    assert dataset.targets.min() >= 0
    assert dataset.targets.max() <= 1
    assert np.corrcoef(dataset.targets, np.log(dataset.hyperparameters["init_scale"]))[0, 1] > 0.8


def test_a_sound_method_passes_as_a_class_or_as_a_function_that_makes_it():
    check_method(Spread)
    check_method(lambda: Spread())


def test_a_method_with_settings_is_made_with_their_defaults():
    @dataclass(frozen=True)
    class Config:
        factor: float = 2.0

    class Configured(Spread):
        def __init__(self, config):
            self.config = config

        def predict(self, networks):
            return self.config.factor * super().predict(networks)

    Configured.Config = Config
    check_method(Configured)
    check_method(lambda: Configured(Config(factor=3.0)))


def test_a_method_is_found_by_its_path():
    check_method("baselines.trivial:Mean")


def broken(**attributes):
    """`Spread` with one thing broken."""
    return type("Broken", (Spread,), attributes)


def fit_that_edits(self, problem, train, val, context):
    Spread.fit(self, problem, train, val, context)
    train.bundles[0].values.mul_(2)


def predict_that_edits(self, networks):
    networks.bundles[0].values[0, 0] = 5
    return Spread.predict(self, networks)


def predict_by_neighbours(self, networks):
    predictions = Spread.predict(self, networks)
    return predictions - predictions.mean()


def predict_by_position(self, networks):
    return Spread.predict(self, networks) + 0.01 * np.arange(len(networks))


def predict_sorted(self, networks):
    return np.sort(Spread.predict(self, networks))


def predict_first_value(self, networks):
    first = np.empty(len(networks))
    for bundle in networks.bundles:
        first[bundle.index.numpy()] = bundle.values[:, 0].numpy()
    return first


def predict_at_random(self, networks):
    return Spread.predict(self, networks) + np.random.default_rng().normal(scale=1e-3, size=len(networks))


def predict_nan(self, networks):
    predictions = Spread.predict(self, networks)
    predictions[4] = np.nan
    return predictions


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"fit": fit_that_edits}, "fit of method 'spread' edits its inputs; expected them unchanged, got: .*Mismatched elements"),
        ({"predict": predict_that_edits}, "predict of method 'spread' edits its inputs; expected them unchanged"),
        ({"predict": predict_by_neighbours}, r"method 'spread' move by up to \d\S* when other networks are left out"),
        ({"predict": predict_by_position}, r"method 'spread' move by up to 0\.\d+ when the networks stand in another order"),
        ({"predict": predict_sorted}, r"method 'spread' move by up to \d\S* when the networks stand in another order"),
        (
            {"predict": predict_first_value},
            r"move by up to \d\S* when hidden neurons are permuted, although it claims .* at most 1\.?\d*e-05",
        ),
        (
            {"predict": predict_at_random},
            r"method 'spread' move by up to 0\.00\d+ when fitted twice with one seed; expected at most 0",
        ),
        ({"predict": predict_nan}, r"predicts nan for network 'fake-2-00004'; expected a float64 array \[17\] of finite numbers"),
        (
            {"predict": lambda self, networks: np.zeros(len(networks))},
            "predicts 0 for all 17 networks; expected it to read weights",
        ),
        (
            {"predict": lambda self, networks: np.zeros((len(networks), 1))},
            r"predicts float64 \[17, 1\]; expected a float64 array \[17\]",
        ),
        (
            {"predict": lambda self, networks: np.zeros(3, dtype=np.float32)},
            r"predicts float32 \[3\]; expected a float64 array \[17\]",
        ),
        ({"predict": lambda self, networks: [0.5] * len(networks)}, r"predicts list \[17\]; expected a float64 array \[17\]"),
        ({"num_parameters": 1.5}, "method 'spread' has 1.5 parameters; expected an int from 0"),
        ({"info": "spread"}, "Broken has an info of type str; expected what ngbench.methods.Method names"),
        ({"info": replace(INFO, title="")}, "info of Broken has an empty title; expected a text for the tables"),
        (
            {"info": replace(INFO, any_architecture=False)},
            "'spread' does fit networks of several structures, but declares any_arch",
        ),
    ],
    ids=lambda value: (
        "" if isinstance(value, str) else "-".join(f"{key}-{getattr(v, '__name__', 'value')}" for key, v in value.items())
    ),
)
def test_a_method_that_breaks_a_rule_is_refused_with_the_rule_and_the_numbers(attributes, text):
    with pytest.raises(MethodError, match=text):
        check_method(broken(**attributes))


def test_a_class_that_offers_no_method_is_refused_with_what_it_lacks():
    with pytest.raises(MethodError, match="Lacking lacks predict, num_parameters; expected what ngbench.methods.Method names"):
        check_method(type("Lacking", (), {"info": INFO, "fit": Spread.fit}))


def test_a_method_of_one_architecture_may_not_stumble_over_several():
    def fit(self, problem, train, val, context):
        if len(train.bundles) > 1:
            raise ValueError("too many values to unpack")
        Spread.fit(self, problem, train, val, context)

    with pytest.raises(
        MethodError, match="raises ValueError when asked to fit networks of several structures: too many values to unp"
    ):
        check_method(broken(fit=fit, info=replace(INFO, any_architecture=False)))


def test_a_method_of_one_architecture_refuses_another_one_in_predict_too():
    def fit(self, problem, train, val, context):
        train.one_structure(reader="spread")
        Spread.fit(self, problem, train, val, context)

    with pytest.raises(
        MethodError, match="does predict for a structure that it was not fitted on, but declares any_architecture=F"
    ):
        check_method(broken(fit=fit, info=replace(INFO, any_architecture=False)))


def test_a_claim_of_any_architecture_is_tried_on_several_structures():
    def fit(self, problem, train, val, context):
        train.one_structure(reader="method 'spread'")
        Spread.fit(self, problem, train, val, context)

    with pytest.raises(GraphError, match="method 'spread' reads networks of one architecture; got 5"):
        check_method(broken(fit=fit))


def test_a_claim_of_any_architecture_includes_those_that_training_lacks():
    class Known(Spread):
        def fit(self, problem, train, val, context):
            super().fit(problem, train, val, context)
            self.known = {bundle.topology.structure for bundle in train.bundles}

        def predict(self, networks):
            for bundle in networks.bundles:
                if bundle.topology.structure not in self.known:
                    raise GraphError(f"{len(bundle)} networks are unknown")
            return super().predict(networks)

    with pytest.raises(
        MethodError, match="'spread' raises GraphError when asked to predict for architectures .* networks are unknown"
    ):
        check_method(Known)


def test_what_a_method_predicts_for_unknown_architectures_must_be_finite():
    class Wild(Spread):
        def fit(self, problem, train, val, context):
            super().fit(problem, train, val, context)
            self.largest = max(bundle.topology.num_edges for bundle in train.bundles)

        def predict(self, networks):
            large = {i for b in networks.bundles if b.topology.num_edges > self.largest for i in b.index.tolist()}
            return np.where(np.isin(np.arange(len(networks)), list(large)), np.nan, super().predict(networks))

    with pytest.raises(MethodError, match="method 'spread' predicts nan for network 'fake-2-"):
        check_method(Wild)


def test_the_fakes_of_all_families_have_what_chains_of_layers_lack():
    assert len({topology.structure for topology in ALL_FAMILIES}) == 5
    patterns = {block.pattern for topology in OTHER_FAMILIES for block in topology.blocks}
    features = {feature.name for topology in OTHER_FAMILIES for group in topology.groups for feature in group.features}
    assert patterns == {"dense", "diagonal", "grouped"}
    assert features == {"bias", "running_mean", "running_var", "slope"}
    scrambled = fake_dataset(OTHER_FAMILIES, num_graphs=6).scrambled(salt="a")
    for before, after in zip(fake_dataset(OTHER_FAMILIES, num_graphs=6).bundles, scrambled.bundles, strict=True):
        assert (before.values != after.values).any(1).all()


def test_running_variances_of_fakes_are_positive():
    for graph in fake_graphs(OTHER_FAMILIES[:1], num_graphs=6):
        assert graph.node_feature("norm", "running_var").min() > 0
