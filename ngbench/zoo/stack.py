"""The forward pass of many networks of one architecture at once, differentiable in their stacked parameters.

Activations are ``[networks, images, height, width, channels]``. A convolution is one matrix product from the input rows
under a kernel to one output row, the kernel being spread along the width into a banded matrix ``[kernel height * width *
sources, out width * targets]``: more arithmetic than the convolution has, but in products large enough to run near peak. On
8 by 8 images with 8 channels, forward and backward, that takes half the time of full dense matrices, a third of unfolded
patches, and about that of a grouped convolution, which gives a network alone other last bits than a network in a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ngbench.errors import UnsupportedLayerError

Parameters = Mapping[str, torch.Tensor]
Drop = Callable[[torch.Tensor, int], torch.Tensor]

# float32 numbers in 64 bytes
_ALIGNMENT = 16
_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)


class StackedModule:
    """Runs up to `num_networks` networks that share one module's architecture.

    Args:
        module: What they share; its own parameters are not used.
        num_networks: Most networks in one call.

    Raises:
        UnsupportedLayerError: The module is no `nn.Sequential`, or holds a layer that has no stacked form.
    """

    def __init__(self, module: nn.Module, num_networks: int):
        if not isinstance(module, nn.Sequential):
            raise UnsupportedLayerError(f"only nn.Sequential modules train stacked, got {type(module).__name__}")
        self.shapes = parameter_shapes(module)
        self._layers: list[tuple[str, nn.Module]] = list(module.named_children())
        self._bands: dict[str, torch.Tensor] = {}
        self._num_networks = num_networks
        for name, layer in self._layers:
            _check(name, layer)

    def __call__(self, parameters: Parameters, images: torch.Tensor, *, drop: Drop | None = None) -> torch.Tensor:
        """Logits ``[networks, images, classes]``.

        Args:
            parameters: Each parameter by its state-dict path, ``[networks, *shape]``.
            images: ``[networks, images, channels, height, width]``.
            drop: Called on the activations at each dropout with the dropout's number; None to keep all.
        """
        hidden = images.permute(0, 1, 3, 4, 2)
        num_dropouts = 0
        for name, layer in self._layers:
            if isinstance(layer, nn.Conv2d):
                hidden = self._convolve(name, layer, parameters, hidden)
            elif isinstance(layer, nn.Linear):
                hidden = torch.baddbmm(parameters[f"{name}.bias"].unsqueeze(1), hidden, parameters[f"{name}.weight"].mT)
            elif isinstance(layer, nn.Dropout):
                hidden = hidden if drop is None else drop(hidden, num_dropouts)
                num_dropouts += 1
            elif isinstance(layer, nn.AdaptiveAvgPool2d):
                hidden = hidden.mean((2, 3), keepdim=True)
            elif isinstance(layer, nn.Flatten):
                # torch flattens channels first
                hidden = hidden.permute(0, 1, 4, 2, 3).flatten(2)
            else:
                hidden = layer(hidden)
        return hidden

    def _convolve(self, name: str, layer: nn.Conv2d, parameters: Parameters, hidden: torch.Tensor) -> torch.Tensor:
        top, left = _pair(layer.padding)
        if top or left:
            hidden = nn.functional.pad(hidden, (0, 0, left, left, top, top))
        kernels, biases = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        if name not in self._bands:
            width = hidden.shape[3]
            out_width = (width - layer.kernel_size[1]) // layer.stride[1] + 1
            self._bands[name] = kernels.new_zeros(
                self._num_networks, layer.kernel_size[0], width, layer.in_channels, out_width, layer.out_channels
            )
        return _Convolution.apply(hidden, kernels, biases, self._bands[name][: len(hidden)], _pair(layer.stride))


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
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or layer.dilation != (1, 1) or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise UnsupportedLayerError(
                f"{name}: a stacked Conv2d needs groups 1, dilation 1 and zero padding in numbers, got {layer}"
            )
    elif isinstance(layer, nn.AdaptiveAvgPool2d):
        if layer.output_size not in (1, (1, 1)):
            raise UnsupportedLayerError(
                f"{name}: only global average pooling trains stacked, got output size {layer.output_size}"
            )
    elif not isinstance(layer, (nn.Linear, nn.Dropout, nn.Flatten, *_ELEMENTWISE)):
        known = ", ".join(kind.__name__ for kind in (nn.Conv2d, nn.Linear, nn.Dropout, nn.Flatten, *_ELEMENTWISE))
        raise UnsupportedLayerError(f"{name}: {type(layer).__name__} has no stacked form; supported: {known}, AdaptiveAvgPool2d")
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None:
        raise UnsupportedLayerError(f"{name}: a stacked {type(layer).__name__} needs a bias")


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by its state-dict path, in order."""
    return {path: tuple(parameter.shape) for path, parameter in module.named_parameters()}


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
