"""Fits a method with many settings and scores each on the validation split; the test split is never opened.

``python -m baselines.search baselines/searches/ng-gnn-ablation.yaml --workers 8`` adds one line for each fit to a ``.jsonl`` file
beside the search, skips those that stand there, and prints the table.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ngbench.errors import ConfigError, NgbenchError


class Search(BaseModel):
    """What is tried: every candidate on every zoo with every seed.

    Args:
        why: One sentence.
        method: Registered name.
        task: Name of a task.
        zoos: Names of zoos.
        target: Column that is asked about; None for the first that the task names for a zoo.
        seeds: One fit for each.
        candidates: Settings of the method, as they are typed after ``--set``; an empty one for the defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    method: str
    task: str = "generalization"
    zoos: list[str] = Field(min_length=1)
    target: str | None = None
    seeds: list[int] = Field(min_length=1)
    candidates: list[dict[str, str | int | float | bool]] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> Search:
        """Reads a search.

        Raises:
            ConfigError: The file is not one.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except yaml.YAMLError as error:
            raise ConfigError(f"search {path} is no YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(
                f"search {path}: {where}: {first['msg']}; expected the fields {', '.join(cls.model_fields)}"
            ) from error

    def fits(self) -> Iterator[dict[str, Any]]:
        """All fits, the seeds of a candidate one after the other."""
        for zoo in self.zoos:
            for settings in self.candidates:
                texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
                about = {"method": self.method, "task": self.task, "zoo": zoo}
                about |= {} if self.target is None else {"target": self.target}
                for seed in self.seeds:
                    yield {**about, "settings": texts, "seed": seed}


@lru_cache(maxsize=2)
def _splits(task_name: str, zoo_name: str, target: str | None) -> tuple[Any, Any, Any]:
    """The problem of a task, and the train and val splits of a zoo."""
    from ngbench.evaluation.networks import examples_of, problem_of
    from ngbench.store import open_zoo
    from ngbench.tasks import TASKS

    zoo = open_zoo(zoo_name)
    task = TASKS[task_name].asked(zoo.name, target=target)
    return problem_of(task, zoo), examples_of(task, zoo, "train"), examples_of(task, zoo, "val")


def fit(what: dict[str, Any], device: str) -> dict[str, Any]:
    """One fit; gives what was fitted with its validation scores, seconds and number of parameters, or why it failed."""
    import torch

    from ngbench.methods import Budget, RunContext, make_method
    from ngbench.tasks import TASKS

    torch.set_num_threads(1)
    problem, train, val = _splits(what["task"], what["zoo"], what.get("target"))
    task, start = TASKS[what["task"]], time.perf_counter()
    try:
        method = make_method(what["method"], what["settings"])
        budget = Budget(task.max_epochs, task.num_candidates)
        method.fit(problem, train, val, RunContext(what["seed"], budget, device=device))
        found = _scores(problem, method, val)
    except NgbenchError as error:
        return {**what, "failed": str(error)}
    duration_s = time.perf_counter() - start
    found = {name: round(value, 5) for name, value in found.items()}
    found |= {"fit_s": round(duration_s, 1), "num_parameters": method.num_parameters}
    return {**what, **found, "device": device.partition(":")[0]}


def _scores(problem: Any, method: Any, val: Any) -> dict[str, float]:
    """The task's metric on the validation networks; where they are merged the midpoint on validation images, beside recovery."""
    import numpy as np

    from ngbench.evaluation.merging import MergingImages, matchings, score
    from ngbench.evaluation.merging_items import draw_items
    from ngbench.tasks import TASKS, MergingPlan

    if problem.kind != "merging":
        return {"val": float(problem.metric(method.predict(val.without_targets()), np.asarray(val.targets)))}
    plan = TASKS["merging"].plan(MergingPlan)
    items = draw_items(val, plan=plan)
    images = MergingImages.of(val.bundles[0].programs, plan, part="val")
    metrics = score(items, matchings(method, items), {"": images}).metrics
    return {"val": metrics["midpoint_accuracy"], **{name: metrics[name] for name in ("barrier", "recovery_0.3", "recovery_1")}}


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record.get(name) for name in ("method", "task", "zoo", "target", "settings", "seed")], sort_keys=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(records: list[dict[str, Any]]) -> str:
    """Validation score of each candidate, mean and standard deviation over seeds, the best of each zoo first, as Markdown."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        if "val" in record:
            text = ", ".join(f"{name} {value}" for name, value in record["settings"].items()) or "the defaults"
            groups.setdefault((record["zoo"], record["method"], text), []).append(record)
    rows = [(zoo, method, text, [r["val"] for r in found], found) for (zoo, method, text), found in groups.items()]
    rows.sort(key=lambda row: (row[0], row[1], -statistics.mean(row[3])))
    lines = ["| zoo | method | settings | val | seeds | parameters | seconds a fit |", "|---|---|---|---|---|---|---|"]
    for zoo, method, text, scores, found in rows:
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        seconds, parameters = statistics.median(r["fit_s"] for r in found), found[0]["num_parameters"]
        score = f"{statistics.mean(scores):.3f}{spread}"
        lines.append(f"| {zoo} | {method} | {text} | {score} | {len(scores)} | {parameters:,} | {seconds:.0f} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("searches", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workers", default=1, show_default=True, help="Fits at the same time.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--zoo", "zoos", multiple=True, help="Only these zoos; may be given several times.")
@click.option("--out", type=click.Path(path_type=Path), help="File of results.  [default: beside the first search]")
def main(searches: tuple[Path, ...], workers: int, device: str, zoos: tuple[str, ...], out: Path | None) -> None:
    """Runs searches."""
    try:
        run(searches, workers=workers, device=device, zoos=zoos, out=out or searches[0].with_suffix(".jsonl"))
    except NgbenchError as error:
        click.secho(f"error: {error}", err=True, fg="red")
        raise SystemExit(2) from error


def run(searches: Sequence[Path], *, workers: int, device: str, zoos: Sequence[str], out: Path) -> None:
    """Fits what is not yet in the file of results, adds it there, and prints the table.

    What failed before is tried again, and its record gives way to that of the new fit.

    Raises:
        ConfigError: A file is no search, a zoo is in none of them, or the machine has no such device.
    """
    from ngbench.evaluation.protocol import checked_device

    device = checked_device(device)
    wanted = [what for path in searches for what in Search.load(path).fits()]
    known = sorted({what["zoo"] for what in wanted})
    for zoo in zoos:
        if zoo not in known:
            raise ConfigError(f"zoo {zoo!r} is in none of these searches; expected one of {', '.join(known)}")
    records = read(out)
    done = {_key(record) for record in records if "val" in record}
    todo = [what for what in wanted if _key(what) not in done and (not zoos or what["zoo"] in zoos)]
    again = {_key(what) for what in todo}
    kept = [record for record in records if _key(record) not in again]
    if len(kept) < len(records):
        out.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool, out.open("a") as file:
        futures = {pool.submit(fit, what, device): what for what in todo}
        for number, future in enumerate(as_completed(futures), start=1):
            # a fit that ends by an error of any kind, such as one of memory, says nothing of the others
            error = future.exception()
            record = future.result() if error is None else {**futures[future], "failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(record), file=file, flush=True)
            said = record.get("failed") or f"val {record['val']:.3f} in {record['fit_s']:.0f} s"
            print(f"{number}/{len(todo)} {record['zoo']} {record['settings']} seed {record['seed']}: {said}", file=sys.stderr)
    click.echo(table(read(out)))


if __name__ == "__main__":
    main()
