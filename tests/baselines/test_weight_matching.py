from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from baselines.weight_matching import STATISTICS, Config, Pair, WeightMatching, families_of
from ngbench.errors import ConfigError, GraphError
from ngbench.graph import NeuralGraph, Topology, symmetry, trace
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.store import open_zoo
from ngbench.testing import (
    ALL_FAMILIES,
    PROBLEMS,
    attention_topology,
    cnn_topology,
    fake_dataset,
    fake_graphs,
    mlp_topology,
    residual_topology,
)


class GroupedNetwork(nn.Module):
    """A convolution in two groups, whose channels move in each group by themselves."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 2), nn.Conv2d(6, 4, 2, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))


class RecurrentNetwork(nn.Module):
    """A recurrent layer, one of whose weights has its units along both axes."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.RNN(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, sequence):
        return self.head(self.recurrent(sequence)[0][:, -1])


@pytest.fixture(scope="module")
def grouped():
    return trace(GroupedNetwork(), torch.zeros(1, 1, 5, 5)).topology


@pytest.fixture(scope="module")
def recurrent():
    return trace(RecurrentNetwork(), torch.zeros(1, 4, 3)).topology


def networks(topology: Topology, num_graphs: int, *, seed: int) -> list[NeuralGraph]:
    """Random networks, their running variances positive."""
    found = []
    for i in range(num_graphs):
        row = np.random.default_rng([seed, i]).normal(size=topology.num_values)
        for slot in topology.slots:
            if slot.feature == "running_var":
                row[slot.start : slot.stop] = np.exp(row[slot.start : slot.stop])
        found.append(NeuralGraph.from_row(topology, torch.from_numpy(row)))
    return found


def inner_product(first: NeuralGraph, second: NeuralGraph) -> float:
    """Of all that two networks learned, from their value rows."""
    total = 0.0
    for slot, mine, theirs in zip(first.topology.slots, first.slot_values, second.slot_values, strict=True):
        if slot.feature not in STATISTICS and (slot.feature is None or len(mine) == first.topology.group(slot.owner).size):
            total += float((mine.double() * theirs.double()).sum())
    return total


def element_of(topology: Topology, permutations) -> GroupElement:
    return GroupElement(topology, {name: torch.from_numpy(own) for name, own in permutations.items()})


def steps(first: NeuralGraph, second: NeuralGraph, *, num_sweeps: int) -> list[float]:
    """The inner product after each step of a descent, computed from the permuted network itself."""
    pair, permutations, found = Pair(first, second), {}, []
    for _ in range(num_sweeps):
        for family in families_of(first.topology):
            permutations = pair.improved(permutations, family)
            found.append(inner_product(first, element_of(first.topology, permutations).act(second)))
    return found


@pytest.mark.parametrize("topology", [*ALL_FAMILIES[2:], "grouped", "recurrent"], ids=str)
def test_no_step_lowers_the_inner_product(topology, request):
    topology = request.getfixturevalue(topology) if isinstance(topology, str) else topology
    gained = []
    for first, second in itertools.pairwise(networks(topology, 4, seed=1)):
        found = [inner_product(first, second), *steps(first, second, num_sweeps=3)]
        assert np.diff(found).min() >= -1e-9
        gained.append(found[-1] - found[0])
    assert max(gained) > 1


def test_a_step_that_only_its_linear_part_favours_is_not_taken(recurrent):
    # control: assigned blindly, some steps of a matrix with its units along both axes lose
    losses = []
    for first, second in itertools.pairwise(networks(recurrent, 30, seed=3)):
        pair, permutations = Pair(first, second), {}
        for _ in range(4):
            blind = pair.assigned(permutations, families_of(recurrent)[0])[0]
            losses.append(pair.objective(blind) - pair.objective(permutations))
            permutations = blind
    assert min(losses) < -0.01


@pytest.mark.parametrize("topology", [*ALL_FAMILIES[2:], "grouped", "recurrent"], ids=str)
def test_the_objective_is_the_inner_product_with_the_permuted_network(topology, request):
    topology = request.getfixturevalue(topology) if isinstance(topology, str) else topology
    first, second = networks(topology, 2, seed=5)
    element = symmetry.group(topology).sample(7)
    permutations = {name: own.numpy() for name, own in element.permutations.items()}
    assert Pair(first, second).objective(permutations) == pytest.approx(inner_product(first, element.act(second)), rel=1e-12)


@pytest.mark.parametrize(
    "topology", [mlp_topology((9, 8, 7, 5)), cnn_topology((1, 7, 6), num_classes=5), residual_topology(8), attention_topology(8)]
)
def test_known_permutations_are_undone(topology):
    first = networks(topology, 5, seed=2)
    group = symmetry.group(topology)
    second = [group.sample(seed).act(network) for seed, network in enumerate(first)]
    found = WeightMatching().match(GraphDataset.from_graphs(first), GraphDataset.from_graphs(second))
    for mine, theirs, element in zip(first, second, found, strict=True):
        assert torch.equal(element.act(theirs).row(), mine.row())


