"""From one exported operation to what is known of its result: by its rule, or as a constant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, fx

from ngbench.errors import UnsupportedLayerError
from ngbench.graph.axes import Expr, Factor, Index, pin, positions
from ngbench.graph.draft import Value
from ngbench.graph.layers.pooling import across_positions
from ngbench.graph.layers.rule import RULES, Result, arguments, module_path, operation_name, shape_of, supported, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


def apply(walk: Walk, node: fx.Node) -> Result:
    """What is known of an operation's result; its groups and blocks are added to the walk.

    Raises:
        UnsupportedLayerError: No rule for the operation, or the rule does not cover this use of it.
    """
    name = operation_name(node)
    if name in _RANDOM:
        raise unsupported(node, f"operation {name!r} draws random numbers", "a forward pass without chance in evaluation mode")
    _check_shapes(node)
    sources = node.all_input_nodes if name != "getitem" else []
    numbers = tuple(factor for source in sources for value in _values(walk, source) for factor in value.numbers)
    if name not in _NUMBERED:
        # Who compares places with numbers, or looks something up by them, knows which unit is which.
        pin(numbers)
        numbers = ()
    if name in _MADE or all(walk.is_constant(argument) for argument in node.all_input_nodes):
        result = constant(walk, node)
    elif name not in RULES:
        raise _unknown(node, name)
    else:
        beside_constants = any(walk.is_constant(argument) for argument in node.all_input_nodes)
        pooling = across_positions(name, arguments(node), beside_constants=beside_constants)
        if pooling is not None:
            walk.pool(node, pooling)
        result = RULES[name](walk, node, arguments(node))
    return _numbered(result, numbers)


_NUMBERED = {
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "to", "_to_copy", "clone", "contiguous", "alias", "detach", "transpose",
    "permute", "sort", "histc", "cumsum", "floor_divide", "empty_like", "zeros_like", "_grouped_mm", "grouped_mm_fallback",
    "_assert_tensor_metadata", "bincount", "lift_fresh_copy", "expand",
}  # fmt: skip


def _values(walk: Walk, node: fx.Node) -> Sequence[Value]:
    found = walk.values[node]
    return found if isinstance(found, list) else [found]


def _numbered(result: Result, numbers: Expr) -> Result:
    """A result whose entries still name the places of units; of several, the first."""
    if not numbers:
        return result
    if isinstance(result, list):
        return [replace(result[0], numbers=numbers), *result[1:]]
    return replace(result, numbers=numbers) if result.is_constant else result


def _check_shapes(node: fx.Node) -> None:
    found = node.meta.get("val")
    for part in found if isinstance(found, list | tuple) else [found]:
        if isinstance(part, Tensor) and not all(isinstance(size, int) for size in part.shape):
            shape = ", ".join(map(str, part.shape))
            raise unsupported(
                node, f"the shape ({shape}) of {operation_name(node)!r} depends on the values of tensors", "fixed shapes"
            )


def _unknown(node: fx.Node, name: str) -> UnsupportedLayerError:
    if "parametrizations" in module_path(node):
        wanted = "plain parameters: call torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first"
        return unsupported(node, f"operation {name!r} computes a weight from other parameters", wanted)
    near = difflib.get_close_matches(name, supported(), n=3)
    hint = f"perhaps {' or '.join(map(repr, near))}; " if near else ""
    return unsupported(
        node, f"operation {name!r} is not supported", f"{hint}one of the {len(RULES)} in ngbench.graph.layers.supported()"
    )


_RANDOM = {
    "rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "multinomial", "normal", "uniform", "randperm",
    "normal_functional",
}  # fmt: skip
_MADE = {
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "sym_size", "size",
    "isnan", "isinf", "isfinite", "one_hot", "fill",
}  # fmt: skip
"""What is a constant for the units that it reads: its shape alone, or where something holds, matters."""

_FILLED = {
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty",
}  # fmt: skip
_BROADCAST = {
    "add", "sub", "mul", "div", "where", "logical_and", "logical_or", "logical_not", "__and__", "__or__", "bitwise_and",
    "bitwise_or", "bitwise_not", "ge", "gt", "le", "lt", "eq", "ne", "neg", "abs", "minimum", "maximum", "masked_fill", "rsub",
}  # fmt: skip
_SHAPES = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "permute", "transpose", "t", "expand",
    "repeat", "slice", "select", "split", "chunk", "unbind", "clone", "contiguous", "alias", "detach", "lift_fresh_copy", "to",
    "_to_copy", "type_as",
}  # fmt: skip


def constant(walk: Walk, node: fx.Node) -> Result:
    """Values that depend on no parameter and on nothing but the indices of an input.

    An axis along which they do not change runs over an index that may become that of any units.
    """
    found, name = node.meta.get("val"), operation_name(node)
    if name in _SHAPES and all(isinstance(walk.values[source], Value) for source in node.all_input_nodes):
        return RULES[name](walk, node, arguments(node))
    if isinstance(found, list | tuple):
        return [Value(positions(part.shape) if isinstance(part, Tensor) else ()) for part in found]
    if not isinstance(found, Tensor):
        return Value(())
    num_axes = found.dim()
    uniform = set(range(num_axes)) if name in _FILLED else set()
    if name in _BROADCAST:
        sources = [walk.value(source) for source in node.all_input_nodes]
        uniform = {axis for axis in range(num_axes) if not any(source.varies(num_axes - axis) for source in sources)}
    return Value(tuple((Factor(Index(size, pinned=axis not in uniform)),) for axis, size in enumerate(shape_of(node))))
