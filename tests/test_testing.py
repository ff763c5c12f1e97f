from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import GraphError, MethodError
from ngbench.graph import symmetry, trace
from ngbench.graph.symmetry import GroupElement
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

INFO = MethodInfo(
    name="spread",
    title="Spread of weights",
    access="weights",
    invariant=True,
    any_architecture=True,
    paper="none",
    kinds=("regression",),
)


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
    expected = "predict or embed or embed_nodes or match; expected what ngbench.methods.Method names"
    with pytest.raises(MethodError, match=f"Lacking lacks num_parameters, {expected}"):
        check_method(type("Lacking", (), {"info": INFO, "fit": Spread.fit}))


def test_a_kind_that_a_method_names_but_has_no_call_for_is_refused():
    expected = {"retrieval": "embed", "merging": "embed_nodes or match", "guessing": "one of the kinds regression, "}
    for kind, calls in expected.items():
        with pytest.raises(MethodError, match=f"info of Broken names kind '{kind}'; expected it to have {calls}"):
            check_method(broken(info=replace(INFO, kinds=("regression", kind))))


class Reader:
    """Keeps every rule with every call: sorted values of the networks and of their nodes, and a matching by these."""

    info = replace(INFO, name="reader", kinds=())
    num_parameters = 0

    def fit(self, problem, train, val, context):
        self.num_classes = len(problem.classes)

    def predict(self, networks):
        spread = Reader.embed(self, networks)[:, 0]
        return spread if self.num_classes == 0 else np.stack([spread, 1 - spread, 0 * spread], axis=1)

    def embed(self, networks):
        features = np.empty((len(networks), 2))
        for bundle in networks.bundles:
            ordered = bundle.values.double().sort(dim=1).values
            features[bundle.index.numpy()] = torch.stack([ordered.std(1).tanh(), ordered.mean(1)], 1).numpy()
        return features

    def embed_nodes(self, networks):
        found = {}
        for bundle in networks.bundles:
            biases = bundle.node_features(("bias",)).double().transpose(0, 1).numpy()
            found |= dict(zip(bundle.index.tolist(), biases, strict=True))
        return [found[place] for place in range(len(networks))]

    def match(self, first, second):
        pairs = {}
        for bundle in second.bundles:
            element = symmetry.group(bundle.topology).identity()
            pairs |= dict.fromkeys(bundle.index.tolist(), element)
        return [pairs[place] for place in range(len(second))]


def reader(**attributes):
    """`Reader` with one thing broken."""
    return type("Broken", (Reader,), attributes)


def only(kind, *calls, **attributes):
    """`Reader` with some of its calls alone, for one kind of problem."""
    parts = {call: getattr(Reader, call) for call in calls}
    shared = {"info": replace(Reader.info, kinds=(kind,)), "num_parameters": 0, "fit": Reader.fit}
    return type("Only", (), {**shared, **parts, **attributes})


def test_a_sound_method_passes_with_every_call():
    check_method(Reader)


@pytest.mark.parametrize(
    "method",
    [only("retrieval", "embed"), only("merging", "embed_nodes"), only("merging", "match"), only("retrieval", "embed", "match")],
)
def test_a_method_without_predict_is_checked_on_what_it_has(method):
    check_method(method)


def test_each_kind_of_problem_comes_with_its_targets():
    seen = {}

    def fit(self, problem, train, val, context):
        Reader.fit(self, problem, train, val, context)
        seen.setdefault(problem.kind, []).extend([train.targets, val.targets])

    check_method(reader(fit=fit))
    check_method(only("retrieval", "embed", fit=fit))
    check_method(only("merging", "match", fit=fit))
    assert set(seen) == {"regression", "classification", "retrieval", "merging"}
    assert all(targets is None for targets in seen["merging"])
    assert all(targets.dtype == np.float64 for targets in seen["regression"])
    for kind in ("classification", "retrieval"):
        assert all(set(targets.tolist()) == {0, 1, 2} and targets.dtype == np.int64 for targets in seen[kind])


