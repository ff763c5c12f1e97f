"""deepset: permutation-equivariant linear layers over the weight space of one architecture.

Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces", ICML 2023 (DWSNets); Zhou et al., "Permutation
Equivariant Neural Functionals", NeurIPS 2023 (NFN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from baselines.fitting.trained import EmbeddingMethod
from baselines.fitting.training import Training
from baselines.reading.weight_space import EquivariantLinear, Layout, fields_of, views_of
from ngbench.errors import GraphError
from ngbench.graph import Topology
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset, Normalization
from ngbench.methods import MethodInfo


@dataclass(frozen=True)
class Config(Training):
    """Options of `DeepSet`.

    The defaults are among the best by validation τ of twenty-one on `digits-cnn`; 64 channels gain nothing on 32.

    Args:
        channels: Numbers at each entry of a field.
        num_layers: Equivariant linear layers.
        residual: Whether what a layer gives is added to what entered it.
        norm: Whether channels are normalised before each layer, at each entry by itself (layer norm).
        pooling: What the head reads of each field: ``"mean"``, or ``"mean_max"`` for its largest entries too.
        head_width: Units of each of the head's two hidden layers.
        dropout: Share of what the head reads, and of its units, that is dropped.
        clip: Largest distance from its layer's mean, in standard deviations, that a weight is taken to have.
        weight_noise: Standard deviation of the factors, around one, that each weight and bias is multiplied by in training.

    Raises:
        ConfigError: A number is out of range, or `pooling` has none of the named values.
    """

    epochs: int = 30
    learning_rate: float = 4e-3
    channels: int = 32
    num_layers: int = 4
    residual: bool = True
    norm: bool = True
    pooling: str = "mean_max"
    head_width: int = 128
    dropout: float = 0.1
    clip: float = 10.0
    weight_noise: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("pooling", "mean", "mean_max")
        self.check_positive("channels", "num_layers", "head_width", "clip")
        self.check_not_negative("weight_noise")
        self.check_share("dropout")


@dataclass(frozen=True)
class Survey:
    """What sizes a `WeightSpaceNetwork`.

    Args:
        variants: Topologies of the training networks; they differ in activations only.
        normalization: Brings the weights and biases of each layer to one scale.
    """

    variants: Annotated[tuple[Topology, ...], Field(min_length=1)]
    normalization: Normalization


class WeightSpaceNetwork(nn.Module):
    """Lifts each field to some channels, alternates equivariant linear layers with a nonlinearity, pools, and reads out.

    Args:
        config: Sizes and options.
        variants: Topologies of the networks; they differ in activations only.
        normalization: Brings the weights and biases of each layer to one scale.
        num_outputs: Numbers to predict for a network.
    """

    def __init__(self, config: Config, variants: Sequence[Topology], normalization: Normalization, *, num_outputs: int):
        super().__init__()
        self.config, self.normalization, self.topology = config, normalization, variants[0]
        self.fields = fields_of(self.topology)
        self.groups = tuple(field.group for field in self.fields)
        self.activations = tuple(sorted({variant.group(name).activation for variant in variants for name in self.groups}))
        channels, axes = config.channels, [field.layout.axes for field in self.fields]
        self.lift = nn.ModuleList(nn.Linear(field.layout.num_channels, channels) for field in self.fields)
        self.activation = nn.Parameter(torch.randn(len(self.activations), channels))
        layers = [EquivariantLinear(axes, channels, channels) for _ in range(config.num_layers)]
        self.layers, self.views = nn.ModuleList(layers), layers[0].sources
        self.norms = nn.ModuleList(nn.LayerNorm(channels) if config.norm else nn.Identity() for _ in range(config.num_layers))
        self.num_features = len(self.fields) * channels * (2 if config.pooling == "mean_max" else 1)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(self.num_features, config.head_width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head_width, config.head_width),
            nn.GELU(),
            nn.Linear(config.head_width, num_outputs),
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, outputs]``, in the order of the batch."""
        return self.head(self.embed(batch))

    def embed(self, batch: GraphBatch) -> Tensor:
        """Means, and largest entries, of all fields, ``[graphs, features]``, in the order of the batch."""
        bundle = self.bundle_of(batch)
        rows = [field.reshape(len(field), -1, self.config.channels) for field in self.read(bundle)]
        pooled = [row.mean(1) for row in rows]
        if self.config.pooling == "mean_max":
            pooled += [row.amax(1) for row in rows]
        return torch.cat(pooled, 1)[torch.argsort(bundle.index)]

    def embed_nodes(self, batch: GraphBatch) -> list[Tensor]:
        """For each network ``[nodes, channels]``, nodes in canonical order: the mean of the fields over the node's indices.

        Each field counts by its mean over its other indices. Nodes that never permute have the mean of all fields.
        """
        bundle = self.bundle_of(batch)
        fields = self.read(bundle)
        groups = [self._nodes_of(group.name, fields) for group in self.topology.groups]
        return list(torch.cat(groups, 1)[torch.argsort(bundle.index)])

    def _nodes_of(self, group: str, fields: Sequence[Tensor]) -> Tensor:
        """The nodes of one group, ``[graphs, nodes, channels]``."""
        layout = Layout.of(self.topology.indices_of(group))
        # the last view is over all indices of the group; where no parameter runs over these, one over fewer
        key, own = next((key, view) for key, view in reversed(views_of(layout.axes)) if key in self.views)
        seen = torch.stack([view.pool(fields[number]) for number, view in self.views[key]])
        return layout.each(own.spread(seen.mean(0)))

    def bundle_of(self, batch: GraphBatch) -> GraphBundle:
        """The only bundle of a batch.

        Raises:
            GraphError: The networks have another structure than those of training.
        """
        if {bundle.topology.structure for bundle in batch.bundles} != {self.topology.structure}:
            raise GraphError(
                "deepset was asked for another architecture than it was fitted on; expected the same: "
                "use a method that reads any, such as ng-gnn"
            )
        return batch.bundles[0]

    def floats_at_once(self, topology: Topology) -> int:
        """Floats of the widest fields of a network, for what is held at once."""
        entries = max(math.prod(axis.size for axis in field.layout.axes) for field in self.fields)
        return entries * self.config.channels

    def read(self, bundle: GraphBundle) -> list[Tensor]:
        """The fields after the last layer, ``[graphs, *axes, channels]``."""
        # the entries of all fields side by side, since one large tensor takes less time than many small ones
        entries = _together(self._lifted(bundle))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            new = _together(layer(self._apart(functional.gelu(norm(entries)))))
            entries = entries + new if self.config.residual else new
        return self._apart(entries)

    def _apart(self, entries: Tensor) -> list[Tensor]:
        """From ``[graphs, entries, channels]`` to fields ``[graphs, *axes, channels]``."""
        shapes = [tuple(axis.size for axis in field.layout.axes) for field in self.fields]
        parts = entries.split([math.prod(shape) for shape in shapes], 1)
        return [part.view(len(entries), *shape, -1) for part, shape in zip(parts, shapes, strict=True)]

    def _lifted(self, bundle: GraphBundle) -> list[Tensor]:
        """The values of networks, noisy, normalised and clipped, with the embedding of the activation that each field enters."""
        config, batch = self.config, GraphBatch((bundle,))
        if self.training and config.weight_noise:
            batch = batch.map(lambda values: values * (1 + config.weight_noise * torch.randn_like(values)))
        values = self.normalization(batch).bundles[0].values.clamp(-config.clip, config.clip)
        # the row after the last stands for an activation that training lacked
        table = functional.pad(self.activation, (0, 0, 0, 1))
        rows = activation_rows(bundle.variants, self.groups, self.activations, values.device)
        embedded = table[rows[bundle.variant]]
        return [
            lift(field.read(values)) + embedded[:, number].view(len(values), *[1] * len(field.layout.axes), -1)
            for number, (lift, field) in enumerate(zip(self.lift, self.fields, strict=True))
        ]


