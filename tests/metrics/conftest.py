"""Predictions of every kind that a metric may take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

NUM_CLASSES = 5
NUM_ENTRIES = 29


def numbers(rng, num_rows):
    targets = rng.permutation(num_rows).astype(float) / 4
    return targets, targets, -targets


def probabilities(rng, num_rows):
    targets = rng.permutation(np.arange(num_rows) % NUM_CLASSES)
    certain = np.eye(NUM_CLASSES)[targets]
    return targets, certain, np.roll(certain, 1, axis=1)


def rankings(rng, num_rows):
    grades = rng.choice(3, size=(num_rows, NUM_ENTRIES), p=[0.6, 0.3, 0.1])
    grades[np.arange(num_rows), rng.integers(NUM_ENTRIES, size=num_rows)] = 3
    return grades, grades.astype(float), -grades.astype(float)


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


KINDS = {"numbers": numbers, "probabilities": probabilities, "rankings": rankings}


@pytest.fixture(scope="session")
def example() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes predictions and targets of the kind that a metric takes.

    They are perfect at noise 0, and as wrong as can be where that is asked for.
    """

    def make(metric, *, seed, num_rows=37, noise=0.0, worst=False):
        rng = np.random.default_rng(seed)
        targets, best, reverse = KINDS[metric.takes](rng, num_rows)
        if worst or not noise:
            return (reverse if worst else best).copy(), targets
        spread = best.std() * rng.normal(size=best.shape)
        if metric.takes == "probabilities":
            return softmax(8 * best / noise + 8 * spread), targets
        return best + noise * spread, targets

    return make
