"""Normalisation of merged networks estimated again, without which their units vary too little.

The mean of two units that agree only in part varies less than either. Networks with batch norm get the running statistics of
their own activations; in others each unit is rescaled (REPAIR, Jordan et al. 2023, arXiv:2211.08403, Sections 2.3 and 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ngbench.alignment.interpolate import line
from ngbench.graph import Program, Topology
from ngbench.graph.program import Shown
from ngbench.graph.rescaling import norm_source

_CELLS = 2**15
"""Networks times images of one call."""

_LEAST_STD = 1e-6
"""Units that vary less than that, relative to the group's usual, give nothing to rescale by."""


@dataclass(frozen=True)
class Moments:
    """How what units show is distributed over images and positions.

    Args:
        mean: ``[graphs, nodes]``.
        std: ``[graphs, nodes]``.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, program: Program, rows: Tensor, images: Tensor, *, shown: Shown = "sum", groups: Sequence[str] | None = None
    ) -> Moments:
        """Those of some networks.

        Args:
            program: Of the networks.
            rows: Value rows ``[graphs, values]``.
            images: ``[images, *input shape]``.
            shown: What enters the units' activation functions, or what they give, as of `Program.moments`.
            groups: Names of the node groups that are asked for, the others getting zeros; None for all.
        """
        parts = [
            program.moments(part, images.to(part), of=shown, groups=groups) for part in rows.split(max(1, _CELLS // len(images)))
        ]
        means, squares = (torch.cat(both) for both in zip(*parts, strict=True))
        return cls(means, (squares - means.square()).clamp(min=0).sqrt())

    @classmethod
    def between(cls, first: Moments, second: Moments, num_points: int) -> Moments:
        """Those that the networks on lines should have, averaged as their values are by `line`, ``[pairs * points, nodes]``."""
        ends = (first.mean, second.mean), (first.std, second.std)
        return cls(*(line(*both, num_points).flatten(0, 1) for both in ends))


@torch.no_grad()
def reestimated(program: Program, rows: Tensor, images: Tensor, *, goal: Moments) -> Tensor:
    """Merged networks with their normalisation estimated again, layer by layer, value rows ``[graphs, values]``.

    Where the networks have batch norms, these get mean and variance of what enters them. Otherwise each hidden unit of a linear
    or convolutional layer with a bias is rescaled and shifted so that mean and standard deviation of its sum are the goal's,
    which is folded into weights and bias; a unit whose sum does not vary is only shifted.

    Args:
        program: Of the networks.
        rows: The merged networks ``[graphs, values]``.
        images: Training images ``[images, *input shape]``.
        goal: Moments of the networks that were merged, averaged as their values were.
    """
    rows, topology = rows.clone(), program.topology
    norms = _batch_norms(topology)
    groups = norms or _rescalable(topology)
    for layer in sorted({topology.group(name).layer for name in groups}):
        own = [name for name in groups if topology.group(name).layer == layer]
        if norms:
            sources = [norm_source(topology, name) or "" for name in own]
            now = Moments.of(program, rows, images, shown="given", groups=sources)
            for name, source in zip(own, sources, strict=True):
                _renew(topology, rows, name, source=source, now=now)
        else:
            now = Moments.of(program, rows, images, groups=own)
            for name in own:
                _rescale(topology, rows, name, now=now, goal=goal)
    return rows


@lru_cache(maxsize=256)
def _batch_norms(topology: Topology) -> tuple[str, ...]:
    """Groups behind norms with running statistics."""
    wanted = {"running_mean", "running_var"}
    with_statistics = [group.name for group in topology.groups if wanted <= {feature.name for feature in group.features}]
    return tuple(name for name in with_statistics if norm_source(topology, name) is not None)


@lru_cache(maxsize=256)
def _rescalable(topology: Topology) -> tuple[str, ...]:
    """Hidden groups whose sums are linear in their bias and in weights that enter nothing else."""
    views = [block.parameter for block in topology.blocks if block.parameter is not None]
    views += [feature.parameter for group in topology.groups for feature in group.features]
    shown = Counter(view.region for view in views)
    tied = {path for pair in topology.tied for path in pair}
    found = []
    for group in topology.groups:
        own = [block for block in topology.blocks if block.target == group.name]
        parameters = [block.parameter for block in own] + [feature.parameter for feature in group.features]
        alone = all(view is not None and shown[view.region] == 1 and view.path not in tied for view in parameters)
        biased = [(feature.name, feature.shared) for feature in group.features] == [("bias", False)]
        if group.role == "hidden" and biased and own and alone and all(block.pattern != "diagonal" for block in own):
            found.append(group.name)
    return tuple(found)


def _nodes(topology: Topology, name: str) -> slice:
    start = topology.node_ptr[name]
    return slice(start, start + topology.group(name).size)


def _renew(topology: Topology, rows: Tensor, name: str, *, source: str, now: Moments) -> None:
    """Writes the moments of what enters a batch norm in place of its running statistics."""
    nodes = _nodes(topology, source)
    for feature, values in (("running_mean", now.mean[:, nodes]), ("running_var", now.std[:, nodes].square())):
        slot = topology.slots[topology.slot_index[name, feature]]
        rows[:, slot.start : slot.stop] = values


def _rescale(topology: Topology, rows: Tensor, name: str, *, now: Moments, goal: Moments) -> None:
    """Multiplies what enters the units of a group, and shifts it, to the goal's moments."""
    nodes = _nodes(topology, name)
    mean, std = now.mean[:, nodes], now.std[:, nodes]
    varies = std > _LEAST_STD * std.mean(1, keepdim=True)
    scale = torch.where(varies, goal.std[:, nodes] / std, torch.ones_like(std))
    slot = topology.slots[topology.slot_index[name, "bias"]]
    bias = rows[:, slot.start : slot.stop]
    rows[:, slot.start : slot.stop] = scale * (bias - mean) + goal.mean[:, nodes]
    for values in _incoming(topology, rows, name):
        values *= scale[:, :, None]


def _incoming(topology: Topology, rows: Tensor, name: str) -> Iterator[Tensor]:
    """Weights that enter a group, views ``[graphs, targets, numbers]`` of the rows."""
    for block in topology.blocks:
        if block.target == name:
            slot = topology.slots[topology.slot_index[block.name, None]]
            yield rows[:, slot.start : slot.stop].unflatten(1, (topology.group(name).size, -1))
