"""What a pull request adds to the leaderboard: a folder with an archive and the record that the archive gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from leaderboard.records import RECORD_FILE, Record, unpacked
from leaderboard.score import score
from leaderboard.submission import shortened
from ngbench.errors import SubmissionError
from ngbench.evaluation.rescoring import FORWARD_PASS
from ngbench.store import Zoo

ARCHIVE_FILE = "submission.zip"

_MOST_TOLD = 20


def faults_of_entry(folder: Path, zoos: Mapping[str, Zoo], *, known: Sequence[Record] = ()) -> tuple[str, ...]:
    """Everything that is wrong with the folder of a submission, a sentence each; nothing where it may be accepted.

    The archive is validated and scored again, and every number of the record compared with what follows.

    Args:
        folder: ``leaderboard/submissions/NAME``, with `ARCHIVE_FILE` and the record that ``ngbench validate --accept`` wrote.
        zoos: Those that submissions may be about, by sha256.
        known: Records of all submissions that were accepted before.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink()) if names else []
    if names != {ARCHIVE_FILE, RECORD_FILE} or links:
        found = ", ".join(shortened(name) for name in sorted(names)) or "nothing"
        return (f"{folder.name} holds {found}{', links among them' if links else ''}; expected {ARCHIVE_FILE} and {RECORD_FILE}",)
    try:
        stored = Record.load(folder / RECORD_FILE)
        last = stored.history[-1]
        again = score(folder / ARCHIVE_FILE, zoos, name=folder.name, known=known, date=last.date, note=last.note)
    except SubmissionError as error:
        return error.faults
    return tuple(_differences(stored, again))


def _differences(stored: Record, again: Record) -> Iterator[str]:
    """Where a record is not what follows from its archive."""
    before = [entry.archive_sha256 for entry in stored.history], [entry.archive_sha256 for entry in again.history]
    if before[0] != before[1]:
        yield (
            f"record names archives {', '.join(sha256[:12] for sha256 in before[0])}; expected "
            f"{', '.join(sha256[:12] for sha256 in before[1])}: those accepted before, and the sha256 of {ARCHIVE_FILE}"
        )
    own, found = dict(_flat("", stored)), dict(_flat("", again))
    paths = [path for path in dict.fromkeys((*own, *found)) if not _is_same(path, own.get(path), found.get(path))]
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


def _is_same(path: str, stored: Any, found: Any) -> bool:
    """Whether two entries agree, numbers as far as libraries and machines do."""
    if path.endswith(".draws") and isinstance(stored, str) and isinstance(found, str):
        draws = unpacked(stored), unpacked(found)
        return draws[0].shape == draws[1].shape and np.allclose(*draws, rtol=FORWARD_PASS, atol=FORWARD_PASS)
    if isinstance(stored, float) and isinstance(found, float):
        return math.isclose(stored, found, rel_tol=FORWARD_PASS, abs_tol=FORWARD_PASS)
    return stored == found
