"""Trains thousands of classifiers at once: stacks of networks share every product, and each comes out as if trained alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import ImagesError, TrainingError
from ngbench.progress import Progress, silent
from ngbench.zoo.architectures import ClassifierArchitecture, build
from ngbench.zoo.columns import columns_of
from ngbench.zoo.dropout import StackedDropout
from ngbench.zoo.evaluate import STACK_SIZE, round_to_16_bits, score
from ngbench.zoo.images import ImageSplits, load_images
from ngbench.zoo.optimizers import StackedOptimizer
from ngbench.zoo.recipe import ClassifierRecipe
from ngbench.zoo.run import Run
from ngbench.zoo.stack import StackedModule, aligned_rows, norm_scales, parameter_shapes, statistic_shapes, unflatten
from ngbench.zoo.trained import TrainedNetworks, typed_columns

_STEPS_A_REPORT = 25


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
    same CPU, where all matrices of a product start at multiples of 64 bytes (as in digits-cnn: batches of 32, layers of 8
    channels) and the activation is relu, tanh or gelu.

    Args:
        recipe: What to train.
        run_indices: Which of its runs, none twice, all of one architecture.
        progress: Told the steps done and to do, summed over networks.
        device: A torch device.
        dtype: Of all arithmetic, and of the parameters returned.

    Raises:
        RecipeError: The recipe has no such run.
        TrainingError: No run is named, or one twice, or runs of several architectures.
        ImagesError: The images have another shape than the architecture takes.
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
    for stack in _stacks(runs):
        trainer = _StackTrainer(recipe, stack, images=images, device=device, dtype=dtype)
        for steps in trainer.run():
            done += steps
            progress(done, total, f"{len(stack)} {stack[0].hyperparameters['activation']} networks")
        states.update(zip([run.index for run in stack], torch.cat([trainer.weights, trainer.statistics], dim=1), strict=True))
    final = round_to_16_bits(torch.stack([states[index] for index in indices]), recipe.rounding)
    return _trained(recipe, runs, states=final, images=images)


def _images(recipe: ClassifierRecipe, corpus: str, architecture: ClassifierArchitecture) -> ImageSplits:
    images = load_images(recipe.images, corpus)
    if images.train_images.shape[1:] != architecture.input_shape:
        raise ImagesError(
            f"recipe {recipe.name!r}: corpus {corpus!r} has images of shape {images.train_images.shape[1:]}, but "
            f"the architecture takes {architecture.input_shape}; change input_shape or the corpus"
        )
    return images


def _stacks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs that can share their matrix products, the longest first, so that those still training are always the first rows."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.stack].append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.num_steps, reverse=True)
        for places in np.array_split(np.arange(len(group)), -(-len(group) // STACK_SIZE)):
            yield [group[place] for place in places]


class _StackTrainer:
    """Trains one stack of runs, given longest first; `weights` ``[networks, parameters]`` hold them as they are."""

    def __init__(
        self, recipe: ClassifierRecipe, runs: Sequence[Run], *, images: Mapping[str, ImageSplits], device: str, dtype: torch.dtype
    ):
        module = build(runs[0].architecture, runs[0].hyperparameters["activation"])
        num_dropouts = sum(isinstance(layer, nn.Dropout) for layer in module.modules())
        self._num_steps = np.array([run.num_steps for run in runs])
        batches = np.zeros((self._num_steps[0], len(runs), runs[0].hyperparameters["batch_size"]), dtype=np.int64)
        keys = np.zeros((len(runs), self._num_steps[0], num_dropouts), dtype=np.int32)
        for row, run in enumerate(runs):
            batches[: run.num_steps, row] = run.batches(recipe.images.num_train)
            keys[row, : run.num_steps] = run.dropout_keys(num_dropouts)
        self._batches, keys = torch.from_numpy(batches).to(device), torch.from_numpy(keys).to(device)
        corpora = list(images)
        self._corpus = torch.tensor([[corpora.index(run.corpus)] for run in runs], device=device)
        self._images = torch.from_numpy(np.stack([images[name].train_images for name in corpora])).to(device, dtype)
        self._labels = torch.from_numpy(np.stack([images[name].train_labels for name in corpora])).to(device)
        self._module = StackedModule(module, len(runs))
        initial = np.stack([run.initial_weights(self._module.shapes, ones=norm_scales(module)) for run in runs])
        self.weights = aligned_rows(torch.from_numpy(initial).to(device, dtype))
        start = [buffer.flatten() for buffer in module.buffers() if buffer.is_floating_point()]
        self._statistic_shapes = statistic_shapes(module)
        self.statistics = torch.cat([torch.empty(0), *start]).to(device, dtype).repeat(len(runs), 1)
        hyperparameters = [run.hyperparameters for run in runs]
        self._optimizer = StackedOptimizer(hyperparameters, self._num_steps.tolist(), weights=self.weights)
        self._drop = StackedDropout([each["dropout"] for each in hyperparameters], keys, dtype=dtype)

    def run(self) -> Iterator[int]:
        """Trains to the end; yields the steps taken since the last yield, summed over networks."""
        taken = 0
        for step in range(self._num_steps[0]):
            num_active = int((self._num_steps > step).sum())
            self._step(step, num_active)
            taken += num_active
            if (step + 1) % _STEPS_A_REPORT == 0 or step + 1 == self._num_steps[0]:
                yield taken
                taken = 0

    def _step(self, step: int, num_active: int) -> None:
        self._drop.step = step
        rows = self._batches[step, :num_active]
        views = unflatten(self.weights[:num_active], self._module.shapes)
        parameters = {path: values.detach().requires_grad_() for path, values in views.items()}
        statistics = unflatten(self.statistics[:num_active], self._statistic_shapes)
        corpus = self._corpus[:num_active]
        logits = self._module({**parameters, **statistics}, self._images[corpus, rows], drop=self._drop, trains=True)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), self._labels[corpus, rows].flatten(), reduction="sum")
        # each network has its own parameters, so that the gradient of the sum over networks is each one's own
        gradients = torch.autograd.grad(losses / rows.shape[1], list(parameters.values()))
        self._optimizer.step(step, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1))


def _trained(
    recipe: ClassifierRecipe, runs: Sequence[Run], *, states: torch.Tensor, images: Mapping[str, ImageSplits]
) -> TrainedNetworks:
    """Measures the networks, of parameters and statistics ``[networks, values]``, and sets aside those that diverged."""
    measured = _measure(runs, states=states, images=images)
    module = build(runs[0].architecture, runs[0].hyperparameters["activation"])
    weights = states[:, : sum(parameter.numel() for parameter in module.parameters())]
    # a NaN compares false, so that it counts as too large
    sound_weights = ((weights.abs() <= recipe.largest_weight).all(dim=1) & states.isfinite().all(dim=1)).cpu().numpy()
    kept = sound_weights & np.isfinite(list(measured.values())).all(axis=0)
    largest = weights.abs().amax(dim=1).tolist()
    diverged = tuple(
        (run.run_id, _reason(run, largest_weight=size if not sound else None))
        for run, size, sound, keep in zip(runs, largest, sound_weights, kept, strict=True)
        if not keep
    )
    return TrainedNetworks(
        architecture=runs[0].architecture,
        parameters={path: values.cpu().numpy()[kept] for path, values in unflatten(states, _state_shapes(module)).items()},
        metadata=typed_columns(recipe.columns, [run.columns for run in runs], measured=measured, kept=kept),
        diverged=diverged,
    )


def _state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {**parameter_shapes(module), **statistic_shapes(module)}


def _reason(run: Run, *, largest_weight: float | None) -> str:
    what = "losses are not finite" if largest_weight is None else f"weights reach {largest_weight:.3g}"
    optimizer, learning_rate = run.hyperparameters["optimizer"], run.hyperparameters["learning_rate"]
    return f"{what} after {run.num_steps} steps of {optimizer} with learning rate {learning_rate:.3g}"


def _measure(runs: Sequence[Run], *, states: torch.Tensor, images: Mapping[str, ImageSplits]) -> dict[str, np.ndarray]:
    """The measurement columns, float64 ``[networks]``."""
    measured = {name: np.zeros(len(runs)) for name in columns_of("measurement")}
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        groups[run.hyperparameters["activation"], run.corpus].append(place)
    for (activation, corpus), networks in groups.items():
        module, shown = build(runs[0].architecture, activation), images[corpus]
        parameters = unflatten(states[networks], _state_shapes(module))
        for split, (pixels, labels) in {
            "train": (shown.train_images, shown.train_labels),
            "val": (shown.val_images, shown.val_labels),
            "test": (shown.test_images, shown.test_labels),
        }.items():
            right, losses = score(module, parameters, images=pixels, labels=labels)
            for row, network in enumerate(networks):
                seen = runs[network].train_rows(len(labels)) if split == "train" else slice(None)
                measured[f"{split}_accuracy"][network] = right[row, seen].mean()
                measured[f"{split}_loss"][network] = losses[row, seen].mean()
    return measured
