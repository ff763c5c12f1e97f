"""Neural Field Arena (Papa et al. 2024, arXiv:2312.10531): SIRENs of images and shapes, in HDF5 files of rows.

Layout: ``<prefix>_<start>-<end>.hdf5``, each with ``params`` ``[networks, values]``, ``labels`` ``[networks]`` and
``param_config``, JSON of names and shapes: biases before kernels, kernels as inputs by outputs.
The files do not tell the factor in the
sines: 8, the default of the code that wrote them, is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Part, PublishedNetwork, PublishedZoo
from ngbench.store.published.restricted import parse_json
from ngbench.zoo.columns import Column
from ngbench.zoo.modules import Sine

REFERENCE = "arena-index"
_OMEGA = 8.0
_PARTS: tuple[Part, ...] = ("train", "val", "test")
_FILE = re.compile(r".*_(\d+)-(\d+)\.hdf5")
_NAME = re.compile(r"(kernel_net_(\d+)\.linear|output_linear)\.(bias|kernel)")
_LONGEST_CONFIG = 2**20
_ROWS_AT_ONCE = 256
_COLUMNS = (
    Column("signal_index", "identity", "int", "position of the image or shape in its corpus", low=0),
    Column("label", "identity", "int", "class of the image or shape", low=0),
)


@dataclass(frozen=True)
class ArenaSiren:
    """Linear layers, each followed by sin(omega · x), and a linear layer.

    Args:
        sizes: Coordinates, units of each hidden layer, outputs.
    """

    sizes: tuple[int, ...]

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        module = nn.Sequential()
        *hidden, (last, outputs) = pairwise(self.sizes)
        for index, (sources, targets) in enumerate(hidden):
            module.add_module(f"kernel_net_{index}", nn.Linear(sources, targets))
            module.add_module(f"sine_{index}", Sine(_OMEGA))
        module.add_module("output_linear", nn.Linear(last, outputs))
        return module

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, self.sizes[0]),)


def read(folder: Path, *, bounds: tuple[int, int, int]) -> Iterator[PublishedNetwork]:
    """The networks in the order of their signals.

    Args:
        folder: Where the files are.
        bounds: Where validation and test begin, and where test ends.

    Raises:
        ForeignZooError: A file is no such HDF5 file, reaches into other files, or is laid out otherwise than published.
    """
    found = [(int(match[1]), int(match[2]), path) for path in folder.rglob("*.hdf5") if (match := _FILE.fullmatch(path.name))]
    if not found:
        raise ForeignZooError(f"{str(folder)!r} holds no file <prefix>_<start>-<end>.hdf5; expected the folder of one corpus")
    for start, stop, path in sorted(found):
        try:
            with h5py.File(path, "r", locking=False) as file:
                yield from _read_file(file, path, start, stop, bounds=bounds)
        # What h5py raises depends on the place of the damage.
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise ForeignZooError(f"{str(path)!r} is no HDF5 file, or damaged ({error}); fetch it again") from error


def _read_file(file: h5py.File, path: Path, start: int, stop: int, *, bounds: tuple[int, int, int]) -> Iterator[PublishedNetwork]:
    params, labels = _dataset(file, path, "params", kind="f", num_axes=2), _dataset(file, path, "labels", kind="iu", num_axes=1)
    if not len(params) == len(labels) == stop - start:
        raise ForeignZooError(
            f"{str(path)!r} has {len(params)} rows and {len(labels)} labels; expected {stop - start} by its name"
        )
    layout = _layout(file, path)
    if params.shape[1] != sum(int(np.prod(shape)) for _, shape in layout):
        raise ForeignZooError(f"{str(path)!r} has rows of {params.shape[1]} values; its param_config has {layout}")
    kernels = [shape for name, shape in layout if name.endswith(".weight")]
    architecture = ArenaSiren((kernels[0][0], *(shape[1] for shape in kernels)))
    for first in range(0, len(params), _ROWS_AT_ONCE):
        rows, classes = params[first : first + _ROWS_AT_ONCE], labels[first : first + _ROWS_AT_ONCE].tolist()
        for place, (row, label) in enumerate(zip(rows, classes, strict=True)):
            index = start + first + place
            part: Part | None = next((p for p, stop in zip(_PARTS, bounds, strict=True) if index < stop), None)
            run_id = f"signal-{index:06d}"
            parts: dict[str, Part] = {REFERENCE: part} if part else {}
            yield PublishedNetwork(
                run_id, run_id, architecture, _parameters(row, layout), {"signal_index": index, "label": label}, parts
            )


def _parameters(row: np.ndarray, layout: list[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    parameters, start = {}, 0
    for name, shape in layout:
        size = int(np.prod(shape))
        # a kernel maps inputs to outputs as flax has it
        parameters[name] = np.ascontiguousarray(row[start : start + size].reshape(shape).T)
        start += size
    return parameters


def _layout(file: h5py.File, path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Names as here and shapes as stored of what a row holds, in its order."""
    dataset = _dataset(file, path, "param_config", kind="O", num_axes=1)
    if len(dataset) != 1 or h5py.check_string_dtype(dataset.dtype) is None:
        raise ForeignZooError(f"{str(path)!r} has {len(dataset)} entries of param_config; expected one text")
    text = str(dataset.asstr()[0])
    entries = parse_json(text[:_LONGEST_CONFIG], path)
    layout: list[tuple[str, tuple[int, ...]]] = []
    for entry in entries if isinstance(entries, list) else ():
        layout.append(_entry(entry, path))
    num_layers = len(layout) // 2
    names = [*(f"kernel_net_{index}" for index in range(num_layers - 1)), "output_linear"]
    expected = [f"{name}.{kind}" for name in names for kind in ("bias", "weight")]
    sizes = [shape for name, shape in layout if name.endswith(".weight")]
    if not layout or [name for name, _ in layout] != expected or any(a[1] != b[0] for a, b in pairwise(sizes)):
        raise ForeignZooError(
            f"{str(path)!r} has param_config {text[:200]!r}; expected the layers of a SIREN, bias before kernel"
        )
    return layout