def test_known_permutations_of_trained_networks_of_four_families_are_undone():
    zoo = open_zoo("digits-park")
    families, accurate = zoo.metadata["family"], zoo.metadata["test_accuracy"] > 0.9
    rows = np.concatenate([np.flatnonzero((families == name) & accurate)[::40][:3] for name in np.unique(families)])
    original = GraphDataset.from_zoo(zoo, rows)
    moved = original.scrambled(salt="test")
    found = WeightMatching().match(original, moved)
    assert len(set(families[rows])) == 4
    assert len(found) == len(rows) >= 10
    back = {}
    for mine, theirs in zip(original.bundles, moved.bundles, strict=True):
        for row, position in enumerate(mine.index.tolist()):
            assert not torch.equal(mine.values[row], theirs.values[row])
            graph = NeuralGraph.from_row(found[position].topology, theirs.values[row])
            back[position] = torch.equal(found[position].act(graph).row(), mine.values[row])
    assert all(back.values())


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 4, 2)])
def test_no_permutation_of_a_tiny_network_is_better(widths):
    topology = mlp_topology(widths)
    names = [f"linear{i}" for i in range(len(widths) - 2)]
    first, second = networks(topology, 12, seed=3)[:6], networks(topology, 12, seed=3)[6:]
    found = WeightMatching(Config(num_starts=20)).match(GraphDataset.from_graphs(first), GraphDataset.from_graphs(second))
    for mine, theirs, element in zip(first, second, found, strict=True):
        choices = itertools.product(*(itertools.permutations(range(size)) for size in widths[1:-1]))
        best = max(
            inner_product(mine, element_of(topology, dict(zip(names, map(np.array, choice), strict=True))).act(theirs))
            for choice in choices
        )
        assert inner_product(mine, element.act(theirs)) == pytest.approx(best, rel=1e-9)


def test_networks_of_several_structures_are_matched_in_the_order_of_their_positions():
    first, second = fake_dataset(ALL_FAMILIES, num_graphs=12, seed=1), fake_dataset(ALL_FAMILIES, num_graphs=12, seed=2)
    found = WeightMatching().match(first, second)
    for position, element in enumerate(found):
        assert element.topology == ALL_FAMILIES[position % len(ALL_FAMILIES)]
    alone = np.array([4])
    pick = [GraphDataset((d.ids[4],), d.batch(alone).bundles, None, {}) for d in (first, second)]
    (again,) = WeightMatching().match(*pick)
    assert all(torch.equal(again.permutations[name], own) for name, own in found[4].permutations.items())


def test_running_statistics_have_no_part_in_a_match():
    topology = residual_topology(6)
    first, second = networks(topology, 2, seed=4)
    values = [
        torch.full_like(part, 1e6) if slot.feature in STATISTICS else part
        for slot, part in zip(topology.slots, second.slot_values, strict=True)
    ]
    changed = NeuralGraph(topology, tuple(values))
    mine = GraphDataset.from_graphs([first])
    plain, other = (WeightMatching().match(mine, GraphDataset.from_graphs([graph]))[0] for graph in (second, changed))
    assert all(torch.equal(plain.permutations[name], own) for name, own in other.permutations.items())


def test_what_cannot_be_paired_is_refused():
    graphs = fake_graphs((mlp_topology((4, 3, 2)), mlp_topology((4, 5, 2))), num_graphs=2)
    several, one = GraphDataset.from_graphs(graphs), GraphDataset.from_graphs(graphs[:1])
    with pytest.raises(GraphError, match="got 2 first and 1 second networks"):
        WeightMatching().match(several, one)
    with pytest.raises(GraphError, match="networks with 23 and 37 values differ in structure"):
        WeightMatching().match(one, GraphDataset.from_graphs(graphs[1:]))


@pytest.mark.parametrize("name", ["num_starts", "max_sweeps"])
def test_a_number_of_runs_or_sweeps_below_one_is_refused(name):
    with pytest.raises(ConfigError, match=re.escape(f"{name} is 0; expected a number above 0")):
        Config(**{name: 0})


def test_the_seed_of_the_run_seeds_starts_and_orders():
    """Of networks with nothing in common the best match of few starts depends on where they begin."""
    first, second = (fake_dataset((mlp_topology((5, 12, 9, 10, 7, 3)),), num_graphs=6, seed=seed) for seed in (1, 2))
    found = []
    for seed in (4, 5, 4):
        method = WeightMatching(Config(num_starts=2))
        method.fit(PROBLEMS["merging"], first, second, RunContext(seed=seed, budget=Budget(1, 1)))
        moves = [element.permutations for element in method.match(first, second)]
        found.append(torch.cat([own for element in moves for own in element.values()]))
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
