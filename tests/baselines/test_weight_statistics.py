from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.fitting import boosting
from baselines.fitting.perceptron import Perceptron
from baselines.weight_statistics import (
    MODELS,
    NUM_STATISTICS,
    StatisticsByKind,
    StatisticsByLayer,
    WeightStatistics,
    kinds_of,
    layers_of,
    statistics,
)
from ngbench.errors import ConfigError, MethodError
from ngbench.loading import GraphDataset, StoredValues
from ngbench.methods import Budget, RunContext
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    OTHER_FAMILIES,
    PROBLEM,
    PROBLEMS,
    SEVERAL_STRUCTURES,
    cnn_topology,
    fake_classes,
    fake_dataset,
    fake_graphs,
    mlp_topology,
    residual_topology,
)

NUM_GRAPHS = 31
CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=6, num_candidates=2))


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(boosting, "CANDIDATES", tuple({**candidate, "max_iter": 40} for candidate in boosting.CANDIDATES))


def all_layers(dataset):
    return sorted({layer for bundle in dataset.bundles for layer in layers_of(bundle.topology)})


def table(dataset):
    return statistics(dataset, all_layers(dataset))


def of_one_array(values):
    """The seven numbers of the paper, by numpy's own functions."""
    values = np.asarray(values, dtype=np.float64).ravel()
    return [values.mean(), values.var(), *np.percentile(values, [0, 25, 50, 75, 100])]


def test_statistics_are_those_of_numpy_for_each_layer_and_kind():
    graphs = fake_graphs(ONE_STRUCTURE, num_graphs=NUM_GRAPHS, seed=0)
    dataset = GraphDataset.from_graphs(graphs)
    layers = [(1, "weight"), (1, "bias"), (-2, "weight"), (-2, "bias"), (-1, "weight"), (-1, "bias")]
    expected = [
        [of_one_array(graph.block(name)) + of_one_array(graph.node_feature(name, "bias")) for name in ("conv0", "conv1", "head")]
        for graph in graphs
    ]
    got = statistics(dataset, layers)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.reshape(expected, (NUM_GRAPHS, len(layers) * NUM_STATISTICS)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES], ids=["one-structure", "several"])
def test_scrambled_networks_have_bitwise_equal_statistics(topologies):
    dataset = fake_dataset(topologies, num_graphs=NUM_GRAPHS, seed=1)
    scrambled = dataset.scrambled(salt="statistics")
    assert all(not torch.equal(a.values, b.values) for a, b in zip(dataset.bundles, scrambled.bundles, strict=True))
    np.testing.assert_array_equal(table(scrambled), table(dataset))


def test_without_sorting_variances_would_differ_by_rounding():
    dataset = fake_dataset(num_graphs=NUM_GRAPHS, seed=1)
    rows, scrambled = (split.bundles[0].values.numpy().astype(np.float64) for split in (dataset, dataset.scrambled(salt="a")))
    assert not np.array_equal(rows.var(axis=1), scrambled.var(axis=1))
    np.testing.assert_allclose(rows.var(axis=1), scrambled.var(axis=1), rtol=1e-12)


def test_statistics_of_a_network_are_bitwise_the_same_alone_and_among_others():
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS, seed=2)
    layers = all_layers(GraphDataset.from_graphs(graphs))
    together = statistics(GraphDataset.from_graphs(graphs), layers)
    alone = np.concatenate([statistics(GraphDataset.from_graphs([graph]), layers) for graph in graphs])
    np.testing.assert_array_equal(alone, together)


def test_layers_are_counted_from_both_ends_so_that_depths_meet():
    shallow, deep = mlp_topology((9, 8, 5)), cnn_topology((1, 7, 4, 3), num_classes=5)
    assert set(layers_of(shallow)) == {(place, kind) for place in (1, -1) for kind in ("weight", "bias")}
    assert set(layers_of(deep)) == {(place, kind) for place in (1, -3, -2, -1) for kind in ("weight", "bias")}
    assert [slot.owner for slot in layers_of(deep)[-1, "weight"]] == ["head"]
    assert [slot.owner for slot in layers_of(deep)[1, "weight"]] == ["conv0"]


