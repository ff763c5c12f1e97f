"""``ngbench run`` and ``ngbench evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngbench.cli.options import executor_option
from ngbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ngbench.cluster import Executor
    from ngbench.evaluation import Result
    from ngbench.evaluation.result import IntervalRecord, Spread
    from ngbench.tasks import Task

INTERRUPTED = 130

LISTED = 7
"""Metrics of a table at most; where a terminal has no room for them the first ones, and the result file has all."""


class SeedList(click.ParamType):
    """How many seeds, counted from 0, as ``3``; or which, as ``0,1,2`` or ``0-4``, or ``5-5`` for one."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Reads the text; click reports what is wrong."""
        if not isinstance(value, str):
            return tuple(value)  # type: ignore[arg-type]
        try:
            if value.isdecimal() and int(value) > 0:
                return tuple(range(int(value)))
            parts = [part.split("-") for part in value.split(",") if part and not value.isdecimal()]
            seeds = tuple(seed for part in parts for seed in range(int(part[0]), int(part[-1]) + 1))
        except ValueError:
            seeds = ()
        expected = "expected a number such as 3, or a list such as 0,1,2 or 0-4, or 5-5 for one"
        return seeds or self.fail(f"{value!r} is no number of seeds and no list of them; {expected}", param, ctx)


@click.command()
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Registered name, or package.module:Class. Repeat to compare several.",
)
@click.option("--task", default=None, help="Name of the task.  [default: generalization]")
@click.option("--zoo", default=None, help="Released zoo or path of a zoo file.  [default: the task's own]")
@click.option(
    "--split", default=None, help="Split of the zoo, such as one that tests on wider networks.  [default: the task's own]"
)
@click.option("--target", default=None, help="Column that is asked about, such as optimizer.  [default: the first of the task]")
@click.option(
    "--seeds",
    type=SeedList(),
    default="1",
    help="How many (3 is 0, 1 and 2), or which: 0,1,2 or 0-4; one alone as 5-5.  [default: 1, which is seed 0]",
)
@click.option("--suite", "suite_name", default=None, help="Every method on every task and zoo of a suite, such as digits.")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Cells of a suite at once.  [default: one a core]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method. Repeat for several.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder under which results are kept."
)
@click.option("--device", default=None, help="Torch device.  [default: cuda where there is one, else cpu]")
@executor_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else, on standard output.")
def run(
    methods: Sequence[str],
    task: str | None,
    zoo: str | None,
    split: str | None,
    target: str | None,
    seeds: Sequence[int],
    suite_name: str | None,
    jobs: int | None,
    settings: Sequence[str],
    out: Path,
    device: str | None,
    executor: Executor,
    as_json: bool,
) -> None:
    """Fit and score methods on a task, beside its trivial baselines.

    What was finished before with the same code and settings is not run again; what was interrupted goes on.

    \b
    ngbench run --method ng-gnn --task classification --zoo digits-park
    ngbench run --suite digits --seeds 3    every method on every task
    """  # noqa: D301 - click reads the character
    import sys

    # A method of one's own is named by a path from the current folder.
    sys.path.insert(0, str(Path.cwd()))
    check_folder("--out", out)
    if suite_name is not None:
        given = {"--task": task, "--zoo": zoo, "--split": split, "--target": target, "--set": settings or None}
        _run_suite(suite_name, methods, seeds, jobs, out=out, device=device, executor=executor, as_json=as_json, given=given)
        return
    for option, is_given in (("--jobs", jobs is not None), ("--executor ray", executor == "ray")):
        if is_given:
            raise ConfigError(f"{option} is given without --suite, whose cells alone run side by side; leave it out")
    if not methods:
        raise ConfigError("no method is named; expected --method ng-gnn or the like, or --suite digits for all of them")
    from ngbench.cli.screen import progress_stages
    from ngbench.evaluation import run_beside_baselines

    found: dict[str, Result] = {}
    missing: dict[str, str] = {}
    try:
        with progress_stages(quiet=as_json) as stages:
            for method in methods:
                comparison = run_beside_baselines(
                    method,
                    task or "generalization",
                    zoo,
                    seeds,
                    split=split,
                    target=target,
                    settings=parse_settings(settings),
                    out=out,
                    device=device,
                    stages=stages,
                )
                missing |= comparison.missing
                found.update(
                    (result.method, result)
                    for result in reversed(comparison.results)
                    if result.method not in methods or result.method == method
                )
    except KeyboardInterrupt:
        click.secho(f"interrupted: what is finished is kept in {out}; the same command goes on from there", err=True, fg="yellow")
        raise click.exceptions.Exit(INTERRUPTED) from None
    _show(found, methods, zoo, parse_settings(settings), missing=missing, out=out, as_json=as_json)


