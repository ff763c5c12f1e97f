from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, trace
from ngbench.graph.topology import Index

INPUTS = NodeGroup("x", 3, "input", "none", 0)
HIDDEN = NodeGroup("a", 5, "hidden", "relu", 1, (NodeFeature("bias", ParameterView("a.bias")),))
OUTPUTS = NodeGroup("b", 2, "output", "none", 2)
FIRST = EdgeBlock("a", "x", "a", "dense", "conv", (2, 4), ParameterView("a.weight"))
SECOND = EdgeBlock("b", "a", "b", "dense", "linear", (), ParameterView("b.weight"))
PARAMETERS = (("a.weight", (5, 3, 2, 4)), ("a.bias", (5,)), ("b.weight", (2, 5)))
TOPOLOGY = Topology((INPUTS, HIDDEN, OUTPUTS), (FIRST, SECOND), PARAMETERS)


def test_slots_are_node_features_then_blocks_end_to_end():
    slots = [(slot.owner, slot.feature, slot.shape, slot.start, slot.stop) for slot in TOPOLOGY.slots]
    assert slots == [("a", "bias", (5,), 0, 5), ("a", None, (5, 3, 8), 5, 125), ("b", None, (2, 5, 1), 125, 135)]
    assert TOPOLOGY.num_values == 135
    assert TOPOLOGY.slot_index == {("a", "bias"): 0, ("a", None): 1, ("b", None): 2}


def test_nodes_edges_and_first_nodes_are_counted():
    assert TOPOLOGY.num_nodes == 3 + 5 + 2
    assert TOPOLOGY.num_edges == 3 * 5 + 5 * 2
    assert TOPOLOGY.node_ptr == {"x": 0, "a": 3, "b": 8}


def test_a_diagonal_block_has_one_edge_for_each_target():
    units, copy = replace(HIDDEN, indices=("units",)), NodeGroup("a:2", 5, "hidden", "tanh", 2, indices=("units",))
    blocks = (FIRST, EdgeBlock("same", "a", "a:2", "diagonal", "identity"), SECOND)
    topology = Topology((INPUTS, units, copy, OUTPUTS), blocks, PARAMETERS, (Index("units", 5),))
    assert topology.block_shape("same") == (5, 1, 1)
    assert topology.block_sources("same").tolist() == [[0], [1], [2], [3], [4]]
    assert topology.num_edges == 3 * 5 + 5 + 5 * 2
    assert topology.num_values == 135


HEADS, QUERIES, VALUES = Index("heads", 2), Index("queries", 3, ("heads",)), Index("values", 5, ("heads",))


def heads_topology(**changes):
    """Units of two heads, the heads slowest in one group and fastest in another; edges stay within a head."""
    groups = (
        NodeGroup("x", 4, "input", "none", 0),
        NodeGroup("q", 6, "hidden", "tanh", 1, indices=("heads", "queries")),
        NodeGroup("v", 10, "hidden", "none", 2, (NodeFeature("gain", ParameterView("gain"), shared=True),), ("values", "heads")),
        NodeGroup("y", 7, "output", "none", 3),
    )
    blocks = (
        EdgeBlock("q", "x", "q", "dense", "linear", (), ParameterView("q")),
        EdgeBlock("v", "q", "v", "grouped", "linear", (2,), ParameterView("v"), ("heads",)),
        EdgeBlock("y", "v", "y", "dense", "linear", (), ParameterView("y")),
    )
    parameters = (("q", (6, 4)), ("v", (10, 3, 2)), ("y", (7, 10)), ("gain", (1,)))
    indices = (HEADS, QUERIES, VALUES)
    return replace(Topology(groups, blocks, parameters, indices), **changes)


def coordinates(topology, group):
    """For each node of a group its entry of each of its indices, by name."""
    indices = topology.indices_of(group)
    entries = itertools.product(*[range(index.size) for index in indices])
    return [dict(zip([index.name for index in indices], entry, strict=True)) for entry in entries]


def test_a_grouped_block_joins_what_agrees_on_its_shared_indices():
    topology = heads_topology()
    sources, targets = coordinates(topology, "q"), coordinates(topology, "v")
    expected = [[s for s, source in enumerate(sources) if source["heads"] == target["heads"]] for target in targets]
    assert topology.block_shape("v") == (10, 3, 2)
    assert topology.block_sources("v").tolist() == expected
    assert topology.num_edges == 4 * 6 + 10 * 3 + 10 * 7


