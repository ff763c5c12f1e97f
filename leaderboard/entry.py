"""What a pull request adds to the leaderboard: a folder with an archive and the record that the archive gives."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from leaderboard.records import RECORD_FILE, Record, unpacked
from leaderboard.score import score
from leaderboard.submission import shortened
from ngbench.errors import SubmissionError
from ngbench.evaluation.rescoring import ARITHMETIC, tolerance_of
from ngbench.store import Zoo
from ngbench.tasks import TASKS

ARCHIVE_FILE = "submission.zip"

_MOST_TOLD = 20
_DRAWS = re.compile(r"\.rows\.\d+\.draws")

SINGLE_PRECISION = 1e-6
"""How far draws may be from what they were, which are kept as float32."""


def faults_of_entry(folder: Path, zoos: Mapping[str, Zoo], *, known: Sequence[Record] = ()) -> tuple[str, ...]:
    """Everything that is wrong with the folder of a submission, a sentence each; nothing where it may be accepted.

    The archive is validated and scored again, and every number of the record compared with what follows.

    Args:
        folder: ``leaderboard/submissions/NAME``, with `ARCHIVE_FILE` and the record that ``ngbench validate --accept`` wrote.
        zoos: Those that submissions may be about, by sha256.
        known: Records of all submissions that were accepted before.
    """
    if folder.is_symlink():
        return (f"{folder.name} is a link; expected a folder with {ARCHIVE_FILE} and {RECORD_FILE}",)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink()) if names else []
    if names != {ARCHIVE_FILE, RECORD_FILE} or links:
        found = ", ".join(shortened(name) for name in sorted(names)) or "nothing"
        advice = "" if ARCHIVE_FILE in names else "; make the archive again by `ngbench submit`"
        told = f"{folder.name} holds {found}{', links among them' if links else ''}"
        return (f"{told}; expected {ARCHIVE_FILE} and {RECORD_FILE}{advice}",)
    try:
        stored = Record.load(folder / RECORD_FILE)
        last = stored.history[-1]
        again = score(folder / ARCHIVE_FILE, zoos, name=folder.name, known=known, date=last.date, note=last.note)
    except SubmissionError as error:
        return error.faults
    return (*_faults_of_history(stored, again), *_differences(stored, again, _tolerances(again, zoos)))


def _faults_of_history(stored: Record, again: Record) -> Iterator[str]:
    """Where a record says otherwise than the leaderboard what was accepted before, or names another archive or a day to come."""
    before = [entry.archive_sha256 for entry in stored.history], [entry.archive_sha256 for entry in again.history]
    if before[0] != before[1]:
        yield (
            f"record names archives {', '.join(sha256[:12] for sha256 in before[0])}; expected "
            f"{', '.join(sha256[:12] for sha256 in before[1])}: those accepted before, and the sha256 of {ARCHIVE_FILE}"
        )
    else:
        for own, kept in zip(stored.history[:-1], again.history[:-1], strict=True):
            if own != kept:
                said, wanted = (shortened(entry.model_dump(exclude={"archive_sha256"}), 160) for entry in (own, kept))
                yield f"record says {said} of archive {kept.archive_sha256[:12]}; expected {wanted}, as it was accepted before"
    date, today = stored.history[-1].date, datetime.now(UTC).date().isoformat()
    if date > today:
        yield f"record was accepted on {date}; expected a day up to today, {today}"


def _tolerances(record: Record, zoos: Mapping[str, Zoo]) -> dict[str, float]:
    """How far the numbers of each row may be from what they were, by their places in the record."""
    tolerances = [tolerance_of(TASKS[row.question.task], zoos[row.question.zoo_sha256]) for row in record.rows]
    rows = zip(record.rows, tolerances, strict=True)
    return {path: own for place, (row, own) in enumerate(rows) for path, _ in _flat(f".rows.{place}", row)}


def _differences(stored: Record, again: Record, tolerances: Mapping[str, float]) -> Iterator[str]:
    """Where a record is not what follows from its archive.

    Args:
        stored: The record.
        again: What follows.
        tolerances: Of numbers, by their places; those that are not named follow exactly but for the order of sums.
    """
    own, found = dict(_flat("", stored)), dict(_flat("", again))
    pairs = {path: (own.get(path), found.get(path)) for path in (*own, *found)}
    paths = [path for path, pair in pairs.items() if not _is_same(path, *pair, tolerance=tolerances.get(path, ARITHMETIC))]
    for path in paths[:_MOST_TOLD]:
        yield f"record has {path[1:]} {shortened(own.get(path))}; its archive gives {shortened(found.get(path))}"
    if len(paths) > _MOST_TOLD:
        yield f"record differs in {len(paths) - _MOST_TOLD} more places; write it again with `ngbench validate --accept`"


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a nested record, but for its history, which tells when and by which version it was scored."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields if name != "history"}
    elif isinstance(value, tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, part in value.items():
        yield from _flat(f"{path}.{key}", part)


def _is_same(path: str, stored: Any, found: Any, *, tolerance: float) -> bool:
    """Whether two entries agree, numbers as far as libraries and machines do."""
    if _DRAWS.fullmatch(path) and isinstance(stored, str) and isinstance(found, str):
        draws, limit = (unpacked(stored), unpacked(found)), max(tolerance, SINGLE_PRECISION)
        return draws[0].shape == draws[1].shape and np.allclose(*draws, rtol=limit, atol=limit)
    if isinstance(stored, float) and isinstance(found, float):
        return math.isclose(stored, found, rel_tol=tolerance, abs_tol=tolerance)
    return stored == found