def test_the_only_layer_of_a_network_is_its_last():
    assert set(layers_of(mlp_topology((9, 5)))) == {(-1, "weight"), (-1, "bias")}


def test_what_a_network_lacks_is_missing_and_nothing_else():
    graphs = [
        *fake_graphs([mlp_topology((9, 8, 5))], num_graphs=1),
        *fake_graphs([cnn_topology((1, 7, 4), num_classes=5)], num_graphs=1),
    ]
    layers = [(-2, "weight"), (-1, "weight"), (1, "weight")]
    missing = np.isnan(statistics(GraphDataset.from_graphs(graphs), layers)).reshape(2, len(layers), NUM_STATISTICS)
    np.testing.assert_array_equal(missing.all(axis=2), [[True, False, False], [False, False, False]])
    np.testing.assert_array_equal(missing.any(axis=2), missing.all(axis=2))


@pytest.mark.parametrize("model", MODELS)
def test_predictions_beat_chance_on_one_structure_and_on_several(model):
    for topologies in (ONE_STRUCTURE, ALL_FAMILIES):
        train, val, test = (fake_dataset(topologies, num_graphs=size, seed=size) for size in (151, 53, 47))
        method = WeightStatistics(WeightStatistics.Config(model=model))
        method.fit(PROBLEM, train, val, CONTEXT)
        assert PROBLEM.metric(method.predict(test.without_targets()), test.targets) > 0.5


@pytest.mark.parametrize("model", MODELS)
def test_predictions_are_bitwise_invariant(model):
    train, val, test = (fake_dataset(num_graphs=size, seed=size) for size in (151, 53, 47))
    method = WeightStatistics(WeightStatistics.Config(model=model))
    method.fit(PROBLEM, train, val, CONTEXT)
    np.testing.assert_array_equal(method.predict(test.scrambled(salt="b")), method.predict(test))


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_better_model_by_validation_predicts_and_the_method_says_which(higher_is_better):
    def error(predictions, targets):
        return float(np.abs(predictions - targets).mean())

    problem = PROBLEM if higher_is_better else replace(PROBLEM, metric=error, higher_is_better=False)
    train, val, test = (fake_dataset(num_graphs=size, seed=size) for size in (151, 53, 47))
    fitted = {name: WeightStatistics(WeightStatistics.Config(model=name)) for name in (*MODELS, "best")}
    for method in fitted.values():
        method.fit(problem, train, val, CONTEXT)
    scores = {name: problem.metric(fitted[name].predict(val), val.targets) for name in MODELS}
    better = (max if higher_is_better else min)(scores, key=scores.__getitem__)
    best = fitted["best"]
    assert best.scores == scores
    assert best.chosen == better
    assert f"chosen='{better}', val boosting {scores['boosting']:.3f}, perceptron {scores['perceptron']:.3f}" in repr(best)
    np.testing.assert_array_equal(best.predict(test), fitted[better].predict(test))


def test_parameters_are_those_of_the_perceptron_where_it_predicts():
    train, val = (fake_dataset(num_graphs=size, seed=size) for size in (83, 41))
    numbers = []
    for options in ({"model": "boosting"}, {"model": "perceptron", "width": 16, "num_layers": 1}):
        method = WeightStatistics(WeightStatistics.Config(**options))
        method.fit(PROBLEM, train, val, CONTEXT)
        numbers.append(method.num_parameters)
    # three layers, weights and biases, seven statistics each
    assert numbers == [0, (3 * 2 * 7 + 1) * 16 + 17]


def test_it_must_be_fitted_first_and_says_that_it_is_not():
    assert repr(WeightStatistics()) == "WeightStatistics(not fitted)"
    with pytest.raises(MethodError, match="weight-statistics has not been fitted"):
        WeightStatistics().predict(fake_dataset())


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match="model is 'forest'; expected 'best' or 'boosting' or 'perceptron'"):
        WeightStatistics.Config(model="forest")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_gives_probabilities_of_classes(model):
    train, val, test = (fake_classes(fake_dataset(num_graphs=size, seed=size)) for size in (153, 61, 59))
    method, problem = WeightStatistics(WeightStatistics.Config(model=model)), PROBLEMS["classification"]
    method.fit(problem, train, val, CONTEXT)
    predictions = method.predict(test.without_targets())
    assert predictions.shape == (59, 3)
    assert predictions.min() >= 0
    np.testing.assert_allclose(predictions.sum(axis=1), 1.0)
    assert problem.metric(predictions, test.targets) > 0.6


