"""Neural graphs as vectors on nodes and edges: how NG-GNN and NG-T read weights, biases, places and activations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from baselines.fitting.training import Training
from baselines.kernels import fourier
from baselines.kernels.usable import PRECISIONS
from baselines.reading.message_passing import CACHE_SIZE, FlatWiring, Linear, Wiring, product, reversal, starts_of, tiled
from baselines.reading.probes import ProbeFeatures
from ngbench.graph import Topology
from ngbench.graph.neural_graph import largest_kernel
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset
from ngbench.loading.batch import fit_kernel

UNMARKED = ("conv", "linear")
"""Operations of a layer's usual weights, by which a target sums over its sources; other edges carry scales, or the number one."""

INNER_ROLES = ("hidden", "structural")

SMALLEST_MEAN_SQUARE = 1e-4
"""Added to the mean square of a kernel before its logarithm is taken; that of a usual kernel is normalised to one."""

GRAPHS_PER_STRUCTURE = 32
"""Networks of a structure, on average, from which on they are read side by side, without tables of indices.

On one core the flat graph took 0.6 to 0.8 of the time with 4 to 16 networks of each, and 0.9 with 32 and 64.
"""


@dataclass(frozen=True)
class Encoding(Training):
    """How a method reads neural graphs; the `Config` of a method adds the options of its layers.

    Args:
        encoding: How weights and biases enter: ``"linear"``, or ``"fourier"`` for random Fourier features before it.
        num_frequencies: Of the Fourier features.
        frequency_scale: Standard deviation of the frequencies.
        normalize: Whether the weights and node features of each layer are brought to mean 0 and variance 1.
        clip: Largest distance from its layer's mean, in standard deviations, that a weight is taken to have; 0 for no limit.
        weight_noise: Standard deviation of the factors, around one, that each weight and bias is multiplied by in training.
        positions: Whether nodes have positional embeddings: one for each hidden layer, and one for each input and output.
        activations: Whether hidden nodes have an embedding of their activation.
        reverse_edges: Whether each edge also runs from target to source, with a type of its own.
        mixed: Whether networks are read in terms that structures share: relative depth instead of the number of a layer,
            scale and sum of each kernel besides its numbers, and inner and output nodes pooled apart. None for where the
            training networks have several structures.
        num_probes: Inputs that are pushed through the networks, whose activations become node features; 0 for none, and then
            weights alone are read.
        probes: Where these inputs come from: ``"learned"`` with the weights, ``"random"``, or ``"data"``, training images.

    Raises:
        ConfigError: An option has none of the named values, a number is out of range, or an option is set that nothing reads:
            of Fourier features where `encoding` is another, or `probes` where there are none.
    """

    encoding: str = "linear"
    num_frequencies: int = 128
    frequency_scale: float = 3.0
    normalize: bool = True
    clip: float = 10.0
    weight_noise: float = 0.2
    positions: bool = True
    activations: bool = True
    reverse_edges: bool = False
    mixed: bool | None = None
    num_probes: int = 0
    probes: str = "learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("encoding", "linear", "fourier")
        self.check_choice("probes", "learned", "random", "data")
        self.check_positive("num_frequencies", "frequency_scale")
        self.check_not_negative("num_probes", "clip", "weight_noise")
        if self.encoding != "fourier":
            self.check_unused("num_frequencies", "frequency_scale", beside="encoding")
        if not self.num_probes:
            self.check_unused("probes", beside="num_probes")

    def for_networks(self, train: GraphDataset) -> Self:
        """With `mixed` decided by the training networks where it was left open."""
        return replace(self, mixed=len(train.bundles) > 1) if self.mixed is None else self


