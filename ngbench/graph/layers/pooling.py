"""What operations do across positions, as far as a rescaling of the units could tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

_LINEAR = dict.fromkeys(["sum", "cumsum", "tril", "triu", "grid_sampler"], "sum")
_OTHER = {
    "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm", "norm", "prod", "topk", "sort", "argmax", "argmin", 
    "index_put", "scatter", "where", "cumprod", "cummax", "cummin", "logcumsumexp",
}  # fmt: skip


def across_positions(name: str, args: Mapping[str, Any], *, beside_constants: bool = False) -> str | None:
    """The name of what an operation does across positions; None where it averages, moves or copies them, or does nothing.

    Args:
        name: Name of the operation.
        args: Its arguments.
        beside_constants: Whether some of the tensors that it reads depend on no units and no parameter.

    Returns:
        ``"sum"`` and ``"pad"`` for what is linear, else a name of the operation.
    """
    if name in _LINEAR:
        return _LINEAR[name]
    if name in _OTHER or (name in ("cat", "concat", "concatenate", "stack") and beside_constants):
        return name
    if name.startswith(("max_pool", "adaptive_max_pool", "lp_pool")):
        return "lp_pool" if name.startswith("lp") else "max_pool"
    if "batch_norm" in name:
        return "batch_statistics" if args.get("training") else None
    if name in ("max", "min"):
        return None if isinstance(args.get("other"), fx.Node) else name
    if name.startswith("avg_pool"):
        padding = args.get("padding") or 0
        padded = any(padding) if isinstance(padding, list | tuple) else padding
        return "sum" if padded or args.get("divisor_override") else None
    if name in ("pad", "constant_pad_nd", "masked_fill"):
        return _filled(name, args)
    return None


def _filled(name: str, args: Mapping[str, Any]) -> str | None:
    if args.get("mode", "constant") != "constant":
        return None
    value = args.get("value")
    return "pad" if value is None or value == 0 else name + "(constant)"
