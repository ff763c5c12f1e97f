"""Trains thousands of networks at once: stacks of networks share every matrix product, and each comes out as if trained alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import ImagesError, TrainingError
from ngbench.progress import Progress, silent
from ngbench.zoo.architectures import Cnn, build
from ngbench.zoo.columns import COLUMNS, columns_of
from ngbench.zoo.dropout import StackedDropout
from ngbench.zoo.evaluate import STACK_SIZE, round_to_16_bits, score
from ngbench.zoo.images import ImageSplits, load_images
from ngbench.zoo.optimizers import StackedOptimizer
from ngbench.zoo.recipe import Recipe
from ngbench.zoo.run import Run
from ngbench.zoo.stack import StackedModule, aligned_rows, parameter_shapes, unflatten

_STEPS_A_REPORT = 25
_DTYPES = {"int": np.int64, "float": np.float64, "str": np.str_}


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks of one architecture after training, in the order of their run indices.

    Args:
        architecture: What all of them are built as; the activation of each is the metadata column ``activation``.
        parameters: float32 ``[networks, *shape]`` by state-dict path.
        metadata: ``[networks]`` by column name; `ngbench.zoo.columns.COLUMNS` describes the columns.
        diverged: Run id and reason of each run whose weights or losses are not finite or too large; these have no row.

    Raises:
        TrainingError: The arrays have different numbers of networks.
    """

    architecture: Cnn
    parameters: Mapping[str, np.ndarray]
    metadata: Mapping[str, np.ndarray]
    diverged: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in {**self.parameters, **self.metadata}.items()}
        if len(set(lengths.values())) > 1:
            raise TrainingError(f"parameters and metadata need one row a network each, got {lengths}; cut them alike")

    def __len__(self) -> int:
        return len(self.metadata["run_id"])

    def module_of(self, row: int) -> nn.Sequential:
        """The network of a row as a torch module in evaluation mode."""
        module = build(self.architecture, str(self.metadata["activation"][row]), dropout=float(self.metadata["dropout"][row]))
        module.load_state_dict({path: torch.tensor(values[row]) for path, values in self.parameters.items()})
        return module.eval()


def train(
    recipe: Recipe,
    run_indices: Sequence[int],
    *,
    progress: Progress = silent,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedNetworks:
    """Trains runs of a recipe, rounds their weights, then measures them.

    A network does not depend on which others are trained in the same call: up to rounding errors always; bit for bit, on the
    same CPU, where all matrices of a product start at multiples of 64 bytes (as in digits-cnn: batches of 32, layers of 8
    channels) and the activation is relu, tanh or gelu.

    Args:
        recipe: What to train.
        run_indices: Which of its runs, none twice.
        progress: Told the steps done and to do, summed over networks.
        device: A torch device.
        dtype: Of all arithmetic, and of the parameters returned.

    Raises:
        RecipeError: The recipe has no such run.
        TrainingError: No run is named, or one twice.
        ImagesError: The images have another shape than the architecture takes.
    """
    indices = sorted(run_indices)
    if not indices or len(set(indices)) != len(indices):
        raise TrainingError(f"expected at least one run index and none twice, got {list(run_indices)[:20]}; name each run once")
    runs = [Run.of(recipe, index) for index in indices]
    images = load_images(recipe.images)
    if images.train_images.shape[1:] != recipe.architecture.input_shape:
        raise ImagesError(
            f"recipe {recipe.name!r}: corpus {recipe.images.corpus!r} has images of shape {images.train_images.shape[1:]}, but "
            f"the architecture takes {recipe.architecture.input_shape}; change input_shape or the corpus"
        )
    total, done = sum(run.num_steps for run in runs), 0
    weights: dict[int, torch.Tensor] = {}
    for stack in _stacks(runs):
        trainer = _StackTrainer(recipe, stack, images=images, device=device, dtype=dtype)
        for steps in trainer.run():
            done += steps
            progress(done, total, f"{len(stack)} {stack[0].hyperparameters['activation']} networks")
        weights.update(zip([run.index for run in stack], trainer.weights, strict=True))
    final = round_to_16_bits(torch.stack([weights[index] for index in indices]), recipe.rounding)
    return _trained(recipe, runs, weights=final, images=images)


def _stacks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs that can share their matrix products, the longest first, so that those still training are always the first rows."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.hyperparameters["activation"], run.hyperparameters["batch_size"]].append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.num_steps, reverse=True)
        for places in np.array_split(np.arange(len(group)), -(-len(group) // STACK_SIZE)):
            yield [group[place] for place in places]


class _StackTrainer:
    """Trains one stack of runs, given longest first; `weights` ``[networks, parameters]`` hold them as they are."""

    def __init__(self, recipe: Recipe, runs: Sequence[Run], *, images: ImageSplits, device: str, dtype: torch.dtype):
        module = build(recipe.architecture, runs[0].hyperparameters["activation"])
        num_dropouts = sum(isinstance(layer, nn.Dropout) for layer in module.modules())
        self._num_steps = np.array([run.num_steps for run in runs])
        batches = np.zeros((self._num_steps[0], len(runs), runs[0].hyperparameters["batch_size"]), dtype=np.int64)
        keys = np.zeros((len(runs), self._num_steps[0], num_dropouts), dtype=np.int32)
        for row, run in enumerate(runs):
            batches[: run.num_steps, row] = run.batches(recipe.images.num_train)
            keys[row, : run.num_steps] = run.dropout_keys(num_dropouts)
        self._batches, keys = torch.from_numpy(batches).to(device), torch.from_numpy(keys).to(device)
        self._images = torch.from_numpy(images.train_images).to(device, dtype)
        self._labels = torch.from_numpy(images.train_labels).to(device)
        self._module = StackedModule(module, len(runs))
        initial = np.stack([run.initial_weights(self._module.shapes) for run in runs])
        self.weights = aligned_rows(torch.from_numpy(initial).to(device, dtype))
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
        logits = self._module(parameters, self._images[rows], drop=self._drop)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), self._labels[rows].flatten(), reduction="sum")
        # each network has its own parameters, so that the gradient of the sum over networks is each one's own
        gradients = torch.autograd.grad(losses / rows.shape[1], list(parameters.values()))
        self._optimizer.step(step, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1))


