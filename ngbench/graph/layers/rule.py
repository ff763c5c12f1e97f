"""The registry of rules, and what all of them need of an exported operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ngbench.errors import UnsupportedLayerError
from ngbench.graph.draft import Value

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk

Arguments = Mapping[str, Any]
Result = Value | list[Value]
Rule = Callable[["Walk", fx.Node, Arguments], Result]

RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operations of torch's ``aten`` namespace, by name without overload."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return add


def supported() -> tuple[str, ...]:
    """Names of the operations that a neural graph can express."""
    return tuple(sorted(RULES))


def operation_name(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``, ``relu`` also for ``aten.relu_``; of anything else the Python name."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.rpartition("::")[2]
        return name if name.endswith("__") else name.removesuffix("_")
    return getattr(target, "__name__", str(target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operation by name, defaults filled in."""
    if node.target is operator.getitem:
        return {"self": node.args[0], "index": node.args[1]}
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(enumerate(node.args)) | dict(node.kwargs)  # type: ignore[return-value]
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def source_of(args: Arguments) -> fx.Node:
    """The tensor that an operation of one tensor reads."""
    return args.get("self", args.get("input"))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's tensor."""
    return tuple(node.meta["val"].shape)


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that runs an operation; empty for the outermost."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def result_name(node: fx.Node) -> str:
    """Name for the group of an operation without parameters: its module's path and the operation."""
    name = {"scaled_dot_product_attention": "attention"}.get(operation_name(node), operation_name(node).strip("_"))
    return ".".join(part for part in (module_path(node), name) if part)


def unsupported(node: fx.Node, problem: str, expected: str) -> UnsupportedLayerError:
    """The error of an operation that cannot be expressed, with the module's path."""
    path = module_path(node)
    where = f"module {path!r}" if path else "the outermost module"
    return UnsupportedLayerError(f"cannot trace {where}: {problem}; expected {expected}")


def parameter_path(walk: Walk, node: fx.Node, argument: Any, role: str) -> str:
    """State-dict path of an argument that must be a parameter.

    Raises:
        UnsupportedLayerError: It is computed.
    """
    found = walk.value(argument) if isinstance(argument, fx.Node) and isinstance(walk.values[argument], Value) else None
    if found is None or found.parameter is None:
        problem = f"the {role} of {operation_name(node)!r} is computed, not an entry of the state dict"
        raise unsupported(node, problem, "a parameter as it is: compute it once, and store the result as the layer's parameter")
    return found.parameter


def layer_name(path: str, otherwise: str) -> str:
    """Name of the module that a parameter belongs to."""
    return path.rpartition(".")[0] or otherwise
