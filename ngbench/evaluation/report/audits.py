"""The section of an audit: verdicts, what methods declare and the measurements deny, and how far predictions move."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ngbench.evaluation.audit import Audit, MethodAudit
from ngbench.evaluation.audit.record import CLEAR, EXACT, SLIGHT
from ngbench.evaluation.audit.table import HEADINGS, TOPOLOGY_HEADINGS, rows, share
from ngbench.evaluation.report.blocks import Cell, Pictures, Section, Sentences, Table
from ngbench.evaluation.report.chart import SHAPES, Axis, Chart, Mark, Plot

_LEAST_POWER = -9
"""Movements below this power of ten are drawn there: rounding of float64 and none at all look alike."""

_PARTS = {"predictions": "predictions", "embeddings": "embeddings", "nodes": "node embeddings"}


def audit_section(path: Path, audit: Audit) -> Section:
    """What an audit measured.

    Args:
        path: Where it was read.
        audit: The record.
    """
    words = tuple(sentence for method in audit.methods for sentence in method.contradictions)
    blocks = [
        _verdicts(audit),
        Sentences("What methods declare and measurements deny", words or ("Nothing.",)),
        Pictures("How far outputs move when neurons are permuted", (_movements(audit.methods),)),
        _proofs(audit),
    ]
    lead = (
        "Methods asked about trained networks and about equivalent ones: the group of exact symmetries acts on the networks, "
        f"whose functions are first shown to stay. From {path.name}, {audit.created[:10]}, {audit.environment.device}."
    )
    return Section("Audit", lead, tuple(blocks))


def _verdicts(audit: Audit) -> Table:
    found = [tuple(map(Cell, row)) for row in rows(audit.methods)]
    note = (
        f"Equivariant: nothing moves by more than {EXACT:g} of its spread over networks (nearly: {SLIGHT:g}). Captures topology: "
        f"tells networks from copies with shuffled edges with an AUC from {CLEAR:g} (weakly: above "
        "chance; kernels only: with shuffled weights; not learned: at chance after a short fit; no: outputs are equal)."
    )
    return Table("Verdicts", (*HEADINGS, *TOPOLOGY_HEADINGS), {"": found}, note)


def _movements(methods: tuple[MethodAudit, ...]) -> Chart:
    """The largest movement of each part of each method, on a logarithmic axis."""
    least = 10.0**_LEAST_POWER
    found = {part: [method.largest("permutation", part) for method in methods] for part in _PARTS}
    largest = max((value for values in found.values() for value in values if value is not None), default=1.0)
    x = Axis.powers("largest movement, share of spread", _LEAST_POWER, max(1, int(np.ceil(np.log10(max(largest, least))))))
    plot = Plot(x, Axis.names([method.method for method in methods]), height=50 + 24 * len(methods), left=136)
    ends, limits = np.array([plot.y.low, plot.y.high]), (EXACT, SLIGHT)
    label = f"limits {EXACT:g} and {SLIGHT:g}"
    marks = [Mark(plot.line(np.array([limit, limit]), ends), "guide", label) for limit in limits]
    for place, (part, values) in enumerate(found.items()):
        places = np.array([max(value, least) for value in values if value is not None])
        heights = np.array([0.2 * (1 - place) - row for row, value in enumerate(values) if value is not None])
        if len(places):
            shape = list(SHAPES)[place]
            marks.append(Mark(plot.dots(places, heights, shape=shape), "dots", _PARTS[part], place, shape))
    return Chart("Largest movement", plot, tuple(marks), f"Movements below {least:g}, none among them, stand at the left end.")


def _proofs(audit: Audit) -> Table:
    """That functions stayed, once for each zoo and size of an element: the same networks for every method."""
    found = {
        (zoo.zoo, proof.kind, proof.size): (proof.num_networks, proof.largest_difference)
        for method in audit.methods
        for zoo in method.zoos
        for proof in zoo.proofs
    }
    parts: dict[str, list[tuple[Cell, ...]]] = {}
    for (zoo, kind, size), (count, difference) in found.items():
        parts.setdefault(zoo, []).append((Cell(f"{kind}, {size}"), Cell(f"{count:,}"), Cell(share(difference))))
    note = "Networks run in float64; the largest difference of an output relative to the network's largest."
    return Table("Proof that functions stay", ("acted on by", "networks", "function moves"), parts, note)
