"""Activations of programs against forward hooks, one network at a time, and against the laws of the symmetry group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ngbench.errors import GraphError, UnsupportedLayerError
from ngbench.graph import Program, restore, symmetry, trace
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.zoo.architectures import Cnn, Mlp, Resnet, Transformer, build, example_input

NUM_GRAPHS, NUM_PROBES = 3, 4
IMAGE = (2, 6, 8)
MLP = Mlp(family="mlp", input_shape=IMAGE, width=7, depth=2, norm="layer", num_classes=5)
CNN = Cnn(
    family="cnn", input_shape=IMAGE, channels=(5, 7), kernel_size=3, strides=(1, 2), paddings=(1, 0), num_classes=3, norm="batch"
)
RESNET = Resnet(family="resnet", input_shape=IMAGE, width=5, depth=2, kernel_size=3, num_classes=3)
TRANSFORMER = Transformer(
    family="transformer", input_shape=IMAGE, width=6, depth=2, num_heads=3, patch_size=2, pooling="token", num_classes=5
)


def randomized(module, seed):
    """The module in float64 with random parameters and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for path, entry in module.double().eval().state_dict().items():
        if entry.is_floating_point():
            drawn = torch.randn(entry.shape, generator=generator, dtype=torch.float64)
            entry.copy_(drawn.exp() if path.endswith("running_var") else 0.6 * drawn)
    return module


def networks_of(architecture, activation="gelu", num=NUM_GRAPHS):
    return [randomized(build(architecture, activation), seed) for seed in range(num)]


