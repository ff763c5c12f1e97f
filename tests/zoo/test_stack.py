from collections import OrderedDict

import pytest
import torch
from torch import nn

from ngbench.errors import UnsupportedLayerError
from ngbench.zoo.architectures import Cnn, Mlp, Resnet, Transformer, build
from ngbench.zoo.stack import StackedModule, norm_scales, parameter_shapes, statistic_shapes, unflatten

NETWORKS, IMAGES = 3, 5


def conv_then(*layers):
    return nn.Sequential(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)), *layers)


MODULES = {
    "padded, strided and not square": (conv_then(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)), (2, 9, 7)),
    "strides that leave rows and columns over": (
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=(3, 2)), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(4, 6)),
        (2, 11, 8),
    ),
    "flatten of many pixels": (conv_then(nn.Tanh(), nn.Flatten(), nn.Linear(4 * 5 * 6, 6)), (2, 9, 7)),
    "two convolutions": (
        conv_then(
            nn.GELU(), nn.Dropout(0.4), nn.Conv2d(4, 3, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6)
        ),
        (2, 9, 7),
    ),
    "no convolution": (nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 3, 8), nn.ReLU(), nn.Linear(8, 6)), (2, 4, 3)),
}


@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_gradients_equal_those_of_each_module_alone(name):
    module, shape = MODULES[name]
    module = module.double().eval()
    generator = torch.Generator().manual_seed(4)
    shapes = parameter_shapes(module)
    flat = torch.randn(NETWORKS, sum(map(torch.Size.numel, map(torch.Size, shapes.values()))), generator=generator).double()
    images = torch.randn(NETWORKS, IMAGES, *shape, generator=generator).double()
    aim = torch.randn(NETWORKS, IMAGES, 6, generator=generator).double()
    stacked = {path: values.clone().requires_grad_() for path, values in unflatten(flat, shapes).items()}
    run = StackedModule(module, NETWORKS + 2)
    # twice, because the second call finds the buffers of the first
    for _ in range(2):
        outputs = run(stacked, images)
        gradients = torch.autograd.grad((outputs * aim).sum(), list(stacked.values()))
    for network in range(NETWORKS):
        alone = {path: values[network].detach().clone().requires_grad_() for path, values in stacked.items()}
        expected = torch.func.functional_call(module, alone, (images[network],))
        torch.testing.assert_close(outputs[network], expected, rtol=1e-12, atol=1e-12)
        wanted = torch.autograd.grad((expected * aim[network]).sum(), list(alone.values()))
        for got, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(got[network], want, rtol=1e-12, atol=1e-12)


IMAGE = (2, 8, 12)
FAMILIES = {
    "mlp with batch norm": Mlp(family="mlp", input_shape=IMAGE, width=7, depth=2, norm="batch", num_classes=6),
    "mlp with layer norm": Mlp(family="mlp", input_shape=IMAGE, width=7, depth=2, norm="layer", num_classes=6),
    "cnn with batch norm": Cnn(
        family="cnn",
        input_shape=IMAGE,
        channels=(3, 4),
        kernel_size=2,
        strides=(2, 1),
        paddings=(0, 1),
        num_classes=6,
        norm="batch",
    ),
    "resnet": Resnet(family="resnet", input_shape=IMAGE, width=3, depth=2, kernel_size=3, num_classes=6),
    "transformer of means": Transformer(
        family="transformer", input_shape=IMAGE, width=6, depth=2, num_heads=3, patch_size=4, pooling="mean", num_classes=6
    ),
    "transformer with a class token": Transformer(
        family="transformer", input_shape=IMAGE, width=8, depth=1, num_heads=2, patch_size=2, pooling="token", num_classes=6
    ),
}


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_its_modules_alone_running_statistics_included(name, trains):
    module = build(FAMILIES[name], "tanh").double().train(trains)
    generator = torch.Generator().manual_seed(4)
    statistics, shapes = statistic_shapes(module), parameter_shapes(module)
    state = {
        path: torch.randn(NETWORKS, *shape, generator=generator).double().mul(0.4)
        for path, shape in {**shapes, **statistics}.items()
    }
    state |= {path: state[path].square() + 0.5 for path in statistics if path.endswith("running_var")}
    images = torch.randn(NETWORKS, IMAGES, *IMAGE, generator=generator).double()
    aim = torch.randn(NETWORKS, IMAGES, 6, generator=generator).double()
    stacked = {path: values.clone().requires_grad_(path in shapes) for path, values in state.items()}
    outputs = StackedModule(module, NETWORKS)(stacked, images, trains=trains)
    gradients = torch.autograd.grad((outputs * aim).sum(), [stacked[path] for path in shapes])
    for network in range(NETWORKS):
        alone = {path: values[network].clone().requires_grad_(path in shapes) for path, values in state.items()}
        expected = torch.func.functional_call(module, alone, (images[network],))
        torch.testing.assert_close(outputs[network], expected, rtol=1e-10, atol=1e-10)
        wanted = torch.autograd.grad((expected * aim[network]).sum(), [alone[path] for path in shapes])
        for got, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(got[network], want, rtol=1e-10, atol=1e-10)
        for path in statistics:
            torch.testing.assert_close(stacked[path][network], alone[path], rtol=1e-12, atol=1e-12)
            assert torch.equal(stacked[path], state[path]) != trains


