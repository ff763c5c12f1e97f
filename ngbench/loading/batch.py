"""Many neural graphs at once: networks of one structure stand in one array, so that no code loops over networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import ParameterView, Program, Topology
from ngbench.graph.layout import show, split_rows, unpack
from ngbench.graph.neural_graph import pad_kernel
from ngbench.loading.probes import Programs
from ngbench.loading.stored import StoredValues

HIDDEN = "hidden"
"""Stands for an activation that is not told."""

VALUES_AT_ONCE = 2**24
"""Values that a pass over all networks takes at once, at most, unless one network has more: 64 MiB in float32."""


@dataclass(frozen=True)
class GraphBundle:
    """Networks of one structure: the same groups and blocks, perhaps other activations.

    Args:
        variants: Topologies that occur among the networks; they differ in activations only.
        variant: Which of them each network has, int64 ``[graphs]``.
        values: Canonical value rows, ``[graphs, values]``; of a large zoo `StoredValues`, which are read when they are asked for.
        index: Position of each network in the batch, int64 ``[graphs]``.
        programs: What runs the networks on inputs; None where only their values are known.
    """

    variants: tuple[Topology, ...]
    variant: Tensor
    values: Tensor
    index: Tensor
    programs: Programs | None = None

    @property
    def topology(self) -> Topology:
        """Groups, blocks and slots that all networks share; its activations are those of the first variant only."""
        return self.variants[0]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, rows: Tensor) -> GraphBundle:
        """Some of the networks, int64 ``[graphs]``; they keep their index."""
        return replace(self, variant=self.variant[rows], values=self.values[rows], index=self.index[rows])

    @property
    def is_stored(self) -> bool:
        """Whether the values stay in their file, so that each use reads them."""
        return isinstance(self.values, StoredValues)

    def measured(self, measure: Callable[[GraphBundle], Tensor]) -> Tensor:
        """What is measured of each network, `VALUES_AT_ONCE` at a time, float64 ``[..., graphs]`` on the CPU.

        Args:
            measure: From some of the networks to one number each, or several, ``[..., graphs]``.
        """
        size = max(1, VALUES_AT_ONCE // max(1, self.topology.num_values))
        if len(self) <= size and not self.is_stored:
            return measure(self).double().cpu()
        found = torch.empty(0)
        for start in range(0, len(self), size):
            rows = torch.arange(start, min(start + size, len(self)), device=self.index.device)
            of_part = measure(self.rows(rows)).double().cpu()
            # in one place from the start: results kept between large blocks that come and go would tear the heap apart
            found = found if start else torch.empty(*of_part.shape[:-1], len(self), dtype=torch.float64)
            found[..., start : start + size] = of_part
        return found

    def slots(self) -> dict[tuple[str, str | None], Tensor]:
        """Views of the values by owner and feature: ``[graphs, targets, sources, kernel]`` and ``[graphs, nodes]``."""
        parts = split_rows(self.topology, self.values)
        return {(slot.owner, slot.feature): part for slot, part in zip(self.topology.slots, parts, strict=True)}

    def block(self, name: str) -> Tensor:
        """Weights of one edge block, ``[graphs, targets, sources, kernel]``, as `NeuralGraph.block` of each network."""
        shape = self.topology.block_shape(name)
        view = self.topology.edge_block(name).parameter
        if view is None:
            return self.values.new_ones(()).expand(len(self), *shape)
        return self._values(name, None, view, shape)

    def node_feature(self, group: str, feature: str) -> Tensor:
        """One named feature of the nodes of a group, ``[graphs, nodes]``; zeros where the group has none of that name."""
        found = self.topology.group(group)
        for entry in found.features:
            if entry.name == feature:
                shape = (1,) if entry.shared else (found.size,)
                return self._values(group, feature, entry.parameter, shape).expand(len(self), found.size)
        return self.values.new_zeros(()).expand(len(self), found.size)

    def node_features(self, names: Sequence[str]) -> Tensor:
        """Named features of all nodes in canonical order, ``[nodes, graphs, features]``; zeros where a group lacks one."""
        groups = [group.name for group in self.topology.groups]
        features = [torch.cat([self.node_feature(group, name) for group in groups], 1) for name in names]
        return rearrange(features, "features graphs nodes -> nodes graphs features")

    def edge_weights(self, kernel: tuple[int, ...]) -> Tensor:
        """Weights of all edges in canonical order, each as a kernel of one shape, ``[edges, graphs, kernel]``.

        Args:
            kernel: Spatial shape that all get; smaller kernels are zero-padded and larger ones cut, both around the centre.
        """
        blocks = [
            rearrange(fit_kernel(self.block(block.name), block.kernel, kernel), "g t s k -> (t s) g k")
            for block in self.topology.blocks
        ]
        return torch.cat(blocks)

    def _values(self, owner: str, feature: str | None, view: ParameterView, shape: tuple[int, ...]) -> Tensor:
        """A slot's values, or for a tied parameter, whose slot another owner has, another view of the same entry."""
        index = self.topology.slot_index.get((owner, feature))
        if index is None:
            return show(unpack(self.topology, self.values)[view.path], view, shape, num_batch_axes=1)
        slot = self.topology.slots[index]
        return self.values[:, slot.start : slot.stop].unflatten(1, slot.shape)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each input of the networks, the batch left out.

        Raises:
            GraphError: Only values are known of the networks.
        """
        return tuple(self._program(self.topology).inputs.values())

    def activations(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """What every node gives for some inputs, as of `Program.activations`, ``[nodes, graphs, probes]``.

        One batched call for all networks; the values must be those of the networks, not normalised ones.

        Args:
            inputs: ``[probes, *input shape]`` for each input of the networks.

        Raises:
            GraphError: Only values are known of the networks, or the inputs have other shapes.
        """
        program = self._program(self.topology)
        if len(self.variants) == 1:
            return program.activations(self.values, inputs)
        return program.variant(*self.variants).activations(self.values, inputs, variant=self.variant)

    def _program(self, topology: Topology) -> Program:
        if self.programs is None:
            raise GraphError(
                f"{len(self)} networks with {topology.num_values} values each cannot be run on inputs, since only their values "
                "are known; expected networks of a zoo, or programs given to GraphDataset.from_graphs"
            )
        return self.programs(topology)

    def without_activations(self) -> GraphBundle:
        """The bundle with one topology, whose groups have activation ``"hidden"`` where those of the variants differ."""
        groups = list(self.topology.groups)
        for place, group in enumerate(groups):
            if any(variant.groups[place] != group for variant in self.variants):
                groups[place] = replace(group, activation=HIDDEN, pooling=())
        topology = replace(self.topology, groups=tuple(groups))
        return replace(self, variants=(topology,), variant=torch.zeros_like(self.variant), programs=None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GraphBundle:
        """The bundle on another device, its values in another dtype."""
        return replace(
            self, variant=self.variant.to(device), values=self.values.to(device=device, dtype=dtype), index=self.index.to(device)
        )


@dataclass(frozen=True)
class GraphBatch:
    """A batch of networks of any architectures, sorted into bundles.

    Args:
        bundles: One for each structure that occurs.
    """

    bundles: tuple[GraphBundle, ...]

    def __len__(self) -> int:
        return sum(len(bundle) for bundle in self.bundles)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GraphBatch:
        """The batch on another device, its values in another dtype."""
        return GraphBatch(tuple(bundle.to(device, dtype) for bundle in self.bundles))

    def map(self, function: Callable[[Tensor], Tensor]) -> GraphBatch:
        """The batch with other values.

        Args:
            function: From the values of a bundle ``[graphs, values]`` to the same.
        """
        return GraphBatch(tuple(replace(bundle, values=function(bundle.values)) for bundle in self.bundles))


def fit_kernel(values: Tensor, kernel: tuple[int, ...], to: tuple[int, ...]) -> Tensor:
    """Flattened kernels in a spatial shape: zero-padded where they are smaller, cut where they are larger, around the centre.

    Args:
        values: ``[..., kernel]``, flattened kernels of shape `kernel`.
        kernel: Spatial shape that the values have; may have fewer or more axes than `to`.
        to: Spatial shape that they get; of axes that it lacks the centre is kept.

    Returns:
        ``[..., product of to]``; `values` itself where nothing is to pad or to cut.
    """
    room = (1,) * (len(kernel) - len(to)) + to
    kept = tuple(map(min, kernel, room[len(room) - len(kernel) :]))
    if kept != kernel:
        values = values.unflatten(-1, kernel)
        for axis, (size, keep) in enumerate(zip(kernel, kept, strict=True), start=-len(kernel)):
            values = values.narrow(axis, (size - keep) // 2, keep)
        values = values.flatten(-len(kernel))
    return pad_kernel(values, kept, room)
