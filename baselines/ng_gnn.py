"""NG-GNN: a graph neural network that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: messages
modulated by edge features, principal neighbourhood aggregation (Corso et al., NeurIPS 2020), edge updates.

Inside, nodes are ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]``, in the canonical order of the topology.
The edges of a block are then one contiguous run, viewed as ``[targets, sources, graphs, channels]``: what a node receives is a
reduction over one axis, and as the graphs stand inside, it runs over long rows of memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from baselines import training
from baselines.training import Training
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
        return edges[self.edges].unflatten(0, (_size(self.targets), -1))

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

    @cached_property
    def receivers(self) -> tuple[tuple[slice, tuple[slice, ...]], ...]:
        """Runs of nodes, each with the runs of edges that enter it.

        Groups that follow one another, of one in-degree each from one block, are taken as one run.
        """
        incoming: dict[tuple[int, int], list[slice]] = {}
        for run in self.runs:
            incoming.setdefault((run.targets.start, run.targets.stop), []).append(run.edges)
        found: list[tuple[slice, tuple[slice, ...]]] = []
        for (start, stop), edges in sorted(incoming.items()):
            nodes, runs = slice(start, stop), tuple(edges)
            if found and len(runs) == len(found[-1][1]) == 1 and self._continue(found[-1], nodes, runs[0]):
                nodes, runs = slice(found[-1][0].start, stop), (slice(found.pop()[1][0].start, runs[0].stop),)
            found.append((nodes, runs))
        return tuple(found)

    @staticmethod
    def _continue(before: tuple[slice, tuple[slice, ...]], nodes: slice, edges: slice) -> bool:
        nodes_before, (edges_before,) = before
        adjacent = nodes_before.stop == nodes.start and edges_before.stop == edges.start
        return adjacent and _size(edges_before) * _size(nodes) == _size(edges) * _size(nodes_before)

    def degree(self) -> Tensor:
        """Number of edges that enter each node, float64 ``[nodes]``."""
        degree = torch.zeros(self.num_nodes, dtype=torch.float64)
        for run in self.runs:
            degree[run.targets] += _size(run.edges) / _size(run.targets)
        return degree


def _size(run: slice) -> int:
    return run.stop - run.start


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
    def forward(ctx: Any, nodes: Tensor, wiring: Wiring) -> Tensor:
        """From ``[nodes, graphs, 2 channels]``, the vectors as a target, then those as a source."""
        ctx.wiring = wiring
        at_target, at_source = nodes.chunk(2, -1)
        edges = at_target.new_empty(wiring.num_edges, *at_target.shape[1:])
        for run in wiring.runs:
            torch.add(run.at_targets(at_target), run.at_sources(at_source), out=run.block(edges))
        return edges

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sums over the edges that a node ends."""
        grad_nodes = grad.new_zeros(ctx.wiring.num_nodes, grad.shape[1], 2 * grad.shape[2])
        at_target, at_source = grad_nodes.chunk(2, -1)
        for run in ctx.wiring.runs:
            block = run.block(grad)
            at_target[run.targets].add_(block.sum(1))
            at_source[run.sources].add_(block.sum(1 if run.diagonal else 0))
        return grad_nodes, None


