"""Everything that is wrong with a submission, found without scoring it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.archive import MAX_UNPACKED_BYTES, Archive
from leaderboard.submission import FILE, MIN_SEEDS, Answers, Fit, Question, plain, shortened
from ngbench.errors import NgbenchError, PredictionsError, SubmissionError
from ngbench.evaluation import Predictions, exam_of
from ngbench.evaluation.exam import Exam, PredictionExam
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.metrics import METRICS
from ngbench.metrics.retrieval import cosine_similarity
from ngbench.store import RELEASED, Zoo, open_zoo
from ngbench.tasks import TASKS


@dataclass(frozen=True)
class Asked:
    """A question with what the method says to it, in which nothing is wrong.

    Args:
        answers: What is said of it.
        exam: Its exam.
        predictions: For each fit.
    """

    answers: Answers
    exam: Exam
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True)
class Inspection:
    """What was found in an archive.

    Args:
        archive: The archive.
        asked: Every question in whose answers nothing is wrong.
        faults: Everything that is wrong, a sentence each; none where the archive can be scored.
    """

    archive: Archive
    asked: tuple[Asked, ...]
    faults: tuple[str, ...]


def known_zoos(more: Iterable[Zoo] = ()) -> dict[str, Zoo]:
    """The zoos that submissions may be about, by sha256: those that are released, and more of a host's own."""
    return {zoo.sha256: zoo for zoo in (*(open_zoo(name) for name in RELEASED), *more)}


def inspect(path: Path, zoos: Mapping[str, Zoo]) -> Inspection:
    """Looks at an archive and all in it.

    Args:
        path: Of the .zip.
        zoos: Those that submissions may be about, by sha256.

    Raises:
        SubmissionError: There is no such file, or it is no .zip that may be opened at all.
    """
    archive = Archive.open(path)
    faults, asked, room_bytes = list(archive.faults), [], MAX_UNPACKED_BYTES
    submitted = archive.submission.answers if archive.submission is not None else ()
    for answers in {own.question: own for own in submitted}.values():
        faults += _faults_of_rules(answers, submitted)
        try:
            exam = exam_for(answers.question, zoos)
        except SubmissionError as error:
            faults += [f"{answers.question}: {fault}" for fault in error.faults]
            continue
        sound: list[Predictions] = []
        for fit in answers.fits:
            predictions, own = _checked(archive, answers, fit, exam)
            faults += own
            room_bytes -= _num_bytes(predictions)
            if room_bytes < 0:
                faults.append(f"the predictions unpack to more than {MAX_UNPACKED_BYTES:,} bytes; expected smaller ones")
                return Inspection(archive, (), _told(faults))
            sound += [predictions] if predictions is not None and not own else []
        if len(sound) == len(answers.fits):
            asked.append(Asked(answers, exam, tuple(sound)))
    return Inspection(archive, tuple(asked), _told(faults))


def _told(faults: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(plain, faults)))


def _num_bytes(predictions: Predictions | None) -> int:
    """Memory that predictions take; a file of zeros unpacks to a thousand times its size."""
    if predictions is None:
        return 0
    return predictions.values.nbytes + predictions.scrambled.nbytes + 4 * sum(map(len, predictions.ids))


def validate(path: Path, zoos: Mapping[str, Zoo] | None = None) -> tuple[str, ...]:
    """Everything that is wrong with an archive, a sentence each; nothing where it can be scored.

    Args:
        path: Of the .zip.
        zoos: Those that submissions may be about, by sha256; None for the released ones.
    """
    try:
        return inspect(path, known_zoos() if zoos is None else zoos).faults
    except SubmissionError as error:
        return error.faults


def _faults_of_rules(answers: Answers, submitted: Iterable[Answers]) -> Iterator[str]:
    count = sum(own.question == answers.question for own in submitted)
    if count > 1:
        yield f"{answers.question}: it is answered {count} times; expected once, with all fits"
    seeds = Counter(fit.seed for fit in answers.fits)
    for seed, count in seeds.items():
        if count > 1:
            yield f"{answers.question}: seed {seed} is there {count} times; expected different seeds"
    if len(seeds) < MIN_SEEDS:
        yield f"{answers.question}: there are fits with {len(seeds)} seeds; expected at least {MIN_SEEDS}"


