"""A topology under construction: drafts of node groups and blocks, which become real ones when all cuts and ties are known."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import axes as ax
from ngbench.graph.axes import Axes, Expr, Factor
from ngbench.graph.homogeneity import limiting
from ngbench.graph.topology import EdgeBlock, Index, NodeFeature, NodeGroup, ParameterView, Role, Topology


@dataclass(frozen=True)
class Shown:
    """A parameter, or a part of it, and what its axes run over.

    Args:
        path: State-dict path.
        stored: The axes as they are stored.
        links: Pairs of factors of the parameter and the units, or positions, that they run over; a parameter's factor
            beside none was chosen by its entry.
    """

    path: str
    stored: Axes
    links: tuple[tuple[Expr, Expr], ...]


@dataclass(eq=False)
class GroupDraft:
    """The units of one layer before it is known how they are cut and tied.

    Args:
        name: Name of the group, or of the groups that it is cut into.
        role: As of a `NodeGroup`.
        units: What the units run over.
        node: The operation whose result they are.
        features: Name and parameter of each number on the nodes.
        pooling: Names of what is done to the units across positions, other than averaging.
    """

    name: str
    role: Role
    units: Expr = ()
    node: fx.Node | None = None
    features: list[tuple[str, Shown]] = field(default_factory=list)
    pooling: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Value:
    """What is known of an intermediate tensor.

    Args:
        axes: What its axes run over.
        texts: For each draft that it is computed from, the element-wise function applied to the units since.
        hidden: Units that it belongs to beside those on its axes: the one selected, the expert chosen.
        chain: Operations since its only draft was made, for as long as each was read once.
        parameter: State-dict path, where it is a parameter itself.
        scale: Name and tensor of a parameter that scales this one for each unit, as in weight normalisation.
        numbers: Units whose places its entries name, as those of the largest.
        entries: What each entry of its first axis is, where these have nothing in common: states of several layers.
    """

    axes: Axes
    texts: dict[GroupDraft, str] = field(default_factory=dict)
    hidden: Expr = ()
    chain: tuple[fx.Node, ...] = ()
    parameter: str | None = None
    scale: tuple[str, fx.Node] | None = None
    numbers: Expr = ()
    entries: tuple[Value, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether it depends on no input and no parameter, or only on an input's indices."""
        return not self.texts and self.parameter is None and not self.entries

    def varies(self, axis_from_last: int) -> bool:
        """Whether a constant has different entries along an axis, counted from the last, 1."""
        axis = len(self.axes) - axis_from_last
        return axis >= 0 and any(factor.size > 1 and factor.index.fixed for factor in ax.leaves(self.axes[axis]))

    def units(self) -> list[Factor]:
        """The unit factors on its axes and hidden ones, flat."""
        return [factor for axis in (*self.axes, self.hidden) for factor in ax.units_in(axis)]

    def own(self, factors: Iterable[Factor]) -> list[Factor]:
        """Those of some factors that are units of the value's groups; other units stand beside them, as positions do."""
        return [factor for factor in ax.units_in(factors) if any(leaf.draft in self.texts for leaf in ax.leaves([factor]))]


@dataclass(frozen=True)
class BlockDraft:
    """One layer's edges, before source and target are cut.

    Args:
        name: Name of the block, or of the blocks that it becomes.
        operation: As of an `EdgeBlock`.
        target: Draft whose units the edges enter.
        source: Factors that the edges leave: units, and positions that become the kernel.
        texts: Element-wise function on each draft of the source.
        shared: Pairs of source and target factors on which the ends of an edge agree.
        weight: The values; None for a structural block.
        kernel: Sizes of the kernel axes, which come last.
    """

    name: str
    operation: str
    target: GroupDraft
    source: Expr
    texts: dict[GroupDraft, str]
    shared: tuple[tuple[Factor, Factor], ...] = ()
    weight: Shown | None = None
    kernel: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """One combination of the parts of the sums in an expression.

    Args:
        leaves: The leaves, slowest first.
    """

    leaves: tuple[Factor, ...]


