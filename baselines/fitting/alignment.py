"""What training minimises where neurons are to be matched: known permutations under noise, and the loss between two networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.fitting.objectives import Objective
from ngbench.alignment import match
from ngbench.errors import GraphError
from ngbench.graph import Topology, symmetry
from ngbench.graph.layout import split_rows
from ngbench.graph.symmetry import SymmetryGroup
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset

TEMPERATURE = 0.1
"""By which similarities, of about 1 for equal nodes and 0 for others, are divided before they are normalised."""

NUM_NORMALIZATIONS = 5
"""Times that rows and columns of a soft permutation are normalised in turn."""

LARGEST_NOISE = 1.0
"""Most noise on the copy of a network in training, in standard deviations of each tensor's values."""

NOISE_OF_SCORE = 1.0
"""Noise on the copies of validation networks, likewise: so much that neurons are missed; at 0.3 one epoch finds them all."""

NUM_IMAGES = 64
"""Training images of a step on which networks between two others are run."""

MOST_IMAGES = 1024
"""From which they are drawn."""

BATCH = 16
"""Networks that are embedded at once for the score, beside their copies."""

STATISTICS = ("running_mean", "running_var")
"""Node features that are measured, not learned."""

PLAIN = "networks of layers and residual streams: set barrier_weight to 0"


@dataclass(frozen=True)
class Matched:
    """Node groups that move alike, whose nodes are matched by all their embeddings.

    Args:
        groups: Their names; all run over the same indices.
        index: The index, where they run over this one alone and it moves in no other group; None otherwise.
    """

    groups: tuple[str, ...]
    index: str | None


@lru_cache(maxsize=1024)
def matched_groups(topology: Topology) -> tuple[Matched, ...]:
    """All moving groups of a topology, sorted into those that move alike."""
    moving = {index.name for index in symmetry.group(topology).indices}
    found: dict[tuple[str, ...], list[str]] = {}
    for group in topology.groups:
        names = tuple(index.name for index in topology.indices_of(group.name))
        if moving & set(names):
            found.setdefault(names, []).append(group.name)
    alone = {names[0] for names in found if len(names) == 1 and sum(names[0] in other for other in found) == 1}
    return tuple(Matched(tuple(groups), names[0] if names[0] in alone else None) for names, groups in found.items())


