"""NG-GNN: a graph neural network that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: messages that
edge features modulate, principal neighbourhood aggregation (Corso et al., NeurIPS 2020), edge updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from baselines import reference, training
from baselines.message_passing import Aggregate, Linear, SumOfEnds, Wiring, product
from baselines.training import Training
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import Topology
from ngbench.graph.neural_graph import largest_kernel, pad_kernel
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset, Normalization
from ngbench.methods import MethodInfo, Problem, RunContext


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("encoding", ("linear", "fourier")), ("pooling", ("mean", "cat"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """The model of the paper: Fourier features, no residual updates, output nodes read, weights neither clipped nor noisy."""
        return replace(cls(encoding="fourier", clip=0.0, residual=False, pooling="cat", weight_noise=0.0), **changes)


@dataclass(frozen=True)
class Vocabulary:
    """What the structures of the training networks have between them; it sizes the tables of the model.

    Args:
        num_inputs: Most input nodes of a network; each has an embedding of its own.
        num_hidden_layers: Most hidden layers of a network; each has an embedding, and deeper layers take the last.
        num_outputs: Most output nodes of a network; each has an embedding of its own.
        kernel: Spatial shape to which the weights on all edges are padded.
        features: Names of the node features, the bias among them even where no network has one.
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
        degrees = [Wiring.of(bundle.topology, reverse_edges).degree.repeat(len(bundle)) for bundle in networks.bundles]
        return cls(
            num_inputs=max(_num_nodes(topology, "input") for topology in topologies),
            num_hidden_layers=max((group.layer for group in groups if group.role == "hidden"), default=1),
            num_outputs=max(_num_nodes(topology, "output") for topology in topologies),
            kernel=largest_kernel(*topologies),
            features=tuple(sorted({"bias"}.union(feature.name for group in groups for feature in group.features))),
            activations=tuple(sorted({group.activation for group in groups if group.role == "hidden"})),
            mean_log_degree=float(torch.cat(degrees).log1p().mean()),
        )


def _num_nodes(topology: Topology, role: str) -> int:
    return sum(group.size for group in topology.groups if group.role == role)


@lru_cache(maxsize=256)
def position_rows(vocabulary: Vocabulary, topology: Topology) -> Tensor:
    """Row of each node in the table of positional embeddings, int64 ``[nodes]``: inputs, hidden layers, then outputs.

    Raises:
        GraphError: The network has more inputs or outputs than any that the vocabulary was made from.
    """
    for role, most in (("input", vocabulary.num_inputs), ("output", vocabulary.num_outputs)):
        if _num_nodes(topology, role) > most:
            raise GraphError(f"a network has {_num_nodes(topology, role)} {role} nodes; expected at most {most}, as in training")
    rows: list[int] = []
    first = {"input": 0, "output": vocabulary.num_inputs + vocabulary.num_hidden_layers}
    for group in topology.groups:
        if group.role in first:
            rows += range(first[group.role], first[group.role] + group.size)
            first[group.role] += group.size
        else:
            layer = min(max(group.layer, 1), vocabulary.num_hidden_layers)
            rows += [vocabulary.num_inputs + layer - 1] * group.size
    return torch.tensor(rows)


