"""NG-GNN: a graph neural network that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: messages that
edge features modulate, principal neighbourhood aggregation (Corso et al., NeurIPS 2020), edge updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines import reference
from baselines.fitting.steps import FLOATS_AT_ONCE
from baselines.fitting.trained import EmbeddingMethod
from baselines.kernels import messages, norms
from baselines.kernels.sums import column_sums
from baselines.kernels.usable import PRECISIONS, in_format
from baselines.reading.encoding import Encoder, Encoding, Reading, Vocabulary
from baselines.reading.message_passing import (
    Aggregate,
    AggregateOfEdges,
    FlatWiring,
    Linear,
    LinearOfSiLU,
    SumOfEnds,
    Wiring,
    product,
)
from baselines.reading.pooling import POOLINGS, Pooling
from baselines.reading.probes import ProbeFeatures
from baselines.reading.reader import GraphReader
from baselines.reading.survey import GraphSurvey, measure_probes
from ngbench.graph import Topology
from ngbench.loading import GraphBatch, GraphDataset
from ngbench.methods import MethodInfo


@dataclass(frozen=True)
class Config(Encoding):
    """Options of `NGGNN`, beside those of the `Encoding`.

    The defaults were chosen by validation τ on `digits-cnn`, among those that train within a minute on two cores: README.md.

    Args:
        channels: Numbers in the vector of a node or an edge.
        num_layers: Rounds of messages.
        edge_updates: Whether edges change from layer to layer.
        film: Whether edges scale the messages that they carry, or only shift them.
        residual: Whether a layer's nodes and edges are added to what entered it.
        pooling: What is read of the last nodes: their ``"mean"``, ``"sum"``, ``"max"``, ``"attention"``-weighted mean, or
            ``"cat"``, the output nodes one after the other.
        dropout: Share of node features dropped after each layer but the last.

    Raises:
        ConfigError: An option has none of the named values, or a number is out of range.
    """

    epochs: int = 20
    learning_rate: float = 8e-3
    weight_noise: float = 0.3
    channels: int = 32
    num_layers: int = 4
    edge_updates: bool = True
    film: bool = True
    residual: bool = True
    pooling: str = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("pooling", *POOLINGS)
        self.check_positive("channels", "num_layers")
        self.check_share("dropout")

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """The model of the paper: Fourier features, no residual updates, output nodes read, weights neither clipped nor noisy."""
        return replace(cls(encoding="fourier", clip=0.0, residual=False, pooling="cat", weight_noise=0.0, mixed=False), **changes)


class GraphNorm(nn.Module):
    """Normalises over all nodes and channels of one graph, then scales and shifts each channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
        """``[nodes, graphs, channels]`` to the same."""
        centred = nodes - _graph_mean(nodes, wiring)
        deviation = _graph_mean(centred.square(), wiring).sqrt()
        return centred * (self.weight / (deviation + self.eps)) + self.bias


