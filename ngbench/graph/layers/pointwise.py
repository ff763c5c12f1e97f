"""Element-wise operations: activations of one group, sums and products of several, scales and shifts by parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Axes, positions
from ngbench.graph.draft import BlockDraft, GroupDraft, Shown, Value
from ngbench.graph.layers.rule import (
    Arguments,
    Result,
    arguments,
    layer_name,
    operation_name,
    parameter_path,
    rule,
    shape_of,
    source_of,
    unsupported,
)

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk

UNARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ["relu", "silu", "tanh", "sigmoid", "sin", "cos", "exp", "log", "abs", "neg", "square", "sqrt", "rsqrt", "reciprocal"], ()
    ),
    **dict.fromkeys(
        ["selu", "mish", "hardswish", "hardsigmoid", "relu6", "erf", "log_sigmoid", "logsigmoid", "sign", "log1p", "expm1"], ()
    ),
    **dict.fromkeys(
        ["softsign", "tanhshrink", "round", "floor", "ceil", "tan", "atan", "sinh", "cosh", "asinh", "erfc", "sinc"], ()
    ),
    **dict.fromkeys(["real", "imag", "conj", "angle", "logical_not", "isnan"], ()),
    "gelu": ("approximate",),
    "leaky_relu": ("negative_slope",),
    "rrelu": ("lower", "upper"),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "softplus": ("beta",),
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
    "hardshrink": ("lambd",),
    "softshrink": ("lambd",),
    "threshold": ("threshold", "value"),
    "pow": ("exponent",),
    "rsub": ("other",),
    "remainder": ("other",),
    **dict.fromkeys(["gt", "lt", "ge", "le"], ("other",)),
}
"""Functions of one tensor, and the arguments that belong to their name."""

BINARY = ("add", "sub", "mul", "div", "true_divide", "maximum", "minimum", "rsub", "pow", "gt", "lt", "ge", "le")

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "true_divide": "/", "maximum": " max ", "minimum": " min ", "pow": "^"}

_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1, "true_divide": 1}
"""Numbers that leave a tensor as it is, such as the zero that Python's sum starts with."""

_CANONICAL = {"gelu(none)": "gelu", "elu(1)": "elu", "celu(1)": "celu", "softplus(1)": "softplus", "hardtanh(0,6)": "relu6"}


