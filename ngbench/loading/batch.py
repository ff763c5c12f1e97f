"""Many neural graphs at once: networks of one structure stand in one array, so that no code loops over networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ngbench.graph import ParameterView, Topology
from ngbench.graph.layout import show, split_rows, unpack


@dataclass(frozen=True)
class GraphBundle:
    """Networks of one structure: the same groups and blocks, perhaps other activations.

    Args:
        variants: Topologies that occur among the networks; they differ in activations only.
        variant: Which of them each network has, int64 ``[graphs]``.
        values: Canonical value rows, ``[graphs, values]``.
        index: Position of each network in the batch, int64 ``[graphs]``.
    """

    variants: tuple[Topology, ...]
    variant: Tensor
    values: Tensor
    index: Tensor

    @property
    def topology(self) -> Topology:
        """Groups, blocks and slots that all networks share; its activations are those of the first variant only."""
        return self.variants[0]

    def __len__(self) -> int:
        return len(self.values)

    def slots(self) -> dict[tuple[str, str | None], Tensor]:
        """Views of the values by owner and feature: ``[graphs, targets, sources, kernel]`` and ``[graphs, nodes]``."""
        parts = split_rows(self.topology, self.values)
        return {(slot.owner, slot.feature): part for slot, part in zip(self.topology.slots, parts, strict=True)}

    def block(self, name: str) -> Tensor:
        """Weights of one edge block, ``[graphs, targets, sources, kernel]``, as `NeuralGraph.block` of each network."""
        return self._values(name, None, self.topology.edge_block(name).parameter, self.topology.block_shape(name))

    def node_feature(self, group: str, feature: str) -> Tensor:
        """One named feature of the nodes of a group, ``[graphs, nodes]``; zeros where the group has none of that name."""
        found = self.topology.group(group)
        view = next((entry.parameter for entry in found.features if entry.name == feature), None)
        if view is None:
            return self.values.new_zeros(()).expand(len(self), found.size)
        return self._values(group, feature, view, (found.size,))

    def _values(self, owner: str, feature: str | None, view: ParameterView | None, shape: tuple[int, ...]) -> Tensor:
        if view is None:
            return self.values.new_ones(()).expand(len(self), *shape)
        index = self.topology.slot_index.get((owner, feature))
        if index is None:
            return show(unpack(self.topology, self.values)[view.path], view, shape, num_batch_axes=1)
        slot = self.topology.slots[index]
        return self.values[:, slot.start : slot.stop].unflatten(1, slot.shape)

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
