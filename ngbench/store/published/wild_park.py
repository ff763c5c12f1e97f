"""CNN Wild Park (Kofinas et al. 2024, arXiv:2403.12143): CNNs on CIFAR-10 of many depths, widths, kernels and skips.

Layout: ``<trial>/<checkpoint>/checkpoint.pt``, each a pickled dict with model, config, iteration and last_result; the split of
its authors in ``cnn_park_splits.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Evaluation, Part, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.restricted import find_all, number, read_json, whole
from ngbench.store.published.unpickling import Record, read_records
from ngbench.zoo.columns import Column

REFERENCE = "ng-wild-park"
_ACTIVATIONS = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}
_LISTS = ("channels", "kernel_size", "stride", "padding", "residual", "activation")
_COLUMNS = (
    Column("epoch", "hyperparameter", "int", "training iterations of the run before this checkpoint, as published"),
    Column("depth", "hyperparameter", "int", "convolutions"),
    Column("width", "hyperparameter", "int", "channels of the widest convolution"),
    Column("kernel_size", "hyperparameter", "int", "height and width of the largest kernel"),
    Column("num_skips", "hyperparameter", "int", "convolutions to which the output of an earlier one is added"),
    Column("activations", "hyperparameter", "str", "nonlinearity after each convolution, joined by commas"),
    Column("test_accuracy", "measurement", "float", "fraction right on the test images, as published", low=0, high=1),
    Column("test_loss", "measurement", "float", "cross-entropy in nats on the test images, as published; NaN where not given"),
)


@dataclass(frozen=True)
class ParkCnn:
    """Convolutions with skips, global average pooling and a linear head; its input is normalised per colour.

    Args:
        channels: Of the image, then of each convolution.
        kernel_sizes: Height and width, of each convolution.
        strides: Of each convolution.
        paddings: Of each convolution.
        skips: For each convolution the earlier one whose output is added to its own before the activation, as many channels as
            both have; -1 for none.
        activations: A name for each convolution.
        num_classes: Outputs of the head.
    """

    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    skips: tuple[int, ...]
    activations: tuple[str, ...]
    num_classes: int

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _ParkCnn(self)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, self.channels[0], 32, 32),)


class _ParkCnn(nn.Module):
    def __init__(self, architecture: ParkCnn):
        super().__init__()
        a = architecture
        sizes = zip(a.channels, a.channels[1:], a.kernel_sizes, a.strides, a.paddings, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(*sources, stride=stride, padding=pad) for *sources, stride, pad in sizes)
        self.activations = nn.ModuleList(_ACTIVATIONS[name]() for name in a.activations)
        self.fc = nn.Linear(a.channels[-1], a.num_classes)
        self.skips = a.skips

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, classes]``."""
        outputs, hidden = [], images
        for layer, activation, skip in zip(self.layers, self.activations, self.skips, strict=True):
            hidden = layer(hidden)
            if skip >= 0:
                hidden = _added(hidden, outputs[skip])
            hidden = activation(hidden)
            outputs.append(hidden)
        return self.fc(hidden.mean((2, 3)))


def _added(hidden: Tensor, skipped: Tensor) -> Tensor:
    """The first channels of both added, as many as both have; further ones of `hidden` as they are."""
    count = min(hidden.shape[1], skipped.shape[1])
    added = hidden[:, :count] + skipped[:, :count]
    return added if count == hidden.shape[1] else torch.cat([added, hidden[:, count:]], dim=1)


def read(folder: Path) -> Iterator[PublishedNetwork]:
    """The checkpoints in the order of their paths.

    Raises:
        ForeignZooError: A file holds something else than published.
    """
    parts = _parts(folder)
    for path in find_all(folder, "**/checkpoint.pt"):
        run_id, checkpoint = path.parts[-3:-1]
        content, where = read_records(path), repr(str(path))
        keys = ("model", "config", "iteration", "last_result")
        missing = [key for key in keys if key not in content] if isinstance(content, dict) else list(keys)
        if missing:
            raise ForeignZooError(f"{where} lacks {missing}; expected model, config, iteration and last_result")
        architecture = _architecture(plain(content["config"]), where)
        result = plain(content["last_result"])
        if not isinstance(content["model"], dict) or not isinstance(result, dict):
            raise ForeignZooError(f"{where} holds no state dict or no result; expected a checkpoint of the zoo")
        metadata = {
            "epoch": whole(content["iteration"], where=f"'iteration' in {where}"),
            "depth": len(architecture.skips),
            "width": max(architecture.channels[1:]),
            "kernel_size": max(architecture.kernel_sizes),
            "num_skips": sum(skip >= 0 for skip in architecture.skips),
            "activations": ",".join(architecture.activations),
            "test_accuracy": number(result.get("test/acc"), where=f"'test/acc' in {where}"),
            "test_loss": number(result.get("test/loss"), where=f"'test/loss' in {where}"),
        }
        key = f"{run_id}/{checkpoint}"
        reference: dict[str, Part] = {REFERENCE: parts[key]} if key in parts else {}
        parameters = {str(name): values for name, values in content["model"].items()}
        yield PublishedNetwork(key, run_id, architecture, parameters, metadata, reference)


