"""Networks of one topology run on inputs, all of them in one call: what every node gives, for each network and each input."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel

from ngbench.errors import GraphError, UnsupportedLayerError
from ngbench.graph.axes import Factor, size_of
from ngbench.graph.draft import GroupDraft, Units, Value
from ngbench.graph.layers.rule import operation_name
from ngbench.graph.layout import unpack
from ngbench.graph.topology import Topology
from ngbench.graph.trace import walk_module
from ngbench.graph.walk import Walk

Shown = Literal["given", "sum"]
_Key = tuple[str, Shown]


class Program:
    """The operations of a traced module, to be run with the values of any networks of its topology.

    The activation of a node is what its unit gives after its activation function, in evaluation mode, averaged over all
    positions, tokens or pixels; that of an input node is the input itself, averaged likewise. Groups that no tensor of the
    module shows, such as the scores inside a fused attention and tables of positions, have activation zero.

    Build one with `Program.of`.

    Attributes:
        topology: As `trace` gives it.
        inputs: Shape of each input by name, in order, the batch left out.
    """

    def __init__(self, walk: Walk, topology: Topology):
        signature, shown = walk.program.graph_signature, {path for path, _ in (*topology.parameters, *topology.tied)}
        self.topology = topology
        self._shapes = _input_shapes(walk)
        self.inputs = {name: shape[len(batch) :] for name, (batch, shape) in self._shapes.items()}
        units_of: dict[_Key, Units] = {(name, "given"): units for name, units in walk.draft.units.items()}
        units_of |= {(name, "sum"): replace(units, text="") for name, units in walk.draft.units.items() if units.text}
        taps = {key: tap for key, units in units_of.items() if (tap := _tap(walk, units)) is not None}
        # a unit without a function gives its sum
        taps |= {(name, "sum"): tap for (name, _), tap in taps.items() if not walk.draft.units[name].text}
        self._graph, copies = _functional(walk.program.graph, [tap.node for tap in taps.values()])
        self._taps = {key: replace(tap, node=copies[tap.node]) for key, tap in taps.items()}
        self._variants: dict[tuple[Topology, ...], Program] = {}
        paths = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        names = [str(node.target) for node in self._graph.find_nodes(op="placeholder")]
        stored = {**walk.program.state_dict, **walk.program.constants}
        self._paths = {name: paths.get(name) for name in names}
        self._constants = {path: stored[path].detach() for path in self._paths.values() if path is not None and path not in shown}
        self._dtype = next((entry.dtype for entry in stored.values() if _is_real(entry)), torch.get_default_dtype())
        self._functions: dict[tuple[tuple[_Key, ...], torch.dtype, torch.device], _Function] = {}

    @classmethod
    def of(
        cls,
        module: nn.Module,
        example_input: Tensor | tuple[Tensor, ...] = (),
        example_kwargs: Mapping[str, Tensor] | None = None,
    ) -> Program:
        """The program of a module; arguments as of `trace`.

        An example of one entry in its batch is the cheapest, since every input is run in the example's shape.

        Raises:
            UnsupportedLayerError: As of `trace`, or an input holds no real numbers.
        """
        walk, graph = walk_module(module, example_input, example_kwargs)
        return cls(walk, graph.topology)

    def variant(self, *topologies: Topology) -> Program:
        """The program of networks whose topologies differ from this one's in activations alone, without tracing.

        Args:
            topologies: One, or several: the program then reads networks of all of them in one call.

        Raises:
            GraphError: One differs in more, or in an activation that is not one of torch's plain functions.
        """
        if topologies == (self.topology,):
            return self
        if topologies not in self._variants:
            self._variants[topologies] = self._with_activations(topologies)
        return self._variants[topologies]

    def _with_activations(self, topologies: tuple[Topology, ...]) -> Program:
        other = next((topology for topology in topologies if topology.structure != self.topology.structure), None)
        if other is not None:
            raise GraphError(
                f"topology {other.digest[:12]} differs from the program's in more than activations; expected the program of "
                "its own structure: make it with Program.of(module, example_input)"
            )
        program = copy.copy(self)
        program.topology, program._functions, program._variants = topologies[0], {}, {}
        program._graph, copies = _copied(self._graph)
        program._taps = {key: replace(tap, node=copies[tap.node]) for key, tap in self._taps.items()}
        choice = None
        for own, *groups in zip(self.topology.groups, *(topology.groups for topology in topologies), strict=True):
            names = [group.activation for group in groups]
            if set(names) != {own.activation}:
                tap = program._taps.get((own.name, "given"))
                if choice is None and len(set(names)) > 1:
                    choice = _add_choice(program._graph)
                _exchange(own.name, None if tap is None else tap.node, (own.activation, *names), choice)
        if choice is not None:
            program._paths = {_CHOICE: None, **self._paths}
        return program

    def activations(self, values: Tensor, inputs: Tensor | tuple[Tensor, ...], *, variant: Tensor | None = None) -> Tensor:
        """What all nodes of some networks give for some inputs, in one batched call; differentiable in values and inputs.

        Args:
            values: Canonical value rows, ``[graphs, values]``.
            inputs: ``[probes, *input shape]`` for each input of the module, in the order of `inputs`.
            variant: Which topology each network has, int64 ``[graphs]``, where the program is the `variant` of several.

        Returns:
            ``[nodes, graphs, probes]``.

        Raises:
            GraphError: The inputs have other shapes than the module's, or the rows another length.
        """
        keys: tuple[_Key, ...] = tuple((group.name, "given") for group in self.topology.groups)
        found = {key[0]: tap.read(result) for key, (tap, result) in self._run(keys, values, inputs, variant).items()}
        num_probes = len(inputs[0] if isinstance(inputs, tuple) else inputs)
        rows = [
            found[group.name] if group.name in found else values.new_zeros(()).expand(len(values), num_probes, group.size)
            for group in self.topology.groups
        ]
        return torch.cat(rows, dim=-1).permute(2, 0, 1)

    def outputs(self, values: Tensor, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """What the output nodes give, as `activations` has it, ``[graphs, probes, outputs]``.

        Args:
            values: As of `activations`.
            inputs: As of `activations`.

        Raises:
            GraphError: As of `activations`.
        """
        keys: tuple[_Key, ...] = tuple((group.name, "given") for group in self.topology.groups if group.role == "output")
        return torch.cat([tap.read(result) for tap, result in self._run(keys, values, inputs, None).values()], dim=-1)

    def moments(
        self, values: Tensor, inputs: Tensor | tuple[Tensor, ...], *, of: Shown, groups: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means over inputs and positions of what units show, and of its square; both zero where no tensor shows it.

        Args:
            values: As of `activations`.
            inputs: As of `activations`.
            of: ``"given"``, as of `activations`, or ``"sum"``, what enters a unit's activation function.
            groups: Names of the node groups that are asked for, the others getting zeros; None for all.

        Returns:
            ``[graphs, nodes]`` twice.

        Raises:
            GraphError: As of `activations`.
        """
        keys: tuple[_Key, ...] = tuple((g.name, of) for g in self.topology.groups if groups is None or g.name in groups)
        runs = {key[0]: run for key, run in self._run(keys, values, inputs, None).items()}
        none = values.new_zeros(())
        parts = []
        for group in self.topology.groups:
            if group.name in runs:
                tap, result = runs[group.name]
                parts.append((tap.read(result).mean(1), tap.read(result.square()).mean(1)))
            else:
                parts.append((none.expand(len(values), group.size),) * 2)
        means, squares = zip(*parts, strict=True)
        return torch.cat(means, dim=1), torch.cat(squares, dim=1)

    def _run(
        self, keys: tuple[_Key, ...], values: Tensor, inputs: Tensor | tuple[Tensor, ...], variant: Tensor | None
    ) -> dict[_Key, tuple[_Tap, Tensor]]:
        """Tensors ``[graphs, probes, *shape]`` that show units, and where they stand in them, for those keys that any shows."""
        given = self._checked(inputs if isinstance(inputs, tuple) else (inputs,))
        function, constants, taps = self._function(keys, values.dtype, values.device)
        entries = unpack(self.topology, values)
        stored = constants | entries
        chosen = {} if variant is None else {_CHOICE: variant}
        arguments = [(given | chosen)[name] if path is None else stored[path] for name, path in self._paths.items()]
        of_inputs = tuple(0 if name in given else None for name in self._paths)
        of_graphs = tuple(0 if path in entries or name == _CHOICE else None for name, path in self._paths.items())
        # fused kernels for attention know no networks of their own weights: torch would run them one by one
        with sdpa_kernel(SDPBackend.MATH):
            results = torch.func.vmap(torch.func.vmap(function, of_inputs), of_graphs)(*arguments)
        return {key: (tap, result) for (key, tap), result in zip(taps.items(), results, strict=True)}

    def _checked(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The inputs by name."""
        got = [tuple(tensor.shape) for tensor in inputs]
        if len({len(tensor) for tensor in inputs}) != 1 or [shape[1:] for shape in got] != list(self.inputs.values()):
            wanted = ", ".join(f"{name} {['probes', *shape]}" for name, shape in self.inputs.items())
            raise GraphError(f"probe inputs have shapes {', '.join(map(str, got)) or 'none'}; expected {wanted}")
        return dict(zip(self.inputs, inputs, strict=True))

    def _function(self, keys: tuple[_Key, ...], dtype: torch.dtype, device: torch.device) -> _Function:
        """The operations up to some units for numbers of some type, what they read by path, and where the units stand.

        All is kept on the device, so that a call copies nothing to it and can be captured as a CUDA graph.
        """
        if (keys, dtype, device) not in self._functions:
            taps = {key: self._taps[key].to(device) for key in keys if key in self._taps}
            module = fx.GraphModule(nn.Module(), _in_type(self._graph, [*self._taps], [*taps], {self._dtype: dtype}, device))
            shapes = [self._shapes.get(name) for name in self._paths]

            def function(*arguments: Tensor) -> Any:
                batched = [
                    argument if shape is None else argument.expand(*shape[0], *argument.shape)
                    for argument, shape in zip(arguments, shapes, strict=True)
                ]
                return module(*batched)

            constants = {path: entry.to(device, dtype if _is_real(entry) else None) for path, entry in self._constants.items()}
            self._functions[keys, dtype, device] = function, constants, taps
        return self._functions[keys, dtype, device]


@dataclass(frozen=True)
class _Tap:
    """Where in a tensor the activations of a group's nodes stand.

    Args:
        node: The operation whose result the tensor is.
        entries: For each axis the entries that are nodes, in node order, int64 ``[entries]``; None for all as they are.
        split: Shape that the chosen entries are viewed with: for each axis its part of the nodes, then what is averaged.
        averaged: Axes of `split` that are averaged over.
        order: Axes of `split` that remain, in node order.
    """

    node: fx.Node
    entries: tuple[Tensor | None, ...]
    split: tuple[int, ...]
    averaged: tuple[int, ...]
    order: tuple[int, ...]

    def to(self, device: torch.device) -> _Tap:
        """The same on another device."""
        return replace(self, entries=tuple(None if entries is None else entries.to(device) for entries in self.entries))

    def read(self, result: Tensor) -> Tensor:
        """``[graphs, probes, *shape]`` to ``[graphs, probes, nodes]``."""
        for axis, entries in enumerate(self.entries, start=2):
            if entries is not None:
                result = result.index_select(axis, entries)
        result = result.reshape(*result.shape[:2], *self.split)
        result = result.permute(0, 1, *(2 + axis for axis in (*self.order, *self.averaged)))
        return result.flatten(2 + len(self.order)).mean(-1).reshape(*result.shape[:2], -1)


_Function = tuple[Callable[..., Any], dict[str, Tensor], dict[_Key, _Tap]]


def _tap(walk: Walk, units: Units) -> _Tap | None:
    """The first tensor that shows the units as they are after their function; of a sum, the one that all was added to."""
    first = walk.sums.get(units.draft) if not units.text else None
    for node, value in walk.values.items():
        if first is not None and node is not first:
            continue
        found = node.meta.get("val")
        if isinstance(value, list) or not isinstance(found, Tensor) or not found.is_floating_point():
            continue
        if value.texts.get(units.draft) == units.text and tuple(map(size_of, value.axes)) == tuple(found.shape):
            tap = _located(node, value, [leaf for leaf in units.leaves if leaf.size > 1])
            if tap is not None:
                return tap
    return None


def _located(node: fx.Node, value: Value, wanted: Sequence[Factor]) -> _Tap | None:
    """Where the units that run over some leaves stand in a tensor; None where it does not show each of them alike."""
    keys = [leaf.key for leaf in wanted]
    entries: list[Tensor | None] = []
    split: list[int] = []
    place: dict[int, int] = {}
    averaged: list[int] = []
    for expr in value.axes:
        found = _coordinates(expr, [key for key in keys if key not in place])
        own = [leaf for leaf in wanted if leaf.key in found]
        sizes = [leaf.size for leaf in own]
        valid = np.flatnonzero(np.all([found[leaf.key] >= 0 for leaf in own], axis=0)) if own else np.arange(size_of(expr))
        nodes = np.zeros(len(valid), dtype=np.int64)
        for leaf in own:
            nodes = nodes * leaf.size + found[leaf.key][valid]
        counts = np.bincount(nodes, minlength=math.prod(sizes))
        if not len(valid) or counts.min() != counts.max():
            return None
        chosen = valid[np.argsort(nodes, kind="stable")]
        entries.append(None if np.array_equal(chosen, np.arange(size_of(expr))) else torch.from_numpy(chosen))
        place |= {leaf.key: len(split) + number for number, leaf in enumerate(own)}
        averaged.append(len(split) + len(own))
        split += [*sizes, int(counts[0])]
    if set(place) != set(keys):
        return None
    return _Tap(node, tuple(entries), tuple(split), tuple(averaged), tuple(place[key] for key in keys))


def _coordinates(expr: Iterable[Factor], keys: Sequence[int]) -> dict[int, np.ndarray]:
    """For each leaf that an axis runs over, where each entry stands on it, int64 ``[entries]``; -1 where it does not."""
    whole: dict[int, np.ndarray] = {}
    num = 1
    for factor in expr:
        if factor.form == "leaf":
            own = {factor.key: np.arange(factor.size)} if factor.key in keys else {}
        elif factor.form == "product":
            own = _coordinates(factor.children(), keys)
        else:
            parts = [(child.size, _coordinates((child,), keys)) for child in factor.children()]
            own = {
                key: np.concatenate([part.get(key, np.full(size, -1)) for size, part in parts])
                for key in {key for _, part in parts for key in part}
            }
        whole = {key: np.repeat(found, factor.size) for key, found in whole.items()}
        whole |= {key: np.tile(found, num) for key, found in own.items() if key not in whole}
        num *= factor.size
    return whole


def _input_shapes(walk: Walk) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The batch, if there is one, and the whole shape of each input by name.

    Raises:
        UnsupportedLayerError: An input holds no real numbers.
    """
    shapes = {}
    names = set(walk.program.graph_signature.user_inputs)
    drafts: dict[fx.Node | None, GroupDraft] = {group.node: group for group in walk.draft.groups if group.role == "input"}
    for node in walk.program.graph.find_nodes(op="placeholder"):
        found = node.meta.get("val")
        if node.name not in names or not isinstance(found, Tensor):
            continue
        if not _is_real(found):
            raise UnsupportedLayerError(
                f"input {node.name!r} holds {str(found.dtype).removeprefix('torch.')}, which cannot be probed; "
                "expected inputs of real numbers: put probes in place of what an embedding gives"
            )
        shape, draft = tuple(found.shape), drafts.get(node)
        one_number_each = len(shape) == 1 and draft is not None and size_of(draft.units) == 1 < shape[0]
        shapes[node.name] = (shape[:1] if len(shape) > 1 or one_number_each else (), shape)
    return shapes


_aten = torch.ops.aten
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "relu": (_aten.relu.default, _aten.relu_.default),
    "leaky_relu(0.01)": (_aten.leaky_relu.default, _aten.leaky_relu_.default),
    "gelu": (_aten.gelu.default,),
    "silu": (_aten.silu.default, _aten.silu_.default),
    "tanh": (_aten.tanh.default, _aten.tanh_.default),
    "sigmoid": (_aten.sigmoid.default, _aten.sigmoid_.default),
}
"""Activations that are one operation of one tensor with no other argument, as `trace` names them; the first is not in place."""


