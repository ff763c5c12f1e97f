"""Two networks of one module brought to the same nodes and averaged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ngbench.alignment import Curves, LabelledImages, Moments, curves, line, match, reestimated
from ngbench.alignment.interpolate import points
from ngbench.errors import ImagesError, MethodError
from ngbench.evaluation.kept import KeptRun
from ngbench.evaluation.use.images import OwnImages
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph, Program, Topology, restore
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, Problem, RunContext, TrainsBySteps, check_applicable, make_method

HALF = len(points()) // 2
_NUM_STATISTICS_IMAGES = 512


@dataclass(frozen=True)
class Line:
    """Networks between two others, from the first, 0, to the second, 1.

    Args:
        barrier: Largest loss above the straight line between the losses of the ends, in nats.
        accuracies: Of the first, the one half way, and the second.
        losses: Of the same, mean cross-entropy in nats.
    """

    barrier: float
    accuracies: tuple[float, float, float]
    losses: tuple[float, float, float]

    @classmethod
    def of(cls, found: Curves) -> Line:
        """The only pair of curves."""
        places = (0, HALF, -1)
        accuracies, losses = (tuple(float(values[0, place]) for place in places) for values in (found.accuracy, found.loss))
        return cls(float(found.barrier[0]), accuracies, losses)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Merged:
    """The mean of two networks, and what lies between them.

    Args:
        entries: State dict of the mean, in the order and the types of the first network's.
        before: Between the networks as they are.
        after: Between the first and the aligned second.
        repaired: The same with normalisation estimated again; None where that was not asked for.
        num_moved: Nodes of the second network that moved.
        num_nodes: Nodes that could.
    """

    entries: dict[str, Tensor]
    before: Line
    after: Line
    repaired: Line | None
    num_moved: int
    num_nodes: int


def merge_networks(
    module: OwnModule, first: NeuralGraph, second: NeuralGraph, *, by: str | KeptRun, images: OwnImages, repair: bool = False
) -> Merged:
    """Aligns the second network to the first, and takes their mean.

    Buffers that are no part of the graph, such as counters, are those of the first network.

    Args:
        module: Of both networks; gives logits of classes for images.
        first: Stays.
        second: Is aligned.
        by: Name of a registered method that matches or embeds nodes, such as ``"weight-matching"``, or a run of one.
        images: On which both are scored.
        repair: Whether normalisation of the mean is estimated again from training images.

    Raises:
        NotApplicableError: The method neither matches nor embeds nodes.
        ImagesError: The images do not fit the module.
        NgbenchError: The method cannot read these networks.
    """
    test = labelled(module, images.part("test"))
    program, topology = module.program, module.graph.topology
    element = _matched(module, first, second, by=by, images=images)
    rows = torch.stack([first.row(), second.row(), element.act(second).row()]).float()
    before = curves(program, line(rows[:1], rows[1:2]), test)
    after_rows = line(rows[:1], rows[2:])
    after = curves(program, after_rows, test)
    mean, repaired = after_rows[0, HALF], None
    if repair:
        again = _repaired(program, after_rows[0], rows[[0, 2]], labelled(module, images.part("train")).images)
        mean, repaired = again[HALF], curves(program, again[None], test)
    return Merged(
        entries=_entries(topology, mean, first),
        before=Line.of(before),
        after=Line.of(after),
        repaired=None if repaired is None else Line.of(repaired),
        num_moved=sum(int((nodes != torch.arange(len(nodes))).sum()) for nodes in element.permutations.values()),
        num_nodes=sum(map(len, element.permutations.values())),
    )


def labelled(module: OwnModule, found: LabelledImages) -> LabelledImages:
    """Images in the shape of a module's input, with labels that its outputs tell.

    Raises:
        ImagesError: They have another number of values, or there are more classes than outputs.
    """
    shapes = list(module.program.inputs.values())
    outputs = sum(group.size for group in module.graph.topology.groups if group.role == "output")
    got = tuple(found.images.shape[1:])
    if len(shapes) != 1 or found.images[0].numel() != torch.Size(shapes[0]).numel():
        wanted = " and ".join(str(shape) for shape in shapes)
        raise ImagesError(f"images have shape {got}, and {module.path} takes {wanted}; expected images of as many values")
    if int(found.labels.max()) >= outputs:
        raise ImagesError(
            f"images have labels up to {int(found.labels.max())}, and {module.path} gives {outputs} outputs; "
            "expected an output for each class"
        )
    return LabelledImages(found.images.reshape(-1, *shapes[0]), found.labels)


@dataclass(frozen=True)
class _Programs:
    """Runs the networks of a module, and knows images like those that they were trained on; see `ngbench.loading.ZooPrograms`."""

    module: OwnModule
    images: OwnImages

    def __call__(self, topology: Topology) -> Program:
        return self.module.program

    def inputs(self, num_inputs: int, *, part: str = "train", seed: int = 0) -> Tensor:
        """Images in the shape of the module's input, float32."""
        found = labelled(self.module, self.images.part(part)).images
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        return found[order[:num_inputs]]


def _matched(module: OwnModule, first: NeuralGraph, second: NeuralGraph, *, by: str | KeptRun, images: OwnImages) -> GroupElement:
    """What brings the second network's nodes to the first's, on the module's own topology."""
    domain = None if isinstance(by, str) else by.domain
    graphs = [graph if domain is None else domain.in_words_of_training(graph) for graph in (first, second)]
    programs = _Programs(module, images)
    single = [NeuralGraph.from_row(graph.topology, graph.row().float()) for graph in graphs]
    both = GraphDataset.from_graphs(single, programs=programs)
    if isinstance(by, str):
        check_applicable(by, "merging")
        method = make_method(by)
        if isinstance(method, TrainsBySteps):
            raise MethodError(
                f"method {by!r} is trained before it matches; expected the folder of a run of it, or weight-matching"
            )
        method.fit(Problem("merging", None, True), both, both, RunContext(seed=0, budget=Budget(1, 1)))
    else:
        method = by.methods[0]
    if hasattr(method, "match"):
        pair = [GraphDataset.from_graphs([graph], programs=programs) for graph in single]
        element = method.match(*pair)[0]
    elif hasattr(method, "embed_nodes"):
        element = match(single[0].topology, *method.embed_nodes(both))
    else:
        raise MethodError(f"method {method.info.name!r} neither matches nor embeds nodes; expected one such as weight-matching")
    topology = module.graph.topology
    names = {own.name: other.name for own, other in zip(topology.groups, single[0].topology.groups, strict=True)}
    moved = {own: element.permutations[other] for own, other in names.items() if other in element.permutations}
    return GroupElement(topology, moved)


def _repaired(program: Program, rows: Tensor, ends: Tensor, images: Tensor) -> Tensor:
    """Networks of a line with their normalisation estimated again, value rows ``[points, values]``."""
    images = images[:_NUM_STATISTICS_IMAGES]
    share = points().float()
    goal = Moments.of(program, ends, images).mixed(torch.stack([1 - share, share], dim=1))
    return reestimated(program, rows, images, goal=goal)


def _entries(topology: Topology, row: Tensor, first: NeuralGraph) -> dict[str, Tensor]:
    """The state dict of a value row, with the buffers and the types of another network."""
    merged = NeuralGraph.from_row(topology, row)
    entries = restore(NeuralGraph(topology, merged.slot_values, first.buffers))
    types = {name: values.dtype for name, values in restore(first).items()}
    return {name: values.to(types[name]) for name, values in entries.items()}
