from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from ngbench.graph import NeuralGraph
from ngbench.loading import GraphDataset, Normalization, normalize
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    OTHER_FAMILIES,
    SEVERAL_STRUCTURES,
    cnn_topology,
    fake_dataset,
    fake_graphs,
    mlp_topology,
)

NUM_GRAPHS = 37


def slots_of(batch):
    return [{owner: values.double().numpy() for owner, values in bundle.slots().items()} for bundle in batch.bundles]


def middle(values):
    """The median; of an even number of values the lower one of the two in the middle, as torch has it."""
    return np.sort(values)[(len(values) - 1) // 2]


def of_median_network(rows):
    """Mean and std of a layer from its values in each network, by the words of `Normalization.fit`."""
    mean = middle([row.mean() for row in rows])
    return mean, np.sqrt(middle([np.square(row - mean).mean() for row in rows]))


def test_each_layer_of_one_structure_is_shifted_and_scaled_by_the_median_training_network():
    train, test = fake_dataset(num_graphs=NUM_GRAPHS), fake_dataset(num_graphs=9, seed=1)
    batches = train.batch(), test.batch(), Normalization.fit(train)(test.batch())
    for fitted, raw, normalised in zip(*map(slots_of, batches), strict=True):
        for owner, values in raw.items():
            mean, std = of_median_network(list(fitted[owner]))
            np.testing.assert_allclose(normalised[owner], (values - mean) / std, rtol=1e-4, atol=1e-5)


def test_a_diverged_network_does_not_set_the_scale_of_the_others():
    graphs = fake_graphs(ONE_STRUCTURE[:1], num_graphs=NUM_GRAPHS)
    diverged = [*graphs[:-1], NeuralGraph.from_row(graphs[-1].topology, graphs[-1].row() * 1e6)]
    usual, after = (Normalization.fit(GraphDataset.from_graphs(networks)) for networks in (graphs, diverged))
    batch = GraphDataset.from_graphs(graphs[:5]).batch()
    torch.testing.assert_close(after(batch).bundles[0].values, usual(batch).bundles[0].values, rtol=0.2, atol=0.2)


def test_the_batch_that_is_normalised_stays_as_it_is():
    train = fake_dataset(num_graphs=NUM_GRAPHS)
    before = train.bundles[0].values.clone()
    Normalization.fit(train)(train.batch())
    assert torch.equal(train.bundles[0].values, before)


def test_what_is_normalised_depends_on_no_other_network():
    train, test = fake_dataset(num_graphs=NUM_GRAPHS), fake_dataset(num_graphs=7, seed=1)
    normalization = Normalization.fit(train)
    together = normalization(test.batch()).bundles[0].values
    alone = torch.cat([normalization(test.batch(np.array([i]))).bundles[0].values for i in range(7)])
    assert torch.equal(together, alone)


def test_normalising_and_permuting_commute_and_permuted_training_networks_give_the_same_statistics():
    train = fake_dataset(num_graphs=NUM_GRAPHS)
    normalization, of_scrambled = Normalization.fit(train), Normalization.fit(train.scrambled(salt="a"))
    test = fake_dataset(num_graphs=7, seed=1)
    scrambled_last = GraphDataset(test.ids, normalization(test.batch()).bundles, None, {}).scrambled(salt="b")
    assert torch.equal(normalization(test.scrambled(salt="b").batch()).bundles[0].values, scrambled_last.bundles[0].values)
    again = of_scrambled(test.batch()).bundles[0].values
    torch.testing.assert_close(again, normalization(test.batch()).bundles[0].values, rtol=1e-5, atol=1e-6)


def constant(topology, value):
    return [NeuralGraph.from_row(topology, torch.full((topology.num_values,), value)) for _ in range(NUM_GRAPHS)]


@pytest.mark.parametrize("value", [0.0, 0.5, 0.1, -3.3, 1e-4])
def test_a_layer_of_constant_values_is_only_shifted(value):
    topology = ONE_STRUCTURE[0]
    normalization = Normalization.fit(GraphDataset.from_graphs(constant(topology, value)))
    other = GraphDataset.from_graphs(constant(topology, value + 0.25))
    expected = torch.full((NUM_GRAPHS, topology.num_values), 0.25)
    torch.testing.assert_close(normalization(other.batch()).bundles[0].values, expected, rtol=0, atol=1e-6)


def by_kind(train):
    """Mean and std of each operation and feature over all networks and layers, weights times the root of their fan-in."""
    found = {}
    for bundle, slots in zip(train.bundles, slots_of(train.batch()), strict=True):
        for (owner, feature), values in slots.items():
            kind, root = kind_of(bundle.topology, owner, feature), root_of_fan_in(values, feature)
            found.setdefault(kind, []).extend(values * root)
    return {kind: of_median_network(rows) for kind, rows in found.items()}


def kind_of(topology, owner, feature):
    return feature or topology.edge_block(owner).operation


def root_of_fan_in(values, feature):
    return 1 if feature else np.sqrt(np.prod(values.shape[2:]))


@pytest.mark.parametrize("train_topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES], ids=["one-structure", "several"])
def test_a_structure_that_was_not_fitted_takes_the_statistics_of_its_operations_at_its_fan_in(train_topologies):
    train = fake_dataset(train_topologies, num_graphs=NUM_GRAPHS)
    expected = by_kind(train)
    unseen = GraphDataset.from_graphs(fake_graphs([cnn_topology((2, 5, 3), num_classes=7)], num_graphs=4))
    raw, normalised = slots_of(unseen.batch())[0], slots_of(Normalization.fit(train)(unseen.batch()))[0]
    for (owner, feature), values in raw.items():
        mean, std = expected[kind_of(unseen.bundles[0].topology, owner, feature)]
        scaled = (values * root_of_fan_in(values, feature) - mean) / std
        np.testing.assert_allclose(normalised[owner, feature], scaled, rtol=1e-4, atol=1e-5)


def test_fitted_on_several_structures_these_too_take_the_statistics_of_their_operations():
    train = fake_dataset(ALL_FAMILIES, num_graphs=NUM_GRAPHS)
    expected = by_kind(train)
    assert {"conv", "linear", "positional", "batch_norm", "bias", "running_mean", "slope"} <= set(expected)
    for bundle, raw, normalised in zip(
        train.bundles, slots_of(train.batch()), slots_of(Normalization.fit(train)(train.batch())), strict=True
    ):
        for (owner, feature), values in raw.items():
            if feature != "running_var":
                mean, std = expected[kind_of(bundle.topology, owner, feature)]
                scaled = (values * root_of_fan_in(values, feature) - mean) / std
                np.testing.assert_allclose(normalised[owner, feature], scaled, rtol=1e-4, atol=1e-4)


def test_an_operation_that_was_never_fitted_stays_as_it_is():
    normalization = Normalization.fit(fake_dataset([mlp_topology((9, 8, 5))], num_graphs=NUM_GRAPHS))
    unseen = GraphDataset.from_graphs(fake_graphs([cnn_topology((2, 5), num_classes=7)], num_graphs=4))
    raw, normalised = slots_of(unseen.batch())[0], slots_of(normalization(unseen.batch()))[0]
    np.testing.assert_array_equal(normalised["conv0", None], raw["conv0", None])
    assert not np.array_equal(normalised["head", None], raw["head", None])


def test_variants_in_activation_share_their_statistics():
    train = fake_dataset(ONE_STRUCTURE, num_graphs=NUM_GRAPHS)
    test = fake_graphs(ONE_STRUCTURE[:1], num_graphs=5, seed=1)
    renamed = [
        NeuralGraph.from_row(cnn_topology((1, 6, 4), num_classes=5, kernel=(3, 2), activation="gelu"), g.row()) for g in test
    ]
    normalization = Normalization.fit(train)
    values = [normalization(GraphDataset.from_graphs(graphs).batch()).bundles[0].values for graphs in (test, renamed)]
    assert torch.equal(*values)


def test_values_keep_their_dtype():
    train = fake_dataset(num_graphs=NUM_GRAPHS)
    normalization = Normalization.fit(train)
    for dtype in (torch.float32, torch.float64):
        assert normalization(train.batch().to("cpu", dtype)).bundles[0].values.dtype == dtype


def test_running_variances_are_normalised_as_logarithms():
    train, test = (fake_dataset(OTHER_FAMILIES[:1], num_graphs=size, seed=size) for size in (NUM_GRAPHS, 5))
    before = test.bundles[0].values.clone()
    raw, normalised = slots_of(test.batch())[0], slots_of(Normalization.fit(train)(test.batch()))[0]
    logarithms = np.log(slots_of(train.batch())[0]["norm", "running_var"] + 1e-5)
    mean = middle(logarithms.mean(axis=1))
    std = np.sqrt(middle(((logarithms - mean) ** 2).mean(axis=1)))
    expected = (np.log(raw["norm", "running_var"] + 1e-5) - mean) / std
    np.testing.assert_allclose(normalised["norm", "running_var"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(test.bundles[0].values, before)


def test_a_running_variance_of_zero_or_below_is_finite():
    train = fake_dataset(OTHER_FAMILIES[:1], num_graphs=NUM_GRAPHS)
    wrong = train.batch().map(lambda values: -values)
    for bundle in (*Normalization.fit(train)(wrong).bundles, *Normalization.fit(train)(wrong.map(torch.zeros_like)).bundles):
        assert torch.isfinite(bundle.values).all()


def test_a_number_that_all_nodes_share_is_normalised_by_itself():
    train = fake_dataset(OTHER_FAMILIES[:1], num_graphs=NUM_GRAPHS)
    raw, normalised = slots_of(train.batch())[0], slots_of(Normalization.fit(train)(train.batch()))[0]
    slope = raw["norm", "slope"]
    assert slope.shape == (NUM_GRAPHS, 1)
    mean = middle(slope[:, 0])
    std = np.sqrt(middle((slope[:, 0] - mean) ** 2))
    np.testing.assert_allclose(normalised["norm", "slope"], (slope - mean) / std, rtol=1e-4, atol=1e-5)


def test_statistics_are_placed_once_for_a_structure_and_make_room_for_those_of_others(monkeypatch):
    networks = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    sizes = [bundle.topology.num_values for bundle in networks.bundles]
    normalization = Normalization.fit(networks)
    expected = slots_of(normalization(networks.batch()))
    assert len(normalization._placed) == len(sizes)
    monkeypatch.setattr(normalize, "MOST_PLACED", sum(sizes[-2:]))
    fresh = Normalization.fit(networks)
    for _ in range(2):
        for found, bundle in zip(slots_of(fresh(networks.batch())), expected, strict=True):
            assert all(np.array_equal(found[owner], values) for owner, values in bundle.items())
        assert [key[0] for key in fresh._placed] == [bundle.topology.structure for bundle in networks.bundles[-2:]]


def test_what_was_placed_is_no_part_of_a_normalization():
    networks = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    used, fresh = Normalization.fit(networks), Normalization.fit(networks)
    used(networks.batch())
    assert used == fresh
    for other in (copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        assert (other, other._placed) == (used, {})
        other(networks.batch())
    assert used._placed