def exam_for(question: Question, zoos: Mapping[str, Zoo]) -> Exam:
    """The exam of a question.

    Args:
        question: As a submission puts it.
        zoos: Those that it may be about, by sha256.

    Raises:
        SubmissionError: There is no such task, zoo, version, split or target, or the split is not disjoint by run.
    """
    if question.task not in TASKS:
        raise SubmissionError([f"there is no task {question.task!r}; expected one of {', '.join(TASKS)}"], FILE)
    task, zoo = TASKS[question.task], zoos.get(question.zoo_sha256)
    if zoo is None:
        known = ", ".join(f"{zoo.name} version {zoo.version} ({sha256[:12]}…)" for sha256, zoo in zoos.items())
        raise SubmissionError(
            [f"no zoo with sha256 {question.zoo_sha256[:12]}… is known; expected that of one of {known}"],
            FILE,
        )
    pairs = {
        "task_version": (question.task_version, task.version),
        "zoo": (question.zoo, zoo.name),
        "zoo_version": (question.zoo_version, str(zoo.version)),
    }
    faults = [f"{name} is {got!r}; expected {wanted!r}" for name, (got, wanted) in pairs.items() if got != wanted]
    try:
        asked = task.asked(zoo.name, split=question.split, target=question.target)
        if asked.target != question.target:
            faults.append(f"target is {question.target!r}; expected a column, such as {asked.target!r}")
        exam = exam_of(asked, zoo)
        faults += _shared_runs(zoo, question.split)
    except NgbenchError as error:
        raise SubmissionError([*faults, str(error)], FILE) from error
    if faults:
        raise SubmissionError(faults, FILE)
    return exam


def _shared_runs(zoo: Zoo, split: str) -> Iterator[str]:
    """Whether a method that learned from the other parts of a split saw runs of its test part."""
    test = zoo.split("test", name=split)
    for part in ("train", "val"):
        rows = zoo.split(part, name=split)
        for what, keys in {"runs": zoo.run_ids, "what the split keeps together": zoo.split_keys}.items():
            shared = sorted(set(keys[rows].tolist()) & set(keys[test].tolist()))
            if shared:
                yield f"split {split!r} has {len(shared)} of {what} in {part} and test, such as {shared[0]!r}; expected none"


def _checked(archive: Archive, answers: Answers, fit: Fit, exam: Exam) -> tuple[Predictions | None, list[str]]:
    """The predictions of a fit, and all that is wrong with them."""
    path = answers.path(fit)
    predictions, faults = archive.predictions(path)
    if predictions is None:
        return None, faults
    found = (*_faults_of_origin(predictions, answers.question, fit), *_faults_of_rows(predictions, exam))
    return predictions, [f"{path}: {fault}" for fault in dict.fromkeys(found)]


def _faults_of_origin(predictions: Predictions, question: Question, fit: Fit) -> Iterator[str]:
    """Where a file says of itself that it is about something else, such as another version of the zoo."""
    expected = {name: getattr(question, name) for name in ("task", "task_version", "zoo", "zoo_sha256", "split")}
    expected |= {"seed": fit.seed} | ({} if question.target is None else {"target": question.target})
    for name, wanted in expected.items():
        got = predictions.about.get(name)
        if got != wanted:
            yield f"it is about {name} {shortened(got)}; expected {wanted!r}, as {FILE} has it"


def _faults_of_rows(predictions: Predictions, exam: Exam) -> Iterator[str]:
    faults = tuple(predictions.faults(exam.ids))
    yield from faults
    wanted = exam.task.num_scrambled
    if predictions.scrambled.shape[:1] != (wanted,):
        yield (
            f"scrambled has shape {list(predictions.scrambled.shape)}; expected answers for {wanted} orbit-scrambled copies of "
            "the test networks"
        )
    if faults:
        return
    values, scrambled = predictions.aligned(exam.ids)
    for name, array in (("values", values), *((f"scrambled copy {copy + 1}", own) for copy, own in enumerate(scrambled))):
        try:
            check_content(exam, array)
        except PredictionsError as error:
            yield f"{name}: {error}"


def check_content(exam: Exam, values: np.ndarray) -> None:
    """Whether finite values for all rows are such as the exam scores: of its shape and range, and probabilities where asked.

    Args:
        exam: Of the question.
        values: In its order, ``[rows, ...]``.

    Raises:
        PredictionsError: They are not.
    """
    exam.check(values)
    if isinstance(exam, MergingExam):
        exam.items.unpacked(values)
    elif isinstance(exam, RetrievalExam):
        cosine_similarity(values, values)
    elif isinstance(exam, PredictionExam):
        # answers are not needed to tell a probability
        METRICS[exam.task.primary.name].checked(values, np.zeros(len(values), dtype=np.int64))
