from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import NeuralGraph, restore
from ngbench.graph import axes as ax
from ngbench.graph.axes import Factor, Index
from ngbench.graph.draft import BlockDraft, Draft, GroupDraft, Shown, activation_name, choices, links_of

NUM_SOURCES, NUM_OUTPUTS = 7, 2


def group(name, *sizes, role="hidden"):
    """A draft whose units are the product of some new indices."""
    draft = GroupDraft(name, role)
    draft.units = tuple(Factor(Index(size), draft) for size in sizes)
    return draft


def shown(path, *units):
    """A parameter whose axes run over some units, in the order in which it is stored."""
    stored = tuple((Factor(Index(ax.size_of(own), open=True)),) for own in units)
    for expr, own in zip(stored, units, strict=True):
        ax.unify(expr, own)
    return Shown(path, stored, tuple(zip(stored, units, strict=True)))


def block(target, source, weight=None, *, units=None, text="", shared=(), kernel=()):
    name = target.name
    return BlockDraft(name, "linear", target, source.units if units is None else units, {source: text}, shared, weight, kernel)


def finished(groups, blocks, parameters):
    draft = Draft(list(groups), list(blocks), reads=[(g, "") for g in groups if g.role == "output"])
    return draft.topology(parameters, tied=[], buffers=[], order=[path for path, _ in parameters])


def graph_of(topology):
    """A graph of numbers that are all different, and these as numpy arrays by path."""
    entries = {path: torch.arange(math.prod(shape), dtype=torch.float64).view(shape) for path, shape in topology.parameters}
    return NeuralGraph.from_state_dict(topology, entries), {path: entry.numpy() for path, entry in entries.items()}


def test_a_leaf_is_one_choice_and_a_product_too():
    units = group("a", 3, 4).units
    assert [choice.leaves for choice in choices(units)] == [units]
    whole = group("b", 12).units
    whole[0].index.divide("product", (3, 4))
    assert [[leaf.size for leaf in choice.leaves] for choice in choices(whole)] == [[3, 4]]


def test_every_combination_of_the_parts_of_sums_is_a_choice_first_parts_first():
    first, second, third = group("a", 5, 2, 9).units
    first.index.divide("sum", (1, 4))
    third.index.divide("sum", (2, 7))
    third.index.parts[1].divide("sum", (3, 4))
    found = [[leaf.size for leaf in choice.leaves] for choice in choices((first, second, third))]
    assert found == [[a, 2, b] for a, b in itertools.product((1, 4), (2, 3, 4))]


def test_a_fixed_sum_that_nothing_cuts_is_one_choice():
    (whole,) = group("a", 5).units
    whole.index.divide("sum", (1, 4))
    ax.pin([whole])
    assert [choice.leaves for choice in choices([whole])] == [(whole,)]


def cut_layer(*sizes):
    """A layer whose units are cut into parts, each of which the output reads by a block of its own."""
    x, a = group("x", NUM_SOURCES, role="input"), group("a", sum(sizes))
    readers = [group(f"y{place}", NUM_OUTPUTS + place, role="output") for place in range(len(sizes))]
    ends = list(itertools.accumulate(sizes, initial=0))
    parts = [ax.take(a.units, start, stop) for start, stop in itertools.pairwise(ends)]
    blocks = [block(a, x, shown("w", a.units, x.units))]
    blocks += [block(y, a, shown(y.name, y.units, part), units=part) for y, part in zip(readers, parts, strict=True)]
    a.features.append(("bias", shown("b", a.units)))
    parameters = [("w", (sum(sizes), NUM_SOURCES)), ("b", (sum(sizes),))]
    parameters += [(y.name, (y.units[0].size, size)) for y, size in zip(readers, sizes, strict=True)]
    return finished([x, a, *readers], blocks, parameters)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_cut_layer_is_a_group_for_each_part_with_its_rows_of_the_weight(sizes):
    graph, entries = graph_of(cut_layer(*sizes))
    names = ["a"] if len(sizes) == 1 else [f"a[{place}]" for place in range(len(sizes))]
    assert [(g.name, g.size) for g in graph.topology.groups][1 : len(sizes) + 1] == list(zip(names, sizes, strict=True))
    starts = itertools.accumulate(sizes, initial=0)
    for place, (name, start, size) in enumerate(zip(names, starts, sizes, strict=False)):
        assert np.array_equal(graph.block(name)[..., 0], entries["w"][start : start + size])
        assert np.array_equal(graph.node_feature(name, "bias"), entries["b"][start : start + size])
        assert graph.topology.edge_block(f"y{place}").source == name


