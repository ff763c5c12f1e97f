"""Small Transformer Zoo (Tran et al. 2025, arXiv:2410.04209): transformers of two blocks on MNIST and AG News.

Layout: checkpoints ``<run>_<epoch>_<accuracy>.pt`` in ``mnist/`` or ``ag_news/``, and ``metadata/{mnist,ag_news}.csv`` with a row
for each, which names the file by ``ckpt_file``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Evaluation, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.restricted import find_all, find_one, number, read_table, read_tensors
from ngbench.zoo.columns import Column

_WIDTH, _NUM_HEADS, _NUM_TOKENS = 32, 2, 49
_ACCURACIES = ("test_top1_accuracy", "test_accuracy")
# column here, column in the file
_NUMBERS = {
    "learning_rate": "lr",
    "init_std": "w_init_std",
    "l2_penalty": "l2_regularize",
    "train_share": "train_fraction",
    "dropout": "dropout",
}
_COLUMNS = (
    Column("checkpoint", "hyperparameter", "str", "passes over the training set before this checkpoint, or best"),
    Column("optimizer", "hyperparameter", "str", "update rule"),
    Column("learning_rate", "hyperparameter", "float", "learning rate after the warm-up"),
    Column("init_std", "hyperparameter", "float", "standard deviation of the initial weights"),
    Column("l2_penalty", "hyperparameter", "float", "factor of the squared weights"),
    Column("train_share", "hyperparameter", "float", "share of the training set that the run sees"),
    Column("dropout", "hyperparameter", "float", "share of activations dropped"),
    Column("test_accuracy", "measurement", "float", "fraction right on the test set, cut to four digits, as published"),
)
_FILE = re.compile(r"(.+)_(\d+|best\d*)_(\d+)\.pt")


@dataclass(frozen=True)
class SmallTransformer:
    """Two blocks of attention and MLP without residual connections, layer norm without parameters, mean of the tokens.

    Args:
        has_patches: Whether it reads grey images by patches of 4 × 4 at fixed positions; else vectors of tokens.
        num_classes: Outputs of the head.
    """

    has_patches: bool
    num_classes: int

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Transformer(self)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, 1, 28, 28) if self.has_patches else torch.zeros(1, 5, _WIDTH),)


class _Transformer(nn.Module):
    def __init__(self, architecture: SmallTransformer) -> None:
        super().__init__()
        self.embedding = _Patches() if architecture.has_patches else None
        self.encoder = nn.ModuleList([_Block(), _Block()])
        self.classifier = nn.ModuleDict({"fc1": nn.Linear(_WIDTH, _WIDTH), "fc2": nn.Linear(_WIDTH, architecture.num_classes)})

    def forward(self, inputs: Tensor) -> Tensor:
        """Images ``[images, 1, 28, 28]`` or tokens ``[texts, tokens, width]`` to logits."""
        tokens = inputs if self.embedding is None else self.embedding(inputs)
        for block in self.encoder:
            tokens = block(tokens)
        hidden = self.classifier["fc1"](_norm(tokens).mean(1))
        return self.classifier["fc2"](torch.relu(hidden))


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _WIDTH, 4, stride=4)
        self.pos_embedding = nn.Parameter(torch.zeros(_NUM_TOKENS, _WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        """``[images, 1, 28, 28]`` to ``[images, tokens, width]``."""
        return self.conv1(images).flatten(2).transpose(1, 2) + self.pos_embedding


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("queries", "keys", "values", "out_projection"):
            self.add_module(name, nn.Linear(_WIDTH, _WIDTH, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[images, tokens, width]`` to the same."""
        # [images, tokens, width], each of three, to [images, heads, tokens, width of a head]
        query, key, value = (
            self.get_submodule(name)(tokens).unflatten(-1, (_NUM_HEADS, -1)).transpose(1, 2)
            for name in ("queries", "keys", "values")
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.get_submodule("out_projection")(mixed.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.fc1, self.fc2 = nn.Linear(_WIDTH, 2 * _WIDTH), nn.Linear(2 * _WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[images, tokens, width]`` to the same."""
        return self.fc2(torch.relu(self.fc1(_norm(self.attention(_norm(tokens))))))


def _norm(tokens: Tensor) -> Tensor:
    return nn.functional.layer_norm(tokens, (_WIDTH,))


def read(folder: Path, *, corpus: str, architecture: SmallTransformer) -> Iterator[PublishedNetwork]:
    """The checkpoints that stand in the table, in the order of their file names.

    A file that the table lacks has no metadata and is left out.

    Raises:
        ForeignZooError: A file that the table names is missing, or has another name or content than published.
    """
    table = find_one(folder, f"{corpus}.csv")
    rows = {path.rpartition("/")[2]: row for path, row in _rows(table)}
    files = {path.name: path for path in find_all(folder, "**/*.pt") if path.name != "embedding.pt"}
    missing = sorted(set(rows) - set(files))
    if missing:
        raise ForeignZooError(f"{str(table)!r} names {missing[0]!r}, which {str(folder)!r} lacks; fetch the archive again")
    for name in sorted(rows):
        match = _FILE.fullmatch(name)
        if match is None:
            raise ForeignZooError(f"{str(table)!r} names {name!r}; expected <run>_<epoch>_<accuracy>.pt")
        metadata = _metadata(rows[name], where=f"the row of {name!r} in {str(table)!r}")
        yield PublishedNetwork(f"{match[1]}/{match[2]}", match[1], architecture, read_tensors(files[name]), metadata)


def _rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for row in read_table(table, columns=("ckpt_epoch", "ckpt_file", "optimizer", *_NUMBERS.values())):
        yield row["ckpt_file"].replace("\\", "/"), row


def _metadata(row: dict[str, str], *, where: str) -> dict[str, Any]:
    accuracy = next((column for column in _ACCURACIES if column in row), None)
    if accuracy is None:
        raise ForeignZooError(f"{where} has no accuracy; expected one of the columns {', '.join(_ACCURACIES)}")
    return {
        "checkpoint": row["ckpt_epoch"],
        "optimizer": row["optimizer"],
        **{name: number(row[column], where=f"{column!r} in {where}") for name, column in _NUMBERS.items()},
        "test_accuracy": number(row[accuracy], where=f"{accuracy!r} in {where}"),
    }


def _zoo(name: str, corpus: str, archive: str, architecture: SmallTransformer) -> PublishedZoo:
    root = "https://huggingface.co/datasets/anonymized-acamedia/Small-Transformer-Zoo"
    return PublishedZoo(
        name,
        f"Small Transformer Zoo: transformers of two blocks on {archive.removesuffix('-Transformers')}",
        "not stated where it was looked up: see the dataset page",
        "Tran et al. 2025, Equivariant Neural Functional Networks for Transformers, arXiv:2410.04209",
        root,
        _COLUMNS,
        partial(read, corpus=corpus, architecture=architecture),
        files=(RemoteFile(f"{archive}.zip", f"{root}/resolve/main/{archive}.zip"),),
        evaluation=Evaluation("ylecun/mnist", (0.5,), (0.5,)) if architecture.has_patches else None,
    )


MNIST = _zoo("small-transformer-mnist", "mnist", "MNIST-Transformers", SmallTransformer(True, 10))
AG_NEWS = _zoo("small-transformer-ag-news", "ag_news", "AG-News-Transformers", SmallTransformer(False, 4))