@dataclass(frozen=True)
class Vocabulary:
    """What the structures of the training networks have between them; it sizes the tables of the model.

    Args:
        num_inputs: Most input nodes of a network; each has an embedding of its own, and further ones take the last.
        num_hidden_layers: Most hidden layers of a network; each has an embedding, and deeper layers take the last. One where
            networks are read as `Encoding.mixed`, which tells layers apart by `depths`.
        num_outputs: Most output nodes of a network; each has an embedding of its own, and further ones take the last.
        kernel: Spatial shape to which the weights on all edges are padded, or cut where a kernel is larger.
        features: Names of the node features that are read, the bias among them even where no network has one.
        activations: Activations of hidden nodes that have an embedding; any other, such as one not recorded, adds nothing.
        operations: Operations of blocks that have an embedding; any other, such as `UNMARKED` ones, adds nothing.
        mean_log_degree: Mean of log(1 + in-degree) over all nodes, the unit of the amplification scaler.
        mean_num_nodes: Mean number of nodes of a network.
    """

    num_inputs: int
    num_hidden_layers: int
    num_outputs: int
    kernel: tuple[int, ...]
    features: tuple[str, ...]
    activations: tuple[str, ...]
    operations: tuple[str, ...]
    mean_log_degree: float
    mean_num_nodes: float

    @classmethod
    def of(cls, networks: GraphDataset, config: Encoding) -> Vocabulary:
        """The vocabulary of some networks, read in some way."""
        topologies = [topology for bundle in networks.bundles for topology in bundle.variants]
        groups = [group for topology in topologies for group in topology.groups]
        degrees = [Wiring.of(bundle.topology, config.reverse_edges).degree.repeat(len(bundle)) for bundle in networks.bundles]
        return cls(
            num_inputs=max(num_nodes(topology, "input") for topology in topologies),
            num_hidden_layers=1 if config.mixed else max((group.layer for group in groups if group.role == "hidden"), default=1),
            num_outputs=max(num_nodes(topology, "output") for topology in topologies),
            kernel=largest_kernel(*topologies),
            features=tuple(sorted({"bias"}.union(feature.name for group in groups for feature in group.features))),
            activations=tuple(sorted({group.activation for group in groups if group.role in INNER_ROLES})),
            operations=tuple(sorted({b.operation for topology in topologies for b in topology.blocks}.difference(UNMARKED))),
            mean_log_degree=float(torch.cat(degrees).log1p().mean()),
            mean_num_nodes=sum(map(len, degrees)) / len(networks),
        )


def num_nodes(topology: Topology, role: str) -> int:
    """Number of nodes in groups of a role."""
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
    return torch.repeat_interleave(torch.tensor(of_groups), _group_sizes(topology), 0)


def _group_sizes(topology: Topology) -> Tensor:
    return torch.tensor([group.size for group in topology.groups])


@lru_cache(maxsize=CACHE_SIZE)
def activation_rows(vocabulary: Vocabulary, topology: Topology) -> Tensor:
    """Row of each node in the table of activation embeddings, int64 ``[nodes]``; the row after the last stands for none."""
    rows = {activation: row for row, activation in enumerate(vocabulary.activations)}
    of_groups = [rows.get(g.activation, len(rows)) if g.role in INNER_ROLES else len(rows) for g in topology.groups]
    return torch.repeat_interleave(torch.tensor(of_groups), _group_sizes(topology))


@lru_cache(maxsize=CACHE_SIZE)
def activation_table(vocabulary: Vocabulary, variants: tuple[Topology, ...], device: torch.device) -> Tensor:
    """Activation of each node in some topologies, one-hot, float32 ``[nodes, variants, activations]``; zeros for none."""
    rows = torch.stack([activation_rows(vocabulary, variant) for variant in variants], 1)
    return _one_hot(rows, len(vocabulary.activations)).to(device)


def _one_hot(rows: Tensor, num_rows: int) -> Tensor:
    """Rows of a table as float32 ``[..., num_rows]``, zeros for the row after the last.

    Tables have few rows: the gradient of a product sums what belongs to one, where that of an index would add it up in turn.
    """
    return functional.one_hot(rows, num_rows + 1)[..., :num_rows].float()


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