@given(order=st.permutations(range(3)))
def test_units_that_stand_otherwise_than_in_the_weight_are_shown_in_their_order(order):
    shape = (2, 3, 4)
    x, a, y = group("x", NUM_SOURCES, role="input"), group("a", *shape), group("y", NUM_OUTPUTS, role="output")
    stored = tuple(a.units[place] for place in order)
    blocks = [block(a, x, shown("w", stored, x.units)), block(y, a, shown("v", y.units, stored))]
    graph, entries = graph_of(finished([x, a, y], blocks, [("w", (24, NUM_SOURCES)), ("v", (NUM_OUTPUTS, 24))]))
    back = np.argsort(order)
    split = tuple(shape[place] for place in order)
    assert np.array_equal(
        graph.block("a")[..., 0], entries["w"].reshape(*split, NUM_SOURCES).transpose(*back, 3).reshape(24, NUM_SOURCES)
    )
    assert np.array_equal(
        graph.block("y")[..., 0],
        entries["v"].reshape(NUM_OUTPUTS, *split).transpose(0, *(1 + back)).reshape(NUM_OUTPUTS, 24),
    )


def test_a_weight_with_its_sources_first_and_its_kernel_between_is_shown_with_targets_first():
    x, y = group("x", NUM_SOURCES, role="input"), group("y", 3, role="output")
    stored = tuple((Factor(Index(size, open=True)),) for size in (NUM_SOURCES, 5, 3))
    ax.unify(stored[0], x.units)
    ax.unify(stored[2], y.units)
    weight = Shown("w", stored, ((stored[0], x.units), (stored[2], y.units)))
    graph, entries = graph_of(finished([x, y], [block(y, x, weight, kernel=(5,))], [("w", (NUM_SOURCES, 5, 3))]))
    assert graph.topology.edge_block("y").kernel == (5,)
    assert np.array_equal(graph.block("y"), entries["w"].transpose(2, 0, 1))


def test_positions_among_the_sources_are_the_kernel():
    x, a, y = group("x", NUM_SOURCES, role="input"), group("a", 3), group("y", NUM_OUTPUTS, role="output")
    (places,) = ax.positions([5])
    read = (*a.units, *places)
    blocks = [block(a, x, shown("w", a.units, x.units)), block(y, a, shown("v", y.units, read), units=read)]
    graph, entries = graph_of(finished([x, a, y], blocks, [("w", (3, NUM_SOURCES)), ("v", (NUM_OUTPUTS, 15))]))
    assert graph.topology.edge_block("y").kernel == (5,)
    assert np.array_equal(graph.block("y"), entries["v"].reshape(NUM_OUTPUTS, 3, 5))


@pytest.mark.parametrize(
    ("num_shared", "pattern", "shape"), [(0, "dense", (6, 6, 1)), (1, "grouped", (6, 3, 1)), (2, "diagonal", (6, 1, 1))]
)
def test_shared_factors_make_a_block_grouped_and_all_of_them_diagonal(num_shared, pattern, shape):
    x, a, b = group("x", NUM_SOURCES, role="input"), group("a", 2, 3), GroupDraft("b", "hidden")
    b.units = tuple(f.mirrored(b) if place < num_shared else Factor(Index(f.size), b) for place, f in enumerate(a.units))
    y = group("y", NUM_OUTPUTS, role="output")
    pairs = tuple(zip(a.units, b.units, strict=True))[:num_shared]
    blocks = [block(a, x, shown("w", a.units, x.units)), block(b, a, shared=pairs), block(y, b, shown("v", y.units, b.units))]
    topology = finished([x, a, b, y], blocks, [("w", (6, NUM_SOURCES)), ("v", (NUM_OUTPUTS, 6))])
    found = topology.edge_block("b")
    assert (found.pattern, topology.block_shape("b")) == (pattern, shape)
    assert found.shared == (("a.0",) if pattern == "grouped" else ())


