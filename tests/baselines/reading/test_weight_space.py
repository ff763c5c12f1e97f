"""Equivariant linear layers against loops written from the papers' formulas, and their number against a count of orbits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from baselines.reading.weight_space import Axis, EquivariantLinear, Layout, View, fields_of, views_of
from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, symmetry
from ngbench.graph.topology import Index
from ngbench.testing import ALL_FAMILIES, attention_topology, cnn_topology, mlp_topology, residual_topology

NUM_GRAPHS, IN_CHANNELS, OUT_CHANNELS = 3, 2, 5
NUM_ELEMENTS = 12


def tied_topology(width=5, num_inner=3):
    """A recurrence-like stream: a matrix from a stream to itself, whose rows and columns permute together."""
    view = ParameterView
    groups = (
        NodeGroup("input", 2, "input", "none", 0),
        NodeGroup("stem", width, "hidden", "none", 1, (NodeFeature("bias", view("stem.bias")),), ("stream",)),
        NodeGroup("mixed", width, "hidden", "relu", 2, (), ("stream",)),
        NodeGroup("inner", num_inner, "hidden", "relu", 3, ()),
        NodeGroup("head", 4, "output", "none", 4, ()),
    )
    blocks = tuple(
        EdgeBlock(target, source, target, "dense", "linear", (), view(f"{target}.weight"))
        for source, target in itertools.pairwise(group.name for group in groups)
    )
    shapes = {"stem.bias": (width,), "stem.weight": (width, 2), "mixed.weight": (width, width)}
    shapes |= {"inner.weight": (num_inner, width), "head.weight": (4, num_inner)}
    return Topology(groups, blocks, tuple(shapes.items()), (Index("stream", width),))


def grouped_topology():
    """A grouped convolution: three groups of four channels in and of two out, which permute with their channels."""
    groups = (
        NodeGroup("input", 2, "input", "none", 0),
        NodeGroup("stem", 12, "hidden", "relu", 1, (), ("parts", "sources")),
        NodeGroup("conv", 6, "hidden", "relu", 2, (), ("parts", "targets")),
        NodeGroup("head", 5, "output", "none", 3, ()),
    )
    blocks = (
        EdgeBlock("stem", "input", "stem", "dense", "conv", (3,), ParameterView("stem.weight")),
        EdgeBlock("conv", "stem", "conv", "grouped", "conv", (2,), ParameterView("conv.weight"), ("parts",)),
        EdgeBlock("head", "conv", "head", "dense", "linear", (), ParameterView("head.weight")),
    )
    indices = (Index("parts", 3), Index("sources", 4, ("parts",)), Index("targets", 2, ("parts",)))
    shapes = (("stem.weight", (12, 2, 3)), ("conv.weight", (6, 4, 2)), ("head.weight", (5, 6)))
    return Topology(groups, blocks, shapes, indices)


FAMILIES = (*ALL_FAMILIES, tied_topology(), grouped_topology(), attention_topology(5, num_heads=3, head_width=2))
NAMES = ["cnn", "cnn-tanh", "deeper", "mlp", "residual", "attention", "tied", "grouped", "three-heads"]


def rows_of(topology, seed=0):
    """Random rows and the same permuted, float64 ``[graphs, values]``."""
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(NUM_GRAPHS, topology.num_values)))
    return rows, symmetry.group(topology).scramble(rows, range(NUM_GRAPHS))


def layer_on(fields, in_channels, out_channels, seed=0):
    torch.manual_seed(seed)
    return EquivariantLinear([field.layout.axes for field in fields], in_channels, out_channels).double()


def as_rows(fields, values):
    """Fields with the channels that they were read with, as rows again, ``[graphs, values]``."""
    rows = []
    for field, value in zip(fields, values, strict=True):
        inverse = np.argsort(field.layout.order)
        sizes = [field.layout.sizes[place] for place in field.layout.order]
        rows.append(value.reshape(len(value), *sizes).permute(0, *(1 + inverse)).flatten(1))
    return torch.cat(rows, 1)


@pytest.mark.parametrize("topology", FAMILIES, ids=NAMES)
def test_fields_are_the_values_of_the_network(topology):
    rows, _ = rows_of(topology)
    fields = fields_of(topology)
    assert sum(math.prod(axis.size for axis in f.layout.axes) * f.layout.num_channels for f in fields) == topology.num_values
    torch.testing.assert_close(as_rows(fields, [field.read(rows) for field in fields]), rows, rtol=0, atol=0)


@pytest.mark.parametrize("topology", FAMILIES, ids=NAMES)
def test_a_layer_commutes_with_permutations_in_every_family(topology):
    """On the values of the network itself: those channels alone that permute with no axis are mixed."""
    fields = fields_of(topology)
    assert symmetry.group(topology).log_order > 0
    rows, permuted = rows_of(topology)
    moved = mapped(fields, permuted)
    expected = scrambled(topology, fields, mapped(fields, rows))
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    assert (moved - mapped(fields, rows)).abs().max() > 0.01


def mapped(fields, rows, change=lambda values: values):
    """Rows through one layer to rows of one channel per entry, read as the first number of each entry."""
    largest = max(field.layout.num_channels for field in fields)
    layer = layer_on(fields, largest, largest)
    read = [field.read(rows) for field in fields]
    out = change(layer([torch.nn.functional.pad(values, (0, largest - values.shape[-1])) for values in read]))
    return as_rows(fields, [values[..., : field.layout.num_channels] for field, values in zip(fields, out, strict=True)])


def scrambled(topology, fields, rows):
    return symmetry.group(topology).scramble(rows, range(NUM_GRAPHS))


def test_a_layer_with_a_coefficient_that_depends_on_the_row_fails():
    topology = residual_topology()
    fields = fields_of(topology)

    def change(values):
        number = next(n for n, field in enumerate(fields) if field.slot.owner == "conv0")
        coefficients = 1 + 1e-3 * torch.arange(values[number].shape[1], dtype=torch.float64)
        values[number] = values[number] * coefficients.view(1, -1, 1, 1)
        return values

    rows, permuted = rows_of(topology)
    gap = mapped(fields, permuted, change) - scrambled(topology, fields, mapped(fields, rows, change))
    assert gap.abs().max() > 1e-5


def test_a_layer_on_a_small_mlp_is_the_sum_of_the_papers():
    """The HNP layer of Zhou et al. 2023, entry by entry, for widths 2, 4, 3, 5, with inputs and outputs among the channels."""
    fields = fields_of(mlp_topology((2, 4, 3, 5)))
    shapes = {"b1": (4,), "b2": (3,), "b3": (), "W1": (4,), "W2": (3, 4), "W3": (3,)}
    assert [tuple(axis.size for axis in field.layout.axes) for field in fields] == list(shapes.values())
    layer, rng = layer_on(fields, IN_CHANNELS, OUT_CHANNELS), np.random.default_rng(1)
    values = {name: rng.normal(size=(NUM_GRAPHS, *shape, IN_CHANNELS)) for name, shape in shapes.items()}
    got = dict(zip(shapes, layer([torch.from_numpy(value) for value in values.values()]), strict=True))
    mixed = Mixed(layer, tuple(shapes))
    for g in range(NUM_GRAPHS):
        v = {name: value[g] for name, value in values.items()}
        everywhere = {name: value.reshape(-1, IN_CHANNELS).mean(0) for name, value in v.items()}
        first = [{"b1": v["b1"][k], "W1": v["W1"][k], "W2": v["W2"][:, k].mean(0)} for k in range(4)]
        second = [{"b2": v["b2"][j], "W3": v["W3"][j], "W2": v["W2"][j].mean(0)} for j in range(3)]
        expected = {name: np.zeros((*shape, OUT_CHANNELS)) for name, shape in shapes.items()}
        for name in shapes:
            expected[name] += mixed((), name, everywhere) + mixed.bias(name)
        for name in ("b1", "W1"):
            expected[name] += [mixed(("linear0",), name, first[k]) for k in range(4)]
        for name in ("b2", "W3"):
            expected[name] += [mixed(("linear1",), name, second[j]) for j in range(3)]
        for j, k in itertools.product(range(3), range(4)):
            expected["W2"][j, k] += mixed(("linear0",), "W2", first[k]) + mixed(("linear1",), "W2", second[j])
            expected["W2"][j, k] += mixed(("linear0", "linear1"), "W2", {"W2": v["W2"][j, k]})
        for name in shapes:
            np.testing.assert_allclose(got[name][g].detach().numpy(), expected[name], rtol=1e-12, atol=1e-12)


class Mixed:
    """The matrices of a layer by index, field that they go to and field that they come from."""

    def __init__(self, layer, names):
        self.matrices, self.biases = {}, {}
        for (key, sources), mix in zip(layer.sources.items(), layer.mixes, strict=True):
            targets = layer.targets[key]
            weight = mix.weight.detach().numpy().reshape(len(targets), OUT_CHANNELS, len(sources), IN_CHANNELS)
            for (o, (to, _)), (i, (of, _)) in itertools.product(enumerate(targets), enumerate(sources)):
                self.matrices[tuple(index for index, _ in key), names[to], names[of]] = weight[o, :, i]
            if not key:
                biases = mix.bias.detach().numpy().reshape(-1, OUT_CHANNELS)
                self.biases = {names[to]: bias for (to, _), bias in zip(targets, biases, strict=True)}

    def __call__(self, indices, to, vectors):
        assert {of for index, end, of in self.matrices if (index, end) == (indices, to)} == set(vectors)
        return sum(self.matrices[indices, to, of] @ vector for of, vector in vectors.items())

    def bias(self, to):
        return self.biases[to]


def num_orbits(first, second, topology):
    """Orbits of pairs of an entry of one field and one of another, joined by the images under random elements of the group."""
    numbers = torch.arange(topology.num_values, dtype=torch.float64).expand(NUM_ELEMENTS, -1)
    moved = symmetry.group(topology).scramble(numbers, range(NUM_ELEMENTS))
    entries = []
    for field in (first, second):
        start, ends = (field.read(rows)[..., 0].reshape(NUM_ELEMENTS, -1).numpy() for rows in (numbers, moved))
        order = np.argsort(start[0])
        entries.append(order[np.searchsorted(start[0], ends, sorter=order)])
    size = entries[1].shape[1]
    images = (entries[0][:, :, None] * size + entries[1][:, None, :]).reshape(NUM_ELEMENTS, -1)
    pairs = np.broadcast_to(np.arange(images.shape[1]), images.shape)
    graph = coo_matrix((np.ones(images.size), (pairs.ravel(), images.ravel())))
    return connected_components(graph, directed=False)[0]


@pytest.mark.parametrize(
    "topology",
    [mlp_topology((2, 4, 3, 5)), residual_topology(), tied_topology(), grouped_topology(), attention_topology(num_heads=3)],
    ids=["mlp", "residual", "tied", "grouped", "attention"],
)
def test_there_are_as_many_maps_between_two_fields_as_orbits_of_pairs_of_entries(topology):
    """The dimension of the space of equivariant linear maps (Maron et al., ICLR 2019): nothing is missing, nothing doubled."""
    fields = fields_of(topology)
    layer = layer_on(fields, 1, 1)
    counted = np.zeros((len(fields), len(fields)), dtype=int)
    for key, targets in layer.targets.items():
        for (o, _), (i, _) in itertools.product(targets, layer.sources[key]):
            counted[o, i] += 1
    for o, i in itertools.combinations_with_replacement(range(len(fields)), 2):
        assert counted[o, i] == counted[i, o] == num_orbits(fields[o], fields[i], topology), (
            fields[o].slot.owner,
            fields[i].slot.owner,
        )


def test_a_matrix_whose_rows_and_columns_permute_together_has_the_fifteen_maps_of_graph_networks():
    topology = tied_topology()
    fields = fields_of(topology)
    number = next(n for n, field in enumerate(fields) if field.slot.owner == "mixed")
    layer = layer_on(fields, 1, 1)
    pairs = [(o, i) for key in layer.targets for (o, _), (i, _) in itertools.product(layer.targets[key], layer.sources[key])]
    assert pairs.count((number, number)) == 15


def test_the_maps_are_linearly_independent():
    topology = tied_topology()
    fields = fields_of(topology)
    layer = layer_on(fields, 1, 1)
    values = [torch.randn(20, *(axis.size for axis in field.layout.axes), 1, dtype=torch.float64) for field in fields]
    parameters = list(layer.parameters())

    def outputs():
        return torch.cat([out.flatten() for out in layer(values)])

    columns = []
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        for parameter in parameters:
            for place in range(parameter.numel()):
                parameter.view(-1)[place] = 1.0
                columns.append(outputs())
                parameter.view(-1)[place] = 0.0
    assert torch.linalg.matrix_rank(torch.stack(columns)) == len(columns)


def test_a_view_spreads_what_it_pools_over_the_axes_that_it_lost():
    axes = (Axis("rows", 4), Axis("columns", 3))
    field = torch.arange(NUM_GRAPHS * 4 * 3 * 2, dtype=torch.float64).view(NUM_GRAPHS, 4, 3, 2)
    (view,) = [view for key, view in views_of(axes) if [name for name, _ in key] == ["columns"]]
    torch.testing.assert_close(view.pool(field), field.mean(1))
    assert view.spread(view.pool(field)).shape == (NUM_GRAPHS, 1, 3, 2)


def test_a_transposed_view_and_a_diagonal_are_those_of_torch():
    axes = (Axis("units", 4), Axis("units", 4))
    field = torch.randn(NUM_GRAPHS, 4, 4, 2)
    transposed, diagonal = View(axes, (0, 1), (1, 0)), View(axes, (0, 0), (0,))
    torch.testing.assert_close(transposed.pool(field), field.transpose(1, 2))
    torch.testing.assert_close(diagonal.pool(field), field.diagonal(0, 1, 2).transpose(1, 2))
    torch.testing.assert_close(diagonal.spread(diagonal.pool(field)), torch.diag_embed(field.diagonal(0, 1, 2), 0, 1, 2))


def test_inputs_outputs_and_indices_of_one_entry_are_channels():
    layouts = {
        field.slot.owner: field.layout
        for field in fields_of(cnn_topology((2, 1, 4), num_classes=5))
        if field.slot.feature is None
    }
    assert [len(layouts[name].axes) for name in ("conv0", "conv1", "head")] == [0, 1, 1]
    assert [layouts[name].num_channels for name in ("conv0", "conv1", "head")] == [2 * 9, 9, 5]


def test_heads_that_stay_are_still_an_axis_since_their_units_permute_in_each_by_itself():
    heads = Index("heads", 3, fixed=True)
    layout = Layout.of((heads, Index("units", 4, ("heads",))))
    assert [axis.index for axis in layout.axes] == ["heads", "units"]
    assert Layout.of((heads,)).axes == ()


def test_each_gives_every_value_the_vector_of_its_entry():
    layout = Layout.of((Index("outputs", 2, fixed=True), Index("units", 3)))
    vectors = torch.randn(NUM_GRAPHS, 3, 5)
    torch.testing.assert_close(layout.each(vectors), vectors.repeat(1, 2, 1))
