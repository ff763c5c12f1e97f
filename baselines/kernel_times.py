"""What a CUDA device does during a training step and a forward pass, kernel by kernel, and the floor that its memory sets.

``python -m baselines.kernel_times inr-gnn-d32 cnn-gnn --set precision=bfloat16`` takes configurations of `ngbench bench`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from baselines.fitting.steps import floats_at_once
from baselines.fitting.trained import TrainedMethod
from ngbench.cli.run import parse_settings
from ngbench.errors import ConfigError, NgbenchError
from ngbench.evaluation.speed.cases import CASES
from ngbench.evaluation.speed.configurations import configurations
from ngbench.methods import Budget, RunContext, make_method
from ngbench.testing import PROBLEM

WARM_UP = 12
"""Steps before one is measured, in which kernels are compiled and graphs recorded."""

NUM_TIMED, NUM_TRACED = 50, 5
"""Steps whose time is taken, and steps whose kernels are."""

PASSES_OF_LAYER = {"training": 6, "inference": 2}
"""How often a layer has to read or write the vectors of all edges, or pairs: in and out forward; both, and the gradients of both,
backward."""

GROUPS = {
    "messages of NG-GNN": r"^(aggregate|gradients_of_(moments|messages|update|weights)|sums_by_source)\b",
    "attention of NG-T": r"^attention_(forward|backward|deltas)",
    "pairs of NG-T": r"^pairs_(forward|backward)",
    "Fourier features": r"^(forward|gradient_of_weight)\b",
    "matrix products": r"gemm|cutlass|nvjet|splitK|gemv|xmma|cublas|dot_kernel",
    "optimiser": r"multi_tensor|[Aa]dam|foreach",
    "dropout and random numbers": r"distribution|dropout|random|philox",
    "copies and clearing": r"Memcpy|Memset|memcpy|memset|copy|CatArray|FillFunctor",
    "rows by index": r"index|gather|scatter|[Ee]mbedding|[Ss]ort|[Ss]can",
    "sums, norms, softmax": r"reduce|sums_of_columns|[Nn]orm|[Ss]oft[Mm]ax|Welford",
    "elementwise": r"elementwise",
    "others": r"",
}
"""What a kernel does, by its name; the first that fits."""


@dataclass(frozen=True)
class Kernel:
    """A kernel as it ran.

    Args:
        name: Without namespaces where it is one of Triton's.
        start_us: On the device's clock.
        duration_us: How long.
        details: What the trace says of its launch, such as grid, registers and occupancy.
    """

    name: str
    start_us: float
    duration_us: float
    details: dict[str, Any]

    @property
    def group(self) -> str:
        """What it does."""
        return next(group for group, pattern in GROUPS.items() if re.search(pattern, self.name))


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a step goes.

    Args:
        configuration: Name.
        what: ``"training"`` or ``"inference"``.
        step_ms: Time of a step, measured without a trace.
        busy_ms: Of it some kernel runs.
        floor_ms: What the vectors of edges or pairs take to be read and written, see `PASSES_OF_LAYER`.
        num_kernels: Of a step.
        groups: Milliseconds and number of kernels of a step by what they do.
        kernels: For each name milliseconds of a step, how many, and what the trace says of one, the longest first.
    """

    configuration: str
    what: str
    step_ms: float
    busy_ms: float
    floor_ms: float
    num_kernels: float
    groups: dict[str, tuple[float, float]]
    kernels: list[tuple[str, float, float, dict[str, Any]]]


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of every method, as precision=bfloat16.")
@click.option("--kernels", "num_kernels", type=click.IntRange(min=0), default=12, show_default=True, help="Single kernels shown.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write everything, all kernels too, as JSON here.")
def main(names: Sequence[str], settings: Sequence[str], num_kernels: int, out: Path | None) -> None:
    """Show what the kernels of a training step and of a forward pass spend their time on."""
    try:
        if not torch.cuda.is_available():
            raise ConfigError("kernel_times measures CUDA devices; expected one, found none")
        bandwidth = copy_bandwidth()
        click.echo(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s, read and written\n")
        found = []
        for name in names:
            for breakdown in breakdowns(name, parse_settings(settings), bandwidth):
                click.echo(text(breakdown, num_kernels) + "\n")
                found.append(asdict(breakdown))
        if out is not None:
            out.write_text(json.dumps(found, indent=1))
    except NgbenchError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


def copy_bandwidth() -> float:
    """Bytes per second that a copy of 1 GiB on the device reads and writes, the median of ten."""
    source = torch.randint(0, 255, (2**30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    durations = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        durations.append(begin.elapsed_time(end) / 1e3)
    return 2 * source.numel() / statistics.median(durations[2:])


def breakdowns(name: str, settings: dict[str, str], bandwidth: float) -> Iterator[Breakdown]:
    """Of training and of inference.

    Args:
        name: Of a configuration.
        settings: Beside or in place of its own.
        bandwidth: Of the device's memory, bytes per second.

    Raises:
        ConfigError: There is no such configuration, or its method is none of ours.
    """
    if name not in configurations():
        raise ConfigError(f"configuration {name!r} is not known; expected one of {', '.join(configurations())}")
    configuration = configurations()[name]
    method, case = make_method(configuration.method, {**configuration.settings, **settings}), CASES[configuration.case]
    if not isinstance(method, TrainedMethod):
        raise ConfigError(f"configuration {name} is of {configuration.method}; expected one that trains by steps, as ng-gnn")
    networks, context = case.networks(), RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=1), device="cuda")
    size = case.batch_size
    for what, steps in (
        ("training", method.steps(PROBLEM, networks, context, batch_size=size)),
        ("inference", method.forwards(networks, context, batch_size=size)),
    ):
        step_ms, kernels = _measured(steps)
        options: Any = method.config
        width = 2 if options.precision == "bfloat16" else 4
        passes = PASSES_OF_LAYER[what] * options.num_layers
        num_bytes = size * floats_at_once(method.module, networks).mean() * width * passes
        yield _breakdown(name, what, step_ms, kernels, floor_ms=1e3 * num_bytes / bandwidth)


def _measured(steps: Iterator[int]) -> tuple[float, list[Kernel]]:
    """Milliseconds of a step, and the kernels of `NUM_TRACED` steps."""
    for _ in range(WARM_UP):
        next(steps)
    durations = []
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(NUM_TIMED):
            next(steps)
        torch.cuda.synchronize()
        durations.append(1e3 * (time.perf_counter() - begin) / NUM_TIMED)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(NUM_TRACED):
            next(steps)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return statistics.median(durations), kernels_of(json.loads(path.read_text()))


def kernels_of(trace: dict[str, Any]) -> list[Kernel]:
    """The kernels, copies and clearings of a trace that torch's profiler exported, in the order in which they began."""
    wanted = "kernel", "gpu_memcpy", "gpu_memset"
    events = [event for event in trace["traceEvents"] if event.get("cat") in wanted]
    return sorted(
        (Kernel(event["name"], float(event["ts"]), float(event["dur"]), event.get("args", {})) for event in events),
        key=lambda kernel: kernel.start_us,
    )


def busy_us(kernels: Sequence[Kernel]) -> float:
    """Microseconds in which at least one of some kernels runs, which stand in the order in which they began."""
    total, until = 0.0, 0.0
    for kernel in kernels:
        end = kernel.start_us + kernel.duration_us
        total += max(0.0, end - max(until, kernel.start_us))
        until = max(until, end)
    return total


def _breakdown(name: str, what: str, step_ms: float, kernels: Sequence[Kernel], *, floor_ms: float) -> Breakdown:
    groups: dict[str, tuple[float, float]] = {}
    by_name: dict[str, tuple[float, float, dict[str, Any]]] = {}
    for kernel in kernels:
        ms, share = kernel.duration_us / 1e3 / NUM_TRACED, 1 / NUM_TRACED
        before = groups.get(kernel.group, (0.0, 0.0))
        groups[kernel.group] = before[0] + ms, before[1] + share
        first = by_name.get(kernel.name, (0.0, 0.0, kernel.details))
        by_name[kernel.name] = first[0] + ms, first[1] + share, first[2]
    return Breakdown(
        configuration=name,
        what=what,
        step_ms=step_ms,
        busy_ms=busy_us(kernels) / 1e3 / NUM_TRACED,
        floor_ms=floor_ms,
        num_kernels=len(kernels) / NUM_TRACED,
        groups=dict(sorted(groups.items(), key=lambda item: -item[1][0])),
        kernels=sorted(((kernel, *found) for kernel, found in by_name.items()), key=lambda row: -row[1]),
    )


def text(breakdown: Breakdown, num_kernels: int) -> str:
    """A breakdown as lines.

    Args:
        breakdown: What is shown.
        num_kernels: How many single kernels.
    """
    step = breakdown.step_ms
    gaps, mean_us = max(0.0, step - breakdown.busy_ms), 1e3 * max(0.0, step - breakdown.busy_ms) / breakdown.num_kernels

    def line(label: str, ms: float, rest: str) -> str:
        return f"  {label[:64]:64s} {ms:9.4f} ms {100 * ms / step:6.1f} %  {rest}".rstrip()

    rows = [line(group, ms, f"{count:.0f} kernels") for group, (ms, count) in breakdown.groups.items()]
    single = [
        line(
            re.sub(r"void |at::native::|\(anonymous namespace\)::", "", name),
            ms,
            f"{count:.0f} × {1e3 * ms / count:.1f} µs, grid {details.get('grid', '')}, block {details.get('block', '')}, "
            f"{details.get('registers per thread', '')} registers",
        )
        for name, ms, count, details in breakdown.kernels[:num_kernels]
    ]
    return "\n".join(
        [
            f"{breakdown.configuration}, {breakdown.what}: {step:.3f} ms a step, {breakdown.num_kernels:.0f} kernels",
            line("floor of the memory bandwidth", breakdown.floor_ms, "edges or pairs read and written once where they must be"),
            *rows,
            line("no kernel runs", gaps, f"{mean_us:.2f} µs a kernel"),
            *(["  the longest:"] if single else []),
            *single,
        ]
    )


if __name__ == "__main__":
    main()