def choices(expr: Iterable[Factor]) -> list[Choice]:
    """Every way to choose one part of each sum of an expression, first parts first."""
    options = [
        [(factor,)] if factor.form == "leaf" else [choice.leaves for part in ax.summands(factor) for choice in choices([part])]
        for factor in ax.flat(expr)
    ]
    return [Choice(tuple(itertools.chain(*combination))) for combination in itertools.product(*options)]


@dataclass(frozen=True)
class Units:
    """What the nodes of a finished group are.

    Args:
        draft: The draft that the group was cut from.
        text: The element-wise function of the draft's units that they show.
        leaves: What they run over, slowest first.
    """

    draft: GroupDraft
    text: str
    leaves: tuple[Factor, ...]


@dataclass
class Draft:
    """All drafts of a graph, and what ties their indices; once there is a topology, the `units` of each of its groups by name."""

    groups: list[GroupDraft] = field(default_factory=list)
    blocks: list[BlockDraft] = field(default_factory=list)
    together: list[tuple[Factor, ...]] = field(default_factory=list)
    reads: list[tuple[GroupDraft, str]] = field(default_factory=list)
    units: dict[str, Units] = field(default_factory=dict)

    def topology(
        self,
        parameters: Sequence[tuple[str, tuple[int, ...]]],
        *,
        tied: Sequence[tuple[str, str]],
        buffers: Sequence[str],
        order: Sequence[str],
    ) -> Topology:
        """The finished topology.

        Args:
            parameters: Path and shape of every state-dict entry that the graph shows.
            tied: Further paths, each with the path that is shown.
            buffers: Paths of state-dict entries that are no part of the graph.
            order: All paths as they stand in the state dict.
        """
        plain = [path for path, _ in (*parameters, *tied)] + list(buffers)
        emission = _Emission(self)
        topology = emission.topology(tuple(parameters), tuple(tied), tuple(buffers), () if plain == list(order) else tuple(order))
        self.units = {group.name: Units(group.draft, group.text, group.choice.leaves) for group in emission.groups}
        return topology


@dataclass(eq=False)
class _Group:
    """A real group: one choice of a draft's parts, with one activation, and the function of the draft's units that it shows."""

    name: str
    draft: GroupDraft
    choice: Choice
    activation: str
    text: str
    base: bool


