"""Tables of results: methods of one question side by side, tracks apart, ties marked, and a rank of those that did all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ngbench.errors import NgbenchError, NotApplicableError
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, differences_from, exam_of, seed_folder
from ngbench.evaluation.exam import Exam, Scored
from ngbench.evaluation.identity import run_folder
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.protocol import check_question
from ngbench.evaluation.result import Result, Spread
from ngbench.evaluation.suite.running import State, by_question
from ngbench.metrics import Resamples, facts_of, tied_with_best
from ngbench.progress import Progress, silent
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task

TRACKS: Mapping[str, str] = {
    "weights": "reads weights",
    "probes": "runs the networks on {number} inputs",
    "hyperparameters": "reads the recipe",
    "none": "reads nothing",
    "truth": "reads what it is scored by",
}
"""Kinds of track, in the order of the tables; methods of different tracks are never ranked together."""

FOREIGN = "not part of the protocol"
"""Said of a question whose zoo or target its task does not name."""

ONE_ARCHITECTURE = "reads one architecture only"
"""Why a baseline is left out of a zoo of several."""

FEWER_SEEDS = "†"
"""Behind the name of a method with fewer seeds than its task asks for."""

TELLABLE_BYTES = 1_000_000
"""Memory below which a process of Python cannot tell what a method took from what it took itself."""


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

    def of_seeds(self, seeds: Sequence[int]) -> list[Scored]:
        """What was said with some seeds, of those that there are."""
        known = {seed.seed: scored for seed, scored in zip(self.result.seeds, self.scored, strict=True)}
        return [known[seed] for seed in seeds if seed in known]


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
        is_choice = self.task.kind in ("classification", "retrieval") or self.task.target != self.task.asked(self.zoo).target
        target = f" of {self.task.label()}" if is_choice else ""
        split = "" if self.task.split == "default" else f", split {self.task.split}"
        foreign = f" ({FOREIGN})" if self.is_foreign else ""
        return f"{self.task.title}{target} on {self.zoo}{split}{foreign}"

    @property
    def is_foreign(self) -> bool:
        """Whether its zoo or target stand in no line of the task's protocol."""
        return is_foreign(self.task, self.zoo)

    @property
    def results(self) -> dict[str, Result]:
        """By method, in the order of the rows."""
        return {row.method: row.result for row in self.rows if row.result is not None}

    def rivals(self, method: str) -> int:
        """Methods of the same track with a result, itself not counted."""
        results = self.results
        return sum(result.access == results[method].access for result in results.values()) - 1

    def is_best(self, row: Row) -> bool:
        """Whether it is the best of several of its track, or tied with it."""
        return row.is_tied and self.rivals(row.method) > 0

    def lacks_seeds(self, method: str) -> bool:
        """Whether a method has fewer seeds than the task asks for."""
        return len(self.results[method].seeds) < self.task.num_seeds

    def rank(self, method: str) -> float | None:
        """Place of a method among those of its track, from 1; None where it has no result.

        Methods that are tied, with the best or by equal scores, have the mean of their places.
        """
        results = self.results
        if method not in results:
            return None
        sign = -1 if self.task.primary.higher_is_better else 1
        ties = {row.method for row in self.rows if row.is_tied}
        track = [name for name, result in results.items() if result.access == results[method].access]
        keys = {n: (0, 0.0) if n in ties else (1, sign * results[n].scores[self.task.primary.name].mean) for n in track}
        before = sum(key < keys[method] for key in keys.values())
        equal = sum(key == keys[method] for key in keys.values())
        return before + (equal + 1) / 2


def is_foreign(task: Task, zoo: str) -> bool:
    """Whether a task does not name a zoo, or not the target that it is asked about there."""
    columns = task.zoos.get(zoo)
    return columns is None or task.target not in (columns or (None,))


def left_out(task: Task, zoo: Zoo) -> tuple[str, ...]:
    """Baselines of a task that cannot read the networks of a zoo."""

    def reads(name: str) -> bool:
        try:
            check_question(name, task, zoo)
        except NotApplicableError:
            return False
        return True

    return tuple(name for name in task.baselines if not reads(name))


def questions(states: Sequence[State], progress: Progress = silent) -> list[Question]:
    """The table of each question of a suite that was run; what was said is scored again.

    Args:
        states: How each cell ended.
        progress: Told how many of the finished cells have been scored.
    """
    num_done, found = 0, []
    for of_question in by_question(states).values():
        found.append(_question(of_question, lambda done, before=num_done: progress(before + done, len(states))))
        num_done += len(of_question)
        progress(num_done, len(states))
    return found


