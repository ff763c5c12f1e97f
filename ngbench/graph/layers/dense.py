"""Layers with a weight between all units of two groups: linear, convolution, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Expr, Factor, Index, positions
from ngbench.graph.draft import BlockDraft, GroupDraft, Shown, Value
from ngbench.graph.layers.rule import Arguments, Result, layer_name, parameter_path, rule, shape_of, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("linear")
def _linear(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A dense block; after a flatten, the positions beside the units become the kernel."""
    return add_linear(walk, node, args["input"], args["weight"], bias=args["bias"], rows=True)


@rule("addmm")
def _addmm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A linear layer whose weight stands the other way round."""
    return add_linear(walk, node, args["mat1"], args["mat2"], bias=args["self"], rows=False)


def add_linear(walk: Walk, node: fx.Node, source: fx.Node, weight: fx.Node, *, bias: Any, rows: bool) -> Value:
    """Adds the block of a weight ``[targets, sources]``, or ``[sources, targets]`` where its rows are not the targets."""
    value = walk.as_units(node, source)
    letters = [f"v{axis}" for axis in range(len(value.axes) - 1)]
    targets, sources = ("w", "s") if rows else ("s", "w")
    return add_weight(
        walk, node, value, weight, bias=bias, of_value=[*letters, "s"], of_weight=[targets, sources], result=[*letters, "w"]
    )


def add_weight(
    walk: Walk, node: fx.Node, value: Value, weight: Any, *, bias: Any = None,
    of_value: Sequence[str], of_weight: Sequence[str], result: Sequence[str], operation: str = "linear",
) -> Value:  # fmt: skip
    """Adds the block of a weight that multiplies a value, axes paired by their letters as in `torch.einsum`.

    A letter of the weight alone runs over new units; one of both that the result lacks is summed over; one of both that
    the result keeps is shared by the ends of an edge.
    """
    path = parameter_path(walk, node, weight, "weight")
    sizes = dict(zip(of_value, map(ax.size_of, value.axes), strict=True))
    pairs_of_axes = zip(of_weight, map(ax.size_of, walk.value(weight).axes), strict=True)
    # An axis of one entry that meets a longer one is broadcast.
    of_weight = ["" if size == 1 < sizes.get(letter, 1) else letter for letter, size in pairs_of_axes]
    if any(letter and letter not in of_value and letter not in result for letter in of_weight):
        raise unsupported(node, f"{path!r} is summed over by itself", "a weight whose axes meet the input or stay in the result")
    kept = [of_value.index(letter) for letter in of_weight if letter in of_value and letter in result]
    # Units and positions on one axis that the weight tells apart: all keep their places.
    value = walk.as_positions(node, value, [axis for axis in kept if any(f.draft is None for f in ax.flat(value.axes[axis]))])
    summed = [of_value.index(letter) for letter in of_weight if letter in of_value and letter not in result]
    for axis in summed or kept:
        walk.units_on(value, axis)
    # Edges leave what is summed over, and units that both ends share; copies and positions have targets of their own instead.
    read = [axis for axis in (*summed, *kept) if axis in summed or not summed or ax.units_in(value.axes[axis])]
    name = walk.layer_name(node, path, operation)
    value = walk.folded(node, value, read, name=name)
    sources = dict(zip(of_value, value.axes, strict=True))
    target = walk.add_group(node, name)
    shared: list[tuple[Factor, Factor]] = []
    targets: dict[str, Expr] = {}
    for letter in result:
        if letter in of_weight and letter in of_value and of_value.index(letter) in read:
            pairs = [(factor, factor.mirrored(target)) for factor in ax.flat(sources[letter])]
            shared += pairs
            targets[letter] = tuple(own for _, own in pairs)
        elif letter in of_weight:
            targets[letter] = walk.new_units(weight, of_weight.index(letter), target)
            if letter in sources:
                # Each copy, or position, has a weight of its own.
                ax.unify(targets[letter], sources[letter])
    target.units = tuple(factor for expr in targets.values() for factor in expr) or (Factor(Index(1), target),)
    add_bias(walk, node, target, bias)
    add_scale(walk, node, target, weight, [targets.get(letter, ()) for letter in of_weight])
    edges = tuple(
        factor for letter in of_weight if letter in sources and of_value.index(letter) in read for factor in sources[letter]
    )
    shown = walk.shown(node, weight, [targets.get(letter, sources.get(letter, ())) for letter in of_weight])
    walk.add_block(BlockDraft(target.name, operation, target, (*edges, *value.hidden), value.texts, tuple(shared), shown))
    return walk.made(node, target, tuple(targets[letter] if letter in targets else sources[letter] for letter in result))


def add_scale(walk: Walk, node: fx.Node, target: GroupDraft, weight: Any, units: Sequence[Expr]) -> None:
    """The length of each unit's weights, where it is a parameter of its own."""
    scale = walk.value(weight).scale
    if scale is not None:
        target.features.append((scale[0], walk.shown(node, scale[1], units, role=scale[0])))


