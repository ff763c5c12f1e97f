"""The state of a walk through an exported program: what each tensor is known to be, and the graph so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from ngbench.errors import GraphError, UnsupportedLayerError
from ngbench.graph import axes as ax
from ngbench.graph.axes import Axes, Expr, Factor, positions
from ngbench.graph.draft import BlockDraft, Draft, GroupDraft, Shown, Value, free_name
from ngbench.graph.layers.dense import add_table
from ngbench.graph.layers.rule import layer_name, module_path, parameter_path, result_name
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.topology import Role

Pairs = tuple[tuple[Factor, Factor], ...]

_ADDED = ("bias", "running_mean", "running_var", "weight_norm")
"""Numbers on nodes that are added to their sum, or belong to the edges of one layer."""


@dataclass
class Walk:
    """What is known of a graph while its operations are walked in order; the rules in `layers` read and extend it.

    Args:
        program: The exported operations.
        values: What is known of each operation's result, or of each of its results.
        draft: The graph so far.
        inputs: Axes of inputs that may turn out to run over the input's units.
        sums: For a group that a later operation adds to, the last such operation: its result is the group's sum.
    """

    program: torch.export.ExportedProgram
    values: dict[fx.Node, Value | list[Value]] = field(default_factory=dict)
    draft: Draft = field(default_factory=Draft)
    inputs: dict[Factor, GroupDraft] = field(default_factory=dict)
    sums: dict[GroupDraft, fx.Node] = field(default_factory=dict)

    @classmethod
    def of(cls, program: torch.export.ExportedProgram) -> Walk:
        """A walk at the start of an exported program: its parameters, and its inputs, whose units are still open."""
        walk, signature = cls(program), program.graph_signature
        paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        trained = {path for path, entry in program.state_dict.items() if entry.is_floating_point()}
        first = {_memory(path, entry): path for path, entry in reversed(program.state_dict.items())}
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            found = node.meta.get("val")
            axes = positions(found.shape) if isinstance(found, Tensor) else ()
            path = paths.get(node.name)
            if path in trained and node.users:
                path = first[_memory(path, program.state_dict[path])]
                axes = tuple((Factor(ax.Index(ax.size_of(expr), open=True)),) for expr in axes)
                walk.values[node] = Value(axes, parameter=path)
            elif node.name in signature.user_inputs and isinstance(found, Tensor) and found.is_floating_point():
                walk._add_input(node, axes)
            else:
                walk.values[node] = Value(axes)
        return walk

    def _add_input(self, node: fx.Node, axes: Axes) -> None:
        draft = GroupDraft(node.name, "input", node=node)
        if len(axes) == 1 and ax.size_of(axes[0]) in self._batch_sizes():
            # One number for each network input of a batch, such as a time.
            draft.units = (Factor(ax.Index(1), draft),)
            self.draft.groups.append(draft)
        self.inputs |= {expr[0]: draft for expr in (axes[1:] if len(axes) > 1 else axes)}
        self.values[node] = Value(axes, {draft: ""}, chain=(node,))

    def _batch_sizes(self) -> set[int]:
        names = self.program.graph_signature.user_inputs
        found = [node.meta.get("val") for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names]
        return {int(tensor.shape[0]) for tensor in found if isinstance(tensor, Tensor) and tensor.dim() > 1}

    def is_constant(self, node: fx.Node) -> bool:
        """Whether a tensor, or all of several, depend on no units and no parameter."""
        found = self.values[node]
        return all(value.is_constant for value in (found if isinstance(found, list) else [found]))

    def value(self, node: fx.Node) -> Value:
        """What is known of a single tensor; one whose first axis runs over states of several layers becomes one group."""
        found = self.values[node]
        assert isinstance(found, Value), "an operation with several results is read through getitem"
        if found.entries:
            axes = (positions([len(found.entries)])[0], *found.entries[0].axes)
            parts = [replace(entry, axes=(ax.blank(), *entry.axes)) for entry in found.entries]
            found = self.values[node] = self.combine(node, parts, axes, operation="join", dim=0)
        if found.is_constant:
            # What a constant that does not change along an axis meets here, it need not meet elsewhere.
            fresh = {
                id(f): Factor(ax.Index(f.size)) for expr in found.axes for f in ax.flat(expr) if f.size > 1 and not f.index.fixed
            }
            found = replace(found, axes=tuple(tuple(fresh.get(id(f), f) for f in ax.flat(expr)) for expr in found.axes))
        return found

    def stored(self, path: str) -> Value:
        """A parameter as it is stored."""
        return next(v for n, v in self.values.items() if n.op == "placeholder" and isinstance(v, Value) and v.parameter == path)

    def layer_name(self, node: fx.Node, path: str, otherwise: str) -> str:
        """Name of the layer that an operation is: that of its parameter, or of its module where several share the parameter."""
        memory = [_memory(other, entry) for other, entry in self.program.state_dict.items()]
        is_tied = memory.count(_memory(path, self.program.state_dict[path])) > 1
        return (module_path(node) if is_tied else "") or layer_name(path, otherwise)

    def is_weight(self, node: fx.Node) -> bool:
        """Whether a tensor is a parameter, or a part or view of one."""
        return self.value(node).parameter is not None

    def as_units(self, node: fx.Node, source: fx.Node, *, whole: bool = False) -> Value:
        """A value that is computed from units: a parameter that is read as a tensor becomes a table.

        Args:
            node: The operation that reads it.
            source: The tensor.
            whole: Whether each entry of a parameter becomes a unit, since it is not known yet which axes are positions.
        """
        value = self.value(source)
        if value.parameter is None:
            return value
        return add_table(self, node, value, None) if whole else self.table(node, value)

    def table(self, node: fx.Node, value: Value, *, like: Value | None = None) -> Value:
        """A parameter as a table of units by position; its units are its last axis, or where `like` has units."""
        shape = tuple(ax.size_of(expr) for expr in value.axes)
        last = {id(leaf) for expr in self.stored(value.parameter or "").axes if ax.size_of(expr) > 1 for leaf in ax.leaves(expr)}
        for expr in self.stored(value.parameter or "").axes:
            last = {id(leaf) for leaf in ax.leaves(expr)} if ax.size_of(expr) > 1 else last
        wide = [place for place, size in enumerate(shape) if size > 1]
        own = [place for place in wide if any(id(leaf) in last for leaf in ax.leaves(value.axes[place]))]
        axis = own[-1] if own else wide[-1] if wide else len(shape) - 1
        if like is not None:
            offset = len(like.axes) - len(shape)
            bearing = [k for k in range(len(shape)) if k + offset >= 0 and ax.units_in(like.axes[k + offset]) and shape[k] > 1]
            axis = bearing[-1] if bearing else axis
        return add_table(self, node, value, axis)

    def shown(self, node: fx.Node, argument: Any, units: Sequence[Expr], *, role: str = "weight") -> Shown:
        """A parameter whose first axes run over some units.

        Raises:
            UnsupportedLayerError: It is computed.
        """
        path = parameter_path(self, node, argument, role)
        value = self.value(argument)
        links = [(expr, own) for expr, own in zip(value.axes, units, strict=False) if ax.size_of(expr) > 1]
        for expr, own in links:
            ax.unify(expr, own)
        # Single entries that were cut from a longer axis.
        single = [factor for expr in value.axes if ax.size_of(expr) == 1 for factor in expr if factor.parent is not None]
        chosen = [(expr, ()) for expr in ((*value.hidden, *single),) if expr]
        return Shown(path, self.stored(path).axes, (*links, *chosen))

    def new_units(self, argument: fx.Node, axis: int, target: GroupDraft) -> Expr:
        """Units of a group, one for each entry of a parameter's axis."""
        return tuple(
            factor.mirrored(target) for factor in ax.flat(self.value(argument).axes[axis]) if not isinstance(factor, ax.Blank)
        )

    def units_on(self, value: Value, axis: int) -> None:
        """Decides that an input's units are on an axis, if that is still open: the first factor of the axis."""
        if self._commit_on(value.axes[axis]):
            return
        open_inputs = [draft for draft in value.texts if not draft.units]
        if ax.size_of(value.axes[axis]) == 1 and len(open_inputs) == 1:
            # The axis was made by a view: the input has one unit, and all its entries are positions.
            self._commit(value.axes[axis][0], open_inputs[0])

    def _commit_on(self, expr: Expr) -> bool:
        for factor in expr:
            whole = factor
            while whole.parent is not None:
                whole = whole.parent
            if whole in self.inputs:
                self._commit(whole, self.inputs[whole])
                return True
        return False

    def is_open(self, expr: Expr) -> bool:
        """Whether an axis may yet turn out to run over the units of an input."""
        return any(factor in self.inputs or (factor.parent is not None and self.is_open((factor.parent,))) for factor in expr)

    def default_units(self, value: Value) -> None:
        """Decides for an input that an operation reads as it is: units are the channels, the first axis after the batch."""
        for expr in value.axes:
            self._commit_on(expr)

    def _commit(self, factor: Factor, draft: GroupDraft) -> None:
        for other in [f for f, d in self.inputs.items() if d is draft]:
            del self.inputs[other]
        factor.claim(draft)
        draft.units = (factor,)
        self.draft.groups.append(draft)

    def add_group(self, node: fx.Node, name: str, role: Role = "hidden") -> GroupDraft:
        """A new draft of a group, its units to be set."""
        taken = {group.name for group in self.draft.groups}
        group = GroupDraft(free_name(name, taken), role, node=node)
        self.draft.groups.append(group)
        return group

    def add_block(self, block: BlockDraft) -> None:
        """Appends a block."""
        self.settle_inputs(block.texts)
        self.draft.blocks.append(block)

    def pool(self, node: fx.Node, name: str) -> None:
        """Records what an operation does across positions with the units of all groups that it reads."""
        for source in node.all_input_nodes:
            found = self.values[source]
            for value in found if isinstance(found, list) else [found]:
                for draft in value.texts:
                    if draft.role != "input":
                        draft.pooling.add(name)

    def note(self, factors: Expr) -> None:
        """Records that a tensor has these factors and no others, so that no permutation may depend on what is missing."""
        self.draft.together.append(tuple(factors))

    def noted(self, node: fx.Node, value: Value) -> Value:
        """The value, its units recorded."""
        self.note(tuple(value.units()))
        return value

    def made(self, node: fx.Node, draft: GroupDraft, axes: Axes, *, chain: tuple[fx.Node, ...] = (), hidden: Expr = ()) -> Value:
        """The result of a layer."""
        self.note(draft.units)
        return self.noted(node, Value(axes, {draft: ""}, hidden, chain=(*chain, node)))

    def follow(self, node: fx.Node, value: Value, axes: Axes, *, text: str = "") -> Value:
        """The result of an operation on the units of the same groups, perhaps an element-wise function of them."""
        if value.parameter is not None:
            return replace(value, axes=axes)
        texts = {draft: f"{old}|{text}" if old and text else old or text for draft, old in value.texts.items()}
        return self.noted(node, replace(value, axes=axes, texts=texts, chain=(*value.chain, node) if value.chain else ()))

    def side_by_side(self, node: fx.Node, parts: Sequence[Value], dim: int) -> tuple[list[Value], dict[GroupDraft, str]]:
        """Parts that are put side by side on an axis, and the element-wise functions of their units.

        A part that shows the same units as an earlier one, but another function of them, becomes a group of its own.
        """
        texts: dict[GroupDraft, str] = {}
        seen: set[int] = set()
        result: list[Value] = []
        for part in parts:
            if not ax.units_in(part.axes[dim]):
                # A constant, or a statistic of other units: one node for each of its entries.
                part = self.folded(node, part, [dim], name=result_name(node))
            differs = [draft for draft, text in part.texts.items() if texts.get(draft, text) != text]
            if differs and seen & {atom.key for atom in ax.atoms(part.own(part.axes[dim]))}:
                part = self.combine(node, [part], part.axes, operation="identity", dim=dim)
                differs = []
            own = {atom.key for atom in ax.atoms(part.axes[dim])}
            if own & seen:
                again = tuple(factor.again() for factor in ax.flat(part.axes[dim]))
                part = replace(part, axes=tuple(again if axis == dim else expr for axis, expr in enumerate(part.axes)))
            joined = {draft: f"join({texts[draft] or 'x'},{part.texts[draft] or 'x'})" for draft in differs}
            texts |= part.texts | joined
            seen |= own
            result.append(part)
        return result, texts

    def as_positions(self, node: fx.Node, value: Value, changed: Iterable[int]) -> Value:
        """A value whose units on some axes are fixed in their places, since what comes treats them as positions."""
        touched = [axis for axis in changed if ax.units_in(value.axes[axis])]
        for axis in touched:
            ax.pin(value.axes[axis])
        left = [k for k, expr in enumerate(value.axes) if k not in touched and any(f.size > 1 for f in value.own(expr))]
        if left and any(value.own(value.axes[axis]) for axis in touched):
            value = self.folded(node, value, left, name=result_name(node))
        axes = list(value.axes)
        for axis in touched:
            axes[axis] = positions([ax.size_of(axes[axis])])[0]
        return replace(value, axes=tuple(axes))

    def folded(self, node: fx.Node, value: Value, read: Sequence[int], *, name: str) -> Value:
        """The value as a layer sees it that is applied along some axes, the same at all entries of the others.

        Where those axes run over positions, or the group has units on other axes too, a structural group stands between:
        one node for each entry of the axes. The units on other axes are then beside it, as positions are.
        """
        units = [factor for axis in read for factor in ax.units_in(value.axes[axis])]
        elsewhere = [f for axis, expr in enumerate(value.axes) if axis not in read for f in value.own(expr) if f.size > 1]
        if units and len(value.own(units)) == len(units) and not elsewhere:
            return value
        uniform = value.is_constant and not any(value.varies(len(value.axes) - axis) for axis in read)
        target = self.add_group(node, f"{name}.entries", role="structural" if value.texts or uniform else "input")
        axes = list(value.axes)
        for axis in read:
            own = ax.units_in(axes[axis])
            mirrored = {id(f): f.mirrored(target) for f in own}
            if not units:
                mirrored = {id(f): Factor(ax.Index(f.size, pinned=not uniform), target) for f in ax.flat(axes[axis])}
            axes[axis] = tuple(mirrored.get(id(f), f) for f in ax.flat(axes[axis]))
            target.units += tuple(mirrored.values())
        self.add_identity(target, value, "entries")
        return self.made(node, target, tuple(axes))

    def mirror(self, node: fx.Node, value: Value, read: Sequence[int], *, name: str) -> tuple[GroupDraft, Axes, Pairs]:
        """A new group whose units agree with those of a value on some axes.

        Returns:
            The group, the value's axes over it, and the value's factors beside the group's.
        """
        target = self.add_group(node, name)
        pairs = tuple((f, f.mirrored(target)) for axis in read for f in ax.units_in(value.axes[axis]))
        mirrored = {id(f): own for f, own in pairs}
        axes = tuple(
            tuple(mirrored.get(id(f), f) for f in ax.flat(expr)) if axis in read else expr for axis, expr in enumerate(value.axes)
        )
        target.units = tuple(own for _, own in pairs)
        return target, axes, pairs

    def settle_inputs(self, drafts: Iterable[GroupDraft]) -> None:
        """Decides for inputs that are read in any other way: their units are the channels."""
        for draft in drafts:
            for factor in [f for f, d in self.inputs.items() if d is draft][:1]:
                self._commit(factor, draft)

    def add_identity(self, target: GroupDraft, value: Value, operation: str) -> None:
        """Structural edges between units of a value and of a group that stand for the same index entries."""
        self.settle_inputs(value.texts)
        shared = []
        for factor in value.units():
            if factor.size == 1 and operation != "join":
                # One unit beside many meets them all, also where it is one of them.
                continue
            match = next((own for own in ax.parts_of(target.units) if own.index.find() is factor.index.find()), None)
            if match is not None:
                shared.append((factor, match))
        source = tuple(value.units())
        for draft in value.texts:
            own = tuple(f for f in source if _belongs(f, draft))
            if not own:
                # A statistic of a whole group, or units that were summed over.
                own = draft.units
            pairs = tuple((a, b) for a, b in shared if any(a is f for f in own))
            self.draft.blocks.append(
                BlockDraft(target.name, operation, target, self._whole(draft, own), {draft: value.texts[draft]}, pairs)
            )
            if len(value.texts) > 1 and any(f.draft is None for f in own):
                return

    def _whole(self, draft: GroupDraft, own: Expr) -> Expr:
        """The factors, with those of the group that a value no longer has on an axis."""
        have = {id(leaf) for leaf in ax.leaves(own)}
        missing = [factor for factor in ax.flat(draft.units) if not have & {id(leaf) for leaf in ax.leaves([factor])}]
        return (*own, *missing) if have & {id(leaf) for leaf in ax.leaves(draft.units)} else own

    def combine(
        self, node: fx.Node, values: Sequence[Value], axes: Axes, *, operation: str, dim: int | None = None, hidden: Expr = ()
    ) -> Value:
        """A new group computed without parameters from several others; an edge's ends agree on the indices that both have."""
        carried = [factor for expr in axes for factor in ax.units_in(expr) if factor.size > 1]
        if operation == "join":
            for value in values[1:]:
                for axis, (first, second) in enumerate(zip(values[0].axes, value.axes, strict=True)):
                    if axis != dim:
                        ax.unify(first, second)
            carried = [factor for expr in axes for factor in ax.units_in(expr) if factor.size > 1]
        carried += [factor for factor in ax.flat(hidden) if factor.size > 1]
        target = self.add_group(
            node, result_name(node), role="structural" if not carried or operation in ("attention", "matmul") else "hidden"
        )
        mirrored = {id(f): f.mirrored(target) for f in carried}
        for f in (f for expr in axes for f in ax.flat(expr)):
            # Copies that a later operation gave a meaning: they move, though no parameter has them.
            if id(f) not in mirrored and f.draft is None and f.size > 1 and not f.index.find().pinned and not ax.units_in([f]):
                mirrored[id(f)] = f.mirrored(target)
        result = tuple(tuple(mirrored.get(id(f), f) for f in ax.flat(expr)) for expr in axes)
        everywhere = (hidden, *axes)
        target.units = tuple(mirrored[id(f)] for expr in everywhere for f in ax.flat(expr) if id(f) in mirrored) or (
            Factor(ax.Index(1), target),
        )
        for value in values:
            self.add_identity(target, value, operation)
        kept = tuple(mirrored[id(f)] for f in ax.flat(hidden) if id(f) in mirrored)
        return self.made(node, target, result, hidden=kept)

    def joinable(self, value: Value, shape: Sequence[int]) -> GroupDraft | None:
        """The group of a branch whose raw sum nothing else reads, so that another branch can be added to its units."""
        if len(value.texts) != 1 or not value.chain or tuple(map(ax.size_of, value.axes)) != tuple(shape):
            return None
        draft, text = next(iter(value.texts.items()))
        if text or draft.role != "hidden" or any(len(step.users) != 1 for step in value.chain):
            return None
        if any(name not in _ADDED for name, _ in draft.features):
            # A learned factor on its nodes would seem to multiply the other branch too.
            return None
        own = [f for expr in value.axes for f in ax.units_in(expr) if f.size > 1]
        return draft if {id(f) for f in ax.flat(draft.units) if f.size > 1} == {id(f) for f in own} and own else None

    def comes_from(self, target: GroupDraft, value: Value) -> bool:
        """Whether a group was computed from a value's groups, as a residual branch is from its stream."""
        sources: dict[GroupDraft, set[GroupDraft]] = {}
        for block in self.draft.blocks:
            sources.setdefault(block.target, set()).update(block.texts)
        seen, queue = {target}, [target]
        while queue:
            for draft in sources.get(queue.pop(), set()) - seen:
                seen.add(draft)
                queue.append(draft)
        return target not in value.texts and all(draft in seen for draft in value.texts)

    def finish(self, outputs: Sequence[fx.Node]) -> None:
        """Marks the groups that the module gives back; all others keep their role.

        Raises:
            UnsupportedLayerError: An output is the input itself, or depends on no layer.
        """
        found = {node: self.value(node) for node in outputs if isinstance(node.meta.get("val"), Tensor)}
        for value in found.values():
            ax.pin(value.numbers)
        # Positions of a maximum, masks and inputs that are handed on are no result of a layer.
        real = [node for node, value in found.items() if node.meta["val"].is_floating_point() and not self._is_input(value)]
        if not real:
            name, shape = (outputs[0].name, tuple(outputs[0].meta["val"].shape)) if outputs else ("none", ())
            raise UnsupportedLayerError(
                f"output {name!r} of shape {shape} is not the result of a layer; "
                "expected an output that comes from a layer with units"
            )
        for node in real:
            value = found[node]
            self.settle_inputs(value.texts)
            # What is given back has its places, also where it stands beside the units of another layer.
            ax.pin(value.units())
            if not any(value.own(expr) for expr in value.axes):
                # All units were summed over: one node for what is left.
                target = self.add_group(node, result_name(node))
                target.units = (Factor(ax.Index(1), target),)
                self.add_identity(target, value, "output")
                value = self.values[node] = self.made(node, target, value.axes)
            for draft, text in value.texts.items():
                self.draft.reads.append((draft, text))
                draft.role = "output"

    def _is_input(self, value: Value) -> bool:
        return all(draft.role == "input" for draft in value.texts)

    def graph(self, entries: Mapping[str, Tensor], trained: Set[str]) -> NeuralGraph:
        """The finished graph with the values of a state dict, some of whose paths are parameters.

        Raises:
            UnsupportedLayerError: A parameter does not reach the output, or is read in parts that overlap.
        """
        shown = {block.weight.path for block in self.draft.blocks if block.weight is not None}
        shown |= {feature.path for group in self.draft.groups for _, feature in group.features}
        for path in shown:
            self.note(tuple(f for expr in self.stored(path).axes for f in expr))
        owners: dict[tuple, str] = {}
        for path in sorted(entries, key=lambda path: path not in shown):
            owners.setdefault(_memory(path, entries[path]), path)
        owner = {path: owners[_memory(path, entry)] for path, entry in entries.items()}
        unreached = [path for path in entries if path in trained and owner[path] not in shown]
        if unreached:
            raise UnsupportedLayerError(
                f"{', '.join(map(repr, unreached))} of the state dict {'does' if len(unreached) == 1 else 'do'} not reach the "
                "output; expected every parameter to be used: remove what is unused, or pass an example input that uses it"
            )
        try:
            topology = self.draft.topology(
                [(path, tuple(entry.shape)) for path, entry in entries.items() if path in shown and owner[path] == path],
                tied=[(path, owner[path]) for path in entries if owner[path] in shown and owner[path] != path],
                buffers=[path for path in entries if owner[path] not in shown],
                order=list(entries),
            )
        except GraphError as error:
            raise UnsupportedLayerError(f"cannot trace the module: {error}") from error
        return NeuralGraph.from_state_dict(topology, entries)


def _memory(path: str, entry: Tensor) -> tuple:
    """What two state-dict entries that are one tensor have in common."""
    return (entry.data_ptr(), entry.shape, entry.stride()) if entry.numel() else (path,)


def _belongs(factor: Factor, draft: GroupDraft) -> bool:
    return any(leaf.draft is draft for leaf in ax.leaves([factor]))
