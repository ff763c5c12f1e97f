"""Mixture of experts with stacked weights: the experts' units stand in one group, experts times units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.draft import BlockDraft, Value
from ngbench.graph.layers.rule import Arguments, Result, operation_name, rule, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("grouped_mm_fallback", "_grouped_mm")
def _grouped_mm(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Each slot times the weight ``[experts, sources, targets]`` of the expert that it was routed to."""
    source, weight = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    assert isinstance(weight, fx.Node)
    value, table = walk.as_units(node, source), walk.value(weight)
    if table.parameter is None or len(table.axes) != 3:
        raise unsupported(node, f"{operation_name(node)!r} with a computed weight is not supported", "a parameter of three axes")
    walk.units_on(value, -1)
    num_experts = ax.size_of(table.axes[0])
    target = walk.add_group(node, table.parameter)
    routed = ax.size_of(value.hidden) == num_experts
    expert = tuple(f.mirrored(target) for f in ax.flat(value.hidden)) if routed else walk.new_units(weight, 0, target)
    offsets = walk.value(node.args[2]) if len(node.args) > 2 and isinstance(node.args[2], fx.Node) else None
    if offsets is not None and ax.size_of(offsets.numbers) == num_experts:
        # The router's units are the experts.
        ax.unify(offsets.numbers, expert)
    units = walk.new_units(weight, 2, target)
    target.units = (*expert, *units)
    shared = tuple(zip(ax.flat(value.hidden), expert, strict=True)) if routed else ()
    shown = walk.shown(node, weight, [expert, value.axes[-1], units])
    walk.add_block(BlockDraft(target.name, "experts", target, (*value.axes[-1], *value.hidden), value.texts, shared, shown))
    return Value((*value.axes[:-1], units), {target: ""}, expert)
