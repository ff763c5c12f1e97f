"""Opens a zoo file and hands out its networks as neural graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, overload

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike

from ngbench.errors import GraphError, SplitError, StoreFormatError, UnknownNameError
from ngbench.graph import NeuralGraph, Topology
from ngbench.graph.layout import split_rows
from ngbench.store.arrays import TEXT, find_dataset, names_as_written, names_in, open_hdf5, read_array, read_rows
from ngbench.store.held_out import HeldOutOutputs, read_held_out
from ngbench.store.schema import COLUMN_TYPES, FUNCTIONAL_TYPE, SPLIT_TYPE, VALUE_TYPE, ZooInfo, read_info
from ngbench.store.seal import HASHED_AT_OPEN_BYTES, check_content, check_index, read_seal
from ngbench.store.splits import PARTS
from ngbench.store.topology_tables import read_topology
from ngbench.zoo.columns import Column, Role

_ITERATED_AT_ONCE = 256


class Zoo:
    """A zoo of trained networks, read from its file as it is asked for.

    ``zoo[3]`` is a `NeuralGraph`, ``zoo[10:20]`` and ``zoo[[7, 3]]`` are lists of them. Graphs and arrays that it hands
    out are the caller's own: to change them changes nothing here. It pickles as its path, and no file stays open.

    Args:
        path: A zoo file. It is hashed now, but for the values of a file beyond 64 MiB that are mapped into memory: one wrong bit
            in these gives another number and no error, and only `verify` and `merge`, which read all of them, find it.

    Attributes:
        path: Absolute path of the file.
        seal: Size and sha256 of its content.
        info: What the zoo is: name, version, title, licence, citation, recipe.
        columns: Role, type and description of each metadata column.
        splits: Names of its splits.
        split_by: Column whose networks with one value stand in one part of the split `default`; None where those of one run do.
        functional_names: Names of the outputs that it holds, for `functional`.

    Raises:
        StoreFormatError: The file is missing, foreign, newer than this ngbench, truncated, corrupt or incomplete.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self.seal = read_seal(self.path)
        check_index(self.path, self.seal)
        if self.seal.index_bytes < self.seal.size_bytes <= HASHED_AT_OPEN_BYTES:
            check_content(self.path, self.seal)
        self._topologies: dict[int, Topology] = {}
        self._columns_read: dict[str, np.ndarray] = {}
        with open_hdf5(self.path) as file:
            self.info: ZooInfo = read_info(file)
            self._read_models(file)
            columns = [_read_column(file, name, num_networks=len(self)) for name in names_in(file, "metadata")]
            self.columns: Mapping[str, Column] = MappingProxyType({column.name: column for column in columns})
            self.splits = names_in(file, "splits")
            self.split_by: str | None = file["splits/default"].attrs.get("by") if "default" in self.splits else None
            self.functional_names = names_in(file, "functional") if "functional" in file else ()
        if self.split_by is not None and self.split_by not in self.columns:
            raise self._inconsistent(f"attribute 'by' of '/splits/default' is {self.split_by!r}, which is no column")
        withheld = self.info.withheld
        unknown = {*withheld.splits} - {*self.splits} | {*withheld.columns} - {*self.columns} if withheld else ()
        if unknown:
            raise self._inconsistent(f"attribute 'withheld' names {', '.join(sorted(unknown))}, which is no split or column")

    def _read_models(self, file: h5py.File) -> None:
        self._ids = read_array(file, "models/id", dtype=TEXT, length=None)
        self._run_ids = read_array(file, "models/run_id", dtype=TEXT, length=len(self._ids))
        self._topology_index = read_array(file, "models/topology", dtype="<i4", length=len(self._ids))
        self._value_ptr = read_array(file, "models/value_ptr", dtype="<i8", length=len(self._ids) + 1)
        self._digests = sorted(names_in(file, "topologies"))
        num_values = find_dataset(file, "values", dtype=VALUE_TYPE, shape=(None,)).shape[0]
        if self._value_ptr[0] != 0 or self._value_ptr[-1] != num_values or (np.diff(self._value_ptr) < 0).any():
            raise self._inconsistent(f"'/models/value_ptr' does not rise from 0 to {num_values}, the length of '/values'")
        if len(self) and not 0 <= self._topology_index.min() <= self._topology_index.max() < len(self._digests):
            raise self._inconsistent(f"'/models/topology' has positions outside 0 to {len(self._digests) - 1}")

    def _inconsistent(self, fault: str) -> StoreFormatError:
        return StoreFormatError(f"{str(self.path)!r}: {fault}; fetch the file again")

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        if read_seal(self.path) != self.seal:
            raise StoreFormatError(f"{str(self.path)!r} was replaced by another zoo file after it was opened; open it again")
        with open_hdf5(self.path) as file:
            yield file

    @property
    def name(self) -> str:
        """Name of the zoo."""
        return self.info.name

    @property
    def version(self) -> str:
        """Version of the zoo."""
        return self.info.version

    @property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the file's content, which names exactly this zoo."""
        return self.seal.sha256

    @property
    def ids(self) -> np.ndarray:
        """Name of each network, str ``[networks]``."""
        return self._ids.copy()

    @property
    def run_ids(self) -> np.ndarray:
        """Training run of each network, str ``[networks]``."""
        return self._run_ids.copy()

    @property
    def split_keys(self) -> np.ndarray:
        """What decides the part of each network in the split `default`: networks that agree in it belong together, str."""
        return self.run_ids if self.split_by is None else self.metadata[self.split_by].astype(np.str_)

    @property
    def topology_index(self) -> np.ndarray:
        """Position of each network's topology in `topologies`, int32 ``[networks]``."""
        return self._topology_index.copy()

    @cached_property
    def topologies(self) -> tuple[Topology, ...]:
        """All topologies of the zoo, by digest.

        Raises:
            StoreFormatError: A topology cannot be read.
        """
        return tuple(self._topologies_at(range(len(self._digests))))

    def _topologies_at(self, indices: Iterable[int]) -> list[Topology]:
        missing = [index for index in indices if index not in self._topologies]
        if missing:
            with self._open() as file:
                self._topologies |= {index: self._read_topology(file, index) for index in missing}
        return [self._topologies[index] for index in indices]

    def _read_topology(self, file: h5py.File, index: int) -> Topology:
        topology = read_topology(file, self._digests[index])
        lengths = np.diff(self._value_ptr)[self._topology_index == index]
        wrong = lengths[lengths != topology.num_values]
        if len(wrong):
            raise self._inconsistent(
                f"'/models/value_ptr' gives a network of topology {topology.digest} {wrong[0]} values; "
                f"expected {topology.num_values}"
            )
        return topology

    @cached_property
    def diverged(self) -> tuple[tuple[str, str], ...]:
        """Run id and reason of each run that gave no network.

        Raises:
            StoreFormatError: They cannot be read.
        """
        with self._open() as file:
            run_ids = read_array(file, "diverged/run_id", dtype=TEXT, length=None)
            reasons = read_array(file, "diverged/reason", dtype=TEXT, length=len(run_ids))
        return tuple(zip(run_ids.tolist(), reasons.tolist(), strict=True))

    @property
    def metadata(self) -> Mapping[str, np.ndarray]:
        """The metadata columns by name, each ``[networks]`` of str, int64 or float64; a column is read when it is asked for."""
        return _Metadata(self)

    def _column(self, name: str) -> np.ndarray:
        self._check_column(name)
        if name not in self._columns_read:
            with self._open() as file:
                dtype = COLUMN_TYPES[self.columns[name].dtype]
                self._columns_read[name] = read_array(file, f"metadata/{name}", dtype=dtype, length=len(self))
        return self._columns_read[name].copy()

    def column(self, name: str, rows: slice | ArrayLike) -> np.ndarray:
        """Some rows of a metadata column, ``[rows]``; unlike `metadata` it reads and keeps no others.

        Args:
            name: One of `columns`.
            rows: A slice, positions or a mask.

        Raises:
            UnknownNameError: There is no such column.
            StoreFormatError: The file cannot be read.
        """
        self._check_column(name)
        places = self._places(rows)
        if name in self._columns_read:
            return self._columns_read[name][places]
        with self._open() as file:
            dtype = COLUMN_TYPES[self.columns[name].dtype]
            return read_rows(find_dataset(file, f"metadata/{name}", dtype=dtype, shape=(len(self),)), places)

    def _check_column(self, name: str) -> None:
        if name not in self.columns:
            raise UnknownNameError(f"metadata column of zoo {self.name!r}", name, self.columns)

    def split(self, part: str, name: str = "default") -> np.ndarray:
        """Rows of the networks of one part of a split, rising, int64 ``[rows]``.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            name: Which split; one of `splits`.

        Raises:
            SplitError: No such part or split.
        """
        parts = self.parts(name)
        if part not in PARTS:
            raise SplitError(f"split {name!r} of zoo {self.name!r} has no part {part!r}; expected one of {', '.join(PARTS)}")
        return np.flatnonzero(parts == PARTS.index(part)).astype(np.int64)

    def parts(self, name: str = "default") -> np.ndarray:
        """The part of each network in a split: 0 train, 1 val, 2 test, -1 none of them, int8 ``[networks]``.

        Raises:
            SplitError: No such split.
        """
        if name not in self.splits:
            raise SplitError(f"zoo {self.name!r} has no split {name!r}; expected one of {', '.join(self.splits)}")
        with self._open() as file:
            return read_array(file, f"splits/{name}", dtype=SPLIT_TYPE, length=len(self))

    def withheld(self, column: str) -> np.ndarray:
        """Whether the file keeps the value of a column back, and holds a placeholder, for each network, bool ``[networks]``."""
        kept_back = self.info.withheld
        if kept_back is None or column not in kept_back.columns:
            return np.zeros(len(self), dtype=bool)
        return np.any([self.parts(name) == PARTS.index("test") for name in kept_back.splits], axis=0)

    def functional(self, name: str, rows: slice | ArrayLike | None = None) -> np.ndarray:
        """Outputs of the networks on fixed inputs, float16 ``[networks, outputs]``, a copy.

        Args:
            name: Which; one of `functional_names`.
            rows: A slice, positions or a mask, of which no others are read; None for all.

        Raises:
            UnknownNameError: The zoo holds no such outputs.
            StoreFormatError: The file cannot be read.
        """
        with self._functional(name) as dataset:
            return dataset[()] if rows is None else read_rows(dataset, self._places(rows))

    def num_outputs(self, name: str) -> int:
        """How many stored outputs each network has.

        Args:
            name: Which; one of `functional_names`.

        Raises:
            UnknownNameError: The zoo holds no such outputs.
            StoreFormatError: The file cannot be read.
        """
        with self._functional(name) as dataset:
            return int(dataset.shape[1])

    @contextmanager
    def _functional(self, name: str) -> Iterator[h5py.Dataset]:
        if name not in self.functional_names:
            raise UnknownNameError(f"stored outputs of zoo {self.name!r}", name, self.functional_names)
        with self._open() as file:
            yield find_dataset(file, f"functional/{name}", dtype=FUNCTIONAL_TYPE, shape=(len(self), None))

    @cached_property
    def _values(self) -> np.ndarray:
        """All values in one row, mapped into memory where they are stored as they are, read as a whole otherwise."""
        with self._open() as file:
            dataset = find_dataset(file, "values", dtype=VALUE_TYPE, shape=(int(self._value_ptr[-1]),))
            if dataset.chunks is not None:
                return dataset[()]
            return np.memmap(self.path, VALUE_TYPE, "r", dataset.id.get_offset(), dataset.shape).view(np.ndarray)

    def values(self, rows: slice | ArrayLike) -> np.ndarray:
        """Canonical value rows of networks that share a structure, float32 ``[rows, values]``, a copy.

        Args:
            rows: A slice, positions or a mask.

        Raises:
            GraphError: The rows have networks of several structures.
            StoreFormatError: The file cannot be read.
        """
        places = self._places(rows)
        index = self._topology_index[places if len(places) else slice(1)]
        # To sort the indices of a batch would take as long as to read it.
        topologies = self._topologies_at(np.flatnonzero(np.bincount(index)).tolist())
        structures = {topology.structure for topology in topologies}
        if len(structures) > 1:
            raise GraphError(
                f"the {len(places)} rows have networks of {len(structures)} structures, which do not stack; "
                "expected one, choose rows by zoo.topology_index"
            )
        return self._gather(places, topologies[0].num_values)

    def flat_values(self, rows: slice | ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Values of networks of any structure, one after the other.

        Args:
            rows: A slice, positions or a mask.

        Returns:
            float32 ``[values of all rows]``, a copy, and where each row begins and the last ends in it, int64 ``[rows + 1]``.

        Raises:
            StoreFormatError: The file cannot be read.
        """
        places = self._places(rows)
        lengths = self.num_values[places]
        ptr = np.concatenate([[0], np.cumsum(lengths)])
        if len(np.unique(lengths)) == 1:
            return self._gather(places, int(lengths[0])).ravel(), ptr
        flat = np.empty(ptr[-1], VALUE_TYPE)
        for length, members in _grouped(lengths).items():
            flat[ptr[members][:, None] + np.arange(length)] = self._gather(places[members], length)
        return flat, ptr

    @property
    def num_values(self) -> np.ndarray:
        """Values of each network, int64 ``[networks]``."""
        return np.diff(self._value_ptr)

    @cached_property
    def held_out(self) -> HeldOutOutputs | None:
        """What some of the networks give for held-out inputs, from the file beside the zoo's; None where no such file is.

        Raises:
            StoreFormatError: The file is corrupt, or of another zoo.
        """
        return read_held_out(self.path, self.sha256, num_networks=len(self))

    def written_order(self, group: Literal["splits", "functional"]) -> tuple[str, ...]:
        """The names of the splits or of the stored outputs in the order in which the file has them."""
        with self._open() as file:
            return names_as_written(file, group) if group in file else ()

    def _places(self, rows: slice | ArrayLike) -> np.ndarray:
        if not isinstance(rows, slice):
            # numpy takes an empty list for one of float64.
            rows = np.asarray(rows, dtype=None if np.size(rows) else np.int64)
        return self._all_places[rows]

    @cached_property
    def _all_places(self) -> np.ndarray:
        return np.arange(len(self))

    @cached_property
    def _is_even(self) -> bool:
        """Whether all networks have equally many values, so that the values are one array ``[networks, values]``."""
        return bool(len(self) and (np.diff(self._value_ptr) == self._value_ptr[1]).all() and self._value_ptr[1])

    def _gather(self, places: np.ndarray, num_values: int) -> np.ndarray:
        if self._is_even:
            return self._values.reshape(-1, num_values).take(places, axis=0)
        return np.lib.stride_tricks.sliding_window_view(self._values, num_values)[self._value_ptr[places]]

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, key: int | np.integer) -> NeuralGraph: ...
    @overload
    def __getitem__(self, key: slice | ArrayLike) -> list[NeuralGraph]: ...
    def __getitem__(self, key: Any) -> NeuralGraph | list[NeuralGraph]:
        """One network, or a list of the networks of a slice, of positions or of a mask.

        The graphs of one call and topology share one private copy of their values.

        Raises:
            IndexError: No such row.
            StoreFormatError: The file cannot be read.
        """
        if isinstance(key, int | np.integer):
            return self[np.array([key])][0]
        places = self._places(key)
        graphs: dict[int, NeuralGraph] = {}
        members_of = _grouped(self._topology_index[places])
        for topology, members in zip(self._topologies_at(members_of), members_of.values(), strict=True):
            rows = torch.from_numpy(self._gather(places[members], topology.num_values))
            slots = zip(*(values.unbind() for values in split_rows(topology, rows)), strict=True)
            graphs |= {int(member): NeuralGraph(topology, values) for member, values in zip(members, slots, strict=True)}
        return [graphs[place] for place in range(len(places))]

    def __iter__(self) -> Iterator[NeuralGraph]:
        for start in range(0, len(self), _ITERATED_AT_ONCE):
            yield from self[start : start + _ITERATED_AT_ONCE]

    def __repr__(self) -> str:
        return f"Zoo({self.name!r} version {self.version}, {len(self)} networks, {str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.sha256)


class _Metadata(Mapping[str, np.ndarray]):
    """The columns of a zoo, each read when it is first asked for."""

    def __init__(self, zoo: Zoo):
        self._zoo = zoo

    def __getitem__(self, name: str) -> np.ndarray:
        return self._zoo._column(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._zoo.columns)

    def __len__(self) -> int:
        return len(self._zoo.columns)

    def __contains__(self, name: object) -> bool:
        return name in self._zoo.columns


def _reopen(path: str, sha256: str) -> Zoo:
    zoo = Zoo(path)
    if zoo.sha256 != sha256:
        raise StoreFormatError(
            f"{path!r} was replaced by another zoo file: it has sha256 {zoo.sha256}, expected {sha256}; open it again"
        )
    return zoo


def _read_column(file: h5py.File, name: str, *, num_networks: int) -> Column:
    """The description of a metadata column; its dataset is checked but not read."""
    found = getattr(file[f"metadata/{name}"], "dtype", None)
    # What no column can be is checked against text, and so refused.
    dtype: Any = next((dtype for dtype, type_ in COLUMN_TYPES.items() if type_ != TEXT and found == np.dtype(type_)), "str")
    dataset = find_dataset(file, f"metadata/{name}", dtype=COLUMN_TYPES[dtype], shape=(num_networks,))
    role: Any = dataset.attrs.get("role")
    if role not in get_args(Role):
        raise StoreFormatError(
            f"{file.filename!r}: attribute 'role' of '/metadata/{name}' is {role!r}; "
            f"expected one of {', '.join(get_args(Role))}; fetch the file again"
        )
    return Column(name, role, dtype, str(dataset.attrs.get("description", "")))


def _grouped(indices: np.ndarray) -> dict[int, np.ndarray]:
    """The positions, rising, where each different index stands."""
    order = np.argsort(indices, kind="stable")
    starts = np.flatnonzero(np.diff(indices[order], prepend=-1))
    return {int(indices[members[0]]): members for members in np.split(order, starts)[1:]}
