from __future__ import annotations

import pytest
import torch

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, restore
from ngbench.graph.layout import entries_of, in_order, pack, show, slots_of, split_rows, unpack
from ngbench.graph.topology import Index

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


def with_everything():
    """A topology with a shared feature, a tied path, buffers, an order of its own and a block that stays within two heads."""
    groups = (
        NodeGroup("x", 4, "input", "none", 0),
        NodeGroup("q", 6, "hidden", "tanh", 1, indices=("heads", "units")),
        NodeGroup("y", 2, "output", "none", 2, (NodeFeature("gain", ParameterView("gain"), shared=True),), ("heads",)),
    )
    blocks = (
        EdgeBlock("q", "x", "q", "dense", "linear", (), ParameterView("q")),
        EdgeBlock("y", "q", "y", "grouped", "linear", (5,), ParameterView("y", (5, 2, 3), (), (1, 2, 0)), ("heads",)),
    )
    indices = (Index("heads", 2, fixed=True), Index("units", 3, ("heads",)))
    order = ("counter", "y", "gain", "q", "again", "mask")
    return Topology(
        groups, blocks, (("q", (6, 4)), ("y", (5, 2, 3)), ("gain", ())), indices, (("again", "q"),), ("mask", "counter"), order
    )


def entries_with_everything():
    generator = torch.Generator().manual_seed(3)
    entries = {
        "q": torch.randn(6, 4, generator=generator),
        "y": torch.randn(5, 2, 3, generator=generator),
        "gain": torch.tensor(0.5),
    }
    return entries | {"again": entries["q"], "mask": torch.tensor([True, False]), "counter": torch.tensor(17)}


def test_a_shared_feature_a_tied_path_and_a_grouped_block_have_one_slot_each():
    topology, entries = with_everything(), entries_with_everything()
    gain, q, y = slots_of(topology, entries)
    assert gain.tolist() == [0.5]
    assert torch.equal(q[..., 0], entries["q"])
    assert y.shape == (2, 3, 5)
    assert all(y[t, s, k] == entries["y"][k, t, s] for t in range(2) for s in range(3) for k in range(5))


def test_tied_paths_come_back_as_one_tensor_and_buffers_are_left_to_others():
    topology, entries = with_everything(), entries_with_everything()
    again = entries_of(topology, slots_of(topology, entries))
    assert set(again) == {"q", "y", "gain", "again"}
    assert again["again"] is again["q"]
    assert all(torch.equal(again[path], entries[path]) for path in again)
    assert again["gain"].shape == ()


def test_rows_of_networks_with_tied_paths_are_as_long_as_their_parameters():
    topology, entries = with_everything(), entries_with_everything()
    stack = {path: torch.stack([entry, 2 * entry]) for path, entry in entries.items() if entry.is_floating_point()}
    rows = pack(topology, stack)
    assert rows.shape == (2, 24 + 30 + 1)
    again = unpack(topology, rows)
    assert all(torch.equal(again[path], stack[path]) for path in stack)


def test_entries_stand_in_the_order_of_the_module():
    topology, entries = with_everything(), entries_with_everything()
    assert list(in_order(topology, entries)) == ["counter", "y", "gain", "q", "again", "mask"]
    assert list(in_order(topology, {"q": entries["q"], "y": entries["y"]})) == ["y", "q"]
    plain = packed_topology()
    assert list(in_order(plain, {"bias": torch.zeros(7), "weight": torch.zeros(3, 7)})) == ["bias", "weight"]


def test_an_entry_beside_tied_paths_and_buffers_is_refused():
    topology, entries = with_everything(), entries_with_everything()
    with pytest.raises(GraphError, match="state dict has entries 'other' that the topology lacks; expected none"):
        slots_of(topology, {**entries, "other": torch.zeros(3)})


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
