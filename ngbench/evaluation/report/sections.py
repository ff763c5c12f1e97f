"""The sections of a page: what each question came to, in tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ngbench.alignment import points
from ngbench.errors import NgbenchError, NotApplicableError
from ngbench.evaluation.exam import Exam, PredictionExam, Scored
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.protocol import check_question
from ngbench.evaluation.report import pictures
from ngbench.evaluation.report.blocks import Beside, Block, Pictures, Section
from ngbench.evaluation.report.examples import examples, legend, rendered
from ngbench.evaluation.report.runs import Asked
from ngbench.evaluation.report.scores import cost_table, score_tables, transfer_table
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.evaluation.tables import FOREIGN, ONE_ARCHITECTURE, Answers, Question, left_out, question
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
        exam = asked.exam
        answers, reasons = dict[str, Answers](), dict[str, str]()
        for done, (name, run) in enumerate(asked.runs.items()):
            progress(done, len(asked.runs), name)
            try:
                answers[name] = Answers.load(run.folder, exam)
            except NgbenchError as error:
                reasons[name] = str(error)
        progress(len(asked.runs), len(asked.runs))
        present = {run.result.method for run in asked.runs.values()}
        reasons |= {name: absence(name, exam.task, exam.zoo) for name in methods if name not in present | _anchors(exam.task)}
        reasons |= {name: f"left out: {ONE_ARCHITECTURE}" for name in left_out(exam.task, exam.zoo) if name not in present}
        return cls(exam, question(exam, answers, reasons), answers)

    def pictures(self, title: str, draw: Callable[[str, Scored], Any], note: str = "") -> Pictures:
        """A picture of the first seed of each method, in the order of the table; of many the later ones shown on demand."""
        ranked = [name for row in self.table.rows if (name := row.method) in self.answers]
        drawn = []
        for name in ranked:
            found = self.answers[name]
            drawn.append(draw(f"{name}, seed {found.result.seeds[0].seed}", found.scored[0]))
        number = len(drawn) if len(drawn) <= ALL_SHOWN else FIRST_SHOWN
        return Pictures(title, tuple(drawn[:number]), tuple(drawn[number:]), note)


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
    foreign = f" This zoo or target is {FOREIGN}." if found.table.is_foreign else ""
    lead = f"{task.question} Asked of {asked}; task version {task.version}.{foreign}"
    standing = pictures.standing(found.table)
    blocks: list[Block] = list(score_tables(found.table))
    if standing is not None:
        blocks += [Beside(cost_table(found.table), standing), *_in_one(list(_shown(found)))]
    return Section(found.table.title, lead, tuple(blocks))


def transfer_section(tables: Sequence[Question], zoo: str, split: str = "default") -> Section | None:
    """What embeddings that were learned for one target know of the others of a zoo; None where no run was probed."""
    table = transfer_table([question for question in tables if question.task.split == split], zoo)
    lead = "A frozen embedding that was learned for one target, read by a linear probe for each."
    return (
        None
        if table is None
        else Section(f"Transfer on {zoo}" + ("" if split == "default" else f", split {split}"), lead, (table,))
    )


def _in_one(blocks: Sequence[Block]) -> Sequence[Block]:
    """The blocks; those of one picture each side by side in one."""
    found = [block for block in blocks if isinstance(block, Pictures)]
    if len(found) < 2 or len(found) < len(blocks) or any(len(block.first) > 1 or block.arrangement for block in found):
        return blocks
    drawn = [replace(picture, title=f"{block.title}: {picture.title}") for block in found for picture in block.first]
    return [Pictures("", tuple(drawn), note=" ".join(filter(None, (block.note for block in found))))]


def _shown(found: Answered) -> Iterator[Block]:
    exam = found.exam
    if isinstance(exam, RetrievalExam):
        images = rendered(exam.zoo, exam.rows)
        note = legend(exam.task.label(), are_images=images is not None)
        yield found.pictures("Some queries with their nearest networks", partial(_examples, exam, images), note)
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
    share, x = points(exam.plan.num_points).numpy(), "λ, share of the second network"
    kinds = {"": "curves", ", statistics estimated again": "repaired"}
    drawn = [
        pictures.lines(f"{word}{suffix}", x, label, share, _means(measured, kind, word.lower()), is_share=word == "Accuracy")
        for suffix, kind in kinds.items()
        for word, label in (("Loss", "test loss (nats)"), ("Accuracy", "test accuracy"))
    ]
    yield Pictures(f"On the line between two matched networks, mean over {len(exam.items.pairs):,} pairs", tuple(drawn))
    metrics, sizes = {name: m.metrics for name, m in measured.items()}, exam.plan.set_sizes
    recovered = _columns(metrics, [f"recovery_{noise:g}" for noise in exam.plan.noises])
    merged = _columns(metrics, [f"merged_{size}" for size in sizes])
    noise = "noise, in standard deviations of the weights"
    more = []
    if recovered:
        labels = noise, "share of nodes found"
        more.append(pictures.lines("Known permutation", *labels, np.array(exam.plan.noises), recovered, is_share=True))
    if merged:
        labels = "networks", "test accuracy of the mean"
        more.append(pictures.lines("Sets merged", *labels, np.array(sizes), merged, is_share=True))
    if more:
        yield Pictures("Noise, and more than two networks", tuple(more))


def _means(measured: Mapping[str, Any], kind: str, what: str) -> dict[str, np.ndarray]:
    """By method the mean over pairs of what is measured on the line."""
    return {name: getattr(getattr(own, kind), what).mean(0) for name, own in measured.items()}


def _columns(metrics: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """By method the values of some metrics, of those methods that have them all."""
    return {m: np.array([own[n] for n in names]) for m, own in metrics.items() if all(n in own for n in names)}
