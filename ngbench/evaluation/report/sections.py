"""The sections of a page: what each question came to, in tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ngbench.alignment.interpolate import points
from ngbench.errors import NgbenchError, NotApplicableError
from ngbench.evaluation.evaluate import exam_of
from ngbench.evaluation.exam import Exam, PredictionExam, Scored
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.merging_items import LARGEST_SET, NOISES
from ngbench.evaluation.report import pictures
from ngbench.evaluation.report.blocks import Block, Pictures, Section
from ngbench.evaluation.report.examples import GRADES, examples, rendered
from ngbench.evaluation.report.runs import Asked
from ngbench.evaluation.report.scores import question_table
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.evaluation.suite import check_question
from ngbench.evaluation.tables import Answers, Question, question
from ngbench.progress import Progress, silent
from ngbench.store import Zoo
from ngbench.tasks import TASKS, Task

ALL_SHOWN, FIRST_SHOWN = 6, 3
"""Pictures of methods up to which all are shown, and how many are where there are more."""


@dataclass(frozen=True)
class Answered:
    """A question with all that its pictures are drawn from.

    Args:
        exam: What was asked.
        table: Methods side by side.
        answers: Of each method that has some.
    """

    exam: Exam
    table: Question
    answers: Mapping[str, Answers]

    @classmethod
    def of(cls, asked: Asked, methods: Sequence[str], *, progress: Progress = silent) -> Answered:
        """Scores the runs of a question again.

        Args:
            asked: Its runs.
            methods: All of the report; those without a run here are said to have none.
            progress: Told of each run.
        """
        exam = exam_of(asked.task, asked.zoo)
        answers, reasons = dict[str, Answers](), dict[str, str]()
        for done, (name, run) in enumerate(asked.runs.items()):
            progress(done, len(asked.runs), name)
            try:
                answers[name] = Answers.load(run.folder, exam)
            except NgbenchError as error:
                reasons[name] = str(error)
        progress(len(asked.runs), len(asked.runs))
        present = {run.result.method for run in asked.runs.values()}
        reasons |= {name: absence(name, asked.task, asked.zoo) for name in methods if name not in present | _anchors(asked.task)}
        return cls(exam, question(exam, answers, reasons), answers)

    def pictures(self, title: str, draw: Callable[[str, Scored], Any]) -> Pictures:
        """A picture of the first seed of each method, in the order of the table; of many the later ones shown on demand."""
        ranked = [name for row in self.table.rows if (name := row.method) in self.answers]
        drawn = []
        for name in ranked:
            found = self.answers[name]
            drawn.append(draw(f"{name}, seed {found.result.seeds[0].seed}", found.scored[0]))
        number = len(drawn) if len(drawn) <= ALL_SHOWN else FIRST_SHOWN
        return Pictures(title, tuple(drawn[:number]), tuple(drawn[number:]))


def absence(method: str, task: Task, zoo: Zoo) -> str:
    """Why a method has no run of a question."""
    try:
        check_question(method, task, zoo)
    except NotApplicableError as error:
        return str(error)
    except NgbenchError:
        # a method of someone else's, which is not installed here
        pass
    return "no run among those given"


def _anchors(task: Task) -> set[str]:
    """Baselines of other tasks alone, which are not expected in this one."""
    return {name for other in TASKS for name in TASKS[other].baselines} - set(task.baselines)


def question_section(found: Answered) -> Section:
    """The section of a question: its table, where methods stand, and what its kind of task has to show."""
    task, zoo = found.exam.task, found.exam.zoo
    asked = f"{len(found.exam.rows):,} test networks of zoo {zoo.name} version {zoo.version}, split {task.split}"
    lead = f"{task.question} Asked of {asked}; task version {task.version}."
    standing = pictures.standing(found.table)
    blocks: list[Block] = [question_table(found.table)]
    if standing is not None:
        blocks += [Pictures("", (standing,)), *_shown(found)]
    return Section(found.table.title, lead, tuple(blocks))


def _shown(found: Answered) -> Iterator[Block]:
    exam = found.exam
    if isinstance(exam, RetrievalExam):
        images = rendered(exam.zoo, exam.rows)
        signs = ", ".join(f"{sign} {meaning}" for sign, meaning in GRADES.values())
        yield found.pictures(f"Some queries, each with its nearest networks ({signs})", partial(_examples, exam, images))
        yield found.pictures("Map of embeddings", partial(_map, exam))
    elif isinstance(exam, MergingExam):
        yield from _merging(exam, found)
    elif isinstance(exam, PredictionExam) and exam.classes:
        yield found.pictures("Confusion", lambda t, s: pictures.confusion(t, exam.task, exam.classes, exam.targets, s))
        yield found.pictures("Reliability", lambda t, s: pictures.reliability(t, exam.targets, s))
    elif isinstance(exam, PredictionExam):
        yield found.pictures("Predicted against true", lambda t, s: pictures.scatter(t, exam.task, exam.targets, s))


def _examples(exam: RetrievalExam, images: np.ndarray | None, title: str, scored: Scored) -> Any:
    return examples(title, exam, scored, images)


def _map(exam: RetrievalExam, title: str, scored: Scored) -> Any:
    return pictures.embedding_map(title, exam.classes, exam.labels, scored.values)


def _merging(exam: MergingExam, found: Answered) -> Iterator[Block]:
    """What all methods come to in one picture each, of the first seed."""
    ranked = [row.method for row in found.table.rows if row.method in found.answers]
    measured = {name: exam.measured(found.answers[name].scored[0].values) for name in ranked}
    share, x = points().numpy(), "λ, share of the second network"
    kinds = {"": "curves", ", statistics estimated again": "repaired"}
    drawn = [
        pictures.lines(
            f"{word}{suffix}", x, label, share, {n: getattr(getattr(m, kind), word.lower()).mean(0) for n, m in measured.items()}
        )
        for suffix, kind in kinds.items()
        for word, label in (("Loss", "test loss (nats)"), ("Accuracy", "test accuracy"))
    ]
    yield Pictures(f"On the line between two matched networks, mean over {len(exam.items.pairs):,} pairs", tuple(drawn))
    metrics, sizes = {name: m.metrics for name, m in measured.items()}, range(2, LARGEST_SET + 1)
    recovered = _columns(metrics, [f"recovery_{noise:g}" for noise in NOISES])
    merged = _columns(metrics, [f"merged_{size}" for size in sizes])
    noise = "noise, in standard deviations of the weights"
    more = []
    if recovered:
        more.append(pictures.lines("Known permutation", noise, "share of nodes found", np.array(NOISES), recovered))
    if merged:
        more.append(pictures.lines("Sets merged", "networks", "test accuracy of the mean", np.array(sizes), merged))
    if more:
        yield Pictures("Noise, and more than two networks", tuple(more))


def _columns(metrics: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """By method the values of some metrics, of those methods that have them all."""
    return {m: np.array([own[n] for n in names]) for m, own in metrics.items() if all(n in own for n in names)}
