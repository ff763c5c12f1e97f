"""The units of one network brought to those of another: matched where both have the same widths, else spread over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngbench.alignment import LabelledImages, match, outgoing_masses, transport
from ngbench.errors import ImagesError, MethodError
from ngbench.evaluation.kept import KeptRun
from ngbench.evaluation.use.images import OwnImages
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph, Program, Topology
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, Problem, RunContext, TrainsBySteps, check_applicable, make_method
from ngbench.tasks import TASKS


def matched(module: OwnModule, first: NeuralGraph, second: NeuralGraph, *, by: str | KeptRun, images: OwnImages) -> GroupElement:
    """What brings the second network's nodes to the first's, on the module's own topology.

    Args:
        module: Of both networks.
        first: Stays.
        second: Is matched.
        by: Name of a registered method that matches or embeds nodes, or a run of one.
        images: Like those that both were trained on.

    Raises:
        NotApplicableError: The method neither matches nor embeds nodes.
        NgbenchError: The method cannot read these networks.
    """
    programs = _Programs(module, images)
    method, (one, other) = _asked(by, (first, second), programs)
    if hasattr(method, "match"):
        pair = [GraphDataset.from_graphs([graph], programs=programs) for graph in (one, other)]
        element = method.match(*pair)[0]
    elif hasattr(method, "embed_nodes"):
        element = match(one.topology, *method.embed_nodes(GraphDataset.from_graphs([one, other], programs=programs)))
    else:
        raise MethodError(f"method {method.info.name!r} neither matches nor embeds nodes; expected one such as weight-matching")
    topology = module.graph.topology
    names = {own.name: group.name for own, group in zip(topology.groups, one.topology.groups, strict=True)}
    moved = {own: element.permutations[name] for own, name in names.items() if name in element.permutations}
    return GroupElement(topology, moved)


def transported(
    modules: tuple[OwnModule, OwnModule], graphs: tuple[NeuralGraph, NeuralGraph], *, by: str | KeptRun, images: OwnImages
) -> NeuralGraph:
    """The second network spread over the units of the first, whose widths are others; see `ngbench.alignment.transport`.

    Args:
        modules: Of each network.
        graphs: The networks.
        by: Name of a registered method that embeds nodes, or a run of one.
        images: Like those that both were trained on.

    Raises:
        MethodError: The method embeds no nodes.
        GraphError: The networks differ in more than widths.
        UnsupportedLayerError: Their units lie within heads, experts or groups.
    """
    first, second = (NeuralGraph.from_row(graph.topology, graph.row().float()) for graph in graphs)
    embeddings = tuple(_embedded(*both, by=by, images=images) for both in zip(modules, (first, second), strict=True))
    masses = outgoing_masses(first), outgoing_masses(second)
    return transport(first.topology, second, embeddings=embeddings, masses=masses)  # type: ignore[arg-type]


def _embedded(module: OwnModule, graph: NeuralGraph, *, by: str | KeptRun, images: OwnImages) -> np.ndarray:
    """Embeddings of the nodes of a network, ``[nodes, channels]``."""
    programs = _Programs(module, images)
    method, (single,) = _asked(by, (graph,), programs)
    if not hasattr(method, "embed_nodes"):
        raise MethodError(
            f"method {method.info.name!r} embeds no nodes, by which alone networks of different widths are brought together; "
            "expected activation-matching, or a run of a method that embeds nodes"
        )
    return method.embed_nodes(GraphDataset.from_graphs([single], programs=programs))[0]


def _asked(by: str | KeptRun, graphs: tuple[NeuralGraph, ...], programs: _Programs) -> tuple[Any, list[NeuralGraph]]:
    """A method that is ready to be asked, and networks as it reads them."""
    if not isinstance(by, str):
        graphs = tuple(by.domain.in_words_of_training(graph) for graph in graphs)
    single = [NeuralGraph.from_row(graph.topology, graph.row().float()) for graph in graphs]
    if not isinstance(by, str):
        return by.methods[0], single
    check_applicable(by, TASKS["merging"])
    method, networks = make_method(by), GraphDataset.from_graphs(single, programs=programs)
    if isinstance(method, TrainsBySteps):
        raise MethodError(f"method {by!r} is trained before it matches; expected the folder of a run of it, or weight-matching")
    method.fit(Problem("merging", None, True), networks, networks, RunContext(seed=0, budget=Budget(1, 1)))
    return method, single


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
