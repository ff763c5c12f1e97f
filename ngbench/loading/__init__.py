"""From a zoo to what a method reads: takes a zoo and rows, gives a `GraphDataset` and its `GraphBatch`es.

Knows structures, normalisation, the orbit, and what runs networks on inputs; does not know tasks' metrics or methods.
"""

from ngbench.loading.batch import GraphBatch, GraphBundle
from ngbench.loading.dataset import GraphDataset
from ngbench.loading.normalize import Normalization
from ngbench.loading.probes import KnownPrograms, Programs, ZooPrograms
from ngbench.loading.stored import StoredValues

__all__ = [
    "GraphBatch",
    "GraphBundle",
    "GraphDataset",
    "KnownPrograms",
    "Normalization",
    "Programs",
    "StoredValues",
    "ZooPrograms",
]
