"""From a torch module to its neural graph: its exported operations are walked once, and each adds its groups and blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import layers
from ngbench.graph.axes import Axes, Factor, fresh
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.topology import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Role, Topology


def trace(module: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> NeuralGraph:
    """The neural graph of a module; its values are views of the module's parameters.

    The module is walked in evaluation mode through `torch.export` and left as it was. An input of more than one axis
    has the batch first; the units of an input are the axis that the first layer reads.

    Args:
        module: Any module made of supported operations (`ngbench.graph.layers.supported`).
        example_input: One input of the right shape, or a tuple of all inputs.

    Raises:
        UnsupportedLayerError: The module does not run, an operation cannot be expressed, a parameter does not reach the
            output or stands in the state dict under two names; the text names the path of the module or parameter.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    program = _export(module, inputs)
    _simplify(program.graph)
    walk = Walk.of(program)
    for node in program.graph.nodes:
        if node.op == "call_function":
            walk.axes[node] = layers.apply(walk, node)
        elif node.op == "output":
            walk.finish([value for value in node.args[0] if isinstance(value, fx.Node)])
    state_dict = _state_dict(module)
    topology = walk.topology({path: tuple(tensor.shape) for path, tensor in state_dict.items()})
    return NeuralGraph.from_state_dict(topology, state_dict)


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, strict=False)
    # The module's own forward pass runs here, and may raise any of these by itself.
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise UnsupportedLayerError(
            f"{type(module).__name__} does not run under torch.export with inputs of shape {shapes} ({reason.strip()}); "
            "expected a forward pass without data-dependent control flow, and an example input that it accepts"
        ) from error
    finally:
        for child, training in modes.items():
            child.training = training


