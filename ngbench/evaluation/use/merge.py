"""Two networks brought to the same nodes and averaged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ngbench.alignment import Curves, LabelledImages, Moments, curves, line, reestimated, scores
from ngbench.alignment.matching import group_of
from ngbench.evaluation.kept import KeptRun
from ngbench.evaluation.use.align import labelled, matched, transported
from ngbench.evaluation.use.images import OwnImages
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph, Program, Topology, restore
from ngbench.tasks import TASKS, MergingPlan

PLAN = TASKS["merging"].plan(MergingPlan)
HALF = PLAN.num_points // 2


@dataclass(frozen=True)
class Line:
    """Networks between two others, from the first, 0, to the second, 1; None where there are none, as of different widths.

    Args:
        barrier: Largest loss above the straight line between the losses of the ends, in nats.
        accuracies: Of the first, the one half way, and the second.
        losses: Of the same, mean cross-entropy in nats.
    """

    barrier: float | None
    accuracies: tuple[float, float | None, float]
    losses: tuple[float, float | None, float]

    @classmethod
    def of(cls, found: Curves) -> Line:
        """The only pair of curves."""
        places = (0, HALF, -1)
        accuracies, losses = (tuple(float(values[0, place]) for place in places) for values in (found.accuracy, found.loss))
        return cls(float(found.barrier[0]), accuracies, losses)  # type: ignore[arg-type]

    @classmethod
    def of_ends(cls, modules: tuple[OwnModule, OwnModule], graphs: tuple[NeuralGraph, NeuralGraph], data: LabelledImages) -> Line:
        """Two networks of different modules."""
        losses, accuracies = [], []
        for module, graph in zip(modules, graphs, strict=True):
            loss, accuracy = scores(module.program, graph.row().float()[None], labelled(module, data))
            losses.append(float(loss[0]))
            accuracies.append(float(accuracy[0]))
        return cls(None, (accuracies[0], None, accuracies[1]), (losses[0], None, losses[1]))


@dataclass(frozen=True)
class Merged:
    """The mean of two networks, and what lies between them.

    Args:
        entries: State dict of the mean, in the order and the types of the first network's.
        before: Between the networks as they are.
        after: Between the first and the aligned second.
        repaired: The same with normalisation estimated again; None where that was not asked for.
        num_moved: Nodes of the second network that moved; None where they were spread over those of the first.
        num_nodes: Nodes that could.
    """

    entries: dict[str, Tensor]
    before: Line
    after: Line
    repaired: Line | None
    num_moved: int | None
    num_nodes: int


def merge_networks(
    module: OwnModule,
    first: NeuralGraph,
    second: NeuralGraph,
    *,
    by: str | KeptRun | None = None,
    images: OwnImages,
    repair: bool = False,
    second_module: OwnModule | None = None,
) -> Merged:
    """Aligns the second network to the first, and takes their mean.

    Buffers that are no part of the graph, such as counters, are those of the first network. Where widths differ, the second
    network's units are spread over those of the first by optimal transport, which changes what it computes.

    Args:
        module: Of the first network; gives logits of classes for images.
        first: Stays.
        second: Is aligned.
        by: Name of a registered method that matches or embeds nodes, such as ``"weight-matching"``, or a run of one; None for
            weight matching, or where widths differ activation matching.
        images: On which both are scored.
        repair: Whether normalisation of the mean is estimated again from training images.
        second_module: Of the second network; None for the first's.

    Raises:
        NotApplicableError: The method neither matches nor embeds nodes.
        ImagesError: The images do not fit the module.
        GraphError: The networks differ in more than widths.
        NgbenchError: The method cannot read these networks.
    """
    modules, test = (module, second_module or module), images.part("test")
    topology, num_moved = module.graph.topology, None
    if second.topology == topology:
        element = matched(module, first, second, by=by or "weight-matching", images=images)
        aligned = element.act(second)
        before = _between(module, first, second, test)
        num_moved = sum(int((nodes != torch.arange(len(nodes))).sum()) for nodes in element.permutations.values())
    else:
        aligned = transported(modules, (first, second), by=by or "activation-matching", images=images)
        before = Line.of_ends(modules, (first, second), test)
    mean, repaired = (first.row().float() + aligned.row().float()) / 2, None
    if repair:
        again = _repaired(module.program, first, aligned, labelled(module, images.part("train")).images)
        mean, repaired = again[HALF], Line.of(curves(module.program, again[None], labelled(module, test)))
    return Merged(
        entries=_entries(topology, mean, first),
        before=before,
        after=_between(module, first, aligned, test),
        repaired=repaired,
        num_moved=num_moved,
        num_nodes=sum(second.topology.group(name).size for name in group_of(second.topology).moving_groups),
    )


def _line(first: NeuralGraph, second: NeuralGraph) -> Tensor:
    """Value rows ``[1, points, values]``."""
    return line(first.row().float()[None], second.row().float()[None], PLAN.num_points)


def _between(module: OwnModule, first: NeuralGraph, second: NeuralGraph, data: LabelledImages) -> Line:
    return Line.of(curves(module.program, _line(first, second), labelled(module, data)))


def _repaired(program: Program, first: NeuralGraph, second: NeuralGraph, images: Tensor) -> Tensor:
    """Networks of a line with their normalisation estimated again, value rows ``[points, values]``."""
    images = images[: PLAN.num_train_images]
    of_first, of_second = (Moments.of(program, graph.row().float()[None], images) for graph in (first, second))
    goal = Moments.between(of_first, of_second, PLAN.num_points)
    return reestimated(program, _line(first, second)[0], images, goal=goal)


def _entries(topology: Topology, row: Tensor, first: NeuralGraph) -> dict[str, Tensor]:
    """The state dict of a value row, with the buffers and the types of another network."""
    merged = NeuralGraph.from_row(topology, row)
    entries = restore(NeuralGraph(topology, merged.slot_values, first.buffers))
    types = {name: values.dtype for name, values in restore(first).items()}
    return {name: values.to(types[name]) for name, values in entries.items()}
