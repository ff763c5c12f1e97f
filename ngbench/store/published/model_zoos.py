"""Model Zoos of Schürholt et al. (2022, arXiv:2209.14764): populations of CNNs and ResNets with all their epochs.

Layout: a folder a run with ``result.json`` (a JSON line an epoch), ``params.json`` and ``checkpoint_<epoch>/checkpoints``, a
state dict; or preprocessed: ``*.pt`` with the pickled sets ``trainset``, ``valset`` and ``testset``, whose split is the
reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Architecture, Evaluation, Part, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.resnet18 import Resnet18
from ngbench.store.published.restricted import number, parse_json, read_json, read_lines, read_tensors, whole
from ngbench.store.published.unpickling import Record, read_records
from ngbench.zoo.columns import Column

REFERENCE = "model-zoos"
_ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "silu": nn.SiLU,
}
# column here, key in the configuration
_TEXTS = {"activation": "model::nlin", "initializer": "model::init_type", "optimizer": "optim::optimizer"}
_NUMBERS = {
    "dropout": "model::dropout",
    "learning_rate": "optim::lr",
    "weight_decay": "optim::wd",
    "seed": "seed",
}
_MEASURED = {"train_accuracy": "train_acc", "test_accuracy": "test_acc", "train_loss": "train_loss", "test_loss": "test_loss"}
_COLUMNS = (
    Column("seed", "identity", "float", "seed of the run; NaN where not given"),
    Column("epoch", "hyperparameter", "int", "passes over the training images before this checkpoint"),
    Column("activation", "hyperparameter", "str", "nonlinearity of the hidden layers"),
    Column("initializer", "hyperparameter", "str", "distribution of the initial weights"),
    Column("optimizer", "hyperparameter", "str", "update rule"),
    Column("dropout", "hyperparameter", "float", "share of activations dropped; NaN where not given"),
    Column("learning_rate", "hyperparameter", "float", "learning rate; NaN where not given"),
    Column("weight_decay", "hyperparameter", "float", "weight decay; NaN where not given"),
    Column("train_accuracy", "measurement", "float", "fraction right on the training images, as published; NaN where not given"),
    Column("test_accuracy", "measurement", "float", "fraction right on the test images, as published; NaN where not given"),
    Column("train_loss", "measurement", "float", "negative log-likelihood on the training images; NaN where not given"),
    Column("test_loss", "measurement", "float", "negative log-likelihood on the test images; NaN where not given"),
)
# of each convolution: channels and height of the kernel; whether a pool of 2 follows; then the units of the hidden layer
_SMALL = (((8, 5, True), (6, 5, True), (4, 2, False)), 36, 28)
_SMALL_2 = (((6, 5, True), (9, 5, True), (6, 2, False)), 54, 28)
_LARGE = (((16, 3, True), (32, 3, True), (15, 3, True)), 60, 32)
_CHECKPOINT = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True)
class PopulationCnn:
    """Three convolutions, each with pooling before the activation, a hidden layer of 20 units and a head of 10 outputs.

    Args:
        kind: ``"CNN"``, ``"CNN2"`` (images of 28 × 28) or ``"CNN3"`` (of 32 × 32).
        num_channels: Of an image.
        activation: Name in the configuration.
        has_dropout: Whether modules of dropout are counted in the names of layers; a CNN3 has them always.
    """

    kind: str
    num_channels: int
    activation: str
    has_dropout: bool

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        convolutions, num_features, _ = {"CNN": _SMALL, "CNN2": _SMALL_2, "CNN3": _LARGE}[self.kind]
        layers: list[nn.Module] = []
        sources = self.num_channels
        for place, (channels, kernel, pools) in enumerate(convolutions):
            layers += [nn.Conv2d(sources, channels, kernel), *([nn.MaxPool2d(2)] if pools else [])]
            # the small ones have no dropout after the last convolution
            drops = self.has_dropout and (place < 2 or self.kind == "CNN3")
            layers += [_ACTIVATIONS[self.activation](), *([nn.Dropout()] if drops else [])]
            sources = channels
        layers += [nn.Flatten(), nn.Linear(num_features, 20), _ACTIVATIONS[self.activation]()]
        layers += [*([nn.Dropout()] if self.has_dropout else []), nn.Linear(20, 10)]
        module = nn.Sequential()
        module.add_module("module_list", nn.Sequential(*layers))
        return module

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        size = 32 if self.kind == "CNN3" else 28
        return (torch.zeros(1, self.num_channels, size, size),)


def read(folder: Path) -> Iterator[PublishedNetwork]:
    """The checkpoints by run and epoch, or those of the preprocessed sets where there is no run.

    Raises:
        ForeignZooError: The files are neither, or hold something else than published.
    """
    runs = sorted((path.parent for path in folder.rglob("result.json") if path.is_file()), key=lambda path: path.parts)
    sets = sorted(path for path in folder.rglob("*.pt") if path.is_file())
    if not runs and not sets:
        raise ForeignZooError(f"{str(folder)!r} holds no result.json and no *.pt; expected the folder or archive of a zoo")
    for run in runs:
        yield from _read_run(run)
    for path in sets if not runs else ():
        yield from _read_sets(path)


def _read_run(run: Path) -> Iterator[PublishedNetwork]:
    results = _results(run / "result.json")
    config = read_json(run / "params.json") if (run / "params.json").is_file() else results[min(results)].get("config")
    if not isinstance(config, Mapping):
        raise ForeignZooError(f"{str(run)!r} has no configuration; expected params.json, or config in result.json")
    found = [(int(match[1]), path) for path in run.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    for epoch, path in sorted(found):
        file = path / "checkpoints"
        if not file.is_file():
            raise ForeignZooError(f"{str(path)!r} lacks the file 'checkpoints'; fetch the archive again")
        content = _without_prefix(read_tensors(file))
        # Epoch 0 is logged in some zoos alone, so that lines are found by the epoch that they name.
        metadata = _metadata(config, results.get(epoch, {}), epoch, where=repr(str(run)))
        architecture = _architecture(config, content, where=repr(str(run)))
        yield PublishedNetwork(f"{run.name}/{epoch}", run.name, architecture, content, metadata)


def _results(path: Path) -> dict[int, Mapping[str, Any]]:
    """What was logged of each epoch."""
    results: dict[int, Mapping[str, Any]] = {}
    for line in read_lines(path):
        entry = parse_json(line, path) if line.strip() else None
        if isinstance(entry, Mapping):
            results[whole(entry.get("training_iteration"), where=f"'training_iteration' in {str(path)!r}")] = entry
    if not results:
        raise ForeignZooError(f"{str(path)!r} has no line with an epoch; fetch the archive again")
    return results


def _metadata(config: Mapping[str, Any], result: Mapping[str, Any], epoch: int, *, where: str) -> dict[str, Any]:
    keys = {**_NUMBERS, **_MEASURED}
    known = {**config, **{key: result.get(key) for key in _MEASURED.values()}}
    return {
        "epoch": epoch,
        **{name: str(config.get(key, "")) for name, key in _TEXTS.items()},
        **{name: number(known.get(key), where=f"{key!r} in {where}") for name, key in keys.items()},
    }


def _without_prefix(content: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the name of a wrapper, and without counters of batches, on which nothing depends."""
    stripped = {re.sub(r"^(module\.|model\.)+", "", path): values for path, values in content.items()}
    return {path: values for path, values in stripped.items() if not path.endswith("num_batches_tracked")}