def test_embeddings_are_standardised_by_training_and_clipped():
    train, test = (fake_dataset(ALL_FAMILIES, num_graphs=size, seed=size) for size in (83, 29))
    method = WeightStatistics(WeightStatistics.Config(model="boosting"))
    with pytest.raises(MethodError, match="weight-statistics has not been fitted"):
        method.embed(test)
    method.fit(PROBLEM, train, train, CONTEXT)
    features, embedded = method.read(train), method.embed(train)
    varies = (np.nanquantile(features, 0.84, axis=0) > np.nanquantile(features, 0.16, axis=0)) & ~np.isnan(features).any(0)
    low, median, high = np.quantile(embedded[:, varies], (0.16, 0.5, 0.84), axis=0)
    np.testing.assert_allclose(median, 0, atol=1e-9)
    np.testing.assert_allclose((high - low) / 2, 1, atol=0.35)
    np.testing.assert_array_equal(embedded[np.isnan(features)], 0)
    assert np.abs(method.embed(test)).max() <= 4.0


def test_options_of_the_perceptron_are_refused_beside_boosting_alone():
    with pytest.raises(
        ConfigError, match="width is 16, which nothing reads where model is 'boosting'; expected 256, the default"
    ):
        WeightStatistics.Config(model="boosting", width=16)


def test_the_perceptron_predicts_on_as_many_threads_as_the_configuration_says(monkeypatch):
    before, seen = torch.get_num_threads(), []
    method = WeightStatistics(WeightStatistics.Config(model="perceptron", epochs=1, num_threads=before + 1))
    method.fit(PROBLEM, fake_dataset(num_graphs=20), fake_dataset(num_graphs=10), CONTEXT)
    plain = Perceptron.forward
    monkeypatch.setattr(Perceptron, "forward", lambda self, rows: seen.append(torch.get_num_threads()) or plain(self, rows))
    method.predict(fake_dataset(num_graphs=5))
    assert seen == [before + 1]


def test_a_structure_that_was_not_fitted_still_gets_finite_predictions():
    train, val = (fake_dataset(num_graphs=size, seed=size) for size in (83, 41))
    method = WeightStatistics()
    method.fit(PROBLEM, train, val, CONTEXT)
    assert np.isfinite(method.predict(fake_dataset([cnn_topology((2, 5, 3, 4, 6), num_classes=7)], num_graphs=5))).all()


def test_hyperparameters_are_never_read():
    train, val, test = (fake_dataset(num_graphs=size, seed=size) for size in (83, 41, 29))
    method = WeightStatistics()
    method.fit(PROBLEM, replace(train, hyperparameters={}), replace(val, hyperparameters={}), CONTEXT)
    other = WeightStatistics()
    other.fit(PROBLEM, train, val, CONTEXT)
    np.testing.assert_array_equal(method.predict(replace(test, hyperparameters={})), other.predict(test))


def columns_of(table, read, kind):
    """What `StatisticsByKind` gives of one kind, as first, last, mean and counts."""
    width = 3 * NUM_STATISTICS + 2
    columns = table[:, width * read.kinds.index(kind) : width * (read.kinds.index(kind) + 1)]
    return *np.split(columns[:, :-2], 3, axis=1), columns[:, -2:]


def test_one_structure_is_read_by_layer_and_several_by_kind():
    for topologies, expected in ((ONE_STRUCTURE, StatisticsByLayer), (SEVERAL_STRUCTURES, StatisticsByKind)):
        train = fake_dataset(topologies, num_graphs=61)
        method = WeightStatistics()
        method.fit(PROBLEM, train, train, CONTEXT)
        assert isinstance(method.read, expected)