class _Emission:
    """Cuts drafts into groups and blocks, and names the indices."""

    def __init__(self, draft: Draft):
        self.draft = draft
        for group in draft.groups:
            if group.role in ("input", "output"):
                ax.pin(group.units)
        for block in draft.blocks:
            _mark_cuts(block.source)
        self.groups: list[_Group] = []
        self.of_leaves: dict[tuple[frozenset[int], str], _Group] = {}
        self.blocks: list[EdgeBlock] = []
        self.open: dict[str, _Group] = {}
        self.shared: dict[str, tuple[ax.Index, ...]] = {}
        self.index_names: dict[ax.Index, str] = {}

    def topology(
        self, parameters: tuple[tuple[str, tuple[int, ...]], ...], tied: tuple[tuple[str, str], ...],
        buffers: tuple[str, ...], order: tuple[str, ...],
    ) -> Topology:  # fmt: skip
        self._add_groups()
        for block in self.draft.blocks:
            self._add_blocks(block)
        for name, base in self.open.items():
            self.blocks.append(EdgeBlock(self._unique_block(name), base.name, name, "diagonal", "identity"))
        names, indices = self._indices()
        depth = self._depths()
        groups = tuple(
            NodeGroup(g.name, math.prod(f.size for f in g.choice.leaves), g.draft.role, g.activation, depth[g.name],
                      self._features(g) if g.base else (), names[g.name], limiting(g.activation, g.draft.pooling))
            for g in self.groups
        )  # fmt: skip
        blocks = tuple(
            EdgeBlock(**{**vars(block), "shared": tuple(self.index_names[index] for index in self.shared.get(block.name, ()))})
            for block in self.blocks
        )
        return Topology(groups, blocks, parameters, indices, tied, buffers, order)

    def _add_groups(self) -> None:
        used = self._texts()
        for draft in self.draft.groups:
            found = choices(draft.units)
            for number, choice in enumerate(found):
                texts = list(dict.fromkeys(used.get(_key(choice.leaves), ()))) or [""]
                links = [links_of(text) for text in texts]
                own = [first[0] for first in itertools.takewhile(lambda some: len(set(some)) == 1, zip(*links, strict=False))]
                name = self._unique(draft.name if len(found) == 1 else f"{draft.name}[{number}]")
                base = _Group(name, draft, choice, activation_name("|".join(own)), "|".join(own), base=True)
                self.groups.append(base)
                for text, chain in zip(texts, links, strict=True):
                    group = base if chain == own else self._add_activation(base, "|".join(chain[len(own) :]), whole=text)
                    self.of_leaves[_key(choice.leaves), text] = group

    def _texts(self) -> dict[frozenset[int], list[str]]:
        """The element-wise functions through which the units of each choice are read."""
        used: dict[frozenset[int], list[str]] = {}
        for block in self.draft.blocks:
            for choice in choices(block.source):
                for draft in dict.fromkeys(leaf.draft for leaf in choice.leaves if leaf.draft is not None):
                    used.setdefault(_key(choice.leaves), []).append(block.texts.get(draft, ""))
        for draft, text in self.draft.reads:
            for choice in choices(draft.units):
                used.setdefault(_key(choice.leaves), []).append(text)
        return used

    def _add_activation(self, base: _Group, text: str, *, whole: str) -> _Group:
        """Another group for units that are read both before and after an activation."""
        name = self._unique(f"{base.name}:{activation_name(text)}")
        group = _Group(name, base.draft, base.choice, activation_name(text), whole, base=False)
        self.groups.append(group)
        self.open[name] = base
        return group

    def _add_blocks(self, block: BlockDraft) -> None:
        targets = choices(block.target.units)
        pairs = {id(a): b for first, second in block.shared for a, b in ax.mapped_leaves(first, second)}
        found = []
        for source in choices(block.source):
            units = [leaf for leaf in source.leaves if leaf.draft is not None]
            drafts = list(dict.fromkeys(leaf.draft for leaf in source.leaves if leaf.draft is not None))
            if len(drafts) != 1:
                problem = f"it reads the units of {len(drafts)} groups at once"
                raise _refused(block, problem, "the units of one group at a time")
            group = self.of_leaves.get((_key(units), block.texts[drafts[0]]))
            if group is None:
                problem = f"it reads part of the units of {drafts[0].name!r} that is cut otherwise elsewhere"
                raise _refused(
                    block,
                    problem,
                    "the same cuts wherever the layer is read; separate layers instead of one fused layer can be traced",
                )
            shared = {id(pairs[id(leaf)]) for leaf in units if id(leaf) in pairs}
            for target in targets:
                own = {id(leaf) for leaf in target.leaves}
                if shared <= own:
                    found.append((group, source, target, shared))
        for number, (group, source, target, shared) in enumerate(found):
            name = block.name if len(found) == 1 else f"{block.name}[{number}]"
            self._add_block(block, name, group, source, target, shared, pairs)

    def _add_block(
        self,
        block: BlockDraft,
        name: str,
        source: _Group,
        chosen: Choice,
        target_choice: Choice,
        shared: set[int],
        pairs: dict[int, Factor],
    ) -> None:
        target = self._base(target_choice)
        if source.name in self.open:
            self.blocks.append(
                EdgeBlock(self._unique_block(source.name), self.open.pop(source.name).name, source.name, "diagonal", "identity")
            )
        kernel = tuple(leaf.size for leaf in chosen.leaves if leaf.draft is None) + block.kernel
        kernel = kernel if block.operation.startswith("conv") or math.prod(kernel) > 1 else ()
        own = [leaf for leaf in target_choice.leaves if leaf.size > 1]
        others = [leaf for leaf in source.choice.leaves if leaf.size > 1]
        num_shared = sum(id(leaf) in shared for leaf in own)
        pattern = "dense" if num_shared == 0 else "diagonal" if num_shared == len(own) == len(others) else "grouped"
        if not own and not others:
            pattern = "dense"
        if pattern == "diagonal" and [pairs[id(leaf)] for leaf in chosen.leaves if id(leaf) in pairs and leaf.size > 1] != own:
            # The same indices in another order: node i of one is another node of the other.
            pattern = "grouped"
        if pattern == "grouped" and block.weight is None and any(_stands_twice(leaves) for leaves in (own, others)):
            # Names of indices could not tell which of the two the ends share.
            pattern = "dense"
        view = None if block.weight is None else self._block_view(block.weight, chosen, target_choice, source)
        unique = self._unique_block(name)
        if pattern == "grouped":
            self.shared[unique] = tuple(leaf.index.find() for leaf in own if id(leaf) in shared)
        self.blocks.append(EdgeBlock(unique, source.name, target.name, pattern, block.operation, kernel, view))

    def _base(self, choice: Choice) -> _Group:
        return next(g for g in self.groups if g.base and _key(g.choice.leaves) == _key(choice.leaves))

    def _block_view(self, shown: Shown, source: Choice, target: Choice, group: _Group) -> ParameterView:
        """The part of a parameter that one block shows: target units first, then source units, then positions."""
        place = {leaf.key: number for number, leaf in enumerate(group.choice.leaves)}
        keys = {id(leaf): (1, place[leaf.key]) if leaf.draft else (2, number) for number, leaf in enumerate(source.leaves)}
        return _view(shown, keys | {id(leaf): (0, number) for number, leaf in enumerate(target.leaves)})

    def _features(self, group: _Group) -> tuple[NodeFeature, ...]:
        keys = {id(leaf): (0, number) for number, leaf in enumerate(group.choice.leaves)}
        size = math.prod(leaf.size for leaf in group.choice.leaves)
        return tuple(
            NodeFeature(name, _view(shown, keys), shared=size > 1 and all(ax.size_of(expr) == 1 for expr in shown.stored))
            for name, shown in group.draft.features
        )

    def _unique(self, name: str) -> str:
        return free_name(name, {group.name for group in self.groups})

    def _unique_block(self, name: str) -> str:
        return free_name(name, {block.name for block in self.blocks})

    def _depths(self) -> dict[str, int]:
        """Longest way from an input, along the order in which blocks were found; a recurrent block adds nothing."""
        order = {group.name: number for number, group in enumerate(self.groups)}
        depth = {group.name: 0 for group in self.groups}
        for name in order:
            sources = [b.source for b in self.blocks if b.target == name and order[b.source] < order[name]]
            depth[name] = 1 + max(
                (depth[s] for s in sources), default=-1 if not any(b.target == name for b in self.blocks) else 0
            )
        return depth

    def _indices(self) -> tuple[dict[str, tuple[str, ...]], tuple[Index, ...]]:
        """The index names of each group, and the indices; a group with one index of its own needs no mention."""
        classes = {g.name: tuple(leaf.index.find() for leaf in g.choice.leaves if leaf.size > 1) for g in self.groups}
        order = list(dict.fromkeys(index for indices in classes.values() for index in indices))
        parents = self._parents(order, classes)
        owners = {index: [name for name, indices in classes.items() if index in indices] for index in order}
        names = self.index_names
        for index in order:
            first = owners[index][0]
            names[index] = first if len(classes[first]) == 1 else f"{first}.{classes[first].index(index)}"
        listed, records = {}, []
        for group in self.groups:
            indices = classes[group.name]
            alone = len(indices) == 1 and len(owners[indices[0]]) == 1 and not parents[indices[0]]
            plain = alone and indices[0].fixed == (group.draft.role in ("input", "output"))
            listed[group.name] = () if plain else tuple(names[index] for index in indices)
            for index in () if plain else indices:
                if names[index] not in [record.name for record in records]:
                    records.append(Index(names[index], index.size, tuple(names[p] for p in parents[index]), index.fixed))
        return listed, tuple(records)

    def _parents(self, order: list, classes: dict[str, tuple]) -> dict:
        """For each index those with which it stands in every tensor: its permutation may depend on where they are."""
        together: dict = dict.fromkeys(order)
        tensors = [tuple(leaf.index.find() for leaf in ax.leaves(factors)) for factors in self._tensors()]
        for tensor in [*tensors, *classes.values()]:
            present = [index for index in tensor if index in together]
            for index in present:
                others = {other for other in present if other is not index}
                together[index] = others if together[index] is None else together[index] & others
        rank = {index: number for number, index in enumerate(order)}
        parents = {}
        for index in order:
            found = [p for p in together[index] or () if not index.fixed]
            # Two that always stand together: the slower one leads.
            parents[index] = sorted(
                (p for p in found if index not in (together[p] or ()) or rank[p] < rank[index]), key=rank.__getitem__
            )
        return parents

    def _tensors(self) -> Iterable[tuple[Factor, ...]]:
        for factors in self.draft.together:
            for choice in choices(factors):
                yield choice.leaves


