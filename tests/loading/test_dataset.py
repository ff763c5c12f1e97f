from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ngbench.errors import GraphError
from ngbench.graph import NeuralGraph, symmetry
from ngbench.loading import GraphDataset
from ngbench.testing import ONE_STRUCTURE, SEVERAL_STRUCTURES, fake_dataset, fake_graphs
from ngbench.zoo.columns import Column

NUM_GRAPHS = 23


def graphs_of(bundles):
    """The networks of some bundles, put back in order one by one."""
    found = {}
    for bundle in bundles:
        for index, variant, row in zip(bundle.index.tolist(), bundle.variant.tolist(), bundle.values, strict=True):
            found[index] = NeuralGraph.from_row(bundle.variants[variant], row)
    return [found[index] for index in range(len(found))]


def all_equal(graphs, others):
    return len(graphs) == len(others) and all(graph.equal(other) for graph, other in zip(graphs, others, strict=True))


def fake_zoo(topologies):
    """What a dataset asks of a zoo, in memory: network i on topology ``i % len(topologies)``."""
    graphs = fake_graphs(topologies, num_graphs=NUM_GRAPHS)
    columns = [
        ("optimizer", "hyperparameter", "str"),
        ("epochs", "hyperparameter", "int"),
        ("test_accuracy", "measurement", "float"),
    ]
    return SimpleNamespace(
        graphs=graphs,
        ids=np.array([f"run-{i:03d}" for i in range(NUM_GRAPHS)]),
        topologies=tuple(topologies),
        topology_index=np.array([i % len(topologies) for i in range(NUM_GRAPHS)], dtype=np.int32),
        columns={name: Column(name, role, dtype, "") for name, role, dtype in columns},
        metadata={
            "optimizer": np.array(["adam", "sgd"])[np.arange(NUM_GRAPHS) % 2],
            "epochs": np.arange(NUM_GRAPHS) + 5,
            "test_accuracy": np.arange(NUM_GRAPHS) / NUM_GRAPHS,
        },
        values=lambda rows: torch.stack([graphs[row].row() for row in rows]).numpy(),
    )


@pytest.mark.parametrize("topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES], ids=["one-structure", "several"])
def test_rows_of_a_zoo_come_in_their_order_with_ids_target_and_recipe(topologies):
    zoo, rows = fake_zoo(topologies), np.array([17, 2, 22, 5, 3, 16, 0])
    dataset = GraphDataset.from_zoo(zoo, rows, target="test_accuracy")
    assert len(dataset) == 7
    assert dataset.ids == ("run-017", "run-002", "run-022", "run-005", "run-003", "run-016", "run-000")
    assert all_equal(graphs_of(dataset.bundles), [zoo.graphs[row] for row in rows])
    np.testing.assert_array_equal(dataset.targets, rows / NUM_GRAPHS)
    assert set(dataset.hyperparameters) == {"optimizer", "epochs"}
    np.testing.assert_array_equal(dataset.hyperparameters["epochs"], rows + 5)
    np.testing.assert_array_equal(dataset.hyperparameters["optimizer"], np.array(["adam", "sgd"])[rows % 2])


def test_without_a_target_the_zoo_is_not_asked_for_one():
    assert GraphDataset.from_zoo(fake_zoo(ONE_STRUCTURE), np.array([3, 1])).targets is None


def test_structures_that_no_row_has_get_no_bundle():
    rows = np.arange(3, NUM_GRAPHS, len(SEVERAL_STRUCTURES))
    dataset = GraphDataset.from_zoo(fake_zoo(SEVERAL_STRUCTURES), rows)
    assert [bundle.topology for bundle in dataset.bundles] == [SEVERAL_STRUCTURES[3]]


def test_networks_that_differ_in_activations_share_a_bundle():
    for dataset in (
        GraphDataset.from_graphs(fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)),
        GraphDataset.from_zoo(fake_zoo(SEVERAL_STRUCTURES), np.arange(NUM_GRAPHS)),
    ):
        assert [len(bundle) for bundle in dataset.bundles] == [12, 6, 5]
        assert dataset.bundles[0].variants == ONE_STRUCTURE
        assert dataset.bundles[0].variant.tolist() == [0, 1] * 6


def test_graphs_of_no_zoo_keep_their_order_and_are_numbered():
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    dataset = GraphDataset.from_graphs(graphs)
    assert all_equal(graphs_of(dataset.bundles), graphs)
    assert dataset.ids == tuple(str(i) for i in range(NUM_GRAPHS))
    assert dataset.targets is None
    assert dict(dataset.hyperparameters) == {}


def test_targets_are_withheld_in_a_copy():
    dataset = fake_dataset(num_graphs=NUM_GRAPHS)
    withheld = dataset.without_targets()
    assert withheld.targets is None
    assert len(dataset.targets) == NUM_GRAPHS
    assert (withheld.ids, withheld.bundles, withheld.hyperparameters) == (dataset.ids, dataset.bundles, dataset.hyperparameters)


def test_a_dataset_cannot_be_edited():
    with pytest.raises(FrozenInstanceError):
        fake_dataset(num_graphs=3).targets = np.zeros(3)


