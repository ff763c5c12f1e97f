"""Stacked convolutions on their kernels, which Triton interprets where there is no GPU, against torch in float64."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.zoo import convolution
from ngbench.zoo.convolution import convolve, is_available, name_of
from ngbench.zoo.dropout import StackedDropout
from ngbench.zoo.stack import StackedModule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NETWORKS, IMAGES, STEPS, DROPOUTS = 3, 2, 4, 2
# some units in the last place of float32, a hundredth of what factors of 10 bits would lose
TOLERANCE = 5e-6

pytestmark = pytest.mark.usefixtures("interpreted_kernels")

# height, width, sources, targets, kernel, stride, padding
SHAPES = {
    "one channel, strided": (9, 8, 1, 16, (3, 3), (2, 2), (0, 0)),
    "of the zoo's second layer": (7, 7, 16, 16, (3, 3), (2, 2), (0, 0)),
    "odd sizes, padded": (7, 6, 5, 3, (3, 2), (2, 3), (1, 1)),
    "stride beyond the kernel": (8, 7, 2, 6, (1, 2), (3, 3), (0, 0)),
    "many channels": (5, 4, 33, 40, (2, 2), (1, 1), (1, 0)),
    "large kernel": (8, 9, 3, 4, (5, 7), (1, 1), (2, 3)),
}


def normal(*shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def inputs_of(shape, *, seed):
    height, width, sources, targets, kernel, stride, padding = shape
    hidden = normal(NETWORKS, IMAGES, height, width, sources, seed=seed)
    kernels = normal(NETWORKS, targets, sources, *kernel, seed=seed + 1) / (sources * np.prod(kernel)) ** 0.5
    return (hidden, kernels, normal(NETWORKS, targets, seed=seed + 2)), {"stride": stride, "padding": padding}


def in_float64(hidden, kernels, biases, *, stride, padding):
    each = zip(hidden.permute(0, 1, 4, 2, 3), kernels, biases, strict=True)
    return torch.stack([nn.functional.conv2d(*own, stride, padding) for own in each]).permute(0, 1, 3, 4, 2)


def noise_and_mask(shape, *, device):
    """A dropout in step 2, with rates of each network, and what it multiplies activations of a shape by."""
    keys = torch.from_numpy(np.random.default_rng(7).integers(-(2**31), 2**31, (NETWORKS + 1, STEPS, DROPOUTS), dtype=np.int32))
    drop = StackedDropout([0.0, 0.3, 0.6, 0.2], keys.to(device), dtype=torch.float32)
    drop.step += 2
    return drop.noise(1), drop(torch.ones(shape, device=device), 1).double().cpu()


def check(found, wanted):
    """Within rounding, measured by the largest entry of each network's."""
    for network in range(NETWORKS):
        scale = wanted[network].abs().max().item()
        torch.testing.assert_close(found[network].double().cpu(), wanted[network], rtol=0, atol=TOLERANCE * scale)


def gradients(outputs, aim, leaves):
    return torch.autograd.grad((outputs * aim.to(outputs)).sum(), leaves)


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_and_gradients_are_those_of_torch_in_float64(name):
    tensors, geometry = inputs_of(SHAPES[name], seed=3)
    own = [tensor.float().to(DEVICE).requires_grad_() for tensor in tensors]
    assert is_available(own[0], own[1])
    exact = [tensor.detach().double().cpu().requires_grad_() for tensor in own]
    outputs, expected = convolve(*own, **geometry), in_float64(*exact, **geometry)
    aim = normal(*expected.shape, seed=9)
    check(outputs, expected)
    for found, wanted in zip(gradients(outputs, aim, own), gradients(expected, aim, exact), strict=True):
        check(found, wanted)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.Tanh(), nn.Sigmoid()])
def test_activation_and_dropout_are_those_of_torch_in_float64(activation):
    tensors, geometry = inputs_of(SHAPES["odd sizes, padded"], seed=4)
    own = [tensor.float().to(DEVICE).requires_grad_() for tensor in tensors]
    exact = [tensor.detach().double().cpu().requires_grad_() for tensor in own]
    plain = in_float64(*exact, **geometry)
    noise, mask = noise_and_mask(plain.shape, device=DEVICE)
    assert len(mask.unique()) == 4
    outputs = convolve(*own, **geometry, activation=name_of(activation), noise=noise)
    expected, aim = activation(plain) * mask, normal(*plain.shape, seed=9)
    check(outputs, expected)
    for found, wanted in zip(gradients(outputs, aim, own), gradients(expected, aim, exact), strict=True):
        check(found, wanted)


def test_small_numbers_keep_their_digits_in_tanh():
    hidden = torch.logspace(-6, 1.5, 400, dtype=torch.float64).view(1, 1, 20, 20, 1)
    hidden = torch.cat([hidden, -hidden]).float().to(DEVICE)
    ones = torch.ones(2, 1, 1, 1, 1, device=DEVICE)
    found = convolve(hidden, ones, torch.zeros(2, 1, device=DEVICE), stride=(1, 1), padding=(0, 0), activation="tanh")
    torch.testing.assert_close(found.double(), hidden.double().tanh(), rtol=3e-6, atol=0)