@dataclass(frozen=True)
class Places:
    """What the structure of networks says of each node, whatever their values.

    Args:
        positions: Row of each node's positional embedding, one-hot, float32 ``[nodes, positions]``.
        depths: Relative depths, float32 ``[nodes, 3]``.
        is_inner: Which nodes are neither inputs nor outputs, bool ``[nodes]``.
        is_output: Which nodes are outputs, bool ``[nodes]``.
    """

    positions: Tensor
    depths: Tensor
    is_inner: Tensor
    is_output: Tensor

    @classmethod
    @lru_cache(maxsize=CACHE_SIZE)
    def of(cls, vocabulary: Vocabulary, topology: Topology, device: torch.device, /) -> Places:
        """Of networks of one structure."""
        sizes = _group_sizes(topology)
        num_positions = vocabulary.num_inputs + vocabulary.num_hidden_layers + vocabulary.num_outputs
        return cls(
            positions=_one_hot(position_rows(vocabulary, topology), num_positions),
            depths=depths(topology),
            is_inner=torch.tensor([g.role in INNER_ROLES for g in topology.groups]).repeat_interleave(sizes),
            is_output=torch.tensor([g.role == "output" for g in topology.groups]).repeat_interleave(sizes),
        ).to(device)

    @classmethod
    def flat(cls, of_structures: Sequence[Places], counts: Sequence[int], wiring: FlatWiring) -> Places:
        """Of networks of several structures, so many of each, as they stand in a flat graph."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: tiled([getattr(places, name) for places in of_structures], counts)[wiring.nodes] for name in names})

    def to(self, device: torch.device) -> Places:
        """The tables on another device."""
        return Places(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class EdgeKind:
    """What edges are read alike: the spatial shape of their kernels, their operation, and their direction.

    Args:
        columns: Which of the vocabulary's numbers a kernel has, ``[numbers]``.
        operation: Row of the embedding of the operation; the row after the last stands for none.
        is_reversed: Whether edges run from target to source.
    """

    columns: tuple[int, ...]
    operation: int
    is_reversed: bool


@lru_cache(maxsize=CACHE_SIZE)
def kinds_of(vocabulary: Vocabulary, topology: Topology, reverse_edges: bool) -> tuple[tuple[EdgeKind, tuple[str, ...]], ...]:
    """The edges of a topology in the order of its `Wiring`, cut into runs of one kind, with the names of their blocks."""
    rows = {operation: row for row, operation in enumerate(vocabulary.operations)}
    found: list[tuple[EdgeKind, tuple[str, ...]]] = []
    for is_reversed in (False, True)[: 1 + reverse_edges]:
        for block in topology.blocks:
            kind = EdgeKind(_columns(block.kernel, vocabulary.kernel), rows.get(block.operation, len(rows)), is_reversed)
            before = found.pop() if found and found[-1][0] == kind else (kind, ())
            found.append((kind, (*before[1], block.name)))
    return tuple(found)


@lru_cache(maxsize=CACHE_SIZE)
def _columns(kernel: tuple[int, ...], of: tuple[int, ...]) -> tuple[int, ...]:
    """Where the numbers of a kernel stand among those of another shape, around the same centre; those that it lacks left out."""
    numbers = torch.arange(math.prod(kernel)) + 1
    return tuple((fit_kernel(numbers, kernel, of) > 0).nonzero().flatten().tolist())


@dataclass(frozen=True)
class WeightRuns:
    """Weights on the edges of networks of one structure, edges of one kind after the other.

    Args:
        kinds: What they are.
        values: Of each kind, ``[edges, graphs, numbers]``.
    """

    kinds: tuple[EdgeKind, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, bundle: GraphBundle, vocabulary: Vocabulary, *, reverse_edges: bool) -> WeightRuns:
        """The weights of the networks of a bundle."""
        runs = kinds_of(vocabulary, bundle.topology, reverse_edges)
        values = [
            torch.cat([_edges_of(bundle, name, vocabulary.kernel, is_reversed=kind.is_reversed) for name in names])
            for kind, names in runs
        ]
        return cls(tuple(kind for kind, _ in runs), tuple(values))


def _edges_of(bundle: GraphBundle, name: str, kernel: tuple[int, ...], *, is_reversed: bool) -> Tensor:
    """Weights of one block, ``[edges, graphs, numbers]``, of each kernel what a vocabulary's kernel has room for."""
    block, weights = bundle.topology.edge_block(name), bundle.block(name)
    room = tuple(map(min, block.kernel, ((1,) * (len(block.kernel) - len(kernel)) + kernel)[-len(block.kernel) :]))
    weights = fit_kernel(weights, block.kernel, room)
    if not is_reversed:
        return rearrange(weights, "g t s k -> (t s) g k")
    if block.pattern == "dense":
        return rearrange(weights, "g t s k -> (s t) g k")
    return rearrange(weights, "g t s k -> (t s) g k")[_reversal_of(bundle.topology, name, weights.device)]


