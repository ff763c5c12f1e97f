"""A topology in an HDF5 group: its JSON, from which it is read back, and plain tables of nodes and edges for other languages."""

from __future__ import annotations

import math

import h5py
import numpy as np
import torch

from ngbench.errors import GraphError, StoreFormatError
from ngbench.graph import NeuralGraph, Topology
from ngbench.graph.neural_graph import edge_index
from ngbench.store.arrays import TEXT, find_dataset, write_array


def write_topology(file: h5py.File, topology: Topology) -> None:
    """Writes a topology under its digest."""
    folder = f"topologies/{topology.digest}"
    text = topology.to_json().encode()
    file.create_dataset(f"{folder}/json", data=np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)), track_times=False)
    features = sorted({feature.name for group in topology.groups for feature in group.features})
    file[folder].attrs["features"] = ",".join(features)
    write_array(file, f"{folder}/node_group", _positions_repeated([group.size for group in topology.groups]))
    # A graph whose values are their own positions in the value row, so that tied parameters need no case of their own.
    positions = NeuralGraph.from_row(topology, torch.arange(topology.num_values))
    write_array(file, f"{folder}/node_value", _node_values(positions, features))
    write_array(file, f"{folder}/edge_index", edge_index(topology).numpy().astype("<i4"))
    places = [_edge_values(positions, block.name) for block in topology.blocks]
    write_array(file, f"{folder}/edge_block", _positions_repeated([len(part) for part in places]))
    write_array(file, f"{folder}/edge_value", np.concatenate(places))


def _node_values(positions: NeuralGraph, features: list[str]) -> np.ndarray:
    """Position in the value row of each node's features, int64 ``[nodes, features]``; -1 where a node lacks one."""
    topology = positions.topology
    places = np.full((topology.num_nodes, len(features)), -1, dtype="<i8")
    for group in topology.groups:
        first = topology.node_ptr[group.name]
        for feature in group.features:
            places[first : first + group.size, features.index(feature.name)] = positions.node_feature(group.name, feature.name)
    return places


def _edge_values(positions: NeuralGraph, block: str) -> np.ndarray:
    """Position in the value row of the first number of each edge of a block, int64 ``[edges]``; -1 in a structural block."""
    if positions.topology.edge_block(block).parameter is None:
        return np.full(math.prod(positions.topology.block_shape(block)[:2]), -1, dtype="<i8")
    return positions.block(block)[:, :, 0].flatten().numpy().astype("<i8")


def _positions_repeated(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts), dtype="<i4"), counts)


def read_topology(file: h5py.File, digest: str) -> Topology:
    """Reads the topology of a digest.

    Raises:
        StoreFormatError: There is none, or it is not the one of that digest.
    """
    path = f"topologies/{digest}/json"
    try:
        topology = Topology.from_json(find_dataset(file, path, dtype=TEXT, shape=())[()].decode())
    except GraphError as error:
        raise StoreFormatError(f"{file.filename!r}: '/{path}' holds no topology ({error}); fetch the file again") from error
    if topology.digest != digest:
        raise StoreFormatError(
            f"{file.filename!r}: '/{path}' has digest {topology.digest}; expected {digest}; fetch the file again"
        )
    return topology
