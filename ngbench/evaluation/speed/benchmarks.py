"""Speed of reading, tracing and batching on this machine: one record for each benchmark, and the function that runs them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ngbench.graph import NeuralGraph, restore, trace
from ngbench.loading import GraphDataset
from ngbench.progress import Progress, silent
from ngbench.registry import Registry
from ngbench.store import Zoo, ZooInfo, ZooWriter, open_zoo
from ngbench.testing import cnn_topology, fake_dataset, fake_graphs, mlp_topology

Unit = Literal["networks/s", "batches/s", "ms", "s"]

DIGITS_CNN = cnn_topology((1, 8, 8, 8), num_classes=10)
"""The architecture of the zoo `digits-cnn`: 1,338 parameters."""


@dataclass(frozen=True)
class Workload:
    """What is timed, everything that it needs made beforehand.

    Args:
        run: Called once for each measurement.
        amount: How many networks or batches one call handles.
    """

    run: Callable[[], object]
    amount: int = 1


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: As it is typed.
        what: What is measured, in one line.
        unit: Rates count the amount of the workload, times one call.
        target: Least rate or longest time aimed at on two cores; None where there is no aim.
        prepare: Makes the workload for about so many networks.
    """

    name: str
    what: str
    unit: Unit
    target: float | None
    prepare: Callable[[int], Workload]

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    def value(self, duration_s: float, amount: int) -> float:
        """A duration in the benchmark's unit."""
        return amount / duration_s if self.is_rate else duration_s * (1000 if self.unit == "ms" else 1)

    def meets(self, value: float) -> bool | None:
        """Whether a value reaches the target; None where there is none."""
        if self.target is None:
            return None
        return value >= self.target if self.is_rate else value <= self.target


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark measured.

    Args:
        name: Of the benchmark.
        what: Of the benchmark.
        value: Median over the repeats, in `unit`.
        unit: Of value, target and spread.
        target: The aim in words, empty where there is none.
        met: Whether the median reaches it; None where there is none.
        repeats: Number of measurements after the warm-up.
        spread: Least and largest value.
    """

    name: str
    what: str
    value: float
    unit: Unit
    target: str
    met: bool | None
    repeats: int
    spread: str


def run_benchmarks(
    names: Sequence[str] | None = None, progress: Progress = silent, *, num_networks: int = 1000, repeats: int = 7
) -> list[BenchmarkResult]:
    """Runs benchmarks one after the other.

    Args:
        names: Which; None for all.
        progress: Called after each.
        num_networks: Size of the workloads.
        repeats: Measurements of each, after one that is not counted.

    Raises:
        UnknownNameError: No such benchmark.
    """
    chosen = [BENCHMARKS[name] for name in (BENCHMARKS if names is None else names)]
    results = []
    for done, benchmark in enumerate(chosen):
        progress(done, len(chosen), benchmark.name)
        results.append(_measure(benchmark, num_networks, repeats))
    progress(len(chosen), len(chosen), "")
    return results


def _measure(benchmark: Benchmark, num_networks: int, repeats: int) -> BenchmarkResult:
    workload = benchmark.prepare(num_networks)
    workload.run()
    values = []
    for _ in range(repeats):
        start = time.perf_counter()
        workload.run()
        values.append(benchmark.value(time.perf_counter() - start, workload.amount))
    median = statistics.median(values)
    limit = "at least" if benchmark.is_rate else "at most"
    return BenchmarkResult(
        name=benchmark.name,
        what=benchmark.what,
        value=median,
        unit=benchmark.unit,
        target="" if benchmark.target is None else f"{limit} {benchmark.target:,g} {benchmark.unit}",
        met=benchmark.meets(median),
        repeats=repeats,
        spread=f"{_number(min(values))} to {_number(max(values))}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _graphs(num_networks: int) -> Workload:
    graphs = fake_graphs([DIGITS_CNN], num_graphs=num_networks)
    state_dicts = [{path: values.clone() for path, values in restore(graph).items()} for graph in graphs]
    return Workload(lambda: [NeuralGraph.from_state_dict(DIGITS_CNN, state_dict) for state_dict in state_dicts], num_networks)


def _trace(num_networks: int) -> Workload:
    nn = torch.nn
    convolutions = [layer for sources in (1, 8, 8) for layer in (nn.Conv2d(sources, 8, 3, padding=1), nn.ReLU())]
    module = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    image = torch.zeros(1, 1, 8, 8)
    return Workload(lambda: trace(module, image))


def _zoo(num_networks: int) -> Workload:
    zoo = open_zoo("digits-cnn")
    rows = np.random.default_rng(0).permutation(len(zoo))[:num_networks]
    return Workload(lambda: zoo[rows])


LARGE_MLP = mlp_topology((20, 40, 9))
"""An MLP of 1,209 parameters."""

_RATIO_OF_LARGE = 100
_BATCH_OF_LARGE = 1024


def _mapped_zoo(num_networks: int) -> Zoo:
    """A zoo of networks of 1,209 parameters whose file has no name any more: its values stay mapped as long as it is open."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5"
        info = ZooInfo("large", "1", "Random values for a benchmark", "CC0-1.0", "none")
        with ZooWriter(path, info, compressed=False) as writer:
            for start in range(0, num_networks, _BATCH_OF_LARGE):
                size = min(_BATCH_OF_LARGE, num_networks - start)
                values = rng.random((size, LARGE_MLP.num_values), dtype=np.float32)
                writer.append(LARGE_MLP, values, ids=[str(start + row) for row in range(size)])
        zoo = Zoo(path)
        zoo.values(slice(None))
    return zoo


