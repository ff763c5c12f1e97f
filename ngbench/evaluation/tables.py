"""Tables of results: methods of one question side by side, tracks apart, ties marked, and a rank of those that did all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ngbench.errors import NgbenchError
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, exam_of, seed_folder
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.protocol import run_folder
from ngbench.evaluation.result import Result
from ngbench.evaluation.suite import State, by_question
from ngbench.metrics import Resamples, facts_of, tied_with_best
from ngbench.store import open_zoo
from ngbench.tasks import TASKS, Task

TRACKS: Mapping[str, str] = {
    "weights": "reads weights",
    "probes": "runs the networks on probes",
    "hyperparameters": "reads the recipe",
    "none": "reads nothing",
}
"""Kinds of access, in the order of the tables; methods of different ones are never ranked together."""


@dataclass(frozen=True)
class Row:
    """A method in the table of a question.

    Args:
        method: Its name.
        result: Its result; None where it has none.
        reason: Why it has none.
        is_tied: Whether it is the best of its track, or may be: the interval of the difference holds zero.
    """

    method: str
    result: Result | None
    reason: str | None
    is_tied: bool = False


@dataclass(frozen=True)
class Question:
    """The table of one task, zoo and target.

    Args:
        task: About the zoo and target.
        zoo: Name of the zoo.
        rows: Track by track, the best first; those without a result last.
    """

    task: Task
    zoo: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """As it is printed."""
        target = f" of {self.task.label()}" if self.task.kind in ("classification", "retrieval") else ""
        return f"{self.task.title}{target} on {self.zoo}"

    def rank(self, method: str) -> float | None:
        """Place of a method among those of its track, from 1; None where it has no result."""
        access = {row.method: row.result.access for row in self.rows if row.result is not None}
        track = [name for name in access if access[name] == access.get(method)]
        return float(track.index(method) + 1) if method in track else None


def questions(states: Sequence[State]) -> list[Question]:
    """The table of each question of a suite that was run."""
    return [_question(found) for found in by_question(states).values()]


def _question(states: Sequence[State]) -> Question:
    first = states[0].cell
    zoo = open_zoo(first.zoo)
    task = TASKS[first.task].asked(first.zoo, target=first.target)
    exam = exam_of(task, zoo)
    results: dict[str, Result] = {}
    reasons: dict[str, str] = {}
    resamples: dict[str, Resamples] = {}
    for state in states:
        method, folder = state.cell.method, run_folder(state.cell.out, task, zoo, state.cell.method, {})
        if state.status != "done":
            reasons[method] = state.reason or state.status
            continue
        try:
            results[method] = Result.load(folder)
            files = [seed_folder(folder, seed.seed) / PREDICTIONS_FILE for seed in results[method].seeds]
            resamples[method] = exam.resamples(method, [exam.score(Predictions.load(file)) for file in files])
        except NgbenchError as error:
            results.pop(method, None)
            reasons[method] = str(error)
    tied = _tied(task, results, resamples)
    rows = [Row(name, results[name], None, name in tied) for name in _in_order(task, results)]
    return Question(task, first.zoo, (*rows, *(Row(name, None, reason) for name, reason in reasons.items())))


def _in_order(task: Task, results: Mapping[str, Result]) -> list[str]:
    """Names track by track, the best first."""
    sign = -1 if task.primary.higher_is_better else 1
    tracks = list(TRACKS)
    return sorted(results, key=lambda n: (tracks.index(results[n].access), sign * results[n].scores[task.primary.name].mean))


def _tied(task: Task, results: Mapping[str, Result], resamples: Mapping[str, Resamples]) -> set[str]:
    """The best of each track and those that are tied with it."""
    found: set[str] = set()
    for track in TRACKS:
        own = {name: resamples[name] for name in results if results[name].access == track}
        if own:
            found |= set(tied_with_best(own, higher_is_better=task.primary.higher_is_better, confidence=task.confidence)[1])
    return found


def overall(found: Sequence[Question]) -> dict[str, float]:
    """Mean rank within its track of each method that has a result for every question, the best first."""
    methods = dict.fromkeys(row.method for question in found for row in question.rows)
    ranks = {method: [question.rank(method) for question in found] for method in methods}
    means = {method: sum(own) / len(own) for method, own in ranks.items() if None not in own}  # pyright: ignore[reportArgumentType, reportCallIssue]
    return dict(sorted(means.items(), key=lambda item: item[1]))


def as_markdown(found: Sequence[Question]) -> str:
    """All tables as Markdown."""
    parts = [_markdown(question) for question in found]
    ranks = overall(found)
    if ranks:
        rows = "\n".join(f"| {method} | {rank:.2f} |" for method, rank in ranks.items())
        parts.append(f"### Mean rank within its track, of methods that did everything\n\n| method | rank |\n|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _markdown(question: Question) -> str:
    metrics = [facts_of(name) for name in question.task.metrics]
    headings = ["method", metrics[0].title, "scrambled", *(metric.title for metric in metrics[1:]), "parameters", "fit"]
    lines = [f"### {question.title}", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    track = ""
    for row in question.rows:
        result = row.result
        if result is None:
            lines.append(f"| {row.method} | {row.reason} |" + " |" * (len(headings) - 2))
            continue
        if result.access != track:
            track = result.access
            lines.append(f"| *{TRACKS[track]}* |" + " |" * (len(headings) - 1))
        primary = spread(result, metrics[0].name)
        cells = [
            row.method,
            f"**{primary}**" if row.is_tied else primary,
            f"{result.scrambled_scores[metrics[0].name].mean:.3f}",
            *(f"{result.scores[metric.name].mean:.3f}" for metric in metrics[1:]),
            f"{result.seeds[0].num_parameters:,}" if result.seeds[0].num_parameters else "—",
            f"{sum(seed.fit_s for seed in result.seeds) / len(result.seeds):.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(result: Result, metric: str) -> str:
    """Mean and standard deviation over seeds."""
    found = result.scores[metric]
    return f"{found.mean:.3f}" + (f" ± {found.std:.3f}" if found.std is not None else "")


def write_tables(found: Sequence[Question], folder: Path, name: str) -> Path:
    """Writes the tables of a suite as Markdown into its folder; gives the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(as_markdown(found), encoding="utf-8")
    return path
