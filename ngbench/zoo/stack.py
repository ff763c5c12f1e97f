"""The forward pass of many networks of one architecture at once, differentiable in their stacked parameters.

Activations are ``[networks, images, height, width, channels]``. A convolution is one matrix product from the input rows
under a kernel to one output row, the kernel being spread along the width into a banded matrix ``[kernel height * width *
sources, out width * targets]``: more arithmetic than the convolution has, but in products large enough to run near peak. On
8 by 8 images with 8 channels, forward and backward, that takes half the time of full dense matrices, a third of unfolded
patches, and about that of a grouped convolution, which gives a network alone other last bits than a network in a stack.
On an accelerator, where arithmetic is to be spared, it is `ngbench.zoo.convolution`, which takes the activation and the dropout
that follow along, or one product of unfolded patches where that cannot run; or, where patches overlap so much that arithmetic
takes longer than memory, one convolution a network.
Tokens are ``[networks, images, tokens, width]``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ngbench.errors import UnsupportedLayerError
from ngbench.zoo.convolution import convolve, is_available, name_of
from ngbench.zoo.dropout import StackedDropout
from ngbench.zoo.modules import Patches, Pooling, ResidualBlock, Sine, SkippingConvolutions, TransformerBlock

Parameters = Mapping[str, torch.Tensor]
Run = list[tuple[str, nn.Module]]
"""Layers of a sequence one after another, each with its state-dict path."""

# float32 numbers in 64 bytes
_ALIGNMENT = 16
# how many patches of an accelerator's convolutions may overlap in a place
_MOST_OVERLAP = 4
_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, Sine)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_COMPOSED = (ResidualBlock, Patches, TransformerBlock, SkippingConvolutions)


class StackedModule:
    """Runs up to `num_networks` networks that share one module's architecture.

    Args:
        module: What they share; its own parameters are not used.
        num_networks: Most networks in one call.
        banded: Whether kernels are spread into banded matrices, which is for processors.

    Raises:
        UnsupportedLayerError: The module is no `nn.Sequential`, or holds a layer that has no stacked form.
    """

    def __init__(self, module: nn.Module, num_networks: int, *, banded: bool = True):
        if not isinstance(module, nn.Sequential):
            raise UnsupportedLayerError(f"only nn.Sequential modules train stacked, got {type(module).__name__}")
        self.shapes = parameter_shapes(module)
        self._module = module
        self._bands: dict[str, torch.Tensor] | None = {} if banded else None
        self._num_networks = num_networks
        for name, layer in module.named_children():
            _check(name, layer)
        self._runs = _runs(module)

    def __call__(
        self, state: Parameters, inputs: torch.Tensor, *, drop: StackedDropout | None = None, trains: bool = False
    ) -> torch.Tensor:
        """Outputs ``[networks, inputs, outputs]``: logits of images, or values at points.

        Args:
            state: Each parameter and running statistic by its state-dict path, ``[networks, *shape]``.
            inputs: Images ``[networks, images, channels, height, width]`` or points ``[networks, points, coordinates]``.
            drop: What the dropouts drop; None to keep all.
            trains: Whether batch norms use the statistics of these images and move the running ones, in place.
        """
        forward = _Forward(state, self._bands, self._num_networks, drop, trains)
        hidden = inputs.permute(0, 1, 3, 4, 2) if inputs.dim() == 5 else inputs
        for run in self._runs:
            if forward.has_kernels(run, hidden):
                hidden = forward.convolve(run, hidden)
                continue
            for name, layer in run:
                hidden = forward.apply(name, layer, hidden)
        return hidden


@dataclass
class _Forward:
    """One forward pass; `bands` are the matrices of convolutions, kept from call to call, None to do without them."""

    state: Parameters
    bands: dict[str, torch.Tensor] | None
    num_networks: int
    drop: StackedDropout | None
    trains: bool
    num_dropouts: int = 0

    def apply(self, name: str, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The layer of that state-dict path on the activations of all networks."""
        match layer:
            case nn.Conv2d():
                return self._convolve(name, layer, hidden)
            case nn.Linear():
                rows = torch.baddbmm(
                    self.state[f"{name}.bias"].unsqueeze(1), hidden.flatten(1, -2), self.state[f"{name}.weight"].mT
                )
                return rows.view(*hidden.shape[:-1], -1)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return self._batch_norm(name, layer, hidden)
            case nn.LayerNorm():
                normed = nn.functional.layer_norm(hidden, layer.normalized_shape, eps=layer.eps)
                return self._scaled(name, normed)
            case nn.Dropout():
                self.num_dropouts += 1
                return hidden if self.drop is None else self.drop(hidden, self.num_dropouts - 1)
            case nn.AdaptiveAvgPool2d():
                return hidden.mean((2, 3), keepdim=True)
            case nn.Flatten():
                # torch flattens channels first
                return hidden.permute(0, 1, 4, 2, 3).flatten(2)
            case ResidualBlock():
                return self._residual(name, layer, hidden)
            case SkippingConvolutions():
                return layer.run(hidden, lambda part, inner, given: self.apply(f"{name}.{part}", inner, given), axis=-1)
            case Patches():
                return self._patches(name, layer, hidden)
            case TransformerBlock():
                return self._transform(name, layer, hidden)
            case Pooling():
                return hidden.mean(2) if layer.pooling == "mean" else hidden[:, :, 0]
            case _:
                return layer(hidden)

    def _spread(self, values: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Values ``[networks, channels]`` with axes of length 1 where the activations have more."""
        return values.view(len(values), *[1] * (hidden.dim() - 2), -1)

    def _scaled(self, name: str, normed: torch.Tensor) -> torch.Tensor:
        scale, shift = (self._spread(self.state[f"{name}.{entry}"], normed) for entry in ("weight", "bias"))
        return torch.addcmul(shift, normed, scale)

    def _batch_norm(self, name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, hidden: torch.Tensor) -> torch.Tensor:
        """Ioffe and Szegedy 2015, alg. 1 and 2; as in torch the running variance is of the unbiased ones."""
        means, variances = (self.state[f"{name}.{entry}"] for entry in ("running_mean", "running_var"))
        if not self.trains:
            centred = hidden - self._spread(means, hidden)
            return self._scaled(name, centred * self._spread((variances + layer.eps).rsqrt(), hidden))
        axes = tuple(range(1, hidden.dim() - 1))
        mean = hidden.mean(axes, keepdim=True)
        centred = hidden - mean
        variance = centred.square().mean(axes, keepdim=True)
        count, momentum = hidden[0, ..., 0].numel(), float(layer.momentum or 0)
        with torch.no_grad():
            means.lerp_(mean.view(means.shape), momentum)
            variances.lerp_(variance.view(means.shape) * (count / (count - 1)), momentum)
        return self._scaled(name, centred * (variance + layer.eps).rsqrt())

    def _residual(self, name: str, layer: ResidualBlock, hidden: torch.Tensor) -> torch.Tensor:
        inner, shortcut = hidden, hidden
        for part in ("conv1", "norm1", "activation1", "conv2", "norm2"):
            inner = self.apply(f"{name}.{part}", getattr(layer, part), inner)
        if layer.shortcut is not None:
            for part in ("shortcut", "shortcut_norm"):
                shortcut = self.apply(f"{name}.{part}", getattr(layer, part), shortcut)
        return layer.activation2(shortcut + inner)

    def _patches(self, name: str, layer: Patches, hidden: torch.Tensor) -> torch.Tensor:
        tokens = self.apply(f"{name}.conv", layer.conv, hidden).flatten(2, 3)
        if layer.token is not None:
            token = self.state[f"{name}.token"].expand(-1, tokens.shape[1], -1, -1)
            tokens = torch.cat([token, tokens], dim=2)
        return tokens + self.state[f"{name}.positions"]

    def _transform(self, name: str, layer: TransformerBlock, tokens: torch.Tensor) -> torch.Tensor:
        def apply(part: str, hidden: torch.Tensor) -> torch.Tensor:
            return self.apply(f"{name}.{part}", getattr(layer, part), hidden)

        query, key, value = (
            part.flatten(0, 1).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
            for part in apply("query_key_value", apply("norm1", tokens)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + apply("output", mixed.transpose(1, 2).reshape(tokens.shape))
        return tokens + apply("contract", layer.activation(apply("expand", apply("norm2", tokens))))

    def has_kernels(self, run: Run, hidden: torch.Tensor) -> bool:
        """Whether `convolve` is the way of a run of layers."""
        name, layer = run[0]
        wanted = self.bands is None and isinstance(layer, nn.Conv2d) and not _overlaps(layer)
        return wanted and is_available(hidden, self.state[f"{name}.weight"])

    def convolve(self, run: Run, hidden: torch.Tensor) -> torch.Tensor:
        """A convolution and what comes with it, in one kernel."""
        (name, layer), *others = run
        activation = next((known for _, other in others if (known := name_of(other))), "none")
        noise = None
        if others and isinstance(others[-1][1], nn.Dropout):
            noise = self.drop and self.drop.noise(self.num_dropouts)
            self.num_dropouts += 1
        (kernels, biases), stride, padding = self._kernels_of(name), _pair(layer.stride), _pair(layer.padding)
        return convolve(hidden, kernels, biases, stride=stride, padding=padding, activation=activation, noise=noise)

    def _kernels_of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        kernels, biases = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return kernels, kernels.new_zeros(kernels.shape[:2]) if biases is None else biases

    def _convolve(self, name: str, layer: nn.Conv2d, hidden: torch.Tensor) -> torch.Tensor:
        if self.has_kernels([(name, layer)], hidden):
            return self.convolve([(name, layer)], hidden)
        (kernels, biases), stride = self._kernels_of(name), _pair(layer.stride)
        if self.bands is None and _overlaps(layer):
            return _convolve_each(hidden, kernels, biases, stride=stride, padding=_pair(layer.padding))
        top, left = _pair(layer.padding)
        if top or left:
            hidden = nn.functional.pad(hidden, (0, 0, left, left, top, top))
        if self.bands is None:
            return _convolve_unfolded(hidden, kernels, biases, stride)
        if name not in self.bands:
            width = hidden.shape[3]
            out_width = (width - layer.kernel_size[1]) // layer.stride[1] + 1
            self.bands[name] = kernels.new_zeros(
                self.num_networks, layer.kernel_size[0], width, layer.in_channels, out_width, layer.out_channels
            )
        return _Convolution.apply(hidden, kernels, biases, self.bands[name][: len(hidden)], stride)


def _runs(module: nn.Sequential) -> list[Run]:
    """The layers; those that `convolve` takes along, an activation and a dropout, stand with the convolution before them."""
    runs: list[Run] = []
    for name, layer in module.named_children():
        before = [type(other) for _, other in runs[-1]] if runs else []
        follows = before[:1] == [nn.Conv2d] and before[-1] != nn.Dropout
        if follows and (isinstance(layer, nn.Dropout) or (len(before) == 1 and name_of(layer) is not None)):
            runs[-1].append((name, layer))
        else:
            runs.append([(name, layer)])
    return runs


def _overlaps(layer: nn.Conv2d) -> bool:
    return math.prod(layer.kernel_size) > _MOST_OVERLAP * math.prod(layer.stride)


def _convolve_each(
    hidden: torch.Tensor, kernels: torch.Tensor, biases: torch.Tensor, *, stride: tuple[int, int], padding: tuple[int, int]
) -> torch.Tensor:
    """Stacked convolution, network by network; shapes are those of `_Convolution`."""
    # channels last in memory, as the accelerator's own convolutions like it
    each = zip(hidden.permute(0, 1, 4, 2, 3), kernels, biases, strict=True)
    made = [nn.functional.conv2d(images, kernel, bias, stride, padding) for images, kernel, bias in each]
    return (torch.stack(made) if len(made) > 1 else made[0].unsqueeze(0)).permute(0, 1, 3, 4, 2)


def _convolve_unfolded(
    hidden: torch.Tensor, kernels: torch.Tensor, biases: torch.Tensor, stride: tuple[int, int]
) -> torch.Tensor:
    """Stacked convolution without padding; shapes are those of `_Convolution`."""
    windows = _Windows.apply(hidden, (kernels.shape[3], kernels.shape[4]), stride)
    rows = windows.flatten(1, 3).flatten(2)
    products = torch.baddbmm(biases[:, None], rows, kernels.permute(0, 3, 4, 2, 1).flatten(1, 3))
    return products.view(*windows.shape[:4], -1)


class _Windows(torch.autograd.Function):
    """What stands under a kernel at each place: ``[networks, images, out height, out width, *kernel, sources]``.

    The gradient is summed tap by tap, in whole channels, several times faster than by the rule of `Tensor.unfold`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, size: tuple[int, int], stride: tuple[int, int]) -> torch.Tensor:
        ctx.hidden_shape, ctx.stride = hidden.shape, stride
        windows = hidden.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
        return windows.permute(0, 1, 2, 3, 5, 6, 4).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = gradients[0]
        hidden = gradient.new_zeros(ctx.hidden_shape)
        ends = [(places - 1) * step + 1 for places, step in zip(gradient.shape[2:4], ctx.stride, strict=True)]
        for row, column in itertools.product(range(gradient.shape[4]), range(gradient.shape[5])):
            taken = hidden[:, :, row : row + ends[0] : ctx.stride[0], column : column + ends[1] : ctx.stride[1]]
            taken += gradient[:, :, :, :, row, column]
        return hidden, None, None


