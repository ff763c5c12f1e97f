"""What each axis of an intermediate tensor runs over, followed through views, cuts, concatenations and element-wise operations.

An `Index` is a set of entries that moves as one under the symmetry of the network: the units of a layer, the heads of an
attention, or positions, which never move. Operations reveal that an index is a product (heads times units) or a sum (query,
key and value units in one fused layer) of smaller ones, or that two are the same (residual streams). A `Factor` is one
occurrence of an index: the units of one draft of a node group, or positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ngbench.graph.draft import GroupDraft


class Index:
    """A set of entries; `same` says which of two is which after they were found to agree.

    Attributes:
        size: Number of entries.
        pinned: Whether the entries keep their places in every symmetry.
        form: Whether it is known to consist of `parts`, and how.
        parts: The indices that it is the product or the sum of, slowest or first one first.
        joins: Whether it was made by concatenation, so that its parts belong to different layers.
        tied: Whether it was found to agree with another.
        open: Whether it is an axis of a parameter of which it is not known yet what it runs over.
        cut: Whether something reads one part of a sum alone.
    """

    __slots__ = ("_same", "cut", "form", "joins", "open", "parts", "pinned", "size", "tied")

    def __init__(self, size: int, *, pinned: bool = False, open: bool = False):
        self.size, self.pinned, self.joins, self.tied, self.open = size, pinned, False, False, open
        self.cut = False
        self.form: Literal["leaf", "product", "sum"] = "leaf"
        self.parts: tuple[Index, ...] = ()
        self._same: Index | None = None

    def find(self) -> Index:
        """The index that stands for all that agree with this one."""
        index = self
        while index._same is not None:
            index = index._same
        return index

    def pin(self) -> None:
        """Fixes the entries in their places."""
        index = self.find()
        index.pinned = True
        for part in index.parts:
            part.pin()

    @property
    def fixed(self) -> bool:
        """Whether no entry can move."""
        index = self.find()
        return index.pinned or (bool(index.parts) and all(part.fixed for part in index.parts))

    @property
    def joined(self) -> bool:
        """Whether a concatenation stands in it."""
        index = self.find()
        return index.joins or any(part.joined for part in index.parts)

    def divide(self, form: Literal["product", "sum"], sizes: Sequence[int]) -> None:
        """Makes a leaf the product or the sum of new indices."""
        index = self.find()
        assert index.form == "leaf", "only a leaf can be divided"
        index.form, index.parts = form, tuple(Index(size, pinned=index.pinned, open=index.open) for size in sizes)

    @classmethod
    def of(cls, form: Literal["product", "sum"], parts: Sequence[Index], *, joins: bool = False) -> Index:
        """The product or sum of indices."""
        index = cls(math.prod(p.size for p in parts) if form == "product" else sum(p.size for p in parts))
        index.form, index.parts, index.joins = form, tuple(parts), joins
        return index

    def copy(self) -> Index | None:
        """A new index of the same form; None where this one is tied or pinned, so that a copy would be too free."""
        index = self.find()
        parts = [part.copy() for part in index.parts]
        if index.tied or index.pinned or index.joins or None in parts:
            return None
        made = Index(index.size)
        made.form, made.parts = index.form, tuple(part for part in parts if part is not None)
        return made

    @property
    def is_cut(self) -> bool:
        """Whether something reads a part of it alone."""
        index = self.find()
        return index.cut or any(part.is_cut for part in index.parts)

    def settle(self) -> None:
        """Notes that it runs over units of a group."""
        index = self.find()
        index.open = False
        for part in index.parts:
            part.settle()

    def inside(self) -> Iterator[Index]:
        """All indices that it consists of, itself not among them."""
        for part in self.find().parts:
            yield part.find()
            yield from part.inside()

    def become(self, other: Index) -> None:
        """Makes a leaf the same as another index."""
        index, other = self.find(), other.find()
        if index is other:
            return
        assert index.form == "leaf", "only a leaf can become another index"
        if index in other.inside():
            # It would be a part of itself: its entries and those beside it cannot move.
            other.pin()
            return
        other.tied = other.tied or not index.open
        if index.pinned:
            other.pin()
        index._same = other


class Factor:
    """One occurrence of an index.

    Args:
        index: What it runs over.
        draft: The node group whose units they are; None for positions, and for joined parts of several groups.
        children: Occurrences of the index's parts, where they are not this factor's own.
        parent: The factor that it is a part of.
        origin: The factor that stands here a second time.
    """

    __slots__ = ("_children", "_spread", "draft", "index", "origin", "parent")

    def __init__(
        self, index: Index, draft: GroupDraft | None = None, *,
        children: tuple[Factor, ...] = (), parent: Factor | None = None, origin: Factor | None = None,
    ):  # fmt: skip
        self.index, self.draft, self._children, self.parent, self.origin = index, draft, children, parent, origin
        self._spread: tuple[Factor, tuple[Factor, ...]] | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.index.size

    @property
    def key(self) -> int:
        """What tells the units of one group apart: the same for a factor and one that stands for it a second time."""
        return id(self) if self.origin is None else self.origin.key

    def again(self) -> Factor:
        """The same units in a second place."""
        return Factor(self.index, self.draft, parent=self.parent, origin=self)

    @property
    def form(self) -> str:
        """``"leaf"``, ``"product"`` or ``"sum"``; a fixed sum counts as whole if nothing reads a part of it."""
        index = self.index.find()
        if index.form == "sum" and index.fixed and not index.joined and not index.is_cut:
            return "leaf"
        return index.form

    def children(self) -> tuple[Factor, ...]:
        """Occurrences of the parts of a product or sum, the same objects each time."""
        parts = self.index.find().parts
        if [child.index for child in self._children] != list(parts):
            own = [None] * len(parts) if self.origin is None else self.origin.children()
            self._children = tuple(Factor(part, self.draft, parent=self, origin=of) for part, of in zip(parts, own, strict=True))
        return self._children

    def spread(self) -> tuple[tuple[Factor, ...], tuple[Factor, ...]] | None:
        """Makes entries times units the sum of each entry's own units, as of query, key and value viewed as three times units.

        Returns:
            The factors that stood behind this one in its product, and for each entry what stands for them now; None where
            the units are already tied, so that the entries' units cannot be told apart.
        """
        parent = self.parent
        if parent is None or self.draft is None:
            return None
        if parent._spread is None:
            own = parent.children()
            if self not in own or parent.index.find().form != "product":
                return None
            place = own.index(self)
            rest = own[place + 1 :]
            copies = [[factor.index.copy() for factor in rest] for _ in range(self.size)]
            if not rest or any(copy is None for entry in copies for copy in entry):
                return None
            entries = [
                entry[0] if len(entry) == 1 else Index.of("product", [c for c in entry if c is not None]) for entry in copies
            ]
            index, before = parent.index.find(), parent.index.find().parts[:place]
            total = Index.of("sum", [entry for entry in entries if entry is not None])
            index.form, index.parts = ("product", (*before, total)) if before else ("sum", total.parts)
            parent._spread = (self, rest)
        key, rest = parent._spread
        if key is not self:
            return None
        now = parent.children() if parent.index.find().form == "sum" else parent.children()[-1].children()
        return rest, now

    def claim(self, draft: GroupDraft) -> None:
        """Makes positions the units of a group."""
        self.draft = draft
        for child in self._children:
            child.claim(draft)

    def mirrored(self, draft: GroupDraft) -> Factor:
        """Another draft's occurrence of the same index."""
        self.index.settle()
        return Factor(self.index, draft)


