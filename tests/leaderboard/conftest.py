"""Submissions of planted predictions on the small zoo."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.archive import predictions_bytes, write_archive
from leaderboard.submission import About, Answers, Fit, Question, Submission
from ngbench.evaluation import Predictions, exam_of
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

SEEDS = (2, 5, 7)
TARGETS = {"generalization": "test_accuracy", "classification": "activation"}


@pytest.fixture(scope="session")
def zoo(small_zoo_path):
    return open_zoo(small_zoo_path)


@pytest.fixture(scope="session")
def zoos(zoo):
    return {zoo.sha256: zoo}


@pytest.fixture(scope="session")
def exams(zoo):
    """A regression and a classification of the small zoo, by task."""
    return {name: exam_of(TASKS[name].asked("small", target=target), zoo) for name, target in TARGETS.items()}


@pytest.fixture(scope="session")
def question(zoo):
    """What is asked by a task."""

    def asked(task="generalization", **changes):
        names = {"zoo": "small", "zoo_version": "1", "zoo_sha256": zoo.sha256}
        return Question(**{"task": task, "task_version": 1, "target": TARGETS[task], **names, **changes})

    return asked


@pytest.fixture(scope="session")
def said(exams):
    """Predictions of a seed: the answers with noise, or probabilities near them."""

    def predictions(seed, task="generalization", noise=0.1):
        exam, rng = exams[task], np.random.default_rng([seed, len(task)])
        if exam.classes:
            logits = 2 * np.eye(len(exam.classes))[exam.targets] + 10 * noise * rng.standard_normal((len(exam.ids), 2))
            values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        else:
            values = exam.targets + noise * rng.standard_normal(len(exam.ids))
        about = {"task": task, "task_version": 1, "zoo": "small", "zoo_sha256": exam.zoo.sha256, "split": "default", "seed": seed}
        return Predictions(exam.ids, values, np.stack([values[:]] * 3), {**about, "target": TARGETS[task], "method": "test"})

    return predictions


@pytest.fixture(scope="session")
def answers(question):
    """What a submission says of its fits."""

    def made(task="generalization", seeds=SEEDS, claimed=None, **changes):
        fits = tuple(Fit(seed=seed, num_parameters=11, fit_s=1.5, predict_s=0.25, claimed=dict(claimed or {})) for seed in seeds)
        fields = {"question": question(task), "track": "weights", "trained_on": ("train", "val"), "hardware": "cpu, 1 thread"}
        return Answers(**{**fields, "fits": fits, **changes})

    return made


@pytest.fixture
def submitted(answers, said, tmp_path):
    """Writes an archive of one task, whose predictions may be changed by seed, and gives its path."""

    def write(changed=(), *, task="generalization", title="Test", authors=("A. Name",), name="own.zip", **changes):
        own = answers(task, **changes)
        found = {fit.seed: said(fit.seed, task) for fit in own.fits} | dict(changed)
        files = {own.path(fit): predictions_bytes(found[fit.seed]) for fit in own.fits}
        about = About(title=title, authors=authors, external_data=False)
        write_archive(tmp_path / name, Submission(about=about, answers=(own,)), files)
        return tmp_path / name

    return write
