"""Tables of results: methods of one question side by side, tracks apart, ties marked, and a rank of those that did all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ngbench.errors import NgbenchError
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, exam_of, seed_folder
from ngbench.evaluation.exam import Exam, Scored
from ngbench.evaluation.identity import run_folder
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import Result
from ngbench.evaluation.suite import State, by_question
from ngbench.metrics import Resamples, facts_of, tied_with_best
from ngbench.store import open_zoo
from ngbench.tasks import TASKS, Task

TRACKS: Mapping[str, str] = {
    "weights": "reads weights",
    "probes": "runs the networks on {number} inputs",
    "hyperparameters": "reads the recipe",
    "none": "reads nothing",
    "truth": "reads what it is scored by",
}
"""Kinds of track, in the order of the tables; methods of different tracks are never ranked together."""


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
class Answers:
    """A finished run with what it said, scored again.

    Args:
        result: As stored.
        scored: For each seed of the result.
    """

    result: Result
    scored: tuple[Scored, ...]

    @classmethod
    def load(cls, folder: Path, exam: Exam) -> Answers:
        """Reads a run.

        Raises:
            ResultError: No readable result.
            PredictionsError: Its predictions cannot be scored.
        """
        result = Result.load(folder)
        files = [seed_folder(folder, seed.seed) / PREDICTIONS_FILE for seed in result.seeds]
        return cls(result, tuple(exam.score(Predictions.load(file)) for file in files))


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
        split = "" if self.task.split == "default" else f", split {self.task.split}"
        return f"{self.task.title}{target} on {self.zoo}{split}"

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
    task = TASKS[first.task].asked(first.zoo, target=first.target)
    done = [state.cell for state in states if state.status == "done"]
    reasons = {state.cell.method: state.reason or state.status for state in states if state.status != "done"}
    if not done:
        # a zoo that cannot be opened is the reason of all of its cells
        return Question(task, first.zoo, tuple(Row(name, None, reason) for name, reason in reasons.items()))
    exam = exam_of(task, open_zoo(first.zoo))
    answers: dict[str, Answers] = {}
    for cell in done:
        try:
            answers[cell.method] = Answers.load(run_folder(cell.out, task, exam.zoo, cell.method, {}), exam)
        except NgbenchError as error:
            reasons[cell.method] = str(error)
    return question(exam, answers, reasons)


def question(exam: Exam, answers: Mapping[str, Answers], reasons: Mapping[str, str]) -> Question:
    """The table of one exam.

    Args:
        exam: What was asked.
        answers: Of each method that has some.
        reasons: Why others have none.
    """
    results = {name: found.result for name, found in answers.items()}
    tied = _tied(exam.task, results, {name: exam.resamples(name, found.scored) for name, found in answers.items()})
    rows = [Row(name, results[name], None, name in tied) for name in _in_order(exam.task, results)]
    return Question(exam.task, exam.zoo.name, (*rows, *(Row(name, None, reason) for name, reason in reasons.items())))


def _in_order(task: Task, results: Mapping[str, Result]) -> list[str]:
    """Names track by track, the best first."""
    sign = -1 if task.primary.higher_is_better else 1
    tracks = list(TRACKS)

    def place(name: str) -> tuple[int, int, float]:
        kind, _, number = results[name].access.partition("-")
        return tracks.index(kind), int(number or 0), sign * results[name].scores[task.primary.name].mean

    return sorted(results, key=place)


def _tied(task: Task, results: Mapping[str, Result], resamples: Mapping[str, Resamples]) -> set[str]:
    """The best of each track and those that are tied with it."""
    found: set[str] = set()
    for track in {result.access for result in results.values()}:
        own = {name: resamples[name] for name in results if results[name].access == track}
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
    parts = [*(_markdown(question) for question in found), *_transfers(found)]
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
            reason = " ".join(str(row.reason).split()).replace("|", "\\|")
            lines.append(f"| {row.method} | {reason} |" + " |" * (len(headings) - 2))
            continue
        if result.access != track:
            track = result.access
            lines.append(f"| *{track_title(track)}* |" + " |" * (len(headings) - 1))
        primary = spread(result, metrics[0].name)
        cells = [
            row.method,
            f"**{primary}**" if row.is_tied else primary,
            f"{result.scrambled_scores[metrics[0].name].mean:.3f}",
            *(result.shown(metric.name) for metric in metrics[1:]),
            f"{result.seeds[0].num_parameters:,}" if result.seeds[0].num_parameters else "—",
            f"{sum(seed.fit_s for seed in result.seeds) / len(result.seeds):.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def transfer_matrix(found: Sequence[Question], zoo: str, method: str) -> dict[str, dict[str, float]]:
    """Mean score over seeds of linear probes of a method's embedding: by the target it was fitted for, and the probed one."""
    matrix = {}
    for question in found:
        for row in question.rows:
            if row.method == method and question.zoo == zoo and row.result is not None and row.result.seeds[0].transfer:
                seeds = row.result.seeds
                probed = {name: sum(seed.transfer[name] for seed in seeds) / len(seeds) for name in seeds[0].transfer}
                matrix[question.task.target or ""] = probed
    return matrix


def _transfers(found: Sequence[Question]) -> list[str]:
    """The matrix of each zoo and method that has one, as Markdown."""
    parts = []
    places = dict.fromkeys((question.zoo, row.method) for question in found for row in question.rows)
    for zoo, method in places:
        matrix = transfer_matrix(found, zoo, method)
        if matrix:
            probed = list(next(iter(matrix.values())))
            lines = [f"### Transfer of {method} on {zoo}: accuracy of linear probes", ""]
            lines += [
                "| fitted for | " + " | ".join(f"probed for {name}" for name in probed) + " |",
                "|" + "---|" * (len(probed) + 1),
            ]
            lines += [f"| {own} | " + " | ".join(f"{row[name]:.3f}" for name in probed) + " |" for own, row in matrix.items()]
            parts.append("\n".join(lines))
    return parts


def track_title(track: str) -> str:
    """What the methods of a track read, as it is printed."""
    kind, _, number = track.partition("-")
    return TRACKS[kind].format(number=number)


def spread(result: Result, metric: str) -> str:
    """Mean and standard deviation over seeds."""
    found = result.scores[metric]
    return f"{found.mean:z.3f}" + (f" ± {found.std:.3f}" if found.std is not None else "")


def write_tables(found: Sequence[Question], folder: Path, name: str) -> Path:
    """Writes the tables of a suite as Markdown into its folder; gives the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(as_markdown(found), encoding="utf-8")
    return path