class Blank(Factor):
    """The one position of an axis that a view or a reduction made; views drop it again."""

    __slots__ = ()


Expr = tuple[Factor, ...]
"""The factors that an axis is the product of, slowest first."""

Axes = tuple[Expr, ...]


def positions(shape: Iterable[int]) -> Axes:
    """Axes of positions that belong to no group."""
    return tuple((Factor(Index(int(size), pinned=True)),) for size in shape)


def blank() -> Expr:
    """An axis of size one that a view made."""
    return (Blank(Index(1, pinned=True)),)


def size_of(expr: Iterable[Factor]) -> int:
    """Number of entries."""
    return math.prod(factor.size for factor in expr)


def flat(expr: Iterable[Factor]) -> list[Factor]:
    """The factors with products multiplied out: leaves and sums."""
    result: list[Factor] = []
    for factor in expr:
        result += flat(factor.children()) if factor.form == "product" else [factor]
    return result


def leaves(expr: Iterable[Factor]) -> list[Factor]:
    """All leaves, those of every part of a sum among them."""
    result: list[Factor] = []
    for factor in expr:
        result += [factor] if factor.form == "leaf" else leaves(factor.children())
    return result


def parts_of(expr: Iterable[Factor]) -> list[Factor]:
    """The flat factors, and after each sum its parts."""
    result: list[Factor] = []
    for factor in flat(expr):
        result += [factor, *(parts_of(factor.children()) if factor.form == "sum" else [])]
    return result