class Aggregate(torch.autograd.Function):
    """Mean, min, max and standard deviation of the messages that each node receives, ``[nodes, graphs, 4 channels]``.

    The message of an edge is ``scale · ends + shift``. A node that receives none gets zeros, and so does the deviation where
    the variance is no more than `SMALLEST_VARIANCE`.
    """

    @staticmethod
    def forward(ctx: Any, film: Tensor, ends: Tensor, wiring: Wiring) -> Tensor:
        """From scale and shift ``[edges, graphs, 2 channels]``, and ``[edges, graphs, channels]``."""
        scale, shift = film.chunk(2, -1)
        messages = torch.addcmul(shift, scale, ends)
        out = messages.new_zeros(wiring.num_nodes, messages.shape[1], 4, messages.shape[2])
        for nodes, runs in wiring.receivers:
            block = _received(messages, nodes, runs)
            mean, least, most, deviation = out[nodes].unbind(2)
            torch.mean(block, 1, out=mean)
            torch.amin(block, 1, out=least)
            torch.amax(block, 1, out=most)
            variance = (block - mean.unsqueeze(1)).square_().mean(1)
            torch.sqrt(functional.threshold(variance, SMALLEST_VARIANCE, 0), out=deviation)
        ctx.save_for_backward(film, ends, messages, out)
        ctx.wiring = wiring
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Extremes pass their gradient to the edges that attain them, in equal parts."""
        film, ends, messages, out = ctx.saved_tensors
        grad = grad.unflatten(2, (4, -1))
        grad_messages = torch.empty_like(messages)
        for nodes, runs in ctx.wiring.receivers:
            block, grad_block = _received(messages, nodes, runs), _received(grad_messages, nodes, runs)
            mean, least, most, deviation = out[nodes].unbind(2)
            grad_mean, grad_least, grad_most, grad_deviation = grad[nodes].unbind(2)
            # d deviation / d message = (message - mean) / (degree · deviation), and nothing where the deviation counts as zero
            variance = deviation.square().clamp_(min=SMALLEST_VARIANCE)
            slope = grad_deviation * deviation / variance.mul_(block.shape[1])
            base = torch.addcmul(grad_mean / block.shape[1], mean, slope, value=-1)
            torch.addcmul(base.unsqueeze(1), block, slope.unsqueeze(1), out=grad_block)
            for extreme, grad_extreme in ((least, grad_least), (most, grad_most)):
                attained = torch.eq(block, extreme.unsqueeze(1), out=torch.empty_like(block))
                grad_block.addcmul_(attained, (grad_extreme / attained.sum(1)).unsqueeze(1))
            if len(runs) > 1:
                _send_back(grad_block, grad_messages, nodes, runs)
        scale = film.chunk(2, -1)[0]
        return torch.cat([grad_messages * ends, grad_messages], -1), grad_messages * scale, None


def _received(messages: Tensor, nodes: slice, runs: tuple[slice, ...]) -> Tensor:
    """All messages to some nodes, ``[targets, sources, graphs, channels]``; no copy where they stand in one run."""
    parts = [messages[run].unflatten(0, (_size(nodes), -1)) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _send_back(block: Tensor, messages: Tensor, nodes: slice, runs: tuple[slice, ...]) -> None:
    """Writes what `_received` read."""
    parts = [messages[run].unflatten(0, (_size(nodes), -1)) for run in runs]
    for part, values in zip(parts, block.split([part.shape[1] for part in parts], 1), strict=True):
        part.copy_(values)


@dataclass(frozen=True)
class Config(Training):
    """Options of `NGGNN`.

    Args:
        channels: Numbers in the vector of a node or an edge.
        num_layers: Rounds of messages.
        encoding: How weights and biases enter: ``"linear"``, or ``"fourier"`` for random Fourier features before it.
        num_frequencies: Of the Fourier features.
        frequency_scale: Standard deviation of the frequencies.
        clip: Largest distance from the mean, in standard deviations, that a weight or bias is taken to have; 0 for no limit.
        reverse_edges: Whether messages also run from target to source, along edges of a type of their own.
        residual: Whether a layer's nodes and edges are added to what entered it.
        pooling: ``"cat"`` reads the output nodes one after the other, ``"mean"`` the mean of all nodes.
        dropout: Share of node features dropped after each layer but the last.
        weight_noise: Standard deviation of the factors, around one, that each weight and bias is multiplied by in training.

    Raises:
        ConfigError: An option has none of the named values.
    """

    epochs: int = 15
    epochs: int = 12
    learning_rate: float = 8e-3
    channels: int = 32
    num_layers: int = 4
    encoding: str = "linear"
    num_frequencies: int = 128
    frequency_scale: float = 3.0
    clip: float = 10.0
    reverse_edges: bool = False
    residual: bool = True
    pooling: str = "mean"
    dropout: float = 0.0
    weight_noise: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        for name, choices in (("encoding", ("linear", "fourier")), ("pooling", ("cat", "mean"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """The model of the paper: Fourier features, no residual connections, no noise on the weights."""
        return replace(cls(encoding="fourier", clip=0.0, residual=False, pooling="cat", weight_noise=0.0), **changes)


# Parts.


class Linear(nn.Linear):
    """`torch.nn.Linear` on ``[rows, graphs, channels]``, by the fastest kernel that torch has for it."""

    def forward(self, input: Tensor) -> Tensor:
        """``[rows, graphs, channels]`` to the same."""
        return product(input, self.weight, self.bias)


def product(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``functional.linear`` on ``[rows, graphs, channels]``."""
    if vectors.device.type == "cpu" and vectors.dtype == torch.float32:
        return Convolved.apply(vectors, weight, bias)
    return functional.linear(vectors, weight, bias)


