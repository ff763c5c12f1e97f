"""Trains thousands of networks at once: stacks of networks share every matrix product, and each run is as if trained alone."""

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
from ngbench.zoo.dropout import StackedDropout, dropout_keys
from ngbench.zoo.evaluate import STACK_SIZE, round_to_16_bits, score
from ngbench.zoo.images import ImageSplits, load_images
from ngbench.zoo.initializers import initialize
from ngbench.zoo.optimizers import StackedOptimizer
from ngbench.zoo.recipe import Recipe
from ngbench.zoo.stack import StackedModule, parameter_shapes, unflatten

_INITIAL_WEIGHTS, _BATCH_ORDER, _DROPOUT = 1, 2, 3
_STEPS_A_REPORT = 25


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks of one architecture after training, in the order of their run indices.

    Args:
        architecture: What all of them are built as, apart from the activation.
        parameters: float32 ``[networks, *shape]`` by state-dict path.
        metadata: One value a network by column name, ``[networks]``; `columns.COLUMNS` describes the columns.
        diverged: Run id and reason of each run that gave no finite network; these have no row.

    Raises:
        TrainingError: The arrays have different numbers of networks.
    """

    architecture: Cnn
    parameters: Mapping[str, np.ndarray]
    metadata: Mapping[str, np.ndarray]
    diverged: tuple[tuple[str, str], ...]

    def __post_init__(self):
        lengths = {name: len(array) for name, array in {**self.parameters, **self.metadata}.items()}
        if len(set(lengths.values())) > 1:
            raise TrainingError(f"parameters and metadata need one row a network, got {lengths}")

    def __len__(self) -> int:
        return len(self.metadata["run_id"])

    def module_of(self, row: int) -> nn.Sequential:
        """The network of a row as a torch module in evaluation mode."""
        module = build(self.architecture, str(self.metadata["activation"][row]), dropout=float(self.metadata["dropout"][row]))
        module.load_state_dict({path: torch.tensor(values[row]) for path, values in self.parameters.items()})
        return module.eval()


@dataclass(frozen=True)
class Run:
    """One training run before it starts.

    Args:
        run_id: Its name.
        index: Its number in the recipe.
        seed: Of its own random draws.
        hyperparameters: By column name.
        num_train: Images that it trains on.
        num_steps: Optimisation steps that it takes.
    """

    run_id: str
    index: int
    seed: int
    hyperparameters: Mapping[str, Any]
    num_train: int
    num_steps: int

    @classmethod
    def of(cls, recipe: Recipe, index: int) -> Run:
        """Plans a run of a recipe."""
        sample: dict[str, Any] = recipe.sample(index)
        num_train = max(1, round(sample["train_share"] * recipe.images.num_train))
        num_steps = max(1, round(sample["epochs"] * num_train / sample["batch_size"]))
        return cls(recipe.run_id(index), index, recipe.run_seed(index), sample, num_train, num_steps)

    def initial_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
        """Flat float64 ``[parameters]``."""
        kind, scale = self.hyperparameters["initializer"], self.hyperparameters["init_scale"]
        return initialize(shapes, np.random.default_rng([self.seed, _INITIAL_WEIGHTS]), kind=kind, scale=scale)

    def train_rows(self, num_images: int) -> np.ndarray:
        """Which of the recipe's training images the run sees, ``[num_train]``."""
        return np.random.default_rng([self.seed, _BATCH_ORDER]).permutation(num_images)[: self.num_train]

    def batches(self, num_images: int) -> np.ndarray:
        """Training images of each step ``[num_steps, batch_size]``: one random order an epoch, cut without regard to its end."""
        rng = np.random.default_rng([self.seed, _BATCH_ORDER])
        rows = rng.permutation(num_images)[: self.num_train]
        wanted = self.num_steps * self.hyperparameters["batch_size"]
        order = np.concatenate([rng.permutation(rows) for _ in range(-(-wanted // self.num_train))])
        return order[:wanted].reshape(self.num_steps, -1)

    def dropout_keys(self, num_steps: int, num_dropouts: int) -> np.ndarray:
        """int32 ``[num_steps, num_dropouts]``."""
        return dropout_keys(np.random.default_rng([self.seed, _DROPOUT]), num_steps, num_dropouts)


def train(
    recipe: Recipe,
    run_indices: Sequence[int],
    *,
    progress: Progress = silent,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedNetworks:
    """Trains runs of a recipe, rounds their weights, then measures them.

    A run's network does not depend on which others are trained with it, bit for bit on one machine with one build of torch.

    Args:
        recipe: What to train.
        run_indices: Which of its runs, without repeats.
        progress: Told the steps done and to do, summed over networks.
        device: A torch device.
        dtype: Type of all arithmetic; also of the parameters returned.

    Raises:
        RecipeError: The recipe has no such run.
        TrainingError: A run index stands twice, or no run is named.
        ImagesError: The images have another shape than the architecture takes.
    """
    indices = sorted(run_indices)
    if not indices or len(set(indices)) != len(indices):
        raise TrainingError(f"expected at least one run index and none twice, got {list(run_indices)[:20]}")
    runs = [Run.of(recipe, index) for index in indices]
    images = load_images(recipe.images)
    if images.train_images.shape[1:] != recipe.architecture.input_shape:
        raise ImagesError(
            f"recipe {recipe.name!r}: corpus {recipe.images.corpus!r} has images of shape {images.train_images.shape[1:]}, "
            f"the architecture takes {recipe.architecture.input_shape}; change input_shape or the corpus"
        )
    total, done = sum(run.num_steps for run in runs), 0
    shapes = parameter_shapes(build(recipe.architecture, "relu"))
    weights: dict[int, torch.Tensor] = {}
    for stack in _stacks(runs):
        trainer = _Trainer(recipe, stack, images, device=device, dtype=dtype)
        for steps in trainer.run():
            done += steps
            progress(done, total, f"{stack[0].hyperparameters['activation']} × {len(stack)}")
        weights |= dict(zip([run.index for run in stack], trainer.weights, strict=True))
    final = round_to_16_bits(torch.stack([weights[index] for index in indices]), recipe.rounding)
    return _measured(recipe, runs, final, shapes=shapes, images=images)


def _stacks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Groups of runs that can share their matrix products, longest first within each."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.hyperparameters["activation"], run.hyperparameters["batch_size"]].append(run)
    for group in groups.values():
        group.sort(key=lambda run: -run.num_steps)
        num_stacks = -(-len(group) // STACK_SIZE)
        for part in np.array_split(np.arange(len(group)), num_stacks):
            yield [group[index] for index in part]


class _Trainer:
    """Trains one stack of runs, given longest first, so that those still training are always the first rows."""

    def __init__(self, recipe: Recipe, runs: Sequence[Run], images: ImageSplits, *, device: str, dtype: torch.dtype):
        module = build(recipe.architecture, runs[0].hyperparameters["activation"])
        num_images, num_steps = recipe.images.num_train, runs[0].num_steps
        num_dropouts = sum(isinstance(layer, nn.Dropout) for layer in module.modules())
        batches = np.zeros((num_steps, len(runs), runs[0].hyperparameters["batch_size"]), dtype=np.int64)
        keys = np.zeros((len(runs), num_steps, num_dropouts), dtype=np.int32)
        for row, run in enumerate(runs):
            batches[: run.num_steps, row] = run.batches(num_images)
            keys[row, : run.num_steps] = run.dropout_keys(run.num_steps, num_dropouts)
        self._batches = torch.from_numpy(batches).to(device)
        self._images = torch.from_numpy(images.train_images).to(device, dtype)
        self._labels = torch.from_numpy(images.train_labels).to(device)
        self._module = StackedModule(module, len(runs))
        initial = np.stack([run.initial_weights(self._module.shapes) for run in runs])
        self.weights = torch.from_numpy(initial).to(device, dtype)
        hyperparameters = [run.hyperparameters for run in runs]
        self._steps = np.array([run.num_steps for run in runs])
        self._optimizer = StackedOptimizer(hyperparameters, self._steps.tolist(), weights=self.weights)
        self._drop = StackedDropout([h["dropout"] for h in hyperparameters], torch.from_numpy(keys).to(device), dtype)

    def run(self) -> Iterator[int]:
        """Trains to the end; yields the network-steps done since the last yield."""
        done = 0
        for step in range(self._steps[0]):
            active = int((self._steps > step).sum())
            self._step(step, active)
            done += active
            if (step + 1) % _STEPS_A_REPORT == 0 or step + 1 == self._steps[0]:
                yield done
                done = 0

    def _step(self, step: int, active: int) -> None:
        self._drop.step = step
        rows = self._batches[step, :active]
        leaves = {
            path: values.detach().requires_grad_() for path, values in unflatten(self.weights[:active], self._module.shapes).items()
        }
        logits = self._module(leaves, self._images[rows], self._drop)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), self._labels[rows].flatten(), reduction="sum")
        gradients = torch.autograd.grad(losses / rows.shape[1], list(leaves.values()))
        self._optimizer.step(step, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1))


def _measured(
    recipe: Recipe, runs: Sequence[Run], weights: torch.Tensor, *, shapes: Mapping[str, tuple[int, ...]], images: ImageSplits
) -> TrainedNetworks:
    measured = _measure(recipe, runs, weights, images=images)
    finite = torch.isfinite(weights).all(dim=1).cpu().numpy() & np.isfinite(measured["train_loss"] + measured["test_loss"])
    diverged = tuple(
        (run.run_id, f"{'weights' if not torch.isfinite(row).all() else 'losses'} are not finite after {run.num_steps} steps of "
         f"{run.hyperparameters['optimizer']} at learning rate {run.hyperparameters['learning_rate']:.3g}")
        for run, row, kept in zip(runs, weights, finite, strict=True)
        if not kept
    )
    known: dict[str, list[Any]] = {name: [run.hyperparameters[name] for run in runs] for name in columns_of("hyperparameter")}
    known |= {"run_id": [run.run_id for run in runs], "run_index": [run.index for run in runs], "seed": [run.seed for run in runs]}
    dtypes = {"int": np.int64, "float": np.float64, "str": np.str_}
    metadata = {name: np.array(known.get(name, measured.get(name)), dtype=dtypes[column.dtype]) for name, column in COLUMNS.items()}
    parameters = {path: values.cpu().numpy()[finite] for path, values in unflatten(weights, shapes).items()}
    return TrainedNetworks(
        recipe.architecture, parameters, {name: values[finite] for name, values in metadata.items()}, diverged
    )


def _measure(recipe: Recipe, runs: Sequence[Run], weights: torch.Tensor, *, images: ImageSplits) -> dict[str, np.ndarray]:
    """Measurement columns of all runs; a network whose outputs are not finite has losses that are not."""
    measured = {name: np.zeros(len(runs)) for name in columns_of("measurement")}
    activations = np.array([run.hyperparameters["activation"] for run in runs])
    for activation in np.unique(activations):
        rows = np.flatnonzero(activations == activation)
        module = build(recipe.architecture, str(activation))
        parameters = unflatten(weights[torch.from_numpy(rows)], parameter_shapes(module))
        for split, pixels, labels in (
            ("train", images.train_images, images.train_labels),
            ("val", images.val_images, images.val_labels),
            ("test", images.test_images, images.test_labels),
        ):
            right, losses = score(module, parameters, pixels, labels=labels)
            for place, row in enumerate(rows):
                seen = runs[row].train_rows(len(labels)) if split == "train" else slice(None)
                measured[f"{split}_accuracy"][row] = right[place, seen].mean()
                if split != "val":
                    measured[f"{split}_loss"][row] = losses[place, seen].mean()
    return measured
