"""The tables of `ngbench audit` in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from ngbench.cli.screen import console, seconds, table
from ngbench.evaluation.audit import MethodAudit
from ngbench.evaluation.audit.record import CLEAR, EXACT, SLIGHT, ZooAudit
from ngbench.evaluation.audit.table import HEADINGS, TOPOLOGY_HEADINGS, rows, share

COLOURS = {
    "yes": "green",
    "no": "red",
    **dict.fromkeys(("nearly", "predictions only", "some", "kernels only", "weakly", "not learned"), "yellow"),
}


def print_audits(audits: Sequence[MethodAudit]) -> None:
    """Prints what was measured of each method, and all verdicts side by side at the end."""
    screen = console()
    for audit in audits:
        screen.print()
        screen.print(f"[bold]{escape(audit.method)}[/bold]: {escape(audit.title)}, reads {audit.access}")
        for zoo in audit.zoos:
            _print_zoo(screen, zoo)
        _print_acceptances(screen, audit)
    if audits:
        _print_verdicts(screen, audits)


def _print_zoo(screen: Console, zoo: ZooAudit) -> None:
    screen.print()
    if zoo.refusal is not None:
        screen.print(f"{zoo.zoo} v{zoo.zoo_version}: [red]refused[/red], {escape(zoo.refusal)}", soft_wrap=True)
        return
    title = (
        f"{zoo.zoo} v{zoo.zoo_version}: {zoo.num_networks} test networks after a fit on {zoo.num_fit}, {seconds(zoo.duration_s)}"
    )
    parts = list(dict.fromkeys(m.part for m in zoo.movements))
    made = table("acted on by", "networks", "function moves", "values", *(f"{part} move" for part in parts), title=title)
    shares = {(m.kind, m.size, m.dtype, m.part): f"{share(m.median)} … {share(m.largest)}" for m in zoo.movements}
    for proof in zoo.proofs:
        for number, dtype in enumerate(("float32", "float64")):
            own = [shares.get((proof.kind, proof.size, dtype, part), "—") for part in parts]
            head = (f"{proof.kind}, {proof.size}", str(proof.num_networks), share(proof.largest_difference))
            made.add_row(*(("", "", "") if number else head), dtype, *own)
    screen.print(made)
    screen.print(
        "[dim]function: largest difference of an output relative to the largest output, networks run in float64; "
        "the rest: median … largest over networks, as shares of the spread over networks[/dim]",
        soft_wrap=True,
    )
    if zoo.absent:
        screen.print(f"— none of these networks has elements of: {'; '.join(zoo.absent)}", soft_wrap=True)
    for part, refusal in zoo.part_refusals.items():
        screen.print(f"— no {part}: {escape(refusal)}", soft_wrap=True)
    _print_shuffles(screen, zoo)


def _print_shuffles(screen: Console, zoo: ZooAudit) -> None:
    if not zoo.shuffles:
        return
    parts = list(zoo.shuffles[0].distances)
    made = table("shuffled in each layer", "told apart, AUC", "chance up to", *(f"distance of {part}" for part in parts))
    for shuffle in zoo.shuffles:
        found = "—" if shuffle.auc is None else f"{shuffle.auc:.3f}"
        made.add_row(
            shuffle.unit, found, f"{shuffle.chance_auc:.3f}", *(f"{share(shuffle.distances.get(part))}" for part in parts)
        )
    screen.print()
    screen.print(made)
    first = zoo.shuffles[0]
    screen.print(
        f"[dim]AUC on {first.num_test} unseen networks and their shuffles after a fit on {first.num_train}; "
        "distance: to its shuffle, as a share of that between two networks[/dim]",
        soft_wrap=True,
    )
    for shuffle in zoo.shuffles:
        if shuffle.refusal is not None:
            screen.print(f"— {shuffle.unit}: {escape(shuffle.refusal)}", soft_wrap=True)


def _print_acceptances(screen: Console, audit: MethodAudit) -> None:
    screen.print()
    made = table("fitted on", "asked for", "networks", "outcome", numbers_from=2)
    made.columns[-1].justify = "left"
    for a in audit.acceptances:
        colour = {"accepted": "green", "refused": "yellow", "failed": "red"}[a.outcome]
        kind = "" if a.error is None else f" in {a.stage}: {a.error.partition(':')[0]}"
        made.add_row(a.fitted_on, a.asked, str(a.num_networks), f"[{colour}]{a.outcome}[/{colour}]{kind}")
    screen.print(made)
    for error, count in Counter(a.error for a in audit.acceptances if a.error is not None).items():
        screen.print(f"— {count} times {escape(error)}", soft_wrap=True)


def _print_verdicts(screen: Console, audits: Sequence[MethodAudit]) -> None:
    screen.print()
    made = table(*HEADINGS, *TOPOLOGY_HEADINGS)
    for row in rows(audits):
        made.add_row(row[0], *(f"[{COLOURS[cell]}]{cell}[/{COLOURS[cell]}]" if cell in COLOURS else cell for cell in row[1:]))
    screen.print(made)
    kinds = {m.kind for audit in audits for zoo in audit.zoos for m in zoo.movements} - {"permutation"}
    for kind in sorted(kinds):
        words = ", ".join(f"{audit.method} {audit.still(kind)}" for audit in audits)
        screen.print(f"unmoved by {kind}s? {escape(words)}", soft_wrap=True)
    screen.print(
        f"[dim]equivariant: nothing moves by more than {EXACT:g} of its spread (nearly: {SLIGHT:g}); "
        f"captures topology: AUC from {CLEAR:g} on shuffled edges (kernels only: on shuffled weights; weakly: above chance; "
        "not learned: at chance after this short fit; no: outputs are the same)[/dim]",
        soft_wrap=True,
    )
