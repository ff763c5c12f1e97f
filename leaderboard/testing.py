"""Fakes for tests: records of submissions that nobody made, with scores that are told beforehand."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from leaderboard.records import Acceptance, Record, Scores, SeedScore, packed
from leaderboard.submission import About, Question
from ngbench.evaluation.result import IntervalRecord, Spread
from ngbench.store import RELEASED
from ngbench.tasks import TASKS

COMMON, OWN = 0.02, 0.003
"""Standard deviation over draws of what all methods have in common, and of what a method has of its own."""


def benchmark_questions() -> tuple[Question, ...]:
    """Everything that the benchmark asks."""
    return tuple(
        Question(
            task=task.name,
            task_version=task.version,
            zoo=zoo,
            zoo_version=RELEASED[zoo].version,
            zoo_sha256=RELEASED[zoo].sha256,
            split=task.split,
            target=column,
        )
        for task in map(TASKS.__getitem__, TASKS)
        for zoo, columns in task.zoos.items()
        for column in columns or (None,)
    )


def fake_record(
    name: str,
    means: Mapping[Question, float],
    *,
    track: str = "weights",
    num_seeds: int = 3,
    permuted: float = 0.0,
    about: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Record:
    """A record whose scores are told.

    Args:
        name: Of the submission.
        means: The mean of the primary metric over seeds, by question.
        track: What the method reads.
        num_seeds: Fits for each question.
        permuted: How much worse it is on permuted networks.
        about: Fields of `About` that are not made up.
        **fields: Fields of `Record` that are not made up.
    """
    made_up = {"title": name.upper(), "authors": (f"Author of {name}",), "external_data": False}
    acceptance = Acceptance(date="2031-05-17", archive_sha256=f"{zlib.crc32(name.encode()):064x}", ngbench="0.1.0")
    rows = tuple(
        _scores(name, question, mean, track=track, num_seeds=num_seeds, permuted=permuted) for question, mean in means.items()
    )
    whole: dict[str, Any] = {"name": name, "about": About(**made_up | dict(about or {})), "rows": rows, "history": (acceptance,)}
    return Record(**whole | fields)


def _scores(name: str, question: Question, mean: float, *, track: str, num_seeds: int, permuted: float) -> Scores:
    task = TASKS[question.task]
    sign = 1 if task.primary.higher_is_better else -1
    each = mean + 0.01 * (np.arange(num_seeds) - (num_seeds - 1) / 2)
    trained = [_metrics(task.metrics, score) for score in each]
    moved = [_metrics(task.metrics, score - sign * permuted) for score in each]
    common, own = (np.random.default_rng(zlib.crc32(text.encode())) for text in (str(question), f"{question} {name}"))
    draws = mean + COMMON * common.standard_normal(task.num_resamples) + OWN * own.standard_normal(task.num_resamples)
    low, high = np.quantile(draws, [(1 - task.confidence) / 2, (1 + task.confidence) / 2])
    shift = None if task.kind == "merging" else permuted / 2
    return Scores(
        question=question,
        track=track,
        trained_on=("train", "val"),
        hardware="2 cores of a machine that does not exist",
        settings={"width": "64"},
        primary=task.primary.name,
        higher_is_better=task.primary.higher_is_better,
        num_test=250,
        seeds=tuple(
            SeedScore(
                seed=seed,
                scores=trained[seed],
                scrambled_scores=moved[seed],
                mean_shift=shift,
                largest_shift=shift,
                fingerprint=f"{zlib.crc32(f'{name} {question} {seed}'.encode()):064x}",
                num_parameters=1000 + zlib.crc32(name.encode()) % 100_000,
                fit_s=12.5 + seed,
                predict_s=0.5,
                peak_memory_bytes=7_000_000,
            )
            for seed in range(num_seeds)
        ),
        scores=_spreads(trained),
        scrambled_scores=_spreads(moved),
        interval=IntervalRecord(score=mean, low=float(low), high=float(high), confidence=task.confidence),
        draws=packed(draws),
    )


def _metrics(names: tuple[str, ...], score: float) -> dict[str, float]:
    """The score as the first metric, and shares of it as the others."""
    return {metric: float(score) / (1 + place) for place, metric in enumerate(names)}


def _spreads(seeds: list[dict[str, float]]) -> dict[str, Spread]:
    return {metric: Spread.of([seed[metric] for seed in seeds]) for metric in seeds[0]}
