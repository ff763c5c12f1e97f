"""NG-GNN: a graph neural network that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: messages
modulated by edge features, principal neighbourhood aggregation (Corso et al., NeurIPS 2020), edge updates.

Inside, nodes are ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]``, in the canonical order of the topology.
The edges of a block are then one contiguous run, viewed as ``[targets, sources, graphs, channels]``: what a node receives is a
reduction over one axis, and as the graphs stand inside, it runs over long rows of memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from baselines.training import Training, predict, train
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import Topology
from ngbench.graph.neural_graph import largest_kernel, pad_kernel
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset, Normalization
from ngbench.methods import MethodInfo, Problem, RunContext

SMALLEST_VARIANCE = 1e-5


# Structure: which node hears which edges, and which embedding it has.


@dataclass(frozen=True)
class Run:
    """The edges of one block and the nodes that they join, as runs of the edge and node axes."""

    edges: slice
    targets: slice
    sources: slice
    diagonal: bool

    def block(self, edges: Tensor) -> Tensor:
        """Its part of ``[edges, ...]`` as ``[targets, sources, ...]``; one source for each target where it is diagonal."""
        return edges[self.edges].unflatten(0, (self.targets.stop - self.targets.start, -1))

    def at_targets(self, nodes: Tensor) -> Tensor:
        """Target nodes of ``[nodes, ...]``, to be added to a block."""
        return nodes[self.targets].unsqueeze(1)

    def at_sources(self, nodes: Tensor) -> Tensor:
        """Source nodes of ``[nodes, ...]``, to be added to a block."""
        return nodes[self.sources].unsqueeze(1 if self.diagonal else 0)


@dataclass(frozen=True)
class Wiring:
    """The edges of a topology: its blocks in canonical order, then, where asked for, the same blocks reversed."""

    runs: tuple[Run, ...]
    num_nodes: int
    num_edges: int

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, topology: Topology, reverse_edges: bool, /) -> Wiring:
        """The wiring of a topology."""
        nodes = {g.name: slice(topology.node_ptr[g.name], topology.node_ptr[g.name] + g.size) for g in topology.groups}
        runs, start = [], 0
        for reversed_ in (False, True)[: 1 + reverse_edges]:
            for block in topology.blocks:
                stop = start + math.prod(topology.block_shape(block.name)[:2])
                target, source = (block.source, block.target) if reversed_ else (block.target, block.source)
                runs.append(Run(slice(start, stop), nodes[target], nodes[source], block.pattern == "diagonal"))
                start = stop
        return cls(tuple(runs), topology.num_nodes, start)

    def incoming(self) -> dict[tuple[int, int], list[Run]]:
        """The blocks that enter each group of nodes, by the group's first and last position."""
        found: dict[tuple[int, int], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.targets.start, run.targets.stop), []).append(run)
        return found

    def degree(self) -> Tensor:
        """Number of edges that enter each node, float64 ``[nodes]``."""
        degree = torch.zeros(self.num_nodes, dtype=torch.float64)
        for run in self.runs:
            degree[run.targets] += (run.edges.stop - run.edges.start) / (run.targets.stop - run.targets.start)
        return degree