def changed(call, change):
    """A call whose answer is changed."""

    def changes(self, networks):
        return change(getattr(Reader, call)(self, networks))

    return changes


def predict_of_classes(change):
    """Predictions that are changed where they are probabilities."""

    def predict(self, networks):
        said = Reader.predict(self, networks)
        return change(said) if self.num_classes else said

    return predict


def embed_first_value(self, networks):
    first = np.empty((len(networks), 1))
    for bundle in networks.bundles:
        first[bundle.index.numpy(), 0] = bundle.values[:, 0].double().numpy()
    return first


def embed_that_edits(self, networks):
    networks.bundles[0].values[0, 0] = 5
    return Reader.embed(self, networks)


def embed_at_random(self, networks):
    return Reader.embed(self, networks) + np.random.default_rng().normal(scale=1e-3, size=(len(networks), 2))


def nodes_in_place(self, networks):
    return [nodes + np.arange(len(nodes))[:, None] for nodes in Reader.embed_nodes(self, networks)]


def match_by_a_double(self, first, second):
    elements = Reader.match(self, first, second)
    topology = elements[4].topology
    name = next(group.name for group in topology.groups if group.role == "hidden")
    twice = torch.zeros(topology.group(name).size, dtype=torch.int64)
    return [*elements[:4], GroupElement(topology, {name: twice}), *elements[5:]]


def match_by_another(self, first, second):
    other = symmetry.group(mlp_topology((2, 3, 5))).identity()
    return [other, *Reader.match(self, first, second)[1:]]


def match_by_place(self, first, second):
    elements = Reader.match(self, first, second)
    return [symmetry.group(element.topology).sample(place) for place, element in enumerate(elements)]


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (
            {"predict": predict_of_classes(lambda said: said[:, :2])},
            r"method 'reader' predicts float64 \[17, 2\]; expected a float64 array \[17, 3\] of probabilities",
        ),
        (
            {"predict": predict_of_classes(lambda said: said.astype(np.float32))},
            r"predicts float32 \[17, 3\]; expected a float64 array \[17, 3\] of probabilities, from 0 and summing to 1",
        ),
        ({"predict": predict_of_classes(lambda said: 2 * said)}, r"predicts \[.*\], which sum to 2, for network 'fake-2-00000'"),
        ({"predict": predict_of_classes(lambda said: 3 * said - 2 / 3)}, r"predicts \[.*-0\.66.*\], which sum to 1, for network"),
        ({"predict": predict_of_classes(lambda said: said * np.nan)}, "predicts nan for network 'fake-2-00000'"),
        (
            {"predict": predict_of_classes(lambda said: np.full_like(said, 1 / 3))},
            "predicts the same for all 17 networks; expected it to read weights",
        ),
        (
            {"embed": changed("embed", lambda said: said[:, 0])},
            r"method 'reader' embeds networks as float64 \[17\]; expected a float64 array \[17, features\]",
        ),
        ({"embed": changed("embed", lambda said: said.tolist())}, r"embeds networks as list \[17\]; expected a float64 array"),
        ({"embed": changed("embed", lambda said: said / 0.0)}, "embeds networks as inf for network 'fake-2-00000'"),
        (
            {"embed": changed("embed", lambda said: said - said.mean(0))},
            r"embeddings of method 'reader' move by up to \d\S* when other networks are left out of the set",
        ),
        (
            {"embed": changed("embed", lambda said: np.sort(said, axis=0))},
            r"embeddings of method 'reader' move by up to \d\S* when the networks stand in another order",
        ),
        (
            {"embed": changed("embed", lambda said: said @ np.ones((2, len(said))))},
            "embeddings .* move by up to inf when other net",
        ),
        ({"embed": embed_first_value}, r"embeddings .* move by up to \d\S* when hidden neurons are permuted, although it claims"),
        ({"embed": embed_that_edits}, "embed of method 'reader' edits its inputs; expected them unchanged"),
        ({"embed": embed_at_random}, r"embeddings of method 'reader' move by up to 0\.00\d+ when fitted twice with one seed"),
        ({"embed": changed("embed", lambda said: 0 * said)}, "embeds networks as the same for all 17 networks"),
        (
            {"embed_nodes": nodes_in_place},
            r"embeddings of nodes of method 'reader' move by up to \d\S* from where their neurons are when hidden neurons are",
        ),
        (
            {"embed_nodes": changed("embed_nodes", lambda said: [nodes[1:] for nodes in said])},
            r"embeds nodes as list \[17\] of float64 \[15, 1\]; expected a list of 17 float64 arrays \[nodes, channels\]",
        ),
        (
            {"embed_nodes": changed("embed_nodes", lambda said: np.stack(said))},
            r"embeds nodes as float64 \[17, 16, 1\]; expected a l",
        ),
        ({"embed_nodes": changed("embed_nodes", lambda said: said[1:])}, r"embeds nodes as list \[16\] of float64"),
        (
            {"embed_nodes": changed("embed_nodes", lambda said: [*said[:2], said[2] * np.nan, *said[3:]])},
            "embeds nodes as nan for network 'fake-2-00002'",
        ),
        (
            {"match": lambda self, first, second: []},
            "matches networks as list \\[0\\]; expected a list of 17 elements of the sym",
        ),
        (
            {"match": match_by_a_double},
            r"matches group 'conv0' of network 'fake-2-00004' by \[0, 0, 0, 0, 0, 0\]; expected a permu",
        ),
        (
            {"match": match_by_another},
            "matches network 'fake-2-00000' by GroupElement of another structure or type; expected a list",
        ),
        ({"match": match_by_place}, r"matchings of method 'reader' move by up to \d\S* when the networks stand in another order"),
    ],
)
def test_a_call_that_breaks_a_rule_is_refused_with_the_rule_and_the_numbers(attributes, text):
    with np.errstate(all="ignore"), pytest.raises(MethodError, match=text):
        check_method(reader(**attributes))


