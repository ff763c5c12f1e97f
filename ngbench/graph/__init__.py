"""Networks as graphs: takes a torch module or value rows, gives a `NeuralGraph` on a `Topology`, and back.

Knows layers and their symmetry; does not know zoos, files or tasks.
"""

from ngbench.graph import symmetry
from ngbench.graph.neural_graph import NeuralGraph, restore
from ngbench.graph.program import Program
from ngbench.graph.topology import EdgeBlock, Index, NodeFeature, NodeGroup, ParameterView, Topology
from ngbench.graph.trace import trace, trace_program

__all__ = [
    "EdgeBlock",
    "Index",
    "NeuralGraph",
    "NodeFeature",
    "NodeGroup",
    "ParameterView",
    "Program",
    "Topology",
    "restore",
    "symmetry",
    "trace",
    "trace_program",
]