def _silu_of_norm(norm: Any, nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
    """The SiLU of what a `GraphNorm` gives."""
    if isinstance(wiring, FlatWiring) or not norms.applies_to_graphs(nodes):
        return functional.silu(norm(nodes, wiring))
    (like,) = in_format(nodes[:0])
    return norms.graph_norm_silu(nodes, norm.weight, norm.bias, eps=norm.eps, dtype=like.dtype)


def _graph_mean(nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
    """Mean over all nodes and channels of each graph, shaped to be added to the nodes."""
    return wiring.spread(wiring.sum(nodes.mean(2, keepdim=True)) / wiring.num_nodes_of_graph(nodes))


class Layer(nn.Module):
    """Edge update and one round of messages.

    An edge becomes Linear(SiLU(Linear([edge, source, target]))) before it carries a message, save in the first layer; the
    authors' code has this update at the end of the layer before. The message is scale(edge) · Linear([target, source]) +
    shift(edge), or without FiLM the two added; the messages to a node are aggregated, and a linear layer reads them with the
    node's own vector.

    Args:
        config: Sizes and options.
        updates_edges: False in the first layer.
    """

    def __init__(self, config: Config, *, updates_edges: bool):
        super().__init__()
        channels = config.channels
        self.updates_edges, self.residual, self.modulates = updates_edges, config.residual, config.film
        self.precision = PRECISIONS[config.precision]
        self.ends = Linear(channels, 4 * channels if updates_edges else 2 * channels)
        if updates_edges:
            self.edge_in = Linear(channels, channels)
            self.edge_out = Linear(channels, channels)
        self.film = Linear(channels, 2 * channels if config.film else channels)
        self.node = Linear(9 * channels, channels)
        fused = (self.film, self.edge_in, self.edge_out) if updates_edges else (self.film,)
        self.unrounded = fused if config.film and channels in messages.CHANNELS else ()

    def forward(self, nodes: Tensor, edges: Tensor, wiring: Wiring | FlatWiring, amplification: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes ``[nodes, graphs, channels]``, new edges ``[edges, graphs, channels]``; amplification ``[nodes, 1, 1]``."""
        ends = self.ends(nodes)
        if self.modulates and messages.is_available(edges):
            update = (self.edge_in, self.edge_out) if self.updates_edges else None
            options = {"film": self.film, "update": update, "residual": self.residual, "precision": self.precision}
            received, edges = messages.fused_messages(edges, ends, wiring, **options)
        elif edges.is_cuda and self.modulates and torch.is_grad_enabled():
            received, edges = self._received_sparingly(edges, ends, wiring)
        elif torch.is_grad_enabled() or edges.numel() <= FLOATS_AT_ONCE[edges.device.type] or isinstance(wiring, FlatWiring):
            received, edges = self._received(edges, ends, wiring)
        else:
            received = self._received_in_parts(edges, ends, wiring)
        return self._read(nodes, received, amplification), edges

    def _received(self, edges: Tensor, ends: Tensor, wiring: Wiring | FlatWiring) -> tuple[Tensor, Tensor]:
        """What each node receives, ``[nodes, graphs, 4 channels]``, and the new edges."""
        ends = SumOfEnds.apply(ends, wiring)
        if self.updates_edges:
            of_edge, ends = ends.chunk(2, -1)
            updated = self.edge_out(functional.silu(self.edge_in(edges) + of_edge))
            edges = edges + updated if self.residual else updated
        film = self.film(edges)
        film = film if self.modulates else torch.cat([torch.ones_like(film), film], -1)
        return Aggregate.apply(film, ends, wiring), edges

    def _received_sparingly(self, edges: Tensor, ends: Tensor, wiring: Wiring | FlatWiring) -> tuple[Tensor, Tensor]:
        """As `_received`, where the device's memory is dear: what is computed of edges is mostly not kept."""
        if self.updates_edges:
            at_both = ends.unflatten(2, (2, 2, -1)).unbind(3)
            of_update, ends = (part.flatten(2) for part in at_both)
            inner = self.edge_in(edges) + SumOfEnds.apply(of_update, wiring)
            updated = LinearOfSiLU.apply(*in_format(inner, self.edge_out.weight, self.edge_out.bias))
            edges = edges + updated if self.residual else updated
        given = in_format(edges, SumOfEnds.apply(ends, wiring), self.film.weight, self.film.bias)
        return AggregateOfEdges.apply(*given, wiring), edges

    def _received_in_parts(self, edges: Tensor, ends: Tensor, wiring: Wiring) -> Tensor:
        """What each node receives, a few targets at a time; the new edges take the place of the old ones."""
        received = edges.new_zeros(wiring.num_nodes, edges.shape[1], 4 * edges.shape[2])
        most_edges = FLOATS_AT_ONCE[edges.device.type] // edges[0].numel()
        for targets, slices, part in wiring.parts(most_edges, edges.device):
            of_targets, new_edges = self._received(torch.cat([edges[some] for some in slices]), ends, part)
            received[targets] = of_targets[targets]
            for some, new in zip(slices, new_edges.split([some.stop - some.start for some in slices]), strict=True):
                edges[some] = new
        return received

    def _read(self, nodes: Tensor, received: Tensor, amplification: Tensor) -> Tensor:
        """``Linear([nodes, received, amplification · received])``; on a CPU the factor is drawn out of the product."""
        if nodes.is_cuda:
            return ReadNodes.apply(nodes, received, amplification, *in_format(self.node.weight, self.node.bias))
        own, plain, amplified = self.node.weight.split([nodes.shape[-1], received.shape[-1], received.shape[-1]], 1)
        weight = torch.cat([torch.cat([own, plain], 1), torch.cat([torch.zeros_like(own), amplified], 1)])
        bias = functional.pad(self.node.bias, (0, len(own)))
        as_is, factored = product(torch.cat([nodes, received], -1), weight, bias).chunk(2, -1)
        return torch.addcmul(as_is, factored, amplification)


class ReadNodes(torch.autograd.Function):
    """A linear layer of nodes, what they receive, and this times a factor; what it reads is written twice, and never kept."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, received: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """From ``[nodes, graphs, channels]``, ``[nodes, graphs, 4 channels]`` and ``[nodes, 1, 1]``, in the weight's dtype."""
        ctx.save_for_backward(nodes, received, factors, weight)
        return functional.linear(_side_by_side(nodes, received, factors, weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The factors have no gradient."""
        nodes, received, factors, weight = ctx.saved_tensors
        rows, read = grad.flatten(0, 1), _side_by_side(nodes, received, factors, weight.dtype)
        grad_weight = rows.T @ read.flatten(0, 1)
        own, plain, amplified = (grad @ weight).split([nodes.shape[2], received.shape[2], received.shape[2]], 2)
        grad_received = torch.addcmul(plain, amplified, factors.to(plain))
        return own.to(nodes.dtype), grad_received.to(received.dtype), None, grad_weight, column_sums(rows)


def _side_by_side(nodes: Tensor, received: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """``[nodes, received, factors · received]`` in a dtype, ``[nodes, graphs, 9 channels]``."""
    channels = nodes.shape[2]
    joined = nodes.new_empty(*nodes.shape[:2], 9 * channels, dtype=dtype)
    joined[..., :channels] = nodes
    joined[..., channels : 5 * channels] = received
    torch.mul(received, factors, out=joined[..., 5 * channels :])
    return joined


class GraphNetwork(GraphReader):
    """The whole: encode nodes and edges, pass messages, pool, read out.

    Args:
        config: Sizes and options.
        vocabulary: What the networks to be read consist of.
        normalization: Brings the weights and biases of each layer to one scale.
        num_outputs: Numbers to predict for a network.
        probes: Inputs to the networks whose activations are read too; None for none.
    """

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        normalization: Callable[[GraphBatch], GraphBatch],
        *,
        num_outputs: int,
        probes: ProbeFeatures | None = None,
    ):
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        channels = config.channels
        self.encoder = Encoder(config, vocabulary, normalization, node_channels=channels, edge_channels=channels, probes=probes)
        self.layers = nn.ModuleList(Layer(config, updates_edges=config.edge_updates and i > 0) for i in range(config.num_layers))
        self.norms = nn.ModuleList(GraphNorm(channels) for _ in range(config.num_layers - 1))
        self.pooling = Pooling(
            config.pooling,
            channels,
            num_outputs=vocabulary.num_outputs,
            apart=bool(config.mixed),
            mean_num_nodes=vocabulary.mean_num_nodes,
        )
        self.read_out = nn.Sequential(
            nn.Linear(self.pooling.num_features, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, num_outputs),
        )

    def node_vectors(self, reading: Reading) -> Tensor:
        """See `GraphReader`."""
        nodes, edges = self.encoder(reading)
        wiring = reading.wiring
        amplification = wiring.amplification(nodes, self.vocabulary.mean_log_degree)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            new, edges = layer(nodes, edges, wiring, amplification)
            new = functional.dropout(_silu_of_norm(norm, new, wiring), self.config.dropout, self.training)
            nodes = nodes + new if self.config.residual else new
        return self.layers[-1](nodes, edges, wiring, amplification)[0]

    def floats_at_once(self, topology: Topology) -> int:
        """Floats of one network's edges."""
        return topology.num_edges * (1 + self.config.reverse_edges) * self.config.channels


class NGGNN(EmbeddingMethod):
    """NG-GNN as a method.

    Differs from the paper in that the norm spans one graph: the authors' code calls PyG's layer norm without the batch vector,
    so that it spans all graphs of a batch, and a prediction depends on its neighbours. Linear layers that follow one another are
    one, and the loss is that of `training.train`. The default options further differ in linear instead of Fourier encodings,
    residual updates, the mean of all nodes instead of the output nodes, clipped weights, and noise on the weights;
    `Config.paper` has the paper's. Edges that are neither linear nor convolutional have an embedding of their operation.
    Trained on several structures it reads them as `Encoding.mixed`.

    It reads any network: inputs, layers and outputs beyond those of training take the embedding of the last, save layers read as
    mixed; activations and operations that training lacked have none; node features that it lacked are not read, and larger
    kernels only around their centre.
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
    Survey = GraphSurvey
    # a node is known by what leaves it as much as by what enters, and noise is part of the problem
    tuned: ClassVar = {
        "generalization/digits-park": {"weight_noise": "0"},
        "classification/digits-park": {"weight_noise": "0"},
        "classification/digits-inr": {
            "reverse_edges": "true",
            "weight_noise": "0.1",
            "sign_flips": "true",
            "learning_rate": "0.004",
            "batch_size": "32",
            "epochs": "40",
        },
        "merging": {"reverse_edges": "true", "num_layers": "2", "weight_noise": "0", "batch_size": "4", "epochs": "30"},
    }

    def survey(self, train: GraphDataset) -> GraphSurvey:
        """What the training networks consist of, how large their weights are, and which inputs they take."""
        return GraphSurvey.of(train, self.config)

    def module_for(self, survey: GraphSurvey, *, num_outputs: int) -> GraphNetwork:
        """A network of random weights, sized for the networks of a survey."""
        config, vocabulary, normalization, probes = survey.parts(self.config)
        return GraphNetwork(config, vocabulary, normalization, num_outputs=num_outputs, probes=probes)

    def measure(self, module: GraphNetwork, train: GraphDataset) -> None:
        """Takes probes from data, and how large activations on probes usually are."""
        measure_probes(module, train)

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
        weights = partial(reference.ng_gnn_weights, options=options)
        method._module = reference.restored(GraphNetwork, method.config, theirs=state_dict, config=config, weights=weights)
        return method