def _simplify(graph: fx.Graph) -> None:
    """Takes out assertions on types and operations that nothing reads; of the latter only in-place ones remain."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _state_dict(module: nn.Module) -> dict[str, Tensor]:
    first_paths: dict[int, str] = {}
    state_dict = module.state_dict(keep_vars=True)
    for path, tensor in state_dict.items():
        first = first_paths.setdefault(id(tensor), path)
        if first != path:
            raise UnsupportedLayerError(
                f"state-dict entries {first!r} and {path!r} are one tied parameter; "
                "expected one name for each: register the shared module once and call it twice"
            )
    return {path: tensor.detach() for path, tensor in state_dict.items()}


@dataclass(eq=False)
class GroupDraft:
    """A node group while its activation and role are still being found out.

    `tail` is the operation whose result the group's units stand for so far; an element-wise operation that alone reads
    the tail is the group's activation, any other gets a group of its own.
    """

    name: str
    role: Role
    layer: int
    tail: fx.Node
    size: int = 0
    operations: list[str] = field(default_factory=list)
    features: list[NodeFeature] = field(default_factory=list)

    def activation(self) -> str:
        """The operations in order, ``sin(w * x)`` as ``sine(w)``."""
        text = "|".join(self.operations) or "none"
        return re.sub(r"mul\(([^()|]*)\)\|sine\(1\)", r"sine(\1)", text)


@dataclass
class Walk:
    """What is known of a graph while its operations are walked in order; the rules in `layers` read and extend it."""

    parameter_paths: dict[fx.Node, str]
    axes: dict[fx.Node, Axes] = field(default_factory=dict)
    groups: list[GroupDraft] = field(default_factory=list)
    blocks: list[EdgeBlock] = field(default_factory=list)
    units: dict[Factor, GroupDraft] = field(default_factory=dict)
    inputs: dict[Factor, GroupDraft] = field(default_factory=dict)

    @classmethod
    def of(cls, program: torch.export.ExportedProgram) -> Walk:
        """A walk at the start of an exported program, its inputs' axes set."""
        signature = program.graph_signature
        paths = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        stored = set(paths) - {name for name, path in paths.items() if path in signature.non_persistent_buffers}
        walk = cls({node: paths[node.name] for node in placeholders if node.name in stored})
        for node in placeholders:
            if node.name in signature.user_inputs and isinstance(node.meta.get("val"), Tensor):
                walk._add_input(node)
        return walk

    def _add_input(self, node: fx.Node) -> None:
        self.axes[node] = fresh(node.meta["val"].shape)
        draft = GroupDraft(node.name, "input", layer=0, tail=node)
        batch_first = len(self.axes[node]) > 1
        self.inputs.update({axis[0]: draft for axis in self.axes[node][batch_first:]})

    def units_of(self, factors: Iterable[Factor]) -> list[Factor]:
        """Those of some factors that are the units of a group; for a fresh input, the first factor becomes the units."""
        factors = list(factors)
        found = [factor for factor in factors if factor in self.units]
        if not found:
            for factor in factors:
                if factor in self.inputs:
                    self._commit(factor)
                    return [factor]
        return found

    def sole_units(self, axis: Iterable[Factor]) -> Factor | None:
        """The units that an axis runs over, if it runs over nothing else; None otherwise."""
        factors = list(axis)
        units = self.units_of(factors)
        return units[0] if len(units) == 1 and math.prod(factor.size for factor in factors) == units[0].size else None

    def _commit(self, factor: Factor) -> None:
        draft = self.inputs[factor]
        draft.name = unique(draft.name, (group.name for group in self.groups))
        for other in [f for f, d in self.inputs.items() if d is draft]:
            del self.inputs[other]
        draft.size = factor.size
        self.units[factor] = draft
        self.groups.append(draft)

    def owner(self, node: fx.Node) -> GroupDraft | None:
        """The group whose units, or the fresh input whose entries, a value consists of; None where it has neither or several."""
        factors = [factor for axis in self.axes[node] for factor in axis]
        owners = [self.units[f] for f in factors if f in self.units] or list(
            {id(d): d for f in factors if (d := self.inputs.get(f))}.values()
        )
        return owners[0] if len(owners) == 1 else None

    def follow(self, node: fx.Node, source: fx.Node) -> None:
        """Lets a group's tail move to an operation that only moves or pools what it reads."""
        draft = self.owner(source)
        if draft is not None and draft.tail is source and len(source.users) == 1:
            draft.tail = node

    def add_group(self, node: fx.Node, *, name: str, size: int, layer: int) -> tuple[Factor, GroupDraft]:
        """A new hidden group and the factor that runs over its units."""
        draft = GroupDraft(unique(name, (group.name for group in self.groups)), "hidden", layer=layer, tail=node, size=size)
        factor = Factor(size)
        self.groups.append(draft)
        self.units[factor] = draft
        return factor, draft

    def add_block(self, block: EdgeBlock) -> None:
        """Appends a block; a name that is taken gets a number."""
        name = unique(block.name, (other.name for other in self.blocks))
        self.blocks.append(EdgeBlock(**{**vars(block), "name": name}))

    def finish(self, outputs: list[fx.Node]) -> None:
        """Marks the groups that the module gives back.

        Raises:
            UnsupportedLayerError: An output has no units, or is the input itself.
        """
        for node in outputs:
            draft = self.owner(node)
            if draft is None or draft.role == "input":
                raise UnsupportedLayerError(
                    f"output {node.name!r} of shape {tuple(node.meta['val'].shape)} is not the result of a layer; "
                    "expected each output of the module to come from a linear or convolutional layer"
                )
            draft.role = "output"

    def topology(self, shapes: dict[str, tuple[int, ...]]) -> Topology:
        """The finished topology.

        Args:
            shapes: Path and shape of every state-dict entry.

        Raises:
            UnsupportedLayerError: An entry does not reach the output.
        """
        shown = {view.path for view in self._views()}
        unreached = [path for path in shapes if path not in shown]
        if unreached:
            verb = "does" if len(unreached) == 1 else "do"
            raise UnsupportedLayerError(
                f"{', '.join(map(repr, unreached))} of the state dict {verb} not reach the output; "
                "expected every parameter to be used: remove what is unused, or pass an example input that uses it"
            )
        groups = tuple(NodeGroup(g.name, g.size, g.role, g.activation(), g.layer, tuple(g.features)) for g in self.groups)
        return Topology(groups, tuple(self.blocks), tuple(shapes.items()))

    def _views(self) -> Iterable[ParameterView]:
        yield from (feature.parameter for group in self.groups for feature in group.features)
        yield from (block.parameter for block in self.blocks if block.parameter is not None)


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with the first free number behind it where it is taken."""
    taken = set(taken)
    numbered = (f"{name}:{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(candidate for candidate in numbered if candidate not in taken)
