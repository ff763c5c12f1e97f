"""The protocol: the same splits, budget, selection rule and seeds for every method, and the test split scored once."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import ConfigError, ResultError, SplitError
from ngbench.evaluation.environment import Usage, current_environment
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, Answers, Scored, answers, score, seed_folder
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import SEED_FILE, IntervalRecord, Result, SeedResult, Spread, read_json, write_json
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, Problem, RunContext, make_method, method_class
from ngbench.metrics import paired_bootstrap
from ngbench.progress import Stages, silent_stages
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task

ORBIT_SALT = "ngbench-orbit-1"
"""Names the draw of the orbit-scrambled test set; a network's twin depends on it and on the network's id alone."""

BOOTSTRAP_SEED = 0


def run(
    method: str,
    task: str = "generalization",
    zoo: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    *,
    split: str | None = None,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "runs",
    device: str | None = None,
    stages: Stages = silent_stages,
) -> Result:
    """Fits and scores a method on a task, beside the task's trivial baselines.

    A seed that was finished before with the same code, settings, zoo and device kind is not fitted again; one that was
    interrupted goes on from its last checkpoint.

    Args:
        method: Registered name, or ``package.module:Class``.
        task: Name of a task.
        zoo: Name of a released zoo or path of a zoo file; None for the task's own.
        seeds: One fit for each.
        split: Name of a split of the zoo, such as one that holds out wide networks; None for the task's own.
        settings: Fields of the method's `Config`, as text.
        out: Folder under which results are kept.
        device: Torch device; None for CUDA where there is one.
        stages: Told of each fit as it begins.

    Returns:
        The method's result; it and the baselines' are also in `run_folder`.

    Raises:
        UnknownNameError: No such method, task or zoo.
        ConfigError: A setting or the list of seeds is wrong.
        NgbenchError: The method, the zoo or the split cannot be used; see its children.
    """
    options: dict[str, Any] = {"split": split, "settings": settings, "out": out, "device": device, "stages": stages}
    return run_beside_baselines(method, task, zoo, seeds, **options)[0]


def run_beside_baselines(
    method: str,
    task: str = "generalization",
    zoo: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    *,
    split: str | None = None,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "runs",
    device: str | None = None,
    stages: Stages = silent_stages,
) -> tuple[Result, ...]:
    """`run`, giving the method's result and then those of the task's baselines."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds are {list(seeds)}; expected one or more different numbers, none negative")
    info = make_method(method, settings).info
    found = TASKS[task].on(split)
    bench = Bench.open(found, open_zoo(zoo or found.default_zoo), Path(out), checked_device(device), stages)
    if not info.any_architecture:
        bench.train.one_structure(reader=info.name)
    names = [name for name in bench.task.baselines if name != method]
    entrants = [bench.measure(name, {}, seeds) for name in names] + [bench.measure(method, settings or {}, seeds)]
    entrant, others = entrants[-1], dict(zip(names, entrants[:-1], strict=True))
    return tuple(bench.report(e, others if e is entrant else {}) for e in reversed(entrants))


def run_folder(out: str | Path, task: Task, zoo: Zoo, method: str, settings: Mapping[str, str]) -> Path:
    """Where the files of a method's run are kept; each split has its own."""
    split = "" if task.split == "default" else f"-{task.split}"
    name = method.replace(":", ".")
    if settings:
        name += "-" + _digest(dict(sorted(settings.items())))[:8]
    return Path(out) / task.name / f"{zoo.name}-v{zoo.version}{split}" / name


def checked_device(device: str | None) -> str:
    """A device that this machine has; CUDA, where there is one, if none is named.

    Raises:
        ConfigError: The machine has no such device.
    """
    import torch

    available = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(f"cuda:{i}" for i in range(torch.cuda.device_count())),
    ]
    if device is None:
        return "cuda" if "cuda" in available else "cpu"
    if device not in available:
        raise ConfigError(f"device is {device!r}; expected one that this machine has: {', '.join(available)}")
    return device


