"""Predictions that were made without ngbench, in plain ``.npz`` or Parquet files: put in order by id, checked whole, packed.

An ``.npz`` has the arrays ``ids`` (text [rows]), ``values`` ([rows, …]) and ``scrambled`` ([copies, rows, …], the same of the
orbit-scrambled copies that ``ngbench zoo export --test-inputs`` gives); a Parquet file has a row for each id and copy: ``id``,
``copy`` (0 for the networks as they are) and ``values``. Values are a number for a regression, the probability of each class, by
their sorted names, for a classification, an embedding for retrieval. Nothing in a file is executed.

What no array tells stands in a YAML file, whose keys are those of `leaderboard.submission.About` and ``answers``::

    title: Mine, in JAX
    authors: [A. Name]
    external_data: false
    answers:
      - task: generalization
        zoo: digits-cnn
        track: weights
        hardware: one H100
        fits:
          - {seed: 0, predictions: seed-0.npz, num_parameters: 69857, fit_s: 59.1, predict_s: 0.7}
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leaderboard.archive import predictions_bytes, write_archive
from leaderboard.pack import parse_about, read_about
from leaderboard.submission import Answers, Fit, Name, Question, Submission, Text, Track, faults_of, shortened
from ngbench.errors import NgbenchError, PredictionsError, SubmissionError
from ngbench.evaluation.evaluate import exam_of, origin_of
from ngbench.evaluation.exam import Exam
from ngbench.evaluation.predictions import Predictions
from ngbench.metrics.checks import SUM_TOLERANCE
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

_ARRAYS = ("ids", "values", "scrambled")
_COLUMNS = ("id", "copy", "values")
_MOST_NAMED = 3


@dataclass(frozen=True)
class _Part:
    """What a file says of the networks, or of one scrambled copy of them: a value for each id."""

    name: str
    ids: tuple[str, ...]
    values: np.ndarray


def read_plain(path: Path, *, exam: Exam, method: str, seed: int) -> Predictions:
    """The predictions of a plain file, in the order of the exam.

    Args:
        path: An ``.npz`` or ``.parquet`` file.
        exam: What was asked.
        method: Whose predictions they are.
        seed: Of the fit that made them.

    Raises:
        SubmissionError: The file cannot be used; it holds everything that is wrong with it, a sentence each.
    """
    if path.suffix not in _READERS:
        raise SubmissionError([f"ends in {path.suffix!r}; expected {' or '.join(_READERS)}"], str(path))
    parts, faults = _READERS[path.suffix](path)
    expected = exam.task.num_scrambled
    if not faults and len(parts) != 1 + expected:
        faults = [
            f"has {len(parts) - 1} scrambled copies; expected {expected}, of `ngbench zoo export --test-inputs`, in their order"
        ]
    faults += [fault for part in parts for fault in _faults_of(part, exam)]
    if faults:
        raise SubmissionError(faults, str(path))
    ordered = [_in_order(part, exam.ids) for part in parts]
    origin = origin_of(exam.task, exam.zoo, method=method, seed=seed)
    return Predictions(exam.ids, ordered[0], np.stack(ordered[1:]), origin)


def _read_npz(path: Path) -> tuple[list[_Part], list[str]]:
    """The parts of an ``.npz``, and what is wrong with it."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
            names = content.files
            missing = [name for name in _ARRAYS if name not in names]
            if missing:
                return [], [f"lacks {', '.join(missing)}, has {', '.join(names) or 'nothing'}; expected {', '.join(_ARRAYS)}"]
            ids, values, scrambled = (content[name] for name in _ARRAYS)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return [], [f"cannot be read ({error}); expected an .npz without pickled objects"]
    if ids.dtype.kind != "U" or ids.ndim != 1:
        return [], [
            f"has ids of type {ids.dtype} and shape {list(ids.shape)}; expected a vector of text, as np.array(ids, dtype=str)"
        ]
    if scrambled.ndim != values.ndim + 1:
        return [], [
            f"has scrambled of shape {list(scrambled.shape)} beside values of shape {list(values.shape)}; expected "
            "[copies, *shape of values]"
        ]
    named = {"values": values, **{f"scrambled[{copy}]": own for copy, own in enumerate(scrambled)}}
    return [_Part(name, tuple(ids.tolist()), own) for name, own in named.items()], []


