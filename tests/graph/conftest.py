"""One small network of each kind that a neural graph can express; a test that asks for `network` runs on all of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import restore, symmetry, trace
from ngbench.graph.neural_graph import edge_index
from ngbench.graph.symmetry import GroupElement

NUM_GRAPHS = 2
SEED = 11


class Function(nn.Module):
    """A module whose forward pass is any function of itself and its inputs."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x, *others):
        return self.function(self, x, *others)


@dataclass
class Network:
    """A module with random float64 parameters, inputs for it, and the printed symmetry group that it must have."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    group: str

    @cached_property
    def graph(self):
        """The module's graph, traced once; its values follow the parameters."""
        return trace(self.module, self.inputs)

    def outputs(self, state_dict=None):
        """Outputs of the module, or of a copy with other parameters, flattened to one row."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.module.state_dict() if state_dict is None else state_dict)
        outputs = module(*self.inputs)
        return torch.cat([output.flatten() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]).detach()


def randomize(module, *, seed):
    """All parameters redrawn in float64, so that no two are equal and none is zero; statistics are positive."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return module.eval()


def make_network(module, *shapes, group="1", seed=0):
    """A network with random inputs of some shapes; a tensor among them is an input itself."""
    generator = torch.Generator().manual_seed(seed + 1)
    inputs = tuple(
        shape if isinstance(shape, Tensor) else torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return Network(randomize(module, seed=seed), inputs, group)


def difference(outputs, others):
    """Largest difference of two networks' outputs, relative to the largest output."""
    return float((outputs - others).abs().max() / outputs.abs().max())


def assert_laws(network):
    """The graph gives its module back, and its symmetry group keeps the function, which nothing outside of it does."""
    state_dict, topology = network.module.state_dict(), network.graph.topology
    restored = restore(network.graph)
    assert list(restored) == list(state_dict)
    assert all(torch.equal(restored[path], entry) for path, entry in state_dict.items())
    assert edge_index(topology).shape == (2, topology.num_edges)
    assert all(topology.block_shape(block.name)[1] > 0 for block in topology.blocks)
    group = symmetry.group(topology)
    assert str(group) == network.group
    element = group.sample(SEED)
    permuted = element.act_state_dict(state_dict)
    assert list(permuted) == list(state_dict)
    assert difference(network.outputs(), network.outputs(permuted)) < 1e-10
    acted = copy.deepcopy(network.module)
    acted.load_state_dict(permuted)
    assert trace(acted, network.inputs).equal(element.act(network.graph))
    for name, rotation in rotations(topology).items():
        moved = rotation.act_state_dict(state_dict)
        if any(not torch.equal(moved[path], entry) for path, entry in state_dict.items()):
            changes = difference(network.outputs(), network.outputs(moved)) > 1e-6
            assert changes is not belongs(group, rotation), f"{name} {'changes' if changes else 'keeps'} the function"


def rotations(topology):
    """Elements that may be outside the symmetry group: each index moved on by one, wherever it stands and in one group alone."""
    indices = {group.name: topology.indices_of(group.name) for group in topology.groups}
    found = {}
    for index in dict.fromkeys(index for group in indices.values() for index in group if index.size > 1):
        names = [name for name, own in indices.items() if index in own]
        found[f"index {index.name}"] = GroupElement(topology, {name: rolled(indices[name], index) for name in names})
    for name, own in indices.items():
        for index in own:
            found[f"index {index.name} of {name} alone"] = GroupElement(topology, {name: rolled(own, index)})
    return found


def rolled(indices, moved):
    """The permutation of a group's nodes that moves one of its indices on by one."""
    sizes = [index.size for index in indices]
    axes = [axis for axis, index in enumerate(indices) if index == moved]
    return torch.arange(torch.Size(sizes).numel()).view(sizes).roll([1] * len(axes), axes).flatten()


def belongs(group, element):
    """Whether an element moves nothing but one whole index that is free to move."""
    topology = group.topology
    moved = {name for name, permutation in element.permutations.items() if topology.group(name).size > 1}
    return any(
        moved == {g.name for g in topology.groups if index in topology.indices_of(g.name)}
        and all(torch.equal(element.permutations[name], rolled(topology.indices_of(name), index)) for name in moved)
        for index in group.indices
    )


def mlp():
    return make_network(
        nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)), (NUM_GRAPHS, 3), group="S_7 × S_5"
    )


