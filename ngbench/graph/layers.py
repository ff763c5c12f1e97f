"""One rule for each kind of layer: what groups and blocks an exported operation adds to the graph, and its result's axes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ngbench.errors import UnsupportedLayerError
from ngbench.graph.axes import Axes, Factor, fresh, refactor
from ngbench.graph.topology import EdgeBlock, NodeFeature, ParameterView

if TYPE_CHECKING:
    from ngbench.graph.trace import Walk

Arguments = Mapping[str, Any]
Rule = Callable[["Walk", fx.Node, Arguments], Axes]

_RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operations of torch's ``aten`` namespace, by name without overload."""

    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operations, function))
        return function

    return add


def supported() -> tuple[str, ...]:
    """Names of the operations that a neural graph can express; each also in its in-place form."""
    return tuple(sorted({*_RULES, *ELEMENTWISE}))


def apply(walk: Walk, node: fx.Node) -> Axes:
    """Axes of an operation's result, its groups and blocks added to the walk.

    Raises:
        UnsupportedLayerError: No rule for the operation, or the rule does not cover this use of it.
    """
    name = operation_name(node)
    function = _RULES.get(name) or (_elementwise if name in ELEMENTWISE else None)
    if function is None:
        raise unsupported(node, f"operation {name!r} is not supported", f"one of {', '.join(supported())}")
    if not node.users:
        raise unsupported(node, f"in-place {name!r} changes memory under another operation's result", "its own result to be read")
    args = arguments(node)
    if _source(args) not in walk.axes:
        raise unsupported(node, f"{name!r} of a parameter or constant is not supported", "an operation on a layer's result")
    return function(walk, node, args)


