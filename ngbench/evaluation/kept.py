"""What a run keeps of a fitted method, and how it is found again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ngbench.errors import MethodError, ResultError
from ngbench.evaluation.domain import Domain
from ngbench.evaluation.result import RESULT_FILE, Result, read_json
from ngbench.loading import GraphDataset
from ngbench.methods import method_class
from ngbench.tasks import Kind

KEPT_FOLDER = "kept"
KEPT_FILE = "kept.json"
METHOD_FOLDER = "method"


class Kept(BaseModel):
    """A fitted method: what it was asked for, on which networks, and how well it answered for those of validation.

    Attributes:
        format_version: Of this file.
        method: Registered name, or ``package.module:Class``.
        kind: Of the task.
        task: Name of the task.
        target: Column that was asked about; None for merging.
        zoo: Name of the zoo.
        zoo_sha256: Of the zoo file.
        split: Name of the split.
        seed: Of the fit.
        classes: Names of the classes; empty for others.
        bounds: Least and largest possible answer of a regression.
        val_predictions: For the validation networks of a regression; empty for others.
        val_targets: The same networks' answers.
        domain: Which networks it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    method: str
    kind: Kind
    task: str
    target: str | None
    zoo: str
    zoo_sha256: str
    split: str
    seed: int
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    val_predictions: tuple[float, ...] = ()
    val_targets: tuple[float, ...] = ()
    domain: Domain


def keep(method: Any, record: Kept, place: Path) -> None:
    """Keeps a fitted method that can be saved in the folder of its seed, whole or not at all."""
    partial = place / f".{KEPT_FOLDER}.{os.getpid()}.partial"
    try:
        (partial / METHOD_FOLDER).mkdir(parents=True)
        method.save(partial / METHOD_FOLDER)
        (partial / KEPT_FILE).write_text(record.model_dump_json() + "\n")
        shutil.rmtree(place / KEPT_FOLDER, ignore_errors=True)
        partial.replace(place / KEPT_FOLDER)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_kept(name: str, place: Path) -> bool:
    """Whether all is kept of a method that can be: always, where it cannot."""
    return not hasattr(method_class(name), "save") or (place / KEPT_FOLDER / KEPT_FILE).exists()


@dataclass(frozen=True)
class KeptRun:
    """A method fitted with one or several seeds.

    Args:
        folder: Its run folder, or that of one seed.
        records: One for each seed.
        methods: The fitted methods, likewise.
    """

    folder: Path
    records: tuple[Kept, ...]
    methods: tuple[Any, ...]

    @property
    def first(self) -> Kept:
        """The record of the first seed; the others differ from it in seed and validation predictions alone."""
        return self.records[0]

    @property
    def domain(self) -> Domain:
        """The networks that all seeds were fitted on."""
        return self.first.domain

    def residuals(self) -> np.ndarray:
        """Distance of the mean of all seeds' predictions from the answer, for each validation network, ``[graphs]``."""
        predictions = np.mean([record.val_predictions for record in self.records], axis=0)
        return np.abs(predictions - np.asarray(self.first.val_targets))

    def ask(self, call: str, networks: GraphDataset) -> np.ndarray:
        """What each seed's method says of networks, ``[seeds, graphs, ...]``.

        Args:
            call: ``"predict"`` or ``"embed"``.
            networks: What is asked about.

        Raises:
            MethodError: The method lacks the call.
            NgbenchError: It cannot read these networks.
        """
        if not hasattr(self.methods[0], call):
            raise MethodError(f"method {self.first.method!r} of {self.folder} has no {call}; expected a run of one that has")
        return np.stack([np.asarray(getattr(method, call)(networks), dtype=np.float64) for method in self.methods])


def open_run(folder: Path, *, method: str | None = None) -> KeptRun:
    """Loads what a run kept of its method; nothing is unpickled.

    Args:
        folder: A run folder, all of whose seeds are loaded, or the folder of one seed.
        method: ``package.module:Class`` of a method that is not registered: code is never run because a file names it.

    Raises:
        ResultError: The folder has nothing kept, or what does not fit together.
        MethodError: The method is not registered and not named.
    """
    folder = Path(folder)
    places = [folder] if (folder / KEPT_FOLDER).is_dir() else sorted(folder.glob("seed-*/"), key=_seed_of)
    places = [place for place in places if (place / KEPT_FOLDER / KEPT_FILE).exists()]
    if (folder / RESULT_FILE).exists():
        # other seeds are of a run before, perhaps by other code
        own = {seed.seed for seed in Result.load(folder).seeds}
        places = [place for place in places if _seed_of(place)[0] in own]
    if not places:
        reason = "its method cannot be saved" if (folder / RESULT_FILE).exists() else "it is no folder that `ngbench run` wrote"
        raise ResultError(f"{folder} has no fitted method: {reason}; expected the run folder of one that can, such as ng-gnn")
    records = tuple(read_json(place / KEPT_FOLDER / KEPT_FILE, Kept) for place in places)
    _check_alike(folder, records)
    cls = _class_of(records[0].method, method)
    methods = tuple(cls.load(place / KEPT_FOLDER / METHOD_FOLDER) for place in places)
    return KeptRun(folder, records, methods)


def _seed_of(place: Path) -> tuple[int, str]:
    number = place.name.removeprefix("seed-")
    return (int(number), "") if number.isdecimal() else (-1, place.name)


def _check_alike(folder: Path, records: Sequence[Kept]) -> None:
    own = {"seed": 0, "val_predictions": ()}
    if any(record.model_copy(update=own) != records[0].model_copy(update=own) for record in records):
        seeds = ", ".join(str(record.seed) for record in records)
        raise ResultError(f"seeds {seeds} in {folder} were fitted on other networks; expected one run: name one seed's folder")
    counts = {len(record.val_predictions) for record in records} | {len(records[0].val_targets)}
    if len(counts) > 1:
        raise ResultError(f"seeds in {folder} have {counts} validation predictions; expected as many as answers: run it again")


def _class_of(name: str, given: str | None) -> Any:
    if ":" in name and given != name:
        raise MethodError(
            f"the run was made with method {name!r}, which is code of its own; expected --method {name} beside it, "
            "if you trust that code"
        )
    cls = method_class(name)
    if not hasattr(cls, "load"):
        raise MethodError(f"method {name!r} has no load; expected the class that saved it")
    return cls
