"""Restoring, the expected group, both laws, and permutations outside the group, for every architecture."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ngbench.graph import NeuralGraph, Topology, restore, symmetry, trace
from ngbench.graph.symmetry import GroupElement

SEEDS = (1, 2, 3)
KEPT, CHANGED = 1e-10, 1e-6


@dataclass(frozen=True)
class Order:
    """Logarithm of the order of a permutation group and how many things it moves, put together as groups are."""

    log: float
    degree: int

    def __mul__(self, other):
        return Order(self.log + other.log, self.degree + other.degree)

    def __matmul__(self, top):
        return Order(self.log * top.degree + top.log, self.degree * top.degree)


def symmetric(size):
    return Order(math.lgamma(size + 1), size)


def move(topology, moves, *, groups):
    """The element that moves indices in some groups: ``moves[name](coordinates, size)`` gives the new coordinates."""
    permutations = {}
    for group in map(topology.group, groups):
        indices = topology.indices_of(group.name)
        sizes = [index.size for index in indices]
        coordinates = dict(zip([index.name for index in indices], np.indices(sizes), strict=True))
        moved = [
            moves[index.name](coordinates, index.size) if index.name in moves else coordinates[index.name] for index in indices
        ]
        permutations[group.name] = torch.from_numpy(np.ravel_multi_index(moved, sizes).reshape(-1))
    return GroupElement(topology, permutations)


def rotation(name):
    """Each entry of an index moves on by one."""
    return {name: lambda coordinates, size: (coordinates[name] + 1) % size}


def rotation_in_first(name, *, of):
    """Entries of an index move on by one where another index is at its first entry."""
    return {name: lambda coordinates, size: (coordinates[name] + (coordinates[of] == 0)) % size}


def indices(topology):
    """Every index of more than one entry, with the names of the groups that have it."""
    owners = {}
    for group in topology.groups:
        for index in topology.indices_of(group.name):
            owners.setdefault(index, []).append(group.name)
    return {index: names for index, names in owners.items() if index.size > 1}


def test_the_state_dict_comes_back_bit_for_bit(architecture):
    expected, restored = architecture.module.state_dict(), restore(architecture.graph)
    assert list(restored) == list(expected)
    for path, entry in expected.items():
        assert restored[path].dtype == entry.dtype
        assert restored[path].shape == entry.shape
        assert restored[path].numpy().tobytes() == entry.numpy().tobytes()


def test_the_topology_survives_its_text(architecture):
    topology = architecture.graph.topology
    assert Topology.from_json(topology.to_json()) == topology
    assert architecture.trace().topology == topology


def test_the_topology_does_not_depend_on_how_many_examples_are_given(architecture):
    inputs = tuple(tensor[:1] for tensor in architecture.inputs)
    kwargs = {name: tensor[:1] for name, tensor in architecture.kwargs.items()}
    assert trace(architecture.module, inputs, kwargs).topology == architecture.graph.topology


def test_the_group_is_the_one_that_theory_gives(architecture):
    group = symmetry.group(architecture.graph.topology)
    assert str(group) == architecture.group
    expression = re.sub(r"S_(\d+)", r"symmetric(\1)", architecture.group).replace("×", "*").replace("≀", "@")
    assert group.log_order == pytest.approx(eval(expression, {"symmetric": symmetric}).log, rel=1e-12)


def test_sampled_elements_keep_the_function(architecture):
    group = symmetry.group(architecture.graph.topology)
    for seed in SEEDS:
        element = group.sample(seed)
        assert architecture.change(element) < KEPT
        assert architecture.change(element.inverse()) < KEPT


def test_tracing_a_permuted_module_gives_the_permuted_graph(architecture):
    graph, module = architecture.graph, architecture.module
    before = {path: entry.clone() for path, entry in module.state_dict().items()}
    element = symmetry.group(graph.topology).sample(SEEDS[0])
    expected = element.act(graph)
    assert not expected.equal(graph)
    try:
        module.load_state_dict(element.act_state_dict(before))
        assert architecture.trace().equal(expected)
    finally:
        module.load_state_dict(before)
    assert element.inverse().act(expected).equal(NeuralGraph.from_state_dict(graph.topology, before))


def test_the_table_of_a_permuted_graph_is_the_relabelled_table(architecture):
    graph = architecture.graph
    element = symmetry.group(graph.topology).sample(SEEDS[0])
    old, new = graph.to_pyg(), element.act(graph).to_pyg()
    label = torch.arange(graph.topology.num_nodes)
    for name, permutation in element.permutations.items():
        start = graph.topology.node_ptr[name]
        label[start : start + len(permutation)] = start + permutation
    first, second = edges(old, torch.arange(len(label))), edges(new, label)
    assert torch.equal(old.x[label], new.x)
    assert torch.equal(old.edge_attr[first[0]], new.edge_attr[second[0]])
    assert torch.equal(first[1], second[1])
    assert len(first[1].unique(dim=0)) == graph.topology.num_edges


def edges(data, label):
    """Order by block, source and target, and these, sorted."""
    rows = np.stack([data.edge_block, label[data.edge_index[0]], label[data.edge_index[1]]])
    order = np.lexsort(rows[::-1])
    return torch.from_numpy(order), torch.from_numpy(rows[:, order].T.copy())


def test_scrambled_rows_are_those_of_sampled_elements(architecture):
    graph = architecture.graph
    group = symmetry.group(graph.topology)
    scrambled = group.scramble(graph.row().expand(len(SEEDS), -1), SEEDS)
    for row, seed in zip(scrambled, SEEDS, strict=True):
        assert torch.equal(group.sample(seed).act(graph).row(), row)


def test_each_index_that_moves_moves_parameters_and_keeps_the_function(architecture):
    topology = architecture.graph.topology
    for index, names in indices(topology).items():
        if not index.fixed:
            change = architecture.change(move(topology, rotation(index.name), groups=names))
            assert change is not None, index
            assert change < KEPT, index


def test_no_fixed_index_could_move(architecture):
    topology = architecture.graph.topology
    for index, names in indices(topology).items():
        if index.fixed:
            change = architecture.change(move(topology, rotation(index.name), groups=names))
            assert change is None or change > CHANGED, index


def test_no_group_permutes_without_those_that_it_is_tied_to(architecture):
    topology = architecture.graph.topology
    for index, names in indices(topology).items():
        together = move(topology, rotation(index.name), groups=names).act_state_dict(architecture.state_dict)
        for name in names if len(names) > 1 else ():
            alone = move(topology, rotation(index.name), groups=[name])
            moved = alone.act_state_dict(architecture.state_dict)
            # The other groups show no parameter that is not tied to one of this group.
            if any(not torch.equal(moved[path], together[path]) for path in moved):
                change = architecture.change(alone)
                assert change is None or change > CHANGED, (index, name)


def test_no_index_moves_by_itself_in_each_entry_of_another_that_is_not_its_parent(architecture):
    topology = architecture.graph.topology
    for index, names in indices(topology).items():
        for other, others in indices(topology).items():
            both = [name for name in names if name in others]
            if both and other != index and other.name not in index.parents and index.name not in other.parents:
                change = architecture.change(move(topology, rotation_in_first(index.name, of=other.name), groups=both))
                assert change is None or change > CHANGED, (index, other)


def test_no_unit_leaves_its_head(architecture):
    topology = architecture.graph.topology
    alike = {}
    for group in topology.groups:
        found = tuple(index for index in topology.indices_of(group.name) if index.size > 1)
        if len(found) > 1:
            alike.setdefault(found, []).append(group)
    for found, groups in alike.items():
        exchanged = torch.arange(groups[0].size)
        exchanged[[0, -1]] = exchanged[[-1, 0]]
        change = architecture.change(GroupElement(topology, dict.fromkeys([group.name for group in groups], exchanged)))
        assert change is None or change > CHANGED, found


def test_outputs_do_not_permute(architecture):
    topology = architecture.graph.topology
    outputs = [group for group in topology.groups if group.role == "output" and group.size > 1]
    assert outputs
    for group in outputs:
        rolled = GroupElement(topology, {group.name: torch.arange(group.size).roll(1)})
        change = architecture.change(rolled)
        assert change is None or change > CHANGED, group.name