@dataclass(frozen=True)
class Vocabulary:
    """What the structures of the training networks have between them; it sizes the tables of the model.

    Args:
        num_inputs: Most input nodes of a network; each has an embedding of its own.
        num_hidden_layers: Most hidden layers of a network; each has an embedding, and deeper layers take the last.
        num_outputs: Most output nodes of a network; each has an embedding of its own.
        kernel: Spatial shape to which the weights on all edges are padded.
        features: Names of the node features.
        activations: Activations of hidden nodes that have an embedding; any other, such as one not recorded, adds nothing.
        mean_log_degree: Mean of log(1 + in-degree) over all nodes, the unit of the amplification scaler.
    """

    num_inputs: int
    num_hidden_layers: int
    num_outputs: int
    kernel: tuple[int, ...]
    features: tuple[str, ...]
    activations: tuple[str, ...]
    mean_log_degree: float

    @classmethod
    def of(cls, networks: GraphDataset, *, reverse_edges: bool) -> Vocabulary:
        """The vocabulary of some networks."""
        topologies = [topology for bundle in networks.bundles for topology in bundle.variants]
        groups = [group for topology in topologies for group in topology.groups]
        degrees = [Wiring.of(bundle.topology, reverse_edges).degree().repeat(len(bundle)) for bundle in networks.bundles]
        return cls(
            num_inputs=max(_num_nodes(topology, "input") for topology in topologies),
            num_hidden_layers=max((group.layer for group in groups if group.role == "hidden"), default=0),
            num_outputs=max(_num_nodes(topology, "output") for topology in topologies),
            kernel=largest_kernel(*topologies),
            features=tuple(sorted({feature.name for group in groups for feature in group.features})),
            activations=tuple(sorted({group.activation for group in groups if group.role == "hidden"})),
            mean_log_degree=float(torch.cat(degrees).log1p().mean()),
        )

    @lru_cache(maxsize=256)
    def positions(self, topology: Topology, /) -> Tensor:
        """Row of each node in the table of positional embeddings, int64 ``[nodes]``: inputs, hidden layers, outputs.

        Raises:
            GraphError: The network has more inputs or outputs than any that the vocabulary was made from.
        """
        rows, seen = [], {"input": 0, "output": self.num_inputs + self.num_hidden_layers}
        for role, most in (("input", self.num_inputs), ("output", self.num_outputs)):
            if _num_nodes(topology, role) > most:
                raise GraphError(
                    f"a network has {_num_nodes(topology, role)} {role} nodes; expected at most {most}, as many as in training"
                )
        for group in topology.groups:
            if group.role in seen:
                rows += range(seen[group.role], seen[group.role] + group.size)
                seen[group.role] += group.size
            else:
                rows += [self.num_inputs + min(max(group.layer, 1), self.num_hidden_layers) - 1] * group.size
        return torch.tensor(rows)

    @lru_cache(maxsize=256)
    def activation_rows(self, topology: Topology, /) -> Tensor:
        """Row of each node in the table of activation embeddings, int64 ``[nodes]``; the last row is that of none."""
        rows = {name: row for row, name in enumerate(self.activations)}
        none = len(rows)
        return torch.tensor(
            [row for g in topology.groups for row in [rows.get(g.activation, none) if g.role == "hidden" else none] * g.size]
        )


def _num_nodes(topology: Topology, role: str) -> int:
    return sum(group.size for group in topology.groups if group.role == role)


# Operations between nodes and edges. Their gradients are written out: autograd would pass over the edges three times as often.


class SumOfEnds(torch.autograd.Function):
    """For each edge the sum of a vector of its target and a vector of its source, ``[edges, graphs, channels]``."""

    @staticmethod
    def forward(ctx: Any, at_target: Tensor, at_source: Tensor, wiring: Wiring) -> Tensor:
        """From ``[nodes, graphs, channels]`` twice."""
        ctx.wiring = wiring
        edges = at_target.new_empty(wiring.num_edges, *at_target.shape[1:])
        for run in wiring.runs:
            torch.add(run.at_targets(at_target), run.at_sources(at_source), out=run.block(edges))
        return edges

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sums over the edges that a node ends."""
        at_target = grad.new_zeros(ctx.wiring.num_nodes, *grad.shape[1:])
        at_source = torch.zeros_like(at_target)
        for run in ctx.wiring.runs:
            block = run.block(grad)
            at_target[run.targets] += block.sum(1)
            at_source[run.sources] += block.sum(1 if run.diagonal else 0)
        return at_target, at_source, None


class Aggregate(torch.autograd.Function):
    """Mean, min, max and standard deviation of the messages that each node receives, ``[nodes, graphs, 4 channels]``.

    A node that receives none gets zeros, and so does the deviation where the variance is below `SMALLEST_VARIANCE`.
    """

    @staticmethod
    def forward(ctx: Any, messages: Tensor, wiring: Wiring) -> Tensor:
        """From ``[edges, graphs, channels]``."""
        out = messages.new_zeros(wiring.num_nodes, messages.shape[1], 4, messages.shape[2])
        for (start, stop), runs in wiring.incoming().items():
            block = _joined(messages, runs)
            mean, least, most, deviation = out[start:stop].unbind(2)
            torch.mean(block, 1, out=mean)
            torch.amin(block, 1, out=least)
            torch.amax(block, 1, out=most)
            variance = (block - mean.unsqueeze(1)).square_().mean(1)
            torch.sqrt(variance.masked_fill_(variance <= SMALLEST_VARIANCE, 0), out=deviation)
        ctx.save_for_backward(messages, out)
        ctx.wiring = wiring
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Extremes pass their gradient to the edges that attain them, in equal parts."""
        messages, out = ctx.saved_tensors
        grad = grad.unflatten(2, (4, -1))
        grad_messages = torch.empty_like(messages)
        for (start, stop), runs in ctx.wiring.incoming().items():
            block = _joined(messages, runs)
            mean, least, most, deviation = out[start:stop].unbind(2)
            grad_mean, grad_least, grad_most, grad_deviation = grad[start:stop].unbind(2)
            # d deviation / d message = (message - mean) / (degree · deviation)
            slope = torch.where(deviation > 0, grad_deviation / (deviation * block.shape[1]), 0)
            base = torch.addcmul(grad_mean / block.shape[1], mean, slope, value=-1)
            grad_block = torch.addcmul(base.unsqueeze(1), block, slope.unsqueeze(1))
            for extreme, grad_extreme in ((least, grad_least), (most, grad_most)):
                attained = (block == extreme.unsqueeze(1)).to(block.dtype)
                grad_block.addcmul_(attained, (grad_extreme / attained.sum(1)).unsqueeze(1))
            for run, part in zip(runs, grad_block.split([run.block(messages).shape[1] for run in runs], 1), strict=True):
                run.block(grad_messages).copy_(part)
        return grad_messages, None