def _read_parquet(path: Path) -> tuple[list[_Part], list[str]]:
    """The parts of a Parquet file, and what is wrong with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        return [], [f"cannot be read ({' '.join(str(error).split())}); expected a Parquet file"]
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        return [], [
            f"lacks {', '.join(missing)}, has {', '.join(table.column_names) or 'nothing'}; expected {', '.join(_COLUMNS)}"
        ]
    ids, copies, values = (table.column(name).combine_chunks() for name in _COLUMNS)
    empty = [name for name, column in zip(_COLUMNS, (ids, copies, values), strict=True) if column.null_count]
    if empty:
        return [], [f"has rows without {', '.join(empty)}; expected all three in every row"]
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)) or not pa.types.is_integer(copies.type):
        return [], [f"has id of type {ids.type} and copy of type {copies.type}; expected text and whole numbers"]
    try:
        array = _numbers(values)
    except ValueError as error:
        return [], [f"has {error}; expected numbers, or lists of equally many"]
    copy_of, names = copies.to_numpy(zero_copy_only=False), np.array(ids.to_pylist(), dtype=object)
    found, last = sorted(set(copy_of.tolist())), len(set(copy_of.tolist())) - 1
    if found != list(range(len(found))) or not found:
        return [], [f"has copies {shortened(found)}; expected 0, the networks as they are, and 1 to {max(last, 1)}"]
    return [_Part(f"copy {copy}", tuple(names[copy_of == copy].tolist()), array[copy_of == copy]) for copy in found], []


def _numbers(column: Any) -> np.ndarray:
    """A column as ``[rows]`` or ``[rows, entries]``.

    Raises:
        ValueError: Its entries are no numbers, or lists of different lengths; the text says so.
    """
    import pyarrow as pa

    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    entries = column.flatten() if is_list else column
    if not (pa.types.is_floating(entries.type) or pa.types.is_integer(entries.type)) or entries.null_count:
        raise ValueError(f"values of type {kind}{' with empty places' if entries.null_count else ''}")
    flat = entries.to_numpy(zero_copy_only=False)
    if not is_list:
        return flat
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) > 1:
        raise ValueError(f"lists of {min(lengths)} to {max(lengths)} values")
    return flat.reshape(len(column), -1)


class _PlainFit(Fit):
    """A fit whose predictions stand in a file beside the description."""

    predictions: str


class _PlainAnswers(BaseModel):
    """What a description says of the answers to one question; of `Answers` what does not follow from task and zoo."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: Name
    zoo: str
    split: Name | None = None
    target: Name | None = None
    track: Track
    hardware: Text
    settings: dict[Text, Text] = {}
    trained_on: tuple[Text, ...] = Field(default=("train", "val"), strict=False)
    fits: tuple[_PlainFit, ...] = Field(min_length=1, strict=False)


