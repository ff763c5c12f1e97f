"""A finished run scored again from the files that it keeps, and every number of its result compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ngbench.errors import PredictionsError, ResultError
from ngbench.evaluation.environment import single_threaded
from ngbench.evaluation.evaluate import (
    PREDICTIONS_FILE,
    VAL_PREDICTIONS_FILE,
    exam_of,
    has_val_score,
    origin_of,
    scores_of_run,
    scores_of_seed,
    seed_folder,
)
from ngbench.evaluation.exam import Exam, Scored
from ngbench.evaluation.identity import folder_name
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import SEED_FILE, Result, SeedResult, read_json
from ngbench.evaluation.transfer import transfer_file
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task

ARITHMETIC = 1e-9
"""How far a number may be from what follows again from stored answers by float64 sums, whose order libraries choose."""

FORWARD_PASS = 1e-3
"""The same where networks are run in float32 on the way, to merge them or to tell which functions are near.

Another library's rounding moves a loss by some 1e-6, and may turn the class of an image or the order of two networks that are
almost tied. Of the means that are reported one such turn moves the most sensitive, recall of one network in 100 queries, by less.
"""

FROM_FILES = ("val_score", "transfer", "scores", "scrambled_scores", "mean_shift", "largest_shift", "num_test")
FROM_SEEDS = ("scores", "scrambled_scores", "interval", "differences")
FROM_ANSWERS = ("scores", "scrambled_scores", "interval", "transfer")
"""Fields of a seed and of a result that follow from files; the others say what was measured once, such as seconds.

