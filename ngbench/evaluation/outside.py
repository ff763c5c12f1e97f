"""The test networks of a task as plain files, without answers, for methods that are written without ngbench.

Both kinds of file say the same. Of every network there is the row as it is, and one for each of the protocol's orbit-scrambled
copies: the same function with hidden neurons permuted. What is said of them goes back by id (``leaderboard.plain``).

===============  ==============================================================================================================
``.npz`` array   meaning
===============  ==============================================================================================================
``ids``          text [networks]: name of each network
``values``       float32 [values]: all parameters, one network after the other
``scrambled``    float32 [copies, values]: the same of the copies
``value_ptr``    int64 [networks + 1]: network i has values[value_ptr[i]:value_ptr[i + 1]]; of one structure, whose networks
                 have equally many, ``values.reshape(len(ids), -1)`` is a matrix
``topology``     int64 [networks]: position of its topology in the two following arrays
``topologies``   text: JSON of each topology
``slots``        text: JSON of each topology's slots: what stands where in a network's values, a list of objects with
                 ``parameter`` (state-dict path), ``start``, ``stop`` and ``shape``; (nodes,) or (targets, sources, kernel)
``about``        text: JSON of what is asked: zoo, zoo_version, zoo_sha256, task, task_version, split, target, salts
===============  ==============================================================================================================

A ``.parquet`` file has a row for each network and copy: ``id``, ``copy`` (0 for the network as it is), ``topology`` and
``values``; its schema's metadata have ``about``, ``topologies`` and ``slots`` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import ConfigError
from ngbench.evaluation.exam import check_zoo, orbit_salt
from ngbench.evaluation.networks import networks_of
from ngbench.graph import Topology
from ngbench.loading import GraphDataset
from ngbench.store import Zoo
from ngbench.store.atomic_file import atomic_file
from ngbench.tasks import Task

ENDINGS = (".npz", ".parquet")


@dataclass(frozen=True)
class PlainNetworks:
    """Networks and their scrambled copies as arrays, as the table of this module has them."""

    ids: np.ndarray
    value_ptr: np.ndarray
    values: np.ndarray
    scrambled: np.ndarray
    topology: np.ndarray
    topologies: tuple[Topology, ...]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, task: Task, zoo: Zoo) -> PlainNetworks:
        """The test networks of a task, about one target and split.

        Raises:
            ConfigError: The task asks about pairs of networks.
            SplitError: The zoo has no such split or target.
        """
        if task.kind == "merging":
            raise ConfigError(
                f"task {task.name!r} asks which neurons of two networks correspond, which plain files cannot say; expected "
                "generalization, classification or retrieval"
            )
        check_zoo(task, zoo)
        networks = networks_of(task, zoo, zoo.split("test", name=task.split))
        salts = [orbit_salt(copy) for copy in range(task.num_scrambled)]
        topologies, topology = _topologies(networks)
        value_ptr, values = _flat(networks)
        about = {"zoo": zoo.name, "zoo_version": str(zoo.version), "zoo_sha256": zoo.sha256, "task": task.name}
        about |= {"task_version": task.version, "split": task.split, "target": task.target, "salts": salts}
        scrambled = np.stack([_flat(networks.scrambled(salt=salt))[1] for salt in salts])
        return cls(np.array(networks.ids), value_ptr, values, scrambled, topology, topologies, about)

    def save(self, path: Path) -> Path:
        """Writes an ``.npz`` or a ``.parquet`` file, by the ending, whole or not at all.

        Raises:
            ConfigError: The path ends otherwise.
            StoreWriteError: It cannot be written.
        """
        if path.suffix not in ENDINGS:
            raise ConfigError(f"file {str(path)!r} ends in {path.suffix!r}; expected {' or '.join(ENDINGS)}")
        texts = {
            "about": json.dumps(self.about),
            "topologies": json.dumps({topology.digest: topology.to_json() for topology in self.topologies}),
            "slots": json.dumps({topology.digest: _slots(topology) for topology in self.topologies}),
        }
        with atomic_file(path) as file:
            if path.suffix == ".npz":
                lists = {"topologies": [t.to_json() for t in self.topologies]}
                lists["slots"] = [json.dumps(_slots(t)) for t in self.topologies]
                arrays = {name: getattr(self, name) for name in ("ids", "value_ptr", "values", "scrambled", "topology")}
                arrays |= {name: np.array(entries) for name, entries in lists.items()}
                np.savez_compressed(file, **arrays, about=np.array(texts["about"]))
            else:
                self._write_parquet(file, texts)
        return path

    def _write_parquet(self, file: Any, texts: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [("id", pa.string()), ("copy", pa.int64()), ("topology", pa.string()), ("values", pa.list_(pa.float32()))]
        schema = pa.schema(fields, metadata=dict(texts))
        digests = np.array([topology.digest for topology in self.topologies])[self.topology]
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for copy, values in enumerate((self.values, *self.scrambled)):
                # offsets of 64 bits would be another type than those that all readers know
                rows = [values[start:stop] for start, stop in self._bounds()]
                columns = [self.ids, np.full(len(self.ids), copy), digests, rows]
                arrays = [pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

    def _bounds(self) -> Iterator[tuple[int, int]]:
        return zip(self.value_ptr[:-1].tolist(), self.value_ptr[1:].tolist(), strict=True)


def _topologies(networks: GraphDataset) -> tuple[tuple[Topology, ...], np.ndarray]:
    """The topologies of networks, and the position of that of each, int64 ``[graphs]``."""
    found: list[Topology] = []
    place = np.empty(len(networks), dtype=np.int64)
    for bundle in networks.bundles:
        place[bundle.index.numpy()] = bundle.variant.numpy() + len(found)
        found += bundle.variants
    used, place = np.unique(place, return_inverse=True)
    return tuple(found[number] for number in used), place


def _flat(networks: GraphDataset) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of each network begin, int64 ``[graphs + 1]``, and all values, float32 ``[values]``."""
    lengths = np.empty(len(networks), dtype=np.int64)
    for bundle in networks.bundles:
        lengths[bundle.index.numpy()] = bundle.values.shape[1]
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.empty(ptr[-1], dtype=np.float32)
    for bundle in networks.bundles:
        flat[ptr[bundle.index.numpy()][:, None] + np.arange(bundle.values.shape[1])] = bundle.values.numpy()
    return ptr, flat


def _slots(topology: Topology) -> list[dict[str, Any]]:
    return [{"parameter": s.parameter.path, "start": s.start, "stop": s.stop, "shape": s.shape} for s in topology.slots]