class Convolved(torch.autograd.Function):
    """A linear layer as a convolution of 1×1.

    Torch multiplies matrices with MKL, which is slow on processors of another maker, but convolves with oneDNN, which is not:
    on two cores of an AMD EPYC 2.4 times as fast at these sizes, with the same results.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``[rows, graphs, channels]`` to the same; rows are taken as images, graphs as pixels."""
        ctx.save_for_backward(vectors, weight)
        return _as_vectors(functional.conv2d(_as_images(vectors), weight[:, :, None, None], bias))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of the bias is summed apart, which is faster."""
        vectors, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], True, False]
        grad_vectors, grad_weight, _ = torch.ops.aten.convolution_backward(
            _as_images(grad), _as_images(vectors), weight[:, :, None, None], None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
        )
        return _as_vectors(grad_vectors) if wanted[0] else None, grad_weight[:, :, 0, 0], grad.sum((0, 1))


def _as_images(vectors: Tensor) -> Tensor:
    return vectors.transpose(1, 2).unsqueeze(2)


def _as_vectors(images: Tensor) -> Tensor:
    return images.squeeze(2).transpose(1, 2)


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


class Layer(nn.Module):
    """Edge update and one round of messages.

    An edge becomes Linear(SiLU(Linear([edge, source, target]))) before it carries a message, save in the first layer; the
    authors' code counts this update as the end of the layer before. The message is scale(edge) · Linear([target, source]) +
    shift(edge); the messages that a node receives are aggregated, and a linear layer reads them with the node's own vector.

    Args:
        channels: Numbers in the vector of a node or an edge.
        updates_edges: False in the first layer.
        residual: Whether an update is added to what the edge was.
    """

    def __init__(self, channels: int, *, updates_edges: bool, residual: bool):
        super().__init__()
        self.updates_edges, self.residual = updates_edges, residual
        self.ends = Linear(channels, 4 * channels if updates_edges else 2 * channels)
        if updates_edges:
            self.edge_in = Linear(channels, channels)
            self.edge_out = Linear(channels, channels)
        self.film = Linear(channels, 2 * channels)
        self.node = Linear(9 * channels, channels)

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring, amplification: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]``; `amplification` is ``[nodes, 1, 1]``."""
        ends = SumOfEnds.apply(self.ends(nodes), wiring)
        if self.updates_edges:
            of_edge, ends = ends.chunk(2, -1)
            updated = self.edge_out(functional.silu(self.edge_in(edges) + of_edge))
            edges = edges + updated if self.residual else updated
        received = Aggregate.apply(self.film(edges), ends, wiring)
        return self._read(nodes, received, amplification), edges

    def _read(self, nodes: Tensor, received: Tensor, amplification: Tensor) -> Tensor:
        """``Linear([nodes, received, amplification · received])``, the factor drawn out of the product."""
        own, plain, amplified = self.node.weight.split([nodes.shape[-1], received.shape[-1], received.shape[-1]], 1)
        weight = torch.cat([torch.cat([own, plain], 1), torch.cat([torch.zeros_like(own), amplified], 1)])
        bias = functional.pad(self.node.bias, (0, len(own)))
        as_is, factored = product(torch.cat([nodes, received], -1), weight, bias).chunk(2, -1)
        return torch.addcmul(as_is, factored, amplification)