def draw(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hooked(module, inputs):
    """What each submodule reads (``name.in``) and gives (``name``)."""
    found = {}
    handles = [
        child.register_forward_hook(lambda _, given, got, name=name: found.update({f"{name}.in": given[0], name: got}))
        for name, child in module.named_modules()
    ]
    module(inputs)
    for handle in handles:
        handle.remove()
    return found


def of_channels(found, where):
    """Mean over pixels ``[probes, channels, height, width]`` or nothing."""
    return found[where].flatten(2).mean(2) if found[where].dim() > 2 else found[where]


def of_tokens(found, where):
    """Mean over tokens ``[probes, tokens, channels]``."""
    return found[where].mean(1) if found[where].dim() > 2 else found[where]


HOOKS_OF_RESNET = {
    "norm": "activation", "block0.norm1": "block0.activation1", "block0.add": "block0", "block1.norm1": "block1.activation1",
    "block1.norm2": "block1",
}  # fmt: skip


def expected_of(name, found, family):
    """The activations of a group ``[probes, nodes]``, None where no hook sees them."""
    if name == "input":
        return found[""].new_tensor(0) + found[".in"].flatten(2).mean(2)
    if family == "transformer":
        return expected_of_transformer(name, found)
    renamed = {
        "mlp": {f"norm{i}": f"activation{i}" for i in range(2)},
        "cnn": {f"norm{i}": f"activation{i}" for i in range(2)},
        "resnet": HOOKS_OF_RESNET,
    }[family]
    where = renamed.get(name, name)
    return of_channels(found, where) if where in found else None


def expected_of_transformer(name, found):
    block = name.partition(".")[0]
    if "query_key_value[" in name:
        return of_tokens(found, f"{block}.query_key_value").chunk(3, -1)[int(name[-2])]
    special = {
        "patches.add": "block0.norm1.in",
        f"{block}.attention:2": f"{block}.output.in",
        f"{block}.output": f"{block}.norm2.in",
        f"{block}.expand": f"{block}.activation",
        f"{block}.contract": f"{block}",
    }
    if name == "patches.conv":
        return of_channels(found, name)
    where = special.get(name, name)
    return of_tokens(found, where) if where in found else None


@pytest.mark.parametrize(
    ("architecture", "num_unseen"),
    [(MLP, 0), (CNN, 0), (RESNET, 0), (TRANSFORMER, 7)],
    ids=["mlp", "cnn", "resnet", "transformer"],
)
@torch.no_grad()
def test_activations_are_what_forward_hooks_see_of_one_network_at_a_time(architecture, num_unseen):
    networks, inputs = networks_of(architecture), draw(NUM_PROBES, *IMAGE)
    program = Program.of(build(architecture, "gelu"), example_input(architecture))
    values = torch.stack([trace(network, inputs[:1]).row() for network in networks])
    activations = program.activations(values, inputs)
    assert activations.shape == (program.topology.num_nodes, NUM_GRAPHS, NUM_PROBES)
    unseen = 0
    for row, network in enumerate(networks):
        found = hooked(network, inputs)
        for group in program.topology.groups:
            start = program.topology.node_ptr[group.name]
            expected = expected_of(group.name, found, architecture.family)
            if expected is None:
                unseen += row == 0
            else:
                got = activations[start : start + group.size, row]
                torch.testing.assert_close(got, expected.T, rtol=1e-10, atol=1e-12, msg=lambda m, name=group.name: f"{name}: {m}")
    assert unseen == num_unseen


@torch.no_grad()
def test_outputs_are_what_the_networks_give():
    networks, inputs = networks_of(CNN), draw(NUM_PROBES, *IMAGE)
    values = torch.stack([trace(network, inputs[:1]).row() for network in networks])
    outputs = Program.of(build(CNN, "gelu"), example_input(CNN)).outputs(values, inputs)
    torch.testing.assert_close(outputs, torch.stack([network(inputs) for network in networks]), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_moments_of_sums_are_those_that_hooks_see_before_the_activation_over_images_and_pixels():
    networks, inputs = networks_of(RESNET), draw(NUM_PROBES, *IMAGE)
    program = Program.of(build(RESNET, "gelu"), example_input(RESNET))
    values = torch.stack([trace(network, inputs[:1]).row() for network in networks])
    shown = {"sum": ("norm", "block0.conv1", "block1.norm2"), "given": ("activation", "block0.conv1", "block1")}
    for of, places in shown.items():
        means, squares = program.moments(values, inputs, of=of)
        for row, network in enumerate(networks):
            found = hooked(network, inputs)
            for name, place in zip(("norm", "block0.conv1", "block1.norm2"), places, strict=True):
                own = slice(program.topology.node_ptr[name], program.topology.node_ptr[name] + RESNET.width)
                sums = found[place]
                if (of, name) == ("sum", "block1.norm2"):
                    sums = sums + found["block1.in"]
                torch.testing.assert_close(means[row, own], sums.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)
                torch.testing.assert_close(squares[row, own], sums.square().mean((0, 2, 3)), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_moments_of_some_groups_leave_the_others_at_zero():
    inputs, program = draw(NUM_PROBES, *IMAGE), Program.of(build(CNN, "gelu"), example_input(CNN))
    values = torch.stack([trace(network, inputs[:1]).row() for network in networks_of(CNN)])
    own = slice(program.topology.node_ptr["conv1"], program.topology.node_ptr["conv1"] + 7)
    for some, whole in zip(
        program.moments(values, inputs, of="sum", groups=["conv1"]), program.moments(values, inputs, of="sum"), strict=True
    ):
        torch.testing.assert_close(some[:, own], whole[:, own], rtol=0, atol=0)
        assert float(some.abs().sum()) == pytest.approx(float(some[:, own].abs().sum())) != float(whole.abs().sum())


def permuted_rows(topology, values, element):
    moved = [element.act(NeuralGraph.from_row(topology, row)).row() for row in values]
    return torch.stack(moved)


def assert_equivariant(module, example, kwargs=None):
    """A network's permuted twin has permuted activations, to the last digits of float64."""
    graph, program = trace(module, example, kwargs), Program.of(module, example, kwargs)
    topology, rows = graph.topology, graph.row().double()[None]
    inputs = tuple(draw(NUM_PROBES, *shape) for shape in program.inputs.values())
    element = symmetry.group(topology).sample(5)
    before, after = (program.activations(values, inputs) for values in (rows, permuted_rows(topology, rows, element)))
    for group in topology.groups:
        own = slice(topology.node_ptr[group.name], topology.node_ptr[group.name] + group.size)
        permutation = element.permutations.get(group.name, torch.arange(group.size))
        torch.testing.assert_close(after[own], before[own][permutation], rtol=1e-8, atol=1e-9)
    return before


@pytest.mark.parametrize("architecture", [MLP, CNN, RESNET, TRANSFORMER], ids=["mlp", "cnn", "resnet", "transformer"])
def test_permuted_neurons_have_permuted_activations(architecture):
    assert_equivariant(networks_of(architecture)[0], draw(1, *IMAGE))


def test_permuted_neurons_have_permuted_activations_in_any_small_network(network):
    before = assert_equivariant(network.module, network.inputs)
    assert before.isfinite().all()


def test_an_input_is_the_activation_of_its_nodes_and_an_output_that_of_its():
    module = randomized(nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5)), 0)
    inputs = draw(NUM_PROBES, 3)
    activations = Program.of(module, inputs[:1]).activations(trace(module, inputs[:1]).row()[None], inputs)
    torch.testing.assert_close(activations[:3, 0], inputs.T)
    torch.testing.assert_close(activations[3:10, 0], torch.tanh(module[0](inputs)).T)
    torch.testing.assert_close(activations[10:, 0], module(inputs).T)


def test_a_tower_on_two_inputs_gives_the_activations_of_each():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.head = nn.Linear(3, 7), nn.Linear(7, 2)

        def forward(self, x, y):
            return self.head(torch.relu(self.tower(x)) - torch.relu(self.tower(y)))

    module, x, y = randomized(Siamese(), 1), draw(NUM_PROBES, 3), draw(NUM_PROBES, 3, seed=8)
    program = Program.of(module, (x[:1], y[:1]))
    activations = program.activations(trace(module, (x[:1], y[:1])).row()[None], (x, y))
    towers = [group.name for group in program.topology.groups if group.size == 7 and group.activation == "relu"]
    for name, given in zip(towers, (x, y), strict=True):
        start = program.topology.node_ptr[name]
        torch.testing.assert_close(activations[start : start + 7, 0], torch.relu(module.tower(given)).T)


@pytest.mark.parametrize("architecture", [CNN, TRANSFORMER], ids=["cnn", "transformer"])
def test_gradients_into_inputs_and_values_are_finite_differences(architecture):
    networks, inputs = networks_of(architecture, "tanh", num=2), draw(2, *IMAGE).requires_grad_()
    program = Program.of(networks[0], draw(1, *IMAGE))
    values = torch.stack([trace(network, draw(1, *IMAGE)).row() for network in networks]).requires_grad_()
    weights = draw(program.topology.num_nodes, 2, 2)

    def total(values, inputs):
        return (program.activations(values, inputs) * weights).sum()

    gradients = torch.autograd.grad(total(values, inputs), (values, inputs))
    given = [values.detach(), inputs.detach()]
    for place, gradient in enumerate(gradients):
        direction = draw(*gradient.shape, seed=11)
        step = 1e-6
        ends = [total(*(x + (sign * step * direction if k == place else 0) for k, x in enumerate(given))) for sign in (1, -1)]
        expected = float(ends[0] - ends[1]) / (2 * step)
        assert abs(float((gradient * direction).sum()) - expected) < 1e-6 * max(1.0, abs(expected))


class Counter(TorchDispatchMode):
    """Counts the operations that reach the kernels."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_any_number_of_networks_takes_the_same_number_of_operations():
    program = Program.of(build(TRANSFORMER, "relu"), example_input(TRANSFORMER))
    counts = []
    for num_graphs, num_probes in ((2, 3), (2, 3), (50, 8)):
        values = torch.randn(num_graphs, program.topology.num_values)
        with Counter() as counter:
            program.activations(values, torch.randn(num_probes, *IMAGE))
        counts.append(counter.num)
    assert counts[1] == counts[2] < 1000


def test_layers_ahead_do_not_see_what_changes_behind_them():
    program = Program.of(build(CNN, "relu"), example_input(CNN))
    values = torch.randn(NUM_GRAPHS, program.topology.num_values, generator=torch.Generator().manual_seed(2)).exp()
    inputs = draw(NUM_PROBES, *IMAGE).float()
    slot = next(slot for slot in program.topology.slots if slot.owner == "head" and slot.feature is None)
    changed = values.clone()
    changed[:, slot.start : slot.stop] += 1
    before, after = program.activations(values, inputs), program.activations(changed, inputs)
    assert torch.equal(before[: -CNN.num_classes], after[: -CNN.num_classes])
    assert not torch.isclose(before[-CNN.num_classes :], after[-CNN.num_classes :]).any()


def test_other_plain_activations_share_a_program():
    program = Program.of(build(RESNET, "relu"), example_input(RESNET))
    network, inputs = networks_of(RESNET, "leaky_relu")[0], draw(NUM_PROBES, *IMAGE)
    graph = trace(network, inputs[:1])
    shared, own = program.variant(graph.topology), Program.of(network, inputs[:1])
    assert shared.topology == graph.topology
    assert program.variant(graph.topology) is shared
    values = graph.row()[None]
    torch.testing.assert_close(shared.activations(values, inputs), own.activations(values, inputs))
    assert not torch.allclose(program.activations(values, inputs), own.activations(values, inputs))


def test_networks_of_several_activations_are_run_in_one_call():
    program, inputs, names = (
        Program.of(build(RESNET, "relu"), example_input(RESNET)),
        draw(NUM_PROBES, *IMAGE),
        ("tanh", "relu", "gelu"),
    )
    networks = [networks_of(RESNET, names[number])[number] for number in (2, 0, 1, 2)]
    graphs = [trace(network, inputs[:1]) for network in networks]
    topologies = (graphs[1].topology, graphs[2].topology, graphs[0].topology)
    values, variant = torch.stack([graph.row() for graph in graphs]), torch.tensor([2, 0, 1, 2])
    together = program.variant(*topologies).activations(values, inputs, variant=variant)
    for column, graph in enumerate(graphs):
        alone = program.variant(graph.topology).activations(graph.row()[None], inputs)
        torch.testing.assert_close(together[:, column], alone[:, 0])


def test_a_variant_of_another_structure_or_with_a_composed_activation_is_refused():
    program = Program.of(nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5)), torch.zeros(1, 3))
    other = trace(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5)), torch.zeros(1, 3)).topology
    with pytest.raises(GraphError, match=f"topology {other.digest[:12]} differs from the program's in more than activations"):
        program.variant(other)
    elu = trace(nn.Sequential(nn.Linear(3, 7), nn.ELU(0.5), nn.Linear(7, 5)), torch.zeros(1, 3)).topology
    with pytest.raises(GraphError, match=r"group '0' has activation 'elu\(0\.5\)' in place of 'relu'; expected one of relu, "):
        program.variant(elu)


def test_the_type_of_the_values_decides_that_of_the_activations():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 5)

        def forward(self, x):
            return self.layer(x).to(torch.float32) + torch.ones(5, dtype=torch.float32)

    program = Program.of(Cast(), torch.zeros(1, 3))
    values, inputs = draw(NUM_GRAPHS, 20), draw(NUM_PROBES, 3)
    precise, rough = program.activations(values, inputs), program.activations(values.float(), inputs.float())
    assert (precise.dtype, rough.dtype) == (torch.float64, torch.float32)
    weight, bias = values[:, 5:].view(-1, 5, 3), values[:, :5]
    expected = torch.einsum("gts,ps->tgp", weight, inputs) + bias.T[:, :, None]
    torch.testing.assert_close(precise[3:], expected + (1 if program.topology.groups[-1].activation != "none" else 0))


def test_running_statistics_and_buffers_stay_as_they_are():
    network = networks_of(CNN)[0]
    before = copy.deepcopy(network.state_dict())
    program, graph = Program.of(network, draw(1, *IMAGE)), trace(network, draw(1, *IMAGE))
    program.activations(graph.row()[None], draw(NUM_PROBES, *IMAGE))
    assert all(torch.equal(entry, before[path]) for path, entry in network.state_dict().items())
    assert all(torch.equal(entry, before[path]) for path, entry in restore(graph).items())


def test_inputs_of_whole_numbers_are_refused_by_name():
    module = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 3))
    with pytest.raises(UnsupportedLayerError, match="input 'input' holds int64, which cannot be probed; expected inputs of real"):
        Program.of(module, torch.zeros(1, 4, dtype=torch.int64))


def test_probes_of_another_shape_are_refused_with_both_shapes():
    program = Program.of(nn.Linear(3, 5), torch.zeros(1, 3))
    values = torch.zeros(2, program.topology.num_values)
    with pytest.raises(GraphError, match=r"probe inputs have shapes \(4, 2\); expected input \['probes', 3\]"):
        program.activations(values, torch.zeros(4, 2))
    with pytest.raises(GraphError, match=r"value rows have 7 values; expected 20 for this topology"):
        program.activations(values[:, :7], torch.zeros(4, 3))
