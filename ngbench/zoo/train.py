"""Trains thousands of classifiers at once: stacks of networks share every product, and each comes out as if trained alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import ImagesError, TrainingError
from ngbench.progress import Progress, silent
from ngbench.zoo.architectures import ClassifierArchitecture, build
from ngbench.zoo.batches import StackedBatches
from ngbench.zoo.columns import columns_of
from ngbench.zoo.dropout import StackedDropout
from ngbench.zoo.evaluate import STACK_SIZE, round_to_16_bits, score
from ngbench.zoo.images import ImageSplits, load_images
from ngbench.zoo.optimizers import StackedOptimizer
from ngbench.zoo.recipe import ClassifierRecipe
from ngbench.zoo.replay import Stepper
from ngbench.zoo.run import Run
from ngbench.zoo.stack import (
    StackedModule,
    activation_size,
    aligned_rows,
    norm_scales,
    parameter_shapes,
    statistic_shapes,
    unflatten,
)
from ngbench.zoo.trained import TrainedNetworks, network_id, typed_columns

_STEPS_A_REPORT = 25
# networks a stack on an accelerator: what they keep for their gradients may take this share of its free memory
_SHARE_OF_MEMORY, _NUMBERS_KEPT = 0.4, 6
# networks whose losses on all images stand in memory together
_MEASURED_AT_ONCE = 256


def train(
    recipe: ClassifierRecipe,
    run_indices: Sequence[int],
    *,
    progress: Progress = silent,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedNetworks:
    """Trains runs of a recipe of classifiers, rounds their weights, then measures them.

    A network does not depend on which others are trained in the same call: up to rounding errors always; bit for bit, on the
    same processor, where all matrices of a product start at multiples of 64 bytes (as in digits-cnn: batches of 32, layers of 8
    channels) and the activation is relu, tanh or gelu.

    Args:
        recipe: What to train.
        run_indices: Which of its runs, none twice, all of one architecture.
        progress: Told the steps done and to do, summed over networks.
        device: A torch device.
        dtype: Of all arithmetic, and of the parameters returned. In float32 an accelerator may round the factors of products to
            10 bits while it trains (TF32), not while it measures.

    Returns:
        The networks; where the recipe has checkpoints, one for each of them, run by run.

    Raises:
        RecipeError: The recipe has no such run.
        TrainingError: No run is named, or one twice, or runs of several architectures.
        ImagesError: The images have another shape than the architecture takes, or labels that it has no output for.
    """
    indices = sorted(run_indices)
    if not indices or len(set(indices)) != len(indices):
        raise TrainingError(f"expected at least one run index and none twice, got {list(run_indices)[:20]}; name each run once")
    runs = [Run.of(recipe, index) for index in indices]
    others = [run.index for run in runs if run.architecture != runs[0].architecture]
    if others:
        raise TrainingError(
            f"runs {runs[0].index} and {others[0]} of recipe {recipe.name!r} have different architectures; expected runs of one: "
            "train each architecture by itself"
        )
    images = {corpus: _images(recipe, corpus, runs[0].architecture) for corpus in sorted({run.corpus for run in runs})}
    total, done = sum(run.num_steps for run in runs), 0
    states: dict[int, torch.Tensor] = {}
    with _tf32(allowed=True):
        for stack in _stacks(runs, _stack_size(runs[0], torch.device(device))):
            trainer = _StackTrainer(recipe, stack, images=images, device=device, dtype=dtype)
            for steps in trainer.run():
                done += steps
                progress(done, total, f"{len(stack)} {stack[0].hyperparameters['activation']} networks")
            states.update(zip([run.index for run in stack], trainer.kept, strict=True))
    kept = round_to_16_bits(torch.cat([states[index] for index in indices]), recipe.rounding)
    networks = [_Checkpoint(run, *at) for run in runs for at in zip(run.checkpoints or (-1,), run.kept_at, strict=True)]
    return _trained(recipe, networks, states=kept, images=images)


@dataclass(frozen=True)
class _Checkpoint:
    """A network that a run gave: after an epoch, -1 where it gives only one, and so many steps."""

    run: Run
    epoch: int
    num_steps: int

    @property
    def columns(self) -> dict[str, Any]:
        """What is known of the network before it is trained, by column name."""
        return {**self.run.columns, "epoch": self.epoch}


@contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    """Inside, CUDA devices round the factors of float32 products to 10 bits, or do not; those of convolutions too."""
    matmul: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def _stack_size(run: Run, device: torch.device) -> int:
    """How many networks like that of a run train together."""
    if device.type != "cuda":
        return STACK_SIZE
    module = build(run.architecture, run.hyperparameters["activation"])
    bytes_each = 4 * _NUMBERS_KEPT * run.hyperparameters["batch_size"] * activation_size(module, run.architecture.input_shape)
    return max(1, int(_SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0] / bytes_each))


def _images(recipe: ClassifierRecipe, corpus: str, architecture: ClassifierArchitecture) -> ImageSplits:
    images = load_images(recipe.images, corpus)
    if images.train_images.shape[1:] != architecture.input_shape:
        raise ImagesError(
            f"recipe {recipe.name!r}: corpus {corpus!r} has images of shape {images.train_images.shape[1:]}, but "
            f"the architecture takes {architecture.input_shape}; change input_shape or the corpus"
        )
    labels = np.concatenate([images.train_labels, images.val_labels, images.test_labels])
    if not 0 <= labels.min() <= labels.max() < architecture.num_classes:
        raise ImagesError(
            f"recipe {recipe.name!r}: corpus {corpus!r} has labels {labels.min()} to {labels.max()}, but the architecture has "
            f"num_classes {architecture.num_classes}; expected labels from 0 that are below it: change num_classes or the corpus"
        )
    return images


def _stacks(runs: Sequence[Run], size: int) -> Iterator[list[Run]]:
    """Runs that can share their matrix products, the longest first, so that those still training are always the first rows."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.stack].append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.num_steps, reverse=True)
        for places in np.array_split(np.arange(len(group)), -(-len(group) // size)):
            yield [group[place] for place in places]


class _StackTrainer:
    """Trains one stack of runs, given longest first.

    `kept`, ``[networks, checkpoints, parameters and statistics]``, holds them as they were at each of their checkpoints.
    """

    def __init__(
        self, recipe: ClassifierRecipe, runs: Sequence[Run], *, images: Mapping[str, ImageSplits], device: str, dtype: torch.dtype
    ):
        module = build(runs[0].architecture, runs[0].hyperparameters["activation"])
        num_dropouts = sum(isinstance(layer, nn.Dropout) for layer in module.modules())
        self._num_steps = np.array([run.num_steps for run in runs])
        self._kept_at = np.array([run.kept_at for run in runs])
        self._batches = StackedBatches(runs, recipe.images.num_train, device=torch.device(device))
        keys = np.zeros((len(runs), self._num_steps[0], num_dropouts), dtype=np.int32)
        for row, run in enumerate(runs):
            keys[row, : run.num_steps] = run.dropout_keys(num_dropouts)
        corpora = list(images)
        # all corpora one after another: rows of one axis are gathered in whole, several times faster than by two indices
        self._images = torch.from_numpy(np.concatenate([images[name].train_images for name in corpora])).to(device, dtype)
        self._labels = torch.from_numpy(np.concatenate([images[name].train_labels for name in corpora])).to(device)
        first_rows = [[corpora.index(run.corpus) * recipe.images.num_train] for run in runs]
        self._first_rows = torch.tensor(first_rows, device=device)
        self._module = StackedModule(module, len(runs), banded=torch.device(device).type == "cpu")
        initial = np.stack([run.initial_weights(self._module.shapes, ones=norm_scales(module)) for run in runs])
        self._weights = aligned_rows(torch.from_numpy(initial).to(device, dtype))
        start = [buffer.flatten() for buffer in module.buffers() if buffer.is_floating_point()]
        self._statistic_shapes = statistic_shapes(module)
        self._statistics = torch.cat([torch.empty(0), *start]).to(device, dtype).repeat(len(runs), 1)
        hyperparameters = [run.hyperparameters for run in runs]
        self._optimizer = StackedOptimizer(hyperparameters, self._num_steps.tolist(), weights=self._weights)
        self._drop = StackedDropout([each["dropout"] for each in hyperparameters], torch.from_numpy(keys).to(device), dtype=dtype)
        self._place, self._step_number = torch.zeros_like(self._drop.step), self._drop.step
        self._stepper = Stepper(self._step, self._weights.device)
        num_values = self._weights.shape[1] + self._statistics.shape[1]
        self.kept = self._weights.new_empty(*self._kept_at.shape, num_values)

    def run(self) -> Iterator[int]:
        """Trains to the end; yields the steps taken since the last yield, summed over networks."""
        piece, stops = self._batches.piece_size, {*self._kept_at.ravel().tolist(), *self._num_steps.tolist()}
        last = int(self._num_steps[0])
        stops = sorted(stops | {*range(0, last, piece), *range(0, last, _STEPS_A_REPORT)})
        self._keep(0)
        for first, end in itertools.pairwise(stops if stops[0] == 0 else [0, *stops]):
            if first % piece == 0:
                self._batches.load()
                self._place.zero_()
            num_active = int((self._num_steps > first).sum())
            self._stepper.take(end - first, num_active)
            self._keep(end)
            yield num_active * (end - first)

    def _keep(self, num_steps: int) -> None:
        """Keeps the networks that have a checkpoint after so many steps."""
        rows, places = (torch.from_numpy(found).to(self.kept.device) for found in np.nonzero(self._kept_at == num_steps))
        if len(rows):
            self.kept[rows, places] = torch.cat([self._weights[rows], self._statistics[rows]], dim=1)

    def _step(self, num_active: int) -> None:
        rows = self._batches.at(self._place, num_active) + self._first_rows[:num_active]
        views = unflatten(self._weights[:num_active], self._module.shapes)
        parameters = {path: values.detach().requires_grad_() for path, values in views.items()}
        statistics = unflatten(self._statistics[:num_active], self._statistic_shapes)
        shown = self._images[rows.flatten()].unflatten(0, rows.shape)
        logits = self._module({**parameters, **statistics}, shown, drop=self._drop, trains=True)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), self._labels[rows.flatten()], reduction="sum")
        # each network has its own parameters, so that the gradient of the sum over networks is each one's own
        gradients = torch.autograd.grad(losses / rows.shape[1], list(parameters.values()))
        self._optimizer.step(self._step_number, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1))
        self._place += 1
        self._step_number += 1


