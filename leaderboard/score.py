"""Scores of a submission, computed from its predictions: what its authors claim decides nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from leaderboard.archive import Archive
from leaderboard.records import Acceptance, Day, Record, Scores, SeedScore, packed
from leaderboard.submission import Fit, Name, Text, faults_of
from leaderboard.validate import Asked, inspect
from ngbench import __version__
from ngbench.errors import SubmissionError
from ngbench.evaluation.environment import single_threaded
from ngbench.evaluation.exam import Exam, PredictionExam, Scored
from ngbench.evaluation.rescoring import tolerance_of
from ngbench.evaluation.result import IntervalRecord, Spread
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.store import Zoo

DIGITS = 4
"""Decimals of predictions that a fingerprint counts, of the largest one's power of ten."""

SAME = 1e-6
"""How near a prediction is to an answer that it equals."""

SHARE_OF_NUMBERS = 0.5
"""Of the test networks, whose numbers no honest method hits."""


def score(
    path: Path,
    zoos: Mapping[str, Zoo],
    *,
    name: str | None = None,
    known: Sequence[Record] = (),
    date: str,
    note: str | None = None,
) -> Record:
    """Scores an archive in which nothing is wrong.

    Args:
        path: Of the .zip.
        zoos: Those that submissions may be about, by sha256; with answers where the public file withholds them.
        name: Under which it is accepted; None for one made of its title.
        known: Records of all submissions that were accepted before, which it may not copy.
        date: Of today, as ``2026-11-23``.
        note: What is new, where a submission of this name was accepted before.

    Raises:
        SubmissionError: Something is wrong with it, the name or the note, the zoo withholds the answers, or it is a copy; the
            error has all faults.
    """
    inspection = inspect(path, zoos)
    submission = inspection.archive.submission
    if submission is None or inspection.faults:
        raise SubmissionError(inspection.faults, str(path))
    name = name_of(submission.about.title) if name is None else name
    accepted = _accepted(inspection.archive, name=name, date=date, note=note)
    before = next((record for record in known if record.name == name), None)
    if before is not None and not set(before.about.authors) & set(submission.about.authors):
        raise SubmissionError(
            [f"a submission of {', '.join(before.about.authors)} has the name {name!r}; expected another name, or one of these"],
            str(path),
        )
    with single_threaded():
        pairs = [(asked, [asked.exam.score(own) for own in asked.predictions]) for asked in inspection.asked]
        faults = [fault for asked, scored in pairs for fault in (*_withheld(asked, scored), *_copies(asked, scored, name, known))]
        if faults:
            raise SubmissionError(faults, str(path))
        rows = tuple(_row(asked, scored, submission.about.title) for asked, scored in pairs)
    earlier = before.history if before is not None else ()
    return Record(
        name=name,
        about=submission.about,
        rows=rows,
        differences=tuple(sentence for asked, scored in pairs for sentence in _differences(asked, scored)),
        flags=tuple(sentence for asked, scored in pairs for sentence in _flags(asked, scored)),
        # an archive that is scored again is accepted once
        history=(*(own for own in earlier if own.archive_sha256 != accepted.archive_sha256), accepted),
    )


class _Given(BaseModel):
    """What whoever accepts a submission says of it."""

    name: Name
    date: Day
    note: Text | None


def _accepted(archive: Archive, *, name: str, date: str, note: str | None) -> Acceptance:
    """The newest entry of a history.

    Raises:
        SubmissionError: The name is none of a folder, the date no day, or the note no line of text.
    """
    try:
        given = _Given(name=name, date=date, note=note)
    except ValidationError as error:
        raise SubmissionError(list(faults_of(error, "acceptance")), str(archive.path)) from error
    return Acceptance(date=given.date, archive_sha256=archive.sha256, ngbench=__version__, note=given.note)


