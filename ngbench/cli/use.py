"""``ngbench predict``, ``ngbench search`` and ``ngbench merge``: what was fitted, on people's own networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ngbench.errors import ConfigError

if TYPE_CHECKING:
    from ngbench.evaluation.use import Answer, KeptRun, Merged
    from ngbench.evaluation.use.merge import Line

_PATH = click.Path(path_type=Path)
_RUN = click.option("--run", "run", type=_PATH, required=True, help="Folder of a run, or of one of its seeds.")
_METHOD = click.option(
    "--method", default=None, help="The run's package.module:Class, where its method is code of your own, which is then run."
)
_INPUT = click.option(
    "--input", "inputs", multiple=True, metavar="SHAPE", help="An example input, such as 1x3x32x32, as of `ngbench graph show`."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")


@click.command()
@_RUN
@click.argument("module", metavar="MODULE")
@click.argument("weights", nargs=-1, type=_PATH)
@click.option("--level", type=float, default=0.95, show_default=True, help="Share of networks that the interval should cover.")
@_METHOD
@_INPUT
@_JSON
def predict(
    run: Path, module: str, weights: Sequence[Path], level: float, method: str | None, inputs: Sequence[str], as_json: bool
) -> None:
    """Expected accuracy, or class, of your own networks.

    MODULE is package.module:factory, as of `ngbench graph show`; WEIGHTS are its state dicts, .pt or .safetensors, of which
    nothing but tensors is unpickled. Without WEIGHTS the module is taken as its factory makes it.

    The number is the mean over the seeds of the run. Its interval reaches as far to both sides as that mean was wrong for 95 %
    (--level) of the zoo's validation networks: split conformal prediction. It holds for networks that were trained as those of
    the zoo were. A network is said to be outside if its structure or an activation was never seen in training, or if a layer's
    root mean square or largest magnitude is more than 1.5 times above, or below, the middle 99 % of the training networks.

    \b
    ngbench run --method ng-gnn --seeds 3
    ngbench predict --run runs/generalization/digits-cnn-v1/ng-gnn \\
        my_package.models:small_cnn a.pt b.pt
    """  # noqa: D301 - click reads the character
    from ngbench.evaluation.use import OwnModule, open_run
    from ngbench.evaluation.use import predict as answers_of

    opened, own = open_run(run, method=method), OwnModule(module, inputs)
    graphs = [own.network(path) for path in weights or [None]]
    names = [str(path) for path in weights] or [module]
    answers = answers_of(opened, own, graphs, names=names, level=level)
    if as_json:
        about = {"method": opened.first.method, "target": opened.first.target, "zoo": opened.first.zoo}
        rows = [asdict(answer) for answer in answers]
        click.echo(json.dumps({**about, "seeds": len(opened.records), "level": level, "networks": rows}, indent=2))
    else:
        _print_answers(opened, answers, level)


def _print_answers(run: KeptRun, answers: Sequence[Answer], level: float) -> None:
    from ngbench.cli.screen import console, table

    screen, target = console(), (run.first.target or "").replace("_", " ")
    seeds = f"{len(run.records)} seed{'s' if len(run.records) > 1 else ''}"
    screen.print(f"{run.first.method} of {run.first.zoo}, {seeds}", soft_wrap=True)
    if run.first.kind == "regression":
        made = table("network", target, f"{level:.4g} interval", "std over seeds", "")
        for answer in answers:
            spread = "—" if answer.spread is None else f"{answer.spread:.3f}"
            made.add_row(answer.network, f"{answer.value:.3f}", f"{answer.low:.3f} to {answer.high:.3f}", spread, _sign(answer))
    else:
        made = table("network", target, "probability", "others", "")
        for answer in answers:
            first, *others = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
            rest = ", ".join(f"{name} {share:.2f}" for name, share in others[:4])
            made.add_row(answer.network, first[0], f"{first[1]:.2f}", rest, _sign(answer))
    screen.print(made)
    _print_objections([(answer.network, answer.objections) for answer in answers])


def _sign(answer: Answer) -> str:
    return "[yellow]outside[/yellow]" if answer.objections else ""


def _print_objections(found: Sequence[tuple[str, Sequence[str]]]) -> None:
    for name, objections in found:
        if objections:
            click.secho(
                f"warning: {name} is unlike the networks that the method was fitted on, so that what it says may be wrong by any "
                f"amount: {'; '.join(objections)}",
                err=True, fg="yellow",
            )  # fmt: skip


@click.command()
@_RUN
@click.argument("module", metavar="MODULE")
@click.argument("weights", required=False, type=_PATH)
@click.option("--zoo", default=None, help="Released zoo or path of a zoo file.  [default: that of the run]")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many networks.")
@_METHOD
@_INPUT
@_JSON
def search(
    run: Path,
    module: str,
    weights: Path | None,
    zoo: str | None,
    top: int,
    method: str | None,
    inputs: Sequence[str],
    as_json: bool,
) -> None:
    """The networks of a zoo that are nearest to your own.

    Nearest is the largest cosine of the run's embeddings, mean over its seeds. MODULE and WEIGHTS as of `ngbench predict`.

    \b
    ngbench search --run runs/retrieval/digits-park-v1/ng-gnn \\
        my_package.models:small_cnn a.pt --top 5
    """  # noqa: D301 - click reads the character
    from ngbench.evaluation.use import OwnModule, open_run
    from ngbench.evaluation.use import search as nearest
    from ngbench.store import open_zoo

    opened, own = open_run(run, method=method), OwnModule(module, inputs)
    graph, place = own.network(weights), open_zoo(zoo or opened.first.zoo)
    hits = nearest(opened, own, graph, zoo=place, top=top)
    objections = opened.domain.objections(graph)
    if as_json:
        found = [asdict(hit) for hit in hits]
        click.echo(json.dumps({"zoo": place.name, "objections": objections, "networks": found}, indent=2))
        return
    from ngbench.cli.screen import console, table

    known = [opened.first.target, "test_accuracy", "family", "corpus"]
    columns = [name for name in dict.fromkeys(known) if name in place.columns]
    made = table("network", "cosine", "part", *(column.replace("_", " ") for column in columns if column), numbers_from=1)
    for hit in hits:
        made.add_row(hit.id, f"{hit.similarity:.4f}", hit.part, *(_cell(hit.columns[column]) for column in columns if column))
    console().print(made)
    _print_objections([(str(weights or module), objections)])


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@click.command()
@click.argument("first", metavar="A", type=_PATH)
@click.argument("second", metavar="B", type=_PATH)
@click.option("--module", required=True, help="package.module:factory of the networks, as of `ngbench graph show`.")
@click.option("--module-b", default=None, help="That of B, where it is another one, of other widths.")
@click.option("--images", required=True, help="digits or another corpus, or the folder of a dataset of images with labels.")
@click.option("--out", type=_PATH, required=True, help="File of the merged state dict: .pt, .pth or .safetensors.")
@click.option(
    "--by", default=None,
    help="What matches neurons: weight-matching, activation-matching, or the folder of a run, of which the first seed does.  "
    "[default: weight-matching; activation-matching where widths differ]",
)  # fmt: skip
@click.option("--repair", is_flag=True, help="Estimate normalisation again: of batch norms, or of each unit.")
@click.option(
    "--mean", default=None, help="Taken from pixels, which lie in 0 to 1: one number, or one a channel, as 0.5,0.5,0.5."
)
@click.option("--std", default=None, help="What pixels are then divided by, likewise.")
@_METHOD
@_INPUT
@_JSON
def merge(
    first: Path,
    second: Path,
    module: str,
    module_b: str | None,
    images: str,
    out: Path,
    by: str | None,
    repair: bool,
    mean: str | None,
    std: str | None,
    method: str | None,
    inputs: Sequence[str],
    as_json: bool,
) -> None:
    """Merge two networks into the mean of their aligned weights.

    The neurons of B are brought to those of A first, which leaves what B computes as it is. Where B is of --module-b and has
    other widths, its neurons are spread over those of A by optimal transport, which changes what B computes. Loss and accuracy
    are those on images of a corpus that both networks were trained for, of which others, of the training part, are used for
    matching and --repair. The barrier is the largest loss between A and B above the straight line between both.

    \b
    ngbench merge a.pt b.pt --module my_package.models:mlp \\
        --images digits --out merged.pt
    ngbench merge a.pt b.pt --module my_package.models:mlp \\
        --module-b my_package.models:wide --images digits --out merged.pt
    """  # noqa: D301 - click reads the character
    from ngbench.evaluation.use import KeptRun, OwnModule, merge_networks, open_run, write_state_dict
    from ngbench.evaluation.use.images import OwnImages
    from ngbench.evaluation.use.networks import check_ending

    check_ending(out)
    if out.exists() and any(path.exists() and out.samefile(path) for path in (first, second)):
        raise ConfigError(f"--out is {out}, which is one of the networks to merge; expected another name")
    own = OwnModule(module, inputs)
    other = own if module_b is None else OwnModule(module_b, inputs)
    graphs = own.network(first), other.network(second)
    matcher = open_run(Path(by), method=method) if by is not None and Path(by).is_dir() else by
    given = OwnImages(images, _numbers("--mean", mean), _numbers("--std", std))
    found = merge_networks(own, *graphs, by=matcher, images=given, repair=repair, second_module=other)
    write_state_dict(found.entries, out)
    objections: dict[str, Sequence[str]] = {}
    if isinstance(matcher, KeptRun):
        objections = {str(path): matcher.domain.objections(graph) for path, graph in zip((first, second), graphs, strict=True)}
    if as_json:
        lines = {"before": found.before, "after": found.after, "repaired": found.repaired}
        fields = {name: None if line is None else asdict(line) for name, line in lines.items()}
        counts = {"moved": found.num_moved, "nodes": found.num_nodes}
        click.echo(json.dumps({**fields, **counts, "objections": objections, "out": str(out)}, indent=2))
    else:
        _print_merged(found, out)
        _print_objections(list(objections.items()))


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} is {text!r}; expected numbers such as 0.5 or 0.49,0.48,0.45") from None


def _print_merged(found: Merged, out: Path) -> None:
    from ngbench.cli.screen import console, table

    made = table("", "barrier", "accuracy of A", "half way", "of B", "loss of A", "half way", "of B")
    is_spread = found.num_moved is None
    after = "transported" if is_spread else "aligned"
    rows: list[tuple[str, Line | None]] = [("as they are", found.before), (after, found.after), ("repaired", found.repaired)]
    for name, line in rows:
        if line is not None:
            numbers = (line.barrier, *line.accuracies, *line.losses)
            made.add_row(name, *("—" if number is None else f"{number:.3f}" for number in numbers))
    screen = console()
    screen.print(made)
    told = "; A and B differ in width, so that nothing lies between them as they are" if is_spread else ""
    screen.print(f"[dim]loss and barrier in nats{told}[/dim]", soft_wrap=True)
    count = f"{found.num_nodes:,} neurons of B"
    screen.print(f"spread   {count} over those of A" if is_spread else f"moved    {found.num_moved:,} of {count}", soft_wrap=True)
    screen.print(f"written  {out}", soft_wrap=True)
