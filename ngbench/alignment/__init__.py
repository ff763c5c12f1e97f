"""Two networks brought together: takes graphs and node embeddings or gains, gives a `GroupElement`, and networks in between.

Knows the symmetry group, losses along a line, statistics and transport; does not know tasks, methods or how they are scored.
"""

from ngbench.alignment.average import mean_of, merge, merge_many
from ngbench.alignment.interpolate import NUM_POINTS, Curves, LabelledImages, curves, line, scores
from ngbench.alignment.matching import assign, match
from ngbench.alignment.statistics import Moments, reestimated
from ngbench.alignment.transport import outgoing_masses, transport

__all__ = [
    "NUM_POINTS",
    "Curves",
    "LabelledImages",
    "Moments",
    "assign",
    "curves",
    "line",
    "match",
    "mean_of",
    "merge",
    "merge_many",
    "outgoing_masses",
    "reestimated",
    "scores",
    "transport",
]
