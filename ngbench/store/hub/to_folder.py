"""Writes a zoo as a dataset folder: Parquet shards, manifest, dataset card and Croissant metadata."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ngbench.errors import StoreWriteError
from ngbench.progress import Progress, silent
from ngbench.store.atomic_file import disk_errors, partial_folder
from ngbench.store.hub.croissant import write_croissant
from ngbench.store.hub.dataset_card import write_card
from ngbench.store.hub.manifest import MANIFEST, ColumnEntry, FileEntry, Manifest, OutputsEntry
from ngbench.store.hub.tables import DIVERGED, TOPOLOGIES, metadata_field, network_schema, outputs_field
from ngbench.store.reader import Zoo
from ngbench.store.splits import PARTS

SHARD_BYTES = 256 * 2**20
# What is in memory at a time, and what a reader that streams must hold.
_ROW_GROUP_BYTES = 8 * 2**20
_MOST_ROWS_A_GROUP = 16384


@dataclass(frozen=True)
class _Shard:
    """A file of networks to write: its name in the folder, the part of its networks in each split, and their rows."""

    path: str
    parts: Mapping[str, str | None]
    rows: np.ndarray


def export_dataset(
    zoo: Zoo,
    folder: str | Path,
    *,
    card: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> Path:
    """Writes a zoo as a folder that ``datasets.load_dataset`` opens and `import_dataset` turns back into the same file.

    Each split of the zoo is a configuration, its parts are that configuration's splits. The networks of a shard agree in
    their part of every split, so that no network stands in two files. The folder has its name only when it is complete.
    Memory holds names, runs and parts of all networks, and of metadata, stored outputs and values one row group at a time.

    Args:
        zoo: The zoo.
        folder: What to write; it must not exist, or be empty.
        card: The zoo's data card, whose texts the dataset card and the Croissant metadata take over; None without one.
        shard_bytes: Values of a shard, at most, where a network is not larger.
        progress: Told how many networks are written.

    Returns:
        The folder.

    Raises:
        StoreWriteError: The folder holds something, cannot be written, or the zoo has a name that no folder can have.
        StoreFormatError: The zoo file cannot be read.
        CardError: There is no such data card.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreWriteError(f"{str(folder)!r} is there already; expected a new or empty folder: name another or remove it")
    splits = ["default", *(name for name in zoo.written_order("splits") if name != "default")]
    columns = [ColumnEntry(name=c.name, role=c.role, dtype=c.dtype, description=c.description) for c in zoo.columns.values()]
    with _folder(folder) as partial:
        outputs = [OutputsEntry(name=name, num_outputs=zoo.num_outputs(name)) for name in zoo.written_order("functional")]
        schema = network_schema(columns, outputs)
        files = [
            *_write_networks(zoo, partial, _shards(zoo, splits, shard_bytes), schema=schema, outputs=outputs, progress=progress),
            _write_table(partial, "topologies/topologies.parquet", _topologies(zoo)),
        ]
        if zoo.diverged:
            diverged = pa.table(dict(zip(DIVERGED.names, zip(*zoo.diverged, strict=True), strict=True)), schema=DIVERGED)
            files.append(_write_table(partial, "diverged/diverged.parquet", diverged))
        manifest = _manifest(zoo, splits=splits[1:], columns=columns, outputs=outputs, files=files)
        left_out = {"withheld"} if manifest.withheld is None else None
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude=left_out) + "\n")
        texts = write_card(zoo, manifest, partial, card=card)
        write_croissant(zoo, manifest, partial, texts=texts)
    return folder


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes its name when the block ends."""
    with disk_errors(folder), partial_folder(folder) as partial:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)


def _shards(zoo: Zoo, splits: list[str], shard_bytes: int) -> Iterator[_Shard]:
    parts = np.stack([zoo.parts(name) for name in splits])
    kinds, kind_of = np.unique(parts, axis=1, return_inverse=True)
    for index, kind in enumerate(kinds.T.tolist()):
        names = [None if part < 0 else PARTS[part] for part in kind]
        rows = np.flatnonzero(kind_of.ravel() == index)
        pieces = _pieces(rows, 4 * zoo.num_values[rows], shard_bytes)
        stem = ".".join(name or "none" for name in names)
        for place, piece in enumerate(pieces):
            path = f"data/{stem}-{place:05d}-of-{len(pieces):05d}.parquet"
            yield _Shard(path, dict(zip(splits, names, strict=True)), piece)


def _pieces(rows: np.ndarray, sizes: np.ndarray, most: int, most_rows: int | None = None) -> list[np.ndarray]:
    """Rows in pieces of at most so many bytes, one row where it is larger."""
    ends, pieces, start = np.cumsum(sizes), [], 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        stop = min(stop, start + most_rows) if most_rows else stop
        pieces.append(rows[start:stop])
        start = stop
    return pieces


def _write_networks(
    zoo: Zoo, folder: Path, shards: Iterator[_Shard], *, schema: pa.Schema, outputs: Sequence[OutputsEntry], progress: Progress
) -> Iterator[FileEntry]:
    (folder / "data").mkdir()
    network_bytes = 4 * zoo.num_values + sum(2 * entry.num_outputs for entry in outputs)
    table_of = _tables(zoo, outputs, schema=schema)
    done = 0
    for shard in shards:
        with _parquet(folder / shard.path, schema) as writer:
            for rows in _pieces(shard.rows, network_bytes[shard.rows], _ROW_GROUP_BYTES, _MOST_ROWS_A_GROUP):
                writer.write_table(table_of(rows), row_group_size=len(rows))
                done += len(rows)
                progress(done, len(zoo))
        yield _entry(folder, shard.path, num_rows=len(shard.rows), parts=shard.parts)


def _tables(zoo: Zoo, outputs: Sequence[OutputsEntry], *, schema: pa.Schema) -> Callable[[np.ndarray], pa.Table]:
    """Gives the table of some rows of a zoo, whose metadata, stored outputs and values are read for these alone."""
    ids, run_ids, topology_index = zoo.ids, zoo.run_ids, zoo.topology_index
    digests = np.array([topology.digest for topology in zoo.topologies])

    def table_of(rows: np.ndarray) -> pa.Table:
        columns = {
            "row": rows,
            "id": ids[rows],
            "run_id": run_ids[rows],
            "topology": digests[topology_index[rows]],
            **{metadata_field(name): zoo.column(name, rows) for name in zoo.columns},
        }
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        for entry in outputs:
            offsets = np.arange(len(rows) + 1) * entry.num_outputs
            arrays[outputs_field(entry.name)] = _lists(zoo.functional(entry.name, rows).ravel(), offsets)
        arrays["values"] = _lists(*zoo.flat_values(rows))
        return pa.table(arrays, schema=schema)

    return table_of


def _lists(flat: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    # The bytes of a float apart compress better; a dictionary of floats would only cost.
    split = [f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)]
    # Both may be lists of columns, which the types of pyarrow do not say.
    options: dict[str, Any] = {"use_dictionary": texts, "use_byte_stream_split": split}
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True, **options)


def _write_table(folder: Path, path: str, table: pa.Table) -> FileEntry:
    (folder / path).parent.mkdir()
    pq.write_table(table, folder / path, compression="zstd")
    return _entry(folder, path, num_rows=len(table), parts={})


def _entry(folder: Path, path: str, *, num_rows: int, parts: Mapping[str, str | None]) -> FileEntry:
    with (folder / path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    fields = {"path": path, "sha256": sha256, "size_bytes": (folder / path).stat().st_size, "num_rows": num_rows}
    return FileEntry.model_validate({**fields, "parts": dict(parts)})


def _topologies(zoo: Zoo) -> pa.Table:
    counts = Counter(zoo.topology_index.tolist())
    rows = [
        (topology.digest, counts[index], topology.num_values, topology.num_nodes, topology.num_edges, topology.to_json())
        for index, topology in enumerate(zoo.topologies)
    ]
    return pa.table(dict(zip(TOPOLOGIES.names, map(list, zip(*rows, strict=True)), strict=True)), schema=TOPOLOGIES)


def _manifest(
    zoo: Zoo, *, splits: list[str], columns: list[ColumnEntry], outputs: list[OutputsEntry], files: list[FileEntry]
) -> Manifest:
    info = zoo.info
    try:
        return Manifest(
            name=info.name,
            version=info.version,
            title=info.title,
            licence=info.licence,
            citation=info.citation,
            recipe=None if info.recipe is None else dict(info.recipe),
            sha256=zoo.sha256,
            compressed=zoo.seal.index_bytes == zoo.seal.size_bytes,
            num_networks=len(zoo),
            num_values=int(zoo.num_values.sum()),
            split_by=zoo.split_by,
            splits=splits,
            columns=columns,
            outputs=outputs,
            files=files,
            withheld=info.withheld,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreWriteError(
            f"zoo {zoo.name!r} cannot be a dataset: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from error