def _refused(block: BlockDraft, problem: str, expected: str) -> UnsupportedLayerError:
    """The error of a block that cannot be drawn; it names the operation that made its target."""
    where = f" ({block.target.node.target})" if block.target.node is not None else ""
    return UnsupportedLayerError(f"cannot trace {block.name!r}{where}: {problem}; expected {expected}")


def _stands_twice(leaves: Sequence[Factor]) -> bool:
    indices = [leaf.index.find() for leaf in leaves]
    return len(set(indices)) < len(indices)


def _mark_cuts(source: Expr) -> None:
    """Notes which cuts are read in part; a cut that is fixed and always read whole is none."""
    for factor in ax.pieces(source):
        while factor.parent is not None:
            factor = factor.parent
            index = factor.index.find()
            index.cut = index.cut or index.form == "sum"


Key = tuple[int, int]
"""Place of an axis in a canonical shape: targets 0, sources 1, positions 2, kernel 3; then its place among its kind."""


@dataclass(frozen=True)
class _Axis:
    """One axis that a stored parameter is split into: its size, what is cut from it, and what that consists of, in places."""

    size: int
    bounds: tuple[int, int]
    inner: tuple[tuple[int, Key], ...]


def _view(shown: Shown, keys: Mapping[int, Key]) -> ParameterView:
    """The part of a parameter that stands for some leaves of units and positions, given with their places."""
    own: dict[int, Key] = {}
    split_as: dict[int, list[_Axis]] = {}
    for factors, units in shown.links:
        pairs = ax.matched(factors, units) if units else [(leaf, leaf) for leaf in ax.leaves(factors)]
        if pairs is None:
            # Both are fixed in their places, and the entries of one axis are cut otherwise here than where it was read first.
            split_as[id(factors[0])] = [_Axis(f.size, (0, f.size), ((f.size, keys[id(f)]),)) for f in ax.leaves(units)]
            continue
        own |= {id(leaf): keys.get(id(unit), (3, -1)) for leaf, unit in pairs if id(unit) in keys or not units}
    found: list[_Axis] = []
    for axis, expr in enumerate(shown.stored):
        if expr and id(expr[0]) in split_as:
            found += split_as[id(expr[0])]
        else:
            found += [part for factor in expr for part in _located(factor, own, (3, axis), path=shown.path)]
    return _parameter_view(shown.path, [axis for axis in found if axis.size > 1])


