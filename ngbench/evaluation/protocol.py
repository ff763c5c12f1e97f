"""The protocol: the same splits, budget, selection rule and seeds for every method, and the test split scored once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import ConfigError, NgbenchError, NotApplicableError, SplitError
from ngbench.evaluation.blinding import in_order, permitted, shown
from ngbench.evaluation.domain import Domain
from ngbench.evaluation.environment import Usage, current_environment, single_threaded
from ngbench.evaluation.evaluate import (
    PREDICTIONS_FILE,
    VAL_PREDICTIONS_FILE,
    exam_of,
    has_val_score,
    origin_of,
    scores_of_run,
    scores_of_seed,
    seed_folder,
)
from ngbench.evaluation.exam import Exam, Scored, orbit_salt
from ngbench.evaluation.identity import finished, fitted_for, has_more, identity_of, run_folder, tuned_method
from ngbench.evaluation.kept import KEPT_FOLDER, METHOD_FOLDER, Kept, is_kept, keep
from ngbench.evaluation.networks import examples_of, networks_of, problem_of
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import SEED_FILE, Result, SeedResult, write_json
from ngbench.evaluation.transfer import probe, probed_targets, transfer_file
from ngbench.loading import GraphDataset
from ngbench.methods import (
    Budget,
    Problem,
    RunContext,
    check_applicable,
    check_budget,
    make_method,
    method_class,
    why_not_applicable,
)
from ngbench.progress import Stages, silent_stages
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task


def run(
    method: str,
    task: str = "generalization",
    zoo: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    *,
    split: str | None = None,
    target: str | None = None,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "runs",
    device: str | None = None,
    stages: Stages = silent_stages,
) -> Result:
    """Fits and scores a method on a task, beside the task's trivial baselines and anchors.

    Where the zoo withholds the answers for its test split, the result has predictions and no scores, and no baseline is run.
    A seed that was finished before with the same code, settings, zoo and device kind is not fitted again; one that was
    interrupted goes on from its last checkpoint.

    Args:
        method: Registered name, or ``package.module:Class``.
        task: Name of a task.
        zoo: Name of a released zoo or path of a zoo file; None for the task's own.
        seeds: One fit for each.
        split: Name of a split of the zoo, such as one that holds out wide networks; None for the task's own.
        target: Metadata column that is asked about; None for the first that the task names for the zoo.
        settings: Fields of the method's `Config`, as text.
        out: Folder under which results are kept.
        device: Torch device; None for CUDA where there is one.
        stages: Told of each fit as it begins.

    Returns:
        The method's result; it and the baselines' are also in `run_folder`.

    Raises:
        UnknownNameError: No such method, task or zoo.
        ConfigError: A setting or the list of seeds is wrong, or asks for more epochs than the task's budget has.
        NotApplicableError: The method lacks what the task asks for.
        NgbenchError: The method, the zoo or the split cannot be used; see its children.
    """
    options: dict[str, Any] = {"split": split, "target": target, "settings": settings}
    return run_beside_baselines(method, task, zoo, seeds, **options, out=out, device=device, stages=stages).results[0]


@dataclass(frozen=True)
class Comparison:
    """A method beside the baselines of a task.

    Args:
        results: The method's, then those of the baselines.
        missing: Why other baselines have none, by name.
    """

    results: tuple[Result, ...]
    missing: Mapping[str, str]


def run_beside_baselines(
    method: str,
    task: str = "generalization",
    zoo: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    *,
    split: str | None = None,
    target: str | None = None,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "runs",
    device: str | None = None,
    stages: Stages = silent_stages,
) -> Comparison:
    """`run`, giving the results of the task's baselines too, or why they have none."""
    check_seeds(seeds)
    info = make_method(method, settings).info
    check_applicable(method, TASKS[task])
    check_budget(method, settings, TASKS[task])
    bench = Bench.open(TASKS[task], zoo, split=split, target=target, out=Path(out), device=checked_device(device), stages=stages)
    if not info.any_architecture:
        bench.train.one_structure(reader=info.name)
    # without scores there is nothing to compare
    others, missing = ({}, {}) if bench.exam.is_withheld else bench.measure_baselines(seeds, but=method)
    entrant = bench.measure(method, settings or {}, seeds)
    results = [bench.report(entrant, others), *(bench.report(other, {}) for other in reversed(others.values()))]
    return Comparison(tuple(results), missing)