def _joined(messages: Tensor, runs: list[Run]) -> Tensor:
    """All messages into one group of nodes, ``[targets, sources, graphs, channels]``; no copy where one block enters."""
    return runs[0].block(messages) if len(runs) == 1 else torch.cat([run.block(messages) for run in runs], 1)


# Parts.


class Fourier(nn.Module):
    """Gaussian Fourier features: cosines, then sines, of 2π v bᵀ (Tancik et al., NeurIPS 2020).

    Args:
        num_inputs: Numbers in a vector v.
        num_frequencies: Rows of b.
        scale: Standard deviation of b.
    """

    def __init__(self, num_inputs: int, num_frequencies: int, *, scale: float):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(num_frequencies, num_inputs) * scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., 2 frequencies]``."""
        angles = functional.linear(2 * math.pi * vectors, self.frequencies)  # pyright: ignore[reportArgumentType]
        return torch.cat([angles.cos(), angles.sin()], -1)


class GraphNorm(nn.Module):
    """Normalises over all nodes and channels of one graph; the authors' code does it over all graphs of a batch (see `NGGNN`)."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, nodes: Tensor) -> Tensor:
        """``[nodes, graphs, channels]`` to the same."""
        centred = nodes - nodes.mean((0, 2), keepdim=True)
        deviation = centred.square().mean((0, 2), keepdim=True).sqrt()
        return centred * (self.weight / (deviation + self.eps)) + self.bias


class PNAConv(nn.Module):
    """One round of messages: scale(e) · Linear([x_target, x_source]) + shift(e), aggregated, and read with the node's own vector."""

    def __init__(self, channels: int):
        super().__init__()
        self.ends = nn.Linear(channels, 2 * channels)
        self.film = nn.Linear(channels, 2 * channels)
        self.update = nn.Linear(9 * channels, channels)

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring, amplification: Tensor) -> Tensor:
        """New nodes ``[nodes, graphs, channels]``; `amplification` is ``[nodes, 1, 1]``."""
        ends = SumOfEnds.apply(*self.ends(nodes).chunk(2, -1), wiring)
        scale, shift = self.film(edges).chunk(2, -1)
        received = Aggregate.apply(torch.addcmul(shift, scale, ends), wiring)
        # The amplified aggregates are a multiple of the plain ones, so the multiple is taken of the product.
        own, plain, amplified = self.update.weight.split([nodes.shape[-1], received.shape[-1], received.shape[-1]], 1)
        updated = functional.linear(torch.cat([nodes, received], -1), torch.cat([own, plain], 1), self.update.bias)
        return torch.addcmul(updated, functional.linear(received, amplified), amplification)


class EdgeUpdate(nn.Module):
    """New edge features from an edge and both of its nodes."""

    def __init__(self, channels: int):
        super().__init__()
        self.edge = nn.Linear(channels, channels)
        self.ends = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring) -> Tensor:
        """New edges ``[edges, graphs, channels]``."""
        ends = SumOfEnds.apply(*self.ends(nodes).chunk(2, -1), wiring)
        return self.out(functional.silu(self.edge(edges) + ends))