def mlp_without_bias():
    layers = nn.Linear(3, 7, bias=False), nn.GELU("tanh"), nn.Linear(7, 5, bias=False)
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3), group="S_7")


def bare_linear():
    return make_network(nn.Linear(3, 5), (NUM_GRAPHS, 3))


def unbatched():
    return make_network(nn.Sequential(nn.Linear(3, 7), nn.SiLU(), nn.Linear(7, 5)), (3,), group="S_7")


def linear_at_each_position():
    return make_network(nn.Sequential(nn.Linear(3, 7), nn.ELU(0.5), nn.Linear(7, 5)), (NUM_GRAPHS, 4, 3), group="S_7")


def sequential_in_sequential():
    inner = nn.Sequential(nn.Linear(7, 5), nn.Sequential(nn.Mish(), nn.Linear(5, 4)), nn.Identity())
    return make_network(nn.Sequential(nn.Linear(3, 7), nn.Sigmoid(), inner), (NUM_GRAPHS, 3), group="S_7 × S_5")


def siren():
    def forward(self, x):
        return self.c(torch.sin(2.5 * self.b(torch.sin(30 * self.a(x))))) * 0.5 + 0.25

    return make_network(Function(forward, a=nn.Linear(2, 7), b=nn.Linear(7, 5), c=nn.Linear(5, 3)), (4, 2), group="S_7 × S_5")


def conv1d():
    layers = (
        nn.Conv1d(3, 5, 4, stride=2, padding=3), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(5, 7, 3, dilation=2, padding="same"), nn.ELU(),
        nn.Conv1d(7, 6, 2, padding=1, padding_mode="circular", bias=False), nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3, 13), group="S_5 × S_7 × S_6")


def conv2d_of_non_square_kernels():
    layers = (
        nn.Conv2d(3, 5, (3, 1), stride=(2, 1), padding=(1, 0)), nn.GELU(), nn.ZeroPad2d((1, 0, 2, 1)),
        nn.Conv2d(5, 7, (1, 5), padding="same", dilation=(1, 2)), nn.SiLU(), nn.AvgPool2d((1, 2)), nn.Conv2d(7, 6, (2, 3)),
        nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3, 9, 11), group="S_5 × S_7 × S_6")


def convolutions_to_the_end():
    return make_network(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU6(), nn.Conv2d(5, 2, 1)), (NUM_GRAPHS, 3, 6, 7), group="S_5")


def conv2d_flatten():
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 2 * 4, 7), nn.Tanh(), nn.Linear(7, 6)
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3, 6, 10), group="S_5 × S_7")


def flatten_of(order):
    """Conv, its three axes in another order, flatten, linear."""

    def forward(self, x):
        return self.b(torch.relu(self.a(x)).permute(0, *order).flatten(1))

    def make():
        return make_network(
            Function(forward, a=nn.Conv2d(3, 5, 3), b=nn.Linear(5 * 2 * 4, 7)), (NUM_GRAPHS, 3, 4, 6), group="S_5"
        )

    return make


def flatten_of_channels_that_were_linear():
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).transpose(1, 2).reshape(x.shape[0], -1))

    return make_network(Function(forward, a=nn.Linear(3, 5), b=nn.Linear(5 * 4, 7)), (NUM_GRAPHS, 4, 3), group="S_5")


