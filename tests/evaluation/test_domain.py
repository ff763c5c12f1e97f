from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.evaluation.domain import Domain, shape_digest
from ngbench.graph import NeuralGraph, trace
from ngbench.loading.batch import HIDDEN
from ngbench.testing import ALL_FAMILIES, ONE_STRUCTURE, SEVERAL_STRUCTURES, fake_dataset, fake_graphs, mlp_topology

NUM_GRAPHS = 40


def graphs_of(dataset):
    bundle = dataset.bundles[0]
    return [NeuralGraph.from_row(bundle.variants[int(v)], row) for v, row in zip(bundle.variant, bundle.values, strict=True)]


@pytest.fixture(scope="module")
def train():
    return fake_dataset(ONE_STRUCTURE, num_graphs=NUM_GRAPHS, seed=0)


@pytest.fixture(scope="module")
def domain(train):
    return Domain.of(train)


def scaled(graph, factor, *, owner):
    row = graph.row().clone()
    for slot in graph.topology.slots:
        if slot.owner == owner and slot.feature is None:
            row[slot.start : slot.stop] *= factor
    return NeuralGraph.from_row(graph.topology, row)


def mlp(names, widths=(3, 7, 5), activation=nn.ReLU, norm=False):
    first, second = nn.Linear(*widths[:2]), nn.Linear(*widths[1:])
    inner = [(names[2], nn.LayerNorm(widths[1]))] if norm else []
    module = nn.Sequential(OrderedDict([(names[0], first), *inner, ("between", activation()), (names[1], second)]))
    return trace(module, torch.zeros(1, widths[0])).topology


def test_structures_are_the_same_whatever_their_modules_are_called_and_compute():
    plain, renamed = mlp(("a", "b")), mlp(("zeta", "alpha"))
    assert plain.structure != renamed.structure
    assert shape_digest(plain) == shape_digest(renamed) == shape_digest(mlp(("a", "b"), activation=nn.Tanh))


def test_structures_differ_in_sizes_layers_and_families():
    others = [mlp(("a", "b"), (3, 8, 5)), mlp(("a", "b"), (3, 7, 6)), mlp(("a", "b", "c"), norm=True), *ALL_FAMILIES]
    structures = {topology.structure for topology in others}
    assert len({shape_digest(topology) for topology in others}) == len(structures)


def test_networks_of_training_and_others_made_alike_are_inside(domain):
    inside = [domain.objections(graph) for graph in graphs_of(fake_dataset(ONE_STRUCTURE, num_graphs=NUM_GRAPHS, seed=1))]
    assert sum(not objections for objections in inside) >= 0.9 * NUM_GRAPHS


@pytest.mark.parametrize("factor", [30.0, 1 / 30])
def test_a_layer_of_another_size_is_outside(domain, train, factor):
    graph = graphs_of(train)[0]
    (objection,) = domain.objections(scaled(graph, factor, owner="conv1"))
    size = float(graph.block("conv1").square().mean().sqrt()) * factor
    low, high = domain.structures[shape_digest(graph.topology)].slots[graph.topology.slot_index["conv1", None]].size
    assert objection == f"conv1.weight has root mean square {size:.3g}, in training {low:.3g} to {high:.3g}"


def test_one_large_weight_is_outside(domain, train):
    graph = graphs_of(train)[0]
    row = graph.row().clone()
    slot = graph.topology.slots[graph.topology.slot_index["conv1", None]]
    values = row[slot.start : slot.stop]
    ranges = domain.structures[shape_digest(graph.topology)].slots[graph.topology.slot_index["conv1", None]]
    values *= ranges.size[0] / values.square().mean().sqrt()
    values[0] = 1.6 * ranges.largest[1]
    assert float(values.square().mean().sqrt()) < ranges.size[1]
    (objection,) = domain.objections(NeuralGraph.from_row(graph.topology, row))
    assert "conv1.weight has largest magnitude" in objection