class GraphNetwork(nn.Module):
    """The whole: encode nodes and edges, exchange messages, pool, read out.

    Args:
        config: Sizes and options.
        vocabulary: What the networks to be read consist of.
        normalization: What brings each layer's weights to one scale.
        num_outputs: Numbers to predict for a network.
    """

    def __init__(self, config: Config, vocabulary: Vocabulary, normalization: Any, *, num_outputs: int):
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
        self.layers = nn.ModuleList(
            Layer(channels, updates_edges=index > 0, residual=config.residual) for index in range(config.num_layers)
        )
        self.norms = nn.ModuleList(GraphNorm(channels) for _ in range(config.num_layers - 1))
        self.read_out = nn.Sequential(
            nn.Linear(channels * (vocabulary.num_outputs if config.pooling == "cat" else 1), channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, num_outputs),
        )

    def _encoder(self, num_inputs: int) -> nn.Module:
        if self.config.encoding == "linear":
            return Linear(num_inputs, self.config.channels)
        fourier = Fourier(num_inputs, self.config.num_frequencies, scale=self.config.frequency_scale)
        return nn.Sequential(fourier, Linear(2 * self.config.num_frequencies, self.config.channels))

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
        for layer, norm in zip(self.layers, self.norms, strict=False):
            new, edges = layer(nodes, edges, wiring, amplification)
            new = functional.dropout(functional.silu(norm(new)), self.config.dropout, self.training)
            nodes = nodes + new if self.config.residual else new
        return self.layers[-1](nodes, edges, wiring, amplification)[0]

    def encode(self, bundle: GraphBundle) -> tuple[Tensor, Tensor]:
        """Nodes ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]`` as they enter the first layer."""
        topology = bundle.topology
        if self.training and self.config.weight_noise:
            bundle = replace(bundle, values=bundle.values * (1 + self.config.weight_noise * torch.randn_like(bundle.values)))
        bundle = self.normalization(GraphBatch((bundle,))).bundles[0]
        if self.config.clip:
            bundle = replace(bundle, values=bundle.values.clamp(-self.config.clip, self.config.clip))
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


# The method.


class NGGNN:
    """NG-GNN as a method.

    Differs from the paper in: the norm spans one graph, where the authors' code, which calls PyG's layer norm without the batch
    vector, lets it span all graphs of a batch, so that a prediction depends on its neighbours; linear layers that follow one
    another are one; targets are cross-entropy shares of the bounds. The default options further differ in linear instead of
    Fourier encodings, residual updates and noise on the weights; `Config.paper` has the paper's.

    Args:
        config: Options.
    """

    info = MethodInfo(
        name="ng-gnn",
        title="NG-GNN",
        access="weights",
        invariant=True,
        any_architecture=True,
        paper="Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks, ICLR 2024",
    )
    Config = Config

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self._module: GraphNetwork | None = None
        self._problem: Problem | None = None

    @property
    def module(self) -> GraphNetwork:
        """The fitted network.

        Raises:
            MethodError: There is none yet.
        """
        if self._module is None:
            raise MethodError("ng-gnn has not been fitted; expected a call of fit before predict or embed")
        return self._module

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Trains on `train`, keeps the epoch that is best on `val`."""
        vocabulary = Vocabulary.of(train, reverse_edges=self.config.reverse_edges)
        with training.seeded(context.seed):
            self._module = GraphNetwork(self.config, vocabulary, Normalization.fit(train), num_outputs=1)
        self._problem = problem
        training.train(self._module, settings=self.config, problem=problem, train=train, val=val, context=context)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``."""
        if self._problem is None:
            raise MethodError("ng-gnn has not been fitted; expected a call of fit before predict or embed")
        return training.predict(training.in_float64(self.module), networks, problem=self._problem)

    @torch.no_grad()
    def embed(self, networks: GraphDataset) -> np.ndarray:
        """What the last layers read of each network, float64 ``[graphs, features]``; the same for equivalent networks."""
        module = training.in_float64(self.module)
        embedded = np.empty((len(networks), module.read_out[0].in_features))
        for positions, batch in networks.batches(training.PREDICTION_BATCH):
            for bundle in batch.to(module.position.device, torch.float64).bundles:
                embedded[positions[bundle.index.cpu()]] = module.embed(bundle).cpu().numpy()
        return embedded

    @torch.no_grad()
    def embed_nodes(self, networks: GraphDataset) -> list[np.ndarray]:
        """For each network its nodes in canonical order, float64 ``[nodes, channels]``; they permute as its neurons do."""
        module = training.in_float64(self.module)
        embedded: dict[int, np.ndarray] = {}
        for positions, batch in networks.batches(training.PREDICTION_BATCH):
            for bundle in batch.to(module.position.device, torch.float64).bundles:
                nodes = rearrange(module.embed_nodes(bundle), "nodes graphs channels -> graphs nodes channels").cpu().numpy()
                embedded.update(zip(positions[bundle.index.cpu()].tolist(), nodes, strict=True))
        return [embedded[position] for position in range(len(networks))]

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> NGGNN:
        """A model that was trained with the authors' code; its `module` gives the outputs of theirs, network by network.

        Args:
            state_dict: Parameters under the names of https://github.com/mkofinas/neural-graphs.
            config: The section ``model`` of its configuration.

        Raises:
            ConfigError: The model has an option that this one lacks.
        """
        method = cls(_reference_config(config))
        constants = LayerConstants(**config["graph_constructor"]["stats"])
        vocabulary = _reference_vocabulary(state_dict, config)
        module = GraphNetwork(method.config, vocabulary, constants, num_outputs=config["d_out"]).double().eval()
        module.load_state_dict(_reference_weights({name: tensor.double() for name, tensor in state_dict.items()}, method.config))
        method._module = module
        return method


