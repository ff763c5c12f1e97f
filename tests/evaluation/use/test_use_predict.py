from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import ConfigError, MethodError
from ngbench.evaluation.domain import Domain
from ngbench.evaluation.kept import Kept, KeptRun
from ngbench.evaluation.use.networks import OwnModule
from ngbench.evaluation.use.predict import conformal_radius, predict
from ngbench.graph import NeuralGraph, trace
from ngbench.graph.source import Source
from ngbench.testing import fake_dataset

MODULE = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
GRAPH = trace(MODULE, torch.zeros(1, 3))


@dataclass
class Own(OwnModule):
    """A module at hand."""

    path: str = "own:net"

    @property
    def source(self):
        return Source(MODULE, (torch.zeros(1, 3),), {})


class Constant:
    """Says the same of every network, and remembers which it saw."""

    def __init__(self, said):
        self.said, self.seen = np.asarray(said), []

    def predict(self, networks):
        self.seen.append(networks)
        return np.repeat(self.said[None], len(networks), axis=0)


def kept_run(said, *, kind="regression", errors=(), bounds=(0.0, 1.0), classes=()):
    record = Kept(
        method="mine", kind=kind, task="generalization", target="test_accuracy", zoo="small", zoo_sha256="0", split="default",
        seed=0, classes=classes, bounds=bounds, domain=Domain.of(fake_dataset([GRAPH.topology], num_graphs=30)),
        val_targets=(0.5,) * len(errors), val_predictions=tuple(0.5 + error for error in errors),
    )  # fmt: skip
    records = tuple(record.model_copy(update={"seed": seed}) for seed in range(len(said)))
    return KeptRun("folder", records, tuple(Constant(value) for value in said))


def test_the_radius_is_the_next_residual_above_the_level_and_infinite_where_there_are_too_few():
    residuals = np.array([0.3, 0.1, 0.4, 0.2])
    assert conformal_radius(residuals, 0.5) == 0.3
    assert conformal_radius(residuals, 0.8) == 0.4
    assert conformal_radius(residuals, 0.81) == math.inf
    assert conformal_radius(residuals[:0], 0.5) == math.inf


def test_intervals_cover_as_many_networks_as_they_say():
    rng = np.random.default_rng(0)
    draws = np.abs(rng.standard_t(3, size=(4000, 41)))
    covered = [draw[-1] <= conformal_radius(draw[:-1], 0.9) for draw in draws]
    assert np.mean(covered) == pytest.approx(37 / 41, abs=0.015)


def test_the_answer_is_the_mean_over_the_seeds_with_spread_and_interval():
    run = kept_run([0.2, 0.5, 0.8], errors=np.linspace(-0.1, 0.1, 41))
    (answer,) = predict(run, Own(), [GRAPH], names=["a"], level=0.9)
    assert (answer.network, answer.value) == ("a", pytest.approx(0.5))
    assert answer.spread == pytest.approx(0.3)
    assert (answer.low, answer.high) == (pytest.approx(0.405), pytest.approx(0.595))


def test_an_interval_stays_within_the_bounds_of_the_task():
    (answer,) = predict(kept_run([0.2], errors=[0.3] * 50), Own(), [GRAPH], names=["a"])
    assert (answer.low, answer.high, answer.spread) == (0.0, pytest.approx(0.5), None)
    (answer,) = predict(kept_run([0.2], errors=[0.3], bounds=(-2.0, 3.0)), Own(), [GRAPH], names=["a"])
    assert (answer.low, answer.high) == (-2.0, 3.0)


def test_of_classes_the_most_probable_by_the_mean_of_the_seeds_is_said():
    run = kept_run([[0.6, 0.4, 0.0], [0.1, 0.3, 0.6]], kind="classification", classes=("x", "y", "z"))
    (answer,) = predict(run, Own(), [GRAPH], names=["a"])
    assert (answer.value, answer.low, answer.high) == ("x", None, None)
    assert answer.probabilities == pytest.approx({"x": 0.35, "y": 0.35, "z": 0.3})


def test_methods_get_networks_in_the_words_of_training_and_those_outside_are_said_to_be_so():
    run = kept_run([0.5], errors=[0.1] * 20)
    huge = NeuralGraph.from_row(GRAPH.topology, torch.full((GRAPH.topology.num_values,), 1e4))
    inside, outside = predict(run, Own(), [GRAPH, huge], names=["a", "b"])
    assert inside.objections == ()
    assert "root mean square 1e+04, in training" in outside.objections[0]
    (networks,) = run.methods[0].seen
    assert networks.ids == ("a", "b")
    assert networks.bundles[0].values.dtype == torch.float32
    torch.testing.assert_close(networks.bundles[0].values[0], GRAPH.row())


def test_a_level_that_is_no_share_and_a_run_that_predicts_nothing_are_refused():
    with pytest.raises(ConfigError, match="level is 95; expected a share between 0 and 1"):
        predict(kept_run([0.5]), Own(), [GRAPH], names=["a"], level=95)
    with pytest.raises(MethodError, match="folder is a run of generalization, which predicts nothing"):
        predict(kept_run([0.5], kind="merging"), Own(), [GRAPH], names=["a"])
