"""Losses and predictions of each kind of problem, against torch and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from baselines.fitting.objectives import OBJECTIVES, objective
from baselines.fitting.tables import Table
from baselines.fitting.training import Training, predict, train
from ngbench.errors import MethodError
from ngbench.methods import Budget, RunContext
from ngbench.testing import PROBLEM, PROBLEMS

NUM_GRAPHS, NUM_CLASSES, NUM_FEATURES = 7, 3, 5
CLASSES = np.array([2, 0, 1, 1, 2, 0, 2])
OUTPUTS = torch.from_numpy(np.random.default_rng(0).normal(scale=2, size=(NUM_GRAPHS, NUM_CLASSES)))


def table(targets, seed=0):
    return Table(np.random.default_rng(seed).normal(size=(len(targets), NUM_FEATURES)), targets)


class Fixed(torch.nn.Module):
    """Gives outputs whatever it reads."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, batch):
        return self.outputs[batch]


def test_the_probabilities_of_classes_are_the_softmax_in_float64():
    says = objective(PROBLEMS["classification"]).predictions(OUTPUTS.float())
    assert says.dtype == torch.float64
    shares = np.exp(OUTPUTS.float().double().numpy())
    np.testing.assert_allclose(says.numpy(), shares / shares.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(says.sum(1), 1.0, rtol=1e-12)


def test_outputs_of_any_size_give_probabilities():
    says = objective(PROBLEMS["classification"]).predictions(torch.tensor([[1e4, -1e4, 0.0], [-3e38, -3e38, -3e38]]))
    np.testing.assert_allclose(says.numpy(), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-12)


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_the_loss_of_classes_is_the_summed_log_loss(kind):
    found = objective(PROBLEMS[kind], table(CLASSES))
    says = found.predictions(OUTPUTS).numpy()
    expected = log_loss(CLASSES, says, labels=range(NUM_CLASSES), normalize=False)
    assert float(found.of_outputs(OUTPUTS, torch.from_numpy(CLASSES))) == pytest.approx(expected, rel=1e-12)


def test_the_loss_of_numbers_is_the_cross_entropy_of_their_shares_of_the_bounds():
    problem = replace(PROBLEM, bounds=(-2.0, 6.0))
    targets = np.linspace(-2, 6, NUM_GRAPHS)
    found, outputs = objective(problem, table(targets)), OUTPUTS[:, :1]
    share, says = (targets + 2) / 8, 1 / (1 + np.exp(-outputs[:, 0].numpy()))
    expected = -(share * np.log(says) + (1 - share) * np.log(1 - says)).sum()
    assert float(found.of_outputs(outputs, found.targets.double())) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found.predictions(outputs).numpy(), -2 + 8 * says, rtol=1e-12)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_a_batch_is_compared_with_the_targets_of_its_own_networks(kind):
    targets = np.linspace(0.1, 0.9, NUM_GRAPHS) if kind == "regression" else CLASSES
    outputs = OUTPUTS[:, : PROBLEMS[kind].num_outputs].float()
    found, index = objective(PROBLEMS[kind], table(targets)), torch.tensor([5, 0, 3])
    expected = found.of_outputs(outputs[index], found.targets[index])
    torch.testing.assert_close(found.loss(Fixed(outputs), index, index), expected)
    assert not torch.isclose(found.loss(Fixed(outputs), index, torch.tensor([0, 5, 3])), expected)


def test_a_class_that_training_lacks_has_an_output_and_becomes_improbable():
    """Three classes of which training has two: the loss never asks for the third, so its probability falls."""
    targets = np.arange(60) % 2
    examples, problem = table(targets), PROBLEMS["classification"]
    module = torch.nn.Sequential(ToFloat32(), torch.nn.Linear(NUM_FEATURES, problem.num_outputs))
    context = RunContext(seed=0, budget=Budget(max_epochs=40, num_candidates=1))
    settings = Training(epochs=40, batch_size=16, learning_rate=0.05)
    train(module, settings=settings, problem=problem, train=examples, val=examples, context=context)
    says = predict(module, examples, problem=problem)
    assert says.shape == (60, NUM_CLASSES)
    assert 0 < says[:, 2].mean() < 0.15
    np.testing.assert_allclose(says.sum(1), 1.0)


class ToFloat32(torch.nn.Module):
    def forward(self, batch):
        return batch.float()


def test_a_kind_without_a_loss_is_refused():
    with pytest.raises(
        MethodError, match="problems of kind 'merging' cannot be trained on; expected one of regression, classific"
    ):
        objective(PROBLEMS["merging"])