def test_all_networks_are_one_batch_where_no_positions_are_given():
    dataset = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    assert dataset.batch().bundles == dataset.bundles
    assert len(dataset.batch()) == NUM_GRAPHS


@pytest.mark.parametrize("topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES], ids=["one-structure", "several"])
@pytest.mark.parametrize(
    "positions", [[19, 4, 7, 6, 1], [5], [2, 2, 9], list(range(NUM_GRAPHS))], ids=["some", "one", "twice", "all"]
)
def test_a_batch_has_the_networks_of_its_positions_in_their_order(topologies, positions):
    graphs = fake_graphs(topologies, num_graphs=NUM_GRAPHS)
    batch = GraphDataset.from_graphs(graphs).batch(np.array(positions))
    assert len(batch) == len(positions)
    assert all_equal(graphs_of(batch.bundles), [graphs[position] for position in positions])


def test_a_batch_does_not_share_memory_with_its_dataset():
    dataset = fake_dataset(num_graphs=NUM_GRAPHS)
    before = dataset.bundles[0].values.clone()
    dataset.batch(np.arange(NUM_GRAPHS)).bundles[0].values.zero_()
    assert torch.equal(dataset.bundles[0].values, before)


@pytest.mark.parametrize("size", [1, 7, NUM_GRAPHS, 100])
def test_batches_hold_every_network_once_in_order(size):
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    batches = list(GraphDataset.from_graphs(graphs).batches(size))
    assert [len(batch) for _, batch in batches] == [min(size, NUM_GRAPHS - start) for start in range(0, NUM_GRAPHS, size)]
    np.testing.assert_array_equal(np.concatenate([positions for positions, _ in batches]), np.arange(NUM_GRAPHS))
    assert all_equal([graph for _, batch in batches for graph in graphs_of(batch.bundles)], graphs)


def test_shuffled_batches_hold_every_network_once_in_an_order_of_the_generator():
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    dataset = GraphDataset.from_graphs(graphs)
    orders = []
    for seed in (0, 0, 1):
        batches = list(dataset.batches(5, rng=np.random.default_rng(seed)))
        orders.append([int(position) for positions, _ in batches for position in positions])
        assert all_equal([g for _, batch in batches for g in graphs_of(batch.bundles)], [graphs[i] for i in orders[-1]])
    assert sorted(orders[0]) == list(range(NUM_GRAPHS)) != orders[0]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES], ids=["one-structure", "several"])
def test_scrambling_acts_on_each_network_with_the_element_of_its_salted_id(topologies):
    dataset = fake_dataset(topologies, num_graphs=NUM_GRAPHS)
    before = [bundle.values.clone() for bundle in dataset.bundles]
    scrambled = dataset.scrambled(salt="orbit")
    for network_id, graph, twin in zip(dataset.ids, graphs_of(dataset.bundles), graphs_of(scrambled.bundles), strict=True):
        seed = int.from_bytes(hashlib.sha256(f"orbit/{network_id}".encode()).digest()[:8], "little")
        assert symmetry.group(graph.topology).sample(seed).act(graph).equal(twin)
        assert not graph.equal(twin)
    assert all(torch.equal(bundle.values, values) for bundle, values in zip(dataset.bundles, before, strict=True))
    assert (scrambled.ids, scrambled.targets is dataset.targets) == (dataset.ids, True)


def test_the_scrambled_twin_of_a_network_does_not_depend_on_its_company():
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    ids = [f"run-{i}" for i in range(NUM_GRAPHS)]
    twins = graphs_of(GraphDataset.from_graphs(graphs, ids=ids).scrambled(salt="orbit").bundles)
    few = [21, 3, 8]
    some = GraphDataset.from_graphs([graphs[i] for i in few], ids=[ids[i] for i in few]).scrambled(salt="orbit")
    assert all_equal(graphs_of(some.bundles), [twins[i] for i in few])


def test_another_salt_gives_other_twins():
    dataset = fake_dataset(num_graphs=NUM_GRAPHS)
    assert not torch.equal(dataset.scrambled(salt="a").bundles[0].values, dataset.scrambled(salt="b").bundles[0].values)


def test_the_networks_of_one_structure_are_handed_out_in_the_order_of_the_ids():
    graphs = fake_graphs(ONE_STRUCTURE, num_graphs=NUM_GRAPHS)
    dataset = GraphDataset.from_graphs(graphs)
    order = np.random.default_rng(0).permutation(NUM_GRAPHS)
    stirred = dataset.bundles[0].__class__(
        dataset.bundles[0].variants, dataset.bundles[0].variant[order], dataset.bundles[0].values[order], torch.from_numpy(order)
    )
    unstirred = GraphDataset(dataset.ids, (stirred,), None, {})
    bundle = unstirred.one_structure(reader="flat-mlp")
    assert bundle.index.tolist() == list(range(NUM_GRAPHS))
    assert all_equal(graphs_of([bundle]), graphs)
    some = np.array([4, 1, 7])
    assert all_equal(graphs_of(unstirred.batch(some).bundles), [graphs[position] for position in some])


def test_a_reader_of_one_structure_is_refused_several():
    dataset = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    with pytest.raises(GraphError, match="flat-mlp reads networks of one architecture; got 3: use a method that reads any"):
        dataset.one_structure(reader="flat-mlp")
