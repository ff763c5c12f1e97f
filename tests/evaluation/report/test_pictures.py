"""Pictures show what was said: each against a second computation."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from ngbench.evaluation.exam import Scored
from ngbench.evaluation.report import pictures
from ngbench.metrics import ECE
from ngbench.tasks import TASKS

NUM_GRAPHS, CLASSES = 130, ("red", "green", "blue")
RNG = np.random.default_rng(3)
TARGETS = RNG.integers(0, len(CLASSES), NUM_GRAPHS)
CERTAINTY = RNG.dirichlet(np.full(len(CLASSES), 0.7), NUM_GRAPHS)


def scored(values, scrambled=None, **scores):
    scrambled = values[None] if scrambled is None else scrambled[None]
    return Scored(values, scrambled, scores, scores, np.abs(values - scrambled[0]).reshape(len(values), -1).max(1))


def labels(chart):
    return [mark.label for mark in chart.legend]


def test_confusion_is_that_of_scikit_learn():
    task = TASKS["classification"].asked(target="family")
    matrix = pictures.confusion("m", task, CLASSES, TARGETS, scored(CERTAINTY, accuracy=0.5))
    assert np.array_equal(matrix.counts, confusion_matrix(TARGETS, CERTAINTY.argmax(1)))
    assert matrix.of == "family"


def test_the_calibration_error_follows_from_the_picture_of_reliability(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        pictures.Mark, "dots", classmethod(lambda cls, plot, x, y, **_: drawn.update(x=x, y=y) or cls("", "dots"))
    )
    monkeypatch.setattr(pictures.Plot, "rectangles", lambda self, low, high, y: drawn.update(share=y) or "")
    pictures.reliability("m", TARGETS, scored(CERTAINTY, ece=0.1))
    assert drawn["share"].sum() == pytest.approx(1)
    assert (drawn["share"] * np.abs(drawn["x"] - drawn["y"])).sum() == pytest.approx(ECE(CERTAINTY, TARGETS), abs=1e-12)


def test_permuted_networks_are_drawn_apart_only_where_answers_move():
    task, targets = TASKS["generalization"].asked(), RNG.random(NUM_GRAPHS)
    still = pictures.scatter("m", task, targets, scored(targets / 2, kendall_tau=1.0))
    assert labels(still) == ["predicted = true", "as trained"]
    assert "moves no point" in still.note
    moving = pictures.scatter("m", task, targets, scored(targets / 2, RNG.permutation(targets) / 2, kendall_tau=1.0))
    assert labels(moving) == ["predicted = true", "hidden neurons permuted", "as trained"]


def test_of_many_networks_some_are_drawn_and_strays_are_counted():
    targets = RNG.random(5000)
    values = targets.copy()
    values[:20] = 1e6
    chart = pictures.scatter("m", TASKS["generalization"].asked(), targets, scored(values, kendall_tau=1.0))
    assert f"{pictures.MOST_DOTS} of 5,000 networks" in chart.note
    outside = int(chart.note.rsplit("Beyond the frame: ")[1].rstrip(".")) if "Beyond" in chart.note else 0
    dots = chart.marks[-1].path.count("M")
    assert dots <= pictures.MOST_DOTS - outside
    assert chart.plot.y.high < 2


def test_a_map_keeps_apart_what_is_apart():
    rng = np.random.default_rng(8)
    centres = np.eye(NUM_FEATURES := 6)[:3]
    own = np.repeat([0, 1, 2], 30)
    places, name = pictures._flattened(centres[own] + 0.02 * rng.standard_normal((90, NUM_FEATURES)))
    assert name == "t-SNE"
    means = np.stack([places[own == k].mean(0) for k in range(3)])
    spread = max(np.linalg.norm(places[own == k] - means[k], axis=1).mean() for k in range(3))
    assert min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * spread


@pytest.mark.parametrize("embeddings", [np.zeros((50, 4)), np.ones((50, 1)), np.eye(5)], ids=["zeros", "ones", "few"])
def test_a_map_of_equal_or_few_embeddings_is_of_components(embeddings):
    chart = pictures.embedding_map("m", ("a", "b"), np.arange(len(embeddings)) % 2, embeddings)
    assert chart.plot.x.label == "PCA 1"
    assert labels(chart) == ["a", "b"]


def test_each_method_is_a_line_over_the_whole_axis():
    x = np.linspace(0, 1, 25)
    chart = pictures.lines("Loss", "λ", "loss", x, {"naive": x * (1 - x), "matched": 0 * x})
    assert labels(chart) == ["naive", "matched"]
    assert all(mark.path.count("L") == 24 for mark in chart.marks)
    assert (chart.plot.x.low, chart.plot.x.high) == (0, 1)


def test_lines_begin_at_zero_and_shares_end_at_one():
    x = np.linspace(0, 1, 5)
    share = pictures.lines("Accuracy", "λ", "accuracy", x, {"naive": 0.8 + 0.1 * x}, is_share=True).plot.y
    assert (share.low, share.high) == (0, 1)
    loss = pictures.lines("Loss", "λ", "loss", x, {"naive": 3 + x}).plot.y
    assert loss.low == 0
    assert 4 < loss.high < 4.5


def test_methods_stand_on_an_axis_from_zero_to_the_best_possible():
    interval = SimpleNamespace(low=0.71, high=0.75, score=0.73, confidence=0.95)
    result = SimpleNamespace(interval=interval, scrambled_scores={"accuracy": SimpleNamespace(mean=0.7)}, seeds=(0,))
    question = SimpleNamespace(task=TASKS["classification"], results={"one": result})
    chart = pictures.standing(question)
    assert (chart.plot.x.low, chart.plot.x.high) == (0, 1)
    assert chart.note == "Interval over test networks."
    interval.low = -0.2
    assert pictures.standing(question).plot.x.low == -0.2
    assert pictures.standing(SimpleNamespace(task=TASKS["classification"], results={})) is None