def _trained(
    recipe: ClassifierRecipe, networks: Sequence[_Checkpoint], *, states: torch.Tensor, images: Mapping[str, ImageSplits]
) -> TrainedNetworks:
    """Measures the networks, of parameters and statistics ``[networks, values]``, and sets aside those that diverged."""
    runs = [network.run for network in networks]
    with _tf32(allowed=False):
        measured = _measure(runs, states=states, images=images)
    module = build(runs[0].architecture, runs[0].hyperparameters["activation"])
    weights = states[:, : sum(parameter.numel() for parameter in module.parameters())]
    # a NaN compares false, so that it counts as too large
    sound_weights = ((weights.abs() <= recipe.largest_weight).all(dim=1) & states.isfinite().all(dim=1)).cpu().numpy()
    kept = sound_weights & np.isfinite(list(measured.values())).all(axis=0)
    largest = weights.abs().amax(dim=1).tolist()
    diverged = tuple(
        (network_id(network.run.run_id, network.epoch), _reason(network, largest_weight=size if not sound else None))
        for network, size, sound, keep in zip(networks, largest, sound_weights, kept, strict=True)
        if not keep
    )
    return TrainedNetworks(
        architecture=runs[0].architecture,
        parameters={path: values.cpu().numpy()[kept] for path, values in unflatten(states, _state_shapes(module)).items()},
        metadata=typed_columns(recipe.columns, [network.columns for network in networks], measured=measured, kept=kept),
        diverged=diverged,
    )


