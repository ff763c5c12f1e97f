"""Operations that move, cut, join or drop entries without computing with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Factor, Index, positions
from ngbench.graph.draft import Value
from ngbench.graph.layers.rule import Arguments, Result, operation_name, rule, shape_of, source_of

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as", "reshape_as")
def _reshape(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A new shape over the same factors."""
    value, shape = walk.value(source_of(args)), shape_of(node)
    axes = ax.reshaped(value.axes, shape)
    if axes is None:
        # The new axes cut across units: these keep their places.
        value = walk.as_positions(node, value, range(len(value.axes)))
        axes = positions(shape)
    return walk.follow(node, value, axes)


@rule("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "numpy_T", "mT")
def _permute(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """The same axes in another order."""
    value = walk.value(source_of(args))
    num_axes, name = len(value.axes), operation_name(node)
    order = list(range(num_axes))
    if name == "permute":
        order = [int(dim) % num_axes for dim in args["dims"]]
    elif name in ("movedim", "moveaxis"):
        order = _moved(args["source"], args["destination"], num_axes)
    elif name == "numpy_T":
        order.reverse()
    elif num_axes > 1:
        dims = [int(args.get("dim0", args.get("axis0", -2))), int(args.get("dim1", args.get("axis1", -1)))]
        first, second = (dim % num_axes for dim in dims)
        order[first], order[second] = order[second], order[first]
    return walk.follow(node, value, tuple(value.axes[axis] for axis in order))


def _moved(source: int | Sequence[int], destination: int | Sequence[int], num_axes: int) -> list[int]:
    """The order of axes after some were moved, the others in their order."""
    pairs = zip(*([dims] if isinstance(dims, int) else dims for dims in (source, destination)), strict=True)
    places = {int(to) % num_axes: int(of) % num_axes for of, to in pairs}
    others = iter(axis for axis in range(num_axes) if axis not in places.values())
    return [places[place] if place in places else next(others) for place in range(num_axes)]


@rule(
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "contiguous", "clone", "detach",
    "to", "_to_copy", "alias", "lift_fresh_copy", "lift_fresh", "type_as", "float", "identity", "nan_to_num",
)  # fmt: skip
def _same(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Nothing happens to the units in evaluation."""
    source = source_of(args)
    if source is None:
        source = args["a"]
    value = walk.value(source)
    return walk.follow(node, value, value.axes)


_POOLS = [
    f"{kind}{num}d" for kind in ("max_pool", "avg_pool", "lp_pool", "adaptive_avg_pool", "adaptive_max_pool") for num in (1, 2, 3)
]
_RESAMPLED = {"upsample_nearest1d": 1, "upsample_linear1d": 1} | dict.fromkeys(
    ["upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d", "grid_sampler"], 2
)


@rule(*_POOLS, *_RESAMPLED, "upsample_nearest3d", "upsample_trilinear3d", "max_pool2d_with_indices", "_adaptive_avg_pool2d")
def _pool(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Pooling and resampling change the last axes, which are positions."""
    name = operation_name(node)
    digits = [int(letter) for letter in name if letter.isdigit()]
    num_axes = len(walk.value(source_of(args)).axes)
    return _over_positions(walk, node, args, range(num_axes - (digits[0] if digits else 2), num_axes))


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Padding changes the axes that get entries, last axis first."""
    num_axes = len(walk.value(source_of(args)).axes)
    amounts = args["pad"] if "pad" in args else args["padding"]
    return _over_positions(walk, node, args, {num_axes - 1 - place // 2 for place, amount in enumerate(amounts) if amount})


@rule("roll", "flip", "cumsum", "cumprod", "cummax", "logcumsumexp")
def _shift(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Shifts and running sums, along positions."""
    num_axes = len(walk.value(source_of(args)).axes)
    dims = args.get("dims", args.get("dim"))
    touched = [dims] if isinstance(dims, int) else dims or range(num_axes)
    return _over_positions(walk, node, args, {int(dim) % num_axes for dim in touched})


@rule("unfold", "im2col")
def _unfold(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Windows of positions: their places come last, or beside the channels."""
    value, shape = walk.as_units(node, source_of(args)), shape_of(node)
    walk.default_units(value)
    if operation_name(node) == "im2col":
        value = walk.as_positions(node, value, range(len(value.axes) - 2, len(value.axes)))
        channels = value.axes[-3]
        cells = positions([shape[-2] // ax.size_of(channels)])[0]
        return walk.follow(node, value, (*value.axes[:-3], (*channels, *cells), positions(shape[-1:])[0]))
    dim = int(args["dimension"]) % len(value.axes)
    value = walk.as_positions(node, value, [dim])
    axes = tuple(positions([shape[dim]])[0] if axis == dim else expr for axis, expr in enumerate(value.axes))
    return walk.follow(node, value, (*axes, positions(shape[-1:])[0]))


@rule(*(f"fft_{inverse}{kind}fft{num}" for inverse in ("", "i") for kind in ("", "r", "h") for num in ("", "2", "n")))
def _fourier(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Fourier transforms mix the entries of their axes."""
    num_axes = len(walk.value(source_of(args)).axes)
    dims = args.get("dim")
    name = operation_name(node)
    default = [-1] if name.endswith("fft") else [-2, -1] if name.endswith("2") else range(num_axes)
    touched = [dims] if isinstance(dims, int) else dims or default
    return _over_positions(walk, node, args, {int(dim) % num_axes for dim in touched})


@rule("view_as_complex", "view_as_real")
def _complex(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Real and imaginary parts keep their places beside the units that they are parts of."""
    value = walk.as_units(node, source_of(args))
    walk.pool(node, "mixed")
    if operation_name(node) == "view_as_complex":
        ax.pin(ax.units_in(value.axes[-1]))
        return walk.follow(node, replace(value, hidden=(*value.hidden, *value.axes[-1])), value.axes[:-1])
    parts = value.hidden[-1:] if value.hidden and value.hidden[-1].size == 2 else positions([2])[0]
    kept = value.hidden[:-1] if parts == value.hidden[-1:] else value.hidden
    return walk.follow(node, replace(value, hidden=kept), (*value.axes, parts))


@rule("broadcast_tensors")
def _broadcast(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """All tensors in one shape."""
    results = []
    for source, found in zip(args["tensors"], node.meta["val"], strict=True):
        value = walk.as_units(node, source)
        full = (*(ax.blank() for _ in range(found.dim() - len(value.axes))), *value.axes)
        axes = (
            expr if ax.size_of(expr) == size else (Factor(Index(size)),) for expr, size in zip(full, found.shape, strict=True)
        )
        results.append(walk.follow(node, value, tuple(axes)))
    return results


@rule("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Channels become finer positions, or positions channels: those channels keep their places beside the others."""
    value, shape = walk.as_units(node, source_of(args)), shape_of(node)
    walk.default_units(value)
    factor = int(args.get("upscale_factor", args.get("downscale_factor", 1)))
    num = len(value.axes) - 3
    if operation_name(node) == "pixel_shuffle":
        axes = ax.reshaped(value.axes[: num + 1], (*map(ax.size_of, value.axes[:num]), shape[num], factor, factor))
        if axes is None:
            return walk.follow(node, walk.as_positions(node, value, [num]), positions(shape))
        value = walk.as_positions(node, replace(value, axes=(*axes, *value.axes[num + 1 :])), [num + 1, num + 2])
        return walk.follow(node, value, (*value.axes[: num + 1], *positions(shape[num + 1 :])))
    cells = (*positions([factor])[0], *positions([factor])[0])
    return walk.follow(node, value, (*value.axes[:num], (*value.axes[num], *cells), *positions(shape[num + 1 :])))


def _over_positions(walk: Walk, node: fx.Node, args: Arguments, changed: Iterable[int]) -> Result:
    """The result of an operation that mixes the entries of some axes: positions, or units that then keep their places."""
    value = walk.as_units(node, source_of(args))
    found = node.meta["val"]
    shape = tuple(int(size) for size in (found[0] if isinstance(found, tuple | list) else found).shape)
    walk.default_units(value)
    changed = set(changed)
    text = f"{operation_name(node)}(units)" if any(ax.units_in(value.axes[axis]) for axis in changed) else ""
    value = walk.as_positions(node, value, changed)
    axes = tuple(positions([shape[axis]])[0] if axis in changed else value.axes[axis] for axis in range(len(shape)))
    result = walk.follow(node, value, axes, text=text)
    return [result, Value(axes)] if isinstance(found, tuple | list) else result


@rule("expand", "repeat", "repeat_interleave", "tile", "expand_as", "broadcast_to")
def _expand(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Copies of the same units; what a new axis runs over is left open."""
    value, shape = walk.as_units(node, source_of(args)), shape_of(node)
    missing = len(shape) - len(value.axes)
    old = (*positions([1] * missing), *value.axes)
    axes = []
    for expr, size in zip(old, shape, strict=True):
        own = ax.size_of(expr)
        if own == size:
            axes.append(expr)
        elif own == 1:
            axes.append((*(f for f in expr if f.draft is not None), Factor(Index(size))))
        elif ax.units_in(expr):
            copies = Factor(Index(size // own))
            axes.append((*expr, copies) if operation_name(node) == "repeat_interleave" else (copies, *expr))
        else:
            axes.append(positions([size])[0])
    return walk.follow(node, value, tuple(axes))


@rule("slice", "narrow", "select")
def _slice(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Part of an axis: of positions, or of units, which are then cut."""
    found = walk.values[source_of(args)]
    if isinstance(found, Value) and found.entries and operation_name(node) == "select" and int(args["dim"]) == 0:
        return found.entries[int(args["index"])]
    value = walk.value(source_of(args))
    dim = int(args["dim"]) % len(value.axes)
    size = ax.size_of(value.axes[dim])
    if operation_name(node) == "select":
        start = int(args["index"]) % size
        stop = start + 1
    elif operation_name(node) == "narrow":
        start, stop = int(args["start"]), int(args["start"]) + int(args["length"])
    else:
        if int(args["step"]) != 1:
            value = walk.as_positions(node, value, [dim])
        start, stop = (_place(args[end], size, default) for end, default in (("start", 0), ("end", size)))
    result = _taken(walk, node, value, dim, start, stop)
    if operation_name(node) != "select":
        if int(args.get("step") or 1) != 1:
            return replace(
                result,
                axes=tuple(
                    positions([s])[0] if a == dim else e for a, (e, s) in enumerate(zip(result.axes, shape_of(node), strict=True))
                ),
            )
        return result
    dropped = _kept_hidden(result, dim)
    axes = tuple(expr for axis, expr in enumerate(result.axes) if axis != dim)
    return replace(result, axes=axes, hidden=(*result.hidden, *dropped))


def _kept_hidden(value: Value, dim: int) -> ax.Expr:
    """What an axis that goes ran over, and that must not be forgotten: units, or entries of a parameter."""
    return tuple(
        f
        for f in ax.flat(value.axes[dim])
        if f.draft is not None or (value.parameter is not None and not isinstance(f, ax.Blank))
    )


def _place(end: object, size: int, default: int) -> int:
    place = default if end is None else int(end)  # type: ignore[call-overload]
    return min(max(place + size if place < 0 else place, 0), size)


def _taken(walk: Walk, node: fx.Node, value: Value, dim: int, start: int, stop: int) -> Value:
    expr = value.axes[dim]
    whole = [factor for factor in ax.flat(expr) if factor.size > 1]
    if len(whole) == 1 and stop - start == 1 < whole[0].size:
        mapping = ax.chosen(whole[0], start)
        if mapping is not None:
            axes = tuple(
                ax.blank() if axis == dim else tuple(mapping.get(id(f), f) for f in old) for axis, old in enumerate(value.axes)
            )
            return walk.follow(node, value, axes)
    if not ax.units_in(expr) and value.parameter is None and not walk.is_open(expr):
        piece = (
            positions([stop - start])[0] if value.texts or value.varies(len(value.axes) - dim) else (Factor(Index(stop - start)),)
        )
    else:
        piece = ax.take(expr, start, stop)
        if piece is None:
            value = walk.as_positions(node, value, [dim])
            piece = positions([stop - start])[0]
    return walk.follow(node, value, tuple(piece if axis == dim else old for axis, old in enumerate(value.axes)))


@rule("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split", "unsafe_chunk")
def _split(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Several parts of an axis."""
    found = walk.values[source_of(args)]
    if isinstance(found, Value) and found.entries and operation_name(node) == "unbind" and not args.get("dim"):
        return list(found.entries)
    value = walk.value(source_of(args))
    dim = int(args.get("dim") or 0) % len(value.axes)
    results, start = [], 0
    for part in node.meta["val"]:
        size = 1 if operation_name(node) == "unbind" else int(part.shape[dim])
        taken = _taken(walk, node, value, dim, start, start + size)
        if operation_name(node) == "unbind":
            dropped = _kept_hidden(taken, dim)
            axes = tuple(expr for axis, expr in enumerate(taken.axes) if axis != dim)
            taken = replace(taken, axes=axes, hidden=(*taken.hidden, *dropped))
        results.append(taken)
        start += size
    return results


@rule("getitem")
def _getitem(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """One of several results."""
    found = walk.values[args["self"]]
    assert isinstance(found, list)
    return found[args["index"]]


@rule("cat", "stack", "concat", "concatenate")
def _cat(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Units side by side keep their groups; positions side by side make the units of all parts agree."""
    parts = [walk.as_units(node, argument) for argument in args["tensors"]]
    dim = int(args.get("dim") or 0) % len(shape_of(node))
    for part in parts if dim and operation_name(node) != "stack" else ():
        # An input that is first read here has its features on this axis.
        walk.units_on(part, dim)
    if operation_name(node) == "stack":
        parts = [replace(part, axes=(*part.axes[:dim], ax.blank(), *part.axes[dim:])) for part in parts]
    parts = [part for part in parts if math.prod(ax.size_of(expr) for expr in part.axes)]
    if len(parts) == 1:
        return walk.follow(node, parts[0], parts[0].axes)
    if any(ax.units_in(part.axes[dim]) for part in parts):
        parts, texts = walk.side_by_side(node, parts, dim)
        for axis in range(len(parts[0].axes)):
            for other in parts[1:] if axis != dim else ():
                ax.unify(parts[0].axes[axis], other.axes[axis])
        joined = ax.join([ax.as_factor(part.axes[dim]) for part in parts])
        axes = tuple((joined,) if axis == dim else expr for axis, expr in enumerate(parts[0].axes))
        beside = {
            tuple(f.key for k, expr in enumerate(part.axes) if k != dim for f in part.own(expr) if f.size > 1) for part in parts
        }
        if len(beside) > 1:
            # Units of different groups, each with heads of its own that agree.
            return walk.combine(node, parts, axes, operation="join", dim=dim)
        return Value(axes, texts, tuple(f for part in parts for f in part.hidden))
    carriers = [part for part in parts if part.texts]
    merged = (
        carriers[0] if len({tuple(map(id, part.units())) for part in carriers}) == 1 and len(carriers) == len(parts) else None
    )
    axes = [
        positions([shape_of(node)[axis]])[0] if axis == dim else carriers[0].axes[axis] for axis in range(len(shape_of(node)))
    ]
    if merged is not None and all(part.texts == merged.texts for part in parts):
        return replace(merged, axes=tuple(axes), chain=())
    return walk.combine(node, carriers, tuple(axes), operation="join", dim=dim)
