from __future__ import annotations

import pytest
import torch

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, restore
from ngbench.graph.layout import entries_of, pack, show, slots_of, split_rows, unpack

NUM_GRAPHS = 4


def stacked(network, *, seed=5):
    """Entries of several networks of one topology along a first axis, all numbers different."""
    generator = torch.Generator().manual_seed(seed)
    state_dict = network.module.state_dict()
    return {
        path: torch.randn(NUM_GRAPHS, *entry.shape, generator=generator, dtype=entry.dtype) for path, entry in state_dict.items()
    }


def packed_topology():
    """Two blocks and two biases that share one parameter each, as the projections of an attention layer do."""
    inputs = NodeGroup("x", 3, "input", "none", 0)
    outputs = [
        NodeGroup(name, size, "output", "none", 1, (NodeFeature("bias", ParameterView("bias", (7,), (bounds,))),))
        for name, size, bounds in (("q", 5, (2, 7)), ("k", 2, (0, 2)))
    ]
    blocks = [
        EdgeBlock("q", "x", "q", "dense", "linear", (), ParameterView("weight", (3, 7), ((0, 3), (2, 7)), (1, 0))),
        EdgeBlock("k", "x", "k", "dense", "linear", (), ParameterView("weight", (3, 7), ((0, 3), (0, 2)), (1, 0))),
    ]
    return Topology((inputs, *outputs), tuple(blocks), (("weight", (3, 7)), ("bias", (7,))))


def test_pack_puts_the_slots_of_each_network_end_to_end(network):
    topology = network.graph.topology
    entries = stacked(network)
    rows = pack(topology, entries)
    assert rows.shape == (NUM_GRAPHS, topology.num_values)
    assert topology.num_values == sum(parameter.numel() for parameter in network.module.parameters())
    for index, row in enumerate(rows):
        single = slots_of(topology, {path: entry[index] for path, entry in entries.items()})
        assert torch.equal(row, torch.cat([values.flatten() for values in single]))


def test_unpack_undoes_pack_bit_for_bit_and_in_order(network):
    topology = network.graph.topology
    entries = stacked(network)
    again = unpack(topology, pack(topology, entries))
    assert list(again) == list(entries)
    assert all(torch.equal(again[path], entries[path]) for path in entries)


def test_pack_agrees_with_the_row_of_a_traced_network(network):
    graph = network.graph
    entries = {path: entry[None] for path, entry in network.module.state_dict().items()}
    assert torch.equal(pack(graph.topology, entries)[0], graph.row())


def test_a_view_that_cuts_and_reorders_shows_the_part_that_it_names():
    topology, entries = packed_topology(), {"weight": torch.randn(3, 7), "bias": torch.randn(7)}
    q_bias, k_bias, q, k = slots_of(topology, entries)
    assert torch.equal(q[..., 0], entries["weight"][:, 2:].T)
    assert torch.equal(k[..., 0], entries["weight"][:, :2].T)
    assert torch.equal(torch.cat([k_bias, q_bias]), entries["bias"])
    again = entries_of(topology, [q_bias, k_bias, q, k])
    assert all(torch.equal(again[path], entries[path]) for path in entries)


def test_parts_of_stacked_entries_are_put_together_again():
    topology, entries = packed_topology(), {"weight": torch.randn(NUM_GRAPHS, 3, 7), "bias": torch.randn(NUM_GRAPHS, 7)}
    again = unpack(topology, pack(topology, entries))
    assert all(torch.equal(again[path], entries[path]) for path in entries)


def test_a_reordered_view_equals_the_same_steps_by_hand():
    entry = torch.randn(2, 4 * 3 * 5)
    shown = show(entry, ParameterView("w", (2, 4, 3, 5), (), (0, 3, 1, 2)), (2, 5, 12))
    expected = torch.stack([entry.reshape(2, 4, 3, 5)[:, :, :, channel].reshape(2, 12) for channel in range(5)], dim=1)
    assert torch.equal(shown, expected)
    assert shown.data_ptr() == entry.data_ptr()


def test_an_entry_that_is_not_contiguous_is_shown_right():
    entry = torch.randn(5, 3).T
    assert torch.equal(show(entry, ParameterView("w"), (3, 5, 1))[..., 0], entry)
    assert torch.equal(show(entry, ParameterView("w", (3, 5), (), (1, 0)), (5, 3, 1))[..., 0], entry.T)


def test_slots_rows_and_entries_share_memory_where_no_axis_moves(make):
    network = make("conv2d_flatten")
    topology = network.graph.topology
    rows = torch.randn(NUM_GRAPHS, topology.num_values)
    slots = split_rows(topology, rows)
    assert [values.data_ptr() for values in slots] == [rows[:, slot.start :].data_ptr() for slot in topology.slots]
    entries = unpack(topology, rows)
    owners = {slot.parameter.path: values.data_ptr() for slot, values in zip(topology.slots, slots, strict=True)}
    assert {path: entry[0].data_ptr() for path, entry in entries.items()} == owners


def test_rows_of_another_length_are_refused(make):
    network = make("mlp")
    topology = network.graph.topology
    with pytest.raises(
        GraphError, match=f"value rows have 81 values; expected {3 * 7 + 7 + 7 * 5 + 5 + 5 * 2 + 2} for this topology"
    ):
        unpack(topology, torch.zeros(NUM_GRAPHS, 81))


@pytest.mark.parametrize(
    ("path", "entry", "text"),
    [
        ("2.bias", None, "state dict lacks '2.bias'; expected 0.weight, 0.bias, 2.weight, 2.bias, 4.weight, 4.bias"),
        ("2.bias", torch.zeros(NUM_GRAPHS, 6), r"state-dict entry '2.bias' has shape \(6,\); expected \(5,\)"),
        ("2.weight", torch.zeros(NUM_GRAPHS, 7, 5), r"state-dict entry '2.weight' has shape \(7, 5\); expected \(5, 7\)"),
        ("3.alpha", torch.zeros(NUM_GRAPHS, 1), "state dict has entries '3.alpha' that the topology lacks; expected none"),
    ],
)
def test_entries_of_another_network_are_refused(make, path, entry, text):
    network = make("mlp")
    topology = network.graph.topology
    entries = {**stacked(network), path: entry}
    entries = {path: entry for path, entry in entries.items() if entry is not None}
    with pytest.raises(GraphError, match=text):
        pack(topology, entries)


def test_restore_keeps_the_module_loadable(network):
    graph = network.graph
    before = network.outputs()
    assert torch.equal(network.outputs(restore(graph)), before)
