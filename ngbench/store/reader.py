"""Opens a zoo file and hands out its networks as neural graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, SupportsIndex, get_args, overload

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike

from ngbench.errors import GraphError, SplitError, StoreFormatError
from ngbench.graph import NeuralGraph, Topology
from ngbench.graph.layout import split_rows
from ngbench.store.arrays import TEXT, find_dataset, open_hdf5, read_array, read_group
from ngbench.store.schema import SPLIT_TYPE, VALUE_TYPE, ZooInfo, read_info
from ngbench.store.seal import HASHED_AT_OPEN_BYTES, check_content, read_seal
from ngbench.store.splits import PARTS
from ngbench.store.topology_tables import read_topology
from ngbench.zoo.columns import Column, Role

_ITERATED_AT_ONCE = 256
_COLUMN_DTYPES = {np.dtype("<i8"): "int", np.dtype("<f8"): "float"}


class Zoo:
    """A zoo of trained networks, read from its file as it is asked for.

    ``zoo[3]`` is a `NeuralGraph`, ``zoo[10:20]`` and ``zoo[[7, 3]]`` are lists of them. Graphs and arrays that it hands
    out are the caller's own: to change them changes nothing here. It pickles as its path, and no file stays open.

    Args:
        path: A zoo file; up to 64 MiB it is hashed now, larger ones when `verify` is asked to.

    Raises:
        StoreFormatError: The file is missing, foreign, newer than this ngbench, truncated, corrupt or incomplete.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self._seal = read_seal(self.path)
        if self._seal.size_bytes <= HASHED_AT_OPEN_BYTES:
            check_content(self.path, self._seal)
        with open_hdf5(self.path) as file:
            self.info = read_info(file)
            self._read_models(file)
            self.columns: Mapping[str, Column] = MappingProxyType(
                {name: _column(file, name, num_networks=len(self)) for name in read_group(file, "metadata")}
            )
            self.splits = tuple(read_group(file, "splits"))
            for name in self.splits:
                find_dataset(file, f"splits/{name}", dtype=SPLIT_TYPE, shape=(len(self),))
        self.metadata: Mapping[str, np.ndarray] = _Metadata(self)

    def _read_models(self, file: h5py.File) -> None:
        self.ids = _frozen(read_array(file, "models/id", dtype=TEXT, length=None))
        self.run_ids = _frozen(read_array(file, "models/run_id", dtype=TEXT, length=len(self.ids)))
        self.topology_index = _frozen(read_array(file, "models/topology", dtype="<i4", length=len(self.ids)))
        self._value_ptr = _frozen(read_array(file, "models/value_ptr", dtype="<i8", length=len(self.ids) + 1))
        self._digests = sorted(read_group(file, "topologies"))
        self._topologies: dict[int, Topology] = {}
        num_values = find_dataset(file, "values", dtype=VALUE_TYPE, shape=(None,)).shape[0]
        ...