def test_groups_are_as_deep_as_their_longest_way_from_an_input():
    x, a, b = group("x", NUM_SOURCES, role="input"), group("a", 3), group("b", 4)
    y = group("y", NUM_OUTPUTS, role="output")
    blocks = [
        block(a, x, shown("w", a.units, x.units)), block(b, a, shown("v", b.units, a.units)),
        block(y, x, shown("s", y.units, x.units)), block(y, b, shown("u", y.units, b.units)),
    ]  # fmt: skip
    parameters = [("w", (3, NUM_SOURCES)), ("v", (4, 3)), ("s", (NUM_OUTPUTS, NUM_SOURCES)), ("u", (NUM_OUTPUTS, 4))]
    topology = finished([x, a, b, y], blocks, parameters)
    assert [g.layer for g in topology.groups] == [0, 1, 2, 3]
    assert [b.name for b in topology.blocks] == ["a", "b", "y", "y:2"]


def test_several_functions_of_one_layer_share_their_beginning():
    x, a = group("x", NUM_SOURCES, role="input"), group("a", 3)
    readers = [group(name, NUM_OUTPUTS + place, role="output") for place, name in enumerate("bcd")]
    blocks = [block(a, x, shown("w", a.units, x.units))]
    texts = ("mul(2)|relu|tanh", "mul(2)|relu", "mul(2)|relu|sin")
    blocks += [block(y, a, shown(y.name, y.units, a.units), text=text) for y, text in zip(readers, texts, strict=True)]
    parameters = [("w", (3, NUM_SOURCES)), *((y.name, (y.units[0].size, 3)) for y in readers)]
    topology = finished([x, a, *readers], blocks, parameters)
    assert [(g.name, g.activation) for g in topology.groups[1:4]] == [
        ("a", "mul(2)|relu"), ("a:tanh", "tanh"), ("a:sine(1)", "sine(1)"),
    ]  # fmt: skip
    assert [(b.name, b.source, b.target) for b in topology.blocks] == [
        ("a", "x", "a"), ("a:tanh", "a", "a:tanh"), ("b", "a:tanh", "b"), ("c", "a", "c"),
        ("a:sine(1)", "a", "a:sine(1)"), ("d", "a:sine(1)", "d"),
    ]  # fmt: skip


def test_the_order_of_the_state_dict_is_kept_where_it_is_not_that_of_the_graph():
    x, y = group("x", NUM_SOURCES, role="input"), group("y", NUM_OUTPUTS, role="output")
    draft = Draft([x, y], [block(y, x, shown("w", y.units, x.units))], reads=[(y, "")])
    parameters = [("w", (NUM_OUTPUTS, NUM_SOURCES))]
    plain = draft.topology(parameters, tied=[("v", "w")], buffers=["n"], order=["w", "v", "n"])
    other = draft.topology(parameters, tied=[("v", "w")], buffers=["n"], order=["n", "w", "v"])
    assert (plain.tied, plain.buffers, plain.order) == ((("v", "w"),), ("n",), ())
    assert other.order == ("n", "w", "v")


def test_a_block_that_reads_two_groups_at_once_is_refused():
    x, a = group("x", 3, role="input"), group("a", 4)
    y = group("y", NUM_OUTPUTS, role="output")
    read = (*x.units, *a.units)
    blocks = [
        block(a, x, shown("w", a.units, x.units)),
        BlockDraft("y", "linear", y, read, {x: "", a: ""}, weight=shown("v", y.units, read)),
    ]
    with pytest.raises(
        UnsupportedLayerError, match="cannot trace 'y': it reads the units of 2 groups at once; expected the units"
    ):
        finished([x, a, y], blocks, [("w", (4, 3)), ("v", (NUM_OUTPUTS, 12))])


def test_a_block_that_reads_some_of_the_factors_of_a_group_is_refused():
    x, a, y = group("x", 3, role="input"), group("a", 4, 5), group("y", NUM_OUTPUTS, role="output")
    blocks = [
        block(a, x, shown("w", a.units, x.units)),
        block(y, a, shown("v", y.units, a.units[:1]), units=a.units[:1]),
    ]
    text = "cannot trace 'y': it reads part of the units of 'a' that is cut otherwise elsewhere; expected the same cuts"
    with pytest.raises(UnsupportedLayerError, match=text):
        finished([x, a, y], blocks, [("w", (20, 3)), ("v", (NUM_OUTPUTS, 4))])


