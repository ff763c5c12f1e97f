"""Whether Triton's kernels can run here."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch
from torch import Tensor

PRECISIONS = {"float32": "tf32x3", "tf32": "tf32", "bfloat16": "bf16"}
"""How kernels round the operands of a product, for each `Training.precision`; three products in tf32 are one in float32."""


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_usable(tensor: Tensor) -> bool:
    """Whether kernels run on a tensor: float32 or bfloat16, on a CUDA device, with Triton there.

    With ``NGBENCH_INTERPRET_KERNELS=1`` they also run on a CPU, in Triton's interpreter, for tests.
    """
    on_device = tensor.is_cuda or os.environ.get("NGBENCH_INTERPRET_KERNELS") == "1"
    return tensor.dtype in (torch.float32, torch.bfloat16) and on_device and _has_triton()


def in_format(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the number format that autocast asked for around; as they are without it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