def test_a_network_comes_out_the_same_alone_and_every_time(monkeypatch):
    # several parts, the last one shorter
    monkeypatch.setattr(convolution, "ROWS_A_PART", 64)
    tensors, geometry = inputs_of((15, 14, 4, 6, (3, 3), (2, 2), (1, 1)), seed=5)
    own = [tensor.float().to(DEVICE) for tensor in tensors]

    def run(networks):
        leaves = [tensor[networks].clone().requires_grad_() for tensor in own]
        outputs = convolve(*leaves, **geometry, activation="tanh")
        return [outputs, *torch.autograd.grad(outputs.square().sum(), leaves)]

    together = run(slice(None))
    for again, first in zip(run(slice(None)), together, strict=True):
        assert torch.equal(again, first)
    for alone, first in zip(run(slice(2, 3)), together, strict=True):
        assert torch.equal(alone[0], first[2])


def test_images_that_all_networks_see_need_no_copies():
    tensors, geometry = inputs_of(SHAPES["one channel, strided"], seed=6)
    hidden, kernels, biases = (tensor.float().to(DEVICE) for tensor in tensors)
    shared = convolve(hidden[:1].expand(NETWORKS, -1, -1, -1, -1), kernels, biases, **geometry)
    copied = convolve(hidden[:1].repeat(NETWORKS, 1, 1, 1, 1), kernels, biases, **geometry)
    assert torch.equal(shared, copied)


LAYERS = {
    "activation and dropout": (nn.ReLU(), nn.Dropout(0.5)),
    "dropout before the activation": (nn.Dropout(0.5), nn.Tanh()),
    "an activation without a kernel": (nn.GELU(), nn.Dropout(0.5)),
    "two dropouts": (nn.Dropout(0.5), nn.Dropout(0.5)),
    "another slope": (nn.LeakyReLU(0.3),),
    "batch norm": (nn.BatchNorm2d(4), nn.ReLU()),
    "nothing": (),
}


@pytest.mark.parametrize("name", LAYERS)
def test_stacked_modules_on_kernels_give_what_they_give_without(name):
    """The plain path in float64 is the reference, so that the same masks are drawn."""
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    layers = {f"layer{index}": layer for index, layer in enumerate(LAYERS[name])}
    end = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(4, 3)}
    module = nn.Sequential(OrderedDict(conv=conv, **layers, next=nn.Conv2d(4, 4, 2, stride=2), last=nn.Sigmoid(), **end))
    images = normal(NETWORKS, 5, 2, 9, 7, seed=2)
    state = {path: normal(NETWORKS, *values.shape, seed=3) for path, values in module.state_dict().items() if values.dim()}
    state |= {path: values.square() + 1 for path, values in state.items() if path.endswith("var")}
    keys = torch.from_numpy(np.random.default_rng(7).integers(-(2**31), 2**31, (NETWORKS, STEPS, DROPOUTS), dtype=np.int32))

    def run(dtype, device):
        own = {path: values.to(device, dtype) for path, values in state.items()}
        leaves = {path: own[path].requires_grad_() for path, _ in module.named_parameters()}
        drop = StackedDropout([0.2, 0.4, 0.0], keys.to(device), dtype=dtype)
        outputs = StackedModule(module, NETWORKS, banded=False)(own, images.to(device, dtype), drop=drop)
        return [outputs, *torch.autograd.grad(outputs.square().sum(), list(leaves.values()))]

    for found, wanted in zip(run(torch.float32, DEVICE), run(torch.float64, "cpu"), strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found.double().cpu(), wanted, rtol=0, atol=10 * TOLERANCE * scale)


@pytest.mark.parametrize(
    ("hidden", "kernels"),
    [
        (torch.zeros(1, 2, 5, 5, 65, device=DEVICE), torch.zeros(1, 3, 65, 2, 2, device=DEVICE)),
        (torch.zeros(1, 2, 5, 5, 4, device=DEVICE), torch.zeros(1, 65, 4, 2, 2, device=DEVICE)),
        (torch.zeros(1, 2, 5, 5, 4, device=DEVICE).double(), torch.zeros(1, 3, 4, 2, 2, device=DEVICE).double()),
        (torch.zeros(1, 2, 5, 5, 4, device="meta"), torch.zeros(1, 3, 4, 2, 2, device="meta").half()),
    ],
)
def test_many_channels_and_other_numbers_are_left_to_the_plain_path(hidden, kernels):
    assert not is_available(hidden, kernels)


def test_processors_take_the_plain_path_unless_they_are_told_to_interpret(monkeypatch):
    monkeypatch.delenv("NGBENCH_INTERPRET_KERNELS", raising=False)
    assert not is_available(torch.zeros(1, 2, 5, 5, 4), torch.zeros(1, 3, 4, 2, 2))
