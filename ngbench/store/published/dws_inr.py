"""Implicit neural representations of DWSNets (Navon et al. 2023, arXiv:2301.12780): one SIREN 2-32-32-1 for each image.

Layout of MNIST: ``mnist_png_{training|testing}_{label}_{image}/checkpoints/<name>.pth``. Of Fashion-MNIST:
``{train|test}/model_<image>.pth`` with the label inside, and the authors' ``splits.json`` or that of Kofinas et al. 2024
(``fmnist_splits.json``: of each part the lists path and label).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Part, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.restricted import find_all, read_json, read_tensors
from ngbench.zoo.columns import Column
from ngbench.zoo.modules import Sine

REFERENCE = "ng-fmnist"
_COLUMNS = (
    Column("image_index", "identity", "int", "position of the image in its half of the corpus, as the file name has it", low=0),
    Column("half", "identity", "str", "half of the corpus that the image is from", choices=("train", "test")),
    Column("label", "identity", "int", "class of the image", low=0),
)
_DIRECTORY = re.compile(r"mnist_png_(training|testing)_(\d)_(\d+)")
_FILE = re.compile(r"model_(\d+)\.pth")


@dataclass(frozen=True)
class DwsInr:
    """sin(30 · layer) twice and a linear layer, 0.5 added: the grey value in [0, 1] at x (along the width) and y, in [-1, 1]."""

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Inr()

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, 2),)


class _Inr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)])
        self.sine = Sine(30.0)

    def forward(self, points: Tensor) -> Tensor:
        """``[points, 2]`` to ``[points, 1]``."""
        first, second, last = self.seq
        return last(self.sine(second(self.sine(first(points))))) + 0.5


def read_mnist(folder: Path) -> Iterator[PublishedNetwork]:
    """The networks in the order of their paths; several of one image have one run id.

    Raises:
        ForeignZooError: A file has another name or content than published.
    """
    for path in find_all(folder, "**/checkpoints/*.pth"):
        match = _DIRECTORY.fullmatch(path.parts[-3])
        if match is None:
            raise ForeignZooError(f"{str(path)!r} stands in {path.parts[-3]!r}; expected mnist_png_<half>_<label>_<image>")
        half, image = match[1].removesuffix("ing"), int(match[3])
        content = {name: values for name, values in read_tensors(path).items() if name != "label"}
        # Images are numbered within their half.
        run_id = f"{half}-{image:05d}"
        metadata = {"image_index": image, "half": half, "label": int(match[2])}
        yield PublishedNetwork(f"{run_id}/{path.stem}", run_id, DwsInr(), content, metadata)


def read_fashion_mnist(folder: Path) -> Iterator[PublishedNetwork]:
    """The networks in the order of their paths.

    Raises:
        ForeignZooError: A file has another name or content than published, or no label.
    """
    parts = _parts(folder)
    for path in find_all(folder, "**/*.pth"):
        match, half = _FILE.fullmatch(path.name), path.parts[-2]
        if match is None or half not in ("train", "test"):
            raise ForeignZooError(f"{str(path)!r} has another name than published; expected {{train|test}}/model_<image>.pth")
        content = read_tensors(path)
        label = np.asarray(content.pop("label", None))
        if label.size != 1 or label.dtype.kind not in "iu":
            raise ForeignZooError(f"{str(path)!r} has label {label.tolist()}; expected a whole number")
        run_id = f"{half}-{int(match[1]):05d}"
        metadata = {"image_index": int(match[1]), "half": half, "label": label.item()}
        key = f"{half}/{path.name}"
        reference: dict[str, Part] = {REFERENCE: parts[key]} if key in parts else {}
        yield PublishedNetwork(run_id, run_id, DwsInr(), content, metadata, reference)


def _parts(folder: Path) -> dict[str, Part]:
    """The part of each file, by its folder and name; paths before these are the authors' own."""
    found = [path for name in ("fmnist_splits.json", "splits.json") for path in sorted(folder.rglob(name)) if path.is_file()]
    if not found:
        return {}
    content, parts = read_json(found[0]), {}
    names: tuple[Part, ...] = ("train", "val", "test")
    if not isinstance(content, dict) or not set(names) <= set(content):
        raise ForeignZooError(f"{str(found[0])!r} has no parts train, val and test; expected a split file")
    for part in names:
        paths = content[part]["path"] if isinstance(content[part], dict) and "path" in content[part] else content[part]
        if not isinstance(paths, list):
            raise ForeignZooError(f"{str(found[0])!r} holds a {type(paths).__name__} in part {part!r}; expected a list of paths")
        for text in paths:
            key = "/".join(str(text).replace("\\", "/").split("/")[-2:])
            if parts.setdefault(key, part) != part:
                raise ForeignZooError(f"{str(found[0])!r} has {key!r} in {parts[key]} and {part}; expected each file in one part")
    return parts


_HOME = "https://www.dropbox.com/sh/56pakaxe58z29mq/AABtWNkRYroLYe_cE3c90DXVa?dl=0"
_FOLDER = "https://www.dropbox.com/sh/56pakaxe58z29mq"
_CITATION = "Navon et al. 2023, Equivariant Architectures for Learning in Deep Weight Spaces, arXiv:2301.12780"
_LICENCE = "not stated by its authors: do not pass converted files on"

MNIST = PublishedZoo(
    "dws-inr-mnist",
    "DWSNets: a SIREN 2-32-32-1 for each of the 70,000 images of MNIST",
    _LICENCE,
    _CITATION,
    _HOME,
    _COLUMNS,
    read_mnist,
    files=(RemoteFile("mnist-inrs.zip", f"{_FOLDER}/AABrctdu2U65jGYr2WQRzmMna/mnist-inrs.zip?dl=1"),),
)
FASHION_MNIST = PublishedZoo(
    "dws-inr-fashion-mnist",
    "DWSNets: a SIREN 2-32-32-1 for each of the 70,000 images of Fashion-MNIST",
    _LICENCE,
    _CITATION,
    _HOME,
    _COLUMNS,
    read_fashion_mnist,
    files=(
        RemoteFile("fmnist_inrs.zip", f"{_FOLDER}/AAAssoHq719OmSHSKKTiKKHGa/fmnist_inrs.zip?dl=1"),
        RemoteFile(
            "fmnist_splits.json",
            "https://raw.githubusercontent.com/mkofinas/neural-graphs/main/experiments/inr_classification/dataset/fmnist_splits.json",
            "73fd51cad2449284618460f34d4bba456de9707f481a83a66b66450e360adbd1",
        ),
    ),
    references=(REFERENCE,),
)