def _architecture(config: Mapping[str, Any], content: Mapping[str, Any], *, where: str) -> Architecture:
    """As the configuration and the parameters have it; dropout shows in the names of the layers."""
    if "conv1.weight" in content and "fc.bias" in content:
        stem, head = np.shape(content["conv1.weight"]), np.shape(content["fc.bias"])
        if len(stem) != 4 or len(head) != 1:
            raise ForeignZooError(f"{where} has conv1.weight of shape {stem}, fc.bias of {head}; expected those of a ResNet-18")
        return Resnet18(num_channels=stem[1], num_classes=head[0])
    activation, first = config.get("model::nlin"), content.get("module_list.0.weight")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ForeignZooError(f"{where} has model::nlin {activation!r}; expected one of {', '.join(_ACTIVATIONS)}")
    if first is None or np.ndim(first) != 4:
        raise ForeignZooError(f"{where} holds {', '.join(content)}; expected a CNN as module_list.0, ... or a ResNet-18")
    kinds = {(8, 5): "CNN", (6, 5): "CNN2", (16, 3): "CNN3"}
    shape = np.shape(first)
    if (shape[0], shape[2]) not in kinds or not 1 <= shape[1] <= 4096:
        raise ForeignZooError(f"{where} has a first convolution of shape {shape}; expected 8 or 6 of 5 × 5, or 16 of 3 × 3")
    return PopulationCnn(kinds[shape[0], shape[2]], shape[1], activation, "module_list.4.weight" in content)