_CHOICE = "_choice_of_activations"


def _add_choice(graph: fx.Graph) -> fx.Node:
    """A new first input: the number of the activations that a network has."""
    with graph.inserting_before(next(iter(graph.nodes))):
        return graph.placeholder(_CHOICE)


def _exchange(group: str, node: fx.Node | None, names: tuple[str, ...], choice: fx.Node | None) -> None:
    """Makes the operation of an activation that of another, or of one of several by the number `choice`.

    Args:
        group: Whose activation it is.
        node: The operation; None where there is none by itself.
        names: The activation before, and those that it becomes.
        choice: An int64 number.

    Raises:
        GraphError: One is not a plain function.
    """
    before, *after = names
    wrong = next((name for name in after if name != before and name not in _PLAIN), None)
    if node is None or wrong is not None or node.target not in _PLAIN.get(before, ()):
        raise GraphError(
            f"group {group!r} has activation {wrong or after[0]!r} in place of {before!r}; expected one of {', '.join(_PLAIN)} "
            "in place of another of them: make its program with Program.of(module, example_input)"
        )
    operations = [_PLAIN[name][0] for name in after]

    def chosen(units: Tensor, number: Tensor) -> Tensor:
        result = operations[0](units)
        for place, operation in enumerate(operations[1:], start=1):
            result = torch.where(number == place, operation(units), result)
        return result

    if len(set(after)) == 1:
        node.target, node.args, node.kwargs = operations[0], (node.args[0],), {}
    else:
        assert choice is not None, "several activations are told apart by a number"
        node.target, node.args, node.kwargs = chosen, (node.args[0], choice), {}