def pieces(expr: Iterable[Factor]) -> list[Factor]:
    """The factors that stand side by side, concatenations taken apart."""
    result: list[Factor] = []
    for factor in expr:
        index = factor.index.find()
        result += pieces(factor.children()) if index.joins or (index.form == "product" and factor.draft is None) else [factor]
    return result


def summands(factor: Factor) -> list[Factor]:
    """The parts of a sum, sums of sums taken apart."""
    return [part for child in factor.children() for part in (summands(child) if child.form == "sum" else [child])]


def atoms(expr: Iterable[Factor]) -> list[Factor]:
    """The smallest parts that are known of, also those of a cut none of whose entries can move."""
    return [atom for factor in expr for atom in (atoms(factor.children()) if factor.index.find().parts else [factor])]


def units_in(expr: Iterable[Factor]) -> list[Factor]:
    """The flat factors that are units of some group: those with a draft, and joined ones."""
    return [
        factor for factor in flat(expr) if factor.draft is not None or any(leaf.draft is not None for leaf in leaves([factor]))
    ]


def pin(expr: Iterable[Factor]) -> None:
    """Fixes all entries in their places."""
    for factor in expr:
        factor.index.pin()


def pin_beside(units: Iterable[Factor], constant: Iterable[Factor]) -> None:
    """Fixes units that meet a constant, except along indices on which the constant does not change."""
    a, b = ([factor for factor in flat(expr) if factor.size > 1] for expr in (units, constant))
    if [factor.size for factor in a] != [factor.size for factor in b]:
        changing = a if any(factor.index.fixed for factor in leaves(b)) else []
    else:
        changing = [x for x, y in zip(a, b, strict=True) if any(leaf.index.fixed for leaf in leaves([y]))]
    pin(factor for factor in changing if units_in([factor]))


