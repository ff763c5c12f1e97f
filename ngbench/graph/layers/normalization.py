"""Batch, layer, group, instance and RMS normalisation: a diagonal block with the scale into a group whose bias is the shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.draft import BlockDraft, Value
from ngbench.graph.layers.pointwise import meet
from ngbench.graph.layers.rule import Arguments, Result, layer_name, operation_name, parameter_path, rule, source_of, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "instance_norm")
def _batch_norm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Each channel by itself; running mean and variance are node features."""
    return _results(node, _add_norm(walk, node, args, [1], running=("running_mean", "running_var")))


def _results(node: fx.Node, value: Value) -> Result:
    """The normalised tensor, before the statistics where an operation gives these too."""
    found = node.meta["val"]
    return [value, *(Value(()) for _ in found[1:])] if isinstance(found, tuple | list) else value


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Statistics over all units of the normalised axes."""
    num = len(args["normalized_shape"])
    num_axes = len(walk.value(source_of(args)).axes)
    return _results(node, _add_norm(walk, node, args, list(range(num_axes - num, num_axes)), running=()))


@rule("group_norm", "native_group_norm")
def _group_norm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Statistics over the units of one norm group: units move within their group, and groups as wholes."""
    value = walk.as_units(node, source_of(args))
    walk.units_on(value, 1)
    num_groups, size = int(args.get("num_groups", args.get("group", 1))), ax.size_of(value.axes[1])
    if 1 < num_groups < size:
        _sort_into_groups(walk, value.axes[1], size // num_groups)
    return _results(node, _add_norm(walk, node, args, [1], running=()))


def _sort_into_groups(walk: Walk, axis: ax.Expr, size: int) -> None:
    """Lets units move only within a norm group of some size, and whole groups; each part of a concatenation by itself."""
    whole = ax.flat(axis)
    parts = [(part,) for part in ax.summands(whole[0])] if len(whole) == 1 and whole[0].index.find().joins else [axis]
    start = 0
    for part in parts:
        stop = start + ax.size_of(part)
        aligned = start % size == 0 and stop % size == 0
        divided = ax.reshaped((part,), ((stop - start) // size, size)) if aligned and stop - start > size > 1 else None
        if divided is not None:
            walk.note(divided[0])
        elif start // size != (stop - 1) // size and size > 1:
            # It reaches across groups in a way that no cut follows.
            ax.pin(part)
        start = stop


def _add_norm(walk: Walk, node: fx.Node, args: Arguments, wide: list[int], *, running: tuple[str, ...]) -> Value:
    source = source_of(args)
    value = walk.as_units(node, source)
    walk.units_on(value, wide[-1])
    name = operation_name(node).strip("_").removesuffix("_legit_no_training").removeprefix("native_")
    weight, bias = args.get("weight"), args.get("bias")
    bearing = [axis for axis in wide if ax.units_in(value.axes[axis])]
    if not bearing:
        raise unsupported(node, f"{name!r} normalises positions only", "units on the normalised axes")
    walk.note(tuple(f for axis, expr in enumerate(value.axes) if axis not in wide for f in ax.units_in(expr)))
    others = [axis for axis in wide if axis not in bearing and ax.size_of(value.axes[axis]) > 1]
    # A scale and a shift of each position: a kernel on the edges, and a table that is added.
    features = {"bias": None if others else bias} | {key: args.get(key) for key in running}
    entries: dict[str, Any] = {key: entry for key, entry in features.items() if entry is not None}
    if weight is None and not entries:
        return walk.follow(node, value, value.axes, text=name)
    anchor = parameter_path(walk, node, weight if weight is not None else next(iter(entries.values())), "scale")
    value = walk.folded(node, value, bearing, name=layer_name(anchor, name))
    target, axes, pairs = walk.mirror(node, value, bearing, name=layer_name(anchor, name))
    exprs = [axes[axis] if axis in bearing else () for axis in wide]
    for key, entry in entries.items():
        target.features.append((key, walk.shown(node, entry, exprs, role=key)))
    shown = None if weight is None else walk.shown(node, weight, exprs, role="scale")
    source = (*(own for own, _ in pairs), *value.hidden)
    kernel = tuple(ax.size_of(value.axes[axis]) for axis in others) if shown else ()
    walk.add_block(BlockDraft(target.name, name, target, source, value.texts, pairs, shown, kernel))
    made = walk.made(node, target, axes)
    if others and bias is not None:
        return meet(walk, node, [made, walk.table(node, walk.value(bias), like=made)], operation="add")
    return made
