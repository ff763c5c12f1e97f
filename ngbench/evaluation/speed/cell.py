"""One cell of the tables of speed: a method on a case, measured in a process of its own, so that no cell hides another's memory.

``python -m ngbench.evaluation.speed.cell`` is that process: it takes a `Cell` as JSON and gives a `CellResult` as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from ngbench.errors import MethodError, NgbenchError
from ngbench.evaluation.environment import Usage, memory_bytes
from ngbench.loading import GraphBatch, GraphDataset

WARM_UP = {"cpu": 3, "cuda": 10}
"""Steps that are not counted: caches fill, kernels are compiled, CUDA graphs captured."""

WARM_UP_S = 3.0
"""After so many seconds one step on a CPU is warm-up enough; on CUDA the first alone compiles for longer, others record."""

REPEAT_S = 0.2
"""Seconds of a repeat, at least; it has as many steps as that takes, so that no clock or synchronisation counts."""

LIMIT_S = 8.0
"""After so many seconds two repeats are enough."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Record):
    """What is measured.

    Attributes:
        name: Of the row: a configuration, or the method itself.
        method: Registered name, or ``package.module:Class``.
        settings: Of the method, as text.
        case: Name of a case.
        device: Torch device.
        repeats: Measurements whose median and range are given.
        what: Whole training steps and inference, or one embedding after a fit on small networks.
    """

    name: str
    method: str
    settings: dict[str, str] = Field(default_factory=dict)
    case: str
    device: str = "cpu"
    repeats: PositiveInt = 5
    what: Literal["steps", "embedding"] = "steps"


class Rate(_Record):
    """Networks per second over repeats.

    Attributes:
        median: Of all repeats.
        least: Of the slowest.
        most: Of the fastest.
        repeats: How many there were.
        share_loading: Share of the time that went into making batches.
    """

    median: NonNegativeFloat
    least: NonNegativeFloat
    most: NonNegativeFloat
    repeats: PositiveInt
    share_loading: NonNegativeFloat


class CellResult(_Record):
    """What a cell came to.

    Attributes:
        cell: What was asked for.
        reason: Why there is nothing; None where there is.
        is_fault: Whether that is a fault of the method, which neither refused the networks nor ran out of memory.
        batch_size: Networks in a step.
        num_edges: Edges of a network, on average.
        num_parameters: Learned numbers.
        num_threads: CPU threads that torch used.
        train: Whole training steps.
        infer: Predictions without gradients.
        embed: Embedding.
        peak_memory_bytes: Most memory in training or embedding: allocated on the GPU, or resident over what there was before.
    """

    cell: Cell
    reason: str | None = None
    is_fault: bool = False
    batch_size: int | None = None
    num_edges: float | None = None
    num_parameters: int | None = None
    num_threads: int | None = None
    train: Rate | None = None
    infer: Rate | None = None
    embed: Rate | None = None
    peak_memory_bytes: int | None = None


def measure_apart(cell: Cell) -> CellResult:
    """Measures a cell in a new process; one that fails is a result with a reason."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__ if __name__ != "__main__" else "ngbench.evaluation.speed.cell"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output, complaints = process.communicate(cell.model_dump_json())
    finally:
        process.kill()
    if process.returncode == 0:
        return CellResult.model_validate_json(output)
    if process.returncode == -signal.SIGKILL:
        return CellResult(cell=cell, reason="the system ended the process, most likely for want of memory")
    last = (complaints.strip().splitlines() or [f"the process ended with code {process.returncode}"])[-1]
    return CellResult(cell=cell, reason=last, is_fault=True)


def measure(cell: Cell) -> CellResult:
    """Measures a cell in this process; what the method refuses and memory that is lacking are results with a reason."""
    import torch

    measured = {"steps": _measure_steps, "embedding": _measure_embedding}[cell.what]
    try:
        return measured(cell)
    except NgbenchError as error:
        return CellResult(cell=cell, reason=str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return CellResult(cell=cell, reason=f"out of memory: {str(error).splitlines()[0] if str(error) else 'no text'}")
    except RuntimeError as error:
        # the type by which torch's CPU allocator says it
        if "can't allocate memory" not in str(error):
            raise
        return CellResult(cell=cell, reason="out of memory: it asks for more than this machine has free")


def _measure_steps(cell: Cell) -> CellResult:
    from ngbench.evaluation.speed.cases import CASES
    from ngbench.methods import Budget, RunContext, make_method
    from ngbench.testing import PROBLEM

    case, method = CASES[cell.case], make_method(cell.method, cell.settings)
    if not hasattr(method, "steps"):
        raise MethodError(
            f"{cell.method} has no steps that can be timed; expected a method that is a ngbench.methods.TrainsBySteps"
        )
    networks = Timed.of(case.networks())
    context = RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=1), device=cell.device)
    with Usage(cell.device) as usage:
        steps = method.steps(PROBLEM, networks, context, batch_size=case.batch_size)
        train = _rate(steps, networks.clock, cell)
    infer = _rate(method.forwards(networks, context, batch_size=case.batch_size), networks.clock, cell)
    return CellResult(
        cell=cell,
        batch_size=case.batch_size,
        num_edges=_mean_edges(networks),
        num_parameters=method.num_parameters,
        num_threads=_num_threads(method),
        train=train,
        infer=infer,
        peak_memory_bytes=usage.peak_memory_bytes,
    )


def _measure_embedding(cell: Cell) -> CellResult:
    """One embedding of a case's networks by a method fitted for one epoch on small networks of the same kinds of layer."""
    from ngbench.evaluation.speed.cases import CASES
    from ngbench.methods import Budget, RunContext, make_method
    from ngbench.testing import PROBLEM, fake_dataset, residual_topology

    case, method = CASES[cell.case], make_method(cell.method, cell.settings)
    if not hasattr(method, "embed"):
        raise MethodError(f"{cell.method} has no embed; choose a method that gives embeddings, such as ng-gnn")
    networks, small = case.networks().without_targets(), fake_dataset([residual_topology()])
    method.fit(PROBLEM, small, small, RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=1), device=cell.device))
    with Usage(cell.device) as usage:
        method.embed(networks)
    rate = len(networks) / usage.duration_s
    return CellResult(
        cell=cell,
        batch_size=len(networks),
        num_edges=_mean_edges(networks),
        num_parameters=method.num_parameters,
        num_threads=_num_threads(method),
        embed=Rate(median=rate, least=rate, most=rate, repeats=1, share_loading=0.0),
        peak_memory_bytes=usage.peak_memory_bytes,
    )