def plain(value: Any, depth: int = 0) -> Any:
    """Lists, dicts, numbers and texts of a configuration of OmegaConf, whose objects were not made.

    Raises:
        ForeignZooError: It is nested deeper than any configuration of a zoo.
    """
    if depth > 20:
        raise ForeignZooError("a configuration is nested more than 20 deep; expected lists and numbers")
    if isinstance(value, Record):
        if "_content" in value:
            return plain(value["_content"], depth + 1)
        return plain(value["_val"], depth + 1) if "_val" in value else None
    if isinstance(value, dict):
        return {str(key): plain(entry, depth + 1) for key, entry in value.items()}
    return [plain(entry, depth + 1) for entry in value] if isinstance(value, list | tuple) else value


def _architecture(config: Any, where: str) -> ParkCnn:
    lists: dict[str, Any] = {name: config.get(name) if isinstance(config, dict) else None for name in _LISTS}
    wrong = [name for name, value in lists.items() if not isinstance(value, list)]
    if wrong:
        raise ForeignZooError(f"the config in {where} has {lists[wrong[0]]!r} as {wrong[0]!r}; expected a list")
    depth = len(lists["kernel_size"])
    lengths = {name: len(value) - (name == "channels") for name, value in lists.items()}
    if not 0 < depth <= 64 or set(lengths.values()) != {depth}:
        raise ForeignZooError(f"the config in {where} has lists for {lengths} layers; expected one entry a layer, 64 at most")
    names = ["none" if name is None else str(name) for name in lists["activation"]]
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown:
        raise ForeignZooError(f"the config in {where} has activation {unknown[0]!r}; expected one of {', '.join(_ACTIVATIONS)}")
    numbers = {
        name: tuple(whole(entry, where=f"{name!r} in the config in {where}") for entry in value)
        for name, value in lists.items()
        if name != "activation"
    }
    positive = (*numbers["channels"], *numbers["kernel_size"], *numbers["stride"])
    if min(positive) < 1 or max(positive) > 4096 or not 0 <= min(numbers["padding"]) <= max(numbers["padding"]) <= 64:
        raise ForeignZooError(f"the config in {where} has sizes {numbers}; expected channels, kernels and strides from 1 to 4096")
    if any(not -1 <= skip < layer for layer, skip in enumerate(numbers["residual"])):
        raise ForeignZooError(f"the config in {where} has skips {numbers['residual']}; expected each from an earlier layer")
    classes = whole(config.get("n_classes", 10), where=f"'n_classes' in the config in {where}")
    order = ("channels", "kernel_size", "stride", "padding", "residual")
    return ParkCnn(*(numbers[name] for name in order), activations=tuple(names), num_classes=classes)


def _parts(folder: Path) -> dict[str, Part]:
    """The part of each checkpoint by trial and checkpoint folder."""
    found = sorted(path for path in folder.rglob("cnn_park_splits.json") if path.is_file())
    if not found:
        return {}
    content, parts = read_json(found[0]), {}
    names: tuple[Part, ...] = ("train", "val", "test")
    for name in names:
        paths = content.get(name, {}).get("path") if isinstance(content, dict) and isinstance(content.get(name), dict) else None
        if not isinstance(paths, list):
            raise ForeignZooError(f"{str(found[0])!r} has no list of paths in part {name!r}; expected a split file")
        for text in paths:
            pieces = str(text).replace("\\", "/").split("/")
            parts["/".join(pieces[-3:-1])] = name
    return parts


WILD_PARK = PublishedZoo(
    "cnn-wild-park",
    "CNN Wild Park: 2,800 runs of CNNs of many shapes on CIFAR-10, 117,241 checkpoints",
    "not stated where it was looked up: see the record on Zenodo",
    "Kofinas et al. 2024, Graph Neural Networks for Learning Equivariant Representations of Neural Networks, arXiv:2403.12143",
    "https://zenodo.org/records/12797219",
    _COLUMNS,
    read,
    files=(
        RemoteFile("cnn_wild_park.zip", "https://zenodo.org/records/12797219/files/cnn_wild_park.zip?download=1"),
        RemoteFile(
            "cnn_park_splits.json",
            "https://raw.githubusercontent.com/jonkahana/ProbeGen/main/experiments/cnn_generalization/dataset/cnn_park_splits.json",
        ),
    ),
    references=(REFERENCE,),
    evaluation=Evaluation("uoft-cs/cifar10", (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
)