@lru_cache(maxsize=CACHE_SIZE)
def _reversal_of(topology: Topology, name: str, device: torch.device) -> Tensor:
    sources = torch.from_numpy(topology.block_sources(name).copy()).flatten()
    return sources.argsort(stable=True).to(device)


@dataclass(frozen=True)
class FlatWeights:
    """Weights on the edges of a flat graph, all kernels padded to one shape.

    Args:
        values: ``[edges, 1, kernel]``.
        kernel_sizes: Numbers that are read of the kernel on each edge, padding not counted, int64 ``[edges]``.
        types: Direction of each edge, forward or reversed, then its operation, both one-hot, float32 ``[edges, types]``.
    """

    values: Tensor
    kernel_sizes: Tensor
    types: Tensor


@lru_cache(maxsize=CACHE_SIZE)
def flat_types(vocabulary: Vocabulary, topology: Topology, reverse_edges: bool) -> tuple[Tensor, Tensor]:
    """`FlatWeights.kernel_sizes` and `FlatWeights.types` of the edges of one network."""
    sizes, types = [], []
    for kind, names in kinds_of(vocabulary, topology, reverse_edges):
        num_edges = sum(math.prod(topology.block_shape(name)[:2]) for name in names)
        of_kind = torch.zeros(1 + reverse_edges + len(vocabulary.operations) + 1)
        of_kind[int(kind.is_reversed)] = of_kind[1 + reverse_edges + kind.operation] = 1
        sizes.append(torch.full((num_edges,), len(kind.columns)))
        types.append(of_kind[:-1].expand(num_edges, -1))
    return torch.cat(sizes), torch.cat(types)