def test_scales_of_norms_are_told_from_biases_and_weights():
    assert norm_scales(build(FAMILIES["mlp with layer norm"], "relu")) == {"norm0.weight", "norm1.weight"}
    assert norm_scales(build(FAMILIES["cnn with batch norm"], "relu")) == {"norm0.weight", "norm1.weight"}
    blocks = {"block0.norm1.weight", "block0.norm2.weight", "norm.weight"}
    assert norm_scales(build(FAMILIES["transformer with a class token"], "relu")) == blocks


def test_gradient_reaches_padded_inputs_of_a_later_convolution():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, padding=2, stride=2), nn.Flatten()).double()
    parameters = {path: values.detach()[None].clone().requires_grad_() for path, values in module.named_parameters()}
    images = torch.rand(4, 1, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    StackedModule(module, 1)(parameters, images[None]).square().sum().backward()
    module(images).square().sum().backward()
    for path, values in module.named_parameters():
        torch.testing.assert_close(parameters[path].grad[0], values.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 3), "only nn.Sequential modules train stacked, got Linear"),
        (nn.Sequential(nn.Flatten(), nn.GroupNorm(2, 4)), "1: GroupNorm has no stacked form; supported: Conv2d, Linear"),
        (
            nn.Sequential(nn.BatchNorm2d(4, affine=False)),
            r"0: a stacked BatchNorm2d needs scales, .*got BatchNorm2d\(4.*affine=False",
        ),
        (nn.Sequential(nn.BatchNorm1d(4, momentum=None)), "running statistics and a momentum, got .*momentum=None"),
        (nn.Sequential(nn.LayerNorm((4, 3))), r"0: a stacked LayerNorm needs one axis, .*got LayerNorm\(\(4, 3\)"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), r"0: a stacked Conv2d needs groups 1.* got Conv2d\(4, 4"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, dilation=2)), r"dilation 1 .*dilation=\(2, 2\)"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding="same")), "zero padding in numbers, got .*padding=same"),
        (nn.Sequential(nn.AdaptiveAvgPool2d((2, 1))), r"0: only global average pooling trains stacked, got output size \(2, 1\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False)), "1: a stacked Linear needs a bias"),
    ],
)
def test_layer_without_stacked_form_is_named(module, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        StackedModule(module, 1)


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 2, 0), (2, 1, 1), (5, 1, 2)])
def test_unfolded_convolutions_and_their_gradients_are_those_of_torch(kernel_size, stride, padding):
    torch.manual_seed(4)
    convs = [nn.Conv2d(3, 4, kernel_size, stride=stride, padding=padding).double() for _ in range(2)]
    module = nn.Sequential(OrderedDict(conv=convs[0], activation=nn.Tanh(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    state = {
        f"conv.{name}": torch.stack([getattr(conv, name) for conv in convs]).detach().requires_grad_()
        for name in ("weight", "bias")
    }
    images = torch.randn(2, 5, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    outputs = StackedModule(module, 2, banded=False)(state, images)
    expected = torch.stack([conv(own).tanh().mean((2, 3)) for conv, own in zip(convs, images, strict=True)])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(outputs.square().sum(), [state["conv.weight"], state["conv.bias"], images])
    wanted = torch.autograd.grad(expected.square().sum(), [*(p for conv in convs for p in (conv.weight, conv.bias)), images])
    torch.testing.assert_close(found[0], torch.stack([wanted[0], wanted[2]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], torch.stack([wanted[1], wanted[3]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], wanted[4], rtol=0, atol=1e-12)