def _located(factor: Factor, keys: Mapping[int, Key], otherwise: Key, *, path: str) -> list[_Axis]:
    """How to split, cut and place one factor of a stored axis."""
    chosen = [leaf for leaf in ax.leaves([factor]) if id(leaf) in keys]
    if not chosen or factor.form == "leaf":
        return [_Axis(factor.size, (0, factor.size), ((factor.size, keys[id(factor)] if chosen else otherwise),))]
    if factor.form == "product":
        return [axis for child in factor.children() for axis in _located(child, keys, otherwise, path=path)]
    offset, parts = 0, ax.summands(factor)
    for part in parts:
        if any(id(leaf) in keys for leaf in ax.leaves([part])):
            axes = _located(part, keys, otherwise, path=path)
            if len(axes) == 1:
                start, stop = axes[0].bounds
                return [_Axis(factor.size, (offset + start, offset + stop), axes[0].inner)]
            if any(axis.bounds != (0, axis.size) for axis in axes):
                if len({other.size for other in parts}) > 1:
                    break
                number = offset // part.size
                return [_Axis(len(parts), (number, number + 1), ((1, otherwise),)), *axes]
            return [_Axis(factor.size, (offset, offset + part.size), tuple(item for axis in axes for item in axis.inner))]
        offset += part.size
    raise UnsupportedLayerError(
        f"parameter {path!r} is read in parts that are cut again inside; expected parts of whole heads, or a layer for each part"
    )


