"""Turns a dataset folder back into the zoo file that it was written from; the folder may come from anybody."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ngbench.errors import ChecksumError, GraphError, StoreFormatError, StoreWriteError
from ngbench.graph import Topology
from ngbench.progress import Progress, silent
from ngbench.store.hub.manifest import MANIFEST, FileEntry, Manifest, part_index, read_manifest
from ngbench.store.hub.tables import DIVERGED, TOPOLOGIES, metadata_field, network_schema, outputs_field
from ngbench.store.reader import Zoo
from ngbench.store.writer import ZooWriter

_BATCH_BYTES = 8 * 2**20
_MOST_ROWS_A_BATCH = 16384
# A folder that claims more in one piece is not of our making: we write row groups of 8 MiB, or of one network.
_MOST_ROW_GROUP_BYTES = 2**31
# The zoo file has tables of nodes and edges, which a topology of a few bytes could make as large as it likes.
_MOST_EDGES = 2**28


def import_dataset(folder: str | Path, path: str | Path | None = None, *, progress: Progress = silent) -> Zoo:
    """Writes the zoo file that a dataset folder was written from, with the same content hash.

    Holds some megabytes of values at a time. The file has its name only when its hash is right.

    Args:
        folder: What `export_dataset` wrote, here or elsewhere.
        path: The file to write; None for ``<zoo>-v<version>.h5`` in the current folder.
        progress: Told how many networks are read.

    Returns:
        The zoo, open.

    Raises:
        StoreFormatError: A file of the folder is missing, changed, too large or has other columns or types than it says.
        ChecksumError: All files are what the manifest says, but they give another zoo file.
        StoreWriteError: The file is there already or cannot be written, or a network has values that no zoo holds.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = Path(path) if path is not None else Path(f"{manifest.name}-v{manifest.version}.h5")
    if path.exists():
        raise StoreWriteError(f"{str(path)!r} is there already; expected a new file: name another or remove it")
    for entry in manifest.files:
        _check_file(folder, entry)
    unproved = path.with_name(f"{path.name}.unproved-{os.getpid()}")
    try:
        _write(folder, manifest, unproved, progress=progress)
        zoo = Zoo(unproved)
        if zoo.sha256 != manifest.sha256:
            raise ChecksumError(
                f"{str(folder)!r} gives a zoo file with sha256 {zoo.sha256}; expected {manifest.sha256}, that of the file that "
                "it was written from; fetch the folder again, or use the versions of h5py and ngbench that wrote it"
            )
        unproved.replace(path)
    finally:
        unproved.unlink(missing_ok=True)
    return Zoo(path)


def _check_file(folder: Path, entry: FileEntry) -> None:
    """The file stands in the folder itself and has the bytes that the manifest says."""
    path = folder / entry.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StoreFormatError(
            f"{str(path)!r} leads out of its folder, to {str(path.resolve())!r}; expected a file in the folder"
        )
    if not path.is_file():
        raise StoreFormatError(f"{str(folder)!r} lacks file {entry.path!r}, which its {MANIFEST} names; fetch the folder again")
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        raise StoreFormatError(f"{str(path)!r} has {size_bytes} bytes; expected {entry.size_bytes}; fetch the folder again")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry.sha256:
        raise StoreFormatError(f"{str(path)!r} has sha256 {sha256}; expected {entry.sha256}; fetch the folder again")


def _write(folder: Path, manifest: Manifest, path: Path, *, progress: Progress) -> None:
    topologies = _topologies(folder, manifest)
    largest = max(topology.num_values for topology in topologies.values())
    columns = [entry.column for entry in manifest.columns]
    writer = ZooWriter(path, manifest.info, columns=columns, split_by=manifest.split_by, compressed=manifest.compressed)
    with writer:
        done, files = 0, []
        for table in _in_order(folder, manifest, largest=largest):
            _append(writer, manifest, table, topologies=topologies)
            files.append(table["file"].to_numpy())
            done += len(table)
            progress(done, manifest.num_networks)
        if done != manifest.num_networks:
            raise StoreFormatError(
                f"{str(folder)!r} has {done} networks; expected {manifest.num_networks}; fetch the folder again"
            )
        for name in manifest.splits:
            parts = np.array([part_index(file.parts.get(name)) for file in manifest.files], dtype=np.int8)
            writer.add_split(name, parts[np.concatenate(files)])
        for entry in manifest.of("diverged"):
            for table in _batches(folder, entry, schema=DIVERGED, most_rows=_MOST_ROWS_A_BATCH):
                writer.add_diverged(zip(*(table[name].to_pylist() for name in DIVERGED.names), strict=True))