def _entry(entry: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)
    match = _NAME.fullmatch(str(entry[0])) if is_pair else None
    if match is None or not all(type(size) is int and 0 < size < 2**20 for size in entry[1]):
        raise ForeignZooError(
            f"{str(path)!r} has {str(entry)[:80]!r} in param_config; expected [name, shape] of a layer of a SIREN"
        )
    kind, num_axes = ("weight", 2) if match[3] == "kernel" else ("bias", 1)
    if len(entry[1]) != num_axes:
        raise ForeignZooError(f"{str(path)!r} gives {entry[0]!r} the shape {entry[1]}; expected {num_axes} axes")
    return f"{match[1].removesuffix('.linear')}.{kind}", tuple(entry[1])


def _dataset(file: h5py.File, path: Path, name: str, *, kind: str, num_axes: int) -> h5py.Dataset:
    """A dataset whose numbers stand in this very file."""
    link, dataset = file.get(name, getlink=True), None
    if isinstance(link, h5py.HardLink):
        dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ForeignZooError(f"{str(path)!r} has no dataset {name!r} of its own; expected params, labels and param_config")
    if dataset.dtype.kind not in kind or dataset.ndim != num_axes:
        raise ForeignZooError(
            f"{str(path)!r} has {name!r} as {dataset.dtype} of {dataset.ndim} axes; expected kind {kind!r} of {num_axes} axes"
        )
    return dataset


def _zoo(name: str, corpus: str, bounds: tuple[int, int, int]) -> PublishedZoo:
    return PublishedZoo(
        f"neural-field-arena-{name}",
        f"Neural Field Arena: a SIREN for each signal of {corpus}",
        "not stated where it was looked up: see the record on Zenodo",
        "Papa et al. 2024, How to Train Neural Field Representations: A Comprehensive Study and Benchmark, arXiv:2312.10531",
        "https://doi.org/10.5281/zenodo.10392793",
        _COLUMNS,
        partial(read, bounds=bounds),
        references=(REFERENCE,),
    )


MNIST = _zoo("mnist", "MNIST", (55_000, 60_000, 70_000))
CIFAR10 = _zoo("cifar10", "CIFAR-10", (45_000, 50_000, 60_000))
MICRO_IMAGENET = _zoo("micro-imagenet", "MicroImageNet", (45_000, 50_000, 60_000))
SHAPENET = _zoo("shapenet", "ShapeNet", (27_840, 31_320, 34_800))