@lru_cache(maxsize=256)
def activation_rows(vocabulary: Vocabulary, topology: Topology) -> Tensor:
    """Row of each node in the table of activation embeddings, int64 ``[nodes]``; the row after the last stands for none."""
    rows = {activation: row for row, activation in enumerate(vocabulary.activations)}
    of_groups = [rows.get(g.activation, len(rows)) if g.role == "hidden" else len(rows) for g in topology.groups]
    return torch.repeat_interleave(torch.tensor(of_groups), torch.tensor([group.size for group in topology.groups]))


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

    def forward(self, nodes: Tensor) -> Tensor:
        """``[nodes, graphs, channels]`` to the same."""
        centred = nodes - nodes.mean((0, 2), keepdim=True)
        deviation = centred.square().mean((0, 2), keepdim=True).sqrt()
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

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring, amplification: Tensor) -> tuple[Tensor, Tensor]:
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
        self.num_features = channels * (vocabulary.num_outputs if config.pooling == "cat" else 1)
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
        read = torch.cat([self.read_out(self.embed(bundle)) for bundle in batch.bundles])
        return read[torch.argsort(torch.cat([bundle.index for bundle in batch.bundles]))]

    def embed(self, bundle: GraphBundle) -> Tensor:
        """What is read out, ``[graphs, features]``; outputs that a network lacks count as zeros."""
        nodes = self.embed_nodes(bundle)
        if self.config.pooling == "mean":
            return nodes.mean(0)
        topology = bundle.topology
        outputs = [nodes[topology.node_ptr[g.name] :][: g.size] for g in topology.groups if g.role == "output"]
        features = rearrange(torch.cat(outputs), "nodes graphs channels -> graphs (nodes channels)")
        return functional.pad(features, (0, self.num_features - features.shape[1]))

    def embed_nodes(self, bundle: GraphBundle) -> Tensor:
        """``[nodes, graphs, channels]``; when a network's neurons are permuted, they permute alike."""
        wiring = Wiring.of(bundle.topology, self.config.reverse_edges)
        nodes, edges = self.encode(bundle)
        amplification = (wiring.degree.log1p() / self.vocabulary.mean_log_degree).to(nodes)[:, None, None]
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
        nodes = self.encode_nodes(self._node_features(bundle))
        nodes = nodes + self.position[position_rows(self.vocabulary, topology)].unsqueeze(1) + self._activations(bundle)
        return nodes, self._encoded_edges(bundle)

    def _node_features(self, bundle: GraphBundle) -> Tensor:
        groups = [group.name for group in bundle.topology.groups]
        features = [torch.cat([bundle.node_feature(g, name) for g in groups], 1) for name in self.vocabulary.features]
        return rearrange(features, "features graphs nodes -> nodes graphs features")

    def _activations(self, bundle: GraphBundle) -> Tensor:
        table = functional.pad(self.activation, (0, 0, 0, 1))
        by_variant = [table[activation_rows(self.vocabulary, variant)] for variant in bundle.variants]
        return torch.stack(by_variant, 1)[:, bundle.variant]

    def _encoded_edges(self, bundle: GraphBundle) -> Tensor:
        blocks = [
            rearrange(pad_kernel(bundle.block(block.name), block.kernel, self.vocabulary.kernel), "g t s k -> t s g k")
            for block in bundle.topology.blocks
        ]
        weights = torch.cat([block.flatten(0, 1) for block in blocks])
        if not self.config.reverse_edges:
            return self.encode_edges(weights) + self.direction[0]
        # As in the authors' code: an edge's own weight, that of its opposite, which a feed-forward network lacks, and their sum.
        backward = torch.cat([block.transpose(0, 1).flatten(0, 1) for block in blocks])
        absent = torch.zeros_like(weights)
        forward = self.encode_edges(torch.cat([weights, absent, weights], -1)) + self.direction[0]
        return torch.cat([forward, self.encode_edges(torch.cat([absent, backward, backward], -1)) + self.direction[1]])


class NGGNN:
    """NG-GNN as a method.

    Differs from the paper in that the norm spans one graph: the authors' code calls PyG's layer norm without the batch vector,
    so that it spans all graphs of a batch, and a prediction depends on its neighbours. Linear layers that follow one another are
    one, and the loss is that of `training.train`. The default options further differ in linear instead of Fourier encodings,
    residual updates, the mean of all nodes instead of the output nodes, clipped weights, and noise on the weights;
    `Config.paper` has the paper's.

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
        vocabulary = Vocabulary.of(train, reverse_edges=self.config.reverse_edges)
        with training.seeded(context.seed):
            module = GraphNetwork(self.config, vocabulary, Normalization.fit(train), num_outputs=1)
        training.train(module, settings=self.config, problem=problem, train=train, val=val, context=context)
        self._module, self._problem = module, problem

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``.

        Raises:
            MethodError: It has not been fitted.
            GraphError: A network has more inputs or outputs, or a larger kernel, than any in training.
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
        for positions, batch in networks.batches(training.PREDICTION_BATCH):
            for bundle in batch.to(module.position.device, torch.float64).bundles:
                embedded[positions[bundle.index.cpu().numpy()]] = module.embed(bundle).cpu().numpy()
        return embedded

    @torch.no_grad()
    def embed_nodes(self, networks: GraphDataset) -> list[np.ndarray]:
        """For each network its nodes in canonical order, float64 ``[nodes, channels]``; they permute as its neurons do."""
        module = training.in_float64(self.module)
        embedded: dict[int, np.ndarray] = {}
        for positions, batch in networks.batches(training.PREDICTION_BATCH):
            for bundle in batch.to(module.position.device, torch.float64).bundles:
                nodes = rearrange(module.embed_nodes(bundle), "nodes graphs channels -> graphs nodes channels").cpu().numpy()
                embedded.update(zip(positions[bundle.index.cpu().numpy()].tolist(), nodes, strict=True))
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