@rule(*UNARY)
def _unary(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A function of each entry."""
    name = operation_name(node)
    if name in BINARY and isinstance(args.get("other", args.get("exponent")), fx.Node):
        return _binary(walk, node, args)
    source = source_of(args)
    constants = [args[key] for key in UNARY[name]]
    if not isinstance(source, fx.Node) or any(isinstance(constant, fx.Node) for constant in constants):
        raise unsupported(node, f"{name!r} with a computed argument is not supported", "a number")
    text = name + (f"({','.join(map(_number, constants))})" if constants else "")
    value = walk.as_units(node, source, whole=True)
    return walk.follow(node, value, _grown(value.axes, shape_of(node)), text=_CANONICAL.get(text, text))


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin")
def _softmax(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Normalised over units, which may all move, or over positions."""
    value = walk.as_units(node, source_of(args))
    walk.default_units(value)
    axis = int(args["dim"]) % len(value.axes)
    where = "" if ax.units_in(value.axes[axis]) else "(positions)"
    return walk.follow(node, value, value.axes, text=operation_name(node).removeprefix("_") + where)


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "max",
    "min",
    "argmax",
    "argmin",
    "topk",
    "sort",
    "argsort",
    "prod",
)
def _reduce(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Over positions: pooling. Over all units: a statistic of their group, in which each unit counts alike."""
    name = operation_name(node)
    if isinstance(args.get("other"), fx.Node):
        return _binary(walk, node, args)
    value = walk.as_units(node, source_of(args))
    walk.default_units(value)
    num_axes = len(value.axes)
    dims = args.get("dim")
    reduced = {int(dim) % num_axes for dim in ([dims] if isinstance(dims, int) else dims or range(num_axes))}
    found = node.meta["val"]
    shape = tuple(int(size) for size in (found[0] if isinstance(found, tuple | list) else found).shape)
    if name in ("topk", "sort", "argsort", "argmax", "argmin"):
        return _ranked(node, value, reduced, shape)
    keep = len(shape) == num_axes and num_axes > 0
    dropped = [factor for axis in reduced for factor in ax.units_in(value.axes[axis])]
    left = [f for axis, expr in enumerate(value.axes) if axis not in reduced for f in ax.units_in(expr) if f.size > 1]
    axes: list[ax.Expr] = [ax.blank() if axis in reduced else expr for axis, expr in enumerate(value.axes)]
    kept = tuple(expr for axis, expr in enumerate(axes) if keep or axis not in reduced)
    over_units = any(factor.size > 1 for factor in dropped)
    routed = any(f.size > 1 for f in value.hidden) and any(ax.size_of(value.axes[axis]) > 1 for axis in reduced)
    if (over_units and left) or routed:
        # What several experts gave is summed over, and belongs to none of them any longer.
        result = walk.combine(node, [value], kept, operation=name)
    elif over_units:
        # The mean keeps its name, by which norms that are written out are known.
        result = walk.follow(node, Value(value.axes, value.texts), kept, text=name if name == "mean" else f"{name}(units)")
    else:
        result = walk.follow(node, value, kept)
    return [result, Value(kept, numbers=tuple(dropped))] if isinstance(found, tuple | list) else result


def _ranked(node: fx.Node, value: Value, reduced: set[int], shape: tuple[int, ...]) -> Result:
    """The best entries: where they are units, each new position stands for one of them."""
    units = tuple(factor for axis in reduced for factor in ax.units_in(value.axes[axis]))
    axes = tuple(
        positions([size])[0] if axis in reduced else expr
        for axis, (expr, size) in enumerate(zip(value.axes, shape, strict=False))
    )
    if operation_name(node) in ("argmax", "argmin", "argsort"):
        return Value(positions(shape), numbers=units)
    return [Value(axes, value.texts, (*value.hidden, *units)), Value(positions(shape), numbers=units)]


@rule("add", "sub", "mul", "div", "true_divide", "maximum", "minimum", "__and__", "logical_and", "eq", "ne")
def _binary(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Of a tensor and a number, a constant, a parameter, or another tensor."""
    name = operation_name(node)
    first, second = source_of(args), args.get("other", args.get("exponent"))
    if not isinstance(second, fx.Node) or not isinstance(first, fx.Node):
        tensor, number = (first, second) if isinstance(first, fx.Node) else (second, first)
        name = name if tensor is first or name in ("add", "mul", "maximum", "minimum") else f"r{name}"
        number = number if args.get("alpha", 1) == 1 else number * args["alpha"]
        value = walk.as_units(node, tensor, whole=True)
        if _NEUTRAL.get(name) == number and not _rounding(args):
            return walk.follow(node, value, value.axes)
        text = f"{name}({_number(number)}{_rounding(args)})"
        return walk.follow(node, value, value.axes, text=_CANONICAL.get(text, text))
    a, b = walk.value(first), walk.value(second)
    if a.is_constant or b.is_constant:
        return meet(walk, node, [walk.as_units(node, first), walk.as_units(node, second)], operation=name)
    if (a.parameter is None) != (b.parameter is None):
        return _with_parameter(walk, node, b if a.parameter else a, first if a.parameter else second)
    a, b = walk.as_units(node, first), walk.as_units(node, second)
    return _together(walk, node, a, b)


def _grown(axes: Axes, shape: tuple[int, ...]) -> Axes:
    full = (*positions([1] * (len(shape) - len(axes))), *axes)
    return tuple(expr if ax.size_of(expr) == size else positions([size])[0] for expr, size in zip(full, shape, strict=True))


@rule("prelu")
def _prelu(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A slope for each channel, or one for all: a number on the nodes behind a diagonal."""
    value, slope = walk.as_units(node, args["self"]), args["weight"]
    axis = 1 if len(value.axes) > 1 else 0
    walk.units_on(value, axis)
    if walk.value(slope).parameter is None:
        return meet(walk, node, [value, walk.value(slope)], operation="prelu")
    if ax.size_of(walk.value(slope).axes[0]) == 1:
        return _with_number(walk, node, value, slope)
    name = layer_name(parameter_path(walk, node, slope, "slope"), "prelu")
    value = walk.folded(node, value, [axis], name=name)
    target, axes, _ = walk.mirror(node, value, [axis], name=name)
    target.features.append(("slope", walk.shown(node, slope, [axes[axis]])))
    walk.add_identity(target, value, "prelu")
    return walk.made(node, target, axes)


@rule("glu")
def _glu(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """The first half of an axis times the sigmoid of the second."""
    value = walk.as_units(node, args["self"])
    walk.default_units(value)
    axis = int(args["dim"]) % len(value.axes)
    size = ax.size_of(value.axes[axis])
    halves = [ax.take(value.axes[axis], start, start + size // 2) for start in (0, size // 2)]
    if not ax.units_in(value.axes[axis]) or None in halves:
        value = walk.as_positions(node, value, [axis])
        halves = [positions([size // 2])[0]] * 2
    parts = [
        replace(value, axes=tuple(half if k == axis else e for k, e in enumerate(value.axes)))
        for half in halves
        if half is not None
    ]
    gate = walk.follow(node, parts[1], parts[1].axes, text="sigmoid")
    return meet(walk, node, [parts[0], gate], operation="mul")


def _with_parameter(walk: Walk, node: fx.Node, value: Value, argument: fx.Node) -> Result:
    """A scale is a diagonal block; a shift is a bias, or a table that is added where it has positions."""
    parameter = walk.value(argument)
    walk.default_units(value)
    full = (*positions([1] * (len(value.axes) - len(parameter.axes))), *parameter.axes)
    wide = [axis for axis, expr in enumerate(full) if ax.size_of(expr) > 1]
    if len(full) > len(value.axes):
        return _together(walk, node, value, walk.table(node, parameter))
    if not wide:
        return _with_number(walk, node, value, argument)
    bearing = all(ax.units_in(value.axes[axis]) and ax.size_of(value.axes[axis]) == ax.size_of(full[axis]) for axis in wide)
    if bearing and not value.hidden and operation_name(node) in ("add", "sub", "mul", "div", "true_divide"):
        return _with_entries(walk, node, value, argument, wide)
    return _together(walk, node, value, walk.table(node, parameter, like=value))


def _with_number(walk: Walk, node: fx.Node, value: Value, argument: fx.Node) -> Result:
    """One learned number for all units."""
    path = walk.value(argument).parameter or ""
    read = [axis for axis, expr in enumerate(value.axes) if value.own(expr)]
    target, axes, _ = walk.mirror(node, value, read, name=layer_name(path, path))
    target.units = target.units or (ax.Factor(ax.Index(1), target),)
    target.features.append((path.rpartition(".")[2], walk.shown(node, argument, [])))
    walk.add_identity(target, value, operation_name(node))
    return walk.made(node, target, _grown(axes, shape_of(node)))


def _with_entries(walk: Walk, node: fx.Node, value: Value, argument: fx.Node, wide: list[int]) -> Result:
    """A number for each unit: a bias of the group that was just made, else a group behind a diagonal."""
    name, path = operation_name(node), walk.value(argument).parameter or ""
    offset = len(value.axes) - len(walk.value(argument).axes)

    def shown(axes: Axes) -> Shown:
        return walk.shown(node, argument, [axes[axis] if axis in wide else () for axis in range(offset, len(axes))])

    if name == "add" and _is_fresh(value, tuple(value.axes[axis] for axis in wide)):
        draft = next(iter(value.texts))
        draft.features.append(("bias", shown(value.axes)))
        walk.sums[draft] = node
        return walk.follow(node, value, _grown(value.axes, shape_of(node)))
    value = walk.folded(node, value, wide, name=layer_name(path, path))
    target, axes, pairs = walk.mirror(node, value, wide, name=layer_name(path, path))
    if name in ("add", "sub"):
        target.features.append(("bias", shown(axes)))
        walk.add_identity(target, value, "shift" if name == "add" else name)
    else:
        operation = "scale" if name == "mul" else name
        walk.add_block(BlockDraft(target.name, operation, target, tuple(a for a, _ in pairs), value.texts, pairs, shown(axes)))
    return walk.made(node, target, _grown(axes, shape_of(node)))


def _is_fresh(value: Value, exprs: Axes) -> bool:
    """Whether a value is a group's sum before its activation, read here only, its bias still open, its units on these axes."""
    if len(value.texts) != 1 or not value.chain or any(len(step.users) != 1 for step in value.chain):
        return False
    draft, text = next(iter(value.texts.items()))
    same = [f for f in ax.flat(draft.units) if f.size > 1] == [f for expr in exprs for f in ax.flat(expr) if f.size > 1]
    return same and not text and draft.role == "hidden" and all(feature != "bias" for feature, _ in draft.features)


def _together(walk: Walk, node: fx.Node, a: Value, b: Value) -> Result:
    """A sum joins the group of a fresh branch, as in residual layers; anything else is a group of its own."""
    name, args = operation_name(node), arguments(node)
    if args.get("alpha", 1) != 1 or _rounding(args):
        raise unsupported(
            node, f"{name!r} of two tensors with alpha={args.get('alpha', 1)}{_rounding(args)}", "a plain sum or quotient"
        )
    return meet(walk, node, [a, b], operation=name)


def meet(walk: Walk, node: fx.Node, values: Sequence[Value], *, operation: str) -> Value:
    """An element-wise function of several tensors: units that meet are the same units from here on.

    Args:
        walk: The walk.
        node: The operation.
        values: Its tensors; constants fix the units along axes on which they change.
        operation: Its name.
    """
    shape = shape_of(node)
    carriers = [value for value in values if not value.is_constant]
    for value in carriers:
        walk.default_units(value)
    for constant in (value for value in values if value.is_constant):
        for value in carriers:
            for expr, other in zip(reversed(value.axes), reversed(constant.axes), strict=False):
                ax.pin_beside(expr, other)
    axes = _padded(carriers[0].axes, shape)
    hidden = carriers[0].hidden
    for number, value in enumerate(carriers[1:], start=1):
        met = zip(axes, _padded(value.axes, shape), strict=True)
        axes = tuple(meet_axes(first, second, (carriers[:number], [value])) for first, second in met)
        if hidden and value.hidden and ax.size_of(hidden) == ax.size_of(value.hidden):
            ax.unify(hidden, value.hidden)
        hidden = hidden or value.hidden
    axes = _grown(axes, shape)
    if len(carriers) == 1:
        return walk.follow(node, carriers[0], axes, text=f"{operation}(constant)")
    if all(set(value.texts) == set(carriers[0].texts) and _same_units(carriers[0], value) for value in carriers):
        if not all(_in_one_order(carriers[0], value) for value in carriers):
            walk.pool(node, "mixed")
        return walk.noted(node, Value(axes, _joined(carriers, operation), hidden))
    if operation in ("add", "sub") and not hidden:
        for branch, other in (carriers, carriers[::-1]):
            target = walk.joinable(branch, shape)
            if target is not None and not (branch is carriers[1] and operation == "sub") and walk.comes_from(target, other):
                walk.add_identity(target, other, "residual" if operation == "add" or other is carriers[0] else "negative")
                own = tuple(mine if ax.units_in(mine) else expr for mine, expr in zip(branch.axes, axes, strict=True))
                walk.sums[target] = node
                return walk.made(node, target, own, chain=branch.chain)
    return walk.combine(
        node, carriers, axes, operation={"add": "residual", "mul": "product"}.get(operation, operation), hidden=hidden
    )


def meet_axes(first: ax.Expr, second: ax.Expr, sides: tuple[Sequence[Value], Sequence[Value]]) -> ax.Expr:
    """An axis of a result in which an axis of each of two sides meet.

    Units that meet positions are fixed in their places. They go on as positions if the other side has units on other axes;
    else as units.
    """
    if ax.size_of(first) != ax.size_of(second):
        return first if ax.size_of(first) > ax.size_of(second) else second
    (units, _), (other, others) = ((first, sides[0]), (second, sides[1]))[:: 1 if ax.units_in(first) else -1]
    are_positions = not ax.units_in(other) and all(factor.index.fixed for factor in other)
    elsewhere = any(factor.size > 1 for value in others for expr in value.axes for factor in value.own(expr))
    ax.unify(first, second)
    return other if are_positions and elsewhere else units


def _joined(values: Sequence[Value], operation: str) -> dict[GroupDraft, str]:
    """The element-wise functions of values over the same units, put together."""
    sign = _SIGNS.get(operation)
    joined = {}
    for draft in values[0].texts:
        parts = [value.texts[draft] or "x" for value in values]
        joined[draft] = f"({sign.join(parts)})" if sign else f"{operation}({','.join(parts)})"
    return joined


def _same_units(a: Value, b: Value) -> bool:
    """Whether two values show the same units of the same groups on the same axes, or one of them a statistic of the other's."""
    first, second = ([frozenset(keys) for keys in _own_keys(value, max(len(a.axes), len(b.axes)))] for value in (a, b))
    hidden = [{atom.key for atom in ax.atoms(value.hidden)} for value in (a, b)]
    return (first == second and hidden[0] == hidden[1]) or not any(first) or not any(second)


def _in_one_order(a: Value, b: Value) -> bool:
    """Whether each unit meets itself, or a statistic of all, which has one entry on their axes."""
    num_axes = max(len(a.axes), len(b.axes))
    first, second = (_own_keys(value, num_axes) for value in (a, b))
    if any(first) and any(second):
        return first == second
    axes, units = (b.axes, first) if any(first) else (a.axes, second)
    full = (*positions([1] * (num_axes - len(axes))), *axes)
    return all(not keys or ax.size_of(expr) == 1 for keys, expr in zip(units, full, strict=True))


def _own_keys(value: Value, num_axes: int) -> list[tuple[int, ...]]:
    """For each axis the smallest parts of the value's own units on it."""
    axes = (*positions([1] * (num_axes - len(value.axes))), *value.axes)
    # The one unit of a group is like a statistic of it; one that was cut from several is not.
    return [tuple(atom.key for atom in ax.atoms(value.own(expr)) if atom.size > 1 or atom.parent is not None) for expr in axes]


def _padded(axes: Axes, shape: tuple[int, ...]) -> Axes:
    return (*positions([1] * (len(shape) - len(axes))), *axes)


def _rounding(args: Arguments) -> str:
    mode = args.get("rounding_mode")
    return f",{mode}" if mode else ""


def _number(constant: Any) -> str:
    return f"{constant:g}" if isinstance(constant, int | float) and not isinstance(constant, bool) else str(constant)
