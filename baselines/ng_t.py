"""NG-T: a transformer that reads neural graphs.

Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural Networks", ICLR 2024: every node attends
to every other, and what stands on the edge between them enters queries, keys and values (Diao and Loynd, "Relational Attention",
ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines import reference
from baselines.fitting.trained import EmbeddingMethod
from baselines.kernels import attention as attention_kernels
from baselines.kernels import norms
from baselines.kernels import pairs as pair_kernels
from baselines.kernels.pairs import PairWeights
from baselines.kernels.usable import PRECISIONS
from baselines.reading.encoding import Encoder, Encoding, Reading, Vocabulary
from baselines.reading.message_passing import PlainLinear
from baselines.reading.node_pairs import NodePairs
from baselines.reading.pooling import POOLINGS, Pooling
from baselines.reading.probes import ProbeFeatures
from baselines.reading.reader import GraphReader
from baselines.reading.relational_attention import keep_at_random, relational_attention, update_pairs
from baselines.reading.survey import GraphSurvey, measure_probes
from ngbench.errors import ConfigError
from ngbench.graph import Topology
from ngbench.loading import GraphBatch, GraphDataset
from ngbench.methods import MethodInfo


@dataclass(frozen=True)
class Config(Encoding):
    """Options of `NGT`, beside those of the `Encoding`.

    Args:
        node_channels: Numbers in the vector of a node.
        edge_channels: Numbers in the vector of a pair of nodes.
        attention_channels: Numbers in a query, key or value, of all heads together.
        num_heads: Heads of the attention.
        num_layers: Layers; pairs are updated in all but the last.
        node_hidden: Hidden units of the perceptron on nodes.
        edge_hidden: Hidden units of the two perceptrons on pairs.
        read_out_hidden: Hidden units of the perceptron that reads a graph.
        read_out_layers: Its hidden layers.
        edge_updates: Whether pairs change from layer to layer.
        pooling: What is read of the last nodes: their ``"mean"``, ``"sum"``, ``"max"``, ``"attention"``-weighted mean, or
            ``"cat"``, the output nodes one after the other.
        dropout: Share of what each block adds to nodes and pairs that is dropped.

    Raises:
        ConfigError: An option has none of the named values, or a number is out of range.
    """

    epochs: int = 30
    learning_rate: float = 3e-3
    weight_noise: float = 0.4
    node_channels: int = 32
    edge_channels: int = 16
    attention_channels: int = 64
    num_heads: int = 4
    num_layers: int = 4
    node_hidden: int = 64
    edge_hidden: int = 32
    read_out_hidden: int = 32
    read_out_layers: int = 2
    edge_updates: bool = True
    pooling: str = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("pooling", *POOLINGS)
        self.check_positive("node_channels", "edge_channels", "attention_channels", "num_heads", "num_layers")
        self.check_positive("node_hidden", "edge_hidden", "read_out_hidden")
        self.check_not_negative("read_out_layers")
        self.check_share("dropout")
        if self.attention_channels % self.num_heads:
            raise ConfigError(
                f"attention_channels is {self.attention_channels} with num_heads {self.num_heads}; expected a multiple of it"
            )

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """The model of the paper: its widths, Fourier features, output nodes read, weights neither clipped nor noisy."""
        widths = {"node_channels": 64, "edge_channels": 32, "attention_channels": 128, "num_heads": 8, "node_hidden": 128}
        others = {"encoding": "fourier", "clip": 0.0, "pooling": "cat", "weight_noise": 0.0, "mixed": False, "dropout": 0.2}
        return replace(cls(**widths, edge_hidden=64, read_out_hidden=128, **others), **changes)


class Layer(nn.Module):
    """Attention between all nodes, a perceptron on each node, and an update of the pairs; a norm follows each.

    Args:
        config: Sizes and options.
        updates_pairs: False in the last layer, whose pairs nothing reads.
    """

    def __init__(self, config: Config, *, updates_pairs: bool):
        super().__init__()
        channels, attention = config.node_channels, config.attention_channels
        self.num_heads, self.dropout, self.precision = config.num_heads, config.dropout, PRECISIONS[config.precision]
        self.of_nodes = nn.Linear(channels, 3 * attention, bias=False)
        self.of_pairs = nn.Linear(config.edge_channels, 4 * attention, bias=False)
        self.unrounded = (self.of_pairs,)
        self.attended = PlainLinear(attention, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.inner = nn.Linear(channels, config.node_hidden, bias=False)
        self.outer = PlainLinear(config.node_hidden, channels)
        self.pair_update = PairUpdate(config) if updates_pairs else None

    def forward(self, nodes: Tensor, pairs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """New nodes ``[graphs, nodes, channels]`` and pairs ``[graphs, nodes, nodes, channels]``; mask ``[graphs, nodes]``."""
        queries, keys, values = self.of_nodes(nodes).chunk(3, -1)
        given = pairs, queries, keys, values, self.of_pairs.weight
        if attention_kernels.applies(pairs, queries, heads=self.num_heads):
            options = {"heads": self.num_heads, "mask": mask, "precision": self.precision}
            attended = attention_kernels.relational_attention(*given, **options)
        else:
            attended = relational_attention(*given, heads=self.num_heads, mask=mask)
        nodes, rounded = self._normed(0, nodes, self.attended(attended))
        nodes, rounded = self._normed(1, nodes, self.outer(functional.gelu(self.inner(rounded))))
        return nodes, pairs if self.pair_update is None else self.pair_update(rounded, pairs)

    def _normed(self, which: int, nodes: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes after a change, of which some is dropped, and a norm; and the same as what reads them would round it."""
        norm: Any = self.norms[which]
        change = functional.dropout(change, self.dropout, self.training)
        if norms.applies_to_rows(nodes):
            return norms.sum_norm(nodes, change, norm, dtype=torch.get_autocast_dtype(nodes.device.type))
        nodes = norm(nodes + change)
        return nodes, nodes