def _state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {**parameter_shapes(module), **statistic_shapes(module)}


def _reason(network: _Checkpoint, *, largest_weight: float | None) -> str:
    what = "losses are not finite" if largest_weight is None else f"weights reach {largest_weight:.3g}"
    chosen = network.run.hyperparameters
    return f"{what} after {network.num_steps} steps of {chosen['optimizer']} with learning rate {chosen['learning_rate']:.3g}"


def _measure(runs: Sequence[Run], *, states: torch.Tensor, images: Mapping[str, ImageSplits]) -> dict[str, np.ndarray]:
    """The measurement columns, float64 ``[networks]``."""
    measured = {name: np.zeros(len(runs)) for name in columns_of("measurement")}
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        groups[run.hyperparameters["activation"], run.corpus].append(place)
    for (activation, corpus), networks in groups.items():
        module, shown = build(runs[0].architecture, activation), images[corpus]
        for split, pixels, labels in (
            ("train", shown.train_images, shown.train_labels),
            ("val", shown.val_images, shown.val_labels),
            ("test", shown.test_images, shown.test_labels),
        ):
            on_device = torch.from_numpy(pixels).to(states)
            for first in range(0, len(networks), _MEASURED_AT_ONCE):
                some = networks[first : first + _MEASURED_AT_ONCE]
                parameters = unflatten(states[some], _state_shapes(module))
                right, losses = score(module, parameters, images=on_device, labels=labels)
                for row, network in enumerate(some):
                    seen = runs[network].train_rows(len(labels)) if split == "train" else slice(None)
                    measured[f"{split}_accuracy"][network] = right[row, seen].mean()
                    measured[f"{split}_loss"][network] = losses[row, seen].mean()
    return measured
