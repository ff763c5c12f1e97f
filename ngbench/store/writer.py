"""Writes a zoo file: rows of values go to a spool as they come, the file is made of them at the end.

HDF5 only ever writes to memory. It crashes the process when a disk fills up under it, so everything but the values is
composed in memory (the values too where they are compressed), and plain writes, which can fail, carry it to the disk.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np

from ngbench.errors import StoreWriteError
from ngbench.graph import Topology
from ngbench.store.arrays import COMPRESSION, write_array
from ngbench.store.atomic_file import atomic_file, disk_errors
from ngbench.store.schema import FUNCTIONAL_TYPE, VALUE_TYPE, ZooInfo, write_info
from ngbench.store.seal import HASHED_AT_OPEN_BYTES, SEAL_BYTES, write_sealed
from ngbench.store.splits import NO_PART, PARTS, assign, transfer
from ngbench.store.topology_tables import write_topology
from ngbench.zoo.columns import Column
from ngbench.zoo.transfer import TransferSplit

_CHUNK_VALUES = 2**18
_PIECE_BYTES = 2**24
# Values that are mapped into memory stand on a boundary that vector instructions like.
_ALIGNMENT_BYTES = 64
_KINDS = {"str": "U", "int": "iu", "float": "fiu"}
_TYPES = {"str": np.str_, "int": np.dtype("<i8"), "float": np.dtype("<f8")}


class ZooWriter:
    """Writes one zoo file, as a context manager: networks are appended inside the block, the file stands when it ends.

    A block that ends in an exception leaves no file. The networks and their order decide the file byte by byte, in however
    many steps they are appended. Each network's part in split `default` follows from its run id, or from the column `split_by`
    (`splits.assign`).

    Args:
        path: Where the file shall stand.
        info: What the zoo is.
        columns: The metadata columns that every network has.
        splits: Further splits by name (`splits.transfer`), each deciding by some of the columns.
        split_by: Column of whole numbers or names; networks that agree in it stand in one part of the split `default`. None where
            those of one run do.
        compressed: Whether the values are compressed, and so read as a whole, or stored as they are, and so mapped into
            memory; None to compress up to 64 MiB of values.

    Raises:
        StoreWriteError: A split decides by a column that the zoo lacks, or the split `default` by one of real numbers.
    """

    def __init__(
        self,
        path: str | Path,
        info: ZooInfo,
        *,
        columns: Sequence[Column] = (),
        splits: Mapping[str, TransferSplit] | None = None,
        split_by: str | None = None,
        compressed: bool | None = None,
    ):
        self.path, self.info, self.columns, self.splits = Path(path), info, tuple(columns), dict(splits or {})
        names = [column.name for column in columns]
        for name, split in self.splits.items():
            missing = [column for column in split.columns if column not in names]
            if missing:
                raise StoreWriteError(f"split {name!r} decides by column {missing[0]!r}; expected one of {', '.join(names)}")
        keys = [column.name for column in columns if column.dtype != "float"]
        if split_by is not None and split_by not in keys:
            raise StoreWriteError(f"split 'default' decides by column {split_by!r}; expected one of {', '.join(keys)}, or None")
        self._split_by, self._compressed = split_by, compressed
        self._topologies: dict[str, Topology] = {}
        self._digests: list[str] = []
        self._run_ids: dict[str, str] = {}
        self._metadata: dict[str, list[np.ndarray]] = {column.name: [] for column in columns}
        self._functional: dict[str, list[np.ndarray]] = {}
        self._given_splits: dict[str, np.ndarray] = {}
        self._diverged: list[tuple[str, str]] = []

    def __enter__(self) -> ZooWriter:
        with disk_errors(self.path):
            # It has no name on the disk, so it goes with the process, however that ends.
            self._spool: BinaryIO = tempfile.TemporaryFile(dir=self.path.parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with disk_errors(self.path), self._spool:
            if kind is None:
                self._write()

    def append(
        self,
        topologies: Topology | Sequence[Topology],
        rows: np.ndarray,
        *,
        ids: Sequence[str],
        run_ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        functional: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Adds networks whose value rows have one length.

        Args:
            topologies: That of all, or one a network.
            rows: float32 ``[networks, values]`` in canonical order.
            ids: A name for each network, unique in the zoo.
            run_ids: The training run of each; None where each network is a run of its own.
            metadata: One value a network, ``[networks]``, for each column.
            functional: Outputs on fixed inputs, float16 ``[networks, outputs]`` by name; the same names in every call.

        Raises:
            StoreWriteError: Lengths do not agree, an id stands twice, a column is missing, unknown or of another type, outputs
                have another name, type or length than before, a value is not finite, or the disk is full.
        """
        names = [str(name) for name in ids]
        topologies = [topologies] * len(names) if isinstance(topologies, Topology) else list(topologies)
        run_names = names if run_ids is None else [str(name) for name in run_ids]
        columns, outputs = self._typed(metadata or {}), dict(functional or {})
        self._check_lengths({"ids": names, "run_ids": run_names, "topologies": topologies, "rows": rows, **columns, **outputs})
        self._check_ids(names)
        self._check_outputs(outputs)
        self._check_rows(names, topologies, rows)
        with disk_errors(self.path):
            self._spool.write(np.ascontiguousarray(rows).data)
        for name, values in outputs.items():
            self._functional.setdefault(name, []).append(values)
        self._run_ids |= zip(names, run_names, strict=True)
        for name, values in columns.items():
            self._metadata[name].append(values)
        for topology in topologies:
            self._topologies.setdefault(topology.digest, topology)
            self._digests.append(topology.digest)

    def add_diverged(self, runs: Iterable[tuple[str, str]]) -> None:
        """Records runs that gave no network: run id and reason of each."""
        self._diverged += runs

    def add_split(self, name: str, parts: np.ndarray) -> None:
        """Adds a split that others decided, when all networks are appended.

        Args:
            name: Its name.
            parts: Of each network a position in `PARTS`, or `NO_PART`, ``[networks]``.

        Raises:
            StoreWriteError: The name is taken, the parts are not one a network, one does not exist, or it tears a run.
        """
        if name in ("default", *self.splits, *self._given_splits):
            raise StoreWriteError(f"split {name!r} stands twice in {str(self.path)!r}; expected each name once")
        if len(parts) != len(self._run_ids):
            raise StoreWriteError(
                f"split {name!r} has {len(parts)} parts for {len(self._run_ids)} networks; expected one a network"
            )
        unknown = parts[(parts < NO_PART) | (parts >= len(PARTS))]
        if len(unknown):
            raise StoreWriteError(f"split {name!r} has part {unknown[0]}; expected {NO_PART} to {len(PARTS) - 1}")
        part_of: dict[str, int] = {}
        for run_id, part in zip(self._run_ids.values(), parts.tolist(), strict=True):
            if part != NO_PART and part_of.setdefault(run_id, part) != part:
                raise StoreWriteError(
                    f"split {name!r} has networks of run {run_id!r} in {PARTS[part_of[run_id]]} and in {PARTS[part]}; "
                    "expected each run in one part"
                )
        self._given_splits[name] = parts.astype(np.int8)

    def _typed(self, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
        expected = {column.name for column in self.columns}
        if set(metadata) != expected:
            missing, unknown = sorted(expected - set(metadata)), sorted(set(metadata) - expected)
            raise StoreWriteError(
                f"metadata does not have the columns of the zoo: missing {missing}, unknown {unknown}; expected all"
            )
        arrays = {name: np.asarray(values) for name, values in metadata.items()}
        for column in self.columns:
            array = arrays[column.name]
            if array.dtype.kind not in _KINDS[column.dtype] and len(array):
                raise StoreWriteError(f"metadata column {column.name!r} holds {array.dtype}; expected {column.dtype}")
            arrays[column.name] = array.astype(_TYPES[column.dtype])
        return arrays

    def _check_lengths(self, given: Mapping[str, Sized]) -> None:
        lengths = {name: len(part) for name, part in given.items()}
        wrong = [name for name, length in lengths.items() if length != lengths["ids"]]
        if wrong:
            got, expected = lengths[wrong[0]], lengths["ids"]
            raise StoreWriteError(f"{wrong[0]!r} has {got} entries for {expected} network ids; expected one a network")

    def _check_ids(self, names: Sequence[str]) -> None:
        counts = Counter(names)
        twice = [name for name in names if counts[name] > 1 or name in self._run_ids]
        if twice:
            raise StoreWriteError(f"network id {twice[0]!r} stands twice in {str(self.path)!r}; expected each id once")

    def _check_outputs(self, outputs: Mapping[str, np.ndarray]) -> None:
        if self._run_ids and set(outputs) != set(self._functional):
            before, now = sorted(self._functional), sorted(outputs)
            raise StoreWriteError(f"outputs have the names {now}, and before {before}; expected the same for all networks")
        for name, values in outputs.items():
            length = self._functional[name][0].shape[1:] if self._run_ids else values.shape[1:]
            if values.dtype != np.dtype(FUNCTIONAL_TYPE) or values.ndim != 2 or values.shape[1:] != length:
                raise StoreWriteError(
                    f"outputs {name!r} are {values.dtype} of shape {values.shape}; expected float16 [networks, outputs], "
                    "as many outputs for all networks"
                )
            if not np.isfinite(values).all():
                raise StoreWriteError(f"outputs {name!r} are not all finite; expected finite numbers: leave such networks out")

    def _check_rows(self, names: Sequence[str], topologies: Sequence[Topology], rows: np.ndarray) -> None:
        if rows.dtype != np.dtype(VALUE_TYPE):
            raise StoreWriteError(f"value rows hold {rows.dtype}; expected float32, which is what a zoo stores")
        for name, topology in zip(names, topologies, strict=True):
            if rows.shape[1:] != (topology.num_values,):
                raise StoreWriteError(
                    f"network {name!r} has a value row of shape {rows.shape[1:]}; its topology expects ({topology.num_values},)"
                )
        finite = np.isfinite(rows)
        if not finite.all():
            row, place = map(int, np.argwhere(~finite)[0])
            slot = next(slot for slot in topologies[row].slots if place < slot.stop)
            raise StoreWriteError(
                f"network {names[row]!r} has the value {rows[row, place]} in parameter {slot.parameter.path!r}; "
                "expected finite numbers; leave the network out or record its run as diverged"
            )

    def _write(self) -> None:
        if not self._digests:
            raise StoreWriteError(f"no network was appended to {str(self.path)!r}; expected at least one")
        num_bytes = self._spool.seek(0, io.SEEK_END)
        compressed = num_bytes <= HASHED_AT_OPEN_BYTES if self._compressed is None else self._compressed
        index = self._compressed_index() if compressed else self._mapped_index(num_bytes)
        self._spool.seek(0)
        values = () if compressed else iter(partial(self._spool.read, _PIECE_BYTES), b"")
        with atomic_file(self.path) as file:
            write_sealed(file, index, values)

    def _compressed_index(self) -> memoryview:
        """All HDF5 content after the user block."""
        self._spool.seek(0)
        values = np.frombuffer(self._spool.read(), VALUE_TYPE)
        memory = io.BytesIO()
        with _hdf5_in(memory) as file:
            self._write_all_but_values(file)
            chunks = (min(_CHUNK_VALUES, len(values)),)
            file.create_dataset("values", data=values, chunks=chunks, track_times=False, **COMPRESSION)
        return memory.getbuffer()[SEAL_BYTES:]

    def _mapped_index(self, num_bytes: int) -> memoryview:
        """The HDF5 content after the user block, up to the values, which end the file."""
        memory = io.BytesIO()
        with _hdf5_in(memory) as file:
            self._write_all_but_values(file)
            start = _reserve_values(file, num_bytes // np.dtype(VALUE_TYPE).itemsize)
        return memory.getbuffer()[SEAL_BYTES:start]

    def _write_all_but_values(self, file: h5py.File) -> None:
        write_info(file, self.info)
        digests = sorted(self._topologies)
        for digest in digests:
            write_topology(file, self._topologies[digest])
        index = {digest: place for place, digest in enumerate(digests)}
        lengths = [self._topologies[digest].num_values for digest in self._digests]
        write_array(file, "models/id", np.array(list(self._run_ids)))
        write_array(file, "models/run_id", np.array(list(self._run_ids.values())))
        write_array(file, "models/topology", np.array([index[digest] for digest in self._digests], dtype="<i4"))
        write_array(file, "models/value_ptr", np.cumsum([0, *lengths], dtype="<i8"))
        file.create_group("metadata", track_order=True)
        for column in self.columns:
            dataset = write_array(file, f"metadata/{column.name}", np.concatenate(self._metadata[column.name]))
            dataset.attrs["role"], dataset.attrs["description"] = column.role, column.description
        for name, values in self._functional.items():
            write_array(file, f"functional/{name}", np.concatenate(values))
        default = assign(self.info.name, self._split_keys())
        # HDF5 places the compressed numbers of a dataset when its last variable lets it go, so these lines decide the file byte
        # by byte: released zoos were written so.
        if self._split_by is None:
            write_array(file, "splits/default", default)
        else:
            dataset = write_array(file, "splits/default", default)
            dataset.attrs["by"] = self._split_by
        for name, split in self.splits.items():
            deciding = {column: np.concatenate(self._metadata[column]) for column in split.columns}
            write_array(file, f"splits/{name}", transfer(default, split.held_out(deciding)))
        for name, parts in self._given_splits.items():
            write_array(file, f"splits/{name}", parts)
        diverged = np.array(self._diverged, dtype=np.str_).reshape(-1, 2)
        write_array(file, "diverged/run_id", diverged[:, 0])
        write_array(file, "diverged/reason", diverged[:, 1])

    def _split_keys(self) -> list[str]:
        """What decides the part of each network in the split `default`."""
        if self._split_by is None:
            return list(self._run_ids.values())
        return np.concatenate(self._metadata[self._split_by]).astype(np.str_).tolist()


def _hdf5_in(memory: io.BytesIO) -> h5py.File:
    # The file format of HDF5 1.10 keeps checksums of its own structures.
    return h5py.File(
        memory,
        "w",
        libver=("v110", "v110"),
        userblock_size=SEAL_BYTES,
        alignment_threshold=1,
        alignment_interval=_ALIGNMENT_BYTES,
    )


def _reserve_values(file: h5py.File, num_values: int) -> int:
    """Makes ``/values`` the last thing in a file without writing it; returns the position in the file where it begins.

    HDF5 gives a dataset its place when its first number is written, so that is done when all else has its own.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    identifier = h5py.h5d.create(file.id, b"values", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((num_values,)), properties)
    file.flush()
    h5py.Dataset(identifier)[0] = 0
    return identifier.get_offset()