def _num_threads(method: Any) -> int:
    """Threads that a method computes on: its setting of that name, or what torch has."""
    import torch

    return getattr(getattr(method, "config", None), "num_threads", torch.get_num_threads())


def _mean_edges(networks: GraphDataset) -> float:
    return sum(bundle.topology.num_edges * len(bundle) for bundle in networks.bundles) / len(networks)


@dataclass
class Clock:
    """Seconds spent in something."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Timed(GraphDataset):
    """Networks that count the seconds in which batches are made; no time of a training step when another thread makes them."""

    clock: Clock = field(default_factory=Clock)

    @classmethod
    def of(cls, networks: GraphDataset) -> Timed:
        """The same networks, timed."""
        return cls(**{part.name: getattr(networks, part.name) for part in dataclasses.fields(networks)})

    def batch(self, positions: np.ndarray | None = None) -> GraphBatch:
        """As `GraphDataset.batch`."""
        start = time.perf_counter()
        made = super().batch(positions)
        self.clock.seconds += time.perf_counter() - start
        return made


def _rate(steps: Iterator[int], loading: Clock, cell: Cell) -> Rate:
    """Takes steps, the first ones for warm-up, and gives their rate."""
    step_s = _warm_up(steps, cell.device)
    steps_in_repeat = max(1, math.ceil(REPEAT_S / step_s))
    rates: list[float] = []
    before_s, start = loading.seconds, time.perf_counter()
    while len(rates) < cell.repeats and not (len(rates) >= 2 and time.perf_counter() - start > LIMIT_S):
        begin = time.perf_counter()
        num_networks = sum(next(steps) for _ in range(steps_in_repeat))
        _synchronize(cell.device)
        rates.append(num_networks / (time.perf_counter() - begin))
    return Rate(
        median=statistics.median(rates),
        least=min(rates),
        most=max(rates),
        repeats=len(rates),
        share_loading=(loading.seconds - before_s) / (time.perf_counter() - start),
    )


def _warm_up(steps: Iterator[int], device: str) -> float:
    """Seconds of the last step of the warm-up."""
    start = time.perf_counter()
    step_s = 0.0
    kind = "cuda" if device.startswith("cuda") else "cpu"
    for _ in range(WARM_UP[kind]):
        begin = time.perf_counter()
        next(steps)
        _synchronize(device)
        step_s = time.perf_counter() - begin
        if kind == "cpu" and time.perf_counter() - start > WARM_UP_S:
            break
    return step_s


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def limit_memory() -> None:
    """Keeps this process within the memory that the machine has free, so that it is refused more instead of ending others."""
    free, resident = _free_bytes(), memory_bytes("VmData")
    if free is not None and resident is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = resident + free
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _free_bytes() -> int | None:
    """Memory of the machine, or of the container where that is less, that is free; Linux only."""
    found = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(most) - int(used))
    return min(found, default=None)


def main() -> None:
    """The process of one cell."""
    cell = Cell.model_validate_json(sys.stdin.read())
    if not cell.device.startswith("cuda"):
        # a GPU's driver reserves address space far beyond the memory
        limit_memory()
    with contextlib.redirect_stdout(sys.stderr):
        result: Any = measure(cell)
    print(result.model_dump_json())


if __name__ == "__main__":
    main()
