"""From the nodes of a graph to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.reading.encoding import Reading, num_nodes
from baselines.reading.message_passing import FlatWiring, Wiring
from ngbench.errors import GraphError
from ngbench.loading import GraphBatch

POOLINGS = ("mean", "sum", "max", "attention", "cat")


class Pooling(nn.Module):
    """Mean, sum, maximum or attention-weighted mean of the nodes of each graph, or its output nodes one after the other.

    Sums are divided by the number of nodes that a training network has on average.

    Args:
        kind: One of `POOLINGS`.
        channels: Numbers in the vector of a node.
        num_outputs: Output nodes that kind ``"cat"`` reads.
        apart: Whether inner and output nodes are pooled apart and inputs left out; kind ``"cat"`` reads outputs only anyway.
        mean_num_nodes: Of the training networks.
    """

    def __init__(self, kind: str, channels: int, *, num_outputs: int, apart: bool, mean_num_nodes: float):
        super().__init__()
        self.kind, self.num_outputs, self.apart, self.mean_num_nodes = kind, num_outputs, apart, mean_num_nodes
        self.num_features = channels * (num_outputs if kind == "cat" else 2 if apart else 1)
        self.score = nn.Linear(channels, 1) if kind == "attention" else None

    def forward(self, nodes: Tensor, reading: Reading) -> Tensor:
        """From ``[nodes, graphs, channels]`` to ``[graphs, features]``."""
        if self.kind == "cat":
            # outputs that a network lacks count as zeros
            rows = torch.cat([nodes, torch.zeros_like(nodes[:1])])
            side_by_side = isinstance(reading.wiring, Wiring)
            return rows[reading.outputs[0]].transpose(0, 1).flatten(1) if side_by_side else rows[reading.outputs, 0].flatten(1)
        if not self.apart:
            return self._pooled(nodes, reading.wiring, None)
        places = reading.places
        return torch.cat([self._pooled(nodes, reading.wiring, part) for part in (places.is_inner, places.is_output)], 1)

    def _pooled(self, nodes: Tensor, wiring: Wiring | FlatWiring, part: Tensor | None) -> Tensor:
        """Of the nodes that are in a part, bool ``[nodes]``, or all: ``[graphs, channels]``, zeros where none is."""
        is_counted = None if part is None else part[:, None, None]
        if self.kind == "max":
            return _max(nodes, wiring, is_counted)
        if self.score is not None:
            return _attended(nodes, self.score(nodes), wiring, is_counted)
        kept = nodes if is_counted is None else nodes * is_counted
        if self.kind == "sum":
            return wiring.sum(kept) / self.mean_num_nodes
        if is_counted is None:
            return wiring.sum(kept) / wiring.num_nodes_of_graph(nodes)
        return wiring.sum(kept) / wiring.sum(is_counted.to(nodes)).clamp(min=1)


def _max(nodes: Tensor, wiring: Wiring | FlatWiring, is_counted: Tensor | None) -> Tensor:
    if is_counted is None:
        return wiring.max(nodes)
    most = wiring.max(nodes.masked_fill(~is_counted, -torch.inf))
    return most.masked_fill(most == -torch.inf, 0)


def _attended(nodes: Tensor, scores: Tensor, wiring: Wiring | FlatWiring, is_counted: Tensor | None) -> Tensor:
    """Mean weighted by the softmax of scores ``[nodes, graphs, 1]`` over the nodes of each graph."""
    scores = scores if is_counted is None else scores.masked_fill(~is_counted, -torch.inf)
    most = wiring.max(scores.detach())
    # the padding of a flat graph may have larger scores than any node, and infinity would leave no gradient
    shares = (scores - wiring.spread(torch.where(most.isfinite(), most, 0))).clamp(max=0).exp()
    return wiring.sum(nodes * shares) / wiring.sum(shares).clamp(min=torch.finfo(nodes.dtype).tiny)


def check_outputs(batch: GraphBatch, num_outputs: int) -> None:
    """Refuses networks whose output nodes cannot all be concatenated.

    Raises:
        GraphError: A network has more output nodes than any in training.
    """
    most = max(num_nodes(bundle.topology, "output") for bundle in batch.bundles)
    if most > num_outputs:
        raise GraphError(
            f"a network has {most} output nodes, which pooling 'cat' reads one after the other; expected at most "
            f"{num_outputs}, as in training: use pooling 'mean'"
        )