@dataclass(frozen=True)
class Reading:
    """Networks as they enter the model at once: of one structure side by side, or of any number as one flat graph.

    Args:
        wiring: The edges; of one structure a `Wiring`, and of several a `FlatWiring` in one column for graphs.
        places: What the structure says of nodes.
        features: Node features, ``[nodes, graphs, features]``.
        weights: Weights on the edges, and then on the reversed edges.
        activations: Activation of each node, one-hot, float32 ``[nodes, graphs, activations]``; zeros for none.
        probed: Activations on the probes, ``[nodes, graphs, probes]``; None where there are no probes.
        outputs: Node of each output, int64 ``[graphs, outputs]``; the number of nodes where a network lacks it. Of one
            structure ``[1, outputs]``.
        index: Position in the batch of each network, int64 ``[graphs]``.
    """

    wiring: Wiring | FlatWiring
    places: Places
    features: Tensor
    weights: WeightRuns | FlatWeights
    activations: Tensor
    probed: Tensor | None
    outputs: Tensor
    index: Tensor

    @classmethod
    def of(
        cls, batch: GraphBatch, vocabulary: Vocabulary, *, reverse_edges: bool, probed: Sequence[Tensor | None] | None = None
    ) -> tuple[Reading, ...]:
        """The networks of a batch: bundle by bundle where these are large, and otherwise all as one.

        Args:
            batch: Networks with the values that are to be read.
            vocabulary: What they consist of.
            reverse_edges: Whether each edge also runs from target to source.
            probed: For each bundle its activations on the probes, ``[nodes, graphs, probes]``.
        """
        found = probed or [None] * len(batch.bundles)
        if len(batch) < GRAPHS_PER_STRUCTURE * len(batch.bundles) and len(batch.bundles) > 1:
            return (cls.flat(batch, vocabulary, reverse_edges=reverse_edges, probed=found),)
        pairs = zip(batch.bundles, found, strict=True)
        return tuple(cls.side_by_side(bundle, vocabulary, reverse_edges=reverse_edges, probed=of_one) for bundle, of_one in pairs)

    @classmethod
    def side_by_side(
        cls, bundle: GraphBundle, vocabulary: Vocabulary, *, reverse_edges: bool, probed: Tensor | None = None
    ) -> Reading:
        """The networks of one bundle."""
        topology, device = bundle.topology, bundle.values.device
        return cls(
            wiring=Wiring.of(topology, reverse_edges),
            places=Places.of(vocabulary, topology, device),
            features=bundle.node_features(vocabulary.features),
            weights=WeightRuns.of(bundle, vocabulary, reverse_edges=reverse_edges),
            activations=activation_table(vocabulary, bundle.variants, device)[:, bundle.variant],
            probed=probed,
            outputs=_output_nodes(vocabulary, topology, device).unsqueeze(0),
            index=bundle.index,
        )

    @classmethod
    def flat(cls, batch: GraphBatch, vocabulary: Vocabulary, *, reverse_edges: bool, probed: Sequence[Tensor | None]) -> Reading:
        """All networks of a batch as one graph; no loop runs over the networks of a bundle."""
        bundles, device, cpu = batch.bundles, batch.bundles[0].values.device, torch.device("cpu")
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

        of_variants = [activation_table(vocabulary, b.variants, cpu)[:, b.variant.cpu()].transpose(0, 1) for b in bundles]
        outputs = [_output_nodes(vocabulary, topology, cpu) for topology, _ in structures]
        places = [Places.of(vocabulary, topology, cpu) for topology, _ in structures]
        kinds = zip(*(flat_types(vocabulary, topology, reverse_edges) for topology, _ in structures), strict=True)
        sizes, types = (tiled(tables, counts)[wiring.edges].to(device) for tables in kinds)
        known = [of_one.transpose(0, 1).flatten(0, 1) for of_one in probed if of_one is not None]
        return cls(
            wiring=wiring.to(device),
            places=Places.flat(places, counts, wiring).to(device),
            features=gathered(features, wiring.nodes),
            weights=FlatWeights(gathered(weights, wiring.edges), sizes, types),
            activations=torch.cat([rows.flatten(0, 1) for rows in of_variants])[wiring.nodes].unsqueeze(1).to(device),
            probed=None if not known else torch.cat(known)[wiring.nodes.to(device)].unsqueeze(1),
            outputs=wiring.places_of(torch.stack(outputs).repeat_interleave(torch.tensor(counts), 0)).to(device),
            index=torch.cat([bundle.index for bundle in bundles]),
        )


@lru_cache(maxsize=CACHE_SIZE)
def _output_nodes(vocabulary: Vocabulary, topology: Topology, device: torch.device) -> Tensor:
    """Node of each output, int64 ``[outputs]``; the number of nodes for those that the network lacks."""
    nodes = [
        topology.node_ptr[group.name] + node for group in topology.groups if group.role == "output" for node in range(group.size)
    ]
    nodes += [topology.num_nodes] * (vocabulary.num_outputs - len(nodes))
    return torch.tensor(nodes[: vocabulary.num_outputs], device=device)


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

    def forward(self, vectors: Tensor, frequencies: Tensor | None = None) -> Tensor:
        """``[..., inputs]`` to ``[..., 2 frequencies]``; with other frequencies than its own where they are given."""
        # many turns: a format of few digits would leave nothing of the angle
        with torch.autocast(vectors.device.type, enabled=False):
            angles = functional.linear(2 * math.pi * vectors, self.frequencies if frequencies is None else frequencies)
            return torch.cat([angles.cos(), angles.sin()], -1)


