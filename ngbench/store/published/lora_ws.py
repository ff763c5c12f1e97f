"""lora-ws-1k (jacekduszenko on the Hugging Face hub): LoRA adapters of a diffusion model, one row of a dataset each.

Layout: Parquet files, each row with the class of the training images as ``category_label`` and nested lists for every tensor,
``….lora.down.weight`` ``[rank, inputs]`` and ``….lora.up.weight`` ``[outputs, rank]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import PublishedNetwork, PublishedZoo
from ngbench.store.published.restricted import find_all
from ngbench.zoo.columns import Column

_DOWN, _UP = "lora.down.weight", "lora.up.weight"
_LABEL = "category_label"
_ROWS_AT_ONCE = 8
_COLUMNS = (
    Column("row", "identity", "int", "position in the dataset", low=0),
    Column("label", "identity", "str", "class of the images that the adapter was trained on"),
)


@dataclass(frozen=True)
class LoraPairs:
    """Adapters side by side, each two linear maps without bias, from an input of its own to an output of its own.

    Args:
        pairs: Name, inputs, rank and outputs of each.
    """

    pairs: tuple[tuple[str, int, int, int], ...]

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Adapters(self)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return tuple(torch.zeros(1, num_inputs) for _, num_inputs, _, _ in self.pairs)


class _Adapters(nn.Module):
    def __init__(self, architecture: LoraPairs) -> None:
        super().__init__()
        self.names = [name for name, _, _, _ in architecture.pairs]
        for name, num_inputs, rank, num_outputs in architecture.pairs:
            _place(self, f"{name}{_DOWN}".removesuffix(".weight"), nn.Linear(num_inputs, rank, bias=False))
            _place(self, f"{name}{_UP}".removesuffix(".weight"), nn.Linear(rank, num_outputs, bias=False))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``[batch, inputs]`` of each adapter to ``[batch, outputs]``."""
        ends = (_DOWN.removesuffix(".weight"), _UP.removesuffix(".weight"))
        maps = [tuple(self.get_submodule(name + end) for end in ends) for name in self.names]
        return tuple(up(down(each)) for (down, up), each in zip(maps, inputs, strict=True))


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Adds a module under a path with dots."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def read(folder: Path) -> Iterator[PublishedNetwork]:
    """The rows in the order of files and rows, a few in memory at a time.

    Raises:
        ForeignZooError: A file is no Parquet, lacks the label, or has adapters of another form.
    """
    index = 0
    for path in find_all(folder, "**/*.parquet"):
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield _network(row, index, path)
                    index += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ForeignZooError(f"{str(path)!r} is no Parquet file, or damaged ({error}); fetch it again") from error


def _network(row: Mapping[str, Any], index: int, path: Path) -> PublishedNetwork:
    where = f"row {index} of {str(path)!r}"
    if _LABEL not in row:
        raise ForeignZooError(f"{where} has no {_LABEL!r}; it has {', '.join(row)}")
    parameters = {name: _matrix(values, f"{name!r} in {where}") for name, values in row.items() if name.endswith((_DOWN, _UP))}
    run_id = f"row-{index:06d}"
    metadata = {"row": index, "label": str(row[_LABEL])}
    return PublishedNetwork(run_id, run_id, _architecture(parameters, where), parameters, metadata)


def _matrix(values: Any, where: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float32)
    except (ValueError, TypeError):
        array = np.empty(0, np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ForeignZooError(f"{where} has no rows of one length; expected a matrix of numbers")
    return array


def _architecture(parameters: Mapping[str, np.ndarray], where: str) -> LoraPairs:
    names = sorted(name.removesuffix(_DOWN) for name in parameters if name.endswith(_DOWN))
    ups = sorted(name.removesuffix(_UP) for name in parameters if name.endswith(_UP))
    if not names or names != ups or any("" in f"{name}{_DOWN}".split(".") for name in names):
        raise ForeignZooError(f"{where} has {len(names)} matrices down and {len(ups)} up; expected one of each for every layer")
    pairs = []
    for name in names:
        down, up = parameters[name + _DOWN].shape, parameters[name + _UP].shape
        if down[0] != up[1]:
            raise ForeignZooError(f"{where} has {name!r} down to {down[0]} and up from {up[1]}; expected one rank")
        pairs.append((name, down[1], down[0], up[0]))
    return LoraPairs(tuple(pairs))


LORA_WS_1K = PublishedZoo(
    "lora-ws-1k",
    "lora-ws-1k: 1,000 LoRA adapters of a diffusion model, each of images of one of ten classes",
    "not stated where it was looked up: see the dataset page",
    "jacekduszenko, lora-ws-1k, Hugging Face hub",
    "https://huggingface.co/datasets/jacekduszenko/lora-ws-1k",
    _COLUMNS,
    read,
    hub_dataset="jacekduszenko/lora-ws-1k",
)