# The authors' checkpoints.


@dataclass(frozen=True)
class LayerConstants:
    """Normalises with constants for each layer, as the authors' configurations have them; None leaves values as they are.

    Args:
        weights_mean: For each layer, from the first after the inputs.
        weights_std: Likewise.
        biases_mean: Likewise.
        biases_std: Likewise.
    """

    weights_mean: Sequence[float] | None
    weights_std: Sequence[float] | None
    biases_mean: Sequence[float] | None
    biases_std: Sequence[float] | None

    def __call__(self, batch: GraphBatch) -> GraphBatch:
        """The batch with normalised values; the one given is left as it is."""
        return GraphBatch(tuple(replace(bundle, values=self._normalized(bundle)) for bundle in batch.bundles))

    def _normalized(self, bundle: GraphBundle) -> Tensor:
        values, topology = bundle.values.clone(), bundle.topology
        for slot in topology.slots:
            is_weight = slot.feature is None
            group = topology.edge_block(slot.owner).target if is_weight else slot.owner
            mean, std = (self.weights_mean, self.weights_std) if is_weight else (self.biases_mean, self.biases_std)
            if mean is not None and std is not None:
                layer = topology.group(group).layer - 1
                values[:, slot.start : slot.stop].sub_(mean[layer]).div_(std[layer])
        return values


def _reference_config(config: Mapping[str, Any]) -> Config:
    backbone, constructor = config["gnn_backbone"], config["graph_constructor"]
    needed = {
        "gnn_backbone": {"norm": "layernorm", "act": "silu", "update_edge_attr": True, "modulate_edges": True, "gating_edges": False},
        "graph_constructor": {"zero_out_bias": False, "zero_out_weights": False, "use_pos_embed": True, "input_layers": 1},
    }
    options = [(section, name, value) for section, values in needed.items() for name, value in values.items()]
    options += [("graph_constructor", "num_probe_features", 0), ("gnn_backbone", "final_edge_update", False)]
    for section, name, value in options:
        if config[section][name] != value:
            raise ConfigError(f"{section}.{name} of the reference model is {config[section][name]!r}; expected {value!r}")
    if (config["pooling_method"], config["pooling_layer_idx"]) not in (("cat", "last"), ("mean", "all")):
        raise ConfigError(
            f"pooling of the reference model is {config['pooling_method']!r} over {config['pooling_layer_idx']!r}; "
            "expected 'cat' over 'last' or 'mean' over 'all'"
        )
    return Config.paper(
        channels=config["d_hid"],
        num_layers=backbone["num_layers"],
        encoding="fourier" if constructor["sin_emb"] else "linear",
        num_frequencies=constructor["sin_emb_dim"],
        frequency_scale=constructor["inp_factor"],
        reverse_edges=config["rev_edge_features"],
        pooling=config["pooling_method"],
        dropout=backbone["dropout"],
    )


