"""Products of two computed tensors: attention, in one operation or written out, and other bilinear maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Expr, Factor, Index, positions
from ngbench.graph.draft import Value
from ngbench.graph.layers.dense import add_weight
from ngbench.graph.layers.pointwise import meet, meet_axes
from ngbench.graph.layers.rule import Arguments, Result, rule, shape_of, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk


@rule("matmul", "mm", "bmm", "mv", "dot", "baddbmm")
def _matmul(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """A layer where one side is a parameter; else both sides' units meet."""
    first = args["batch1"] if "batch1" in args else args["self"]
    second = next(args[name] for name in ("other", "mat2", "batch2", "vec", "tensor") if name in args)
    num_first, num_second = len(shape_of(first)), len(shape_of(second))
    letters = [f"b{place}" for place in range(max(num_first, num_second), 2, -1)]
    of_first = [*letters[len(letters) - max(num_first - 2, 0) :], *(["rows", "inner"] if num_first > 1 else ["inner"])]
    of_second = [*letters[len(letters) - max(num_second - 2, 0) :], *(["inner", "columns"] if num_second > 1 else ["inner"])]
    result = [letter for letter in (*letters, "rows", "columns") if letter in (*of_first, *of_second)]
    made = multiply(walk, node, first, second, letters=(of_first, of_second, result), operation="matmul")
    if "batch1" in args and args["beta"] != 0:
        return meet(walk, node, [made, walk.as_units(node, args["self"])], operation="add")
    return made


@rule("einsum")
def _einsum(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """Any product of two tensors."""
    equation, tensors = args["equation"].replace(" ", ""), list(args["tensors"])
    left, _, right = equation.partition("->")
    sides = left.split(",")
    if len(tensors) != 2 or "." in equation or "->" not in equation or any(len(set(side)) < len(side) for side in sides):
        raise unsupported(
            node, f"einsum {equation!r} is not supported", "two tensors, an explicit result, each letter once a tensor"
        )
    return multiply(walk, node, *tensors, letters=(list(sides[0]), list(sides[1]), list(right)), operation="einsum")


Letters = tuple[Sequence[str], Sequence[str], Sequence[str]]


def multiply(walk: Walk, node: fx.Node, first: fx.Node, second: fx.Node, *, letters: Letters, operation: str) -> Value:
    """A sum of products, axes paired by letters: a layer where one side is a parameter, else a group computed from both sides."""
    of_first, of_second, result = letters
    if walk.is_weight(second) and walk.value(first).parameter is None:
        return add_weight(walk, node, walk.value(first), second, of_value=of_first, of_weight=of_second, result=result)
    if walk.is_weight(first) and walk.value(second).parameter is None:
        return add_weight(walk, node, walk.value(second), first, of_value=of_second, of_weight=of_first, result=result)
    return product(walk, node, walk.as_units(node, first), walk.as_units(node, second), letters=letters, operation=operation)


def product(walk: Walk, node: fx.Node, a: Value, b: Value, *, letters: Letters, operation: str) -> Value:
    """The product of two computed tensors: axes of one letter agree, those that the result lacks are summed over."""
    for value in (a, b):
        walk.default_units(value)
    of_first, of_second, result = letters
    found: dict[str, Expr] = dict(zip(of_first, a.axes, strict=True))
    for letter, expr in zip(of_second, b.axes, strict=True):
        found[letter] = meet_axes(found[letter], expr, ([a], [b])) if letter in found else expr
    return walk.combine(node, [a, b], tuple(found[letter] for letter in result), operation=operation)


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention")
def _attention(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """One structural node a head, which query and key units enter and which enters the head's values."""
    query, key, value = (walk.as_units(node, args[name]) for name in ("query", "key", "value"))
    num_batch = len(query.axes) - 2
    if num_batch and ax.size_of(key.axes[-3]) != ax.size_of(query.axes[-3]):
        key, value = (_repeated(part, ax.size_of(query.axes[-3])) for part in (key, value))
    batch = [f"b{place}" for place in range(num_batch)]
    letters = ([*batch, "q", "d"], [*batch, "k", "d"], [*batch, "q", "k"])
    scores = product(walk, node, query, key, letters=letters, operation="attention")
    if isinstance(args.get("attn_mask"), fx.Node):
        scores = _masked(walk, node, scores, walk.as_units(node, args["attn_mask"]))
    weighted = replace(scores, texts=dict.fromkeys(scores.texts, "softmax(positions)"))
    letters = ([*batch, "q", "k"], [*batch, "k", "v"], [*batch, "q", "v"])
    return product(walk, node, weighted, value, letters=letters, operation="attention")


def _masked(walk: Walk, node: fx.Node, scores: Value, mask: Value) -> Value:
    """Scores with a mask added: a constant fixes the heads if it differs between them, a computed one enters their nodes."""
    if mask.is_constant:
        for expr, other in zip(reversed(scores.axes), reversed(mask.axes), strict=False):
            ax.pin_beside(expr, other)
        return scores
    head = next(iter(scores.texts))
    padded = (*positions([1] * (len(scores.axes) - len(mask.axes))), *mask.axes)
    axes = tuple(meet_axes(expr, other, ([scores], [mask])) for expr, other in zip(scores.axes, padded, strict=True))
    walk.add_identity(head, replace(mask, axes=padded), "attention")
    return replace(scores, axes=axes)


def _repeated(value: Value, num_heads: int) -> Value:
    """Key and value heads that several query heads share."""
    copies = Factor(Index(num_heads // ax.size_of(value.axes[-3])))
    return replace(value, axes=(*value.axes[:-3], (*value.axes[-3], copies), *value.axes[-2:]))
