"""Tables of the leaderboard, one for each question: methods side by side, tracks apart, with ties and ranks.

The rules are those of `ngbench.evaluation.tables`; what differs is that scores come from records and not from runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

from leaderboard.records import Record, Scores
from leaderboard.submission import Question as Asked
from ngbench.evaluation.environment import Environment
from ngbench.evaluation.result import Result, SeedResult
from ngbench.evaluation.tables import Question, Standing, overall, ranked
from ngbench.metrics import Interval
from ngbench.store import RELEASED
from ngbench.tasks import TASKS, Kind, Task


@dataclass(frozen=True)
class Board:
    """The table of one question.

    Args:
        asked: The question, with the versions of its task and zoo.
        table: Rows in their order; a method is the name of its submission.
        records: Submissions with an answer, by name.
        scores: Their answers, by name.
    """

    asked: Asked
    table: Question
    records: Mapping[str, Record]
    scores: Mapping[str, Scores]

    @property
    def slug(self) -> str:
        """Its name in addresses: that of no other board."""
        asked = self.asked
        split = "" if asked.split == "default" else f"-{asked.split}"
        target = "" if asked.target is None else f"-{asked.target}"
        version = "" if asked.task_version == 1 else f"-v{asked.task_version}"
        # a zoo that is not the released one may have its name and version
        is_released = asked.zoo in RELEASED and asked.zoo_sha256 == RELEASED[asked.zoo].sha256
        file = "" if is_released else f"-{asked.zoo_sha256[:12]}"
        return f"{asked.task}{version}-{asked.zoo}-v{asked.zoo_version}{file}{split}{target}".lower()

    @property
    def href(self) -> str:
        """Address of its page in the folder of the site."""
        return f"tables/{self.slug}.html"

    @property
    def title(self) -> str:
        """As it is printed; with the version of the zoo where the benchmark does not ask this, or no longer."""
        return self.table.title if self.is_current else f"{self.table.title}, version {self.asked.zoo_version}"

    @property
    def is_current(self) -> bool:
        """Whether the benchmark asks this now: the task names zoo, target and split, and both versions are the newest."""
        task, asked = TASKS[self.asked.task], self.asked
        is_newest = (
            asked.zoo in RELEASED and asked.zoo_sha256 == RELEASED[asked.zoo].sha256 and asked.task_version == task.version
        )
        return is_newest and asked.split == task.split and not self.table.is_foreign

    @property
    def tracks(self) -> dict[str, list[str]]:
        """Names of submissions by track, the best first."""
        found: dict[str, list[str]] = {}
        for row in self.table.rows:
            found.setdefault(self.scores[row.method].track, []).append(row.method)
        return found

    @property
    def best(self) -> dict[str, list[str]]:
        """By track the best submission and those that are tied with it, the best first."""
        tied = {row.method for row in self.table.rows if row.is_tied}
        return {track: [name for name in names if name in tied] for track, names in self.tracks.items()}

    def lead(self, name: str) -> tuple[str, Interval] | None:
        """The best other submission of the same track, and how much better than it this one is; None where there is no other.

        The interval is that of the paired bootstrap; above zero is better, whatever the direction of the metric.
        """
        others = [other for other in self.tracks[self.scores[name].track] if other != name]
        if not others:
            return None
        own, rival = self.scores[name], self.scores[others[0]]
        first, second = (own, rival) if own.higher_is_better else (rival, own)
        return others[0], first.resamples.minus(second.resamples).interval(own.interval.confidence)


def boards(records: Sequence[Record]) -> list[Board]:
    """The table of each question that was answered, tasks in the order of the benchmark, what it no longer asks last.

    Args:
        records: Of different names.
    """
    grouped: dict[Asked, dict[str, tuple[Record, Scores]]] = {}
    for record in records:
        for scores in record.rows:
            grouped.setdefault(scores.question, {})[record.name] = record, scores
    found = [_board(asked, answers) for asked, answers in grouped.items()]
    return sorted(found, key=_place)


def _board(asked: Asked, answers: Mapping[str, tuple[Record, Scores]]) -> Board:
    scores = {name: own for name, (_, own) in answers.items()}
    task = _task(asked, list(scores.values()))
    results = {name: as_result(record, own) for name, (record, own) in answers.items()}
    resamples = {name: own.resamples for name, own in scores.items()}
    table = ranked(task, asked.zoo, results=results, resamples=resamples, reasons={})
    return Board(asked, table, {name: record for name, (record, _) in answers.items()}, scores)


def _task(asked: Asked, scores: Sequence[Scores]) -> Task:
    """The task as it was asked, with the metrics that answers have: an earlier version may have had others."""
    task = TASKS[asked.task].asked(asked.zoo, split=asked.split, target=asked.target)
    known = {name for own in scores for name in own.scores}
    metrics = (scores[0].primary, *(name for name in task.metrics if name in known and name != scores[0].primary))
    return task.model_copy(update={"version": asked.task_version, "metrics": metrics})


def _place(board: Board) -> tuple[bool, int, int, int, str]:
    """By what the benchmark asks now, then as its tasks name zoos and columns; what they do not name comes last."""
    asked, task = board.asked, TASKS[board.asked.task]
    columns = task.zoos.get(asked.zoo, ())
    zoo = list(task.zoos).index(asked.zoo) if asked.zoo in task.zoos else len(task.zoos)
    column = columns.index(asked.target) if asked.target in columns else len(columns)
    return not board.is_current, get_args(Kind).index(task.kind), zoo, column, board.slug


def as_result(record: Record, scores: Scores) -> Result:
    """What a submission came to as the result of a run, of which a record knows the hardware alone and no environment."""
    asked = scores.question
    seeds = tuple(
        SeedResult(
            **own.model_dump(exclude={"fingerprint"}),
            identity=own.fingerprint,
            access=scores.track,
            val_score=None,
            num_test=scores.num_test,
        )
        for own in scores.seeds
    )
    unknown: dict[str, Any] = {"num_threads": 0, "platform": "", "python": "", "packages": {}, "git_commit": None}
    return Result(
        method=record.name,
        title=record.about.title,
        access=scores.track,
        settings=dict(scores.settings),
        task=asked.task,
        task_version=asked.task_version,
        target=asked.target,
        zoo=asked.zoo,
        zoo_version=asked.zoo_version,
        zoo_sha256=asked.zoo_sha256,
        split=asked.split,
        primary=scores.primary,
        seeds=seeds,
        scores=scores.scores,
        scrambled_scores=scores.scrambled_scores,
        interval=scores.interval,
        differences={},
        environment=Environment(device=scores.hardware, **unknown),
        created=record.history[-1].date,
    )


def unanswered(found: Sequence[Board]) -> list[str]:
    """What the benchmark asks and no submission answers, as it is printed."""
    asked = {(board.asked.task, board.asked.zoo, board.asked.target) for board in found if board.is_current}
    return [
        f"{task.title} on {zoo}" + (f" about {column}" if column else "")
        for task in map(TASKS.__getitem__, TASKS)
        for zoo, columns in task.zoos.items()
        for column in columns or (None,)
        if (task.name, zoo, column) not in asked
    ]


def standings(found: Sequence[Board]) -> list[Standing]:
    """The mean rank of each submission that answers every question that the benchmark asks, the best first.

    Where a question has no answer at all, nobody did everything.
    """
    current = [board.table for board in found if board.is_current]
    return [] if unanswered(found) else overall(current)


def standings_of_tasks(found: Sequence[Board]) -> dict[str, list[Standing]]:
    """The same within each task that asks several questions, by its title."""
    tables: dict[str, list[Question]] = {}
    for board in found:
        if board.is_current:
            tables.setdefault(board.asked.task, []).append(board.table)
    several = {TASKS[task].title: overall(own) for task, own in tables.items() if len(own) > 1}
    return {title: own for title, own in several.items() if own}


def time_of_network_s(scores: Scores) -> float:
    """Seconds to answer for one test network, mean over fits, as it was submitted."""
    return fmean(seed.predict_s for seed in scores.seeds) / scores.num_test