def test_the_sources_of_a_dense_block_are_all():
    assert TOPOLOGY.block_sources("b").tolist() == [[0, 1, 2, 3, 4]] * 2


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_the_sources_of_any_grouped_block_are_those_of_a_loop(sizes, data):
    indices = [Index(f"i{place}", size) for place, size in enumerate(sizes)]
    names = [index.name for index in indices]

    def group(name, role):
        own = data.draw(st.permutations(data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))))
        return NodeGroup(name, math.prod(sizes[names.index(n)] for n in own), role, "none", 0, indices=tuple(own))

    source, target = group("source", "input"), group("target", "output")
    shared = tuple(name for name in names if name in source.indices and name in target.indices)
    block = EdgeBlock("b", "source", "target", "grouped", "identity", (), None, shared)
    topology = Topology((source, target), (block,), (), tuple(indices))
    sources, targets = coordinates(topology, "source"), coordinates(topology, "target")
    expected = [[s for s, a in enumerate(sources) if all(a[name] == b[name] for name in shared)] for b in targets]
    assert topology.block_sources("b").tolist() == expected
    assert topology.block_shape("b") == (len(targets), len(expected[0]), 1)


def test_a_feature_that_all_nodes_share_is_one_number():
    slots = [(slot.owner, slot.feature, slot.shape) for slot in heads_topology().slots]
    assert slots == [("v", "gain", (1,)), ("q", None, (6, 4, 1)), ("v", None, (10, 3, 2)), ("y", None, (7, 10, 1))]


def test_the_indices_of_a_group_are_its_own_or_one_that_it_stands_for_itself():
    topology = heads_topology()
    assert topology.indices_of("v") == (VALUES, HEADS)
    assert topology.indices_of("x") == (Index("x", 4, fixed=True),)
    assert TOPOLOGY.indices_of("a") == (Index("a", 5),)


def test_indices_tied_paths_buffers_and_order_come_back_from_json():
    topology = heads_topology(
        tied=(("w", "q"),), buffers=("counter",), order=("counter", "q", "w", "v", "y", "gain"),
        indices=(replace(HEADS, fixed=True), QUERIES, VALUES),
    )  # fmt: skip
    again = Topology.from_json(topology.to_json())
    assert again == topology
    assert (again.tied, again.buffers, again.order) == (topology.tied, topology.buffers, topology.order)
    assert again.indices == (Index("heads", 2, fixed=True), QUERIES, VALUES)
    assert again.edge_block("v").shared == ("heads",)
    assert again.group("v").features[0].shared is True


@pytest.mark.parametrize(
    "changes",
    [
        {"tied": (("w", "q"),)},
        {"buffers": ("counter",)},
        {"order": ("gain", "y", "v", "q")},
        {"indices": (replace(HEADS, fixed=True), QUERIES, VALUES)},
        {"indices": (HEADS, Index("queries", 3), VALUES)},
    ],
)
def test_what_the_new_fields_hold_is_part_of_the_digest(changes):
    assert heads_topology(**changes).digest != heads_topology().digest


def test_fields_at_their_defaults_leave_no_trace_in_the_text():
    assert set(json.loads(TOPOLOGY.to_json())) == {"groups", "blocks", "parameters"}
    explicit = Topology((INPUTS, HIDDEN, OUTPUTS), (FIRST, SECOND), PARAMETERS, (), (), (), ())
    assert explicit.digest == TOPOLOGY.digest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"indices": (Index("heads", 4), QUERIES, VALUES)}, r"group 'q' has 6 nodes and indices of sizes \[4, 3\]; exp"),
        ({"indices": (HEADS, QUERIES)}, "group 'v' names index 'values'; expected one of heads, queries"),
        (
            {"blocks": (replace(heads_topology().blocks[1], shared=("queries",)),)},
            "block 'v' shares index 'queries', which group 'v' lacks; expected both ends to have it",
        ),
        (
            {"blocks": (*heads_topology().blocks, EdgeBlock("again", "q", "q", "diagonal", "identity"),
                        EdgeBlock("turned", "v", "turned", "diagonal", "identity")),
             "groups": (*heads_topology().groups, NodeGroup("turned", 10, "hidden", "none", 3, indices=("heads", "values")))},
            "diagonal block 'turned' joins groups 'v' and 'turned', whose nodes run over different indices; expected the same",
        ),
        (
            {"blocks": (*heads_topology().blocks, EdgeBlock("z", "q", "z", "dense", "linear", (), ParameterView("y"))),
             "groups": (*heads_topology().groups, NodeGroup("z", 7, "hidden", "none", 3))},
            "blocks 'y' and 'z' show one parameter, 'y', over indices heads, values and heads, queries, z; expected the same",
        ),
    ],
)  # fmt: skip
def test_indices_that_contradict_the_groups_and_blocks_are_refused(changes, text):
    with pytest.raises(GraphError, match=text):
        heads_topology(**changes)