def _reference_vocabulary(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Vocabulary:
    constructor = config["graph_constructor"]
    inr = constructor.get("inr_model")
    num_inputs = inr["in_features"] if inr else config["input_channels"]
    num_outputs = inr["out_features"] if inr else config["num_classes"]
    side = math.isqrt(constructor["d_edge_in"])
    return Vocabulary(
        num_inputs=num_inputs,
        num_hidden_layers=len(state_dict["construct_graph.pos_embed"]) - num_inputs - num_outputs,
        num_outputs=num_outputs,
        kernel=() if side == 1 else (side, side),
        features=("bias",),
        activations=REFERENCE_ACTIVATIONS if "construct_graph.act_emb.embedding.weight" in state_dict else (),
        mean_log_degree=float(state_dict["gnn.convs.0.aggr_module.avg_deg_log"]),
    )


REFERENCE_ACTIVATIONS = ("none", "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu")


def _reference_weights(theirs: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Their parameters under our names; linear layers that follow one another become one."""
    ours: dict[str, Tensor] = {}

    def put(name: str, *layers: str) -> None:
        weight, bias = theirs[f"{layers[0]}.weight"], theirs[f"{layers[0]}.bias"]
        for layer in layers[1:]:
            weight, bias = theirs[f"{layer}.weight"] @ weight, theirs[f"{layer}.weight"] @ bias + theirs[f"{layer}.bias"]
        ours.update({f"{name}.weight": weight, f"{name}.bias": bias})

    construct = "construct_graph"
    ours["position"] = theirs[f"{construct}.pos_embed"]
    ours["direction"] = torch.zeros(1 + config.reverse_edges, config.channels)
    ours["activation"] = theirs.get(f"{construct}.act_emb.embedding.weight", torch.zeros(0, config.channels))
    for kind, encoder, last in (("weight", "encode_edges", "proj_edge_in"), ("bias", "encode_nodes", "proj_node_in")):
        if config.encoding == "fourier":
            ours[f"{encoder}.0.frequencies"] = theirs[f"{construct}.proj_{kind}.0.b"]
            put(f"{encoder}.1", f"{construct}.proj_{kind}.1", f"{construct}.{last}")
        else:
            put(encoder, f"{construct}.proj_{kind}.0", f"{construct}.{last}")
    for index in range(config.num_layers):
        layer, conv, update = f"layers.{index}", f"gnn.convs.{index}", f"gnn.edge_update.{index - 1}"
        put(f"{layer}.film", f"{conv}.edge_encoder")
        put(f"{layer}.node", f"{conv}.post_nns.0.0", f"{conv}.lin")
        bias = theirs[f"{conv}.pre_nns.0.0.bias"]
        weights = list(theirs[f"{conv}.pre_nns.0.0.weight"].chunk(2, 1))
        biases = [bias, torch.zeros_like(bias)]
        if index > 0:
            put(f"{layer}.edge_in", f"{update}.lin_e")
            put(f"{layer}.edge_out", f"{update}.lin1")
            ours.update({f"norms.{index - 1}.{part}": theirs[f"gnn.norms.{index - 1}.{part}"] for part in ("weight", "bias")})
            # ends as a target, for edge and message, then as a source
            weights = [theirs[f"{update}.lin_t.weight"], weights[0], theirs[f"{update}.lin_s.weight"], weights[1]]
            biases = [theirs[f"{update}.lin_t.bias"], biases[0], theirs[f"{update}.lin_s.bias"], biases[1]]
        ours.update({f"{layer}.ends.weight": torch.cat(weights), f"{layer}.ends.bias": torch.cat(biases)})
    for index in (0, 2, 4):
        put(f"read_out.{index}", f"proj_out.{index}")
    return ours
