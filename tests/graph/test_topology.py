from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, trace

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
    copy = NodeGroup("a:2", 5, "hidden", "tanh", 2)
    topology = Topology(
        (INPUTS, HIDDEN, copy, OUTPUTS), (FIRST, EdgeBlock("same", "a", "a:2", "diagonal", "identity"), SECOND), PARAMETERS
    )
    assert topology.block_shape("same") == (5, 1, 1)
    assert topology.num_edges == 3 * 5 + 5 + 5 * 2
    assert topology.num_values == 135


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