def test_a_diagonal_between_fixed_indices_may_join_different_ones():
    groups = (NodeGroup("x", 3, "input", "none", 0), NodeGroup("y", 3, "output", "none", 1))
    topology = Topology(groups, (EdgeBlock("y", "x", "y", "diagonal", "scale", (), ParameterView("w")),), (("w", (3,)),))
    assert topology.num_edges == 3


def test_a_tied_parameter_has_one_slot():
    first, second = NodeGroup("a", 3, "hidden", "relu", 1), NodeGroup("a:2", 3, "output", "none", 2)
    blocks = [
        EdgeBlock(target, source, target, "dense", "linear", (), ParameterView("w"))
        for source, target in (("x", "a"), ("a", "a:2"))
    ]
    topology = Topology((INPUTS, first, second), tuple(blocks), (("w", (3, 3)),))
    assert [slot.owner for slot in topology.slots] == ["a"]
    assert topology.num_edges == 18


def test_the_canonical_text_and_its_digest_never_change():
    assert TOPOLOGY.digest == "310985e380792fbf91a9f8b9fdb6f4aaa58a383cd94e69659cff964584aaa324"
    assert TOPOLOGY.structure == "db9f74476077287f226fe857e65d04df45937e5b2e1dffc566cfa7b95758f4f3"


def test_the_digest_of_a_traced_network_never_changes(make):
    network = make("conv2d_flatten")
    assert network.graph.topology.digest == "c90d4ae1bf739d1feba448d7bbd202222e99fcbcdebd41ebb422e830deb69b9f"


def test_json_gives_the_same_topology_back(network):
    topology = network.graph.topology
    again = Topology.from_json(topology.to_json())
    assert again == topology
    assert hash(again) == hash(topology)
    assert again.slots == topology.slots
    assert again.to_json() == topology.to_json()


def test_a_pickled_topology_is_found_in_a_dict_of_another_process():
    hash(TOPOLOGY)
    code = (
        "import pickle, sys; from ngbench.graph import Topology; t = pickle.load(sys.stdin.buffer); "
        "print({Topology.from_json(t.to_json()): 'found'}.get(t))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(TOPOLOGY), capture_output=True, env=environment, check=True
    )
    assert run.stdout.decode().strip() == "found"


@pytest.mark.parametrize(
    "activation", [nn.Tanh(), nn.ELU(0.3), nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Softmax(-1), nn.Identity()]
)
def test_networks_that_differ_in_activations_only_share_a_structure(activation):
    def topology(activation):
        return trace(
            nn.Sequential(OrderedDict(a=nn.Linear(3, 5), middle=activation, b=nn.Linear(5, 2))), torch.zeros(4, 3)
        ).topology

    plain, other = topology(nn.SiLU()), topology(activation)
    assert plain.structure == other.structure
    assert plain.digest != other.digest