class PairUpdate(nn.Module):
    """A pair after two residual perceptrons, the first of which reads the reversed pair and both nodes too.

    Args:
        config: Sizes and options.
    """

    def __init__(self, config: Config):
        super().__init__()
        channels, hidden = config.edge_channels, config.edge_hidden
        self.dropout, self.precision = config.dropout, PRECISIONS[config.precision]
        self.ends = PlainLinear(config.node_channels, 2 * hidden)
        self.inner0, self.outer0 = nn.Linear(2 * channels, hidden, bias=False), nn.Linear(hidden, channels)
        self.inner1, self.outer1 = nn.Linear(channels, hidden, bias=False), nn.Linear(hidden, channels)
        self.norm0, self.norm1 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.unrounded = self.inner0, self.outer0, self.inner1, self.outer1

    def forward(self, nodes: Tensor, pairs: Tensor) -> Tensor:
        """New pairs ``[graphs, nodes, nodes, channels]``."""
        sources, targets = self.ends(nodes).chunk(2, -1)
        first = self.inner0.weight, self.outer0.weight, self.outer0.bias, self.norm0.weight, self.norm0.bias
        second = self.inner1.weight, self.outer1.weight, self.outer1.bias, self.norm1.weight, self.norm1.bias
        given, dropout = (pairs, sources, targets, PairWeights(*first, *second)), self.dropout if self.training else 0.0
        if pair_kernels.applies(pairs, sources):
            seeds = torch.randint(2**31 - 1, (2,), device=pairs.device) if dropout else None
            return pair_kernels.update_pairs(*given, dropout=dropout, seeds=seeds, precision=self.precision)
        return update_pairs(*given, kept=keep_at_random(pairs, dropout) if dropout else None, dropout=dropout)