class Encoder(nn.Module):
    """Nodes and edges of neural graphs as vectors.

    Args:
        config: Options.
        vocabulary: What the networks to be read consist of.
        normalization: Brings the weights and biases of each layer to one scale.
        node_channels: Numbers in the vector of a node.
        edge_channels: Numbers in the vector of an edge.
        probes: Inputs to the networks whose activations are read too; None for none.
    """

    def __init__(
        self,
        config: Encoding,
        vocabulary: Vocabulary,
        normalization: Callable[[GraphBatch], GraphBatch],
        *,
        node_channels: int,
        edge_channels: int,
        probes: ProbeFeatures | None = None,
    ):
        super().__init__()
        self.config, self.vocabulary, self.normalization = config, vocabulary, normalization
        directions = 1 + config.reverse_edges
        self.edges = self._reader((2 * directions - 1) * math.prod(vocabulary.kernel) + (2 if config.mixed else 0), edge_channels)
        self.nodes = self._reader(len(vocabulary.features), node_channels)
        self.direction = nn.Parameter(torch.zeros(directions, edge_channels))
        num_positions = vocabulary.num_inputs + vocabulary.num_hidden_layers + vocabulary.num_outputs
        self.position = nn.Parameter(torch.randn(num_positions if config.positions else 0, node_channels))
        self.activation = nn.Parameter(torch.randn(len(vocabulary.activations) if config.activations else 0, node_channels))
        self.operation = nn.Parameter(torch.randn(len(vocabulary.operations), edge_channels))
        self.depth = nn.Parameter(torch.randn(3 if config.mixed and config.positions else 0, node_channels))

        # summed up by columns, or read by kernels, before anything is rounded
        self.unrounded = tuple(layer for layer in self.edges.modules() if isinstance(layer, nn.Linear))
        self.probes = probes
        self.probed = None if probes is None else nn.Linear(probes.num_probes, node_channels)

    def _reader(self, num_inputs: int, channels: int) -> nn.Module:
        if self.config.encoding == "linear":
            return Linear(num_inputs, channels)
        fourier = Fourier(num_inputs, self.config.num_frequencies, scale=self.config.frequency_scale)
        return nn.Sequential(fourier, Linear(2 * self.config.num_frequencies, channels))

    def read(self, batch: GraphBatch) -> tuple[Reading, ...]:
        """The networks of a batch with noisy, normalised and clipped values."""
        noise, limit = self.config.weight_noise, self.config.clip
        # what networks do is asked before their weights are changed
        probed = None if self.probes is None else [self.probes(bundle) for bundle in batch.bundles]
        if self.training and noise:
            batch = batch.map(lambda values: values * (1 + noise * torch.randn_like(values)))
        if self.config.normalize:
            batch = self.normalization(batch)
        if limit:
            batch = batch.map(lambda values: values.clamp(-limit, limit))
        return Reading.of(batch, self.vocabulary, reverse_edges=self.config.reverse_edges, probed=probed)

    def forward(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """Nodes ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]``."""
        nodes, places = self.nodes(reading.features), reading.places
        if self.config.positions:
            nodes = nodes + (places.positions.to(nodes) @ self.position).unsqueeze(1)
        if self.config.activations:
            nodes = nodes + reading.activations.to(nodes) @ self.activation
        if self.probed is not None and reading.probed is not None:
            nodes = nodes + self.probed(reading.probed)
        if len(self.depth):
            nodes = nodes + (places.depths.to(nodes) @ self.depth).unsqueeze(1)
        return nodes, self.encode_edges(reading.weights)

    def encode_edges(self, weights: WeightRuns | FlatWeights) -> Tensor:
        """Edges with these weights, ``[edges, graphs, channels]``."""
        if isinstance(weights, WeightRuns):
            of_kinds = (self._of_kind(*pair) for pair in zip(weights.kinds, weights.values, strict=True))
            return torch.cat(list(of_kinds)) if torch.is_grad_enabled() else _gathered(of_kinds, weights)
        values, types = weights.values, torch.cat([self.direction, self.operation])
        common = scale_and_sum(values, weights.kernel_sizes.to(values)[:, None, None]) if self.config.mixed else ()
        if self.config.reverse_edges:
            is_reversed = weights.types[:, None, 1:2].to(values)
            values = torch.cat([values * (1 - is_reversed), values * is_reversed, values], -1)
        return self._read_edges(torch.cat([values, *common], -1), None, weights.types.to(values) @ types)

    def _of_kind(self, kind: EdgeKind, values: Tensor) -> Tensor:
        """Edges of one kind with weights ``[edges, graphs, numbers]``."""
        num_numbers = math.prod(self.vocabulary.kernel)
        starts = (num_numbers * int(kind.is_reversed), 2 * num_numbers) if self.config.reverse_edges else (0,)
        if self.config.mixed:
            values = torch.cat([values, *scale_and_sum(values, len(kind.columns))], -1)
        types = self.direction[int(kind.is_reversed)] + functional.pad(self.operation, (0, 0, 0, 1))[kind.operation]
        columns = tuple(indices(kind.columns, start, values.device) for start in starts)
        return self._read_edges(values, columns, types.expand(len(values), -1))

    def _read_edges(self, values: Tensor, columns: tuple[Tensor, ...] | None, added: Tensor) -> Tensor:
        """Edges from numbers ``[edges, graphs, numbers]`` and what is added to each, ``[edges, channels]``.

        As in the authors' code an edge that may be reversed has its own weight, that of its opposite, which feed-forward networks
        lack, and their sum for inputs: what is equal is read once, with the sum of what would multiply it.

        Args:
            values: The numbers, those of `scale_and_sum` at the end.
            columns: Which inputs of the encoder the others are; several times, where they are several inputs. None for all.
            added: One vector for each edge.
        """
        device, encoder = values.device.type, self.edges
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype
        if isinstance(encoder, Linear):
            return (product(values, self._columns_of(encoder.weight, columns), encoder.bias) + added.unsqueeze(1)).to(dtype)
        features, linear = encoder.get_submodule("0"), encoder.get_submodule("1")
        frequencies = self._columns_of(features.get_buffer("frequencies"), columns)
        if isinstance(linear, Linear) and fourier.is_available(values, added.shape[1]):
            options = {"dtype": dtype, "precision": PRECISIONS[self.config.precision]}
            return fourier.fourier_linear(values, frequencies, linear, added, **options)
        return (linear(features(values, frequencies)) + added.unsqueeze(1)).to(dtype)

    def _columns_of(self, weight: Tensor, columns: tuple[Tensor, ...] | None) -> Tensor:
        """Some columns of a weight ``[outputs, inputs]``, several sets of them added up, and those of `scale_and_sum`."""
        if columns is None:
            return weight
        own = sum((weight[:, chosen] for chosen in columns[1:]), weight[:, columns[0]])
        return torch.cat([own, weight[:, -2:]], 1) if self.config.mixed else own

    def absent_edge(self) -> Tensor:
        """What stands for no edge, ``[channels]``: an edge whose weights are zero."""
        columns = tuple(range(math.prod(self.vocabulary.kernel)))
        kind = EdgeKind(columns, len(self.vocabulary.operations), is_reversed=False)
        return self._of_kind(kind, self.direction.new_zeros(1, 1, len(columns)))[0, 0]


def _gathered(of_kinds: Iterator[Tensor], weights: WeightRuns) -> Tensor:
    """What is computed kind by kind, in one tensor; without gradients no two of it are in memory at once."""
    first = next(of_kinds)
    gathered, position = first.new_empty(sum(map(len, weights.values)), *first.shape[1:]), 0
    for edges in itertools.chain([first], of_kinds):
        gathered[position : position + len(edges)] = edges
        position += len(edges)
    return gathered


@lru_cache(maxsize=CACHE_SIZE)
def indices(numbers: tuple[int, ...], start: int, device: torch.device) -> Tensor:
    """Some numbers, counted from a start, int64, kept on a device: a captured step must not copy them there."""
    return torch.tensor(numbers, device=device) + start


def scale_and_sum(weights: Tensor, kernel_sizes: Tensor | int) -> tuple[Tensor, Tensor]:
    """Of each kernel the logarithm of its root mean square, and its sum at unit variance, ``[edges, graphs, 1]``.

    Args:
        weights: ``[edges, graphs, kernel]``.
        kernel_sizes: Numbers in each kernel, padding not counted, ``[edges, 1, 1]`` or one number.
    """
    mean_square = weights.square().sum(-1, keepdim=True) / kernel_sizes
    return (mean_square + SMALLEST_MEAN_SQUARE).log() / 2, weights.sum(-1, keepdim=True) / kernel_sizes**0.5