def unify(first: Iterable[Factor], second: Iterable[Factor]) -> None:
    """Makes two expressions of one size agree; where they cut across each other, both are pinned."""
    a, b = flat(first), flat(second)
    while a and b:
        x, y = a[0], b[0]
        if x.size == y.size:
            _unify_factors(a.pop(0), b.pop(0))
        elif x.size == 1 or y.size == 1:
            (a if x.size == 1 else b).pop(0)
        elif x.form == "leaf" and x.size % y.size == 0 and x.index.find().form == "leaf":
            x.index.find().divide("product", (y.size, x.size // y.size))
            a[0:1] = flat([x]) if not x.index.fixed else list(x.children())
        elif y.form == "leaf" and y.size % x.size == 0 and y.index.find().form == "leaf":
            y.index.find().divide("product", (x.size, y.size // x.size))
            b[0:1] = flat([y]) if not y.index.fixed else list(y.children())
        else:
            pin(a)
            pin(b)
            return


def _unify_factors(x: Factor, y: Factor) -> None:
    p, q = x.index.find(), y.index.find()
    if p is q:
        return
    if p.form == "leaf" and (p.open or not (q.form == "leaf" and q.open)):
        p.become(q)
    elif q.form == "leaf":
        q.become(p)
    elif p.form == q.form == "sum":
        _unify_sums(x, y)
    elif p.form == q.form == "product":
        unify(x.children(), y.children())
    else:
        p.pin()
        q.pin()


def _unify_sums(x: Factor, y: Factor) -> None:
    ends = sorted({end for factor in (x, y) for end in itertools.accumulate(child.size for child in factor.children())})
    for start, stop in itertools.pairwise([0, *ends]):
        first, second = take((x,), start, stop), take((y,), start, stop)
        if first is None or second is None:
            pin((x, y))
            return
        unify(first, second)


def take(expr: Iterable[Factor], start: int, stop: int) -> Expr | None:
    """The entries from `start` to `stop` of an axis, the index cut where that is needed; None where it cannot be.

    Args:
        expr: The axis.
        start: First entry.
        stop: One past the last entry.
    """
    factors = flat(expr)
    if (start, stop) == (0, size_of(factors)):
        return tuple(factors)
    if start == stop:
        return positions([0])[0]
    factors = [factor for factor in factors if factor.size > 1]
    inner = size_of(factors[1:])
    if not factors or start % inner or stop % inner:
        return None
    head = _take_factor(factors[0], start // inner, stop // inner)
    return None if head is None else (head, *factors[1:])


def _take_factor(factor: Factor, start: int, stop: int) -> Factor | None:
    index = factor.index.find()
    if (start, stop) == (0, factor.size):
        return factor
    if index.form == "leaf":
        ends = sorted({0, start, stop, factor.size})
        index.divide("sum", [b - a for a, b in itertools.pairwise(ends)])
    if index.form == "product":
        return None
    taken: list[Factor] = []
    offset = 0
    for child in factor.children():
        low, high = max(start - offset, 0), min(stop - offset, child.size)
        if low < high:
            piece = take((child,), low, high)
            if piece is None:
                return None
            taken.append(as_factor(piece))
        offset += child.size
    return taken[0] if len(taken) == 1 else join(taken)


def as_factor(expr: Sequence[Factor]) -> Factor:
    """One factor for an expression."""
    if len(expr) == 1:
        return expr[0]
    return Factor(Index.of("product", [factor.index for factor in expr]), children=tuple(expr))


def join(factors: Sequence[Factor]) -> Factor:
    """The concatenation of factors."""
    return Factor(Index.of("sum", [factor.index for factor in factors], joins=True), children=tuple(factors))


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Axes of a tensor viewed with another shape.

    Args:
        axes: Axes before.
        shape: Shape after; the same number of elements.

    Returns:
        The new axes, or None where two axes do not divide each other. A factor of size one stands in the first new axis
        that has room for it; one that a view made is dropped.
    """
    queue = [factor for axis in axes for factor in flat(axis) if not isinstance(factor, Blank)]
    result: list[Expr] = []
    for position, size in enumerate(shape):
        taken: list[Factor] = []
        room = int(size)
        last = position == len(shape) - 1
        while queue and room % queue[0].size == 0 and (room > 1 or (queue[0].size == 1 and (last or not taken))):
            taken.append(queue.pop(0))
            room //= taken[-1].size
        while room > 1:
            pieces = _divided(queue.pop(0), room) if queue else None
            if pieces is None:
                return None
            queue[0:0] = pieces
            while queue and room > 1 and room % queue[0].size == 0:
                taken.append(queue.pop(0))
                room //= taken[-1].size
        result.append(tuple(taken) or blank())
    return tuple(result) if size_of(queue) == 1 else None


def _divided(factor: Factor, size: int) -> list[Factor] | None:
    """A factor as a product whose first parts multiply to `size`, or nearer to it; None where it cannot be."""
    index = factor.index.find()
    if index.form == "product":
        return list(factor.children())
    if factor.size % size:
        return None
    if index.form == "leaf":
        index.divide("product", (size, factor.size // size))
        return list(factor.children())
    if factor.draft is None and not units_in([factor]):
        return [position for (position,) in positions((size, factor.size // size))]
    return None


def chosen(factor: Factor, entry: int) -> dict[int, Factor] | None:
    """What stands for each factor behind a chosen entry, by the old factor's id; None where the entries share their units."""
    found = factor.spread()
    if found is None:
        return None
    rest, now = found
    new = [now[entry]] if len(rest) == 1 else list(now[entry].children())
    mapping: dict[int, Factor] = {}
    for old, own in zip(rest, new, strict=True):
        _map_factors(old, own, mapping)
    return mapping


def _map_factors(old: Factor, new: Factor, mapping: dict[int, Factor]) -> None:
    mapping[id(old)] = new
    if old.index.find().parts:
        for a, b in zip(old.children(), new.children(), strict=True):
            _map_factors(a, b, mapping)


def counterparts(first: Factor, second: Factor) -> dict[int, Factor]:
    """For each factor of one occurrence of an index, by its id, the same factor of another occurrence."""
    mapping: dict[int, Factor] = {}
    _map_factors(first, second, mapping)
    return mapping


def matched(first: Expr, second: Expr) -> list[tuple[Factor, Factor]] | None:
    """The leaves of two expressions that agree, in pairs; None where they cut across each other."""
    a, b = ([factor for factor in flat(expr) if factor.size > 1] for expr in (first, second))
    if [factor.size for factor in a] != [factor.size for factor in b]:
        return None
    return [pair for x, y in zip(a, b, strict=True) for pair in mapped_leaves(x, y)]


def mapped_leaves(first: Factor, second: Factor) -> Iterator[tuple[Factor, Factor]]:
    """The leaves of two occurrences of one index, in pairs."""
    if first.form == "leaf" or second.form == "leaf":
        yield first, second
    else:
        for a, b in zip(first.children(), second.children(), strict=True):
            yield from mapped_leaves(a, b)
