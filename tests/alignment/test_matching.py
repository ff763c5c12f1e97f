from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ngbench.alignment import assign, match
from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, Index, NodeGroup, ParameterView, Topology, symmetry
from ngbench.testing import attention_topology, cnn_topology, mlp_topology, residual_topology

SEED = 5


def grouped_queries(*, num_keys=2, num_heads=3, width=2, inputs=4):
    """Queries that run over keys, the heads of a key and units, beside keys that run over keys and units: as in Llama."""
    sizes = {"input": inputs, "query": num_keys * num_heads * width, "key": num_keys * width, "output": 3}
    indices = (Index("keys", num_keys), Index("heads", num_heads, ("keys",)), Index("units", width, ("keys",)))
    groups = (
        NodeGroup("input", inputs, "input", "none", 0),
        NodeGroup("query", sizes["query"], "hidden", "none", 1, (), ("keys", "heads", "units")),
        NodeGroup("key", sizes["key"], "hidden", "none", 1, (), ("keys", "units")),
        NodeGroup("output", 3, "output", "none", 2),
    )
    ends = [("input", "query"), ("input", "key"), ("query", "output")]
    blocks = tuple(EdgeBlock(f"{a}-{b}", a, b, "dense", "linear", (), ParameterView(f"{a}-{b}.weight")) for a, b in ends)
    parameters = tuple((f"{a}-{b}.weight", (sizes[b], sizes[a])) for a, b in ends)
    return Topology(groups, blocks, parameters, indices)


TOPOLOGIES = {
    "mlp": mlp_topology((4, 7, 5, 3)),
    "cnn": cnn_topology((2, 6, 5), num_classes=4),
    "residual": residual_topology(5, num_inner=4),
    "attention": attention_topology(4, num_heads=3, head_width=5),
    "grouped": grouped_queries(),
}
topologies = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


def whole(topology, element):
    """All nodes' permutations one after another."""
    identity = {group.name: torch.arange(group.size) for group in topology.groups}
    return torch.cat([element.permutations.get(name, nodes) + topology.node_ptr[name] for name, nodes in identity.items()])


def embeddings(topology, *, num_channels=6, seed=SEED):
    """Random numbers, by which nodes are told apart."""
    return torch.randn(topology.num_nodes, num_channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gain(gains, element):
    """The sum that an assignment makes largest."""
    return sum(own[np.arange(len(own)), element.permutations[name].numpy()].sum() for name, own in gains.items())


def random_gains(topology, seed):
    rng = np.random.default_rng(seed)
    names = symmetry.group(topology).moving_groups
    return {name: rng.normal(size=(topology.group(name).size,) * 2) for name in names}


def all_elements(topology, names):
    """Every element that moves the indices of a name and no others."""
    group = symmetry.group(topology)
    indices = {index.name: index for index in group.indices}
    choices = []
    for name in names:
        copies = int(np.prod([indices[parent].size for parent in indices[name].parents]))
        shape = (*(indices[parent].size for parent in indices[name].parents), indices[name].size)
        alone = list(itertools.permutations(range(indices[name].size)))
        choices.append([np.array(chosen).reshape(shape) for chosen in itertools.product(alone, repeat=copies)])
    return [group.element(dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*choices)]


@topologies
def test_a_known_permutation_is_recovered_from_embeddings_that_tell_nodes_apart(topology):
    element = symmetry.group(topology).sample(SEED)
    first = embeddings(topology)
    second = first[whole(topology, element)]
    found = match(topology, first, second)
    assert torch.equal(whole(topology, found), whole(topology, element.inverse()))
    assert torch.equal(second[whole(topology, found)], first)


def test_the_best_assignment_of_a_residual_stream_adds_the_gains_of_its_groups():
    topology = residual_topology(4, num_inner=3)
    gains = random_gains(topology, 1)
    found = assign(topology, gains)
    best = max(gain(gains, element) for element in all_elements(topology, ["stream", "inner"]))
    assert gain(gains, found) == pytest.approx(best, rel=1e-12)


def test_the_best_assignment_of_heads_looks_into_them():
    topology = attention_topology(2, num_heads=3, head_width=2)
    gains = {name: own for name, own in random_gains(topology, 2).items() if name not in ("patch", "add")}
    found = assign(topology, gains)
    best = max(gain(gains, element) for element in all_elements(topology, ["heads", "queries", "values"]))
    assert gain(gains, found) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_an_assignment_of_indices_side_by_side_cannot_be_bettered_by_one_of_them(seed):
    topology = grouped_queries()
    gains = random_gains(topology, seed)
    found = assign(topology, gains)
    best = max(gain(gains, element) for element in all_elements(topology, ["keys", "heads", "units"]))
    assert best * 0.9 <= gain(gains, found) <= best + 1e-9
    for names in (["heads"], ["units"]):
        for step in all_elements(topology, names):
            assert gain(gains, found.compose(step)) <= gain(gains, found) + 1e-9


def test_embeddings_that_tell_nothing_recover_a_node_in_n():
    topology = mlp_topology((4, 50, 3))
    shares = []
    for seed in range(200):
        first, second = embeddings(topology, seed=2 * seed), embeddings(topology, seed=2 * seed + 1)
        shares.append(float((match(topology, first, second).permutations["linear0"] == torch.arange(50)).double().mean()))
    # each share has mean 1/50 and variance 1/50²: five standard errors
    assert abs(np.mean(shares) - 1 / 50) < 5 / 50 / np.sqrt(200)


def test_groups_without_gain_or_with_constant_embeddings_do_no_harm():
    topology = attention_topology(4, num_heads=3, head_width=5)
    first = embeddings(topology)
    first[topology.node_ptr["scores"] : topology.node_ptr["scores"] + 3] = 0.0
    element = symmetry.group(topology).sample(SEED)
    found = match(topology, first, first[whole(topology, element)])
    assert torch.equal(whole(topology, found), whole(topology, element.inverse()))


def test_a_match_does_not_depend_on_scale_or_place_of_embeddings():
    topology = residual_topology(5, num_inner=4)
    first, second = embeddings(topology, seed=1), embeddings(topology, seed=2)
    moved = [3.5 * nodes - 7 for nodes in (first, second)]
    assert torch.equal(whole(topology, match(topology, first, second)), whole(topology, match(topology, *moved)))


def test_embeddings_of_another_shape_are_refused():
    topology = mlp_topology((4, 7, 3))
    with pytest.raises(GraphError, match=r"shapes \[14, 2\] and \[13, 2\]; expected \[14, channels\] twice"):
        match(topology, np.zeros((14, 2)), np.zeros((13, 2)))


def test_embeddings_that_are_not_finite_are_refused():
    topology = mlp_topology((4, 7, 3))
    nodes = np.zeros((14, 2))
    nodes[9, 1] = np.inf
    with pytest.raises(GraphError, match="the embedding of node 9 is not finite"):
        match(topology, np.zeros((14, 2)), nodes)


def test_gains_of_another_shape_are_refused():
    topology = mlp_topology((4, 7, 3))
    with pytest.raises(GraphError, match=r"gains of group 'linear0' have shape \(7, 6\); expected finite numbers \(7, 7\)"):
        assign(topology, {"linear0": np.zeros((7, 6))})
