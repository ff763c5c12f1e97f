"""The table of the literature, "equivariant? cross-architecture? captures topology?", filled with measurements, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ngbench.evaluation.audit.record import MethodAudit

HEADINGS = ("method", "equivariant?", "predictions move", "embeddings move", "nodes move", "cross-architecture?", "accepted")
TOPOLOGY_HEADINGS = ("captures topology?", "AUC, edges shuffled", "AUC, weights shuffled")


def rows(audits: Sequence[MethodAudit]) -> list[tuple[str, ...]]:
    """The cells of each method, under `HEADINGS` and `TOPOLOGY_HEADINGS`."""
    return [_row(audit) for audit in audits]


def markdown_table(audits: Sequence[MethodAudit]) -> str:
    """The table, its lines ended by newlines."""
    headings = (*HEADINGS, *TOPOLOGY_HEADINGS)
    lines = [headings, ("---",) * len(headings), *(("`" + row[0] + "`", *row[1:]) for row in rows(audits))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def share(value: float | None) -> str:
    """A movement as a share of the spread; an em dash where there is none."""
    if value is None:
        return "—"
    return "0" if value == 0 else f"{value:.0e}" if value < 1e-3 else f"{value:.2g}"


def _row(audit: MethodAudit) -> tuple[str, ...]:
    accepted = sum(acceptance.outcome == "accepted" for acceptance in audit.acceptances)
    moved = [share(audit.largest("permutation", part)) for part in ("predictions", "embeddings", "nodes")]
    topology = [_auc(audit, unit) for unit in ("edges", "weights")]
    count = f"{accepted} of {len(audit.acceptances)}"
    return (audit.method, audit.equivariant, *moved, audit.cross_architecture, count, audit.captures_topology, *topology)


def _auc(audit: MethodAudit, unit: str) -> str:
    found = [s.auc for zoo in audit.zoos for s in zoo.shuffles if s.unit == unit and s.auc is not None]
    return f"{max(found):.2f}" if found else "—"
