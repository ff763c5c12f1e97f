"""The one training loop: every module that reads a batch of networks is trained and selected alike."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import io
import itertools
import math
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from baselines.fitting.objectives import objective
from baselines.fitting.steps import Forward, Stepper
from ngbench.errors import ConfigError, TrainingError
from ngbench.loading import GraphBundle
from ngbench.methods import Problem, RunContext

Module = TypeVar("Module", bound=nn.Module)


class Examples(Protocol):
    """What a module learns from and predicts for: a `GraphDataset`, or a `Table` of features."""

    @property
    def targets(self) -> np.ndarray | None:
        """What is asked for, ``[graphs]``."""
        ...

    @property
    def bundles(self) -> tuple[GraphBundle, ...]:
        """The networks by structure, if they have any."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Examples:
        """The same on another device."""
        ...

    def batch(self, positions: np.ndarray) -> Any:
        """What the module takes, for some of the networks; it has ``to(device, dtype)``."""
        ...


STEPS_IN_EPOCH = 32
"""Steps that an epoch has at least, as long as they have `SMALLEST_BATCH` networks.

On 1,100 networks of 64 architectures ng-gnn gained 0.03 of validation τ from batches of 32 instead of 64.
"""

SMALLEST_BATCH = 16


@dataclass(frozen=True)
class Training:
    """How a module is trained; the `Config` of a method adds the options of its module.

    Args:
        epochs: Passes over the training networks, as far as the budget of the run allows.
        batch_size: Networks in a step, or fewer where there are few: see `networks_in_step`.
        learning_rate: Largest rate, reached after the warm-up; from there it falls to zero along a cosine.
        warmup: Share of all steps in which the rate rises, linearly.
        weight_decay: Decoupled weight decay (AdamW; Loshchilov and Hutter, ICLR 2019), of matrices only.
        clip_norm: Largest norm of a gradient.
        patience: Epochs without a better validation metric after which training stops; 0 for none.
        precision: ``"float32"``; ``"tf32"``, in which CUDA devices round what is multiplied to 11 bits and others do not; or
            ``"bfloat16"``, in which all round it to 8 bits. Weights and sums are float32 in each.
        num_threads: Threads on which torch computes. Several wait for one another a thousand times in a step: with two cores to
            themselves two train 1.5 times as fast, but several times as slowly once another process wants one of the cores.
            The last bits of a result depend on the number too.
        barrier_weight: Where neurons are to be matched, weight of the loss of networks between two others beside that of
            known permutations; see `baselines.fitting.alignment`.
        sign_flips: Whether units with an odd activation get random signs in each step, which leave the function of a network as
            it is; see `baselines.fitting.sign_flips`. Tables of features have none.

    Raises:
        ConfigError: A number is out of range.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    patience: int = 0
    precision: str = "float32"
    num_threads: int = 1
    barrier_weight: float = 1.0
    sign_flips: bool = False

    def __post_init__(self) -> None:
        self.check_positive("epochs", "batch_size", "learning_rate", "clip_norm", "num_threads")
        self.check_not_negative("weight_decay", "patience", "barrier_weight")
        self.check_choice("precision", "float32", "tf32", "bfloat16")
        self.check_share("warmup")

    def check_positive(self, *names: str) -> None:
        """Refuses options that are not above zero."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a number above 0")

    def check_not_negative(self, *names: str) -> None:
        """Refuses options that are below zero."""
        for name in names:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a number from 0 upward")

    def check_share(self, *names: str) -> None:
        """Refuses options that are no share, at least zero and below one."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a share, at least 0 and below 1")

    def check_choice(self, name: str, *choices: str) -> None:
        """Refuses an option that is none of its choices."""
        if getattr(self, name) not in choices:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")

    def check_unused(self, *names: str, beside: str) -> None:
        """Refuses options that differ from their defaults where nothing reads them.

        Args:
            names: The options.
            beside: The other option because of which nothing reads them.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, which nothing reads where {beside} is {getattr(self, beside)!r}; "
                    f"expected {defaults[name]!r}, the default, or another {beside}"
                )

    def autocast(self, device: torch.device | str) -> torch.autocast:
        """Inside, a forward pass multiplies matrices in the number format of `precision`."""
        # without the cache of cast weights, dropped on leaving, when a graph that was recorded inside still reads it
        options = {"dtype": torch.bfloat16, "enabled": self.precision == "bfloat16", "cache_enabled": False}
        return torch.autocast(torch.device(device).type, **options)

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        """Inside, CUDA devices round what they multiply where `precision` asks for it, in the backward pass too."""
        matmul: Any = torch.backends.cuda.matmul
        convolution: Any = torch.backends.cudnn
        before = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = before

    def networks_in_step(self, num_networks: int) -> int:
        """Networks in a step: of few networks smaller batches are taken, so that an epoch still has enough steps.

        Args:
            num_networks: Networks to train on.
        """
        return min(self.batch_size, max(SMALLEST_BATCH, num_networks // STEPS_IN_EPOCH))

    def rate(self, progress: float) -> float:
        """Learning rate when a share of all steps is done."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


def train(
    module: nn.Module, *, settings: Training, problem: Problem, train: Examples, val: Examples, context: RunContext
) -> None:
    """Trains a module and leaves in it the weights of the epoch with the best validation metric.

    The loss is that of the problem's kind, see `baselines.fitting.objectives`.
    What is drawn at random depends on seed and epoch only. With a checkpoint path the state is kept after each epoch, and a
    fit that finds one goes on from there, on a CPU to the same weights as if it had never stopped. CUDA devices add up some sums
    in no fixed order, such as the gradients of convolutions, so that there two fits of one seed differ by rounding.

    Args:
        module: Takes a batch of the networks, such as a `GraphBatch`, gives ``[graphs, outputs]``.
        settings: How to train, with the options of the module, by which a checkpoint is recognised.
        problem: What the targets are, and the metric that selects.
        train: Networks to learn from, with targets.
        val: Networks to select by, with targets.
        context: Seed, budget, device, checkpoint path and progress.

    Raises:
        TrainingError: The loss is not finite, or the checkpoint cannot be read or is of another run.
    """
    keep_memory()
    module.to(context.device)
    train, val = train.to(context.device), val.to(context.device)
    epochs = min(settings.epochs, context.budget.max_epochs)
    state = TrainingState(
        module, settings, run=f"{settings}, seed {context.seed}, {epochs} epochs, {len(train)} networks, {context.device}"
    )
    state.load(context.checkpoint_path)
    stepper = Stepper(state, problem, train)
    with kernel_threads(settings.num_threads):
        for epoch in range(state.epoch, epochs):
            if state.is_stale:
                break
            with seeded(context.seed, epoch):
                _train_epoch(stepper, context=context, epochs=epochs)
            with settings.tf32():
                predicted = partial(predict, module, val, problem=problem, num_threads=settings.num_threads)
                score = stepper.objective.score(module, val, predicted=predicted)
            state.finish_epoch(score, higher_is_better=problem.higher_is_better)
            state.save(context.checkpoint_path)
            context.progress(state.epoch * len(train), epochs * len(train), state.text(problem))
    module.load_state_dict(state.best_weights)


def _train_epoch(stepper: Stepper, *, context: RunContext, epochs: int) -> None:
    """One pass over the training networks, in random order."""
    state, num_networks = stepper.state, len(stepper.train)
    settings, done = state.settings, state.epoch * num_networks
    order = np.random.default_rng([context.seed, state.epoch]).permutation(num_networks)
    size = settings.networks_in_step(num_networks)
    losses = []
    for start in range(0, num_networks, size):
        positions = order[start : start + size]
        done += len(positions)
        rate = settings.rate(done / (epochs * num_networks))
        losses.append(stepper.step(positions, rate=rate))
        context.progress(done, epochs * num_networks, state.text(stepper.problem))
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {state.epoch + 1} of {epochs} at learning rates up to {settings.learning_rate:.2g}; "
            f"expected a finite number: set a learning_rate below {settings.learning_rate:g}"
        )


class TrainingState:
    """All that a fit needs to go on: weights, optimizer, epochs done, and the best weights so far.

    Args:
        module: What is trained.
        settings: How.
        run: Says which run this is.
    """

    SCALARS = ("epoch", "score", "best", "epochs_since_best")

    def __init__(self, module: nn.Module, settings: Training, *, run: str):
        self.module, self.settings, self.run = module, settings, run
        matrices = [parameter for parameter in module.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        on_cuda = next(module.parameters()).is_cuda
        # a recorded step reads the rate from the device
        rate: float | Tensor = torch.zeros((), device=next(module.parameters()).device) if on_cuda else 0.0
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=on_cuda)
        self.epoch = 0
        self.score: float | None = None
        self.best: float | None = None
        self.epochs_since_best = 0
        self.best_weights: dict[str, Tensor] = {}

    def text(self, problem: Problem) -> str:
        """What there is to say of the last epoch."""
        return "" if self.score is None else f"val {getattr(problem.metric, 'title', 'score')} {self.score:.3f}"

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps that follow."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @property
    def is_stale(self) -> bool:
        """Whether the metric has not improved for as many epochs as the settings allow."""
        return 0 < self.settings.patience <= self.epochs_since_best

    def finish_epoch(self, score: float, *, higher_is_better: bool) -> None:
        """Counts an epoch, and keeps its weights where they are the best so far; of equal ones the first, and any before NaN."""
        self.epoch, self.score, self.epochs_since_best = self.epoch + 1, score, self.epochs_since_best + 1
        best = self.best
        if best is None or math.isnan(best) > math.isnan(score) or (score > best if higher_is_better else score < best):
            self.best, self.best_weights, self.epochs_since_best = score, copy.deepcopy(self.module.state_dict()), 0

    def save(self, path: Path | None) -> None:
        """Writes the state, whole or not at all."""
        if path is None:
            return
        fields = {name: getattr(self, name) for name in ("run", *self.SCALARS, "best_weights")}
        partial = path.with_name(path.name + ".partial")
        # Through memory: on a full disk torch's own writer raises a RuntimeError, which does not say so.
        content = io.BytesIO()
        torch.save({**fields, "weights": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}, content)
        partial.write_bytes(content.getbuffer())
        os.replace(partial, path)

    def load(self, path: Path | None) -> None:
        """Takes over what `save` wrote, if there is anything.

        Raises:
            TrainingError: The file cannot be read, or is of another run.
        """
        if path is None or not path.exists():
            return
        try:
            saved = torch.load(path, map_location=next(self.module.parameters()).device, weights_only=True)
            run = saved["run"]
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise TrainingError(f"checkpoint {path} cannot be read ({type(error).__name__}); remove it to start again") from error
        if run != self.run:
            raise TrainingError(
                f"checkpoint {path} is of another run, {run!r}; expected {self.run!r}: remove it, or use another folder"
            )
        self.module.load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in (*self.SCALARS, "best_weights"):
            setattr(self, name, saved[name])


@torch.no_grad()
def predict(module: nn.Module, networks: Examples, *, problem: Problem, num_threads: int = 1) -> np.ndarray:
    """Predictions of a module for networks, float64 ``[graphs]`` or ``[graphs, classes]``."""
    module.eval()
    forward, says = Forward(module, networks), objective(problem).predictions
    with kernel_threads(num_threads):
        parts = [says(forward(positions)).cpu().numpy() for positions in forward.batches(np.arange(len(networks)))]
    return np.concatenate(parts)


def endless_positions(num_networks: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Positions ``[graphs]`` of networks in batches, all networks in random order again and again."""
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(num_networks)
        yield from (order[start : start + batch_size] for start in range(0, num_networks, batch_size))


def in_float64(module: Module) -> Module:
    """A copy that computes in float64, so that rounding cannot tell networks apart that are permutations of one another."""
    return copy.deepcopy(module).double().eval()


@contextlib.contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Inside, what torch draws depends on the parts alone; afterwards it goes on as before."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        yield


@contextlib.contextmanager
def kernel_threads(number: int) -> Iterator[None]:
    """Inside, torch computes on this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_memory() -> bool:
    """Keeps glibc from returning freed memory to the system for the rest of the process; says whether that was possible.

    A step of training frees large blocks and asks for the same again. By default each comes fresh from the system, which
    clears its pages once more, and that can cost more than the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False  # another libc
    # Parameters of mallopt(3): no block from mmap, and no trimming below 2 GiB.
    m_trim_threshold, m_mmap_max = -1, -4
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))
