"""Which run is which: where its files are, and the digest of all that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ngbench.errors import ResultError
from ngbench.evaluation.environment import versions_of
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, VAL_PREDICTIONS_FILE, seed_folder
from ngbench.evaluation.kept import is_kept
from ngbench.evaluation.result import SEED_FILE, Result, SeedResult, read_json
from ngbench.evaluation.sources import files_of
from ngbench.evaluation.transfer import transfer_file
from ngbench.methods import is_applicable, make_method, method_class
from ngbench.store import Zoo
from ngbench.tasks import TASKS, Task

DECIDES_NOTHING = (
    "cli/",
    "cluster.py",
    "evaluation/audit/",
    "evaluation/outside.py",
    "evaluation/plots.py",
    "evaluation/report/",
    "evaluation/rescoring.py",
    "evaluation/speed/",
    "evaluation/suite/",
    "evaluation/tables.py",
    "evaluation/use/",
    "graph/drawing/",
    "store/answers.py",
    "store/card.py",
    "store/download.py",
    "store/hub/",
    "store/importing.py",
    "store/published/",
    "tasks/describe.py",
)
"""Parts of ngbench that show what was measured, or measure something else."""

DECIDING_PACKAGES = ("torch", "torch_geometric", "numpy", "scipy", "scikit-learn")
"""Libraries whose other versions may give other numbers."""


def run_folder(out: str | Path, task: Task, zoo: Zoo, method: str, settings: Mapping[str, str]) -> Path:
    """Where the files of a method's run are kept; each split, and each target of several, has its own."""
    split = "" if task.split == "default" else f"-{task.split}"
    target = "" if task.target == task.asked(zoo.name).target else f"-{task.target}"
    return Path(out) / task.name / f"{zoo.name}-v{zoo.version}{split}{target}" / folder_name(method, settings)


def folder_name(method: str, settings: Mapping[str, str]) -> str:
    """Name of a method's run folder, beside those of the other methods that were asked the same."""
    name = method.replace(":", ".")
    return f"{name}-{digest_of(dict(sorted(settings.items())))[:8]}" if settings else name


def fitted_for(task: Task, zoo: Zoo, name: str) -> Task:
    """The task that a method is fitted for: another one, where this one takes over its fits and the method can be kept."""
    if task.fitted_as is None or not hasattr(method_class(name), "save"):
        return task
    other = TASKS[task.fitted_as].asked(zoo.name, split=task.split, target=task.target)
    return other if is_applicable(name, other.kind) else task


def tuned_method(task: Task, zoo: Zoo, name: str, settings: Mapping[str, str]) -> Any:
    """A method as it is tuned for what it is fitted for on a zoo, but for the settings."""
    return make_method(name, settings, task=fitted_for(task, zoo, name).name, zoo=zoo.name)


def identity_of(task: Task, zoo: Zoo, name: str, settings: Mapping[str, str], *, seed: int, device: str) -> str:
    """Digest of everything that decides the numbers of a fit, the source code and versions of libraries included."""
    return digest_of(
        {
            "method": name,
            "settings": repr(getattr(tuned_method(task, zoo, name, settings), "config", None)),
            "task": task.model_dump(mode="json"),
            "fitted_for": fitted_for(task, zoo, name).model_dump(mode="json"),
            "zoo_sha256": zoo.sha256,
            "seed": seed,
            "device": device.partition(":")[0],
            "source": source_digest(method_class(name)),
            "versions": versions_of(DECIDING_PACKAGES),
        }
    )


def is_measured(task: Task, zoo: Zoo, name: str, seeds: Sequence[int], *, out: str | Path, device: str) -> bool:
    """Whether a method has a result of these seeds that the same code and versions made, with all that it follows from."""
    folder = run_folder(out, task, zoo, name, {})
    wanted = {seed: identity_of(task, zoo, name, {}, seed=seed, device=device) for seed in seeds}
    places = {seed: seed_folder(folder, seed) for seed in seeds}
    if not all(finished(place, wanted[seed]) and is_kept(name, place) for seed, place in places.items()):
        return False
    try:
        return {seed.identity for seed in Result.load(folder).seeds} >= set(wanted.values())
    except ResultError:
        return False


def has_more(folder: Path, result: Result) -> bool:
    """Whether a folder has a result of the same seeds, fitted alike, and of others."""
    try:
        return {seed.identity for seed in Result.load(folder).seeds} > {seed.identity for seed in result.seeds}
    except ResultError:
        return False


def finished(place: Path, identity: str) -> SeedResult | None:
    """The record of a finished seed, if it is of just this identity and the predictions that it follows from are there."""
    if not (place / SEED_FILE).exists() or not (place / PREDICTIONS_FILE).exists():
        return None
    try:
        record = read_json(place / SEED_FILE, SeedResult)
    except ResultError:
        # Written by another version of ngbench: fitted again, as any record of another identity.
        return None
    needed = [] if record.val_score is None else [place / VAL_PREDICTIONS_FILE]
    needed += [transfer_file(place, target) for target in record.transfer]
    return record if record.identity == identity and all(file.exists() for file in needed) else None


def digest_of(value: Any) -> str:
    """Hexadecimal sha256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def source_digest(cls: type) -> str:
    """Digest of the Python files of ngbench, but for `DECIDES_NOTHING`, and of those of the method; see `files_of`."""
    root = Path(__file__).resolve().parents[1]
    places = {file: file.relative_to(root).as_posix() for file in root.rglob("*.py")}
    files = {file for file, place in places.items() if not place.startswith(DECIDES_NOTHING)} | files_of(cls)
    texts = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return digest_of(texts)
