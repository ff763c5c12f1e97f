"""Signs of units, drawn anew for each network of a batch: other weights of the same function.

Where an activation is odd, such as tanh or a sine, a unit whose incoming weights and bias change sign gives the opposite, which a
change of sign of its outgoing weights undoes. On sign symmetries of networks of tanh and of sines: Kalogeropoulos et al., "Scale
Equivariant Graph Metanetworks", NeurIPS 2024, and for tanh before them Chen, Lu and Hecht-Nielsen, Neural Computation 1993; as an
augmentation: Shamsian et al., "Improved Generalization of Weight Space Networks via Augmentations", ICML 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ngbench.graph import Topology, rescaling, symmetry
from ngbench.graph.topology import Slot
from ngbench.loading import GraphBatch, GraphBundle


def flipped(batch: GraphBatch) -> GraphBatch:
    """Each network with random signs of all units that can have them, as its traced symmetry group allows."""
    return GraphBatch(tuple(_flipped(bundle) for bundle in batch.bundles))


def _flipped(bundle: GraphBundle) -> GraphBundle:
    tables = FlipTables.of(bundle.variants, bundle.values.device)
    if not tables.draws:
        return bundle
    drawn = 2 * torch.rand(len(bundle), bundle.topology.num_nodes, device=bundle.values.device).round() - 1
    # the last one stands for what no sign enters or leaves
    entering = drawn.new_ones(len(bundle), bundle.topology.num_nodes + 1)
    for draw in tables.draws:
        entering[:, draw.nodes] *= torch.where(draw.has[bundle.variant].unsqueeze(1), drawn[:, draw.source], 1.0)
    leaving = torch.where(tables.is_odd[bundle.variant], entering, 1.0)
    signs = entering[:, tables.target] * leaving[:, tables.source]
    return replace(bundle, values=bundle.values * signs.to(bundle.values))


@dataclass(frozen=True)
class Draw:
    """A sign for each unit of one group that units of another, or the same, have as well.

    Args:
        source: Nodes whose drawn signs are taken.
        nodes: Nodes that have them.
        has: In which variants, bool ``[variants]``.
    """

    source: slice
    nodes: slice
    has: Tensor


@dataclass(frozen=True)
class FlipTables:
    """Where signs go in the values of networks of one structure; node number ``num_nodes`` stands for none.

    Args:
        draws: Which nodes have which signs; a node may have several, that are multiplied.
        is_odd: Whether a node's sign is also that of what it gives, bool ``[variants, nodes + 1]``.
        target: Node that each value enters, int64 ``[values]``.
        source: Node whose output each value multiplies, or is compared with, int64 ``[values]``.
    """

    draws: tuple[Draw, ...]
    is_odd: Tensor
    target: Tensor
    source: Tensor

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, variants: tuple[Topology, ...], device: torch.device, /) -> FlipTables:
        """Of topologies that differ in activations only."""
        topology = variants[0]
        nodes = {group.name: _nodes(topology, group.name) for group in topology.groups}
        found: dict[tuple[str, str], Tensor] = {}
        for number, variant in enumerate(variants):
            for factor in symmetry.group(variant, signs=True).factors:
                for name in (name for name, power in factor.exponents if power % 2):
                    found.setdefault((factor.group, name), torch.zeros(len(variants), dtype=torch.bool))[number] = True
        ends = [_ends_of(topology, slot) for slot in topology.slots]
        return cls(
            tuple(Draw(nodes[source], nodes[name], has.to(device)) for (source, name), has in found.items()),
            torch.stack([_is_odd(variant) for variant in variants]).to(device),
            *(torch.cat(own).to(device) for own in zip(*ends, strict=True)),
        )


def _nodes(topology: Topology, group: str) -> slice:
    start = topology.node_ptr[group]
    return slice(start, start + topology.group(group).size)


def _is_odd(topology: Topology) -> Tensor:
    """Of each node and of none, bool ``[nodes + 1]``."""
    follows = rescaling.responses(topology)
    of_groups = [torch.full((group.size,), follows[group.name].parity != 0) for group in topology.groups]
    return torch.cat([*of_groups, torch.ones(1, dtype=torch.bool)])


def _ends_of(topology: Topology, slot: Slot) -> tuple[Tensor, Tensor]:
    """Nodes that the values of a slot enter and leave, each int64 ``[values]``."""
    nodes, none = torch.arange(topology.num_nodes), torch.full(slot.shape, topology.num_nodes)
    if slot.feature is None:
        block = topology.edge_block(slot.owner)
        sources = torch.from_numpy(topology.block_sources(block.name).copy()) + topology.node_ptr[block.source]
        targets = nodes[_nodes(topology, block.target)]
        return targets[:, None, None].expand(slot.shape).flatten(), sources[..., None].expand(slot.shape).flatten()
    own = nodes[_nodes(topology, slot.owner)]
    if slot.shape != own.shape or slot.feature == "running_var":
        return none.flatten(), none.flatten()
    if slot.feature == "running_mean":
        source = rescaling.norm_source(topology, slot.owner)
        return none, none if source is None else nodes[_nodes(topology, source)]
    return own, none