def add_bias(walk: Walk, node: fx.Node, target: GroupDraft, bias: Any) -> None:
    """A bias over all units of a group, if there is one."""
    if bias is not None:
        target.features.append(("bias", walk.shown(node, bias, [target.units], role="bias")))


@rule("conv1d", "conv2d", "conv3d")
def _conv(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Channels are the nodes; the kernel is the feature of an edge."""
    return _add_conv(walk, node, args, transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A convolution whose weight has the sources first."""
    return _add_conv(walk, node, args, transposed=True)


def _add_conv(walk: Walk, node: fx.Node, args: Arguments, *, transposed: bool) -> Value:
    value = walk.as_units(node, args["input"])
    kernel = tuple(int(size) for size in args["weight"].meta["val"].shape[2:])
    axis = len(value.axes) - len(kernel) - 1
    walk.units_on(value, axis)
    path = parameter_path(walk, node, args["weight"], "weight")
    value = walk.as_positions(node, value, range(axis + 1, len(value.axes)))
    value = walk.folded(node, value, [axis], name=layer_name(path, "conv"))
    units = value.axes[axis]
    num_groups, num_targets = int(args["groups"]), shape_of(node)[axis]
    shared: Expr = ()
    inner: Expr = units
    if num_groups > 1:
        divided = ax.reshaped((units,), (num_groups, ax.size_of(units) // num_groups))
        if divided is None:
            value = walk.folded(node, walk.as_positions(node, value, [axis]), [axis], name=layer_name(path, "conv"))
            units = value.axes[axis]
            divided = ax.reshaped((units,), (num_groups, ax.size_of(units) // num_groups)) or ((), units)
        shared, inner = divided
    if transposed and walk.value(args["weight"]).scale is not None:
        raise unsupported(node, "weight normalisation of a transposed convolution is not supported", "plain weights there")
    target = walk.add_group(node, layer_name(path, "conv"))
    mirrored = tuple(factor.mirrored(target) for factor in ax.flat(shared))
    weight, per_group = args["weight"], num_targets // num_groups
    if num_groups == 1:
        own = walk.new_units(weight, 1 if transposed else 0, target)
    else:
        own = (Factor(Index(per_group), target),) if per_group > 1 else ()
    target.units = (*mirrored, *own)
    add_bias(walk, node, target, args["bias"])
    add_scale(walk, node, target, weight, [target.units])
    # The weight of a transposed convolution is [sources, targets of one group, kernel]: the groups stand with the sources.
    sides = ((*mirrored, *inner), own) if transposed else (target.units, inner)
    operation = "conv_transpose" if transposed else "conv"
    pairs = tuple(zip(ax.flat(shared), mirrored, strict=True))
    shown = walk.shown(node, weight, sides)
    walk.add_block(BlockDraft(target.name, operation, target, (*units, *value.hidden), value.texts, pairs, shown, kernel))
    return walk.made(node, target, (*value.axes[:axis], target.units, *positions(shape_of(node)[axis + 1 :])))


@rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Weight normalisation: the direction is the weight, the length a number on each target."""
    direction, length = walk.value(args["v"]), args["g"]
    if int(args.get("dim") or 0) != 0 or direction.parameter is None or walk.value(length).parameter is None:
        raise unsupported(node, f"weight normalisation along axis {args.get('dim')} is not supported", "dim=0 of two parameters")
    made = replace(direction, scale=("weight_norm", length))
    return [made, made] if isinstance(node.meta["val"], tuple | list) else made


@rule("bilinear")
def _bilinear(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Products of every two units, one of each input, and a linear layer that reads them."""
    first, second = (walk.as_units(node, args[name]) for name in ("input1", "input2"))
    num = len(first.axes) - 1
    for value in (first, second):
        walk.units_on(value, num)
    batch = tuple(expr if ax.units_in(expr) else other for expr, other in zip(first.axes[:-1], second.axes[:-1], strict=True))
    both = walk.combine(node, [first, second], (*batch, first.axes[-1], second.axes[-1]), operation="product")
    letters = [f"v{axis}" for axis in range(num)]
    of_value, result = [*letters, "first", "second"], [*letters, "w"]
    return add_weight(
        walk, node, both, args["weight"], bias=args["bias"], of_value=of_value, of_weight=["w", "first", "second"], result=result
    )


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """An embedding whose rows are summed over positions."""
    found = _add_embedding(walk, node, args["weight"])
    return [walk.made(node, found, (positions(shape_of_first(node))[0], found.units)), *(Value(()) for _ in node.meta["val"][1:])]


def shape_of_first(node: fx.Node) -> tuple[int, ...]:
    """Shape of an operation's first result."""
    return tuple(int(size) for size in node.meta["val"][0].shape)


@rule("embedding")
def _embedding(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A dense block from one input node for each entry of the table."""
    target = _add_embedding(walk, node, args["weight"])
    return walk.made(node, target, (*positions(shape_of(args["indices"])), target.units))


def _add_embedding(walk: Walk, node: fx.Node, table: fx.Node) -> GroupDraft:
    name = walk.layer_name(node, parameter_path(walk, node, table, "table"), "embedding")
    source = walk.add_group(node, f"{name}.entries", role="input")
    source.units = walk.new_units(table, 0, source)
    target = walk.add_group(node, name)
    target.units = walk.new_units(table, 1, target)
    shown = walk.shown(node, table, [source.units, target.units])
    walk.add_block(BlockDraft(name, "embedding", target, source.units, {source: ""}, weight=shown))
    return target


def add_table(walk: Walk, node: fx.Node, value: Value, axis: int | None) -> Value:
    """A parameter that is added or joined as a tensor: a block from one input node for each of its positions.

    Args:
        walk: The walk.
        node: The operation that reads it.
        value: The parameter, perhaps a part of it; all its positions become nodes, also those that are not read here.
        axis: Which of its axes runs over units; None for all.
    """
    path = value.parameter or ""
    source, target = walk.add_group(node, f"{path}.positions", role="input"), walk.add_group(node, path)
    over = value.axes if axis is None else value.axes[axis : axis + 1]
    units = {id(leaf) for expr in over for leaf in ax.leaves(expr)}
    counterpart: dict[int, Factor] = {}
    links: list[tuple[Expr, Expr]] = []
    for expr in walk.stored(path).axes:
        is_target = any(id(leaf) in units for leaf in ax.leaves(expr))
        if is_target and not {id(leaf) for leaf in ax.leaves(expr)} <= units:
            # What is not read here may be read with another input, and in its place.
            ax.pin(expr)
        group = target if is_target else source
        own = tuple(factor.mirrored(group) for factor in expr)
        group.units += own
        links.append((expr, own))
        for factor, mirror in zip(expr, own, strict=True) if is_target else ():
            counterpart |= ax.counterparts(factor, mirror)
    for group in (source, target):
        group.units = group.units or (Factor(Index(1), group),)
    shown = Shown(path, walk.stored(path).axes, tuple(links))
    walk.add_block(BlockDraft(path, "positional", target, source.units, {source: ""}, weight=shown))
    axes = tuple(
        tuple(counterpart[id(f)] for f in ax.flat(expr))
        if all(id(f) in counterpart for f in ax.flat(expr))
        else positions([ax.size_of(expr)])[0]
        for expr in value.axes
    )
    return walk.made(node, target, axes)
