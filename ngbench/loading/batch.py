"""Many neural graphs at once: networks of one structure stand in one array, so that no code loops over networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ngbench.graph import Topology
from ngbench.graph.layout import split_rows


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
        """Views of the values by owner and feature: ``[graphs, targets, sources, kernel]`` for blocks, ``[graphs, nodes]`` for features."""
        parts = split_rows(self.topology, self.values)
        return {(slot.owner, slot.feature): part for slot, part in zip(self.topology.slots, parts, strict=True)}

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
