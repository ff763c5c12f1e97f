"""How the kernels are cut into programs: tables by kernel and width, measured on an H200.

Nothing is measured while a program runs: these tables alone fix the order of sums, and so every bit of a result.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MessageLaunch:
    """How a kernel is cut into programs.

    Args:
        num_rows: Rows of a tile, edges times graphs; a power of two, at least 16 for a matrix product.
        num_graphs: The most graphs in a tile; fewer give more programs with fewer steps each.
        num_warps: Warps of a program.
        num_stages: Steps of the loop over edges whose loads are under way together, 1 or 2; for sums, any number.
        max_registers: The most registers of a thread, so that more programs share a multiprocessor; 0 sets no limit.
        num_programs: Programs that there should be: tiles have fewer graphs, and more edges, where there are fewer.
        sums_in: For kernels of gradients, in which precisions a program also sums those of the weights of its edges, instead of
            writing what `gradients_of_weights` reads.
    """

    num_rows: int
    num_graphs: int
    num_warps: int
    num_stages: int
    max_registers: int = 0
    num_programs: int = 0
    sums_in: tuple[str, ...] = ()


MESSAGE_LAUNCHES: dict[str, dict[int, MessageLaunch]] = {
    "aggregate": {
        16: MessageLaunch(32, 16, 2, 2),
        32: MessageLaunch(16, 16, 2, 2, 128, num_programs=2000),
        64: MessageLaunch(32, 16, 4, 2, num_programs=1000),
    },
    "gradients_of_messages": {
        16: MessageLaunch(32, 16, 2, 2),
        32: MessageLaunch(32, 16, 2, 2, sums_in=("bf16",)),
        64: MessageLaunch(64, 16, 4, 2),
    },
    "gradients_of_update": {
        16: MessageLaunch(32, 16, 2, 2),
        32: MessageLaunch(32, 16, 2, 2, sums_in=("bf16",)),
        64: MessageLaunch(64, 16, 4, 2),
    },
    "gradients_of_weights": {16: MessageLaunch(64, 1, 4, 3), 32: MessageLaunch(64, 1, 4, 3), 64: MessageLaunch(64, 1, 4, 3)},
    "sums_by_source": {16: MessageLaunch(32, 16, 4, 2), 32: MessageLaunch(32, 16, 4, 2), 64: MessageLaunch(32, 16, 4, 2)},
}
"""For each kernel and number of channels."""


@dataclass(frozen=True)
class FourierLaunch:
    """How a kernel is cut into programs.

    Args:
        rows: Of a tile.
        chunk: Frequencies at once.
        num_warps: Warps of a program.
        num_programs: Parts into which rows are cut for the gradient of the weight.
    """

    rows: int
    chunk: int
    num_warps: int
    num_programs: int = 0


FOURIER_LAUNCHES: dict[str, dict[int, FourierLaunch]] = {
    "forward": {16: FourierLaunch(64, 32, 4), 32: FourierLaunch(128, 32, 4), 64: FourierLaunch(64, 32, 4)},
    "gradient_of_weight": {
        16: FourierLaunch(64, 32, 4, 256),
        32: FourierLaunch(64, 64, 4, 256),
        64: FourierLaunch(64, 64, 4, 256),
    },
}
"""For each kernel and number of channels."""


@dataclass(frozen=True)
class AttentionTiles:
    """How the work is cut: (rows, warps) of each program.

    Args:
        nodes: Attending nodes for which a program of the forward pass keeps the weights.
        forward: Attended nodes in a tile of the forward pass, and warps.
        backward_nodes: Attended nodes in a tile of the gradients of nodes and weights, and warps.
        backward_pairs: Pairs in a tile of the pairs' gradients, and warps.
        stages: Tiles whose loads are under way together in a loop over them.
        across: Whether the gradients of nodes are computed with the attended nodes across, which is for one warp.
        most_programs: Programs beyond which the attending nodes of a graph are not dealt out to several.
    """

    nodes: int
    forward: tuple[int, int]
    backward_nodes: tuple[int, int]
    backward_pairs: tuple[int, int]
    stages: int = 2
    across: bool = False
    most_programs: int = 2048


ATTENTION_TILES = {
    16: AttentionTiles(nodes=8, forward=(32, 1), backward_nodes=(32, 2), backward_pairs=(64, 4)),
    32: AttentionTiles(nodes=8, forward=(32, 1), backward_nodes=(16, 1), backward_pairs=(32, 1), across=True),
    64: AttentionTiles(nodes=16, forward=(32, 1), backward_nodes=(64, 4), backward_pairs=(64, 4)),
}
"""The tiles, by the channels of a pair."""


@dataclass(frozen=True)
class PairTiles:
    """How the work is cut: (pairs at a time, warps) of each program.

    Args:
        forward: Of the forward pass.
        blocks: Of the backward pass through both blocks.
        pairs: Of the gradients of pairs and of the weights with which they enter.
        weights: Of the other weights' gradients: (pairs, hidden channels, warps).
        programs: Programs that each of these is dealt out to, at most.
        stages: Steps of a loop whose loads are under way together.
    """

    forward: tuple[int, int]
    blocks: tuple[int, int]
    pairs: tuple[int, int]
    weights: tuple[int, int, int]
    programs: int = 528
    stages: int = 2


PAIR_TILES = {
    (16, 2): PairTiles(forward=(64, 4), blocks=(64, 4), pairs=(64, 4), weights=(64, 32, 4)),
    (16, 4): PairTiles(forward=(64, 4), blocks=(64, 4), pairs=(64, 4), weights=(64, 32, 4)),
    (32, 2): PairTiles(forward=(32, 2), blocks=(32, 2), pairs=(32, 2), weights=(64, 32, 4)),
    (32, 4): PairTiles(forward=(32, 4), blocks=(32, 8), pairs=(32, 4), weights=(32, 32, 4), stages=1),
    (64, 2): PairTiles(forward=(64, 4), blocks=(32, 4), pairs=(64, 4), weights=(32, 64, 4), programs=264),
    (64, 4): PairTiles(forward=(32, 8), blocks=(32, 8), pairs=(32, 8), weights=(64, 32, 4), stages=1),
}
"""The tiles, by the channels of a pair and the bytes of a number."""