def test_what_a_method_that_reads_nothing_says_may_be_drawn_anew_for_each_network():
    class Drawn:
        info = replace(INFO, name="drawn", access="none", invariant=False, kinds=("retrieval",))
        num_parameters = 0

        def fit(self, problem, train, val, context):
            self.rng = np.random.default_rng(context.seed)

        def embed(self, networks):
            return self.rng.standard_normal((len(networks), 3))

    check_method(Drawn)
    Drawn.info = replace(Drawn.info, access="weights")
    with pytest.raises(
        MethodError, match="embeddings of method 'drawn' move by up to .* when the networks stand in another order"
    ):
        check_method(Drawn)


@pytest.mark.parametrize("call", ["embed", "embed_nodes", "match"])
def test_every_call_of_a_method_of_one_architecture_refuses_another_one(call):
    class Bound(Reader):
        info = replace(INFO, name="bound", any_architecture=False)

        def fit(self, problem, train, val, context):
            super().fit(problem, train, val, context)
            self.structure = train.one_structure(reader="bound").topology.structure

        def __getattribute__(self, name):
            if name in ("predict", "embed", "embed_nodes", "match") and name != call:
                return lambda *sets: [self.check(one) for one in sets] and getattr(Reader, name)(self, *sets)
            return super().__getattribute__(name)

        def check(self, networks):
            networks.one_structure(reader="bound", structure=self.structure)

    verbs = {"embed": "embed", "embed_nodes": "embed nodes of", "match": "match"}
    with pytest.raises(
        MethodError, match=f"method 'bound' does {verbs[call]} a structure that it was not fitted on, but declares"
    ):
        check_method(Bound)


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
