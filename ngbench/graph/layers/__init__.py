"""One rule for each kind of operation: what groups and blocks it adds to the graph, and what its result's axes run over."""

from ngbench.graph.layers import attention, dense, experts, indexing, normalization, pointwise, recurrent, shapes
from ngbench.graph.layers.apply import apply
from ngbench.graph.layers.rule import supported

__all__ = ["apply", "attention", "dense", "experts", "indexing", "normalization", "pointwise", "recurrent", "shapes", "supported"]
