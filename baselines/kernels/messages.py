"""One NG-GNN layer's edge update, messages and aggregation as Triton kernels in which no message reaches memory.

`fused_messages` gives what `ng_gnn.Layer` computes with `SumOfEnds` and `Aggregate` between its linear layers. A program has one
target and one tile of graphs, and goes through the edges that enter the target: it holds mean, sum of squares (Welford), extremes
and their places in registers. The backward pass goes through the same edges and computes the messages again; with g the gradient
of a message m = a·(t + s) + b, [a, b] = film(e'):

    g = g_mean / n + g_std (m - mean) / (n std) + g_min [m is the least] + g_max [m is the largest],
    g_e' += [g (t + s), g] film,  g_t = Σ g a over its edges, and through SiLU and the linear layers as ever.

Extremes send their gradient to the first edge that attains them, where the plain path shares it among all; the two differ only
where messages are exactly equal. Nothing is added atomically, so that two runs give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.kernels.launches import MESSAGE_LAUNCHES as LAUNCHES
from baselines.kernels.sums import sum_of_parts
from baselines.kernels.usable import is_usable
from baselines.reading.message_passing import SMALLEST_VARIANCE, FlatWiring, Wiring

CHANNELS = tuple(LAUNCHES["aggregate"])

LEAST_GRAPHS = 4
"""Graphs of a tile below which more programs are not worth their shorter rows of memory."""

MOST_IN_INT32 = 2**30
"""Numbers of a tensor that are counted in 32 bits, with room for tiles that reach beyond its end."""

MOST_SUMMING = 4096
"""Programs beyond which each has no sums of the weights' gradients of its own: they would take more memory than the edges."""

NUM_PROGRAMS = 264
"""Programs that sum the weights' gradients, each with sums of its own: two for each multiprocessor of an H100."""


def is_available(edges: Tensor) -> bool:
    """Whether `fused_messages` can run on such edges, ``[edges, graphs, channels]``; else the plain path is the way."""
    return is_usable(edges) and edges.shape[-1] in CHANNELS


def _kernels() -> Any:
    from baselines.kernels import message_kernels

    return message_kernels


@dataclass(frozen=True)
class Incidence:
    """The edges of a wiring by their ends, int32.

    Args:
        entering_ptr: Where in `entering` the edges into each node begin, ``[nodes + 1]``.
        entering: Edges sorted by their target, ``[edges]``.
        sources: Sources of `entering`, ``[edges]``.
        leaving_ptr: Where in `leaving` the edges out of each node begin, ``[nodes + 1]``.
        leaving: Edges sorted by their source, ``[edges]``.
    """

    entering_ptr: Tensor
    entering: Tensor
    sources: Tensor
    leaving_ptr: Tensor
    leaving: Tensor

    @classmethod
    def of(cls, wiring: Wiring | FlatWiring, device: torch.device) -> Incidence:
        """The tables of a wiring, on a device; kept as long as the wiring is."""
        by_device = _INCIDENCES.setdefault(wiring, {})
        if device not in by_device:
            tables = _of_flat(wiring) if isinstance(wiring, FlatWiring) else _of_one_topology(wiring)
            by_device[device] = cls(*(table.to(device, torch.int32) for table in tables))
        return by_device[device]


_INCIDENCES: WeakKeyDictionary[Wiring | FlatWiring, dict[torch.device, Incidence]] = WeakKeyDictionary()


def _of_one_topology(wiring: Wiring) -> tuple[Tensor, ...]:
    sources, targets = torch.empty(2, wiring.num_edges, dtype=torch.int64)
    for run in wiring.runs:
        first, stop = run.targets.start, run.targets.stop
        run.block(targets)[:] = torch.arange(first, stop).unsqueeze(1)
        dense = torch.arange(run.sources.stop - run.sources.start)
        run.block(sources)[:] = run.sources.start + (dense if run.sources_of_target is None else run.sources_of_target)
    entering, leaving = targets.argsort(stable=True), sources.argsort(stable=True)
    entering_ptr, leaving_ptr = (_starts(torch.bincount(ends, minlength=wiring.num_nodes)) for ends in (targets, sources))
    return entering_ptr, entering, sources[entering], leaving_ptr, leaving