def operation_name(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``, ``relu`` also for ``aten.relu_``; of anything else the Python name."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::").removesuffix("_")
    return getattr(target, "__name__", str(target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operation by name, defaults filled in."""
    if node.target is operator.getitem:
        return {"self": node.args[0], "index": node.args[1]}
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def _source(args: Arguments) -> Any:
    return args.get("self", args.get("input"))


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that runs an operation; empty for the outermost."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def unsupported(node: fx.Node, problem: str, expected: str) -> UnsupportedLayerError:
    """The error of an operation that cannot be expressed, with the module's path."""
    path = module_path(node)
    where = f"module {path!r}" if path else "the outermost module"
    return UnsupportedLayerError(f"cannot trace {where}: {problem}; expected {expected}")


def _parameter(walk: Walk, node: fx.Node, argument: Any, role: str) -> str:
    if argument not in walk.parameter_paths:
        problem = f"the {role} of {operation_name(node)!r} is no entry of the state dict"
        raise unsupported(node, problem, "a parameter of the module")
    return walk.parameter_paths[argument]


def _add_layer(walk: Walk, node: fx.Node, args: Arguments, source: Factor, block: EdgeBlock, num_targets: int) -> Factor:
    """Adds a dense layer's target group, its bias and its block; gives the factor of the targets."""
    source_group = walk.units[source]
    weight_path = _parameter(walk, node, args["weight"], "weight")
    name = weight_path.rpartition(".")[0] or block.operation
    factor, draft = walk.add_group(node, name=name, size=num_targets, layer=source_group.layer + 1)
    if args["bias"] is not None:
        draft.features.append(NodeFeature("bias", ParameterView(_parameter(walk, node, args["bias"], "bias"))))
    walk.add_block(EdgeBlock(**{**vars(block), "name": name, "source": source_group.name, "target": draft.name}))
    return factor


@rule("linear")
def _linear(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """A dense block; after a flatten, the positions beside the units become the kernel."""
    axes = walk.axes[args["input"]]
    units = walk.units_of(axes[-1])
    if len(units) != 1:
        num_entries = math.prod(factor.size for factor in axes[-1])
        problem = f"a linear layer reads an axis of {num_entries} entries that runs over the units of {len(units)} groups"
        raise unsupported(node, problem, "the units of one group, alone or flattened with positions")
    num_targets = node.meta["val"].shape[-1]
    path = _parameter(walk, node, args["weight"], "weight")
    positions = [factor for factor in axes[-1] if factor is not units[0]]
    kernel = tuple(factor.size for factor in positions)
    view = ParameterView(path)
    place = axes[-1].index(units[0]) + 1
    if math.prod(factor.size for factor in axes[-1][: place - 1]) > 1:
        others = [axis for axis in range(1, len(axes[-1]) + 1) if axis != place]
        view = ParameterView(path, split=(num_targets, *(f.size for f in axes[-1])), order=(0, place, *others))
    block = EdgeBlock("", "", "", "dense", "linear", kernel if math.prod(kernel) > 1 else (), view)
    return (*axes[:-1], (_add_layer(walk, node, args, units[0], block, num_targets),))


@rule("conv1d", "conv2d")
def _conv(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """Channels are the nodes; the kernel is the feature of an edge."""
    if args["groups"] != 1:
        raise unsupported(node, f"a convolution of {args['groups']} groups is not supported", "groups=1")
    axes = walk.axes[args["input"]]
    kernel = tuple(args["weight"].meta["val"].shape[2:])
    channel_axis = len(axes) - len(kernel) - 1
    units = walk.sole_units(axes[channel_axis])
    if units is None:
        raise unsupported(
            node,
            f"axis {channel_axis} of a convolution's input is not the units of one group",
            "a batch axis, channels that are units, then positions",
        )
    shape = node.meta["val"].shape
    view = ParameterView(_parameter(walk, node, args["weight"], "weight"))
    factor = _add_layer(walk, node, args, units, EdgeBlock("", "", "", "dense", "conv", kernel, view), shape[channel_axis])
    return (*axes[:channel_axis], (factor,), *fresh(shape[channel_axis + 1 :]))


@rule(
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "pad",
)  # fmt: skip
def _over_positions(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """Pooling and padding change positions, never units."""
    source, name = _source(args), operation_name(node)
    axes, result = walk.axes[source], node.meta["val"]
    shape = (result[0] if isinstance(result, tuple) else result).shape
    if name == "pad":
        changed = {len(axes) - 1 - index // 2 for index, amount in enumerate(args["pad"]) if amount}
    else:
        changed = set(range(len(axes) - int(name[-2]), len(axes)))
    touched = [axis for axis in sorted(changed) if any(factor in walk.units for factor in axes[axis])]
    if touched:
        raise unsupported(node, f"{name!r} changes axis {touched[0]}, which runs over units", "pooling over positions only")
    walk.follow(node, source)
    return tuple((Factor(int(shape[axis])),) if axis in changed else axes[axis] for axis in range(len(shape)))


@rule("getitem")
def _first_result(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """Adaptive maximum pooling gives values and their indices; only the values can be followed."""
    if args["index"] != 0:
        raise unsupported(node, "the indices of a maximum are not supported", "its values")
    walk.follow(node, args["self"])
    return walk.axes[args["self"]]


@rule("mean", "sum", "amax", "amin")
def _reduce(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """Global pooling: a reduction over positions."""
    axes = walk.axes[args["self"]]
    dims = args.get("dim")
    reduced = {int(dim) % len(axes) for dim in ([dims] if isinstance(dims, int) else dims or range(len(axes)))}
    if any(factor in walk.units for axis in reduced for factor in axes[axis]):
        raise unsupported(node, f"{operation_name(node)!r} reduces over the units of a group", "a reduction over positions")
    walk.follow(node, args["self"])
    kept = [None if axis in reduced else axes[axis] for axis in range(len(axes))]
    return tuple(axis or (Factor(1),) for axis in kept if axis is not None or args["keepdim"])


@rule("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view")
def _reshape(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """A new shape over the same factors."""
    shape = tuple(node.meta["val"].shape)
    source = args["self"]
    before = {factor for axis in walk.axes[source] for factor in axis}
    axes = refactor(walk.axes[source], shape, keep=[factor for factor in before if factor in walk.units])
    if axes is None:
        raise unsupported(node, f"a view to shape {shape} cuts the units of a group in two", "a view that keeps units together")
    draft = walk.owner(source)
    if draft is not None and draft in walk.inputs.values():
        walk.inputs.update({factor: draft for axis in axes for factor in axis if factor not in before})
    walk.follow(node, source)
    return axes


@rule("permute", "transpose", "t")
def _permute(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """The same axes in another order."""
    axes = walk.axes[args["self"]]
    order = list(range(len(axes)))
    if operation_name(node) == "permute":
        order = [int(dim) % len(axes) for dim in args["dims"]]
    elif len(axes) > 1:
        first, second = (0, 1) if operation_name(node) == "t" else (args["dim0"] % len(axes), args["dim1"] % len(axes))
        order[first], order[second] = order[second], order[first]
    walk.follow(node, args["self"])
    return tuple(axes[axis] for axis in order)


@rule(
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "contiguous",
    "clone",
    "detach",
    "to",
    "_to_copy",
    "alias",
)
def _same(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """Nothing happens in evaluation."""
    walk.follow(node, _source(args))
    return walk.axes[_source(args)]


ELEMENTWISE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["relu", "silu", "tanh", "sigmoid", "sin", "cos", "exp", "abs", "neg", "square"], ()),
    **dict.fromkeys(["selu", "mish", "hardswish", "hardsigmoid", "relu6", "erf", "log_sigmoid"], ()),
    "gelu": ("approximate",),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "softplus": ("beta",),
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "pow": ("exponent",),
    "add": ("other",),
    "sub": ("other",),
    "mul": ("other",),
    "div": ("other", "rounding_mode"),
    "softmax": ("dim",),
    "log_softmax": ("dim",),
}
"""Element-wise operations and the arguments that belong to the name of the activation."""

_CANONICAL = {
    "gelu(none)": "gelu",
    "elu(1)": "elu",
    "celu(1)": "celu",
    "softplus(1)": "softplus",
    "hardtanh(0,6)": "relu6",
    "sin": "sine(1)",
}


def _elementwise(walk: Walk, node: fx.Node, args: Arguments) -> Axes:
    """The activation of the group that it alone reads; else a group of its own behind a diagonal of ones."""
    source, name = args["self"], operation_name(node)
    constants = [args[argument] for argument in ELEMENTWISE[name] if argument in args]
    if any(isinstance(constant, fx.Node) for constant in constants):
        raise unsupported(node, f"{name!r} of two tensors is not supported", "an element-wise function of one tensor")
    if name in ("add", "sub"):
        constants = [args["other"] * args["alpha"]]
    if name in ("softmax", "log_softmax"):
        if walk.sole_units(walk.axes[source][args["dim"]]) is None:
            problem = f"{name!r} over axis {args['dim']}, which is not the units of one group"
            raise unsupported(node, problem, f"{name!r} over units")
        constants = []
    text = name + (f"({','.join(_number(constant) for constant in constants)})" if constants else "")
    return _activate(walk, node, source, _CANONICAL.get(text, text))


def _number(constant: object) -> str:
    return f"{constant:g}" if isinstance(constant, int | float) and not isinstance(constant, bool) else str(constant)


def _activate(walk: Walk, node: fx.Node, source: fx.Node, operation: str) -> Axes:
    axes = walk.axes[source]
    draft = walk.owner(source)
    if draft is not None and draft.tail is source and len(source.users) == 1:
        draft.operations.append(operation)
        draft.tail = node
        return axes
    units = walk.units_of(factor for axis in axes for factor in axis)
    if len(units) != 1:
        raise unsupported(node, f"{operation!r} acts on the units of {len(units)} groups at once", "the units of one group")
    source_group = walk.units[units[0]]
    factor, draft = walk.add_group(node, name=node.name, size=units[0].size, layer=source_group.layer + 1)
    draft.operations.append(operation)
    walk.add_block(EdgeBlock(node.name, source_group.name, draft.name, "diagonal", "identity"))
    return tuple(tuple(factor if old is units[0] else old for old in axis) for axis in axes)