def similarities(topology: Topology, matched: Matched, first: Tensor, second: Tensor) -> Tensor:
    """How alike nodes of two networks are, about 1 for equal ones, as `ngbench.alignment.match` weighs them.

    Args:
        topology: Of the networks.
        matched: The groups whose nodes are compared.
        first: Embeddings of all nodes, ``[nodes, graphs, channels]``.
        second: Those of the other networks.

    Returns:
        ``[graphs, nodes of a group, nodes of a group]``, the first networks' along the first axis of nodes.
    """
    found = []
    for name in matched.groups:
        start = topology.node_ptr[name]
        own = slice(start, start + topology.group(name).size)
        ends = torch.cat([first[own], second[own]])
        ends = ends - ends.mean(0)
        # the mean inner product of a node with itself is one
        scale = ends.square().sum(2, keepdim=True).mean(0) + torch.finfo(ends.dtype).tiny
        mine, theirs = (ends / scale.sqrt()).transpose(0, 1).split(len(ends) // 2, dim=1)
        found.append(mine @ theirs.transpose(1, 2))
    return torch.stack(found).mean(0)


def log_soft_permutations(similarity: Tensor) -> Tensor:
    """Logarithms of nearly doubly stochastic matrices ``[graphs, nodes, nodes]`` (Sinkhorn's algorithm on logarithms)."""
    logits = similarity / TEMPERATURE
    for _ in range(NUM_NORMALIZATIONS):
        logits = logits - logits.logsumexp(2, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits


def soften(topology: Topology, soft: dict[str, Tensor], values: Tensor) -> Tensor:
    """Value rows moved by soft permutations, as by the group element that they come near to, ``[graphs, values]``.

    Args:
        topology: Of the networks.
        soft: For each group that moves ``[graphs, nodes, nodes]``.
        values: Value rows, ``[graphs, values]``.

    Raises:
        GraphError: A block is grouped.
    """
    moved = []
    for slot, part in zip(topology.slots, split_rows(topology, values), strict=True):
        if slot.feature is not None:
            own = soft.get(slot.owner) if slot.shape == (topology.group(slot.owner).size,) else None
            moved.append(part if own is None else torch.einsum("gij,gj->gi", own, part))
            continue
        block = topology.edge_block(slot.owner)
        if block.pattern == "grouped":
            raise GraphError(f"block {block.name!r} is grouped and cannot be softly permuted; expected {PLAIN}")
        if block.target in soft:
            part = torch.einsum("gij,gjsk->gisk", soft[block.target], part)
        if block.source in soft and block.pattern == "dense":
            part = torch.einsum("gij,gtjk->gtik", soft[block.source], part)
        moved.append(part.flatten(1))
    return torch.cat(moved, dim=1)


class Alignment(Objective):
    """The loss of a problem of matching, summed over networks, and the score by which an epoch is selected.

    For each network a copy is permuted at random and made noisy; the loss is the cross-entropy of the known permutation
    under soft ones, normalised from the similarities of node embeddings. Beside it stands that of the networks on the way from
    one to another: the other is moved by soft permutations, the two are mixed at random, and the mixture is run on training
    images of their corpus. Pairs are the neighbours among the networks of one corpus in a batch.

    Mena et al., ICLR 2018, for soft permutations; Peña et al., CVPR 2023, for the loss between networks.

    Args:
        train: Networks to learn from; with a barrier weight above 0 those of a zoo, which knows their images.
        barrier_weight: Of the second loss; 0 for none.

    Raises:
        GraphError: The second loss is wanted, and the networks come from no zoo, or are of a kind that cannot be softly permuted.
    """

    may_record = False
    num_readings = 2
    least_at_once = 2

    def __init__(self, train: GraphDataset, *, barrier_weight: float):
        self.barrier_weight = barrier_weight
        self.corpora: list[str] = []
        self.images: dict[str, tuple[Tensor, Tensor]] = {}
        if barrier_weight:
            for bundle in train.bundles:
                _check_plain(bundle.topology)
            self.corpora, self.images = _images(train)

    def loss(self, module: Any, batch: GraphBatch, index: Tensor) -> Tensor:
        """The summed loss of a batch of training networks."""
        copies, permutations = zip(*(noisy_copy(bundle, strength=LARGEST_NOISE) for bundle in batch.bundles), strict=True)
        embedded = embed_both(module, batch, GraphBatch(copies))
        total = batch.bundles[0].values.new_zeros(())
        with torch.autocast(total.device.type, enabled=False):
            for bundle, moves, (own, of_copy) in zip(batch.bundles, permutations, embedded, strict=True):
                total = total + len(bundle) * self._of_copies(bundle.topology, own, of_copy, moves)
                if self.barrier_weight:
                    corpora = [self.corpora[place] for place in index[bundle.index].tolist()]
                    total = total + self.barrier_weight * self.between(bundle, own, corpora=corpora)
        return total

    def _of_copies(self, topology: Topology, own: Tensor, of_copy: Tensor, moves: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the known permutations over nodes and networks, all matched groups alike."""
        losses = []
        for matched in matched_groups(topology):
            logits = log_soft_permutations(similarities(topology, matched, own, of_copy))
            # node i of the copy is node moves[i] of the network
            losses.append(-logits.gather(1, moves[matched.groups[0]][:, None]).mean())
        return torch.stack(losses).mean()

    def between(self, bundle: GraphBundle, own: Tensor, *, corpora: Sequence[str]) -> Tensor:
        """Summed loss of networks between each one and the next of the same corpus.

        Args:
            bundle: The networks.
            own: Embeddings of their nodes, ``[nodes, graphs, channels]``.
            corpora: Name of the corpus of each network.
        """
        total = own.new_zeros(())
        for corpus in dict.fromkeys(corpora):
            rows = torch.tensor([row for row, name in enumerate(corpora) if name == corpus], device=own.device)
            if len(rows) > 1:
                total = total + self._between(bundle.rows(rows), own[:, rows], *self.images[corpus])
        return total

    def _between(self, bundle: GraphBundle, own: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The same of networks that all classify the same images."""
        topology, num_graphs = bundle.topology, len(bundle)
        soft = {}
        for matched in matched_groups(topology):
            found = log_soft_permutations(similarities(topology, matched, own, own.roll(-1, 1))).exp()
            soft |= dict.fromkeys(matched.groups, found)
        share = torch.rand(num_graphs, 1, device=own.device)
        values = (1 - share) * bundle.values + share * soften(topology, soft, bundle.values.roll(-1, 0))
        chosen = torch.randint(len(images), (NUM_IMAGES,))
        images, labels = (tensor[chosen].to(own.device) for tensor in (images, labels))
        logits = replace(bundle, values=values).activations(images)[_outputs(topology)].permute(1, 0, 2)
        # of two networks with different activations there is none between
        alike = bundle.variant == bundle.variant.roll(-1, 0)
        losses = functional.cross_entropy(logits, labels.expand(num_graphs, -1), reduction="none").mean(1)
        return (losses * alike).sum()

    @torch.no_grad()
    def score(self, module: nn.Module, val: Any, *, predicted: Callable[[], np.ndarray]) -> float:
        """Share of the moving nodes of validation networks that are found again in noisy, permuted copies."""
        return recovery(module.eval(), val, noise=NOISE_OF_SCORE, seed=0)


def _outputs(topology: Topology) -> Tensor:
    groups = [group for group in topology.groups if group.role == "output"]
    return torch.cat([torch.arange(group.size) + topology.node_ptr[group.name] for group in groups])


def embed_both(module: Any, batch: GraphBatch, other: GraphBatch) -> list[tuple[Tensor, Tensor]]:
    """Node embeddings ``[nodes, graphs, channels]`` of each bundle of a batch, and of other values of the same networks."""
    num_networks = len(batch)
    bundles = [
        replace(
            mine,
            variant=torch.cat([mine.variant, theirs.variant]),
            values=torch.cat([mine.values, theirs.values]),
            index=torch.cat([mine.index, mine.index + num_networks]),
        )
        for mine, theirs in zip(batch.bundles, other.bundles, strict=True)
    ]
    nodes = module.embed_nodes(GraphBatch(tuple(bundles)))
    found = []
    for bundle in bundles:
        of_bundle = torch.stack([nodes[position] for position in bundle.index.tolist()], 1)
        own, of_copy = of_bundle.float().chunk(2, 1)
        found.append((own, of_copy))
    return found


def noisy_copy(bundle: GraphBundle, *, strength: float, is_fixed: bool = False) -> tuple[GraphBundle, dict[str, Tensor]]:
    """Networks with noise and then permuted at random, and the permutation of each group, int64 ``[graphs, nodes]``.

    Args:
        bundle: The networks.
        strength: Of the noise, in standard deviations of the values of each slot of each network; running statistics get none.
        is_fixed: Whether all get this strength, or one between 0 and it each.
    """
    topology, values = bundle.topology, bundle.values
    share = values.new_ones(len(values), 1) if is_fixed else torch.rand(len(values), 1, device=values.device, dtype=values.dtype)
    parts = []
    for slot in topology.slots:
        part = values[:, slot.start : slot.stop]
        noise = torch.randn_like(part) * part.std(1, correction=0, keepdim=True)
        parts.append(part if slot.feature in STATISTICS else part + strength * share * noise)
    seeds = torch.randint(2**62, (len(values),)).numpy().astype(np.uint64)
    group = _group(topology)
    moved = group.scramble(torch.cat(parts, 1), seeds)
    permutations = {name: own.to(values.device) for name, own in group.permutations(seeds).items()}
    return replace(bundle, values=moved), permutations


@lru_cache(maxsize=1024)
def _group(topology: Topology) -> SymmetryGroup:
    return symmetry.group(topology)


@torch.no_grad()
def recovery(module: Any, networks: GraphDataset, *, noise: float, seed: int) -> float:
    """Share of moving nodes that are matched right between networks and noisy copies.

    Args:
        module: Has ``embed_nodes``.
        networks: The networks.
        noise: In standard deviations of each slot.
        seed: Seeds noise and permutations; the caller's random state stays as it is.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return float(np.mean([share for _, batch in networks.batches(BATCH) for share in _recovered(module, batch, noise)]))


def _recovered(module: Any, batch: GraphBatch, noise: float) -> list[float]:
    """The share for each network of a batch."""
    copies, permutations = zip(*(noisy_copy(bundle, strength=noise, is_fixed=True) for bundle in batch.bundles), strict=True)
    embedded, shares = embed_both(module, batch, GraphBatch(copies)), []
    for bundle, moves, ends in zip(batch.bundles, permutations, embedded, strict=True):
        first, second = (nodes.cpu().numpy() for nodes in ends)
        back = {name: own.cpu().argsort(1) for name, own in moves.items()}
        for number in range(len(bundle)):
            found = match(bundle.topology, first[:, number], second[:, number]).permutations
            right = [found[name] == own[number] for name, own in back.items()]
            shares.append(float(torch.cat(right).double().mean()))
    return shares


def _check_plain(topology: Topology) -> None:
    """Refuses what cannot be softly permuted: indices within others, and nodes that run over several."""
    for matched in matched_groups(topology):
        if matched.index is None:
            raise GraphError(
                f"group {matched.groups[0]!r} runs over several indices and cannot be softly permuted; expected {PLAIN}"
            )


def _images(train: GraphDataset) -> tuple[list[str], dict[str, tuple[Tensor, Tensor]]]:
    """The corpus of each network, and training images of each corpus with their labels."""
    programs: Any = train.bundles[0].programs
    if not getattr(programs, "gives_classes", False):
        raise GraphError(
            "networks between two others are run on images that a zoo's networks were trained to classify, and these are of no "
            "such zoo; expected networks of one, or barrier_weight 0"
        )
    corpora = programs.corpora_of(train.ids)
    return corpora, {name: programs.labelled("train", MOST_IMAGES, corpus=name) for name in dict.fromkeys(corpora)}