def _topologies(folder: Path, manifest: Manifest) -> dict[str, Topology]:
    """The topologies of the zoo by digest."""
    found: dict[str, Topology] = {}
    for entry in manifest.of("topologies"):
        path = folder / entry.path
        for table in _batches(folder, entry, schema=TOPOLOGIES, most_rows=64):
            for digest, text in zip(table["digest"].to_pylist(), table["json"].to_pylist(), strict=True):
                try:
                    topology = Topology.from_json(text)
                except GraphError as error:
                    raise StoreFormatError(f"{str(path)!r}: row {digest!r} holds no topology ({error})") from error
                if topology.digest != digest:
                    raise StoreFormatError(f"{str(path)!r}: topology has digest {topology.digest}; expected {digest!r}")
                if topology.num_nodes + topology.num_edges > _MOST_EDGES:
                    raise StoreFormatError(
                        f"{str(path)!r}: topology {digest} has {topology.num_nodes} nodes and {topology.num_edges} edges; "
                        f"expected at most {_MOST_EDGES} together"
                    )
                found[digest] = topology
    if not found:
        raise StoreFormatError(f"{str(folder)!r} has no topologies; expected at least one; fetch the folder again")
    return found


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a file into one sentence.

    Raises:
        StoreFormatError: The block met an error of pyarrow or of the system.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise StoreFormatError(f"{str(path)!r} cannot be read as Parquet ({text}); fetch the folder again") from error


def _batches(
    folder: Path, entry: FileEntry, *, schema: pa.Schema, most_rows: int, list_lengths: dict[str, int] | None = None
) -> Iterator[pa.Table]:
    """The rows of a Parquet file in small tables, its types and declared sizes proved first.

    Args:
        folder: The dataset folder.
        entry: The file.
        schema: The columns and types that it must have.
        most_rows: Rows of a table.
        list_lengths: The most numbers that a list of each list column may have.
    """
    path = folder / entry.path
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        _check_schema(path, file.schema_arrow, expected=schema)
        if file.metadata.num_rows != entry.num_rows:
            raise StoreFormatError(f"{str(path)!r} has {file.metadata.num_rows} rows; expected {entry.num_rows}")
        for index in range(file.metadata.num_row_groups):
            _check_row_group(path, file.metadata.row_group(index), lengths=list_lengths or {})
        batches = file.iter_batches(batch_size=most_rows)
        while (batch := next(batches, None)) is not None:
            table = pa.Table.from_batches([batch])
            for name in schema.names:
                column = table[name].combine_chunks()
                if column.null_count or (pa.types.is_list(column.type) and column.flatten().null_count):
                    raise StoreFormatError(f"{str(path)!r}: column {name!r} has empty cells; expected a value in each")
                if pa.types.is_string(column.type):
                    _check_utf8(path, name, column)
            yield table


def _check_utf8(path: Path, name: str, column: pa.Array) -> None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise StoreFormatError(f"{str(path)!r}: column {name!r} holds what is no UTF-8 ({error}); expected text") from error


def _check_schema(path: Path, got: pa.Schema, *, expected: pa.Schema) -> None:
    missing = [name for name in expected.names if name not in got.names]
    unknown = [name for name in got.names if name not in expected.names]
    if missing or unknown or len(got.names) != len(expected.names):
        raise StoreFormatError(f"{str(path)!r} lacks columns {missing} and has unknown columns {unknown}; expected neither")
    for field in expected:
        if not got.field(field.name).type.equals(field.type):
            raise StoreFormatError(
                f"{str(path)!r}: column {field.name!r} has type {got.field(field.name).type}; expected {field.type}"
            )


def _check_row_group(path: Path, group: pq.RowGroupMetaData, *, lengths: dict[str, int]) -> None:
    if group.total_byte_size > _MOST_ROW_GROUP_BYTES:
        raise StoreFormatError(
            f"{str(path)!r} declares a row group of {group.total_byte_size} bytes; expected at most {_MOST_ROW_GROUP_BYTES}"
        )
    for index in range(group.num_columns):
        column = group.column(index)
        name = column.path_in_schema.partition(".")[0]
        most = group.num_rows * max(1, lengths.get(name, 1))
        if column.num_values > most:
            raise StoreFormatError(
                f"{str(path)!r}: column {name!r} declares {column.num_values} values in {group.num_rows} rows; "
                f"expected at most {most}"
            )


