"""The result of a method on a task: every number of a table row, and everything needed to get it again."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ngbench.errors import ResultError
from ngbench.evaluation.environment import Environment

T = TypeVar("T", bound=BaseModel)

RESULT_FILE = "result.json"
SEED_FILE = "seed.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SeedResult(_Record):
    """One fit of a method, scored once on the test split.

    Attributes:
        seed: Its seed.
        identity: Digest of everything that decides the numbers: method and its source, settings, task, zoo, seed, versions.
        access: Track of the method as it was fitted.
        val_score: The metric of selection on the val split; None for a task without predictions.
        scores: Metrics on the test split, by name.
        scrambled_scores: The same on that orbit-scrambled copy of the test split on which the primary metric is worst.
        transfer: The primary metric of linear probes of the embedding, by target; empty where the task has one target.
        mean_shift: How far what is said of a network moves when it is scrambled, mean over networks: the difference of numbers,
            the total variation of probabilities, 1 minus the cosine of embeddings; None for merging, whose nodes are renumbered.
        largest_shift: The largest over networks.
        num_parameters: Learned numbers of the method.
        fit_s: Seconds of training, selection included.
        predict_s: Seconds to predict the test split once.
        num_test: Number of test networks.
        peak_memory_bytes: Most memory during training and prediction, over what the process had before.
    """

    seed: int
    identity: str
    access: str
    val_score: float | None
    scores: dict[str, float]
    scrambled_scores: dict[str, float]
    transfer: dict[str, float] = {}
    mean_shift: float | None
    largest_shift: float | None
    num_parameters: int
    fit_s: float
    predict_s: float
    num_test: int
    peak_memory_bytes: int | None


class Spread(_Record):
    """Mean over seeds, and the unbiased standard deviation; None with one seed."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of one number a seed."""
        return cls(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None)


class IntervalRecord(_Record):
    """A number with its bootstrap interval over test networks and seeds."""

    score: float
    low: float
    high: float
    confidence: float


class Result(_Record):
    """A method on a task and a zoo, over its seeds.

    Attributes:
        format_version: Of this file.
        method: Name or path of the method.
        title: As it is printed.
        access: Track of the method: what it reads, and on how many probes it runs networks; tracks are never mixed.
        settings: The method's configuration.
        task: Name of the task.
        task_version: Of its protocol.
        target: Column that was asked about; None for merging.
        zoo: Name of the zoo.
        zoo_version: Its version.
        zoo_sha256: Of the zoo file.
        split: Name of the split.
        primary: Name of the primary metric.
        seeds: One entry for each seed.
        scores: Mean and std over seeds, by metric.
        scrambled_scores: The same on the orbit-scrambled test split.
        interval: Primary metric, mean over seeds, with its bootstrap interval over test networks and seeds; None, and the scores
            are empty, where the zoo withholds the answers.
        differences: Primary metric minus that of each baseline that has these seeds, paired over test networks.
        environment: Where it ran.
        created: Date and time of the run, UTC.
    """

    format_version: Literal[2] = 2
    method: str
    title: str
    access: str
    settings: dict[str, object]
    task: str
    task_version: int
    target: str | None
    zoo: str
    zoo_version: str
    zoo_sha256: str
    split: str
    primary: str
    seeds: tuple[SeedResult, ...]
    scores: dict[str, Spread]
    scrambled_scores: dict[str, Spread]
    interval: IntervalRecord | None
    differences: dict[str, IntervalRecord]
    environment: Environment
    created: str

    @property
    def is_scored(self) -> bool:
        """Whether it has scores; where the zoo withholds the answers its host alone can tell them."""
        return self.interval is not None

    @property
    def mean_shift(self) -> float | None:
        """How far answers move when hidden neurons are permuted, mean over networks and seeds; None where that is not told."""
        shifts = [seed.mean_shift for seed in self.seeds if seed.mean_shift is not None]
        return statistics.fmean(shifts) if shifts else None

    def shown(self, metric: str) -> str:
        """The mean of a metric as it is printed; a dash where there is nothing that it could be of."""
        return f"{self.scores[metric].mean:z.3f}" if metric in self.scores else "—"

    def save(self, folder: Path) -> Path:
        """Writes ``result.json`` into a folder, whole or not at all."""
        return write_json(folder / RESULT_FILE, self)

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Reads the result of a run folder.

        Raises:
            ResultError: The folder has no result, or one that cannot be read.
        """
        if not (folder / RESULT_FILE).exists() and any(folder.glob(f"seed-*/{SEED_FILE}")):
            raise ResultError(
                f"{folder} has no {RESULT_FILE}; expected a folder that `ngbench run` finished: its seeds were fitted for "
                "another task, such as retrieval, or interrupted, and `ngbench run` of this task and method scores them"
            )
        return read_json(folder / RESULT_FILE, cls)


def write_json(path: Path, record: BaseModel) -> Path:
    """Writes a record, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(record.model_dump_json(indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_json(path: Path, kind: type[T]) -> T:
    """Reads a record.

    Raises:
        ResultError: No file, or not a record of that kind.
    """
    try:
        text = path.read_text()
        if not text.strip():
            raise ResultError(f"{path} is empty; expected {kind.__name__} as JSON: run it again")
        return kind.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ResultError(f"{path.parent} has no {path.name}; expected a folder that `ngbench run` finished") from error
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is no {kind.__name__} that this ngbench can read ({_first(error)}); run it again") from error


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        return f"{where}: {problem['msg']}" if where else problem["msg"]
    return str(error)