def check_question(method: str, task: Task, zoo: Zoo) -> None:
    """Whether a method can be asked about a zoo.

    Raises:
        NotApplicableError: It lacks what the task asks for, or reads one architecture where the zoo has several.
        NgbenchError: There is no such method.
    """
    reason = why_not_applicable(method, task)
    if reason is not None:
        raise NotApplicableError(reason)
    num_structures = len({topology.structure for topology in zoo.topologies})
    if num_structures > 1 and not method_class(method).info.any_architecture:
        raise NotApplicableError(f"method {method!r} reads one architecture; zoo {zoo.name!r} has {num_structures}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Whether seeds can be measured.

    Raises:
        ConfigError: There is none, one is there twice, or negative.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds are {list(seeds)}; expected one or more different numbers, none negative")


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
        scored: What it said of the test split and what that scored, for each seed.
    """

    name: str
    settings: Mapping[str, str]
    folder: Path
    seeds: tuple[SeedResult, ...]
    scored: tuple[Scored, ...]


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
    scrambled: tuple[GraphDataset, ...]
    exam: Exam

    @classmethod
    def open(
        cls,
        task: Task,
        zoo: str | Path | None = None,
        *,
        split: str | None = None,
        target: str | None = None,
        out: Path,
        device: str,
        stages: Stages = silent_stages,
    ) -> Bench:
        """Loads the splits; the test split comes without its targets.

        Raises:
            SplitError: The zoo lacks the split or the target, or a part of the split has fewer than two networks.
        """
        opened = open_zoo(zoo or task.default_zoo)
        task = task.asked(opened.name, split=split, target=target)
        rows = {part: opened.split(part, name=task.split) for part in ("train", "val", "test")}
        if min(map(len, rows.values())) < 2:
            got = ", ".join(f"{len(found)} {part}" for part, found in rows.items())
            raise SplitError(
                f"split {task.split!r} of zoo {opened.name!r} has {got} networks; expected at least two of each: use a larger zoo"
            )
        exam = exam_of(task, opened)
        train, val = (examples_of(task, opened, part) for part in ("train", "val"))
        test = networks_of(task, opened, rows["test"])
        scrambled = tuple(test.scrambled(salt=orbit_salt(copy)) for copy in range(task.num_scrambled))
        return cls(task, opened, out, device, stages, train, val, test, scrambled, exam)

    @property
    def problem(self) -> Problem:
        """What methods are asked."""
        return problem_of(self.task, self.zoo)

    def measure(self, name: str, settings: Mapping[str, str], seeds: Sequence[int]) -> Entrant:
        """All seeds of a method, those at hand read and the others fitted."""
        folder = run_folder(self.out, self.task, self.zoo, name, settings)
        measured = [self._seed(name, settings, folder, seed) for seed in seeds]
        records, scored = zip(*measured, strict=True)
        return Entrant(name, settings, folder, records, scored)

    def measure_baselines(self, seeds: Sequence[int], *, but: str) -> tuple[dict[str, Entrant], dict[str, str]]:
        """The task's baselines, but for one method, and of those that cannot be measured on the zoo the reason, by name."""
        found: dict[str, Entrant] = {}
        missing: dict[str, str] = {}
        for name in self.task.baselines:
            if name == but:
                continue
            try:
                check_question(name, self.task, self.zoo)
                found[name] = self.measure(name, {}, seeds)
            except NgbenchError as error:
                missing[name] = str(error)
        return found, missing

    def _seed(self, name: str, settings: Mapping[str, str], folder: Path, seed: int) -> tuple[SeedResult, Scored]:
        place = seed_folder(folder, seed)
        place.mkdir(parents=True, exist_ok=True)
        identity = identity_of(self.task, self.zoo, name, settings, seed=seed, device=self.device)
        record = finished(place, identity)
        if record is None or not is_kept(name, place):
            return self._fit(name, settings, place, seed, identity)
        with single_threaded():
            return record, self.exam.score(Predictions.load(place / PREDICTIONS_FILE))

    def _fit(self, name: str, settings: Mapping[str, str], place: Path, seed: int, identity: str) -> tuple[SeedResult, Scored]:
        """Fits a method, questions it about the test split and its scrambled copies, scores all once."""
        method, fit_s, peak_of_fit = self._fitted(name, settings, place, seed, identity)
        with Usage(self.device) as predicting:
            values = self._asked(method, name, self.test)
        scrambled = np.stack([self._asked(method, name, copy) for copy in self.scrambled])
        origin = origin_of(self.task, self.zoo, method=name, seed=seed)
        predictions = Predictions(self.exam.ids, values, scrambled, origin)
        with single_threaded():
            scored = self.exam.score(predictions)
        self._probe(method, place, origin)
        answers = self._val_predictions(method)
        if answers is not None:
            Predictions(self.val.ids, answers, answers[np.newaxis][:0], origin).save(place / VAL_PREDICTIONS_FILE)
        predictions.save(place / PREDICTIONS_FILE)
        peaks = [peak for peak in (peak_of_fit, predicting.peak_memory_bytes) if peak is not None]
        record = SeedResult(
            seed=seed,
            identity=identity,
            access=method.info.track,
            num_parameters=method.num_parameters,
            fit_s=fit_s,
            predict_s=predicting.duration_s,
            peak_memory_bytes=max(peaks, default=None),
            **scores_of_seed(self.exam, scored, place),
        )
        self._keep(method, name, place, seed, answers)
        write_json(place / SEED_FILE, record)
        for checkpoint_path in place.glob("checkpoint-*.pt"):
            checkpoint_path.unlink()
        return record, scored

    def _fitted(
        self, name: str, settings: Mapping[str, str], place: Path, seed: int, identity: str
    ) -> tuple[Any, float, int | None]:
        """A fitted method, with the seconds and the peak memory of its fit; one that is kept from another task's run."""
        source = fitted_for(self.task, self.zoo, name)
        if source != self.task:
            folder = run_folder(self.out, source, self.zoo, name, settings)
            record, _ = self._asking(source)._seed(name, settings, folder, seed)
            kept = seed_folder(folder, seed) / KEPT_FOLDER / METHOD_FOLDER
            return method_class(name).load(kept), record.fit_s, record.peak_memory_bytes
        method = tuned_method(self.task, self.zoo, name, settings)
        checkpoint_path = place / f"checkpoint-{identity[:12]}.pt"
        progress = self.stages(f"{name}, seed {seed}")
        budget = Budget(self.task.max_epochs, self.task.num_candidates)
        context = RunContext(seed, budget, device=self.device, checkpoint_path=checkpoint_path, progress=progress)
        return method, *self._train(method, name, context=context, spent_path=checkpoint_path.with_suffix(".spent_s"))

    def _asked(self, method: Any, name: str, networks: GraphDataset) -> np.ndarray:
        with _named(name, "asked about the test networks"):
            return self.exam.ask(method, networks)

    def _asking(self, task: Task) -> Bench:
        """Another task on the same networks, with the same answers."""
        scrambled = tuple(self.test.scrambled(salt=orbit_salt(copy)) for copy in range(task.num_scrambled))
        return dataclasses.replace(self, task=task, exam=exam_of(task, self.zoo), scrambled=scrambled)

    def _probe(self, method: Any, place: Path, origin: Mapping[str, str | int]) -> None:
        """Keeps what linear probes of a method's embedding say of the other targets, where there are any."""
        probed = probed_targets(self.task, self.zoo)
        for target in probed:
            # of an earlier fit by other code
            transfer_file(place, target).unlink(missing_ok=True)
        if not hasattr(method, "embed") or not probed:
            return
        for target, found in probe(self.task, self.zoo, method, origin=origin).items():
            found.save(transfer_file(place, target))

    def _val_predictions(self, method: Any) -> np.ndarray | None:
        """What a method predicts for the val split; None for a task without predictions."""
        if not has_val_score(self.task):
            return None
        given, order = shown(self.val, method.info)
        return in_order(np.asarray(method.predict(given), dtype=np.float64), order, method=method.info.name)

    @cached_property
    def domain(self) -> Domain:
        """What the training networks are like."""
        return Domain.of(self.train)

    def _keep(self, method: Any, name: str, place: Path, seed: int, answers: np.ndarray | None) -> None:
        """Keeps a fitted method, if it can be saved, with its predictions for the val split."""
        if not hasattr(method, "save"):
            return
        task, is_number = self.task, answers is not None and self.task.kind == "regression"
        record = Kept(
            method=name,
            kind=task.kind,
            task=task.name,
            target=task.target,
            zoo=self.zoo.name,
            zoo_sha256=self.zoo.sha256,
            split=task.split,
            seed=seed,
            classes=self.problem.classes,
            bounds=task.target_bounds,
            val_predictions=tuple(np.asarray(answers).tolist()) if is_number else (),
            val_targets=tuple(np.asarray(self.val.targets).tolist()) if is_number else (),
            domain=self.domain,
        )
        keep(method, record, place)

    def _train(self, method: Any, name: str, *, context: RunContext, spent_path: Path) -> tuple[float, int | None]:
        """Fits a method; gives the seconds, those before an interruption among them, and the peak memory."""
        spent_s = float(spent_path.read_text()) if spent_path.exists() else 0.0
        fitting = Usage(self.device)
        try:
            with fitting, _named(name, "fitted"):
                method.fit(self.problem, permitted(self.train, method.info), permitted(self.val, method.info), context)
        except BaseException:
            spent_path.write_text(str(spent_s + fitting.duration_s))
            raise
        spent_path.unlink(missing_ok=True)
        return spent_s + fitting.duration_s, fitting.peak_memory_bytes

    def report(self, entrant: Entrant, baselines: Mapping[str, Entrant]) -> Result:
        """The result of a method over its seeds, written to its folder unless a result of these and more seeds stands there."""
        method = tuned_method(self.task, self.zoo, entrant.name, entrant.settings)
        others = {name: other.scored for name, other in baselines.items()}
        with single_threaded():
            measured = scores_of_run(self.exam, entrant.name, entrant.scored, others)
        result = Result(
            method=entrant.name,
            title=method.info.title,
            access=entrant.seeds[0].access,
            settings=dataclasses.asdict(method.config) if hasattr(method, "config") else {},
            task=self.task.name,
            task_version=self.task.version,
            target=self.task.target,
            zoo=self.zoo.name,
            zoo_version=str(self.zoo.version),
            zoo_sha256=self.zoo.sha256,
            split=self.task.split,
            primary=self.task.primary.name,
            seeds=entrant.seeds,
            environment=current_environment(self.device),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            **measured,
        )
        if not has_more(entrant.folder, result):
            result.save(entrant.folder)
        return result


@contextlib.contextmanager
def _named(method: str, doing: str) -> Iterator[None]:
    """Inside, a fault in a method gets a note that names the method, as the last line of its traceback."""
    try:
        yield
    # a method is anyone's code, which may raise anything; it is raised on
    except Exception as error:
        text = " ".join(str(error).split())
        error.add_note(f"method {method!r} failed while it was {doing}: {type(error).__name__}: {text}")
        raise
