"""What the leaderboard keeps of an accepted submission: scores that it computed itself, in a file of a few kilobytes."""

from __future__ import annotations

import base64
import binascii
import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from leaderboard.submission import About, Name, Question, Sha256, Text, Track, faults_of
from ngbench.errors import SubmissionError
from ngbench.evaluation.result import IntervalRecord, Spread, write_json
from ngbench.metrics import Resamples

RECORD_FILE = "record.json"
SUBMISSIONS = Path(__file__).parent / "submissions"
"""The accepted submissions, a folder each, as they are published."""


def packed(draws: np.ndarray) -> str:
    """Draws ``[resamples]`` as text: base64 of little-endian float32, whose rounding is far below what they differ by."""
    return base64.b64encode(draws.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Draws, float64 ``[resamples]``, that `packed` made a text of.

    Raises:
        ValueError: The text is none of these, or a draw is not finite.
    """
    try:
        draws = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except binascii.Error as error:
        raise ValueError(f"no base64 ({error})") from error
    if len(draws) == 0 or not np.isfinite(draws).all():
        raise ValueError(f"{len(draws)} draws, not all of them finite numbers")
    return draws


def _is_packed(text: str) -> str:
    unpacked(text)
    return text


Draws = Annotated[str, AfterValidator(_is_packed)]
"""Resamples of a score as text, as of `packed`."""


def _is_day(text: str) -> str:
    datetime.date.fromisoformat(text)
    return text


Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_is_day)]
"""A day that there is, as ``2026-11-23``."""

Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.!+-]{0,39}$")]
"""Of ngbench."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SeedScore(_Record):
    """One fit, scored again.

    Attributes:
        seed: Its seed, as it was submitted.
        scores: Metrics on the test split, by name.
        scrambled_scores: The same on that orbit-scrambled copy of the test split on which the primary metric is worst.
        mean_shift: How far answers move when hidden neurons are permuted, mean over networks; None for merging.
        largest_shift: The largest over networks; None for merging.
        fingerprint: Hash of the rounded predictions, by which a copy of them is found.
        num_parameters: As it was submitted.
        fit_s: As it was submitted.
        predict_s: As it was submitted.
        peak_memory_bytes: As it was submitted.
    """

    seed: int
    scores: dict[str, float]
    scrambled_scores: dict[str, float]
    mean_shift: float | None
    largest_shift: float | None
    fingerprint: Sha256
    num_parameters: int
    fit_s: float
    predict_s: float
    peak_memory_bytes: int | None


class Scores(_Record):
    """A submission's answers to one question, scored again: a row of a table.

    Attributes:
        question: Which.
        track: What the method reads of a network; tracks are never mixed.
        trained_on: Parts of the split that it was fitted on and chosen by, as it was submitted.
        hardware: As it was submitted.
        settings: As they were submitted.
        primary: Name of the metric that ranks.
        higher_is_better: Its direction.
        num_test: How many networks the test split has.
        seeds: One entry for each fit.
        scores: Mean and std over seeds, by metric.
        scrambled_scores: The same on the orbit-scrambled test split.
        interval: Primary metric, mean over seeds, with its bootstrap interval over test networks and seeds.
        draws: The primary metric on each draw of test networks and seeds; those of all records of a question are paired.
    """

    question: Question
    track: Track
    trained_on: tuple[str, ...]
    hardware: Text
    settings: dict[Text, Text]
    primary: str
    higher_is_better: bool
    num_test: int
    seeds: tuple[SeedScore, ...] = Field(min_length=1)
    scores: dict[str, Spread]
    scrambled_scores: dict[str, Spread]
    interval: IntervalRecord
    draws: Draws

    @property
    def resamples(self) -> Resamples:
        """What two rows of one question are compared by, as by `ngbench.metrics.bootstrap.tied_with_best`."""
        return Resamples(self.interval.score, unpacked(self.draws))


class Acceptance(_Record):
    """When an archive was scored.

    Attributes:
        date: Day, UTC.
        archive_sha256: Of the archive.
        ngbench: Version that scored it.
        note: What is new.
    """

    date: Day
    archive_sha256: Sha256
    ngbench: Version
    note: Text | None = None


class Record(_Record):
    """An accepted submission.

    Attributes:
        format_version: Of this file.
        name: Of its folder, and of its page.
        about: Who made which method, as it was submitted.
        rows: Its scores, one entry for each question.
        differences: Where the authors' own numbers differ from these, a sentence each.
        flags: What looks suspicious and was accepted all the same, a sentence each.
        history: Archives that were scored under this name, the newest last.
    """

    format_version: Literal[1] = 1
    name: Name
    about: About
    rows: tuple[Scores, ...] = Field(min_length=1)
    differences: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    history: tuple[Acceptance, ...] = Field(min_length=1)

    def save(self, submissions: Path) -> Path:
        """Writes ``NAME/record.json`` under a folder, whole or not at all."""
        folder = submissions / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return write_json(folder / RECORD_FILE, self)

    @classmethod
    def load(cls, path: Path) -> Record:
        """Reads a ``record.json``.

        Raises:
            SubmissionError: The file is missing or no record that this ngbench can read.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SubmissionError([f"cannot be read ({error.strerror}); expected a record.json"], str(path)) from error
        except ValidationError as error:
            raise SubmissionError(list(faults_of(error, "record")), str(path)) from error


def load_records(submissions: Path = SUBMISSIONS) -> tuple[Record, ...]:
    """All accepted submissions of a folder, by name.

    Raises:
        SubmissionError: A file is no record, or its folder has another name than it.
    """
    found = [(path, Record.load(path)) for path in sorted(submissions.glob(f"*/{RECORD_FILE}"))]
    for path, record in found:
        if record.name != path.parent.name:
            raise SubmissionError([f"has name {record.name!r}; expected {path.parent.name!r}, as its folder"], str(path))
    return tuple(record for _, record in found)
