"""Finds what a report is about: runs, and audits, under the paths that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ngbench.errors import NgbenchError, ResultError, UnknownNameError
from ngbench.evaluation.evaluate import exam_of
from ngbench.evaluation.exam import Exam
from ngbench.evaluation.result import RESULT_FILE, Result
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Kind


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: Where its files are.
        result: What it came to.
    """

    folder: Path
    result: Result


@dataclass(frozen=True)
class Unread:
    """A run that the page leaves out.

    Args:
        folder: Where its files are.
        reason: Why.
    """

    folder: Path
    reason: str


@dataclass(frozen=True)
class Asked:
    """The runs of one question.

    Args:
        exam: What was asked.
        runs: By the name under which each is shown.
    """

    exam: Exam
    runs: Mapping[str, Run]


def find_runs(folder: Path) -> list[Run | Unread]:
    """The runs in a folder or anywhere below it, by path.

    Raises:
        ResultError: There is none.
    """
    files = sorted(folder.rglob(RESULT_FILE))
    if not files:
        raise ResultError(
            f"folder {str(folder)!r} holds no {RESULT_FILE}, in no folder below it either; "
            "expected a run's folder or one above some, such as runs, that `ngbench run` wrote"
        )
    return [_read(file.parent) for file in files]


def _read(folder: Path) -> Run | Unread:
    try:
        result = Result.load(folder)
        task = TASKS[result.task]
    except NgbenchError as error:
        return Unread(folder, str(error))
    if result.task_version != task.version:
        versions = f"version {result.task_version} of task {task.name!r}; this ngbench has version {task.version}"
        return Unread(folder, f"it was made under {versions}: run it again")
    if not result.is_scored:
        return Unread(folder, f"zoo {result.zoo!r} withholds the answers to it, which only its host can score")
    return Run(folder, result)


def by_question(runs: Sequence[Run], zoos: Sequence[Path]) -> tuple[list[Asked], list[Unread]]:
    """Runs by task, zoo, target and split, tasks in the order of the benchmark; and the runs whose zoo is not at hand.

    Args:
        runs: Each once.
        zoos: Files of zoos that are not released.
    """
    given = {zoo.sha256: zoo for zoo in map(open_zoo, zoos)}
    grouped: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        r = run.result
        grouped.setdefault((r.task, r.zoo, r.zoo_sha256, r.target or "", r.split), []).append(run)
    asked, unread = [], list[Unread]()
    for group in sorted(grouped.values(), key=lambda group: _place(group[0].result)):
        first = group[0].result
        task = TASKS[first.task].asked(first.zoo, split=first.split, target=first.target)
        try:
            exam = exam_of(task, given.get(first.zoo_sha256) or _released(first))
        except NgbenchError as error:
            unread += [Unread(run.folder, str(error)) for run in group]
        else:
            asked.append(Asked(exam, _named(group)))
    return asked, unread


def _place(result: Result) -> tuple[int, int, int]:
    """Of a question on the page: by kind, then as its task names zoos and columns; what it does not name comes last."""
    task = TASKS[result.task]
    columns = task.zoos.get(result.zoo, ())
    zoo = list(task.zoos).index(result.zoo) if result.zoo in task.zoos else len(task.zoos)
    column = columns.index(result.target) if result.target in columns else len(columns)
    return get_args(Kind).index(task.kind), zoo, column


def _released(result: Result) -> Zoo:
    try:
        zoo = open_zoo(result.zoo)
    except UnknownNameError as error:
        raise ResultError(f"it was made on zoo {result.zoo!r}, which is not released; name its file with --zoo") from error
    if zoo.sha256 != result.zoo_sha256:
        raise ResultError(
            f"it was made on zoo {result.zoo!r} with sha256 {result.zoo_sha256[:12]}…; "
            f"got {zoo.sha256[:12]}…: name that zoo's file with --zoo, or run it again"
        )
    return zoo


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by method; those of one method with several settings by their folder's name, or by its path."""
    found: dict[str, Run] = {}
    for run in runs:
        names = run.result.method, run.folder.name, str(run.folder)
        for place, name in enumerate(names):
            rivals = [other for other in runs if (other.result.method, other.folder.name, str(other.folder))[place] == name]
            if len(rivals) == 1:
                found[name] = run
                break
    return found