def _copied(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of some operations, and the copy of each."""
    found, copies = fx.Graph(), {}
    found.output(found.graph_copy(graph, copies))
    return found, copies


def _functional(graph: fx.Graph, taps: Sequence[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of the operations up to some results, which it gives back, and the copy of each; it neither writes nor draws."""
    found, copies = fx.Graph(), {}
    found.graph_copy(graph, copies)
    found.output(tuple(copies[node] for node in taps))
    for node in list(found.nodes):
        if node.op != "call_function":
            continue
        if operation_name(node).endswith("dropout") and operation_name(node) != "native_dropout":
            node.replace_all_uses_with(node.args[0])
        if node.target is _aten.batch_norm.default and not node.args[5]:
            node.target = _batch_norm
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            packet = getattr(torch.ops.aten, operation_name(node), None)
            overload = node.target._overloadname
            if packet is not None and overload in packet.overloads():
                node.target = getattr(packet, overload)
    found.eliminate_dead_code()
    for node in found.find_nodes(op="placeholder"):
        if not node.users:
            found.erase_node(node)
    return found, copies


def _batch_norm(
    images: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor, variance: Tensor, _training: bool, _momentum: float,
    epsilon: float, _cudnn: bool,
) -> Tensor:  # fmt: skip
    """Batch norm by running statistics, into which torch's own passes no gradient."""
    shape = (-1, *(1,) * (images.dim() - 2))
    factor = torch.rsqrt(variance + epsilon) if scale is None else scale * torch.rsqrt(variance + epsilon)
    offset = -mean * factor if shift is None else shift - mean * factor
    return images * factor.view(shape) + offset.view(shape)


def _in_type(
    graph: fx.Graph,
    keys: Sequence[_Key],
    wanted: Sequence[_Key],
    dtypes: Mapping[torch.dtype, torch.dtype],
    device: torch.device,
) -> fx.Graph:
    """A copy of the operations that gives some of the results and makes numbers of other types, on another device.

    Args:
        graph: The operations.
        keys: What its results are.
        wanted: Those that the copy gives.
        dtypes: Types for which it names others.
        device: That it names.
    """

    def adapted(argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return dtypes.get(argument, argument)
        return device if isinstance(argument, torch.device) else argument

    found, _ = _copied(graph)
    results: Any = found.output_node().args[0]
    found.output_node().args = (tuple(results[keys.index(key)] for key in wanted),)
    found.eliminate_dead_code()
    for node in found.nodes:
        if node.op == "call_function":
            node.args = map_aggregate(node.args, adapted)
            node.kwargs = map_aggregate(node.kwargs, adapted)
    return found


def _is_real(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.is_floating_point()