def _in_order(folder: Path, manifest: Manifest, *, largest: int) -> Iterator[pa.Table]:
    """All networks in the order of the zoo file, with a column ``file`` that says which file each came from.

    Files whose networks agree in their parts follow each other, and their rows rise; so the next rows of the zoo are at the
    heads of these sequences.
    """
    sequences: dict[tuple[str | None, ...], list[int]] = {}
    for index, entry in enumerate(manifest.files):
        if entry.folder == "data":
            sequences.setdefault(tuple(entry.parts.values()), []).append(index)
    most_rows = min(_MOST_ROWS_A_BATCH, max(1, _BATCH_BYTES // (4 * max(largest, 1))))
    streams = [_sequence(folder, manifest, files, most_rows=most_rows, largest=largest) for files in sequences.values()]
    heads: list[pa.Table | None] = [next(stream, None) for stream in streams]
    done = 0
    while any(head is not None for head in heads):
        last = min(head["row"][-1].as_py() for head in heads if head is not None)
        ready = []
        for place, head in enumerate(heads):
            if head is None:
                continue
            count = int(np.searchsorted(head["row"].to_numpy(), last, side="right"))
            ready.append(head.slice(0, count))
            heads[place] = head.slice(count) if count < len(head) else next(streams[place], None)
        table = pa.concat_tables(ready).sort_by("row").combine_chunks()
        rows = table["row"].to_numpy()
        wrong = np.flatnonzero(rows != np.arange(done, done + len(rows)))
        if len(wrong):
            got, want = rows[wrong[0]], done + wrong[0]
            raise StoreFormatError(f"{str(folder)!r} has row {got} where row {want} is due; expected each row once, rising")
        done += len(rows)
        yield table


def _sequence(folder: Path, manifest: Manifest, files: list[int], *, most_rows: int, largest: int) -> Iterator[pa.Table]:
    """The networks of some files, one file after the other."""
    schema = network_schema(manifest.columns, manifest.outputs)
    lengths = {"values": largest, **{outputs_field(entry.name): entry.num_outputs for entry in manifest.outputs}}
    for index in files:
        entry = manifest.files[index]
        for table in _batches(folder, entry, schema=schema, most_rows=most_rows, list_lengths=lengths):
            rows = table["row"].to_numpy()
            if (np.diff(rows) <= 0).any():
                raise StoreFormatError(f"{str(folder / entry.path)!r}: the numbers in column 'row' do not rise; expected that")
            yield table.select(schema.names).append_column("file", pa.array(np.full(len(table), index, dtype=np.int32)))


def _append(writer: ZooWriter, manifest: Manifest, table: pa.Table, *, topologies: dict[str, Topology]) -> None:
    """Appends networks of any structures, those that follow each other and have as many values in one call."""
    digests = table["topology"].to_pylist()
    unknown = [digest for digest in digests if digest not in topologies]
    if unknown:
        raise StoreFormatError(
            f"networks have topology {unknown[0]!r}, which is not among the topologies; fetch the folder again"
        )
    of_row = [topologies[digest] for digest in digests]
    lengths = np.array([topology.num_values for topology in of_row])
    values = _flat(table, "values", lengths)
    arrays = {name: table[name].to_pylist() for name in ("id", "run_id")}
    metadata = {entry.name: _column(table, metadata_field(entry.name)) for entry in manifest.columns}
    functional = {
        entry.name: _flat(table, outputs_field(entry.name), np.full(len(table), entry.num_outputs)).reshape(len(table), -1)
        for entry in manifest.outputs
    }
    starts = np.flatnonzero(np.diff(lengths, prepend=-1)).tolist()
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
        span = slice(start, stop)
        writer.append(
            of_row[span],
            values[ptr[start] : ptr[stop]].reshape(stop - start, -1),
            ids=arrays["id"][span],
            run_ids=arrays["run_id"][span],
            metadata={name: column[span] for name, column in metadata.items()},
            functional={name: outputs[span] for name, outputs in functional.items()},
        )


def _column(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    return np.array(column.to_pylist(), dtype=np.str_) if pa.types.is_string(column.type) else column.to_numpy()


def _flat(table: pa.Table, name: str, lengths: np.ndarray) -> np.ndarray:
    """The numbers of a list column, one row after the other, where each row has the length that it must have."""
    column = table[name].combine_chunks()
    got = np.diff(column.offsets.to_numpy())
    wrong = np.flatnonzero(got != lengths)
    if len(wrong):
        row = wrong[0]
        raise StoreFormatError(
            f"network {table['id'][int(row)].as_py()!r} has {got[row]} numbers in column {name!r}; expected {lengths[row]}"
        )
    return column.flatten().to_numpy()