def test_ranges_are_those_of_numpy_over_the_training_networks(domain, train):
    bundle = train.bundles[0]
    for number, slot in enumerate(bundle.topology.slots):
        part = bundle.values[:, slot.start : slot.stop].double().numpy()
        expected = np.quantile(np.sqrt((part**2).mean(1)), [0.005, 0.995])
        (structure,) = domain.structures.values()
        np.testing.assert_allclose(structure.slots[number].size, expected, rtol=1e-12)
        np.testing.assert_allclose(structure.slots[number].largest, np.quantile(abs(part).max(1), [0.005, 0.995]), rtol=1e-12)


def test_what_was_never_seen_is_said(domain):
    (mish,) = fake_graphs([replace_activation(ONE_STRUCTURE[0], "mish")], num_graphs=1)
    assert "activation mish was never seen in training" in domain.objections(mish)
    unseen = fake_graphs(ALL_FAMILIES[-2:-1], num_graphs=1)[0]
    objections = domain.objections(unseen)
    assert objections[0] == "its structure was never seen in training, which had 1 other"
    assert "no layer of training had batch norm, running mean, running var, slope" in objections


def test_layers_of_an_unseen_structure_are_compared_with_all_of_their_kind():
    domain = Domain.of(fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS, seed=0))
    wide = NeuralGraph.from_row(mlp_topology((4, 90, 3)), 0.3 * torch.randn(723, generator=torch.Generator().manual_seed(0)))
    assert domain.objections(wide)[0] == "its structure was never seen in training, which had 3 others"
    large = scaled(wide, 1000.0, owner="linear1")
    said = [text for text in domain.objections(large) if text.startswith("linear1.weight")]
    unit = float(large.block("linear1").square().mean().sqrt()) * 90**0.5
    low, high = domain.kinds["linear"].size
    assert said == [f"linear1.weight has root mean square {unit:.3g} at a fan-in of one, in training {low:.3g} to {high:.3g}"]


def replace_activation(topology, name):
    groups = tuple(replace(g, activation=name if g.role == "hidden" else g.activation) for g in topology.groups)
    return replace(topology, groups=groups)


def test_a_network_takes_the_names_of_training_and_keeps_its_numbers_and_activations():
    known = mlp(("a", "b"), activation=nn.Tanh)
    domain = Domain.of(fake_dataset([known], num_graphs=5))
    own = NeuralGraph.from_row(mlp(("first", "last")), torch.arange(float(known.num_values)))
    renamed = domain.in_words_of_training(own)
    assert renamed.topology.structure == known.structure
    assert [group.activation for group in renamed.topology.groups] == [group.activation for group in own.topology.groups]
    assert torch.equal(renamed.row(), own.row())
    assert [g.name for g in own.topology.groups] != [g.name for g in renamed.topology.groups]


def test_a_network_of_another_structure_keeps_its_names(domain):
    own = NeuralGraph.from_row(mlp(("first", "last")), torch.zeros(68))
    assert domain.in_words_of_training(own).topology == own.topology


@pytest.mark.parametrize("topologies", [ONE_STRUCTURE, SEVERAL_STRUCTURES])
def test_activations_that_were_asked_for_are_withheld(topologies):
    domain = Domain.of(fake_dataset(topologies, num_graphs=NUM_GRAPHS).without_activations())
    for topology in (ONE_STRUCTURE[0], mlp_topology((4, 9, 3))):
        (graph,) = fake_graphs([topology], num_graphs=1)
        found = {g.activation for g in domain.in_words_of_training(graph).topology.groups if g.role == "hidden"}
        assert found == {HIDDEN}
        assert not any("activation" in text for text in domain.objections(graph))


def test_a_domain_is_json_and_holds_the_names_of_one_structure_alone(domain):
    assert Domain.model_validate_json(domain.model_dump_json()) == domain
    several = Domain.of(fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS))
    assert {structure.topology for structure in several.structures.values()} == {None}
