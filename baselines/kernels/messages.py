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

from baselines.kernels.usable import is_usable
from baselines.reading.message_passing import SMALLEST_VARIANCE, FlatWiring, Wiring


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut into programs.

    Args:
        num_rows: Rows of a tile, edges times graphs; a power of two, at least 16 for a matrix product.
        num_graphs: The most graphs in a tile; fewer give more programs with fewer steps each.
        num_warps: Warps of a program.
        num_stages: Steps of the loop over edges whose loads are under way together, 1 or 2; for sums, any number.
        max_registers: The most registers of a thread, so that more programs share a multiprocessor; 0 sets no limit.
    """

    num_rows: int
    num_graphs: int
    num_warps: int
    num_stages: int
    max_registers: int = 0


LAUNCHES: dict[str, dict[int, Launch]] = {
    "aggregate": {16: Launch(32, 16, 2, 2), 32: Launch(16, 16, 2, 2), 64: Launch(32, 16, 4, 2)},
    "gradients_of_messages": {16: Launch(32, 16, 2, 2), 32: Launch(64, 16, 4, 2, 128), 64: Launch(64, 16, 4, 2)},
    "gradients_of_update": {16: Launch(32, 16, 2, 2), 32: Launch(64, 16, 4, 2), 64: Launch(64, 16, 4, 2)},
    "gradients_of_weights": {16: Launch(64, 1, 4, 3), 32: Launch(64, 1, 4, 3), 64: Launch(64, 1, 4, 3)},
    "sums_by_source": {16: Launch(32, 16, 4, 2), 32: Launch(32, 16, 4, 2), 64: Launch(32, 16, 4, 2)},
}
"""For each kernel and number of channels."""

NUM_PROGRAMS = 264
"""Programs that sum the weights' gradients, each with sums of its own: two for each multiprocessor of an H100."""


def is_available(edges: Tensor) -> bool:
    """Whether `fused_messages` can run on such edges, ``[edges, graphs, channels]``; else the plain path is the way."""
    return is_usable(edges) and edges.shape[-1] in LAUNCHES["aggregate"]


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
        num_tiles, tiling = _tiling("aggregate", channels, num_graphs=num_graphs)
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
        grad_film = edges.new_empty(*edges.shape[:2], 2 * channels)
        grad_sent = edges.new_empty(*edges.shape[:2], num_parts // 2 * channels)
        partials = _partials(received, num_real * num_graphs, channels, num_parts=len(parameters) // 2 + 1)
        options = {"CHANNELS": channels, "PRECISION": precision}
        with torch.cuda.device_of(edges):
            kernels = _kernels()
            kernels.gradients_of_moments[-(-num_nodes * num_graphs // 16),](
                received, grad_received, table.entering_ptr, moments, num_nodes * num_graphs, num_graphs,
                CHANNELS=channels, ROWS=16,
            )  # fmt: skip
            num_tiles, tiling = _tiling("gradients_of_messages", channels, num_graphs=num_graphs)
            kernels.gradients_of_messages[num_nodes, num_tiles](
                edges if new_edges is None else new_edges, ends, film_weight, film_bias, *to_target, moments, extremes_at,
                grad_received, grad_new_edges, grad_edges, grad_ends, grad_sent, grad_film, num_graphs, ENDS=num_parts,
                **options, **tiling,
            )  # fmt: skip
            _sum_outer_products(grad_film, edges if new_edges is None else new_edges, partials, num_real, part=0, **options)
            del grad_film
            if new_edges is not None:
                grad_new_edges, grad_edges, hidden = grad_edges, torch.empty_like(edges), torch.empty_like(edges)
                num_tiles, tiling = _tiling("gradients_of_update", channels, num_graphs=num_graphs)
                kernels.gradients_of_update[num_nodes, num_tiles](
                    edges, ends, in_weight, in_bias, out_weight, *to_target, grad_new_edges, grad_edges, grad_ends, grad_sent,
                    hidden, num_graphs, RESIDUAL=ctx.options["RESIDUAL"], **options, **tiling,
                )  # fmt: skip
                _sum_outer_products(grad_sent, edges, partials, num_real, part=2, **options)
                _sum_outer_products(grad_new_edges, hidden, partials, num_real, part=3, **options)
            num_tiles, tiling = _tiling("sums_by_source", channels, num_graphs=num_graphs)
            kernels.sums_by_source[num_nodes, num_tiles](
                grad_sent, table.leaving_ptr, table.leaving, grad_ends, num_graphs, WIDTH=grad_sent.shape[2], **tiling
            )
        grad_edges[num_real:] = 0
        return grad_edges, grad_ends, None, None, None, *_of_parameters(partials.sum(0), parameters)


def _partials(like: Tensor, num_rows: int, channels: int, *, num_parts: int) -> Tensor:
    num_programs = min(NUM_PROGRAMS, -(-num_rows // LAUNCHES["gradients_of_weights"][channels].num_rows))
    return like.new_empty(num_programs, num_parts, channels + 1, channels)


def _sum_outer_products(
    grads: Tensor, inputs: Tensor, partials: Tensor, num_edges: int, *, part: int, CHANNELS: int, PRECISION: str
) -> None:
    """Of the first columns of `grads`, all in the first part, and of `inputs`: gradients of weights into `partials`."""
    launch = LAUNCHES["gradients_of_weights"][CHANNELS]
    _kernels().gradients_of_weights[len(partials),](
        grads, inputs, partials, num_edges * inputs.shape[1], STRIDE=grads.shape[2], WIDTH=CHANNELS if part else 2 * CHANNELS,
        CHANNELS=CHANNELS, PART=part, PARTS=partials.shape[1], PRECISION=PRECISION, ROWS=launch.num_rows,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def _of_parameters(sums: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """From ``[scale, shift and the two layers of the update, channels + 1, channels]``, the last row of each for its bias."""
    weights, biases = sums[:, :-1], sums[:, -1]
    grads = [weights[:2].flatten(0, 1), biases[:2].flatten()]
    for weight, bias in zip(weights[2:], biases[2:], strict=True):
        grads += [weight, bias]
    return [grad.to(parameter.dtype) for grad, parameter in zip(grads, parameters, strict=True)]


def _tiling(kernel: str, channels: int, *, num_graphs: int) -> tuple[int, dict[str, Any]]:
    """Tiles that cover the graphs, and the options of a launch; the widest tile that wastes no more than an eighth."""
    launch = LAUNCHES[kernel][channels]
    widths = [1 << power for power in range(launch.num_graphs.bit_length())]
    width = max(width for width in widths if 8 * width * -(-num_graphs // width) <= 9 * num_graphs)
    options: dict[str, Any] = {"SLOTS": launch.num_rows // width, "GRAPHS": width, "num_warps": launch.num_warps}
    if launch.max_registers:
        options["maxnreg"] = launch.max_registers
    if kernel == "sums_by_source":
        options["num_stages"] = launch.num_stages
    else:
        options["PREFETCH"] = launch.num_stages > 1
    return -(-num_graphs // width), options
