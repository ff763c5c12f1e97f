"""The Parquet tables of a dataset folder: names and types of their columns."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ngbench.store.hub.manifest import ColumnEntry, OutputsEntry

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_RESERVED = ("row", "id", "run_id", "topology", "values")
_PREFIXES = ("metadata_", "outputs_")

TOPOLOGIES = pa.schema(
    [
        ("digest", pa.string()),
        ("num_networks", pa.int64()),
        ("num_values", pa.int64()),
        ("num_nodes", pa.int64()),
        ("num_edges", pa.int64()),
        ("json", pa.string()),
    ]
)
DIVERGED = pa.schema([("run_id", pa.string()), ("reason", pa.string())])
MEANINGS = {
    "row": "position of the network in the zoo file, from 0",
    "id": "name of the network, unique in the zoo",
    "run_id": "training run that it came from",
    "topology": "digest of its topology, a row of the configuration `topologies`",
    "values": "all parameters in canonical order; the topology says which stands where",
    "digest": "name of the topology, by its content",
    "num_networks": "networks that have it",
    "num_values": "parameters of one network",
    "num_nodes": "nodes of the neural graph",
    "num_edges": "edges of the neural graph",
    "json": "node groups and edge blocks, with the state-dict path of each",
    "reason": "why the run gave no network",
}


def metadata_field(name: str) -> str:
    """The table's name of a metadata column: its own, unless that is taken."""
    return f"metadata_{name}" if name in _RESERVED or name.startswith(_PREFIXES) else name


def outputs_field(name: str) -> str:
    """The table's name of stored outputs."""
    return f"outputs_{name}"


def network_schema(columns: Sequence[ColumnEntry], outputs: Sequence[OutputsEntry]) -> pa.Schema:
    """Names and types of the columns of the tables of networks."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("run_id", pa.string()),
            ("topology", pa.string()),
            *((metadata_field(column.name), _TYPES[column.dtype]) for column in columns),
            *((outputs_field(entry.name), pa.list_(pa.float16())) for entry in outputs),
            ("values", pa.list_(pa.float32())),
        ]
    )


def meanings(columns: Sequence[ColumnEntry], outputs: Sequence[OutputsEntry]) -> dict[str, str]:
    """One line about each column of the tables, by the table's name."""
    return {
        **MEANINGS,
        **{metadata_field(column.name): column.description for column in columns},
        **{outputs_field(entry.name): f"outputs of the network on the fixed inputs {entry.name!r}" for entry in outputs},
    }
