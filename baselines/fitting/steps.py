"""One step of training, or one forward pass: in parts that memory holds, or replayed as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.fitting.alignment import Alignment
from baselines.fitting.objectives import Objective, objective
from baselines.fitting.rounding import rounded_weights
from baselines.fitting.sign_flips import flipped
from ngbench.loading import GraphBatch, GraphDataset
from ngbench.methods import Problem

if TYPE_CHECKING:
    from baselines.fitting.training import Examples, TrainingState

PREDICTION_BATCH = 256
"""Networks that are predicted at once, unless they are large."""

FLOATS_AT_ONCE = {"cpu": 5 * 2**18, "cuda": 2**28}
"""Floats of a module's largest tensor, at most, that networks which pass through it at once have between them.

A step on more adds up the gradients of several passes: the same step in less memory. Without gradients, which need what was
computed on the way, twice as many pass. One network may have more.
"""

EAGER_CALLS = 3
"""Calls before one is recorded, in which libraries choose their kernels."""


class Stepper:
    """Steps of training on networks of one dataset.

    On CUDA, where all networks have one structure, a step is recorded once as a CUDA graph and then replayed: it consists of
    hundreds of short kernels, which take longer to launch than to run.

    Args:
        state: Module and optimizer, on the device of the networks.
        problem: Says what the targets are.
        train: Networks to learn from, with targets.
    """

    def __init__(self, state: TrainingState, problem: Problem, train: Examples):
        self.state, self.problem, self.train = state, problem, train
        self.device = next(state.module.parameters()).device
        self.objective = self._objective()
        self.floats = floats_at_once(state.module, train) * self.objective.num_readings
        self.may_record = may_record(self.device, train) and self.objective.may_record
        self.num_steps = 0
        self.recorded: Recorded | None = None

    def _objective(self) -> Objective:
        if isinstance(self.train, GraphDataset) and self.problem.kind == "merging":
            return Alignment(self.train, barrier_weight=self.state.settings.barrier_weight)
        return objective(self.problem, self.train, self.device)

    def step(self, positions: np.ndarray, *, rate: float) -> Tensor:
        """One step of the optimizer on some networks; gives the mean loss, on the device.

        Args:
            positions: Of the networks, int64 ``[graphs]``.
            rate: Learning rate.
        """
        self.state.module.train()
        self.state.set_rate(rate)
        with self.state.settings.tf32(), _on(self.device):
            return self._step(positions)

    def _step(self, positions: np.ndarray) -> Tensor:
        index = torch.as_tensor(positions, device=self.device)
        fits = self.may_record and self.floats[positions].sum() <= FLOATS_AT_ONCE[self.device.type]
        if not fits or (self.recorded is not None and self.recorded.num_networks != len(positions)):
            return self._eager(positions, index)
        if self.recorded is None:
            if self.num_steps < EAGER_CALLS:
                self.num_steps += 1
                # recording wants the kernels to have run on a stream of their own before
                with _side_stream():
                    return self._eager(positions, index)
            self.recorded = Recorded(lambda batch, rows: self._whole(batch, rows), self.train, index)
        return self.recorded.replay(index)

    def _whole(self, batch: GraphBatch, index: Tensor) -> Tensor:
        """The step on a batch in one pass; gives the loss."""
        loss = self.backward(batch, index, len(index))
        self.finish()
        return loss

    def _eager(self, positions: np.ndarray, index: Tensor) -> Tensor:
        losses = []
        for part in self._passes(positions):
            losses.append(self.backward(self.train.batch(positions[part]), index[part], len(positions)))
        self.finish()
        return torch.stack(losses).sum()

    def _passes(self, positions: np.ndarray) -> Iterator[slice]:
        most, least = FLOATS_AT_ONCE[self.device.type], self.objective.least_at_once
        return passes(positions, self.floats[positions], most, least=least)

    def backward(self, batch: Any, index: Tensor, num_networks: int) -> Tensor:
        """Adds the gradients of a batch, whose loss counts by its share of the networks of the step; gives that share."""
        if self.state.settings.sign_flips and isinstance(batch, GraphBatch):
            batch = flipped(batch)
        with self.state.settings.autocast(self.device), rounded_weights(self.state.module, self.device):
            loss = self.objective.loss(self.state.module, batch, index) / num_networks
        loss.backward()
        return loss.detach()

    def finish(self) -> None:
        """Clips the gradients and moves the weights."""
        nn.utils.clip_grad_norm_(self.state.module.parameters(), self.state.settings.clip_norm)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()


def _on(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside, a CUDA device is the current one, for whose streams graphs are recorded."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@cache
def _stream_of(device: int) -> torch.cuda.Stream:
    """The one stream on which steps warm up and are recorded: cuBLAS keeps 32 MiB for each stream that it meets."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _side_stream() -> Iterator[None]:
    stream = _stream_of(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class Recorded:
    """What is computed of so many networks of one structure, recorded as a CUDA graph.

    The tables of indices that it reads belong to caches. These hold those of dozens of structures or more, where one dataset of
    networks of one structure asks for a few, so that none is dropped while a graph of it lives.

    Args:
        compute: From a batch and the positions of its networks, int64 ``[graphs]``, to a tensor.
        networks: Of one structure, on a CUDA device.
        index: Positions of the first batch.
    """

    def __init__(self, compute: Callable[[GraphBatch, Tensor], Tensor], networks: Examples, index: Tensor):
        self.num_networks, self.index = len(index), index.clone()
        (bundle,) = networks.bundles
        # kept: a replay reads whatever stands where it was
        self.order = torch.arange(len(index), device=index.device)
        self.graph = torch.cuda.CUDAGraph()
        # torch's own stream for this is on the device of the first graph of the process
        with torch.cuda.graph(self.graph, stream=_stream_of(torch.cuda.current_device())):
            rows = {"variant": bundle.variant[self.index], "values": bundle.values[self.index], "index": self.order}
            self.result = compute(GraphBatch((replace(bundle, **rows),)), self.index)

    def replay(self, index: Tensor) -> Tensor:
        """The result for other networks."""
        self.index.copy_(index)
        self.graph.replay()
        return self.result.clone()


class Forward:
    """Forward passes of a module over networks, as many at once as memory is meant to hold.

    On CUDA, where all networks have one structure, a pass that comes again is recorded and replayed, as in `Stepper`.

    Args:
        module: Reads batches of the networks.
        networks: On any device.
    """

    def __init__(self, module: nn.Module, networks: Examples):
        self.module, parameter = module, next(module.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.networks = networks.to(self.device)
        self.floats = floats_at_once(module, networks)
        self.may_record = may_record(self.device, networks)
        self.num_calls: dict[int, int] = {}
        self.recorded: dict[int, Recorded] = {}

    def batches(self, positions: np.ndarray, *, size: int = PREDICTION_BATCH) -> Iterator[np.ndarray]:
        """Positions ``[graphs]`` in their order, in parts."""
        for start in range(0, len(positions), size):
            batch = positions[start : start + size]
            for part in passes(batch, self.floats[batch], 2 * FLOATS_AT_ONCE[self.device.type]):
                yield batch[part]

    def graph_batches(self) -> Iterator[GraphBatch]:
        """All networks once, in order, on the device and in the format of the module."""
        for positions in self.batches(np.arange(len(self.networks))):
            yield self.networks.batch(positions).to(self.device, self.dtype)

    @torch.no_grad()
    def __call__(self, positions: np.ndarray) -> Tensor:
        """What the module gives for some networks, in their order."""
        with _on(self.device):
            return self._outputs(positions)

    def _outputs(self, positions: np.ndarray) -> Tensor:
        size = len(positions)
        self.num_calls[size] = self.num_calls.get(size, 0) + 1
        if not self.may_record or self.num_calls[size] <= EAGER_CALLS:
            return self._computed(self.networks.batch(positions))
        index = torch.as_tensor(positions, device=self.device)
        if size not in self.recorded:
            self.recorded[size] = Recorded(lambda batch, _: self._computed(batch), self.networks, index)
        return self.recorded[size].replay(index)

    def _computed(self, batch: Any) -> Tensor:
        with rounded_weights(self.module, self.device):
            return self.module(batch.to(self.device, self.dtype))


def may_record(device: torch.device, networks: Examples) -> bool:
    """Whether what is computed of networks may be recorded: on CUDA, where all have one structure and stand on the device."""
    return device.type == "cuda" and len(networks.bundles) == 1 and not networks.bundles[0].is_stored


def floats_at_once(module: nn.Module, networks: Examples) -> np.ndarray:
    """Floats of the largest tensor that each network needs in a module, int64 ``[graphs]``; 0 where that does not matter."""
    floats = np.zeros(len(networks), dtype=np.int64)
    if hasattr(module, "floats_at_once"):
        for bundle in networks.bundles:
            floats[bundle.index.cpu().numpy()] = module.floats_at_once(bundle.topology)  # pyright: ignore[reportCallIssue]
    return floats


def passes(positions: np.ndarray, floats: np.ndarray, most: int, *, least: int = 1) -> Iterator[slice]:
    """Splits networks into runs as long as they can be without more than so many floats, but for a run of one, or the least.

    Runs of eight and more are multiples of eight, of 16 and more of 16: kernels go through networks by so many at a time.
    """
    ends = np.cumsum(floats)
    start = 0
    while start < len(positions):
        before = ends[start - 1] if start else 0
        stop = min(len(positions), max(int(np.searchsorted(ends, before + most, "right")), start + max(1, least)))
        if stop < len(positions):
            size = stop - start
            stop -= size % (16 if size >= 16 else 8 if size >= 8 else 1)
        yield slice(start, stop)
        start = stop