def _run_suite(
    name: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    jobs: int | None,
    *,
    out: Path,
    device: str | None,
    executor: Executor,
    as_json: bool,
    given: Mapping[str, object],
) -> None:
    """Runs a suite under a live overview and prints its tables; exits with 1 where a cell failed."""
    import os

    from ngbench.cli.overview import live_overview
    from ngbench.cli.screen import console, progress_stages
    from ngbench.evaluation.protocol import checked_device
    from ngbench.evaluation.suite.cells import Suite
    from ngbench.evaluation.suite.running import Runner
    from ngbench.evaluation.tables import as_markdown, questions, write_tables

    extra = [option for option, value in given.items() if value is not None]
    if extra:
        own = "runs its methods as they are tuned" if extra == ["--set"] else "names its own tasks and zoos"
        raise ConfigError(f"{', '.join(extra)} cannot be given beside --suite, which {own}; leave it out")
    if jobs is not None and executor == "ray":
        raise ConfigError("--jobs is given beside --executor ray, whose cluster says how many cells run at once; leave it out")
    # of a cluster this machine may be the one without a GPU
    placed = device if executor == "ray" and device is not None else checked_device(device)
    cells = Suite.load(name).cells(seeds, methods=methods, out=str(out), device=placed)
    try:
        with live_overview(cells, quiet=as_json) as overview:
            states = Runner(cells, jobs or os.cpu_count() or 1, overview, executor).run()
    except KeyboardInterrupt:
        click.secho(f"interrupted: what is finished is kept in {out}; the same command goes on from there", err=True, fg="yellow")
        raise click.exceptions.Exit(INTERRUPTED) from None
    with progress_stages(quiet=as_json) as stages:
        tables = questions(states, stages("tables"))
    path = write_tables(tables, out, name)
    if as_json:
        rows = [{**s.cell.model_dump(), "status": s.status, "reason": s.reason} for s in states]
        click.echo(json.dumps({"cells": rows, "tables": str(path)}, indent=2))
    else:
        click.echo(as_markdown(tables))
        console().print(f"tables   {path}", soft_wrap=True)
    if any(state.status == "failed" for state in states):
        raise click.exceptions.Exit(1)