def _of_flat(wiring: FlatWiring) -> tuple[Tensor, ...]:
    num_edges = wiring.num_real_edges
    edges = torch.arange(num_edges, device=wiring.sources.device)
    leaving_ptr = nn.functional.pad(wiring.leaving_ptr, (0, 1), value=num_edges)
    return _starts(wiring.degree.long()), edges, wiring.sources[:num_edges], leaving_ptr, wiring.leaving


def _starts(counts: Tensor) -> Tensor:
    return nn.functional.pad(counts.cumsum(0), (1, 0))


def fused_messages(
    edges: Tensor,
    ends: Tensor,
    wiring: Wiring | FlatWiring,
    *,
    film: nn.Linear,
    update: tuple[nn.Linear, nn.Linear] | None,
    residual: bool,
    precision: str = "tf32",
) -> tuple[Tensor, Tensor]:
    """What each node receives, ``[nodes, graphs, 4 channels]``, and the new edges, ``[edges, graphs, channels]``.

    Sums are float32 whatever the tensors are; the weights may be of another type than the edges. The tables of a wiring are
    built when it is first met, which a CUDA graph must not capture.

    Args:
        edges: float32 or bfloat16 ``[edges, graphs, channels]``, which the results take after.
        ends: Of each node its part as a target, then its part as a source, ``[nodes, graphs, 4 or 2 channels]``: each is the part
            for the update of the edges, if there is one, and then that for the messages.
        wiring: Nodes and edges.
        film: From an edge to scale and shift of its message.
        update: The linear layers before and after the SiLU of the update of the edges; None leaves the edges as they are.
        residual: Whether the update is added to what the edge was.
        precision: To what products round their operands: "ieee" (float32 as it is, without tensor cores), "tf32x3" (three
            products that together are nearly as exact), "tf32" or "bf16".
    """
    parameters = [parameter for layer in (film, *(update or ())) for parameter in (layer.weight, layer.bias)]
    received, new_edges = FusedMessages.apply(edges, ends, wiring, residual, precision, *parameters)
    return received, edges if update is None else new_edges