def pooling(pool):
    def forward(self, x):
        return self.b(pool(torch.relu(self.a(x))))

    def make():
        return make_network(Function(forward, a=nn.Conv2d(3, 5, 3), b=nn.Linear(5, 7)), (NUM_GRAPHS, 3, 6, 8), group="S_5")

    return make


def adaptive_pooling(pool, *, positions):
    def make():
        layers = nn.Conv2d(3, 5, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(5 * positions, 7)
        return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3, 9, 8), group="S_5")

    return make


def dropouts():
    layers = (
        nn.Conv1d(3, 5, 3), nn.Dropout(), nn.ReLU(inplace=True), nn.Dropout1d(), nn.FeatureAlphaDropout(),
        nn.Dropout(inplace=True), nn.Flatten(), nn.Linear(5 * 4, 7), nn.AlphaDropout(),
        nn.SELU(inplace=True), nn.Dropout1d(inplace=True), nn.Linear(7, 2),
    )  # fmt: skip
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 3, 6), group="S_5 × S_7")


def softmax_over_units():
    return make_network(nn.Sequential(nn.Conv1d(3, 5, 2), nn.Softmax(1), nn.Conv1d(5, 4, 3)), (NUM_GRAPHS, 3, 9), group="S_5")


def flatten_of_one_channel():
    return make_network(
        nn.Sequential(nn.Flatten(), nn.Linear(6 * 4, 7), nn.ReLU(), nn.Linear(7, 5)), (NUM_GRAPHS, 1, 6, 4), group="S_7"
    )


def conv_after_unsqueeze():
    def forward(self, x):
        return self.b(torch.relu(self.a(x.unsqueeze(1))).flatten(1))

    return make_network(Function(forward, a=nn.Conv1d(1, 5, 3), b=nn.Linear(5 * 4, 7)), (NUM_GRAPHS, 6), group="S_5")


def conv_after_unflatten():
    layers = nn.Unflatten(1, (1, 5, 4)), nn.Conv2d(1, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 3 * 2, 6)
    return make_network(nn.Sequential(*layers), (NUM_GRAPHS, 20), group="S_7")


def output_of_one_unit_squeezed():
    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).squeeze(-1)

    return make_network(Function(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 1)), (NUM_GRAPHS, 3), group="S_5")


def two_heads():
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.b(hidden), F.log_softmax(self.c(hidden), dim=-1)

    return make_network(Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(7, 4)), (NUM_GRAPHS, 3), group="S_7")


def hidden_units_given_back():
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return hidden, self.c(torch.tanh(self.b(hidden)))

    return make_network(Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(5, 4)), (NUM_GRAPHS, 3), group="S_5")


def two_activations_of_one_layer():
    def forward(self, x):
        hidden = self.a(x)
        return self.b(torch.relu(hidden)), self.c(torch.tanh(hidden))

    return make_network(Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(7, 4)), (NUM_GRAPHS, 3), group="S_7")


def two_towers():
    def forward(self, x, y):
        return self.b(torch.relu(self.a(x))), self.d(torch.tanh(self.c(y)).mean(-1))

    modules = {"a": nn.Linear(3, 7), "b": nn.Linear(7, 5), "c": nn.Conv1d(4, 6, 2), "d": nn.Linear(6, 8)}
    return make_network(Function(forward, **modules), (NUM_GRAPHS, 3), (NUM_GRAPHS, 4, 9), group="S_7 × S_6")


def input_read_twice():
    def forward(self, x):
        return self.b(torch.relu(self.a(x))), self.c(x)

    return make_network(Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(3, 4)), (NUM_GRAPHS, 3), group="S_7")


def layer_called_twice():
    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))))

    return make_network(Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 7), c=nn.Linear(7, 5)), (NUM_GRAPHS, 3), group="S_7")


def shared_encoder():
    def forward(self, x, y):
        return self.b(torch.relu(self.a(x))), self.c(torch.relu(self.a(y)))

    modules = {"a": nn.Linear(3, 7), "b": nn.Linear(7, 5), "c": nn.Linear(7, 4)}
    return make_network(Function(forward, **modules), (NUM_GRAPHS, 3), (6, 3), group="S_7")


