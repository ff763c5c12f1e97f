from __future__ import annotations

import pytest
import torch

from ngbench.evaluation.audit.elements import PERMUTATIONS, SCALES, SIGNS, Size, act, transposition
from ngbench.evaluation.audit.proof import held_out_inputs, prove
from ngbench.graph import symmetry
from ngbench.loading import GraphDataset, ZooPrograms
from ngbench.store import open_zoo
from ngbench.testing import ONE_STRUCTURE, attention_topology, fake_dataset, mlp_topology


def moved_nodes(element):
    places = {name: torch.nonzero(own != torch.arange(len(own))).flatten().tolist() for name, own in element.permutations.items()}
    return {name: nodes for name, nodes in places.items() if nodes}


def test_a_transposition_exchanges_two_units_in_every_group_that_has_them():
    topology = attention_topology(4, num_heads=2, head_width=3)
    stream, heads, queries, _ = topology.indices
    assert moved_nodes(transposition(topology, stream, 1, 3)) == {"patch": [1, 3], "add": [1, 3]}
    assert moved_nodes(transposition(topology, queries, 0, 2)) == {"query": [0, 2], "key": [0, 2]}
    whole = moved_nodes(transposition(topology, heads, 0, 1))
    assert whole["scores"] == [0, 1]
    assert whole["value"] == [0, 1, 2, 3, 4, 5]


def test_a_transposition_undoes_itself():
    topology = attention_topology()
    for index in topology.indices:
        element = transposition(topology, index, 0, 1)
        assert moved_nodes(element)
        assert not moved_nodes(element.compose(element))


@pytest.mark.parametrize("size", [*PERMUTATIONS, *SCALES, *SIGNS], ids=lambda size: f"{size.kind}, {size.name}")
def test_networks_of_every_family_compute_the_same_behind_every_element(size):
    zoo = open_zoo("digits-park")
    families = zoo.metadata["family"]
    rows = torch.tensor([int((families == name).nonzero()[0][0]) for name in ("mlp", "cnn", "resnet", "transformer")]).numpy()
    networks = GraphDataset.from_zoo(zoo, rows)
    acted = act(networks, size, salt="test", dtype=torch.float64)
    assert acted is not None
    proof = prove(acted, size, held_out_inputs(zoo, 5, seed=0))
    assert proof.num_inputs == 5
    assert proof.largest_difference < 1e-12
    moved = [(a.values != b.values).any() for a, b in zip(acted.after.bundles, acted.before.bundles, strict=True)]
    assert all(moved)


def test_the_logarithms_of_scales_have_the_deviation_that_is_asked_for():
    topology = mlp_topology((2, 4000, 3))
    for size, sigma in zip(SCALES, (0.1, 0.5, 1.0), strict=True):
        logarithms = size.draw(topology, 7).scales["linear0"].log()
        assert float(logarithms.std()) == pytest.approx(sigma, rel=0.05)


def test_networks_without_such_elements_are_left_out():
    networks = fake_dataset(ONE_STRUCTURE, num_graphs=7)
    acted = act(networks, SCALES[0], salt="a", dtype=torch.float32)
    # every second network has tanh, which no scale passes
    assert acted.positions.tolist() == [0, 2, 4, 6]
    assert acted.before.ids == tuple(networks.ids[position] for position in (0, 2, 4, 6))
    assert act(fake_dataset(ONE_STRUCTURE[1:], num_graphs=3), SCALES[0], salt="a", dtype=torch.float32) is None
    assert act(fake_dataset((mlp_topology((3, 2)),), num_graphs=3), PERMUTATIONS[0], salt="a", dtype=torch.float32) is None


def test_elements_depend_on_salt_and_id_alone():
    networks, size = fake_dataset(ONE_STRUCTURE, num_graphs=5), PERMUTATIONS[2]
    first, again, other = (act(networks, size, salt=salt, dtype=torch.float32) for salt in ("a", "a", "b"))
    assert torch.equal(first.after.bundles[0].values, again.after.bundles[0].values)
    assert not torch.equal(first.after.bundles[0].values, other.after.bundles[0].values)
    assert first.after.bundles[0].values.dtype == torch.float32


def test_inputs_of_the_proof_are_test_images_where_they_fit():
    zoo = open_zoo("digits-cnn")
    inputs = held_out_inputs(zoo, 4, seed=1)
    images, _ = ZooPrograms(zoo).labelled("test")
    assert all((image == images).flatten(1).all(1).any() for image in inputs(((1, 8, 8),))[0])
    assert inputs(((1, 8, 8),))[0].dtype == torch.float64
    first, second = inputs(((3,), (2, 5)))
    assert (first.shape, second.shape, first.dtype) == ((4, 3), (4, 2, 5), torch.float64)


def test_an_element_that_moves_nothing_proves_nothing_moved():
    networks = fake_dataset((mlp_topology((3, 5, 2)),), num_graphs=2)
    still = Size("permutation", "none", lambda topology, seed: symmetry.group(topology).identity())
    acted = act(networks, still, salt="a", dtype=torch.float64)
    proof = prove(acted, still, lambda shapes: tuple(torch.ones(2, *shape, dtype=torch.float64) for shape in shapes))
    assert proof.largest_difference == 0.0