class _Convolution(torch.autograd.Function):
    """Stacked convolution without padding.

    Args:
        hidden: ``[networks, images, height, width, sources]``.
        kernels: ``[networks, targets, sources, kernel height, kernel width]``.
        biases: ``[networks, targets]``.
        bands: ``[networks, kernel height, width, sources, out width, targets]``: the matrices, zero in the first call. The
            kernels stand at the same places in every call, so the zeros stay.
        stride: Along height and width.

    Returns:
        ``[networks, images, out height, out width, targets]``.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, kernels: torch.Tensor, biases: torch.Tensor, bands: torch.Tensor, stride: tuple[int, int]
    ) -> torch.Tensor:
        _taps(bands, kernels.shape[4], stride=stride[1]).copy_(kernels.permute(0, 3, 4, 2, 1)[:, None])
        windows = hidden.unfold(2, kernels.shape[3], stride[0]).movedim(-1, 3)
        out_shape = (*windows.shape[:3], *bands.shape[4:])
        windows = windows.reshape(len(hidden), -1, bands[0, ..., 0, 0].numel())
        ctx.save_for_backward(windows)
        ctx.bands, ctx.stride, ctx.hidden_shape, ctx.kernel_width = bands, stride, hidden.shape, kernels.shape[4]
        bias = biases[:, None].expand(-1, bands.shape[4], -1).reshape(len(hidden), 1, -1)
        return torch.baddbmm(bias, windows, _as_matrix(bands)).view(out_shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (windows,), gradient = ctx.saved_tensors, gradients[0]
        num_networks, num_images, out_height = gradient.shape[:3]
        flat = gradient.reshape(num_networks, num_images * out_height, -1)
        bands = torch.bmm(windows.mT, flat).view(ctx.bands.shape)
        kernels = _taps(bands, ctx.kernel_width, stride=ctx.stride[1]).sum(1).permute(0, 4, 3, 1, 2)
        biases = flat.sum(1).view(num_networks, -1, gradient.shape[-1]).sum(1)
        if not ctx.needs_input_grad[0]:
            return None, kernels, biases, None, None
        windows = torch.bmm(flat, _as_matrix(ctx.bands).mT)
        windows = windows.view(num_networks, num_images, out_height, bands.shape[1], *ctx.hidden_shape[3:])
        hidden = gradient.new_zeros(ctx.hidden_shape)
        for row in range(bands.shape[1]):
            last = row + (out_height - 1) * ctx.stride[0]
            hidden[:, :, row : last + 1 : ctx.stride[0]] += windows[:, :, :, row]
        return hidden, kernels, biases, None, None


def _taps(bands: torch.Tensor, kernel_width: int, *, stride: int) -> torch.Tensor:
    """The entries of banded matrices where kernels stand: a view ``[networks, out width, *kernel, sources, targets]``.

    One step along the output width is `stride` steps along the input width, hence the summed memory strides.
    """
    networks, height, width, sources, out_width, targets = bands.stride()
    return bands.as_strided(
        (len(bands), bands.shape[4], bands.shape[1], kernel_width, bands.shape[3], bands.shape[5]),
        (networks, stride * width + out_width, height, width, sources, targets),
        bands.storage_offset(),
    )


def _as_matrix(bands: torch.Tensor) -> torch.Tensor:
    return bands.flatten(4).flatten(1, 3)


def _pair(sizes: Any) -> tuple[int, int]:
    return (sizes[0], sizes[1])


def _check(name: str, layer: nn.Module) -> None:
    if isinstance(layer, _COMPOSED):
        for child_name, child in layer.named_children():
            _check(f"{name}.{child_name}", child)
    elif isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or layer.dilation != (1, 1) or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise UnsupportedLayerError(
                f"{name}: a stacked Conv2d needs groups 1, dilation 1 and zero padding in numbers, got {layer}"
            )
    elif isinstance(layer, nn.AdaptiveAvgPool2d):
        if layer.output_size not in (1, (1, 1)):
            raise UnsupportedLayerError(
                f"{name}: only global average pooling trains stacked, got output size {layer.output_size}"
            )
    elif isinstance(layer, _BATCH_NORMS):
        if not (layer.affine and layer.track_running_stats and layer.momentum is not None):
            raise UnsupportedLayerError(
                f"{name}: a stacked {type(layer).__name__} needs scales, running statistics and a momentum, got {layer}"
            )
    elif isinstance(layer, nn.LayerNorm):
        if not layer.elementwise_affine or layer.bias is None or len(layer.normalized_shape) != 1:
            raise UnsupportedLayerError(f"{name}: a stacked LayerNorm needs one axis, scales and shifts, got {layer}")
    elif isinstance(layer, nn.Linear):
        if layer.bias is None:
            raise UnsupportedLayerError(f"{name}: a stacked Linear needs a bias")
    elif not isinstance(layer, (nn.Dropout, nn.Flatten, Pooling, *_ELEMENTWISE)):
        kinds = (nn.Conv2d, nn.Linear, *_BATCH_NORMS, nn.LayerNorm, nn.Dropout, nn.Flatten, Pooling, *_COMPOSED, *_ELEMENTWISE)
        known = ", ".join(kind.__name__ for kind in kinds)
        raise UnsupportedLayerError(f"{name}: {type(layer).__name__} has no stacked form; supported: {known}, AdaptiveAvgPool2d")


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by its state-dict path, in order."""
    return {path: tuple(parameter.shape) for path, parameter in module.named_parameters()}