class GraphTransformer(GraphReader):
    """The whole: encode nodes and pairs, attend, pool, read out.

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
        channels = config.node_channels
        self.encoder = Encoder(
            config, vocabulary, normalization, node_channels=channels, edge_channels=config.edge_channels, probes=probes
        )
        last = config.num_layers - 1
        self.layers = nn.ModuleList(
            Layer(config, updates_pairs=config.edge_updates and index < last) for index in range(config.num_layers)
        )
        self.pooling = Pooling(
            config.pooling,
            channels,
            num_outputs=vocabulary.num_outputs,
            apart=bool(config.mixed),
            mean_num_nodes=vocabulary.mean_num_nodes,
        )
        self.read_out = self._read_out(num_outputs)

    def _read_out(self, num_outputs: int) -> nn.Sequential:
        widths = [self.pooling.num_features, *[self.config.read_out_hidden] * self.config.read_out_layers]
        hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(widths[-1], num_outputs))

    def node_vectors(self, reading: Reading) -> Tensor:
        """See `GraphReader`."""
        of_nodes, of_edges = self.encoder(reading)
        places, tables = NodePairs.of(reading), []
        for nodes, pairs, mask in places.spread(of_nodes, of_edges, self.encoder.absent_edge()):
            for layer in self.layers:
                nodes, pairs = layer(nodes, pairs, mask)
            tables.append(nodes)
        return places.collect(tables, of_nodes)

    def floats_at_once(self, topology: Topology) -> int:
        """Floats of one network's pairs."""
        return topology.num_nodes**2 * self.config.edge_channels


class NGT(EmbeddingMethod):
    """NG-T as a method.

    Differs from the paper in that the loss is that of `training.train`, and that linear layers that follow one another are one.
    The default options further differ in smaller widths, linear instead of Fourier encodings, the mean of all nodes instead of
    the output nodes, clipped weights, and noise on the weights; `Config.paper` has the paper's. Edges that are neither linear
    nor convolutional have an embedding of their operation. Trained on several structures it reads them as `Encoding.mixed`.

    It reads any network, as NG-GNN does: what training lacked takes the embedding of the last, has none, or is not read.
    """

    info = MethodInfo(
        name="ng-t",
        title="NG-T",
        access="weights",
        invariant=True,
        any_architecture=True,
        paper="Kofinas et al. 2024, arXiv:2403.12143",
    )
    Config = Config
    Survey = GraphSurvey
    tuned: ClassVar = {
        "generalization/digits-park": {"reverse_edges": "true", "weight_noise": "0", "epochs": "20"},
        "classification/digits-park": {"reverse_edges": "true", "weight_noise": "0", "epochs": "20"},
        "classification/digits-inr": {"reverse_edges": "true", "weight_noise": "0.1", "learning_rate": "0.001", "epochs": "25"},
    }

    def survey(self, train: GraphDataset) -> GraphSurvey:
        """What the training networks consist of, how large their weights are, and which inputs they take."""
        return GraphSurvey.of(train, self.config)

    def module_for(self, survey: GraphSurvey, *, num_outputs: int) -> GraphTransformer:
        """A network of random weights, sized for the networks of a survey."""
        config, vocabulary, normalization, probes = survey.parts(self.config)
        return GraphTransformer(config, vocabulary, normalization, num_outputs=num_outputs, probes=probes)

    def measure(self, module: GraphTransformer, train: GraphDataset) -> None:
        """Takes probes from data, and how large activations on probes usually are."""
        measure_probes(module, train)

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> NGT:
        """A model trained with the authors' code; `module`, in float64, gives the outputs that theirs gives.

        Args:
            state_dict: Parameters under the names of https://github.com/mkofinas/neural-graphs.
            config: The section ``model`` of its configuration.

        Raises:
            ConfigError: The model has an option that this one lacks.
        """
        options = reference.ng_t_options(state_dict, config)
        method = cls(Config.paper(**options))
        weights = partial(reference.ng_t_weights, options=options)
        method._module = reference.restored(GraphTransformer, method.config, theirs=state_dict, config=config, weights=weights)
        return method
