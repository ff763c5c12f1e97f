"""Fits thousands of implicit neural representations at once, each to one image of a corpus: stacks share every matrix product."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ngbench.errors import TrainingError
from ngbench.progress import Progress, silent
from ngbench.zoo.architectures import Siren, build
from ngbench.zoo.evaluate import round_to_16_bits
from ngbench.zoo.hub_images import HubImages
from ngbench.zoo.images import load_corpus, pixel_grid
from ngbench.zoo.optimizers import StackedOptimizer
from ngbench.zoo.recipe import InrRecipe
from ngbench.zoo.replay import Stepper
from ngbench.zoo.run import Fit
from ngbench.zoo.stack import StackedModule, aligned_rows, parameter_shapes, unflatten
from ngbench.zoo.trained import TrainedNetworks, typed_columns

# more networks a stack than of classifiers: these are a fiftieth of the work a step
_STACK_SIZE = 128
_STACK_SIZE_ON_ACCELERATORS = 8192
_STEPS_A_REPORT = 25


def fit(
    recipe: InrRecipe,
    run_indices: Sequence[int],
    *,
    progress: Progress = silent,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedNetworks:
    """Fits runs of a recipe, rounds their weights, then renders and measures them.

    A network does not depend on which others are fitted in the same call, up to rounding errors.

    Args:
        recipe: What to fit.
        run_indices: Which of its runs, none twice.
        progress: Told the steps done and to do, summed over networks.
        device: A torch device.
        dtype: Of all arithmetic, and of the parameters returned.

    Returns:
        The networks; ``functional`` has the rendered images, float16 ``[networks, pixels * channels]``, under the corpus's name.

    Raises:
        RecipeError: The recipe has no such run.
        TrainingError: No run is named, or one twice.
        ImagesError: The images cannot be read, or are fewer than the recipe has.
    """
    indices = sorted(run_indices)
    if not indices or len(set(indices)) != len(indices):
        raise TrainingError(f"expected at least one run index and none twice, got {list(run_indices)[:20]}; name each run once")
    fits = [Fit.of(recipe, index) for index in indices]
    known = [fit.columns for fit in fits]
    targets = grey_values(recipe.images)[[fit.image_index for fit in fits]]
    total, done = sum(fit.num_steps for fit in fits), 0
    places = sorted(range(len(fits)), key=lambda place: -fits[place].num_steps)
    weights: torch.Tensor | None = None
    size = _STACK_SIZE if torch.device(device).type == "cpu" else _STACK_SIZE_ON_ACCELERATORS
    for start in range(0, len(fits), size):
        stack = places[start : start + size]
        fitter = _StackFitter([fits[place] for place in stack], targets[stack], device=device, dtype=dtype)
        for steps in fitter.run():
            done += steps
            progress(done, total, f"{len(stack)} fits")
        weights = fitter.weights.new_empty(len(fits), fitter.weights.shape[1]) if weights is None else weights
        weights[stack] = fitter.weights
    assert weights is not None
    return _fitted(recipe, fits, known, weights=round_to_16_bits(weights, recipe.rounding), targets=targets)


def grey_values(corpus: str | HubImages) -> np.ndarray:
    """The values of each image of a corpus at the points of its `pixel_grid`, float32 ``[images, points, channels]``."""
    images, _ = load_corpus(corpus)
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1, images.shape[1])


def points_of(corpus: str | HubImages) -> np.ndarray:
    """Coordinates of the pixels of a corpus's images, float32 ``[points, 2]``."""
    return pixel_grid(*load_corpus(corpus)[0].shape[2:])