def name_of(title: str) -> str:
    """A title as the name of a folder: letters and digits, and hyphens between."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return (
        re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-") or f"method-{hashlib.sha256(title.encode()).hexdigest()[:8]}"
    )


def fingerprint(values: np.ndarray) -> str:
    """Hexadecimal sha256 of rounded predictions, by which a copy is found even where a little noise was added.

    Args:
        values: In the order of the exam, ``[rows, ...]``.
    """
    array = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(array).max(initial=0.0))
    scale = 10.0 ** min(math.ceil(math.log10(largest)), sys.float_info.max_10_exp) if largest > 0 else 1.0
    rounded = np.rint(array / scale * 10**DIGITS).astype("<i4")
    return hashlib.sha256(repr(rounded.shape).encode() + rounded.tobytes()).hexdigest()


def _withheld(asked: Asked, scored: Sequence[Scored]) -> Iterator[str]:
    if not all(found.scores for found in scored):
        yield f"{asked.answers.question}: the zoo withholds the answers; its host scores submissions, with the answer file"


def _copies(asked: Asked, scored: Sequence[Scored], name: str, known: Sequence[Record]) -> Iterator[str]:
    """Fits that say what a fit of another submission says."""
    others = {
        seed.fingerprint: (record.name, seed.seed)
        for record in known
        if record.name != name
        for row in record.rows
        if row.question == asked.answers.question
        for seed in row.seeds
    }
    for fit, found in zip(asked.answers.fits, scored, strict=True):
        copied = others.get(fingerprint(found.values))
        if copied is not None:
            yield (
                f"{asked.answers.question}: the predictions of seed {fit.seed} are those of submission {copied[0]!r}, seed "
                f"{copied[1]}; expected the method's own"
            )


def _row(asked: Asked, scored: Sequence[Scored], title: str) -> Scores:
    answers, exam = asked.answers, asked.exam
    resamples = exam.resamples(title, scored)
    interval = resamples.interval(exam.task.confidence)
    return Scores(
        question=answers.question,
        track=answers.track,
        trained_on=answers.trained_on,
        hardware=answers.hardware,
        settings=answers.settings,
        primary=exam.task.primary.name,
        higher_is_better=exam.task.primary.higher_is_better,
        num_test=len(exam.rows),
        seeds=tuple(_seed_score(fit, found) for fit, found in zip(answers.fits, scored, strict=True)),
        scores={metric: Spread.of([found.scores[metric] for found in scored]) for metric in scored[0].scores},
        scrambled_scores={metric: Spread.of([found.scrambled_scores[metric] for found in scored]) for metric in scored[0].scores},
        interval=IntervalRecord(**dataclasses.asdict(interval)),
        draws=packed(resamples.draws),
    )


def _seed_score(fit: Fit, scored: Scored) -> SeedScore:
    # of a merging nothing can be said of shifts
    shifts = None if np.isnan(scored.shifts).any() else scored.shifts
    return SeedScore(
        seed=fit.seed,
        scores=scored.scores,
        scrambled_scores=scored.scrambled_scores,
        mean_shift=None if shifts is None else float(shifts.mean()),
        largest_shift=None if shifts is None else float(shifts.max()),
        fingerprint=fingerprint(scored.values),
        num_parameters=fit.num_parameters,
        fit_s=fit.fit_s,
        predict_s=fit.predict_s,
        peak_memory_bytes=fit.peak_memory_bytes,
    )


def _differences(asked: Asked, scored: Sequence[Scored]) -> Iterator[str]:
    """Where claimed numbers are not those that follow from the predictions."""
    question, tolerance = asked.answers.question, tolerance_of(asked.exam.task, asked.exam.zoo)
    for fit, found in zip(asked.answers.fits, scored, strict=True):
        for metric, claimed in fit.claimed.items():
            own = found.scores.get(metric)
            if own is None:
                yield f"{question}, seed {fit.seed}: claims {metric} {claimed:.4f}, which the task does not measure"
            elif not math.isclose(claimed, own, rel_tol=tolerance, abs_tol=tolerance):
                yield f"{question}, seed {fit.seed}: claims {metric} {claimed:.6g}; its predictions give {own:.6g}"


def _flags(asked: Asked, scored: Sequence[Scored]) -> Iterator[str]:
    """Fits that say what only someone who has the answers can say."""
    if asked.exam.task.caveat is not None:
        return
    for fit, found in zip(asked.answers.fits, scored, strict=True):
        suspicion = _suspicion(asked.exam, found)
        if suspicion is not None:
            yield f"{asked.answers.question}, seed {fit.seed}: {suspicion}"


def _suspicion(exam: Exam, scored: Scored) -> str | None:
    if isinstance(exam, PredictionExam) and exam.classes:
        wanted = np.eye(len(exam.classes))[exam.targets]
        is_label = np.abs(scored.values - wanted).max() <= SAME
        return "its predictions equal the labels: every class with probability 1" if is_label else None
    if isinstance(exam, PredictionExam):
        num_same = int((np.abs(scored.values - exam.targets) <= SAME).sum())
        is_label = num_same > SHARE_OF_NUMBERS * len(exam.targets)
        return f"its predictions equal the labels of {num_same} of {len(exam.targets)} test networks" if is_label else None
    if isinstance(exam, RetrievalExam):
        _, groups = np.unique(np.asarray(scored.values), axis=0, return_inverse=True)
        pairs = {*zip(groups.ravel().tolist(), exam.labels.tolist(), strict=True)}
        is_label = len(pairs) == len(set(exam.labels.tolist())) == len(set(groups.ravel().tolist()))
        return "its embeddings equal the labels: one for each class" if is_label else None
    return None
