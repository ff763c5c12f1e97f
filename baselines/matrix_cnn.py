"""matrix-cnn: each layer's weight matrix as an image, read by a convolutional network that does not know of any symmetry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.fitting.trained import TrainedMethod
from baselines.fitting.training import Training
from ngbench.errors import ConfigError
from ngbench.graph import Topology
from ngbench.graph.neural_graph import largest_kernel
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset, Normalization
from ngbench.loading.batch import fit_kernel
from ngbench.methods import MethodInfo

PASSES_ON_CPU = 8
"""How many times as many floats a CPU takes at once as other methods': convolutions of a few images cost more than its caches."""

MOST_ENTRIES = 2**27
"""Entries of `GatheredImages` that are kept, 512 MiB, unless one network has more."""


@dataclass(frozen=True)
class Config(Training):
    """Options of `MatrixCNN`.

    The defaults are the best by validation τ of eighteen on `digits-cnn` that train within a minute on one core.

    Args:
        channels: Channels of a convolution.
        num_layers: Convolutions.
        kernel_size: Rows and columns that a convolution spans, an odd number; with 1 each weight is read by itself, and what
            is read of a layer does not change when neurons are permuted.
        width: Units that read an image, and units of the head's hidden layer.
        dropout: Share of what the head reads, and of its units, that is dropped.
        clip: Largest distance from its layer's mean, in standard deviations, that a weight is taken to have.
        weight_noise: Standard deviation of the factors, around one, that each weight and bias is multiplied by in training.

    Raises:
        ConfigError: A number is out of range.
    """

    epochs: int = 30
    learning_rate: float = 3e-3
    channels: int = 32
    num_layers: int = 2
    kernel_size: int = 3
    width: int = 256
    dropout: float = 0.1
    clip: float = 10.0
    weight_noise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("channels", "num_layers", "width", "clip")
        self.check_not_negative("weight_noise")
        self.check_share("dropout")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {self.kernel_size!r}; expected an odd number above 0")


@dataclass(frozen=True)
class Picture:
    """What becomes one image: the block that its weights come from, and the group that they enter.

    Args:
        group: Name of the target group, whose features are further channels.
        block: Name of the block; None for node features that no parameter enters with, such as those of a norm without scales.
        size: Targets and sources: rows and columns.
        depth: Share of the deepest layer, and closeness to inputs and to that layer: one over one more than the layers between.
    """

    group: str
    block: str | None
    size: tuple[int, int]
    depth: tuple[float, float, float]


@lru_cache(maxsize=4096)
def pictures_of(topology: Topology) -> tuple[Picture, ...]:
    """The images of a network, in the order of depth; structural blocks, which have no parameters, have none."""
    deepest = max(group.layer for group in topology.groups)
    blocks = [topology.edge_block(slot.owner) for slot in topology.slots if slot.feature is None]
    pictures = []
    for group in sorted(topology.groups, key=lambda group: group.layer):
        depth = (group.layer / deepest, 1 / (1 + group.layer), 1 / (1 + deepest - group.layer))
        entering = [block.name for block in blocks if block.target == group.name]
        pictures += [Picture(group.name, name, topology.block_shape(name)[:2], depth) for name in entering]
        if group.features and not entering:
            pictures.append(Picture(group.name, None, (group.size, 1), depth))
    return tuple(pictures)


@dataclass(frozen=True)
class Vocabulary:
    """What the training networks have between them; it sizes the images and the tables.

    Args:
        kernel: Spatial shape to which kernels are padded, or cut where one is larger.
        features: Node features that are channels of an image.
        operations: Operations of blocks that have an embedding; any other has none.
        activations: Activations of groups that have an embedding; any other has none.
    """

    kernel: tuple[int, ...]
    features: tuple[str, ...]
    operations: tuple[str, ...]
    activations: tuple[str, ...]

    @classmethod
    def of(cls, networks: GraphDataset) -> Vocabulary:
        """The vocabulary of some networks."""
        topologies = [topology for bundle in networks.bundles for topology in bundle.variants]
        groups = [group for topology in topologies for group in topology.groups]
        return cls(
            kernel=largest_kernel(*topologies),
            features=tuple(sorted({feature.name for group in groups for feature in group.features})),
            operations=tuple(sorted({block.operation for topology in topologies for block in topology.blocks})),
            activations=tuple(sorted({group.activation for group in groups})),
        )