@pytest.mark.parametrize(
    "other",
    [
        replace(
            TOPOLOGY,
            groups=(INPUTS, replace(HIDDEN, name="c"), OUTPUTS),
            blocks=(replace(FIRST, target="c"), replace(SECOND, source="c")),
        ),
        replace(TOPOLOGY, groups=(INPUTS, replace(HIDDEN, layer=3), OUTPUTS)),
        replace(TOPOLOGY, groups=(INPUTS, replace(HIDDEN, role="structural"), OUTPUTS)),
        replace(TOPOLOGY, blocks=(replace(FIRST, kernel=(4, 2)), SECOND)),
        replace(TOPOLOGY, blocks=(replace(FIRST, operation="linear"), SECOND)),
        replace(TOPOLOGY, blocks=(SECOND, FIRST)),
        replace(TOPOLOGY, parameters=PARAMETERS[::-1]),
    ],
    ids=["name", "layer", "role", "kernel", "operation", "order", "parameters"],
)
def test_any_other_difference_is_another_structure(other):
    assert other.structure != TOPOLOGY.structure
    assert other != TOPOLOGY


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": (INPUTS, HIDDEN, OUTPUTS, INPUTS)}, "group name 'x' stands 2 times"),
        ({"blocks": (FIRST, SECOND, SECOND, SECOND)}, "block name 'b' stands 3 times"),
        (
            {"groups": (INPUTS, replace(HIDDEN, role="latent"), OUTPUTS)},
            "group 'a' has role 'latent'; expected one of input, hidden",
        ),
        ({"blocks": (FIRST, replace(SECOND, source="z"))}, "block 'b' names group 'z'; expected one of x, a, b"),
        (
            {"blocks": (FIRST, replace(SECOND, pattern="sparse"))},
            "block 'b' has pattern 'sparse'; expected one of dense, diagonal",
        ),
        ({"blocks": (FIRST, replace(SECOND, pattern="diagonal"))}, "diagonal block 'b' joins 5 sources with 2 targets"),
        ({"blocks": (FIRST,)}, "'b.weight' has 10 elements, of which the topology shows 0"),
        ({"parameters": (*PARAMETERS[:2], ("b.weight", (2, 6)))}, "'b.weight' has 12 elements, of which the topology shows 10"),
        ({"parameters": PARAMETERS[:2]}, "shows 'b.weight', which is no parameter; expected one of a.weight, a.bias"),
    ],
)
def test_a_topology_that_contradicts_itself_is_refused(change, text):
    with pytest.raises(GraphError, match=text):
        replace(TOPOLOGY, **change)


def test_the_inner_shape_of_a_view_comes_back_from_json_and_leaves_no_trace_at_its_default():
    view = ParameterView("b.weight", (2, 5), ((0, 2), (0, 5)), (1, 0), (2, 5))
    topology = replace(TOPOLOGY, blocks=(FIRST, replace(SECOND, parameter=view)))
    assert Topology.from_json(topology.to_json()).edge_block("b").parameter == view
    assert '"inner"' not in TOPOLOGY.to_json()


@pytest.mark.parametrize("part", [{"order": (1, 0)}, {"bounds": ((0, 2),)}])
def test_a_view_without_a_split_is_refused(part):
    with pytest.raises(GraphError, match=r"view of 'w' has bounds or an order but no split"):
        ParameterView("w", **part)


def test_names_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(GraphError, match="no group 'c' in this topology; expected one of x, a, b"):
        TOPOLOGY.group("c")
    with pytest.raises(GraphError, match="no block 'x' in this topology; expected one of a, b"):
        TOPOLOGY.edge_block("x")


def with_null_at(*keys):
    place = fields = json.loads(TOPOLOGY.to_json())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = None
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text: .*EOF"),
        ("[]", "the text: "),
        ("3", "the text: "),
        ('{"groups": [], "blocks": []}', "parameters: "),
        (TOPOLOGY.to_json()[:-5], "the text: .*EOF"),
        (TOPOLOGY.to_json().replace('"pattern"', '"patern"'), "blocks.0.pattern: "),
        (with_null_at("groups", 1, "features", 0, "parameter"), "groups.1.features.0.parameter: "),
        (with_null_at("blocks", 0, "kernel"), "blocks.0.kernel: "),
        (with_null_at("groups", 2, "size"), "groups.2.size: "),
        (with_null_at("parameters", 0), "parameters.0: "),
    ],
)
def test_text_that_is_no_topology_is_refused(text, problem):
    with pytest.raises(GraphError, match=f"text is not the JSON of a topology: {problem}.*; expected what to_json"):
        Topology.from_json(text)


def test_json_that_contradicts_itself_is_refused_as_a_topology_is():
    with pytest.raises(GraphError, match="'b.weight' has 10 elements, of which the topology shows 20"):
        Topology.from_json(TOPOLOGY.to_json().replace('"size":2', '"size":4'))


def test_an_inner_shape_stands_beside_bounds_and_an_order():
    with pytest.raises(GraphError, match="view of 'w' has an inner shape but no bounds or order"):
        ParameterView("w", (6, 5), inner=(2, 3, 5))