def _question(states: Sequence[State], scored: Callable[[int], None]) -> Question:
    first = states[0].cell
    task = TASKS[first.task].asked(first.zoo, target=first.target)
    done = [state.cell for state in states if state.status == "done"]
    reasons = {state.cell.method: state.reason or state.status for state in states if state.status != "done"}
    if not done:
        # a zoo that cannot be opened is the reason of all of its cells
        return Question(task, first.zoo, tuple(Row(name, None, reason) for name, reason in reasons.items()))
    exam = exam_of(task, open_zoo(first.zoo))
    answers: dict[str, Answers] = {}
    resamples: dict[str, Resamples] = {}
    folders = {cell.method: run_folder(cell.out, task, exam.zoo, cell.method, {}) for cell in done}
    for number, (method, folder) in enumerate(folders.items(), start=1):
        try:
            loaded = Answers.load(folder, exam)
            resamples[method] = exam.resamples(method, loaded.scored)
            answers[method] = loaded
        except NgbenchError as error:
            reasons[method] = str(error)
        scored(number)
    results = _completed(exam, answers, resamples, folders)
    return ranked(exam.task, exam.zoo.name, results=results, resamples=resamples, reasons=reasons)


def _completed(
    exam: Exam, answers: Mapping[str, Answers], resamples: Mapping[str, Resamples], folders: Mapping[str, Path]
) -> dict[str, Result]:
    """Results with the differences to all baselines, which a cell of a suite cannot know; their files are brought up to date."""
    found = {name: own.result for name, own in answers.items()}
    for name in set(answers) - set(exam.task.baselines):
        seeds = [seed.seed for seed in found[name].seeds]
        others = {}
        for other in set(exam.task.baselines) & set(answers):
            if [seed.seed for seed in found[other].seeds] == seeds:
                others[other] = resamples[other]
            elif len(same := answers[other].of_seeds(seeds)) == len(seeds):
                others[other] = exam.resamples(other, same)
        differences = found[name].differences | differences_from(exam.task, resamples[name], others)
        if differences != found[name].differences:
            found[name] = found[name].model_copy(update={"differences": differences})
            found[name].save(folders[name])
    return found


def question(exam: Exam, answers: Mapping[str, Answers], reasons: Mapping[str, str]) -> Question:
    """The table of one exam.

    Args:
        exam: What was asked.
        answers: Of each method that has some.
        reasons: Why others have none.
    """
    results = {name: found.result for name, found in answers.items()}
    resamples = {name: exam.resamples(name, found.scored) for name, found in answers.items()}
    return ranked(exam.task, exam.zoo.name, results=results, resamples=resamples, reasons=reasons)


def ranked(
    task: Task, zoo: str, *, results: Mapping[str, Result], resamples: Mapping[str, Resamples], reasons: Mapping[str, str]
) -> Question:
    """The table of results, track by track, with those marked that are tied with the best.

    Args:
        task: About the zoo and target.
        zoo: Name of the zoo.
        results: By method.
        resamples: Of their primary metric, of the same draws.
        reasons: Why other methods have no result.
    """
    tied = _tied(task, results, resamples)
    rows = [Row(name, results[name], None, name in tied) for name in _in_order(task, results)]
    return Question(task, zoo, (*rows, *(Row(name, None, reason) for name, reason in reasons.items())))


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


@dataclass(frozen=True)
class Standing:
    """Where a method stands over all questions.

    Args:
        method: Its name.
        track: What it reads, as it is printed.
        rank: Mean rank within its track, over the questions of each task and then over tasks.
        num_rivals: Fewest and most other methods of its track in a question.
    """

    method: str
    track: str
    rank: float
    num_rivals: tuple[int, int]

    @property
    def rivals(self) -> str:
        """How many, as it is printed."""
        return " to ".join(dict.fromkeys(map(str, self.num_rivals)))


def overall(found: Sequence[Question]) -> list[Standing]:
    """The standing of each method that has a result for every question, the best first."""
    methods = dict.fromkeys(row.method for question in found for row in question.rows)
    whole = [method for method in methods if all(method in question.results for question in found)]
    return sorted((_standing(found, method) for method in whole), key=lambda standing: standing.rank)


def _standing(found: Sequence[Question], method: str) -> Standing:
    ranks: dict[str, list[float]] = {}
    for question in found:
        rank = question.rank(method)
        assert rank is not None
        ranks.setdefault(question.task.name, []).append(rank)
    tracks = dict.fromkeys(track_title(question.results[method].access) for question in found)
    rivals = [question.rivals(method) for question in found]
    return Standing(method, ", ".join(tracks), fmean(map(fmean, ranks.values())), (min(rivals), max(rivals)))


