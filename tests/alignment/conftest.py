"""Untrained networks of the architectures of zoos, in float64, with the programs that run them."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch

from ngbench.graph import NeuralGraph, Program, restore
from ngbench.zoo.architectures import Cnn, Mlp, Resnet, Transformer, build, example_input

NUM_GRAPHS, NUM_IMAGES = 3, 20
IMAGE = (2, 4, 6)
ARCHITECTURES = {
    "mlp": Mlp(family="mlp", input_shape=IMAGE, width=9, depth=2, norm="none", num_classes=5),
    "mlp-batch": Mlp(family="mlp", input_shape=IMAGE, width=9, depth=2, norm="batch", num_classes=5),
    "cnn": Cnn(family="cnn", input_shape=IMAGE, channels=(5, 7), kernel_size=3, strides=(1, 2), paddings=(1, 0), num_classes=4),
    "resnet": Resnet(family="resnet", input_shape=IMAGE, width=5, depth=2, kernel_size=3, num_classes=4),
    "transformer": Transformer(
        family="transformer", input_shape=IMAGE, width=6, depth=1, num_heads=3, patch_size=2, pooling="token", num_classes=5
    ),
}


class Networks(SimpleNamespace):
    """A module, its program, value rows ``[graphs, values]`` and images."""

    def module_of(self, row):
        """The module with the values of a row."""
        self.module.load_state_dict({**self.module.state_dict(), **restore(NeuralGraph.from_row(self.program.topology, row))})
        return self.module.eval()


@lru_cache
def make(name):
    torch.manual_seed(1)
    modules = [build(ARCHITECTURES[name], "relu").double() for _ in range(NUM_GRAPHS)]
    program = Program.of(build(ARCHITECTURES[name], "relu"), example_input(ARCHITECTURES[name]))
    for module in modules:
        for path, entry in module.state_dict().items():
            if path.endswith(("bias", "running_mean")):
                entry.normal_(std=0.3)
            if path.endswith("running_var"):
                entry.uniform_(0.5, 2)
    rows = [NeuralGraph.from_state_dict(program.topology, module.state_dict()).row() for module in modules]
    images = torch.rand(NUM_IMAGES, *IMAGE, dtype=torch.float64)
    labels = torch.randint(ARCHITECTURES[name].num_classes, (NUM_IMAGES,))
    return Networks(module=modules[0], program=program, rows=torch.stack(rows), images=images, labels=labels)


@pytest.fixture(params=ARCHITECTURES)
def networks(request):
    return make(request.param)


@pytest.fixture
def make_networks():
    return make
