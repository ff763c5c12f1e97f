"""Planted runs of three kinds of tasks, whose names and numbers are known, and an audit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ngbench.evaluation.audit import Audit, Plan
from ngbench.evaluation.audit.record import Acceptance, MethodAudit, Movement, Proof, ZooAudit
from ngbench.evaluation.environment import current_environment
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, exam_of, seed_folder
from ngbench.evaluation.exam import Exam
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import IntervalRecord, Result, SeedResult, Spread, write_json
from ngbench.store import generate, open_zoo
from ngbench.tasks import TASKS
from ngbench.zoo.recipe import load_recipe

HOSTILE = "<script>alert('run')</script>"
# the commit of a working tree could change while a test of many files runs
ENVIRONMENT = current_environment("cpu").model_copy(update={"git_commit": "0123456789abcdef0123"})
METHODS = (("good", "good", "weights"), ("hostile", HOSTILE, "weights"), ("mean", "mean", "none"))
NUM_COPIES, NUM_FEATURES, NUM_OTHERS = 3, 5, 5


def plant(exam: Exam, folder: Path, method: str, said: list[tuple[np.ndarray, np.ndarray]], access: str = "weights") -> Path:
    """Writes a run that said something for each seed: values, and those of each scrambled copy."""
    seeds = []
    for seed, (values, scrambled) in enumerate(said):
        place = seed_folder(folder, seed)
        place.mkdir(parents=True)
        predictions = Predictions(exam.ids, values, scrambled, {"method": method})
        predictions.save(place / PREDICTIONS_FILE)
        scored = exam.score(predictions)
        costs = {
            "num_parameters": 1234,
            "fit_s": 3.0,
            "predict_s": 0.5,
            "num_test": len(exam.ids),
            "peak_memory_bytes": 7_000_000,
        }
        moved = {"mean_shift": float(scored.shifts.mean()), "largest_shift": float(scored.shifts.max())}
        both = {"scores": scored.scores, "scrambled_scores": scored.scrambled_scores}
        seeds.append(SeedResult(seed=seed, identity="0" * 64, access="weights", val_score=None, **both, **moved, **costs))
    scored = [exam.score(Predictions.load(seed_folder(folder, s) / PREDICTIONS_FILE)) for s in range(len(seeds))]
    interval = exam.resamples(method, scored).interval(0.95)
    task, zoo = exam.task, exam.zoo
    Result(
        method=method,
        title=method,
        access=access,
        settings={},
        task=task.name,
        task_version=task.version,
        target=task.target,
        zoo=zoo.name,
        zoo_version=str(zoo.version),
        zoo_sha256=zoo.sha256,
        split=task.split,
        primary=task.metrics[0],
        seeds=tuple(seeds),
        scores={name: Spread.of([s.scores[name] for s in seeds]) for name in seeds[0].scores},
        scrambled_scores={name: Spread.of([s.scrambled_scores[name] for s in seeds]) for name in seeds[0].scores},
        interval=IntervalRecord(**dataclasses.asdict(interval)),
        differences={},
        environment=ENVIRONMENT,
        created="2031-05-17T10:00:00+00:00",
    ).save(folder)
    return folder


@dataclass(frozen=True)
class Planted:
    """Folders and files of planted runs.

    Args:
        runs: The folder above all.
        zoos: Files of their zoos.
        audit: An audit.
        exams: By name of the task.
    """

    runs: Path
    zoos: tuple[Path, ...]
    audit: Path
    exams: dict[str, Exam]


@pytest.fixture(scope="session")
def inr_zoo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Representations of a hundred images, fitted for a few steps."""
    recipe = load_recipe("digits-inr")
    steps = recipe.hyperparameters["num_steps"].model_copy(update={"value": 30})
    update = {"num_runs": 600, "hyperparameters": {**recipe.hyperparameters, "num_steps": steps}}
    path = tmp_path_factory.mktemp("inr") / "images.h5"
    generate(recipe.model_copy(update=update), path)
    return path


@pytest.fixture(scope="session")
def planted(small_zoo_path: Path, inr_zoo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Runs of three methods, one of them with a hostile name, of more for one task, and an audit."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(5)
    small, images = open_zoo(small_zoo_path), open_zoo(inr_zoo_path)
    exams = {
        "generalization": exam_of(TASKS["generalization"].asked("small"), small),
        "classification": exam_of(TASKS["classification"].asked("digits-inr"), images),
        "retrieval": exam_of(TASKS["retrieval"].asked("digits-inr"), images),
    }
    for name, exam in exams.items():
        shape = {"generalization": (), "classification": (len(exam.classes),), "retrieval": (NUM_FEATURES,)}[name]
        others = [
            (f"other-{k}", f"other-{k}", f"probes-{4 + k % 2}") for k in range(NUM_OTHERS if name == "generalization" else 0)
        ]
        for own, method, access in (*METHODS, *others):
            said = []
            for _ in range(2 if method == "good" else 1):
                values = rng.random((len(exam.ids), *shape))
                values = values / values.sum(axis=-1, keepdims=True) if name == "classification" else values
                scrambled = np.stack([values if method == "good" else rng.permutation(values) for _ in range(NUM_COPIES)])
                said.append((values, scrambled))
            plant(exam, folder / "runs" / name / own, method, said, access)
    return Planted(folder / "runs", (small_zoo_path, inr_zoo_path), write_json(folder / "audit.json", planted_audit()), exams)


def planted_audit() -> Audit:
    """Of a method that moves though it says that it does not."""
    zoo = ZooAudit(
        zoo="digits-cnn", zoo_version="1", zoo_sha256="1" * 64, num_networks=6, num_fit=5, refusal=None,
        proofs=(Proof(kind="permutation", size="all layers", num_networks=6, num_inputs=3, largest_difference=3e-16),),
        movements=(
            Movement(kind="permutation", size="all layers", dtype="float32", part="predictions", median=0.01, largest=0.25),
            Movement(kind="permutation", size="all layers", dtype="float32", part="embeddings", median=0.0, largest=0.0),
        ),
        absent=(), part_refusals={}, shuffles=(), duration_s=1.0,
    )  # fmt: skip
    refused = Acceptance(
        fitted_on="cnn", asked="mlp", num_networks=2, outcome="refused", stage="predict", error="GraphError: <b>no</b>"
    )
    method = MethodAudit(
        method=HOSTILE, title="Hostile", access="weights", settings={}, claims_invariant=True, claims_any_architecture=True,
        zoos=(zoo,), acceptances=(refused,),
    )  # fmt: skip
    return Audit(plan=Plan(), methods=(method,), environment=current_environment("cpu"), created="2031-05-17T10:00:00+00:00")


@pytest.fixture(scope="session")
def page_path(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about all of them."""
    from ngbench.evaluation.report import write_report

    return write_report([planted.runs, planted.audit], tmp_path_factory.mktemp("page") / "page.html", zoos=planted.zoos)
