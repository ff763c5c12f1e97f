"""Choices by an index: among positions, or among units, which then keep their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Factor, Index, positions
from ngbench.graph.draft import Value
from ngbench.graph.layers.pointwise import meet
from ngbench.graph.layers.rule import Arguments, Result, operation_name, rule, shape_of, source_of

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("index")
def _index(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Entries of the indexed axes, which run over new positions afterwards."""
    value, shape = walk.as_units(node, source_of(args)), shape_of(node)
    indexed = [axis for axis, index in enumerate(args["indices"]) if index is not None]
    run = _neighbours(walk, args["indices"][indexed[0]], ax.size_of(value.axes[indexed[0]])) if len(indexed) == 1 else None
    if run is not None:
        axis = indexed[0]
        piece = ax.take(value.axes[axis], *run) if ax.units_in(value.axes[axis]) else positions([run[1] - run[0]])[0]
        if piece is not None:
            return walk.follow(node, value, tuple(piece if k == axis else expr for k, expr in enumerate(value.axes)))
    value = walk.as_positions(node, value, indexed)
    num_new = len(shape) - (len(value.axes) - len(indexed))
    together = indexed == list(range(indexed[0], indexed[0] + len(indexed)))
    # Indices on axes that are not neighbours bring their own axes to the front.
    place = indexed[0] if together else 0
    kept = [expr for axis, expr in enumerate(value.axes) if axis not in indexed]
    return walk.follow(node, value, (*kept[:place], *positions(shape[place : place + num_new]), *kept[place:]))


def _neighbours(walk: Walk, index: fx.Node, size: int) -> tuple[int, int] | None:
    """First entry and one past the last, where an index is a constant run of neighbours."""
    while index.op == "call_function" and operation_name(index) in (
        "lift_fresh_copy",
        "detach",
        "clone",
        "to",
        "_to_copy",
        "alias",
    ):
        index = index.all_input_nodes[0]
    signature = walk.program.graph_signature
    found = walk.program.constants.get(signature.inputs_to_lifted_tensor_constants.get(index.name, ""))
    if (
        not isinstance(found, Tensor)
        or found.is_floating_point()
        or found.dim() != 1
        or not len(found)
        or (found.diff() != 1).any()
    ):
        return None
    first, last = int(found[0]), int(found[-1])
    return (first, last + 1) if first >= 0 else (first + size, last + 1 + size) if last < 0 else None


@rule("gather", "index_select", "take_along_dim", "tril", "triu", "diagonal")
def _choose(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Entries along one axis, or of a triangle."""
    value, shape, name = walk.as_units(node, source_of(args)), shape_of(node), operation_name(node)
    num_axes = len(value.axes)
    if name == "diagonal":
        dims = {int(args["dim1"]) % num_axes, int(args["dim2"]) % num_axes}
        value = walk.as_positions(node, value, dims)
        kept = tuple(expr for axis, expr in enumerate(value.axes) if axis not in dims)
        return walk.follow(node, value, (*kept, *positions(shape[-1:])))
    touched = [num_axes - 2, num_axes - 1] if name in ("tril", "triu") else [int(args["dim"] or 0) % num_axes]
    value = walk.as_positions(node, value, touched)
    axes = tuple(positions([shape[axis]])[0] if axis in touched else value.axes[axis] for axis in range(num_axes))
    return walk.follow(node, value, axes)


@rule("index_put", "index_add", "index_copy", "scatter", "scatter_add", "slice_scatter", "select_scatter", "masked_scatter")
def _put(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """One tensor written into another at some positions: from there on their units are the same."""
    name, shape = operation_name(node), shape_of(node)
    base = walk.value(source_of(args))
    source = args.get("values", args.get("source", args.get("src")))
    written = walk.value(source) if isinstance(source, fx.Node) else Value(())
    num_axes = len(shape)
    if name == "index_put":
        indexed = {axis for axis, index in enumerate(args["indices"]) if index is not None}
    elif name == "masked_scatter":
        indexed = set(range(num_axes))
    else:
        indexed = {int(args["dim"] or 0) % num_axes}
    base = walk.as_positions(node, base, indexed)
    kept = [axis for axis in range(num_axes) if axis not in indexed]
    # The last axes of what is written are those of the base that no index has.
    own = min(len(kept), len(written.axes)) if name in ("index_put", "select_scatter") else 0
    touched = range(len(written.axes) - own) if name in ("index_put", "select_scatter") else indexed
    written = walk.as_positions(node, written, touched)
    # A number that is written is the same for all units.
    axes = [
        positions([size])[0] if axis in indexed or written.axes else (Factor(Index(size)),) for axis, size in enumerate(shape)
    ]
    for place, axis in enumerate(reversed(kept), start=1):
        if name in ("index_put", "select_scatter"):
            axes[axis] = written.axes[-place] if place <= own else axes[axis]
        elif written.axes:
            axes[axis] = written.axes[axis]
    aligned = Value(tuple(axes), written.texts, written.hidden)
    return meet(walk, node, [base, aligned], operation=name)


def _uniform(shape: tuple[int, ...]) -> Value:
    return Value(tuple((Factor(Index(size)),) for size in shape))


@rule("copy")
def _copy(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """What is written, in the shape of what it is written to."""
    return meet(walk, node, [_uniform(shape_of(node)), walk.as_units(node, args["src"])], operation="copy")


@rule("where", "masked_fill", "addcmul", "addcdiv", "lerp")
def _select(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """An element-wise function of several tensors."""
    tensors = [argument for argument in args.values() if isinstance(argument, fx.Node)]
    return meet(walk, node, [walk.as_units(node, tensor) for tensor in tensors], operation=operation_name(node))
