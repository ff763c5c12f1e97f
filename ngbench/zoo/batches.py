"""Which training images a stack of runs sees in each step, brought to the device piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from ngbench.zoo.run import Run

_INDICES_A_PIECE = 2**24


class StackedBatches:
    """Batches of runs, given longest first; a piece of them stands on the device, and the next is drawn meanwhile.

    Args:
        runs: Whose batches; all have one batch size.
        num_images: Training images that there are.
        device: Where batches are needed.
    """

    def __init__(self, runs: Sequence[Run], num_images: int, *, device: torch.device):
        self._runs, self._device = runs, device
        batch_size, longest = runs[0].hyperparameters["batch_size"], runs[0].num_steps
        self.piece_size = min(longest, max(1, _INDICES_A_PIECE // (len(runs) * batch_size)))
        """Steps of a piece."""
        self._streams: list[Iterator[np.ndarray]] = [run.batch_pieces(num_images, self.piece_size) for run in runs]
        self._piece = torch.zeros(self.piece_size, len(runs), batch_size, dtype=torch.int32, device=device)
        self._next: Future[torch.Tensor] | None = None

    def load(self) -> None:
        """Puts the next piece in the place of the last."""
        self._piece.copy_(self._drawn() if self._next is None else self._next.result(), non_blocking=True)
        # a worker process of the CPU has one thread
        if self._device.type == "cuda":
            self._next = _starter().submit(self._drawn)

    def at(self, place: torch.Tensor, num_active: int) -> torch.Tensor:
        """The batches of the first runs in one step, int64 ``[active runs, batch_size]``.

        Args:
            place: Number of the step in the piece, int64 ``[1]`` on the device.
            num_active: How many runs.
        """
        return self._piece.index_select(0, place)[0, :num_active].long()

    def _drawn(self) -> torch.Tensor:
        filled = torch.zeros(self._piece.shape, dtype=torch.int32, pin_memory=self._device.type == "cuda")

        def draw(row: int) -> None:
            batches = next(self._streams[row], None)
            if batches is not None:
                filled[: len(batches), row] = torch.from_numpy(batches)

        # numpy shuffles without Python's lock
        for _ in (_shufflers().map if self._device.type == "cuda" else map)(draw, range(len(self._streams))):
            pass
        return filled


@cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


@cache
def _shufflers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()
