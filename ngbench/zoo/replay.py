"""Takes steps of training one after another; on CUDA as a graph, so that launching their many small kernels costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch

# allocations settle in these, as capturing asks for (CUDA graphs in the documentation of torch)
_STEPS_BEFORE_CAPTURE = 3


class Stepper:
    """Calls a step again and again.

    Args:
        step: Takes one step of the first networks of a stack, as many as it is told. It reads what differs from step to step, its
            number above all, from tensors that it moves on itself, and never waits for the device.
        device: Where it works.
    """

    def __init__(self, step: Callable[[int], None], device: torch.device):
        self._step, self._device = step, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_active, self._num_taken = -1, 0

    def take(self, num_steps: int, num_active: int) -> None:
        """Takes steps of the first `num_active` networks."""
        if self._device.type != "cuda":
            for _ in range(num_steps):
                self._step(num_active)
            return
        if num_active != self._num_active:
            self._graph, self._num_active, self._num_taken = None, num_active, 0
        for _ in range(num_steps):
            if self._num_taken < _STEPS_BEFORE_CAPTURE:
                self._step_aside(num_active)
            else:
                self._graph = self._graph or self._capture(num_active)
                self._graph.replay()
            self._num_taken += 1

    def _step_aside(self, num_active: int) -> None:
        """A step on a stream of its own, as capturing asks for before."""
        current, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            self._step(num_active)
        current.wait_stream(aside)

    def _capture(self, num_active: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(num_active)
        return graph
