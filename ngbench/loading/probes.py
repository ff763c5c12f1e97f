"""Where the programs of networks come from: a zoo's recipe, or modules at hand; built when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import Program, Topology
from ngbench.zoo.architectures import Architecture, build, example_input
from ngbench.zoo.images import load_images
from ngbench.zoo.recipe import Recipe

if TYPE_CHECKING:
    from ngbench.store import Zoo


class Programs(Protocol):
    """Gives the program that runs networks of a topology.

    Raises:
        GraphError: None is known.
    """

    def __call__(self, topology: Topology) -> Program:
        """The program of a topology."""
        ...


class KnownPrograms:
    """Programs that were made before.

    Args:
        programs: One for each structure; topologies that differ from it in plain activations only share it.
    """

    def __init__(self, programs: Iterable[Program]):
        self._programs = {program.topology.structure: program for program in programs}

    def __call__(self, topology: Topology) -> Program:
        """See `Programs`."""
        if topology.structure not in self._programs:
            raise GraphError(
                f"no program of the {len(self._programs)} given runs networks of topology {topology.digest[:12]} with "
                f"{topology.num_values} values; expected one for each structure: make it with Program.of(module, example_input)"
            )
        return self._programs[topology.structure].variant(topology)


class ZooPrograms:
    """Programs of the networks of a zoo, whose modules its recipe builds; structures that differ in activations share one.

    Args:
        zoo: An open zoo.
    """

    def __init__(self, zoo: Zoo):
        self._zoo = zoo

    def __call__(self, topology: Topology) -> Program:
        """See `Programs`."""
        if topology.digest not in self._architectures:
            raise GraphError(
                f"zoo {self._zoo.name!r} has no networks of topology {topology.digest[:12]}; expected one of its own"
            )
        return _program(self._architectures[topology.digest]).variant(topology)

    def images(self, num_images: int, *, seed: int = 0) -> Tensor:
        """Training images that the zoo's networks were trained on, float32 ``[images, channels, height, width]``.

        They are drawn from the zoo's corpora in turn, so that each gives as many as the others.

        Args:
            num_images: How many.
            seed: Which ones.
        """
        rng = np.random.default_rng(seed)
        spec = self._recipe.images
        of_corpora = [load_images(spec, corpus).train_images for corpus in spec.corpora]
        drawn = [images[rng.permutation(len(images))] for images in of_corpora]
        chosen = [drawn[i % len(drawn)][i // len(drawn) % len(drawn[i % len(drawn)])] for i in range(num_images)]
        return torch.from_numpy(np.stack(chosen))

    @cached_property
    def _recipe(self) -> Recipe:
        if self._zoo.info.recipe is None:
            raise GraphError(
                f"zoo {self._zoo.name!r} holds no recipe, so its networks cannot be run on probes; "
                "expected a zoo that ngbench generated: use a method that reads weights alone"
            )
        return Recipe.model_validate(self._zoo.info.recipe)

    @cached_property
    def _architectures(self) -> Mapping[str, Architecture]:
        """What each topology was built as, by digest."""
        recipe, run_index = self._recipe, self._zoo.metadata["run_index"]
        topologies, first = np.unique(self._zoo.topology_index, return_index=True)
        pairs = zip(topologies.tolist(), first.tolist(), strict=True)
        return {self._zoo.topologies[index].digest: recipe.architecture_of(int(run_index[row])) for index, row in pairs}


@lru_cache(maxsize=1024)
def _program(architecture: Architecture) -> Program:
    return Program.of(build(architecture, "relu"), example_input(architecture))