def one_weight_in_two_layouts():
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.b(hidden.flatten(1)), self.b(hidden.transpose(1, 2).flatten(1))

    return make_network(Function(forward, a=nn.Conv1d(3, 5, 2), b=nn.Linear(5 * 4, 7)), (NUM_GRAPHS, 3, 5), group="1")


NETWORKS = {
    function.__name__: function
    for function in (
        mlp, mlp_without_bias, bare_linear, unbatched, linear_at_each_position, sequential_in_sequential, siren, conv1d,
        conv2d_of_non_square_kernels, convolutions_to_the_end, conv2d_flatten, flatten_of_channels_that_were_linear, dropouts,
        softmax_over_units, flatten_of_one_channel, conv_after_unsqueeze, conv_after_unflatten, output_of_one_unit_squeezed,
        two_heads, hidden_units_given_back, two_activations_of_one_layer, two_towers, input_read_twice, layer_called_twice,
        shared_encoder, one_weight_in_two_layouts,
    )
} | {
    "flatten_channels_last": flatten_of((2, 3, 1)),
    "flatten_channels_between": flatten_of((2, 1, 3)),
    "flatten_of_a_transposed_grid": flatten_of((1, 3, 2)),
    "global_mean": pooling(lambda x: x.mean((-2, -1))),
    "global_maximum": pooling(lambda x: x.amax((2, 3), keepdim=True).flatten(1)),
    "sum_over_positions_one_by_one": pooling(lambda x: x.sum(3).sum(-1)),
    "functional_pooling": pooling(lambda x: F.adaptive_max_pool2d(F.avg_pool2d(x, 3, 1, 1), 1).squeeze(-1).squeeze(-1)),
    "adaptive_average": adaptive_pooling(nn.AdaptiveAvgPool2d((4, 2)), positions=8),
    "adaptive_average_of_columns": adaptive_pooling(nn.AdaptiveAvgPool2d((4, 1)), positions=4),
    "adaptive_maximum": adaptive_pooling(nn.AdaptiveMaxPool2d((2, 3)), positions=6),
}  # fmt: skip


@pytest.fixture(params=NETWORKS, scope="session")
def network(request):
    """Shared by all tests, so not to be written to."""
    return NETWORKS[request.param]()


@pytest.fixture
def make():
    """A new network by name, which a test may change."""
    return lambda name: NETWORKS[name]()


@pytest.fixture(scope="session")
def function_module():
    """The class `Function`."""
    return Function


@pytest.fixture(scope="session")
def check():
    """Makes a network of a module and input shapes, asserts the laws for its printed group, and gives its topology."""

    def check(module, *shapes, group):
        network = make_network(module, *shapes, group=group)
        assert_laws(network)
        return network.graph.topology

    return check


@pytest.fixture
def groups_of():
    """Size, role, activation and indices of each group of a topology."""
    return lambda topology: {group.name: (group.size, group.role, group.activation, group.indices) for group in topology.groups}


@pytest.fixture
def blocks_of():
    """Source, target, pattern, operation, kernel and shared indices of each block of a topology."""
    return lambda topology: {
        block.name: (block.source, block.target, block.pattern, block.operation, block.kernel, block.shared)
        for block in topology.blocks
    }


@pytest.fixture
def refuses():
    """Asserts that a module is refused with a text."""

    def refuses(module, *shapes, match):
        inputs = tuple(shape if isinstance(shape, Tensor) else torch.zeros(shape) for shape in shapes)
        with pytest.raises(UnsupportedLayerError, match=match):
            trace(module, inputs)

    return refuses


@pytest.fixture
def make_graph():
    """The graph of a module, its parameters drawn anew, for inputs of some shapes."""
    return lambda module, *shapes: make_network(module, *shapes).graph
