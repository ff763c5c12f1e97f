"""The training loop: what is selected, what is random, and that an interrupted fit goes on as if it had not been."""

import ctypes
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from baselines.fitting import steps, training
from baselines.fitting.training import Training
from ngbench.errors import ConfigError, TrainingError
from ngbench.methods import Budget, RunContext
from ngbench.testing import PROBLEM, fake_dataset

TRAIN, VAL = fake_dataset(num_graphs=40, seed=1), fake_dataset(num_graphs=20, seed=2)
SETTINGS = Training(epochs=5, batch_size=16, learning_rate=0.01)


class Line(nn.Module):
    """Reads the mean square of a network's values, with dropout so that the draw of noise matters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, batch):
        (bundle,) = batch.bundles
        squares = bundle.values.square().mean(1)
        features = torch.stack([squares, squares.sqrt()], 1)
        return self.linear(nn.functional.dropout(features, 0.2, self.training))[torch.argsort(bundle.index)]


def fit(context, settings=SETTINGS):
    with training.seeded(context.seed):
        module = Line()
    training.train(module, settings=settings, problem=PROBLEM, train=TRAIN, val=VAL, context=context)
    return module


def context(seed=1, path=None, progress=lambda done, total, text="": None, max_epochs=100):
    return RunContext(seed, Budget(max_epochs, 1), checkpoint_path=path, progress=progress)


def weights(module):
    return torch.cat([parameter.flatten() for parameter in module.parameters()])


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    assert torch.equal(weights(fit(context(1))), weights(fit(context(1))))
    assert not torch.equal(weights(fit(context(1))), weights(fit(context(2))))


def test_what_torch_draws_afterwards_does_not_depend_on_the_fit():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    fit(context(1))
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupted_fit_goes_on_to_the_same_weights(tmp_path):
    path = tmp_path / "checkpoint.pt"

    def stop(done, total, text=""):
        if done >= 3 * len(TRAIN):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(context(path=path, progress=stop))
    assert path.exists()
    seen = []
    resumed = fit(context(path=path, progress=lambda done, total, text="": seen.append(done)))
    assert min(seen) > 2 * len(TRAIN)
    assert torch.equal(weights(resumed), weights(fit(context())))


def test_the_weights_of_the_best_epoch_are_kept():
    scores = []

    def metric(predictions, targets):
        scores.append(float(np.mean(predictions)))
        return [0.1, 0.9, 0.3, 0.9, 0.2][len(scores) - 1]

    with training.seeded(1):
        module = Line()
    problem = replace(PROBLEM, metric=metric)
    training.train(module, settings=SETTINGS, problem=problem, train=TRAIN, val=VAL, context=context())
    assert np.mean(training.predict(module, VAL, problem=problem)) == pytest.approx(scores[1], abs=1e-7)


def test_a_metric_that_should_be_small_is_selected_downwards():
    scores = []

    def metric(predictions, targets):
        scores.append(float(np.mean(predictions)))
        return [0.5, 0.4, 0.1, 0.4, 0.2][len(scores) - 1]

    with training.seeded(1):
        module = Line()
    problem = replace(PROBLEM, metric=metric, higher_is_better=False)
    training.train(module, settings=SETTINGS, problem=problem, train=TRAIN, val=VAL, context=context())
    assert np.mean(training.predict(module, VAL, problem=problem)) == pytest.approx(scores[2], abs=1e-7)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_score_that_is_no_number_is_worse_than_any(higher_is_better):
    state = training.TrainingState(Line(), SETTINGS, run="a run")
    best = []
    for score in (math.nan, math.nan, 0.4, math.nan, 0.4, 0.5 if higher_is_better else 0.3):
        with torch.no_grad():
            state.module.linear.bias.fill_(float(state.epoch))
        state.finish_epoch(score, higher_is_better=higher_is_better)
        best.append(float(state.best_weights["linear.bias"]))
    assert best == [0, 0, 2, 2, 2, 5]


def test_the_validation_split_is_predicted_in_the_precision_of_training(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    forward = Line.forward
    monkeypatch.setattr(Line, "forward", lambda self, b: seen.append(torch.backends.cudnn.allow_tf32) or forward(self, b))
    fit(context(max_epochs=1))
    assert seen == [False] * 4
    assert torch.backends.cudnn.allow_tf32


def test_a_weight_is_cast_anew_each_time_so_that_no_cast_is_read_after_it_was_dropped():
    with Training(precision="bfloat16").autocast("cpu"):
        assert not torch.is_autocast_cache_enabled()


def test_the_budget_limits_the_epochs():
    seen = []
    fit(context(progress=lambda done, total, text="": seen.append((done, total)), max_epochs=2))
    assert seen[-1] == (2 * len(TRAIN), 2 * len(TRAIN))


def test_predictions_stay_within_the_bounds_of_the_problem():
    problem = replace(PROBLEM, bounds=(-3.0, 5.0))
    module = Line()
    nn.init.constant_(module.linear.weight, 1e4)
    predictions = training.predict(module, VAL, problem=problem)
    assert predictions.dtype == np.float64
    assert -3.0 <= predictions.min() <= predictions.max() <= 5.0


def test_a_loss_that_is_not_finite_is_an_error_with_its_numbers():
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch \d of 5 at learning rates up to .*below 1e\+30"):
        fit(context(), Training(epochs=5, batch_size=16, learning_rate=1e30, warmup=0.0))


def test_a_checkpoint_that_cannot_be_read_or_is_of_another_run_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint .*checkpoint\.pt cannot be read"):
        fit(context(path=path))
    path.unlink()
    fit(context(path=path))
    with pytest.raises(TrainingError, match="is of another run, .*seed 1.*; expected .*seed 2"):
        fit(context(seed=2, path=path))


def test_the_rate_rises_then_falls_along_a_cosine_to_zero():
    settings = Training(learning_rate=0.4, warmup=0.2)
    assert [settings.rate(share) for share in (0.0, 0.1, 0.2)] == pytest.approx([0.0, 0.2, 0.4])
    assert settings.rate(0.6) == pytest.approx(0.2)
    assert settings.rate(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, r"weight_decay is -1\.0; expected a number from 0 upward"),
        ({"patience": -1}, "patience is -1; expected a number from 0 upward"),
        ({"warmup": 1.0}, r"warmup is 1\.0; expected a share, at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        Training(**setting)


def test_a_finished_fit_is_not_trained_again(tmp_path):
    def never(done, total, text=""):
        raise AssertionError("a step was taken")

    first = fit(context(path=tmp_path / "checkpoint.pt"))
    assert torch.equal(weights(fit(context(path=tmp_path / "checkpoint.pt", progress=never))), weights(first))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    fit(context(path=tmp_path / "checkpoint.pt"))
    with pytest.raises(TrainingError, match=r"is of another run, .*learning_rate=0\.01,.* expected .*learning_rate=0\.02,"):
        fit(context(path=tmp_path / "checkpoint.pt"), replace(SETTINGS, learning_rate=0.02))


def test_a_checkpoint_that_fails_to_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"the last one")

    def fail(partial, content):
        with partial.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        training.TrainingState(Line(), SETTINGS, run="a run").save(path)
    assert path.read_bytes() == b"the last one"


def test_progress_tells_networks_done_and_the_validation_score():
    told = []
    module = fit(context(progress=lambda *call: told.append(call), max_epochs=1))
    score = PROBLEM.metric(training.predict(module, VAL, problem=PROBLEM), VAL.targets)
    assert told == [(16, 40, ""), (32, 40, ""), (40, 40, ""), (40, 40, f"val Kendall τ_b {score:.3f}")]


def test_the_loss_is_least_where_predictions_are_the_targets_within_other_bounds():
    problem = replace(PROBLEM, bounds=(-1.0, 5.0), higher_is_better=False, metric=lambda p, t: float(np.abs(p - t).mean()))
    module = Line()
    settings = replace(SETTINGS, epochs=60, learning_rate=0.05)
    splits = {name: replace(split, targets=np.full(len(split), 3.5)) for name, split in (("train", TRAIN), ("val", VAL))}
    training.train(module, settings=settings, problem=problem, **splits, context=context())
    np.testing.assert_allclose(training.predict(module, VAL, problem=problem), 3.5, atol=0.2)


def test_biases_do_not_decay():
    module = Line()
    state = training.TrainingState(module, replace(SETTINGS, weight_decay=0.5), run="a run")
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.set_rate(0.1)
    state.optimizer.step()
    state.optimizer.zero_grad()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name.endswith("weight") else 1.0))
        assert parameter.grad is None


def test_what_is_drawn_depends_on_all_parts_of_the_seed():
    draws = []
    for parts in ((1, 2), (1, 2), (2, 1), (12,)):
        with training.seeded(*parts):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not any(torch.equal(draws[0], other) for other in draws[2:])


def test_an_interrupted_fit_gives_the_threads_back():
    before = torch.get_num_threads()

    def stop(done, total, text=""):
        assert torch.get_num_threads() == before + 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(context(progress=stop), replace(SETTINGS, num_threads=before + 1))
    assert torch.get_num_threads() == before


def test_memory_is_kept_where_libc_offers_it_and_nothing_breaks_elsewhere(monkeypatch):
    assert isinstance(training.keep_memory(), bool)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert training.keep_memory.__wrapped__() is False


class Large(Line):
    """Says that each network needs a tensor of a hundred floats; without dropout."""

    def floats_at_once(self, topology):
        return 100

    def forward(self, batch):
        (bundle,) = batch.bundles
        squares = bundle.values.square().mean(1)
        return self.linear(torch.stack([squares, squares.sqrt()], 1))[torch.argsort(bundle.index)]


def test_large_networks_are_predicted_few_at_once(monkeypatch):
    networks = fake_dataset(num_graphs=23)
    for most, sizes in ((2300, [23]), (399, [7, 7, 7, 2]), (1, [1] * 23)):
        monkeypatch.setitem(steps.FLOATS_AT_ONCE, "cpu", most)
        assert [len(batch) for batch in steps.Forward(Large(), networks).graph_batches()] == sizes
        assert [len(batch) for batch in steps.Forward(Line(), networks).graph_batches()] == [23]


@pytest.mark.parametrize(
    ("floats", "most", "least", "lengths"),
    [
        ([5, 5, 5, 5, 5], 12, 1, [2, 2, 1]),
        ([9, 1, 1, 1, 1, 9, 2], 12, 1, [4, 3]),
        ([20, 1, 20, 20], 12, 1, [1, 1, 1, 1]),
        ([20, 20, 20], 12, 2, [2, 1]),
        ([0, 0, 0], 1, 1, [3]),
        ([1] * 40, 37, 1, [32, 8]),
        ([1] * 30, 13, 1, [8, 8, 8, 6]),
        ([1] * 30, 30, 1, [30]),
    ],
)
def test_networks_pass_in_runs_as_long_as_memory_lets_them(floats, most, least, lengths):
    found = list(steps.passes(np.arange(len(floats)), np.array(floats), most, least=least))
    assert [part.stop - part.start for part in found] == lengths
    assert [n for part in found for n in range(part.start, part.stop)] == list(range(len(floats)))


def test_a_step_in_several_passes_is_the_same_step(monkeypatch):
    found = []
    for most in (10**6, 500):
        monkeypatch.setitem(steps.FLOATS_AT_ONCE, "cpu", most)
        torch.manual_seed(0)
        module = Large()
        stepper = steps.Stepper(training.TrainingState(module, SETTINGS, run="a run"), PROBLEM, TRAIN)
        loss = stepper.step(np.arange(len(TRAIN)), rate=0.1)
        found.append((loss, weights(module)))
    torch.testing.assert_close(found[0], found[1])


def test_training_stops_when_the_metric_has_not_improved_for_as_long_as_the_patience():
    told = []
    worse = iter(range(0, -100, -1))
    problem = replace(PROBLEM, metric=lambda predictions, targets: next(worse))
    settings = replace(SETTINGS, epochs=20, patience=3)
    splits = {"train": TRAIN, "val": VAL}
    run_context = context(progress=lambda done, total, text="": told.append(done), max_epochs=20)
    training.train(Line(), settings=settings, problem=problem, **splits, context=run_context)
    assert max(told) == 4 * len(TRAIN)


def test_products_in_bfloat16_learn_too():
    wide = replace(SETTINGS, precision="bfloat16")
    assert not torch.equal(weights(fit(context(), wide)), weights(fit(context())))
    with pytest.raises(ConfigError, match="precision is 'float8'; expected 'float32' or 'tf32' or 'bfloat16'"):
        replace(SETTINGS, precision="float8")


@pytest.mark.parametrize(("num_networks", "expected"), [(3381, 64), (2048, 64), (1090, 34), (512, 16), (40, 16)])
def test_few_networks_are_trained_on_in_smaller_batches(num_networks, expected):
    assert Training(batch_size=64).networks_in_step(num_networks) == expected
    assert Training(batch_size=8).networks_in_step(num_networks) == 8
