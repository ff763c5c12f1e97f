"""From a zoo to what a method reads: takes a zoo and rows, gives a `GraphDataset` and its `GraphBatch`es.

Knows structures, normalisation and the orbit; does not know tasks' metrics or methods.
"""

from ngbench.loading.batch import GraphBatch, GraphBundle
from ngbench.loading.dataset import GraphDataset
from ngbench.loading.normalize import Normalization

__all__ = ["GraphBatch", "GraphBundle", "GraphDataset", "Normalization"]