@lru_cache(maxsize=4096)
def table_rows(vocabulary: Vocabulary, variants: tuple[Topology, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of operations ``[images]`` and of activations ``[variants, images]``, and depths ``[images, 3]``.

    An operation or activation that is not in the vocabulary has the row after the last.
    """
    topology, pictures = variants[0], pictures_of(variants[0])
    operations = {name: row for row, name in enumerate(vocabulary.operations)}
    activations = {name: row for row, name in enumerate(vocabulary.activations)}
    of_blocks = [topology.edge_block(p.block).operation if p.block else "" for p in pictures]
    of_groups = [[variant.group(p.group).activation for p in pictures] for variant in variants]
    return (
        torch.tensor([operations.get(name, len(operations)) for name in of_blocks], device=device),
        torch.tensor([[activations.get(name, len(activations)) for name in names] for names in of_groups], device=device),
        torch.tensor([p.depth for p in pictures], device=device),
    )


@dataclass(frozen=True)
class GatheredImages:
    """Which values of a network the images of one padded size show.

    Args:
        places: Of the images among all of the network, int64 ``[images]``.
        entries: One more than the position of each pixel's value, int32 ``[images, channels, targets, sources]``; 0 for none.
        mask: Which pixels are real, ``[images, 1, targets, sources]``.
    """

    places: Tensor
    entries: Tensor
    mask: Tensor


_gathered: dict[tuple[Topology, Vocabulary, torch.device], dict[tuple[int, int], GatheredImages]] = {}


def gathered_images(topology: Topology, vocabulary: Vocabulary, device: torch.device) -> dict[tuple[int, int], GatheredImages]:
    """What the images of a network show, by padded size; kept, up to `MOST_ENTRIES`."""
    key = topology, vocabulary, device
    if key not in _gathered:
        found = _gather(topology, vocabulary, device)
        while _gathered and sum(map(_num_entries, (found, *_gathered.values()))) > MOST_ENTRIES:
            del _gathered[next(iter(_gathered))]
        _gathered[key] = found
    return _gathered[key]


def _num_entries(gathered: Mapping[tuple[int, int], GatheredImages]) -> int:
    return sum(images.entries.numel() for images in gathered.values())


def _gather(topology: Topology, vocabulary: Vocabulary, device: torch.device) -> dict[tuple[int, int], GatheredImages]:
    places: dict[tuple[int, int], list[int]] = {}
    for place, picture in enumerate(pictures_of(topology)):
        places.setdefault(_padded(picture.size), []).append(place)
    none = torch.zeros(1, dtype=torch.int64)
    # a network whose values are their own positions
    positions = torch.arange(1, topology.num_values + 1, dtype=torch.int32).unsqueeze(0)
    bundle = GraphBundle((topology,), none, positions, none)
    found = {}
    for size, members in places.items():
        pictures = [pictures_of(topology)[place] for place in members]
        mask = torch.zeros(len(pictures), 1, *size, dtype=torch.bool)
        for number, picture in enumerate(pictures):
            mask[number, :, : picture.size[0], : picture.size[1]] = True
        entries = torch.cat([_image(bundle, picture, size, vocabulary) for picture in pictures])
        found[size] = GatheredImages(torch.tensor(members, device=device), entries.to(device), mask.to(device))
    return found


def _image(bundle: GraphBundle, picture: Picture, size: tuple[int, int], vocabulary: Vocabulary) -> Tensor:
    """An image of each network, zero-padded to a size, ``[graphs, channels, targets, sources]``."""
    rows, columns = picture.size
    num_numbers = math.prod(vocabulary.kernel)
    image = bundle.values.new_zeros(len(bundle), num_numbers + len(vocabulary.features), *size)
    if picture.block is not None:
        kernel = bundle.topology.edge_block(picture.block).kernel
        numbers = fit_kernel(bundle.block(picture.block), kernel, vocabulary.kernel)
        image[:, :num_numbers, :rows, :columns] = numbers.permute(0, 3, 1, 2)
    for channel, feature in enumerate(vocabulary.features, start=num_numbers):
        image[:, channel, :rows, :columns] = bundle.node_feature(picture.group, feature).unsqueeze(2)
    return image


@dataclass(frozen=True)
class Survey:
    """What sizes a `MatrixNetwork`.

    Args:
        vocabulary: What the training networks consist of.
        normalization: Brings the weights and biases of each layer to one scale.
    """

    vocabulary: Vocabulary
    normalization: Normalization


class MatrixNetwork(nn.Module):
    """Convolutions on the images of all layers, pooled over each image; layers pooled over each network; a perceptron.

    Images whose sizes round up to the same powers of two are zero-padded to these and pass together. What a convolution gives
    beside the real rows and columns is set to zero, and no mean or maximum reads it, so that padding changes nothing.

    Args:
        config: Sizes and options.
        vocabulary: What the networks to be read consist of.
        normalization: Brings the weights and biases of each layer to one scale.
        num_outputs: Numbers to predict for a network.
    """

    def __init__(self, config: Config, vocabulary: Vocabulary, normalization: Normalization, *, num_outputs: int):
        super().__init__()
        self.config, self.vocabulary, self.normalization = config, vocabulary, normalization
        channels, width = config.channels, config.width
        num_channels = [math.prod(vocabulary.kernel) + len(vocabulary.features)] + [channels] * config.num_layers
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, config.kernel_size, padding="same") for before, after in pairwise(num_channels)
        )
        self.operation = nn.Parameter(torch.randn(len(vocabulary.operations), width))
        self.activation = nn.Parameter(torch.randn(len(vocabulary.activations), width))
        self.depth = nn.Linear(3, width)
        self.read_image = nn.Linear(2 * channels, width)
        self.read_layer = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(3 * width, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, num_outputs),
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, outputs]``, in the order of the batch."""
        return self.head(self.embed(batch))

    def embed(self, batch: GraphBatch) -> Tensor:
        """Vectors of the first and last layer and their mean over all, ``[graphs, features]``, in the order of the batch."""
        config = self.config
        if self.training and config.weight_noise:
            batch = batch.map(lambda values: values * (1 + config.weight_noise * torch.randn_like(values)))
        batch = self.normalization(batch).map(lambda values: values.clamp(-config.clip, config.clip))
        layers = self.read_layer(self._pooled(batch.bundles) + self._of_place(batch.bundles))
        shapes = [(len(bundle), len(pictures_of(bundle.topology))) for bundle in batch.bundles]
        rows = []
        for part, shape in zip(layers.split([graphs * images for graphs, images in shapes]), shapes, strict=True):
            of_network = part.unflatten(0, shape)
            rows.append(torch.cat([of_network[:, 0], of_network[:, -1], of_network.mean(1)], 1))
        return torch.cat(rows)[torch.argsort(torch.cat([bundle.index for bundle in batch.bundles]))]

    def floats_at_once(self, topology: Topology) -> int:
        """Floats of the largest tensor, which holds a network's images of one padded size; on a CPU see `PASSES_ON_CPU`."""
        pixels: Counter[tuple[int, int]] = Counter()
        for picture in pictures_of(topology):
            pixels[_padded(picture.size)] += math.prod(_padded(picture.size))
        if self.depth.weight.device.type == "cpu":
            return self.config.channels * pixels.total() // PASSES_ON_CPU
        return self.config.channels * max(pixels.values())

    def _of_place(self, bundles: Sequence[GraphBundle]) -> Tensor:
        """Embeddings of operation, activation and depth of each image, ``[images, width]``, those of a network together."""
        operations, activations, depths = [], [], []
        for bundle in bundles:
            of_blocks, of_groups, of_layers = table_rows(self.vocabulary, bundle.variants, bundle.values.device)
            operations.append(of_blocks.repeat(len(bundle)))
            activations.append(of_groups[bundle.variant].flatten())
            depths.append(of_layers.to(bundle.values).repeat(len(bundle), 1))
        of_operation, of_activation = (functional.pad(table, (0, 0, 0, 1)) for table in (self.operation, self.activation))
        return of_operation[torch.cat(operations)] + of_activation[torch.cat(activations)] + self.depth(torch.cat(depths))

    def _pooled(self, bundles: Sequence[GraphBundle]) -> Tensor:
        """What is read of each image, ``[images, width]``, those of a network together; one padded size passes at a time."""
        images: dict[tuple[int, int], list[Tensor]] = {}
        masks: dict[tuple[int, int], list[Tensor]] = {}
        places: dict[tuple[int, int], list[Tensor]] = {}
        first = 0
        for bundle in bundles:
            values = functional.pad(bundle.values, (1, 0))
            num_images = len(pictures_of(bundle.topology))
            starts = first + num_images * torch.arange(len(bundle), device=values.device).unsqueeze(1)
            for size, gathered in gathered_images(bundle.topology, self.vocabulary, values.device).items():
                images.setdefault(size, []).append(values[:, gathered.entries].flatten(0, 1))
                masks.setdefault(size, []).append(gathered.mask.to(values).repeat(len(bundle), 1, 1, 1))
                places.setdefault(size, []).append((starts + gathered.places).flatten())
            first += num_images * len(bundle)
        read = [self._convolved(torch.cat(images.pop(size)), torch.cat(masks.pop(size))) for size in places]
        order = torch.argsort(torch.cat([place for found in places.values() for place in found]))
        return self.read_image(torch.cat(read)[order])

    def _convolved(self, images: Tensor, masks: Tensor) -> Tensor:
        """Mean and maximum over the real pixels after all convolutions, ``[images, 2 channels]``."""
        for number, convolution in enumerate(self.convolutions):
            new = functional.gelu(convolution(images)) * masks
            images = images + new if number else new
        mean = images.sum((2, 3)) / masks.sum((2, 3))
        return torch.cat([mean, images.masked_fill(masks == 0, -torch.inf).amax((2, 3))], 1)


def _padded(size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = (1 << (number - 1).bit_length() for number in size)
    return rows, columns


class MatrixCNN(TrainedMethod):
    """Weight matrices as images: kernel numbers and the targets' biases are channels, targets rows, sources columns.

    Rows and columns stand in the order in which neurons happen to stand, so that predictions change when they are permuted. A
    convolutional network on weights is the meta-classifier of Eilertsen et al., "Classifying the classifier: dissecting the
    weight space of neural networks", ECAI 2020, which runs along the flattened weights in one dimension; this one reads each
    layer in two, and combines first layer, last layer and the mean of all, so that it reads networks of any depth, width and
    family. Unterthiner et al. 2020 have fully connected networks on flattened weights in its place.

    Blocks without parameters, such as residual edges, are left out. Kernels are padded to the largest in training and cut
    around their centre where they are larger; operations, activations and node features that training lacked are not told.
    """

    info = MethodInfo(
        name="matrix-cnn",
        title="Matrix CNN",
        access="weights",
        invariant=False,
        any_architecture=True,
        paper="after Eilertsen et al. 2020, arXiv:2002.05688",
    )
    Config = Config
    Survey = Survey
    tuned: ClassVar = {
        "classification/digits-inr": {"weight_noise": "0.1", "sign_flips": "true"},
    }

    def survey(self, train: GraphDataset) -> Survey:
        """The kernels and features of the training networks."""
        return Survey(Vocabulary.of(train), Normalization.fit(train))

    def module_for(self, survey: Survey, *, num_outputs: int) -> MatrixNetwork:
        """A network of random weights for kernels and features."""
        return MatrixNetwork(self.config, survey.vocabulary, survey.normalization, num_outputs=num_outputs)
