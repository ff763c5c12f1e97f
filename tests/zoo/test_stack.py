import pytest
import torch
from torch import nn

from ngbench.errors import UnsupportedLayerError
from ngbench.zoo.stack import StackedModule, parameter_shapes, unflatten

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
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), "1: BatchNorm1d has no stacked form; supported: Conv2d, Linear"),
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