def statistic_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each running statistic by its state-dict path, in order; counters are none."""
    return {path: tuple(buffer.shape) for path, buffer in module.named_buffers() if buffer.is_floating_point()}


def activation_size(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Numbers that all layers of a module give for one input, together."""
    sizes: list[int] = []
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output: sizes.append(output[0].numel()))
        for layer in module.modules()
        if not any(layer.children())
    ]
    with torch.no_grad():
        module(torch.zeros(2, *input_shape))
    for handle in handles:
        handle.remove()
    return sum(sizes)


def norm_scales(module: nn.Module) -> set[str]:
    """State-dict paths of the scales of norms."""
    norms = (*_BATCH_NORMS, nn.LayerNorm)
    return {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, norms)}


def unflatten(weights: torch.Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Views ``[networks, *shape]`` of stacked flat parameters ``[networks, parameters]``."""
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = weights.split(sizes, dim=1)
    return {path: part.unflatten(1, shape) for (path, shape), part in zip(shapes.items(), parts, strict=True)}


def aligned_rows(weights: torch.Tensor) -> torch.Tensor:
    """A copy ``[networks, parameters]`` whose rows start at multiples of 64 bytes.

    Matrix libraries choose their order of summation by the alignment of a matrix, so that only with equal alignment does a
    network come out the same, bit for bit, at every place in every stack.
    """
    rows = weights.new_empty(len(weights), -(-weights.shape[1] // _ALIGNMENT) * _ALIGNMENT)[:, : weights.shape[1]]
    return rows.copy_(weights)