def _batches_of_rows(num_rows: int) -> list[np.ndarray]:
    """All rows once, in random order, in batches of 1,024."""
    order = np.random.default_rng(1).permutation(num_rows)
    return np.split(order, range(_BATCH_OF_LARGE, num_rows, _BATCH_OF_LARGE))


def _mapped(num_networks: int) -> Workload:
    zoo = _mapped_zoo(_RATIO_OF_LARGE * num_networks)
    batches = _batches_of_rows(len(zoo))
    return Workload(lambda: _read(zoo.values, batches), len(zoo))


def _memmap(num_networks: int) -> Workload:
    shape = _RATIO_OF_LARGE * num_networks, LARGE_MLP.num_values
    with tempfile.TemporaryFile() as file:
        file.write(np.random.default_rng(0).random(shape, dtype=np.float32).data)
        file.flush()
        array = np.memmap(file, np.float32, "r", shape=shape).view(np.ndarray)
    batches = _batches_of_rows(len(array))
    return Workload(lambda: _read(lambda rows: array[rows], batches), len(array))


def _stored(num_networks: int) -> Workload:
    zoo = _mapped_zoo(_RATIO_OF_LARGE * num_networks)
    dataset, batches = GraphDataset.from_zoo(zoo, np.arange(len(zoo)), loaded=False), _batches_of_rows(len(zoo))
    return Workload(lambda: _read(dataset.batch, batches), len(zoo))


def _read(read: Callable[[np.ndarray], object], batches: Sequence[np.ndarray]) -> None:
    for rows in batches:
        read(rows)


def _scramble(num_networks: int) -> Workload:
    dataset = fake_dataset([DIGITS_CNN], num_graphs=num_networks)
    return Workload(lambda: dataset.scrambled(salt="bench"))


def _batches(num_networks: int) -> Workload:
    dataset, size = fake_dataset([DIGITS_CNN], num_graphs=num_networks), 64
    num_batches = len(list(dataset.batches(size)))
    return Workload(lambda: list(dataset.batches(size, rng=np.random.default_rng(0))), num_batches)


def _help(num_networks: int) -> Workload:
    command = [sys.executable, "-c", "from ngbench.cli import main; main(['--help'])"]
    return Workload(lambda: subprocess.run(command, capture_output=True, check=True))


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")
for _benchmark in (
    Benchmark("graphs", "build neural graphs from state dicts of one architecture", "networks/s", 20_000, _graphs),
    Benchmark("zoo", "zoo[rows] of 1,000 networks of digits-cnn", "ms", 50, _zoo),
    Benchmark("mapped", "random batches of 100,000 networks of 1,209 parameters", "networks/s", 500_000, _mapped),
    Benchmark("memmap", "the same of a plain memory-mapped array", "networks/s", None, _memmap),
    Benchmark("stored", "the same as batches of a dataset that stays in its file", "networks/s", None, _stored),
    Benchmark("start-up", "ngbench --help in a fresh process", "s", 0.5, _help),
    Benchmark("trace", "trace a CNN of three convolutions and a head", "ms", None, _trace),
    Benchmark("scramble", "replace 1,000 networks by random equivalents", "ms", None, _scramble),
    Benchmark("batches", "draw shuffled batches of 64 networks", "batches/s", None, _batches),
):
    BENCHMARKS.register(_benchmark.name, _benchmark)
