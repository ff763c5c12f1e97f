"""Two networks brought together: takes graphs and node embeddings or gains, gives a `GroupElement`, and networks in between.

Knows the symmetry group, losses along a line, statistics and transport; does not know tasks, methods or how they are scored.
"""

from ngbench.alignment.interpolate import Curves, LabelledImages, curves, line, points, scores
from ngbench.alignment.matching import assign, match
from ngbench.alignment.statistics import Moments, reestimated
from ngbench.alignment.transport import differ_in_widths, outgoing_masses, plans, spread, transport, widths

__all__ = [
    "Curves",
    "LabelledImages",
    "Moments",
    "assign",
    "curves",
    "differ_in_widths",
    "line",
    "match",
    "outgoing_masses",
    "plans",
    "points",
    "reestimated",
    "scores",
    "spread",
    "transport",
    "widths",
]