class FusedMessages(torch.autograd.Function):
    """See `fused_messages`; the new edges are None where edges are not updated."""

    @staticmethod
    def forward(
        ctx: Any, edges: Tensor, ends: Tensor, wiring: Wiring | FlatWiring, residual: bool, precision: str, *parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """With weight and bias of the layers `film` and, where edges are updated, of the two of the update."""
        edges, ends, table = edges.contiguous(), ends.contiguous(), Incidence.of(wiring, edges.device)
        parameters = tuple(parameter.contiguous() for parameter in parameters)
        film_weight, film_bias, in_weight, in_bias, out_weight, out_bias = (*parameters, *[None] * 4)[:6]
        (num_nodes, num_graphs), channels, num_parts = ends.shape[:2], edges.shape[2], ends.shape[2] // edges.shape[2]
        new_edges = torch.empty_like(edges) if len(parameters) > 2 else None
        if new_edges is not None:
            new_edges[wiring.num_real_edges :] = 0
        received = edges.new_empty(num_nodes, num_graphs, 4 * channels, dtype=torch.float32)
        extremes_at = edges.new_empty(num_nodes, num_graphs, 2 * channels, dtype=torch.int32)
        options = {"CHANNELS": channels, "ENDS": num_parts, "RESIDUAL": residual, "PRECISION": precision}
        num_tiles, tiling = _tiling("aggregate", channels, num_nodes=num_nodes, num_edges=len(edges), num_graphs=num_graphs)
        with torch.cuda.device_of(edges):
            _kernels().aggregate[num_nodes, num_tiles](
                edges, ends, in_weight, in_bias, out_weight, out_bias, film_weight, film_bias, table.entering_ptr,
                table.entering, table.sources, new_edges, received, extremes_at, num_graphs, SMALLEST_VARIANCE,
                **options, **tiling,
            )  # fmt: skip
        ctx.save_for_backward(edges, ends, new_edges, received, extremes_at, *parameters)
        ctx.wiring, ctx.options = wiring, options
        ctx.set_materialize_grads(False)
        return received.to(edges.dtype), new_edges

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_received: Tensor | None, grad_new_edges: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Edge by edge, from the messages and through the update; then sums over each source's edges, and the weights'."""
        edges, ends, new_edges, received, extremes_at, *parameters = ctx.saved_tensors
        film_weight, film_bias, in_weight, in_bias, out_weight, _ = (*parameters, *[None] * 4)[:6]
        (num_nodes, num_graphs), channels, num_parts = ends.shape[:2], edges.shape[2], ends.shape[2] // edges.shape[2]
        table, precision, num_real = Incidence.of(ctx.wiring, edges.device), ctx.options["PRECISION"], ctx.wiring.num_real_edges
        to_target = table.entering_ptr, table.entering, table.sources
        grad_received = torch.zeros_like(received) if grad_received is None else grad_received.contiguous()
        grad_new_edges = None if grad_new_edges is None else grad_new_edges.contiguous()
        grad_edges, grad_ends = torch.empty_like(edges), torch.empty_like(ends)
        moments = torch.empty_like(extremes_at, dtype=torch.float32)
        grad_sent = edges.new_empty(*edges.shape[:2], num_parts // 2 * channels)
        sizes = {"num_nodes": num_nodes, "num_edges": len(edges), "num_graphs": num_graphs}
        options = {"CHANNELS": channels, "PRECISION": precision}
        found = []
        with torch.cuda.device_of(edges):
            kernels = _kernels()
            kernels.gradients_of_moments[-(-num_nodes * num_graphs // 16),](
                received, grad_received, table.entering_ptr, moments, num_nodes * num_graphs, num_graphs,
                CHANNELS=channels, ROWS=16,
            )  # fmt: skip
            read = edges if new_edges is None else new_edges
            num_tiles, tiling = _tiling("gradients_of_messages", channels, **sizes)
            sums = _Sums.of("gradients_of_messages", read, num_tiles * num_nodes, num_real, precision=precision)
            grad_film = None if sums.fused else edges.new_empty(*edges.shape[:2], 2 * channels)
            kernels.gradients_of_messages[num_nodes, num_tiles](
                read, ends, film_weight, film_bias, *to_target, moments, extremes_at, grad_received, grad_new_edges, grad_edges,
                grad_ends, grad_sent, grad_film, sums.partials, num_graphs, ENDS=num_parts, SUMS=sums.fused, **options, **tiling,
            )  # fmt: skip
            sums.add(grad_film, read, part=0, width=2 * channels)
            del grad_film
            found.append(sum_of_parts(sums.partials))
            if new_edges is not None:
                grad_new_edges, grad_edges = grad_edges, torch.empty_like(edges)
                num_tiles, tiling = _tiling("gradients_of_update", channels, **sizes)
                sums = _Sums.of("gradients_of_update", edges, num_tiles * num_nodes, num_real, precision=precision)
                hidden = None if sums.fused else torch.empty_like(edges)
                kernels.gradients_of_update[num_nodes, num_tiles](
                    edges, ends, in_weight, in_bias, out_weight, *to_target, grad_new_edges, grad_edges, grad_ends, grad_sent,
                    hidden, sums.partials, num_graphs, RESIDUAL=ctx.options["RESIDUAL"], SUMS=sums.fused, **options, **tiling,
                )  # fmt: skip
                sums.add(grad_sent, edges, part=0, width=channels)
                sums.add(grad_new_edges, hidden, part=1, width=channels)
                found.append(sum_of_parts(sums.partials))
            num_tiles, tiling = _tiling("sums_by_source", channels, **sizes)
            kernels.sums_by_source[num_nodes, num_tiles](
                grad_sent, table.leaving_ptr, table.leaving, grad_ends, num_graphs, WIDTH=grad_sent.shape[2], **tiling
            )
        grad_edges[num_real:] = 0
        return grad_edges, grad_ends, None, None, None, *_of_parameters(found, parameters)


@dataclass(frozen=True)
class _Sums:
    """Sums over edges of the outer products of gradients and inputs of two layers, which are the gradients of their weights.

    Args:
        partials: Parts to be summed, float32 ``[programs, 2, channels + 1, channels]``, the last row of each for its bias.
        fused: Whether the kernel that computes the gradients writes them.
        num_rows: Edges in graphs.
        precision: Of products.
    """

    partials: Tensor
    fused: bool
    num_rows: int
    precision: str

    @classmethod
    def of(cls, kernel: str, edges: Tensor, num_programs: int, num_edges: int, *, precision: str) -> _Sums:
        """For a kernel of so many programs, on edges of which so many are real."""
        channels, num_rows = edges.shape[2], num_edges * edges.shape[1]
        fused = precision in LAUNCHES[kernel][channels].sums_in and num_programs <= MOST_SUMMING
        if not fused:
            num_programs = min(NUM_PROGRAMS, -(-num_rows // LAUNCHES["gradients_of_weights"][channels].num_rows))
        partials = edges.new_empty(num_programs, 2, channels + 1, channels, dtype=torch.float32)
        return cls(partials, fused, num_rows, precision)

    def add(self, grads: Tensor | None, inputs: Tensor | None, *, part: int, width: int) -> None:
        """Of the first columns of `grads` and of `inputs`, where no kernel summed them: from the matrix numbered `part` on."""
        if self.fused:
            return
        assert grads is not None
        assert inputs is not None
        channels = inputs.shape[2]
        launch = LAUNCHES["gradients_of_weights"][channels]
        _kernels().gradients_of_weights[len(self.partials),](
            grads, inputs, self.partials, self.num_rows, STRIDE=grads.shape[2], WIDTH=width, CHANNELS=channels, PART=part,
            PRECISION=self.precision, ROWS=launch.num_rows, num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip


def _of_parameters(sums: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """From ``[2, channels + 1, channels]`` of scale and shift, and of the two layers of the update, if there is one."""
    grads = [sums[0][:, :-1].flatten(0, 1), sums[0][:, -1].flatten()]
    for of_layer in (layer for part in sums[1:] for layer in part):
        grads += [of_layer[:-1], of_layer[-1]]
    return [grad.to(parameter.dtype) for grad, parameter in zip(grads, parameters, strict=True)]


def _tiling(kernel: str, channels: int, *, num_nodes: int, num_edges: int, num_graphs: int) -> tuple[int, dict[str, Any]]:
    """Tiles that cover the graphs, and the options of a launch; the widest tile that wastes no more than an eighth."""
    import triton.language as tl

    launch = LAUNCHES[kernel][channels]
    widths = [1 << power for power in range(launch.num_graphs.bit_length())]
    width = max(width for width in widths if 8 * width * -(-num_graphs // width) <= 9 * num_graphs)
    while width > LEAST_GRAPHS and num_nodes * -(-num_graphs // width) < launch.num_programs:
        width //= 2
    options: dict[str, Any] = {"SLOTS": launch.num_rows // width, "GRAPHS": width, "num_warps": launch.num_warps}
    # of an edge no tensor has more than two vectors, and of a node no more than four
    largest = num_graphs * channels * max(2 * num_edges, 4 * num_nodes)
    options["INDEX"] = tl.int32 if largest < MOST_IN_INT32 else tl.int64
    if launch.max_registers:
        options["maxnreg"] = launch.max_registers
    if kernel == "sums_by_source":
        options["num_stages"] = launch.num_stages
    else:
        options["PREFETCH"] = launch.num_stages > 1
    return -(-num_graphs // width), options