def _read_sets(path: Path) -> Iterator[PublishedNetwork]:
    """The networks of a preprocessed file, in its own order."""
    content, where = read_records(path), repr(str(path))
    names: dict[str, Part] = {"trainset": "train", "valset": "val", "testset": "test"}
    if not isinstance(content, dict) or not set(names) & set(content):
        raise ForeignZooError(f"{where} has no trainset, valset or testset; expected a preprocessed set of networks")
    for name, part in names.items():
        entries = content.get(name)
        if entries is None:
            continue
        fields = {key: entries.get(key) if isinstance(entries, dict) else None for key in ("data_in", "paths", "properties")}
        if not isinstance(fields["data_in"], list) or not isinstance(fields["properties"], dict):
            raise ForeignZooError(f"{name!r} in {where} has no lists data_in and properties; expected a set of state dicts")
        yield from _networks_of(fields, part, where=f"{name!r} in {where}")


def _networks_of(fields: Mapping[str, Any], part: Part, *, where: str) -> Iterator[PublishedNetwork]:
    count, paths = len(fields["data_in"]), fields["paths"]
    lists = {"paths": paths, **fields["properties"]}
    wrong = [key for key, values in lists.items() if not isinstance(values, list) or len(values) != count]
    if wrong:
        raise ForeignZooError(f"{where} has no list {wrong[0]!r} of {count} entries; expected one a network")
    for row, state in enumerate(fields["data_in"]):
        if not isinstance(state, dict):
            raise ForeignZooError(f"{where} holds a {type(state).__name__} as network {row}; expected a state dict, not a vector")
        config = {str(key): values[row] for key, values in fields["properties"].items()}
        epoch = whole(config.get("training_iteration"), where=f"'training_iteration' in {where}")
        content, run_id = _without_prefix({str(key): values for key, values in state.items()}), _name_of(paths[row])
        metadata = _metadata(config, config, epoch, where=where)
        architecture = _architecture(config, content, where=where)
        yield PublishedNetwork(f"{run_id}/{epoch}", run_id, architecture, content, metadata, {REFERENCE: part})


def _name_of(path: Any) -> str:
    """The last part of a path, which may be an object of pathlib that was not made."""
    text = path.arguments[-1] if isinstance(path, Record) and path.arguments else path
    return re.split(r"[/\\]", str(text).rstrip("/\\"))[-1]


def _zoo(name: str, title: str, record: str, file: str | None = None, *, evaluation: Evaluation | None = None) -> PublishedZoo:
    home = f"https://doi.org/10.5281/zenodo.{record}"
    address = f"https://zenodo.org/records/{record}/files/{file}?download=1"
    return PublishedZoo(
        name,
        f"Model Zoos: {title}",
        "CC-BY-4.0",
        "Schürholt et al. 2022, Model Zoos: A Dataset of Diverse Populations of Neural Network Models, arXiv:2209.14764",
        home,
        _COLUMNS,
        read,
        files=(RemoteFile(file, address),) if file else (),
        references=(REFERENCE,),
        evaluation=evaluation,
    )


_ON_CIFAR10 = Evaluation("uoft-cs/cifar10", (0.5,), (0.5,))
CIFAR10_SAMPLE = _zoo(
    "model-zoos-cifar10-sample",
    "CNNs on CIFAR-10, epochs 21 to 25",
    "13144018",
    "cifar10_cnn_sample_ep21-25.zip",
    evaluation=_ON_CIFAR10,
)
MNIST = _zoo("model-zoos-mnist", "CNNs on MNIST", "6632086", evaluation=Evaluation("ylecun/mnist", (0.1307,), (0.3081,)))
FASHION_MNIST = _zoo(
    "model-zoos-fashion-mnist",
    "CNNs on Fashion-MNIST",
    "6632104",
    evaluation=Evaluation("zalando-datasets/fashion_mnist", (0.5,), (0.5,)),
)
SVHN = _zoo("model-zoos-svhn", "CNNs on SVHN", "6632120")
USPS = _zoo("model-zoos-usps", "CNNs on USPS", "6633626")
CIFAR10 = _zoo(
    "model-zoos-cifar10", "CNNs on CIFAR-10, one configuration", "6620869", "cifar_large_seed.zip", evaluation=_ON_CIFAR10
)
STL10 = _zoo("model-zoos-stl10", "CNNs on STL-10, one configuration", "6631784", "stl_small_seed.zip")
CIFAR100_RESNET18 = _zoo(
    "model-zoos-cifar100-resnet18", "ResNet-18 on CIFAR-100, last epoch", "6977382", "cifar100_resnet18_epoch60.zip"
)
TINY_IMAGENET_RESNET18 = _zoo(
    "model-zoos-tiny-imagenet-resnet18", "ResNet-18 on TinyImageNet, a part", "7023278", "tiny-imagenet_resnet18_subset.zip"
)