def test_statistics_by_kind_are_those_of_numpy_for_first_last_and_all_layers():
    dataset = fake_dataset(ALL_FAMILIES, num_graphs=NUM_GRAPHS)
    read = StatisticsByKind.of(dataset)
    assert read.kinds == ("batch_norm", "bias", "positional", "running_mean", "running_var", "slope", "weight")
    table = read(dataset)
    graphs = fake_graphs(ALL_FAMILIES, num_graphs=NUM_GRAPHS)
    (row,) = [i for i in range(6) if graphs[i].topology == residual_topology()]
    fan_ins = {"stem": 9, "conv0": 4 * 6, "conv1": 3 * 4, "head": 4}
    weights = [of_one_array(graphs[row].block(name) * np.sqrt(fan_in)) for name, fan_in in fan_ins.items()]
    first, last, mean, counts = (part[row] for part in columns_of(table, read, "weight"))
    np.testing.assert_allclose(first, weights[0], rtol=1e-5)
    np.testing.assert_allclose(last, weights[-1], rtol=1e-5)
    np.testing.assert_allclose(mean, np.mean(weights, axis=0), rtol=1e-5)
    assert counts.tolist() == [4, 36 + 72 + 48 + 20]
    scale = of_one_array(graphs[row].block("norm"))
    np.testing.assert_allclose([part[row] for part in columns_of(table, read, "batch_norm")[:3]], [scale] * 3, rtol=1e-6)
    biases = [of_one_array(graphs[row].node_feature(name, "bias")) for name in ("stem", "norm", "head")]
    np.testing.assert_allclose(columns_of(table, read, "bias")[2][row], np.mean(biases, axis=0), rtol=1e-6)


def test_a_kind_that_a_network_lacks_is_missing_and_counts_as_none():
    dataset = fake_dataset(ALL_FAMILIES, num_graphs=NUM_GRAPHS)
    read = StatisticsByKind.of(dataset)
    first, last, mean, counts = columns_of(read(dataset), read, "running_var")
    has_it = np.arange(NUM_GRAPHS) % len(ALL_FAMILIES) == 4
    for part in (first, last, mean):
        np.testing.assert_array_equal(np.isnan(part).all(axis=1), ~has_it)
        np.testing.assert_array_equal(np.isnan(part).any(axis=1), ~has_it)
    np.testing.assert_array_equal(counts, np.where(has_it[:, None], (1, 3), 0))


def test_kinds_that_training_lacked_are_left_out():
    read = StatisticsByKind.of(fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS))
    assert read.kinds == ("bias", "weight")
    assert np.isfinite(read(fake_dataset(OTHER_FAMILIES, num_graphs=6))).all()


def test_statistics_by_kind_are_bitwise_invariant_and_those_of_each_network_alone():
    graphs = fake_graphs(ALL_FAMILIES, num_graphs=NUM_GRAPHS, seed=2)
    dataset = GraphDataset.from_graphs(graphs)
    read = StatisticsByKind.of(dataset)
    np.testing.assert_array_equal(read(dataset.scrambled(salt="a")), read(dataset))
    alone = np.concatenate([read(GraphDataset.from_graphs([graph])) for graph in graphs])
    np.testing.assert_array_equal(alone, read(dataset))


def test_layers_of_one_kind_stand_in_the_order_of_their_depth():
    kinds = kinds_of(mlp_topology((3, *[2] * 11, 4)))
    assert [slot.owner for (kind, _), slots in sorted(kinds.items()) if kind == "weight" for slot in slots] == [
        f"linear{i}" for i in range(12)
    ]


@pytest.mark.parametrize("reader", [StatisticsByLayer, StatisticsByKind])
def test_networks_that_stay_in_their_file_are_read_once_and_few_at_a_time(monkeypatch, reader):
    loaded = fake_dataset([mlp_topology((3, 5, 2))], num_graphs=23)
    (bundle,) = loaded.bundles
    asked = []

    def read(positions):
        asked.append(len(positions))
        return bundle.values[positions]

    stored = replace(loaded, bundles=(replace(bundle, values=StoredValues(read, tuple(bundle.values.shape))),))
    monkeypatch.setattr("ngbench.loading.batch.VALUES_AT_ONCE", 5 * bundle.topology.num_values)
    np.testing.assert_array_equal(reader.of(loaded)(stored), reader.of(loaded)(loaded))
    assert asked == [5, 5, 5, 5, 3]