def as_markdown(found: Sequence[Question]) -> str:
    """All tables as Markdown."""
    parts = [*(_markdown(question) for question in found), *_transfers(found)]
    standings = overall(found)
    if standings:
        rows = "\n".join(f"| {s.method} | {s.track} | {s.rank:.2f} | {s.rivals} |" for s in standings)
        heading = "### Mean rank within its track, of methods that did everything"
        note = "Mean over the questions of each task, then over tasks; methods that are tied share the mean of their places."
        parts.append(f"{heading}\n\n| method | track | rank | rivals |\n|---|---|---|---|\n{rows}\n\n{note}")
    return "\n\n".join(parts) + "\n"


def _markdown(question: Question) -> str:
    metrics = [facts_of(name) for name in question.task.metrics]
    headings = ["method", metrics[0].title, f"{question.task.confidence:.0%} interval", "scrambled"]
    headings += [*(metric.title for metric in metrics[1:]), "parameters", "fit"]
    lines = [f"### {question.title}", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    track = ""
    for row in question.rows:
        if row.result is None:
            reason = " ".join(str(row.reason).split()).replace("|", "\\|")
            lines.append(f"| {row.method} | {reason} |" + " |" * (len(headings) - 2))
            continue
        if row.result.access != track:
            track = row.result.access
            lines.append(f"| *{track_title(track)}* |" + " |" * (len(headings) - 1))
        lines.append("| " + " | ".join(_cells(question, row, row.result)) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in _notes(question))])


def _cells(question: Question, row: Row, result: Result) -> list[str]:
    primary, seeds = spread(result, result.primary), result.seeds
    return [
        row.method + (f" {FEWER_SEEDS}" if question.lacks_seeds(row.method) else ""),
        f"**{primary}**" if question.is_best(row) else primary,
        interval(result),
        shown_spread(result.scrambled_scores[result.primary]),
        *(spread(result, name) for name in question.task.metrics if name != result.primary),
        f"{seeds[0].num_parameters:,}" if seeds[0].num_parameters else "—",
        f"{fmean(seed.fit_s for seed in seeds):.0f} s",
    ]


def _notes(question: Question) -> list[str]:
    """What the marks of a table mean, of those that it has."""
    has_best = any(question.is_best(row) for row in question.rows)
    best = "**Bold**: the best of several in its track, or not told from it by the paired bootstrap."
    caveat = question.task.caveat
    return [*([best] if has_best else []), *seeds_note(question), *([caveat] if caveat else [])]


def seeds_note(question: Question) -> list[str]:
    """That rows have fewer seeds than the task asks for, where some have."""
    short = [name for name in question.results if question.lacks_seeds(name)]
    return [f"{FEWER_SEEDS} Fewer seeds than the {question.task.num_seeds} that the protocol asks for."] if short else []


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
    """Mean and standard deviation over seeds of a metric; a dash where there is nothing that it could be of."""
    return shown_spread(result.scores[metric]) if metric in result.scores else "—"


def shown_spread(found: Spread) -> str:
    """Mean and standard deviation, as they are printed."""
    return f"{found.mean:z.3f}" + (f" ± {found.std:.3f}" if found.std is not None else "")


def shown_shift(mean: float | None) -> str:
    """How far answers move when hidden neurons are permuted, as it is printed; a dash where that is not told."""
    if mean is None:
        return "—"
    return "0" if mean == 0 else f"{mean:.3f}" if mean >= 0.0005 else f"{mean:.0e}"


def interval(result: Result) -> str:
    """Ends of the interval of the primary metric, as they are printed; a dash where there is none."""
    return "—" if result.interval is None else f"{result.interval.low:z.3f} … {result.interval.high:z.3f}"


def memory(result: Result) -> str:
    """Most memory of a seed, as it is printed; a dash where the platform does not tell."""
    peaks = [seed.peak_memory_bytes for seed in result.seeds if seed.peak_memory_bytes is not None]
    return shown_memory(max(peaks, default=None))


def shown_memory(num_bytes: int | None) -> str:
    """Bytes, as they are printed; a dash where they are not told."""
    if num_bytes is None:
        return "—"
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes >= TELLABLE_BYTES else f"< {TELLABLE_BYTES / 1e6:.0f} MB"


def write_tables(found: Sequence[Question], folder: Path, name: str) -> Path:
    """Writes the tables of a suite as Markdown into its folder; gives the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(as_markdown(found), encoding="utf-8")
    return path