def test_unequal_parts_whose_units_stand_in_another_order_are_shown_in_theirs():
    x, a, b = group("x", NUM_SOURCES, role="input"), GroupDraft("a", "hidden"), GroupDraft("b", "hidden")
    y = group("y", NUM_OUTPUTS, role="output")
    stored = ((Factor(Index(10, open=True)),), (Factor(Index(NUM_SOURCES, open=True)),))
    first, second = (ax.take(stored[0], start, stop)[0] for start, stop in ((0, 4), (4, 10)))
    second.index.divide("product", (2, 3))
    outer, inner = second.children()
    a.units, b.units = (first.mirrored(a),), (inner.mirrored(b), outer.mirrored(b))
    ax.unify(stored[1], x.units)
    rows = (stored[1], x.units)
    blocks = [
        block(a, x, Shown("w", stored, (((first,), a.units), rows))),
        block(b, x, Shown("w", stored, (((outer, inner), b.units[::-1]), rows))),
        block(y, b, shown("v", y.units, b.units)),
        block(y, a, shown("u", y.units, a.units)),
    ]
    parameters = [("w", (10, NUM_SOURCES)), ("v", (NUM_OUTPUTS, 6)), ("u", (NUM_OUTPUTS, 4))]
    graph, entries = graph_of(finished([x, a, b, y], blocks, parameters))
    assert np.array_equal(graph.block("a")[..., 0], entries["w"][:4])
    expected = entries["w"][4:].reshape(2, 3, NUM_SOURCES).transpose(1, 0, 2).reshape(6, NUM_SOURCES)
    assert np.array_equal(graph.block("b")[..., 0], expected)
    restored = restore(graph)
    assert all(np.array_equal(restored[path], entries[path]) for path in entries)


def test_unequal_parts_that_are_cut_again_inside_are_refused():
    x, a = group("x", NUM_SOURCES, role="input"), GroupDraft("a", "hidden")
    y = group("y", NUM_OUTPUTS, role="output")
    stored = ((Factor(Index(10, open=True)),), (Factor(Index(NUM_SOURCES, open=True)),))
    second = ax.take(stored[0], 4, 10)[0]
    second.index.divide("product", (2, 3))
    outer, inner = second.children()
    (part,) = ax.take([inner], 1, 3)
    a.units = (outer.mirrored(a), part.mirrored(a))
    blocks = [
        block(a, x, Shown("w", stored, (((outer, part), a.units), (stored[1], x.units)))),
        block(y, a, shown("v", y.units, a.units)),
    ]
    text = "parameter 'w' is read in parts that are cut again inside; expected parts of whole heads, or a layer for each part"
    with pytest.raises(UnsupportedLayerError, match=text):
        finished([x, a, y], blocks, [("w", (10, NUM_SOURCES)), ("v", (NUM_OUTPUTS, 4))])


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("", []),
        ("relu", ["relu"]),
        ("mul(2)|add(1)", ["mul(2)", "add(1)"]),
        ("(x*sigmoid|tanh)|relu", ["(x*sigmoid|tanh)", "relu"]),
        ("select(relu|tanh,(x|sin))|neg", ["select(relu|tanh,(x|sin))", "neg"]),
    ],
)
def test_a_function_is_a_chain_of_the_operations_outside_its_brackets(text, links):
    assert links_of(text) == links


@given(st.lists(st.sampled_from(["relu", "mul(2)", "(x*sigmoid|tanh)", "f(a|b,(c|d))"]), max_size=5))
def test_the_links_of_a_chain_are_those_that_it_was_made_of(links):
    assert links_of("|".join(links)) == links


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "none"),
        ("relu", "relu"),
        ("sin", "sine(1)"),
        ("mul(30)|sin", "sine(30)"),
        ("relu|mul(4)|sin", "relu|sine(4)"),
        ("mul(30)|sinh", "mul(30)|sinh"),
        ("sin|asinh", "sine(1)|asinh"),
        ("(x*sigmoid)", "silu"),
        ("relu|(x*sigmoid)", "relu|(x*sigmoid)"),
        ("(x*mul(1.702)|sigmoid)", "gelu(sigmoid)"),
        ("(mul(0.5)*mul(0.707107)|erf|add(1))", "gelu"),
        ("(mul(0.5)*(x+pow(3)|mul(0.044715))|mul(0.797885)|tanh|add(1))", "gelu(tanh)"),
        ("(x*pow(2)|mean|add(1e-06)|rsqrt)", "rms_norm"),
        ("(x*pow(2)|mean|add(1e-05)|rsqrt)|relu", "rms_norm|relu"),
        ("(x*tanh)", "(x*tanh)"),
    ],
)
def test_a_function_that_was_written_out_has_its_usual_name(text, name):
    assert activation_name(text) == name