@dataclass(frozen=True)
class Entrant:
    """A method with all its seeds measured.

    Args:
        name: As it was asked for.
        settings: As text.
        folder: Its run folder.
        seeds: One record for each seed.
        predictions: Predictions for the test split, ``[seeds, graphs]``.
    """

    name: str
    settings: Mapping[str, str]
    folder: Path
    seeds: tuple[SeedResult, ...]
    predictions: np.ndarray


@dataclass(frozen=True)
class Bench:
    """A task on a zoo, its splits loaded once for all methods."""

    task: Task
    zoo: Zoo
    out: Path
    device: str
    stages: Stages
    train: GraphDataset
    val: GraphDataset
    test: GraphDataset
    test_scrambled: GraphDataset
    answers: Answers

    @classmethod
    def open(cls, task: Task, zoo: Zoo, out: Path, device: str, stages: Stages) -> Bench:
        """Loads the splits; the test split comes without its targets.

        Raises:
            SplitError: The zoo lacks the split or the target, or a part of the split has fewer than two networks.
        """
        found = answers(task, zoo)
        counts = {part: len(zoo.split(part, name=task.split)) for part in ("train", "val", "test")}
        if min(counts.values()) < 2:
            got = ", ".join(f"{count} {part}" for part, count in counts.items())
            raise SplitError(
                f"split {task.split!r} of zoo {zoo.name!r} has {got} networks; expected at least two of each: use a larger zoo"
            )
        train, val = (GraphDataset.from_zoo(zoo, zoo.split(s, name=task.split), target=task.target) for s in ("train", "val"))
        test = GraphDataset.from_zoo(zoo, zoo.split("test", name=task.split))
        return cls(task, zoo, out, device, stages, train, val, test, test.scrambled(salt=ORBIT_SALT), found)

    def measure(self, name: str, settings: Mapping[str, str], seeds: Sequence[int]) -> Entrant:
        """All seeds of a method, those at hand read and the others fitted."""
        folder = run_folder(self.out, self.task, self.zoo, name, settings)
        measured = [self._seed(name, settings, folder, seed) for seed in seeds]
        return Entrant(name, settings, folder, tuple(record for record, _ in measured), np.stack([s.values for _, s in measured]))

    def _seed(self, name: str, settings: Mapping[str, str], folder: Path, seed: int) -> tuple[SeedResult, Scored]:
        place = seed_folder(folder, seed)
        place.mkdir(parents=True, exist_ok=True)
        identity = self._identity(name, settings, seed)
        record = _finished(place, identity)
        if record is None:
            record = self._fit(name, settings, place, seed, identity)
        return record, score(self.task, self.answers, Predictions.load(place / PREDICTIONS_FILE))

    def _fit(self, name: str, settings: Mapping[str, str], place: Path, seed: int, identity: str) -> SeedResult:
        """Fits a method, predicts the test split and its scrambled twin, scores both once."""
        method, primary = make_method(name, settings), self.task.primary
        checkpoint_path = place / f"checkpoint-{identity[:12]}.pt"
        progress = self.stages(f"{name}, seed {seed}")
        budget = Budget(self.task.max_epochs, self.task.num_candidates)
        context = RunContext(seed, budget, device=self.device, checkpoint_path=checkpoint_path, progress=progress)
        fit_s, peak_of_fit = self._train(method, context, spent_path=checkpoint_path.with_suffix(".spent_s"))
        with Usage(self.device) as predicting:
            values = method.predict(self.test)
        predictions = Predictions(
            ids=self.test.ids,
            values=np.asarray(values, dtype=np.float64),
            scrambled=np.asarray(method.predict(self.test_scrambled), dtype=np.float64),
            about={
                "method": name,
                "task": self.task.name,
                "zoo": self.zoo.name,
                "zoo_sha256": self.zoo.sha256,
                "split": self.task.split,
                "seed": seed,
            },
        )
        scored = score(self.task, self.answers, predictions)
        record = SeedResult(
            seed=seed,
            identity=identity,
            val_score=primary(method.predict(self.val.without_targets()), np.asarray(self.val.targets)),
            scores=scored.scores,
            scrambled_scores=scored.scrambled_scores,
            mean_shift=float(scored.shifts.mean()),
            largest_shift=float(scored.shifts.max()),
            num_parameters=method.num_parameters,
            fit_s=fit_s,
            predict_s=predicting.duration_s,
            num_test=len(self.test),
            peak_memory_bytes=max((p for p in (peak_of_fit, predicting.peak_memory_bytes) if p is not None), default=None),
        )
        predictions.save(place / PREDICTIONS_FILE)
        write_json(place / SEED_FILE, record)
        checkpoint_path.unlink(missing_ok=True)
        return record

    def _train(self, method: Any, context: RunContext, *, spent_path: Path) -> tuple[float, int | None]:
        """Fits a method; gives the seconds, those before an interruption among them, and the peak memory."""
        primary = self.task.primary
        problem = Problem(self.task.kind, primary, primary.higher_is_better, self.task.target_bounds)
        spent_s = float(spent_path.read_text()) if spent_path.exists() else 0.0
        fitting = Usage(self.device)
        try:
            with fitting:
                method.fit(problem, self.train, self.val, context)
        except BaseException:
            spent_path.write_text(str(spent_s + fitting.duration_s))
            raise
        spent_path.unlink(missing_ok=True)
        return spent_s + fitting.duration_s, fitting.peak_memory_bytes

    def _identity(self, name: str, settings: Mapping[str, str], seed: int) -> str:
        """Digest of everything that decides the numbers of a fit, the source code included."""
        return _digest(
            {
                "method": name,
                "settings": dict(sorted(settings.items())),
                "task": self.task.model_dump(mode="json"),
                "zoo_sha256": self.zoo.sha256,
                "seed": seed,
                "device": self.device.partition(":")[0],
                "source": _source_digest(method_class(name)),
            }
        )

    def report(self, entrant: Entrant, baselines: Mapping[str, Entrant]) -> Result:
        """The result of a method over its seeds, written to its folder."""
        primary = self.task.primary

        def interval(against: np.ndarray | None) -> IntervalRecord:
            found = paired_bootstrap(primary, entrant.predictions, self.answers.targets, seed=BOOTSTRAP_SEED, against=against)
            return IntervalRecord(**dataclasses.asdict(found))

        method = make_method(entrant.name, entrant.settings)
        info = method.info
        result = Result(
            method=entrant.name,
            title=info.title,
            access=info.access,
            settings=dataclasses.asdict(method.config) if hasattr(method, "config") else {},
            task=self.task.name,
            zoo=self.zoo.name,
            zoo_version=str(self.zoo.version),
            zoo_sha256=self.zoo.sha256,
            split=self.task.split,
            primary=primary.name,
            seeds=entrant.seeds,
            scores={m: Spread.of([s.scores[m] for s in entrant.seeds]) for m in self.task.metrics},
            scrambled_scores={m: Spread.of([s.scrambled_scores[m] for s in entrant.seeds]) for m in self.task.metrics},
            interval=interval(None),
            differences={name: interval(other.predictions) for name, other in baselines.items()},
            environment=current_environment(self.device),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        result.save(entrant.folder)
        return result


def _finished(place: Path, identity: str) -> SeedResult | None:
    """The record of a finished seed, if it is of just this identity and its predictions are there."""
    if not (place / SEED_FILE).exists() or not (place / PREDICTIONS_FILE).exists():
        return None
    try:
        record = read_json(place / SEED_FILE, SeedResult)
    except ResultError:
        # Written by another version of ngbench: fitted again, as any record of another identity.
        return None
    return record if record.identity == identity else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _source_digest(cls: type) -> str:
    """Digest of the Python files of ngbench, but for how it prints, and of the method's package, or of its one file."""
    root = Path(__file__).resolve().parents[1]
    files = {file for file in root.rglob("*.py") if file.relative_to(root).parts[0] != "cli"}
    source = inspect.getsourcefile(cls)
    if source is not None:
        top = cls.__module__.partition(".")[0]
        own = Path(source).resolve()
        packages = [parent for parent in own.parents if parent.name == top and (parent / "__init__.py").exists()]
        files |= set(packages[-1].rglob("*.py")) if packages else {own}
    texts = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return _digest(texts)