def _trained(recipe: Recipe, runs: Sequence[Run], *, weights: torch.Tensor, images: ImageSplits) -> TrainedNetworks:
    """Measures the networks and sets aside those that diverged."""
    measured = _measure(recipe, runs, weights=weights, images=images)
    # a NaN compares false, so that it counts as too large
    sound_weights = (weights.abs() <= recipe.largest_weight).all(dim=1).cpu().numpy()
    kept = sound_weights & np.isfinite(list(measured.values())).all(axis=0)
    largest = weights.abs().amax(dim=1).tolist()
    diverged = tuple(
        (run.run_id, _reason(run, largest_weight=size if not sound else None))
        for run, size, sound, keep in zip(runs, largest, sound_weights, kept, strict=True)
        if not keep
    )
    columns: dict[str, Any] = {name: [run.hyperparameters[name] for run in runs] for name in columns_of("hyperparameter")}
    columns |= {
        "run_id": [run.run_id for run in runs],
        "run_index": [run.index for run in runs],
        "seed": [run.seed for run in runs],
    }
    columns |= measured
    shapes = parameter_shapes(build(recipe.architecture, runs[0].hyperparameters["activation"]))
    return TrainedNetworks(
        architecture=recipe.architecture,
        parameters={path: values.cpu().numpy()[kept] for path, values in unflatten(weights, shapes).items()},
        metadata={name: np.array(columns[name], dtype=_DTYPES[column.dtype])[kept] for name, column in COLUMNS.items()},
        diverged=diverged,
    )


def _reason(run: Run, *, largest_weight: float | None) -> str:
    what = "losses are not finite" if largest_weight is None else f"weights reach {largest_weight:.3g}"
    optimizer, learning_rate = run.hyperparameters["optimizer"], run.hyperparameters["learning_rate"]
    return f"{what} after {run.num_steps} steps of {optimizer} with learning rate {learning_rate:.3g}"


def _measure(recipe: Recipe, runs: Sequence[Run], *, weights: torch.Tensor, images: ImageSplits) -> dict[str, np.ndarray]:
    """The measurement columns, float64 ``[networks]``."""
    measured = {name: np.zeros(len(runs)) for name in columns_of("measurement")}
    activations = np.array([run.hyperparameters["activation"] for run in runs])
    splits = {
        "train": (images.train_images, images.train_labels),
        "val": (images.val_images, images.val_labels),
        "test": (images.test_images, images.test_labels),
    }
    for activation in np.unique(activations).tolist():
        module = build(recipe.architecture, activation)
        networks = np.flatnonzero(activations == activation).tolist()
        parameters = unflatten(weights[networks], parameter_shapes(module))
        for split, (pixels, labels) in splits.items():
            right, losses = score(module, parameters, images=pixels, labels=labels)
            for row, network in enumerate(networks):
                seen = runs[network].train_rows(len(labels)) if split == "train" else slice(None)
                measured[f"{split}_accuracy"][network] = right[row, seen].mean()
                measured[f"{split}_loss"][network] = losses[row, seen].mean()
    return measured
