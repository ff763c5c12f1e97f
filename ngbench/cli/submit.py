"""``ngbench submit`` and ``ngbench validate``: predictions on their way to the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ngbench.errors import ConfigError

if TYPE_CHECKING:
    from leaderboard.records import Record
    from ngbench.store import Zoo

_PATH = click.Path(path_type=Path)
_ZOO = click.option(
    "--zoo", "zoos", multiple=True, type=_PATH, help="Zoo file that answers are about, where it is not a released one. Repeat."
)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The .zip that is written.")
@click.option("--method", default=None, help="Whose runs are packed, where the folders hold several methods.")
@click.option("--about", type=_PATH, default=None, help="YAML or JSON file with the keys below; options go before it.")
@click.option("--title", default=None, help="Name of the method, as tables print it.  [default: the method's own]")
@click.option("--author", "authors", multiple=True, help="Name of an author. Repeat for several.")
@click.option("--paper", default=None, help="Citation or link of the paper.")
@click.option("--code", default=None, help="Link to the method's code.")
@click.option("--description", default=None, help="What the method does, in a sentence.")
@click.option(
    "--external-data/--no-external-data", default=None, help="Whether it learned from more than the networks of the zoo."
)
@_ZOO
def submit(
    runs: Sequence[Path],
    out: Path,
    method: str | None,
    about: Path | None,
    zoos: Sequence[Path],
    **keys: Any,
) -> None:
    """Pack the finished RUNS of one method into a .zip for the leaderboard, and validate it.

    RUNS are run folders or folders above some. The file holds the predictions of each task, zoo and seed, embeddings where the
    task is retrieval and matchings where it is merging. Track, parameters, seconds and hardware are taken from the runs.

    In place of runs one YAML file may stand that describes plain .npz or Parquet files, made without ngbench for networks that
    ngbench zoo export --test-inputs gives; leaderboard/plain.py has an example.

    \b
    ngbench run --method my_file:MyMethod --seeds 3
    ngbench submit runs --method my_file:MyMethod --author "A. Name" \\
        --no-external-data --out my-method.zip
    """  # noqa: D301 - click reads the character
    from leaderboard.pack import pack_runs, read_about
    from leaderboard.plain import pack_plain
    from leaderboard.validate import known_zoos, validate

    if out.suffix != ".zip" or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out} is no .zip in a folder that exists; expected one, such as my-method.zip")
    given = {key: value for key, value in keys.items() if value not in (None, ())}
    given |= {"authors": list(given["authors"])} if "authors" in given else {}
    given = {**(read_about(about) if about else {}), **given}
    is_plain = len(runs) == 1 and runs[0].suffix in (".yaml", ".yml", ".json")
    submission = pack_plain(runs[0], out, about=given) if is_plain else pack_runs(runs, out, about=given, method=method)
    for answers in submission.answers:
        click.echo(f"packed   {answers.question}, {answers.track}, {len(answers.fits)} seeds")
    _tell(validate(out, known_zoos(_opened(zoos))), out)


@click.command()
@click.argument("file", required=False, type=_PATH)
@click.option("--schema", is_flag=True, help="Print the JSON schema of submission.json, and read no file.")
@click.option("--score", "is_scored", is_flag=True, help="Score the predictions again too, and print what they are worth.")
@click.option("--accept", type=_PATH, default=None, help="Folder of accepted submissions, such as leaderboard/submissions: "
    "score, compare with these, and write NAME/record.json there.")  # fmt: skip
@click.option("--known", type=_PATH, default=None, help="Folder of accepted submissions, of which FILE must be no copy.  "
    "[default: the published ones]")  # fmt: skip
@click.option("--name", default=None, help="Under which it is accepted.  [default: made of its title]")
@click.option("--note", default=None, help="What is new in a submission that was accepted before.")
@_ZOO
@click.option("--answers", type=_PATH, multiple=True, help="Answer file of a sealed zoo that --zoo names, for its host. Repeat.")
def validate(
    file: Path | None,
    schema: bool,
    is_scored: bool,
    accept: Path | None,
    known: Path | None,
    name: str | None,
    note: str | None,
    zoos: Sequence[Path],
    answers: Sequence[Path],
) -> None:
    """Say everything that is wrong with a submission, in sentences; nothing in FILE is executed.

    FILE may be a folder too, of a pull request: submission.zip in it is then scored again, and record.json compared. Exits with 2
    if something is wrong.

    \b
    ngbench validate my-method.zip
    ngbench validate my-method.zip --score
    ngbench validate --schema > submission.schema.json
    """  # noqa: D301 - click reads the character
    from leaderboard.submission import json_schema

    if schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return
    if file is None:
        raise ConfigError("no file is named; expected a .zip that `ngbench submit` wrote, or --schema")
    from leaderboard.entry import faults_of_entry
    from leaderboard.records import SUBMISSIONS, load_records
    from leaderboard.validate import known_zoos
    from leaderboard.validate import validate as faults_of
    from ngbench.cli.run import check_folder

    if known is not None and not known.is_dir():
        raise ConfigError(f"--known {known} is no folder; expected one that has a folder with a record.json for each submission")
    if accept is not None:
        check_folder("--accept", accept)
    by_sha256 = known_zoos(_opened(zoos, answers))
    if file.is_dir():
        if is_scored or accept is not None or name is not None:
            raise ConfigError(f"{file} is a folder, which is compared and not accepted; leave out --score, --accept and --name")
        _tell(faults_of_entry(file, by_sha256, known=load_records(known or SUBMISSIONS)), file)
        return
    if accept is None and not is_scored:
        _tell(faults_of(file, by_sha256), file)
        return
    record = _scored(file, by_sha256, load_records(known or accept or SUBMISSIONS), name, note)
    _show(record)
    if accept is not None:
        click.echo(f"record   {record.save(accept)}")


def _opened(paths: Iterable[Path], answers: Iterable[Path] = ()) -> list[Zoo]:
    """The zoos of files, each with the answer file that it commits to, where that is among those given."""
    from ngbench.store import open_zoo
    from ngbench.store.answers import commitment_of

    files = {commitment_of(path): path for path in answers}
    found = []
    for path in paths:
        withheld = open_zoo(path).info.withheld
        found.append(open_zoo(path, answers=files.pop(withheld.commitment, None) if withheld else None))
    if files:
        unused = ", ".join(str(path) for path in files.values())
        raise ConfigError(f"--answers {unused} belong to none of the zoos that --zoo names; expected the public file of each")
    return found


def _tell(faults: Sequence[str], path: Path) -> None:
    """Prints what is wrong, a line each, and ends with 2; or that nothing is."""
    for fault in faults:
        click.secho(f"fault    {fault}", err=True, fg="red")
    if faults:
        counted = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        click.secho(f"refused  {path}: {counted}", err=True, fg="red")
        raise click.exceptions.Exit(2)
    click.secho(f"valid    {path}", fg="green")


def _scored(file: Path, zoos: Any, known: Sequence[Record], name: str | None, note: str | None) -> Record:
    from datetime import UTC, datetime

    from leaderboard.score import score
    from ngbench.errors import SubmissionError

    try:
        return score(file, zoos, name=name, known=known, date=datetime.now(UTC).date().isoformat(), note=note)
    except SubmissionError as error:
        _tell(error.faults, file)
        raise


def _show(record: Record) -> None:
    from ngbench.cli.screen import console, table

    made = table("question", "track", "metric", "score", "std", "scrambled", "seeds", numbers_from=3)
    # in a narrow terminal the question takes more lines, so that no number is cut
    for column in made.columns:
        column.no_wrap = column is not made.columns[0]
    for row in record.rows:
        own, scrambled = row.scores[row.primary], row.scrambled_scores[row.primary]
        spread = "—" if own.std is None else f"{own.std:.3f}"
        cells = (row.track, row.primary, f"{own.mean:.3f}", spread, f"{scrambled.mean:.3f}", str(len(row.seeds)))
        made.add_row(str(row.question), *cells)
    screen = console()
    screen.print(made)
    for kind, sentences, style in (("differs", record.differences, "yellow"), ("flagged", record.flags, "red")):
        for sentence in sentences:
            screen.print(f"{kind}  {sentence}", style=style, soft_wrap=True, markup=False)