Those of `FROM_ANSWERS` are empty where the zoo withholds the answers.
"""


@dataclass(frozen=True)
class Difference:
    """What a stored result says otherwise than the files that it follows from.

    Args:
        seed: Of the fit; None for what is said of all seeds.
        name: Field of the result, or file and field.
        stored: As the result has it; None where it says nothing.
        found: As it follows again; None where nothing follows.
    """

    seed: int | None
    name: str
    stored: Any
    found: Any


def rescore(folder: Path, *, zoo: Zoo | None = None) -> tuple[Result, list[Difference]]:
    """Scores what a finished run said again and compares with its result file.

    Args:
        folder: Run folder; the baselines that it is compared with stand beside it.
        zoo: The zoo, if it is not the released one that the result names; where it withholds answers, with these if they are
            at hand.

    Returns:
        The result as stored, with the scores that it lacks where the zoo given tells answers that were withheld from the run;
        and everything that differs.

    Raises:
        ResultError: No readable result, or the zoo is not the one that it was made on.
        PredictionsError: The predictions cannot be scored.
    """
    result = Result.load(folder)
    zoo = zoo or open_zoo(result.zoo)
    if zoo.sha256 != result.zoo_sha256:
        raise ResultError(
            f"the result in {folder} was made on zoo {result.zoo!r} with sha256 {result.zoo_sha256[:12]}…; "
            f"got {zoo.sha256[:12]}…: name that zoo's file with --zoo"
        )
    task = TASKS[result.task].asked(result.zoo, split=result.split, target=result.target)
    exam, tolerance = exam_of(task, zoo), tolerance_of(task, zoo)
    with single_threaded():
        scored = [exam.score(Predictions.load(seed_folder(folder, seed.seed) / PREDICTIONS_FILE)) for seed in result.seeds]
        found = [
            *_of_result(result, task, zoo),
            *(part for seed, own in zip(result.seeds, scored, strict=True) for part in _of_seed(folder, result, seed, own, exam)),
            *_of_run(folder, result, scored, exam),
        ]
        if not result.is_scored and not exam.is_withheld:
            found = [part for part in found if not any(name in FROM_ANSWERS for name in part.name.split())]
            result = _completed(folder, result, scored, exam)
    return result, [part for part in found if not _is_same(part.stored, part.found, tolerance)]


def _completed(folder: Path, result: Result, scored: Sequence[Scored], exam: Exam) -> Result:
    """A result that was made without the answers, with what follows from these."""
    seeds = tuple(
        seed.model_copy(update=scores_of_seed(exam, own, seed_folder(folder, seed.seed)))
        for seed, own in zip(result.seeds, scored, strict=True)
    )
    return result.model_copy(update={"seeds": seeds, **scores_of_run(exam, result.method, scored, {})})


def tolerance_of(task: Task, zoo: Zoo) -> float:
    """How far the numbers of a task may be from what they were; more where networks are run to score an answer."""
    runs_networks = task.kind == "merging" or (task.kind == "retrieval" and not zoo.functional_names)
    return FORWARD_PASS if runs_networks else ARITHMETIC


def numbers_of(result: Result) -> int:
    """How many numbers of a result `rescore` compares."""
    records = [(seed, FROM_FILES) for seed in result.seeds]
    of_seeds = [part for seed, names in records for name in names for part in _flat(name, getattr(seed, name))]
    return len(of_seeds) + sum(1 for name in FROM_SEEDS for _ in _flat(name, getattr(result, name)))


def _of_result(result: Result, task: Task, zoo: Zoo) -> Iterator[Difference]:
    """What a result says of protocol and zoo, and those."""
    now = {"task_version": task.version, "primary": task.primary.name, "zoo_version": str(zoo.version)}
    for name, found in now.items():
        yield Difference(None, name, getattr(result, name), found)
    for seed in result.seeds:
        yield Difference(seed.seed, "access", result.access, seed.access)


def _of_seed(folder: Path, result: Result, seed: SeedResult, scored: Scored, exam: Exam) -> Iterator[Difference]:
    """All that is said of a seed, by its own record and by the files that it follows from."""
    place = seed_folder(folder, seed.seed)
    record = read_json(place / SEED_FILE, SeedResult)
    for name in SeedResult.model_fields:
        yield from _compared(seed.seed, f"{SEED_FILE} {name}", getattr(seed, name), getattr(record, name))
    measured = scores_of_seed(exam, scored, place)
    for name in FROM_FILES:
        yield from _compared(seed.seed, name, getattr(seed, name), measured[name])
    origin = origin_of(exam.task, exam.zoo, method=result.method, seed=seed.seed)
    files = {PREDICTIONS_FILE: origin} | ({VAL_PREDICTIONS_FILE: origin} if has_val_score(exam.task) else {})
    for target in seed.transfer:
        path = transfer_file(place, target)
        if path.exists():
            files[path.name] = {**origin, "probe": target}
    for name, expected in files.items():
        yield from _compared(seed.seed, f"{name} about", expected, Predictions.load(place / name).about)


def _of_run(folder: Path, result: Result, scored: Sequence[Scored], exam: Exam) -> Iterator[Difference]:
    """What is said of all seeds together, and against other methods, whose folders stand beside this one."""
    others: dict[str, list[Scored]] = {}
    for name in result.differences:
        beside = folder.parent / folder_name(name, {})
        try:
            others[name] = [_scored_as(exam, name, beside, seed.seed) for seed in result.seeds]
        except PredictionsError as error:
            yield Difference(None, f"difference to {name}", result.differences[name].score, str(error))
    measured = scores_of_run(exam, result.method, scored, others)
    for name in FROM_SEEDS:
        stored = getattr(result, name)
        if name == "differences":
            stored = {own: stored[own] for own in others}
        yield from _compared(None, name, stored, measured[name])


def _scored_as(exam: Exam, method: str, folder: Path, seed: int) -> Scored:
    """What a method said with a seed, if it said it of just this question."""
    path = seed_folder(folder, seed) / PREDICTIONS_FILE
    predictions = Predictions.load(path)
    expected = origin_of(exam.task, exam.zoo, method=method, seed=seed)
    if predictions.about != expected:
        raise PredictionsError(f"predictions file {path} is about {predictions.about}; expected {expected}")
    return exam.score(predictions)


def _compared(seed: int | None, name: str, stored: Any, found: Any) -> Iterator[Difference]:
    """Every entry of two nested records, by its path."""
    before, after = dict(_flat(name, stored)), dict(_flat(name, found))
    for path in dict.fromkeys((*before, *after)):
        yield Difference(seed, path, before.get(path), after.get(path))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a nested record."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in type(value).model_fields}
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, part in value.items():
        yield from _flat(f"{name} {key}", part)


def _is_same(stored: Any, found: Any, tolerance: float) -> bool:
    if isinstance(stored, float) and isinstance(found, float):
        both_undefined = math.isnan(stored) and math.isnan(found)
        return both_undefined or math.isclose(stored, found, rel_tol=tolerance, abs_tol=tolerance)
    return stored == found