class GraphNetwork(nn.Module):
    """The whole: encode nodes and edges, exchange messages, pool, read out.

    Args:
        config: Sizes and options.
        vocabulary: What the networks to be read consist of.
        normalization: What brings each layer's weights to one scale.
        num_outputs: Numbers to predict for a network.
    """

    def __init__(self, config: NGGNN.Config, vocabulary: Vocabulary, normalization: Any, *, num_outputs: int):
        super().__init__()
        self.config, self.vocabulary, self.normalization = config, vocabulary, normalization
        channels = config.channels
        directions = 1 + config.reverse_edges
        self.encode_edges = self._encoder((2 * directions - 1) * math.prod(vocabulary.kernel))
        self.encode_nodes = self._encoder(len(vocabulary.features))
        self.direction = nn.Parameter(torch.zeros(directions, channels))
        num_positions = vocabulary.num_inputs + vocabulary.num_hidden_layers + vocabulary.num_outputs
        self.position = nn.Parameter(torch.randn(num_positions, channels))
        self.activation = nn.Parameter(torch.randn(len(vocabulary.activations), channels))
        self.convs = nn.ModuleList(PNAConv(channels) for _ in range(config.num_layers))
        self.norms = nn.ModuleList(GraphNorm(channels) for _ in range(config.num_layers - 1))
        self.edge_updates = nn.ModuleList(EdgeUpdate(channels) for _ in range(config.num_layers - 1))
        self.read_out = nn.Sequential(
            nn.Linear(channels * (vocabulary.num_outputs if config.pooling == "cat" else 1), channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, num_outputs),
        )

    def _encoder(self, num_inputs: int) -> nn.Module:
        if self.config.encoding == "linear":
            return nn.Linear(num_inputs, self.config.channels)
        fourier = Fourier(num_inputs, self.config.num_frequencies, scale=self.config.frequency_scale)
        return nn.Sequential(fourier, nn.Linear(2 * self.config.num_frequencies, self.config.channels))

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, outputs]``, in the order of the batch."""
        read = torch.cat([self.read_out(self.embed(bundle)) for bundle in batch.bundles])
        return read[torch.argsort(torch.cat([bundle.index for bundle in batch.bundles]))]

    def embed(self, bundle: GraphBundle) -> Tensor:
        """What is read out, ``[graphs, features]``."""
        nodes = self.embed_nodes(bundle)
        if self.config.pooling == "mean":
            return nodes.mean(0)
        roles = [group.role for group in bundle.topology.groups for _ in range(group.size)]
        outputs = nodes[torch.tensor([role == "output" for role in roles])]
        missing = self.vocabulary.num_outputs - len(outputs)
        return rearrange(functional.pad(outputs, (0, 0, 0, 0, 0, missing)), "nodes graphs channels -> graphs (nodes channels)")

    def embed_nodes(self, bundle: GraphBundle) -> Tensor:
        """``[nodes, graphs, channels]``; permuting a network's neurons permutes them alike."""
        wiring = Wiring.of(bundle.topology, self.config.reverse_edges)
        nodes, edges = self.encode(bundle)
        amplification = (wiring.degree().log1p() / self.vocabulary.mean_log_degree).to(nodes)[:, None, None]
        for conv, norm, edge_update in zip(self.convs, self.norms, self.edge_updates, strict=False):
            new = functional.silu(norm(conv(nodes, edges, wiring, amplification)))
            new = functional.dropout(new, self.config.dropout, self.training)
            nodes = nodes + new if self.config.residual else new
            new = edge_update(nodes, edges, wiring)
            edges = edges + new if self.config.residual else new
        return self.convs[-1](nodes, edges, wiring, amplification)

    def encode(self, bundle: GraphBundle) -> tuple[Tensor, Tensor]:
        """Nodes ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]`` as they enter the first layer."""
        topology = bundle.topology
        if self.training and self.config.weight_noise:
            bundle = replace(bundle, values=bundle.values * (1 + self.config.weight_noise * torch.randn_like(bundle.values)))
        bundle = self.normalization(GraphBatch((bundle,))).bundles[0]
        features = [torch.cat([bundle.node_feature(g.name, name) for g in topology.groups], 1) for name in self.vocabulary.features]
        nodes = self.encode_nodes(rearrange(features, "features graphs nodes -> nodes graphs features"))
        nodes = nodes + self.position[self.vocabulary.positions(topology)].unsqueeze(1) + self._activations(bundle)
        return nodes, self._edges(bundle)

    def _activations(self, bundle: GraphBundle) -> Tensor:
        table = functional.pad(self.activation, (0, 0, 0, 1))
        by_variant = [table[self.vocabulary.activation_rows(variant)] for variant in bundle.variants]
        return torch.stack(by_variant, 1)[:, bundle.variant] if len(by_variant) > 1 else by_variant[0].unsqueeze(1)

    def _edges(self, bundle: GraphBundle) -> Tensor:
        blocks = [
            rearrange(pad_kernel(bundle.block(block.name), block.kernel, self.vocabulary.kernel), "g t s k -> t s g k")
            for block in bundle.topology.blocks
        ]
        weights = torch.cat([block.flatten(0, 1) for block in blocks])
        if not self.config.reverse_edges:
            return self.encode_edges(weights) + self.direction[0]
        # As in the authors' code an edge carries its own weight, that of its opposite (none in a feed-forward network) and their sum.
        absent = torch.zeros_like(weights)
        backwards = torch.cat([block.transpose(0, 1).flatten(0, 1) for block in blocks])
        forward = self.encode_edges(torch.cat([weights, absent, weights], -1)) + self.direction[0]
        return torch.cat([forward, self.encode_edges(torch.cat([absent, backwards, backwards], -1)) + self.direction[1]])