def check_folder(option: str, path: Path) -> None:
    """Whether a folder exists, or can be made, and files can be written into it.

    Raises:
        ConfigError: It cannot.
    """
    import tempfile

    place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    try:
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        raise ConfigError(
            f"{option} {path} cannot be written to, since {place} takes no new folder ({error.strerror}); expected a folder that "
            "you may write to, or one that can be made"
        ) from error


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Settings typed as ``KEY=VALUE``.

    Raises:
        ConfigError: One has no value.
    """
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"setting {key!r} has no value; expected KEY=VALUE such as num_layers=4")
    return {key: value for key, _, value in pairs}


def _show(
    found: dict[str, Result],
    methods: Sequence[str],
    zoo_name: str | None,
    settings: dict[str, str],
    *,
    missing: Mapping[str, str],
    out: Path,
    as_json: bool,
) -> None:
    from ngbench.evaluation import Result, run_folder
    from ngbench.evaluation.plots import draw_predictions
    from ngbench.store import open_zoo
    from ngbench.tasks import TASKS

    first = next(iter(found.values()))
    zoo = open_zoo(zoo_name or TASKS[first.task].default_zoo)
    task = TASKS[first.task].asked(zoo.name, split=first.split, target=first.target)
    folders = {name: run_folder(out, task, zoo, name, settings if name in methods else {}) for name in found}
    drawn = {name: draw_predictions(found[name], zoo, folders[name]) for name in methods}
    pictures = {name: path for name, path in drawn.items() if path is not None}
    if as_json:
        rows = [{**json.loads(found[name].model_dump_json()), "folder": str(folders[name])} for name in found]
        drawn_at = {name: str(path) for name, path in pictures.items()}
        click.echo(json.dumps({"results": rows, "missing": dict(missing), "pictures": drawn_at}, indent=2))
        return
    from ngbench.cli.screen import console

    screen = console()
    results = list(found.values())
    screen.print()
    if not first.is_scored:
        _show_unscored(results, folders)
        return
    made, listed = score_table(results, screen)
    screen.print(made)
    names = ", ".join(_sign(name) for name in listed)
    left = len(task.metrics) - len(listed)
    moves = "; shift: how far answers then move" if any(result.mean_shift is not None for result in results) else ""
    more = f"; {left} more in result.json" if left else ""
    worst = f", the worst of {task.num_scrambled}" if task.num_scrambled > 1 else ""
    legend = f"{names}; scrambled: hidden neurons permuted{worst}{moves}{more}"
    screen.print(f"[dim]{legend}[/dim]", soft_wrap=True)
    if task.caveat is not None:
        screen.print(task.caveat, soft_wrap=True)
    for name, reason in missing.items():
        screen.print(f"{name}: — {reason}", soft_wrap=True, markup=False)
    _print_notes(task, results)
    screen.print()
    screen.print(cost_table(results))
    for name in methods:
        screen.print()
        for other, difference in found[name].differences.items():
            screen.print(
                f"{name} − {other}: {_sign(found[name].primary)} {_interval(difference, signed=True)}, paired over networks",
                soft_wrap=True,
            )
        if name in pictures:
            screen.print(f"picture  {pictures[name]}", soft_wrap=True)
        kept = Result.load(folders[name])
        more = "" if len(kept.seeds) == len(found[name].seeds) else f", which keeps all {len(kept.seeds)} seeds"
        screen.print(f"results  {folders[name] / 'result.json'}{more}", soft_wrap=True)


def _show_unscored(results: Sequence[Result], folders: Mapping[str, Path]) -> None:
    """What can be said of runs whose answers the host of the zoo keeps."""
    from ngbench.cli.screen import console
    from ngbench.evaluation.tables import shown_shift

    screen, first = console(), results[0]
    asked = f"{first.task}{'' if first.target is None else f' of {first.target}'} on {first.zoo} v{first.zoo_version}"
    screen.print(
        f"{asked}: {first.seeds[0].num_test:,} test networks, whose answers the zoo withholds: its host scores", soft_wrap=True
    )
    screen.print()
    screen.print(cost_table(results))
    screen.print()
    for result in results:
        val = [seed.val_score for seed in result.seeds if seed.val_score is not None]
        known = [f"on the val split {sum(val) / len(val):.3f}"] if val else []
        known += [] if result.mean_shift is None else [f"shift {shown_shift(result.mean_shift)}"]
        screen.print(f"{short_name(result.method)}: {', '.join(known) or 'no score'}", soft_wrap=True)
        screen.print(f"predictions  {folders[result.method]}", soft_wrap=True)
    screen.print(f"to hand them in: ngbench submit {' '.join(str(folders[r.method]) for r in results)}", soft_wrap=True)


def _print_notes(task: Task, results: Sequence[Result]) -> None:
    """What sets results apart from the protocol, in a dim line."""
    from ngbench.cli.screen import console

    fewest = min(len(result.seeds) for result in results)
    if fewest < task.num_seeds:
        console().print(f"[dim]{fewest} of the {task.num_seeds} seeds that the protocol asks for[/dim]", soft_wrap=True)


def score_table(results: Sequence[Result], screen: Console) -> tuple[Table, list[str]]:
    """What each method scores, best first, by as many metrics as fit the screen, with the names of these."""
    from ngbench.cli.screen import fits
    from ngbench.tasks import TASKS

    listed = list(TASKS[results[0].task].metrics[:LISTED])
    while len(listed) > 1 and not fits(screen, _scores(results, listed)):
        listed.pop()
    return _scores(results, listed), listed


def _scores(results: Sequence[Result], listed: Sequence[str]) -> Table:
    """The table of some metrics, the primary one first; no number is cut."""
    from ngbench.cli.screen import table
    from ngbench.evaluation.tables import FOREIGN, is_foreign, shown_shift
    from ngbench.tasks import TASKS

    first = results[0]
    several, moves = len(first.seeds) > 1, any(result.mean_shift is not None for result in results)
    is_short = len(TASKS[first.task].metrics) <= 5
    heads = [_sign(name).split()[-1] if is_short else _sign(name) for name in listed]
    spread = "± std" if several or first.interval is None else f"[{first.interval.confidence:.0%}]"
    count = f"{len(first.seeds)} seeds" if several else f"seed {first.seeds[0].seed}"
    split = "" if first.split == "default" else f", {first.split}"
    target = "" if first.target is None else f" of {first.target}"
    asked = TASKS[first.task].asked(first.zoo, split=first.split, target=first.target)
    foreign = f" ({FOREIGN})" if is_foreign(asked, first.zoo) else ""
    asked_of = f"{first.task}{target} on {first.zoo} v{first.zoo_version}{split}{foreign}"
    title = f"{asked_of}: {first.seeds[0].num_test:,} test networks, {count}"
    made = table("method", f"{heads[0]} {spread}", "scrambled", *(["shift"] if moves else []), *heads[1:], title=title)
    for column in made.columns:
        column.no_wrap = True
    for result in _best_first(results):
        made.add_row(
            short_name(result.method),
            _spread(result.scores[result.primary]) if several or result.interval is None else _interval(result.interval),
            f"{result.scrambled_scores[result.primary].mean:z.3f}",
            *([shown_shift(result.mean_shift)] if moves else []),
            *(result.shown(name) for name in listed[1:]),
        )
    return made


def cost_table(results: Sequence[Result]) -> Table:
    """What each method reads and takes, in the same order."""
    from ngbench.cli.screen import seconds, table
    from ngbench.evaluation.tables import memory

    made = table("method", "reads", "parameters", "training", "prediction", "memory", numbers_from=2)
    for result in _best_first(results) if results[0].is_scored else results:
        seeds = result.seeds
        made.add_row(
            short_name(result.method),
            result.access,
            f"{seeds[0].num_parameters:,}" if seeds[0].num_parameters else "—",
            seconds(sum(seed.fit_s for seed in seeds) / len(seeds)),
            seconds(sum(seed.predict_s for seed in seeds) / len(seeds)),
            memory(result),
        )
    return made


def short_name(method: str) -> str:
    """A registered name as it is; of ``package.module:Class`` the class."""
    return method.rpartition(":")[2]


def _best_first(results: Sequence[Result]) -> list[Result]:
    from ngbench.metrics import facts_of

    return sorted(results, key=lambda r: r.scores[r.primary].mean, reverse=facts_of(results[0].primary).higher_is_better)


def _sign(metric: str) -> str:
    from ngbench.metrics import facts_of

    return facts_of(metric).title


def _spread(spread: Spread) -> str:
    return f"{spread.mean:z.3f}" + (f" ± {spread.std:.3f}" if spread.std is not None else "")


def _interval(interval: IntervalRecord, *, signed: bool = False) -> str:
    form = "+z.3f" if signed else "z.3f"
    return f"{interval.score:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--zoo", default=None, help="The zoo file of the run, where it is not a released one.")
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    default=None,
    help="Answer file of a sealed zoo, for its host, beside --zoo with the public file.",
)
def evaluate(folders: Sequence[Path], zoo: str | None, answers: Path | None) -> None:
    """Score the saved predictions of finished runs again, and compare with what their results say.

    FOLDERS are run folders, such as runs/generalization/digits-cnn-v1/ng-gnn. Exits with 1 if a number differs.
    """
    from ngbench.cli.screen import console
    from ngbench.evaluation import rescore
    from ngbench.evaluation.rescoring import numbers_of
    from ngbench.store import open_zoo

    if answers is not None and zoo is None:
        raise ConfigError(f"--answers {answers} is given without --zoo; expected the public zoo file that was made with it")
    screen, differing = console(), 0
    opened = open_zoo(zoo, answers=answers) if zoo else None
    for folder in folders:
        result, differences = rescore(folder, zoo=opened)
        if result.is_scored:
            screen.print(score_table([result], screen)[0])
        else:
            screen.print(f"zoo {result.zoo} withholds the answers: its host scores, with --answers", soft_wrap=True)
        if not differences:
            screen.print(f"[green]all {numbers_of(result)} numbers of {folder} follow from its files[/green]", soft_wrap=True)
        for difference in differences:
            numbers = f"stored {difference.stored!r}, scored again {difference.found!r}"
            seed = "all seeds" if difference.seed is None else f"seed {difference.seed}"
            screen.print(f"[red]{seed}, {difference.name}: {numbers}[/red]", soft_wrap=True)
        differing += len(differences)
    if differing:
        raise click.exceptions.Exit(1)