def _parameter_view(path: str, axes: list[_Axis]) -> ParameterView:
    """The view in its shortest form: without bounds where nothing is cut, with the path alone where nothing moves."""
    items = [item for axis in axes for item in axis.inner]
    order = tuple(sorted(range(len(items)), key=lambda number: items[number][1]))
    moved = order != tuple(range(len(items)))
    cut = any(axis.bounds != (0, axis.size) for axis in axes)
    if not cut and not moved:
        return ParameterView(path)
    inner = tuple(size for size, _ in items) if moved and len(items) > len(axes) else ()
    split, bounds = tuple(axis.size for axis in axes), tuple(axis.bounds for axis in axes)
    return ParameterView(path, split, bounds if cut else (), order if moved else (), inner)


def _key(leaves: Iterable[Factor]) -> frozenset[int]:
    return frozenset(leaf.key for leaf in leaves if leaf.draft is not None)


def free_name(name: str, taken: set[str]) -> str:
    """The name, with the first free number behind it where it is taken."""
    if name not in taken:
        return name
    return next(candidate for number in itertools.count(2) if (candidate := f"{name}:{number}") not in taken)


_KNOWN = (
    (r"mul\(([^()|]*)\)\|sin(?![a-z(])", r"sine(\1)"),
    (r"(?<![a-z])sin(?![a-z(])", "sine(1)"),
    (r"^\(x\*sigmoid\)$", "silu"),
    (r"^\(x\*mul\(1\.702\)\|sigmoid\)$", "gelu(sigmoid)"),
    (r"\(mul\(0\.5\)\*\(x\+pow\(3\)\|mul\(0\.044715\)\)\|mul\(0\.797885\)\|tanh\|add\(1\)\)", "gelu(tanh)"),
    (r"\(mul\(0\.5\)\*mul\(0\.707107\)\|erf\|add\(1\)\)", "gelu"),
    (r"\(x\*pow\(2\)\|mean\|add\([^()|]*\)\|rsqrt\)", "rms_norm"),
)


def links_of(text: str) -> list[str]:
    """The operations that an element-wise function is a chain of."""
    links, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            links.append("")
        else:
            links[-1] += letter
    return [link for link in links if link]


def activation_name(text: str) -> str:
    """The usual name of an element-wise function that was put together from operations; else the operations."""
    for pattern, name in _KNOWN:
        text = re.sub(pattern, name, text)
    return text or "none"
