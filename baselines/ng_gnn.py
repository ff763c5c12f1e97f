"""NG-GNN: a graph neural network that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: messages that
edge features modulate, principal neighbourhood aggregation (Corso et al., NeurIPS 2020), edge updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines import reference, training
from baselines.message_passing import (
    CACHE_SIZE,
    Aggregate,
    FlatWiring,
    Linear,
    SumOfEnds,
    Wiring,
    product,
    reversal,
    starts_of,
    tiled,
)
from baselines.training import Training
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import Topology
from ngbench.graph.neural_graph import largest_kernel
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset, Normalization
from ngbench.methods import MethodInfo, Problem, RunContext

UNMARKED = ("conv", "linear")
"""Operations without an embedding: what a layer's weights usually are. Other edges carry scales, or the number one."""

INNER_ROLES = ("hidden", "structural")

SMALLEST_MEAN_SQUARE = 1e-4
"""Added to the mean square of a kernel before its logarithm is taken; that of a usual kernel is normalised to one."""

GRAPHS_PER_STRUCTURE = 32
"""Networks of a structure, on average, from which on they are read side by side, without tables of indices.

On one core the flat graph took 0.6 to 0.8 of the time with 4 to 16 networks of each, and 0.9 with 32 and 64.
"""


@dataclass(frozen=True)
class Config(Training):
    """Options of `NGGNN`.

    The defaults are the best by validation τ of some sixty on `digits-cnn` that train within half a minute on one core.

    Args:
        channels: Numbers in the vector of a node or an edge.
        num_layers: Rounds of messages.
        encoding: How weights and biases enter: ``"linear"``, or ``"fourier"`` for random Fourier features before it.
        num_frequencies: Of the Fourier features.
        frequency_scale: Standard deviation of the frequencies.
        clip: Largest distance from its layer's mean, in standard deviations, that a weight is taken to have; 0 for no limit.
        reverse_edges: Whether messages also run from target to source, along edges of a type of their own.
        residual: Whether a layer's nodes and edges are added to what entered it.
        pooling: ``"mean"`` reads the mean of all nodes, ``"cat"`` the output nodes one after the other.
        dropout: Share of node features dropped after each layer but the last.
        weight_noise: Standard deviation of the factors, around one, that each weight and bias is multiplied by in training.
        mixed: Whether networks are read in terms that structures share: relative depth instead of the number of a layer,
            scale and sum of each kernel besides its numbers, and for pooling ``"mean"`` inner and output nodes apart. None for
            where the training networks have several structures.

    Raises:
        ConfigError: An option has none of the named values, or a number is out of range.
    """

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
    mixed: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("encoding", ("linear", "fourier")), ("pooling", ("mean", "cat"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """The model of the paper: Fourier features, no residual updates, output nodes read, weights neither clipped nor noisy."""
        return replace(cls(encoding="fourier", clip=0.0, residual=False, pooling="cat", weight_noise=0.0, mixed=False), **changes)


@dataclass(frozen=True)
class Vocabulary:
    """What the structures of the training networks have between them; it sizes the tables of the model.

    Args:
        num_inputs: Most input nodes of a network; each has an embedding of its own, and further ones take the last.
        num_hidden_layers: Most hidden layers of a network; each has an embedding, and deeper layers take the last. One where
            networks are read as `Config.mixed`, which tells layers apart by `depths`.
        num_outputs: Most output nodes of a network; each has an embedding of its own, and further ones take the last.
        kernel: Spatial shape to which the weights on all edges are padded, or cut where a kernel is larger.
        features: Names of the node features that are read, the bias among them even where no network has one.
        activations: Activations of hidden nodes that have an embedding; any other, such as one not recorded, adds nothing.
        operations: Operations of blocks that have an embedding; any other, such as `UNMARKED` ones, adds nothing.
        mean_log_degree: Mean of log(1 + in-degree) over all nodes, the unit of the amplification scaler.
    """

    num_inputs: int
    num_hidden_layers: int
    num_outputs: int
    kernel: tuple[int, ...]
    features: tuple[str, ...]
    activations: tuple[str, ...]
    operations: tuple[str, ...]
    mean_log_degree: float

    @classmethod
    def of(cls, networks: GraphDataset, *, reverse_edges: bool, mixed: bool = False) -> Vocabulary:
        """The vocabulary of some networks."""
        topologies = [topology for bundle in networks.bundles for topology in bundle.variants]
        groups = [group for topology in topologies for group in topology.groups]
        degrees = [Wiring.of(bundle.topology, reverse_edges).degree.repeat(len(bundle)) for bundle in networks.bundles]
        return cls(
            num_inputs=max(_num_nodes(topology, "input") for topology in topologies),
            num_hidden_layers=1 if mixed else max((group.layer for group in groups if group.role == "hidden"), default=1),
            num_outputs=max(_num_nodes(topology, "output") for topology in topologies),
            kernel=largest_kernel(*topologies),
            features=tuple(sorted({"bias"}.union(feature.name for group in groups for feature in group.features))),
            activations=tuple(sorted({group.activation for group in groups if group.role in INNER_ROLES})),
            operations=tuple(sorted({b.operation for topology in topologies for b in topology.blocks}.difference(UNMARKED))),
            mean_log_degree=float(torch.cat(degrees).log1p().mean()),
        )


def _num_nodes(topology: Topology, role: str) -> int:
    return sum(group.size for group in topology.groups if group.role == role)


@lru_cache(maxsize=CACHE_SIZE)
def position_rows(vocabulary: Vocabulary, topology: Topology) -> Tensor:
    """Row of each node in the table of positional embeddings, int64 ``[nodes]``: inputs, hidden layers, then outputs."""
    first_output = vocabulary.num_inputs + vocabulary.num_hidden_layers
    rows: list[int] = []
    num_seen = {"input": 0, "output": 0}
    for group in topology.groups:
        if group.role in INNER_ROLES:
            layer = min(max(group.layer, 1), vocabulary.num_hidden_layers)
            rows += [vocabulary.num_inputs + layer - 1] * group.size
            continue
        first, most = (0, vocabulary.num_inputs) if group.role == "input" else (first_output, vocabulary.num_outputs)
        rows += [first + min(num_seen[group.role] + node, most - 1) for node in range(group.size)]
        num_seen[group.role] += group.size
    return torch.tensor(rows)


@lru_cache(maxsize=CACHE_SIZE)
def depths(topology: Topology) -> Tensor:
    """Depth of each inner node, float32 ``[nodes, 3]``: share of the deepest layer, and closeness to inputs and to that layer.

    Closeness is one over one more than the number of layers between; input and output nodes have zeros.
    """
    deepest = max(group.layer for group in topology.groups)
    of_groups = [
        (g.layer / deepest, 1 / (1 + g.layer), 1 / (1 + deepest - g.layer)) if g.role in INNER_ROLES else (0.0, 0.0, 0.0)
        for g in topology.groups
    ]
    return torch.repeat_interleave(torch.tensor(of_groups), torch.tensor([group.size for group in topology.groups]), 0)


@lru_cache(maxsize=CACHE_SIZE)
def activation_rows(vocabulary: Vocabulary, topology: Topology) -> Tensor:
    """Row of each node in the table of activation embeddings, int64 ``[nodes]``; the row after the last stands for none."""
    rows = {activation: row for row, activation in enumerate(vocabulary.activations)}
    of_groups = [rows.get(g.activation, len(rows)) if g.role in INNER_ROLES else len(rows) for g in topology.groups]
    return torch.repeat_interleave(torch.tensor(of_groups), torch.tensor([group.size for group in topology.groups]))


@lru_cache(maxsize=CACHE_SIZE)
def operation_rows(vocabulary: Vocabulary, topology: Topology, reverse_edges: bool) -> Tensor:
    """Row of each edge in the table of operation embeddings, int64 ``[edges]``; the row after the last stands for none."""
    rows = {operation: row for row, operation in enumerate(vocabulary.operations)}
    of_blocks = [rows.get(block.operation, len(rows)) for block in topology.blocks]
    num_edges = [math.prod(topology.block_shape(block.name)[:2]) for block in topology.blocks]
    return torch.repeat_interleave(torch.tensor(of_blocks), torch.tensor(num_edges)).repeat(1 + reverse_edges)


@lru_cache(maxsize=CACHE_SIZE)
def value_positions(vocabulary: Vocabulary, topology: Topology, reverse_edges: bool) -> tuple[Tensor, Tensor]:
    """Where node features and edge weights stand in ``[0, 1, *values]``, int64 ``[nodes, features]`` and ``[edges, kernel]``.

    They are what a network holds whose values are positions: of what it lacks that is 0, and of a structural edge 1.
    """
    positions, zero = torch.arange(2, topology.num_values + 2), torch.zeros(1, dtype=torch.int64)
    bundle = GraphBundle((topology,), zero, positions[None], zero)
    weights = bundle.edge_weights(vocabulary.kernel)[:, 0]
    if reverse_edges:
        weights = torch.cat([weights, weights[reversal(topology)]])
    return bundle.node_features(vocabulary.features)[:, 0], weights


@lru_cache(maxsize=CACHE_SIZE)
def kernel_sizes(vocabulary: Vocabulary, topology: Topology, reverse_edges: bool) -> Tensor:
    """Numbers that are read of the kernel on each edge, padding not counted, int64 ``[edges]``."""
    return (value_positions(vocabulary, topology, reverse_edges)[1] > 0).sum(1)


@dataclass(frozen=True)
class Reading:
    """Networks as they enter the model at once: of one structure side by side, or of any number as one flat graph.

    Args:
        wiring: The edges; of one structure a `Wiring`, and of several a `FlatWiring` in one column for graphs.
        features: Node features, ``[nodes, graphs, features]``.
        weights: Weights on the edges, and then on the reversed edges, ``[edges, graphs, kernel]``.
        kernel_sizes: Numbers in the kernel on each edge, int64 ``[edges]``.
        positions: Rows of positional embeddings, int64 ``[nodes]``.
        depths: Relative depths, float32 ``[nodes, 3]``.
        activations: Rows of activation embeddings, int64 ``[nodes, variants]``.
        variant: Which of these each network has, int64 ``[graphs]``.
        operations: Rows of operation embeddings, int64 ``[edges]``.
        is_reversed: Which edges are reversed, bool ``[edges]``.
        index: Position in the batch of each network, int64 ``[graphs]``.
    """

    wiring: Wiring | FlatWiring
    features: Tensor
    weights: Tensor
    kernel_sizes: Tensor
    positions: Tensor
    depths: Tensor
    activations: Tensor
    variant: Tensor
    operations: Tensor
    is_reversed: Tensor
    index: Tensor

    @classmethod
    def of(cls, batch: GraphBatch, vocabulary: Vocabulary, *, reverse_edges: bool) -> tuple[Reading, ...]:
        """The networks of a batch: bundle by bundle where these are large, and otherwise all as one."""
        if len(batch) < GRAPHS_PER_STRUCTURE * len(batch.bundles) and len(batch.bundles) > 1:
            return (cls.flat(batch, vocabulary, reverse_edges=reverse_edges),)
        return tuple(cls.side_by_side(bundle, vocabulary, reverse_edges=reverse_edges) for bundle in batch.bundles)

    @classmethod
    def side_by_side(cls, bundle: GraphBundle, vocabulary: Vocabulary, *, reverse_edges: bool) -> Reading:
        """The networks of one bundle."""
        topology, weights = bundle.topology, bundle.edge_weights(vocabulary.kernel)
        return cls(
            wiring=Wiring.of(topology, reverse_edges),
            features=bundle.node_features(vocabulary.features),
            weights=torch.cat([weights, weights[reversal(topology)]]) if reverse_edges else weights,
            kernel_sizes=kernel_sizes(vocabulary, topology, reverse_edges),
            positions=position_rows(vocabulary, topology),
            depths=depths(topology),
            activations=torch.stack([activation_rows(vocabulary, variant) for variant in bundle.variants], 1),
            variant=bundle.variant,
            operations=operation_rows(vocabulary, topology, reverse_edges),
            is_reversed=torch.arange((1 + reverse_edges) * topology.num_edges) >= topology.num_edges,
            index=bundle.index,
        )

    @classmethod
    def flat(cls, batch: GraphBatch, vocabulary: Vocabulary, *, reverse_edges: bool) -> Reading:
        """All networks of a batch as one graph; no loop runs over the networks of a bundle."""
        bundles, device = batch.bundles, batch.bundles[0].values.device
        structures = [(bundle.topology, len(bundle)) for bundle in bundles]
        wiring = FlatWiring.of(structures, reverse_edges=reverse_edges)
        counts = [count for _, count in structures]
        features, weights = zip(
            *(value_positions(vocabulary, topology, reverse_edges) for topology, _ in structures), strict=True
        )
        # in front of the values of each network stand those that `value_positions` counts on
        rows = [functional.pad(functional.pad(bundle.values, (1, 0), value=1.0), (1, 0)) for bundle in bundles]
        values = torch.cat([row.flatten() for row in rows])
        starts = starts_of(torch.tensor([row.shape[1] for row in rows]).repeat_interleave(torch.tensor(counts)))

        def gathered(tables: Sequence[Tensor], order: Tensor) -> Tensor:
            sizes = torch.tensor([len(table) for table in tables]).repeat_interleave(torch.tensor(counts))
            table = tiled(tables, counts) + starts.repeat_interleave(sizes).unsqueeze(1)
            return values[table[order].to(device)].unsqueeze(1)

        of_variants = [torch.stack([activation_rows(vocabulary, v) for v in b.variants])[b.variant.cpu()] for b in bundles]
        num_edges = [topology.num_edges for topology, _ in structures]
        directions = [torch.arange((1 + reverse_edges) * number) >= number for number in num_edges]
        return cls(
            wiring=wiring.to(device),
            features=gathered(features, wiring.nodes),
            weights=gathered(weights, wiring.edges),
            kernel_sizes=tiled([kernel_sizes(vocabulary, t, reverse_edges) for t, _ in structures], counts)[wiring.edges],
            positions=tiled([position_rows(vocabulary, topology) for topology, _ in structures], counts)[wiring.nodes],
            depths=tiled([depths(topology) for topology, _ in structures], counts)[wiring.nodes],
            activations=torch.cat([rows.flatten() for rows in of_variants])[wiring.nodes].unsqueeze(1),
            variant=torch.zeros(1, dtype=torch.int64),
            operations=tiled([operation_rows(vocabulary, t, reverse_edges) for t, _ in structures], counts)[wiring.edges],
            is_reversed=tiled(directions, counts)[wiring.edges],
            index=torch.cat([bundle.index for bundle in bundles]),
        )


class Fourier(nn.Module):
    """Gaussian Fourier features: cosines, then sines, of 2π v bᵀ (Tancik et al., NeurIPS 2020).

    Args:
        num_inputs: Numbers in a vector v.
        num_frequencies: Rows of b.
        scale: Standard deviation of b.
    """

    frequencies: Tensor

    def __init__(self, num_inputs: int, num_frequencies: int, *, scale: float):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(num_frequencies, num_inputs) * scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., 2 frequencies]``."""
        angles = functional.linear(2 * math.pi * vectors, self.frequencies)
        return torch.cat([angles.cos(), angles.sin()], -1)


class GraphNorm(nn.Module):
    """Normalises over all nodes and channels of one graph, then scales and shifts each channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
        """``[nodes, graphs, channels]`` to the same."""
        centred = nodes - wiring.graph_mean(nodes)
        deviation = wiring.graph_mean(centred.square()).sqrt()
        return centred * (self.weight / (deviation + self.eps)) + self.bias


class Layer(nn.Module):
    """Edge update and one round of messages.

    An edge becomes Linear(SiLU(Linear([edge, source, target]))) before it carries a message, save in the first layer; the
    authors' code has this update at the end of the layer before. The message is scale(edge) · Linear([target, source]) +
    shift(edge); the messages to a node are aggregated, and a linear layer reads them with the node's own vector.

    Args:
        channels: Numbers in the vector of a node or an edge.
        updates_edges: False in the first layer.
        residual: Whether the update is added to what the edge was.
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

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring | FlatWiring, amplification: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes ``[nodes, graphs, channels]``, new edges ``[edges, graphs, channels]``; amplification ``[nodes, 1, 1]``."""
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
    """The whole: encode nodes and edges, pass messages, pool, read out.

    Args:
        config: Sizes and options.
        vocabulary: What the networks to be read consist of.
        normalization: Brings the weights and biases of each layer to one scale.
        num_outputs: Numbers to predict for a network.
    """

    def __init__(
        self, config: Config, vocabulary: Vocabulary, normalization: Callable[[GraphBatch], GraphBatch], *, num_outputs: int
    ):
        super().__init__()
        self.config, self.vocabulary, self.normalization = config, vocabulary, normalization
        channels, directions = config.channels, 1 + config.reverse_edges
        self.encode_edges = self._encoder((2 * directions - 1) * math.prod(vocabulary.kernel) + (2 if config.mixed else 0))
        self.encode_nodes = self._encoder(len(vocabulary.features))
        self.direction = nn.Parameter(torch.zeros(directions, channels))
        num_positions = vocabulary.num_inputs + vocabulary.num_hidden_layers + vocabulary.num_outputs
        self.position = nn.Parameter(torch.randn(num_positions, channels))
        self.activation = nn.Parameter(torch.randn(len(vocabulary.activations), channels))
        self.operation = nn.Parameter(torch.randn(len(vocabulary.operations), channels))
        self.depth = nn.Parameter(torch.randn(3 if config.mixed else 0, channels))
        self.layers = nn.ModuleList(
            Layer(channels, updates_edges=index > 0, residual=config.residual) for index in range(config.num_layers)
        )
        self.norms = nn.ModuleList(GraphNorm(channels) for _ in range(config.num_layers - 1))
        self.num_features = channels * (vocabulary.num_outputs if config.pooling == "cat" else 2 if config.mixed else 1)
        self.read_out = nn.Sequential(
            nn.Linear(self.num_features, channels),
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
        embedded, index = self.embed(batch)
        return self.read_out(embedded)[torch.argsort(index)]

    def embed(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """What is read out, ``[graphs, features]``, and the position in the batch of each network, int64 ``[graphs]``."""
        readings = self.read(batch)
        return torch.cat([self._pooled(reading) for reading in readings]), torch.cat([reading.index for reading in readings])

    def _pooled(self, reading: Reading) -> Tensor:
        nodes = self.embed_nodes(reading)
        if self.config.pooling == "mean" and not self.config.mixed:
            return reading.wiring.pool(nodes)
        places = reading.positions - (self.vocabulary.num_inputs + self.vocabulary.num_hidden_layers)
        if self.config.mixed and self.config.pooling == "mean":
            is_inner = (reading.positions >= self.vocabulary.num_inputs) & (places < 0)
            return torch.cat([_mean_of(part, nodes, reading.wiring) for part in (is_inner, places >= 0)], 1)
        # outputs that a network lacks count as zeros
        return reading.wiring.concatenate(nodes, places, num_places=self.vocabulary.num_outputs)

    def embed_nodes(self, reading: Reading) -> Tensor:
        """``[nodes, graphs, channels]``; when a network's neurons are permuted, they permute alike."""
        nodes, edges = self.encode(reading)
        wiring = reading.wiring
        amplification = (wiring.degree.log1p() / self.vocabulary.mean_log_degree).to(nodes)[:, None, None]
        for layer, norm in zip(self.layers, self.norms, strict=False):
            new, edges = layer(nodes, edges, wiring, amplification)
            new = functional.dropout(functional.silu(norm(new, wiring)), self.config.dropout, self.training)
            nodes = nodes + new if self.config.residual else new
        return self.layers[-1](nodes, edges, wiring, amplification)[0]

    def read(self, batch: GraphBatch) -> tuple[Reading, ...]:
        """The networks of a batch with noisy, normalised and clipped values.

        Raises:
            GraphError: Output nodes are to be concatenated, and a network has more of them than any in training.
        """
        if self.config.pooling == "cat":
            self._check_outputs(batch)
        if self.training and self.config.weight_noise:
            batch = batch.map(lambda values: values * (1 + self.config.weight_noise * torch.randn_like(values)))
        batch = self.normalization(batch)
        if self.config.clip:
            batch = batch.map(lambda values: values.clamp(-self.config.clip, self.config.clip))
        return Reading.of(batch, self.vocabulary, reverse_edges=self.config.reverse_edges)

    def _check_outputs(self, batch: GraphBatch) -> None:
        most = max(_num_nodes(bundle.topology, "output") for bundle in batch.bundles)
        if most > self.vocabulary.num_outputs:
            raise GraphError(
                f"a network has {most} output nodes, which pooling 'cat' reads one after the other; expected at most "
                f"{self.vocabulary.num_outputs}, as in training: use pooling 'mean'"
            )

    def encode(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """Nodes ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]`` as they enter the first layer."""
        activations = functional.pad(self.activation, (0, 0, 0, 1))[reading.activations][:, reading.variant]
        nodes = self.encode_nodes(reading.features) + self.position[reading.positions].unsqueeze(1) + activations
        if self.config.mixed:
            nodes = nodes + (reading.depths.to(nodes) @ self.depth).unsqueeze(1)
        return nodes, self._encoded_edges(reading)

    def _encoded_edges(self, reading: Reading) -> Tensor:
        weights, direction = reading.weights, self.direction[0]
        if self.config.reverse_edges:
            # As in the authors' code: an edge's own weight, that of its opposite, which a feed-forward network lacks, and their
            # sum.
            is_reversed = reading.is_reversed.to(weights)[:, None, None]
            weights = torch.cat([weights * (1 - is_reversed), weights * is_reversed, weights], -1)
            direction = self.direction[reading.is_reversed.long()].unsqueeze(1)
        if self.config.mixed:
            weights = torch.cat([weights, *_scale_and_sum(reading)], -1)
        edges = self.encode_edges(weights) + direction
        if not self.vocabulary.operations:
            return edges
        return edges + functional.pad(self.operation, (0, 0, 0, 1))[reading.operations].unsqueeze(1)


def _scale_and_sum(reading: Reading) -> tuple[Tensor, Tensor]:
    """Of the kernel on each edge the logarithm of its root mean square, and its sum at unit variance, ``[edges, graphs, 1]``."""
    sizes = reading.kernel_sizes.to(reading.weights)[:, None, None]
    mean_square = reading.weights.square().sum(-1, keepdim=True) / sizes
    return (mean_square + SMALLEST_MEAN_SQUARE).log() / 2, reading.weights.sum(-1, keepdim=True) / sizes.sqrt()


def _mean_of(part: Tensor, nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
    """Mean of the nodes of each graph that are in a part, bool ``[nodes]``: ``[graphs, channels]``, zeros where none is."""
    is_counted = part.to(nodes)[:, None, None]
    return wiring.pool(nodes * is_counted) / wiring.pool(is_counted).clamp(min=torch.finfo(nodes.dtype).tiny)


class NGGNN:
    """NG-GNN as a method.

    Differs from the paper in that the norm spans one graph: the authors' code calls PyG's layer norm without the batch vector,
    so that it spans all graphs of a batch, and a prediction depends on its neighbours. Linear layers that follow one another are
    one, and the loss is that of `training.train`. The default options further differ in linear instead of Fourier encodings,
    residual updates, the mean of all nodes instead of the output nodes, clipped weights, and noise on the weights;
    `Config.paper` has the paper's. Edges that are neither linear nor convolutional have an embedding of their operation.
    Trained on several structures it reads them as `Config.mixed`.

    It reads any network: inputs, layers and outputs beyond those of training take the embedding of the last, save layers read as
    mixed; activations and operations that training lacked have none; node features that it lacked are not read, and larger
    kernels only around their centre.

    Args:
        config: Options.
    """

    info = MethodInfo(
        name="ng-gnn",
        title="NG-GNN",
        access="weights",
        invariant=True,
        any_architecture=True,
        paper="Kofinas et al. 2024, arXiv:2403.12143",
    )
    Config = Config

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self._module: GraphNetwork | None = None
        self._problem: Problem | None = None

    @property
    def module(self) -> GraphNetwork:
        """The network.

        Raises:
            MethodError: It has not been fitted.
        """
        if self._module is None:
            raise MethodError("ng-gnn has not been fitted; expected a call of fit before this one")
        return self._module

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Trains on `train` and keeps the epoch that is best on `val`."""
        mixed = len(train.bundles) > 1 if self.config.mixed is None else self.config.mixed
        vocabulary = Vocabulary.of(train, reverse_edges=self.config.reverse_edges, mixed=mixed)
        with training.seeded(context.seed):
            module = GraphNetwork(replace(self.config, mixed=mixed), vocabulary, Normalization.fit(train), num_outputs=1)
        training.train(module, settings=self.config, problem=problem, train=train, val=val, context=context)
        self._module, self._problem = module, problem

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``.

        Raises:
            MethodError: It has not been fitted.
            GraphError: Output nodes are concatenated, and a network has more of them than any in training.
        """
        if self._problem is None:
            raise MethodError("ng-gnn has not been fitted; expected a call of fit before predict")
        module = training.in_float64(self.module)
        return training.predict(module, networks, problem=self._problem, num_threads=self.config.num_threads)

    @torch.no_grad()
    def embed(self, networks: GraphDataset) -> np.ndarray:
        """What the last layers read of each network, float64 ``[graphs, features]``; the same for equivalent networks."""
        module = training.in_float64(self.module)
        embedded = np.empty((len(networks), module.num_features))
        for positions, batch in training.prediction_batches(networks):
            vectors, index = module.embed(batch.to(module.position.device, torch.float64))
            embedded[positions[index.cpu().numpy()]] = vectors.cpu().numpy()
        return embedded

    @torch.no_grad()
    def embed_nodes(self, networks: GraphDataset) -> list[np.ndarray]:
        """For each network its nodes in canonical order, float64 ``[nodes, channels]``; they permute as its neurons do."""
        module = training.in_float64(self.module)
        embedded: dict[int, np.ndarray] = {}
        for positions, batch in training.prediction_batches(networks):
            for reading in module.read(batch.to(module.position.device, torch.float64)):
                nodes = [rows.cpu().numpy() for rows in reading.wiring.split(module.embed_nodes(reading))]
                embedded.update(zip(positions[reading.index.cpu().numpy()].tolist(), nodes, strict=True))
        return [embedded[position] for position in range(len(networks))]

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> NGGNN:
        """A model trained with the authors' code; `module`, in float64, gives the outputs that theirs gives network by network.

        Args:
            state_dict: Parameters under the names of https://github.com/mkofinas/neural-graphs.
            config: The section ``model`` of its configuration.

        Raises:
            ConfigError: The model has an option that this one lacks.
        """
        options = reference.ng_gnn_options(config)
        method = cls(Config.paper(**options))
        vocabulary = Vocabulary(**reference.ng_gnn_vocabulary(state_dict, config))
        constants = reference.LayerConstants(**config["graph_constructor"]["stats"])
        module = GraphNetwork(method.config, vocabulary, constants, num_outputs=config["d_out"]).double().eval()
        module.load_state_dict(reference.ng_gnn_weights({name: tensor.double() for name, tensor in state_dict.items()}, options))
        method._module = module
        return method