class _Description(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    answers: tuple[_PlainAnswers, ...] = Field(min_length=1, strict=False)


def pack_plain(description: Path, out: Path, *, about: Mapping[str, Any] | None = None) -> Submission:
    """Packs predictions that were made without ngbench.

    Args:
        description: A YAML or JSON file, as the head of this module has it; files that it names stand beside it.
        out: The .zip that is written.
        about: Keys that go before those of the description.

    Raises:
        SubmissionError: The description or a file that it names is wrong; the error has every fault.
    """
    content = read_about(description)
    try:
        plain = _Description.model_validate({"answers": content.pop("answers", None)})
    except ValidationError as error:
        raise SubmissionError(list(faults_of(error, description.name)), str(description)) from error
    described = parse_about({**content, **(about or {})})
    answers: list[Answers] = []
    files: dict[str, bytes] = {}
    faults: list[str] = []
    for own in plain.answers:
        try:
            exam = _exam(own, description.parent)
            answers.append(_answers(own, exam))
        except NgbenchError as error:
            faults.append(f"{own.task} on {own.zoo}: {error}")
            continue
        for fit in own.fits:
            try:
                said = read_plain(description.parent / fit.predictions, exam=exam, method=described.title, seed=fit.seed)
                files[answers[-1].path(fit)] = predictions_bytes(said)
            except SubmissionError as error:
                faults += [f"{fit.predictions}: {fault}" for fault in error.faults]
    if faults:
        raise SubmissionError(faults, str(description))
    submission = Submission(about=described, answers=tuple(answers))
    write_archive(out, submission, files)
    return submission


def _exam(own: _PlainAnswers, folder: Path) -> Exam:
    beside = folder / own.zoo
    zoo = open_zoo(beside if beside.suffix == ".h5" else own.zoo)
    return exam_of(TASKS[own.task].asked(zoo.name, split=own.split, target=own.target), zoo)


def _answers(own: _PlainAnswers, exam: Exam) -> Answers:
    task, zoo = exam.task, exam.zoo
    question = {"task": task.name, "task_version": task.version, "zoo": zoo.name, "zoo_version": str(zoo.version)}
    question |= {"zoo_sha256": zoo.sha256, "split": task.split, "target": task.target}
    fits = [fit.model_dump(exclude={"predictions"}) for fit in own.fits]
    fields = own.model_dump(include={"track", "hardware", "settings", "trained_on"})
    try:
        return Answers.model_validate({**fields, "question": Question(**question), "fits": fits})
    except ValidationError as error:
        raise SubmissionError(list(faults_of(error, "answers")), f"{task.name} on {zoo.name}") from error


_READERS: Mapping[str, Callable[[Path], tuple[list[_Part], list[str]]]] = {".npz": _read_npz, ".parquet": _read_parquet}


def _faults_of(part: _Part, exam: Exam) -> Iterator[str]:
    """Everything that is wrong with what is said of the networks, or of a copy."""
    counts = Counter(part.ids)
    wanted = set(exam.ids)
    problems = {
        "lacks": [id for id in exam.ids if id not in counts],
        "has, though the test split has not,": sorted(set(counts) - wanted),
        "has more than once": [id for id, count in counts.items() if count > 1],
    }
    for problem, ids in problems.items():
        if ids:
            yield f"{part.name} {problem} {_some(ids)}; expected each of the {len(exam.ids)} test networks once"
    values = part.values
    if values.dtype.kind not in "fiu" or values.shape[:1] != (len(part.ids),):
        found = f"type {values.dtype} and shape {list(values.shape)}"
        yield f"{part.name} has {found} for {len(part.ids)} ids; expected a number or a row for each"
        return
    try:
        exam.check(values)
    except PredictionsError as error:
        yield f"{part.name}: {error}"
        return
    broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(broken):
        yield f"{part.name} is not finite for {_some([part.ids[row] for row in broken])}; expected finite numbers for all"
    elif exam.task.kind == "classification":
        yield from _no_probabilities(part)


def _no_probabilities(part: _Part) -> Iterator[str]:
    sums = part.values.astype(np.float64).sum(axis=1)
    wrong = np.flatnonzero((part.values < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE))
    if len(wrong):
        yield (
            f"{part.name} has no probabilities for {_some([part.ids[row] for row in wrong])}, the first sum to "
            f"{sums[wrong[0]]:g}; expected values from 0 that sum to 1, one for each class"
        )


def _in_order(part: _Part, ids: Sequence[str]) -> np.ndarray:
    place = {id: row for row, id in enumerate(part.ids)}
    return part.values[[place[id] for id in ids]]


def _some(ids: Sequence[str]) -> str:
    named = ", ".join(shortened(id) for id in ids[:_MOST_NAMED])
    return f"{len(ids)} {'row' if len(ids) == 1 else 'rows'} ({named}{', …' if len(ids) > _MOST_NAMED else ''})"