def _together(fields: Sequence[Tensor]) -> Tensor:
    return torch.cat([field.reshape(len(field), -1, field.shape[-1]) for field in fields], 1)


@lru_cache(maxsize=64)
def activation_rows(
    variants: tuple[Topology, ...], groups: tuple[str, ...], activations: tuple[str, ...], device: torch.device
) -> Tensor:
    """Place of each group's activation among some, int64 ``[variants, groups]``; one past the last if it is not among them."""
    places = {activation: place for place, activation in enumerate(activations)}
    rows = [[places.get(variant.group(name).activation, len(places)) for name in groups] for variant in variants]
    return torch.tensor(rows, device=device)


class DeepSet(EmbeddingMethod):
    """DWSNets and NFN as a method: `EquivariantLinear` layers with a nonlinearity between them, and an invariant head.

    It is bound to one architecture, since each field has matrices of its own, and refuses any other. Along inputs and outputs,
    which do not permute, it mixes fully, as DWSNets and NFN-HNP do; NFN-NP lets them permute and adds learned embeddings of their
    positions. It takes layers of any kind and indices that several layers share, where both papers have chains of layers. The
    numbers of a kernel and what stands along inputs and outputs are mixed into channels once, before the first layer, where NFN
    keeps them beside the channels in every layer. Further it differs by default in residual updates, layer norm, largest entries
    beside means in the head, clipped weights and noise on them.
    """

    info = MethodInfo(
        name="deepset",
        title="DeepSet (DWSNets, NFN)",
        access="weights",
        invariant=True,
        any_architecture=False,
        paper="Navon et al. 2023, arXiv:2301.12780; Zhou et al. 2023, arXiv:2302.14040",
    )
    Config = Config
    Survey = Survey
    tuned: ClassVar = {
        "classification/digits-inr": {"weight_noise": "0.1", "channels": "48", "sign_flips": "true"},
        "merging": {"weight_noise": "0", "batch_size": "4"},
    }

    def survey(self, train: GraphDataset) -> Survey:
        """The architecture of the training networks.

        Raises:
            GraphError: They have several.
        """
        return Survey(train.one_structure(reader=self.info.name).variants, Normalization.fit(train))

    def module_for(self, survey: Survey, *, num_outputs: int) -> WeightSpaceNetwork:
        """A network of random weights for an architecture."""
        return WeightSpaceNetwork(self.config, survey.variants, survey.normalization, num_outputs=num_outputs)