class _StackFitter:
    """Fits one stack of runs, given longest first; `weights` ``[networks, parameters]`` hold them as they are."""

    def __init__(self, fits: Sequence[Fit], targets: np.ndarray, *, device: str, dtype: torch.dtype):
        module = _module(fits[0].architecture)
        self._num_steps = np.array([fit.num_steps for fit in fits])
        self._points = torch.from_numpy(points_of(fits[0].images)).to(device, dtype).expand(len(fits), -1, -1)
        self._targets = torch.from_numpy(targets).to(device, dtype)
        self._module = StackedModule(module, len(fits))
        initial = np.stack([fit.initial_weights(self._module.shapes) for fit in fits])
        self.weights = aligned_rows(torch.from_numpy(initial).to(device, dtype))
        self._optimizer = StackedOptimizer([fit.hyperparameters for fit in fits], self._num_steps.tolist(), weights=self.weights)
        self._step_number = torch.zeros(1, dtype=torch.int64, device=device)
        self._stepper = Stepper(self._step, self.weights.device)

    def run(self) -> Iterator[int]:
        """Fits to the end; yields the steps taken since the last yield, summed over networks."""
        last = int(self._num_steps[0])
        stops = sorted({0, *self._num_steps.tolist(), *range(0, last, _STEPS_A_REPORT)})
        for first, end in itertools.pairwise(stops):
            num_active = int((self._num_steps > first).sum())
            self._stepper.take(end - first, num_active)
            yield num_active * (end - first)

    def _step(self, num_active: int) -> None:
        views = unflatten(self.weights[:num_active], self._module.shapes)
        parameters = {path: values.detach().requires_grad_() for path, values in views.items()}
        outputs = self._module(parameters, self._points[:num_active])
        # each network has its own parameters, so that the gradient of the sum over networks is each one's own
        losses = (outputs - self._targets[:num_active]).square().mean((1, 2)).sum()
        gradients = torch.autograd.grad(losses, list(parameters.values()))
        self._optimizer.step(self._step_number, torch.cat([gradient.flatten(1) for gradient in gradients], dim=1))
        self._step_number += 1


def _module(architecture: Siren) -> torch.nn.Sequential:
    return build(architecture, *architecture.activations)


@torch.no_grad()
def render(architecture: Siren, parameters: Mapping[str, torch.Tensor], points: torch.Tensor) -> torch.Tensor:
    """Values of networks at points.

    Args:
        architecture: What all of them are built as.
        parameters: ``[networks, *shape]`` by state-dict path.
        points: ``[points, 2]``.

    Returns:
        ``[networks, points, channels]``.
    """
    num_networks = len(next(iter(parameters.values())))
    module = StackedModule(_module(architecture), num_networks)
    return module(parameters, points.to(next(iter(parameters.values()))).expand(num_networks, -1, -1))


def psnr(loss: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of images whose values range over 1, from their mean squared errors."""
    return -10 * np.log10(np.maximum(loss, np.finfo(np.float32).tiny))


def _fitted(
    recipe: InrRecipe, fits: Sequence[Fit], known: Sequence[Mapping[str, Any]], *, weights: torch.Tensor, targets: np.ndarray
) -> TrainedNetworks:
    """Measures the networks, of parameters ``[networks, parameters]``, and sets aside those that diverged."""
    parameters = unflatten(weights, parameter_shapes(_module(recipe.architecture)))
    outputs = render(recipe.architecture, parameters, torch.from_numpy(points_of(recipe.images))).double().cpu().numpy()
    loss = np.square(outputs - targets).mean(axis=(1, 2))
    # a NaN compares false, so that it counts as too large
    kept = (weights.abs() <= recipe.largest_weight).all(dim=1).cpu().numpy()
    largest = weights.abs().amax(dim=1).tolist()
    return TrainedNetworks(
        architecture=recipe.architecture,
        parameters={path: values.cpu().numpy()[kept] for path, values in parameters.items()},
        metadata=typed_columns(recipe.columns, known, measured={"loss": loss, "psnr": psnr(loss)}, kept=kept),
        diverged=tuple((fit.run_id, _reason(fit, size)) for fit, size, keep in zip(fits, largest, kept, strict=True) if not keep),
        functional={recipe.corpus: outputs.reshape(len(outputs), -1).astype(np.float16)[kept]},
    )


def _reason(fit: Fit, largest_weight: float) -> str:
    optimizer, learning_rate = fit.hyperparameters["optimizer"], fit.hyperparameters["learning_rate"]
    return f"weights reach {largest_weight:.3g} after {fit.num_steps} steps of {optimizer} with learning rate {learning_rate:.3g}"
