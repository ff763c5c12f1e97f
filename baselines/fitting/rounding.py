"""The weights of a module in the number format of autocast, rounded all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ALIGNED = 64
"""Each rounded tensor begins at a multiple of so many numbers, as the fastest kernels want it."""


@contextlib.contextmanager
def rounded_weights(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside autocast on a CUDA device, linear layers have their weights and biases in its format; elsewhere nothing changes.

    Autocast rounds each by a kernel of its own where it is used, and its gradient by another: some hundred of them in a step, of
    a microsecond or two each. Here all are rounded by one, and all gradients are brought back by one, with the same bits.

    Args:
        module: The layers in an attribute ``unrounded`` of any part of it stay as they are: what reads them takes float32, and
            gives gradients in it.
        device: Of its parameters.
    """
    if device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        yield
        return
    with in_dtype(module, torch.get_autocast_dtype("cuda")):
        yield


@contextlib.contextmanager
def in_dtype(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the linear layers of `rounded_weights` have their weights and biases in another dtype."""
    kept = {id(layer) for part in module.modules() for layer in getattr(part, "unrounded", ())}
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and id(layer) not in kept]
    slots = [(layer._parameters, name) for layer in layers for name in ("weight", "bias") if layer._parameters[name] is not None]
    parameters: list[Any] = [place[name] for place, name in slots]
    copies: Any = _Rounded.apply(dtype, *parameters) if slots else ()
    for (place, name), copy in zip(slots, copies, strict=True):
        place[name] = copy
    try:
        yield
    finally:
        for (place, name), parameter in zip(slots, parameters, strict=True):
            place[name] = parameter


class _Rounded(torch.autograd.Function):
    """Tensors in another dtype, as parts of one."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.shapes = tensors[0].dtype, [tensor.shape for tensor in tensors]
        return _parts(_joined(tensors).to(dtype), ctx.shapes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *_parts(_joined(grads).to(ctx.dtype), ctx.shapes)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other, with zeros up to the next multiple of `ALIGNED` after each."""
    zeros, parts = tensors[0].new_zeros(ALIGNED), []
    for tensor in tensors:
        parts += [tensor.flatten(), zeros[: -tensor.numel() % ALIGNED]]
    return torch.cat([part for part in parts if len(part)])


def _parts(joined: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """What `_joined` took, by its shapes."""
    sizes = [-(-shape.numel() // ALIGNED) * ALIGNED for shape in shapes]
    return tuple(part[: shape.numel()].view(shape) for part, shape in zip(joined.split(sizes), shapes, strict=True))
