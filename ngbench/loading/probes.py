"""Where the programs of networks come from: a zoo's recipe, or modules at hand; built when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError, SplitError, UnknownNameError
from ngbench.graph import Program, Topology
from ngbench.zoo.architectures import Architecture, build, example_input
from ngbench.zoo.fit import grey_values, points_of
from ngbench.zoo.images import load_images
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe, parse_recipe

if TYPE_CHECKING:
    from ngbench.store import Zoo

Part = Literal["train", "val", "test"]
PARTS = get_args(Part)


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
        parts: Of its corpora whose inputs are given; methods get no others than those of training and validation.
    """

    def __init__(self, zoo: Zoo, parts: Sequence[Part] = PARTS):
        self._zoo, self._parts = zoo, tuple(parts)

    def __call__(self, topology: Topology) -> Program:
        """See `Programs`."""
        if topology.digest not in self._architectures:
            raise GraphError(
                f"zoo {self._zoo.name!r} has no networks of topology {topology.digest[:12]}; expected one of its own"
            )
        return _program(self._architectures[topology.digest]).variant(topology)

    def inputs(self, num_inputs: int, *, part: Part = "train", seed: int = 0) -> Tensor:
        """Inputs like those that the zoo's networks were trained on.

        Of classifiers these are images, float32 ``[inputs, channels, height, width]``, drawn from the zoo's corpora in
        turn, so that each gives as many as the others; of implicit neural representations places of pixels, ``[inputs, 2]``. No
        input stands twice, as long as there are enough.

        Args:
            num_inputs: How many.
            part: ``"train"``; or ``"val"`` or ``"test"``, of which no network was trained on any image.
            seed: Which ones.
        """
        self._check(part)
        rng, recipe = np.random.default_rng(seed), self._recipe
        known = (
            [points_of(recipe.images)]
            if isinstance(recipe, InrRecipe)
            else [getattr(load_images(recipe.images, corpus), f"{part}_images") for corpus in recipe.images.corpora]
        )
        drawn = [inputs[rng.permutation(len(inputs))] for inputs in known]
        chosen = [drawn[i % len(drawn)][i // len(drawn) % len(drawn[i % len(drawn)])] for i in range(num_inputs)]
        return torch.from_numpy(np.stack(chosen))

    @property
    def gives_classes(self) -> bool:
        """Whether the networks' outputs are logits of classes; otherwise they are values, such as those of pixels."""
        return not isinstance(self._recipe, InrRecipe)

    def corpora_of(self, ids: Sequence[str]) -> list[str]:
        """Name of the corpus that each network was trained on.

        Args:
            ids: Of networks of the zoo.

        Raises:
            GraphError: The zoo has no network of an id.
        """
        rows = self._rows_of(ids)
        if "corpus" in self._zoo.columns:
            return self._zoo.metadata["corpus"][rows].tolist()
        recipe = self._recipe
        return [recipe.corpus if isinstance(recipe, InrRecipe) else recipe.images.corpora[0]] * len(rows)

    def stored_outputs(self, ids: Sequence[str]) -> np.ndarray:
        """What networks give for the held-out inputs whose outputs the zoo holds, float64 ``[graphs, values]``.

        All that it holds stand side by side, NaN where a network has none; empty where it holds none for one of the networks.
        They stand in the zoo file, or in the file of outputs beside it.

        Args:
            ids: Of networks of the zoo.

        Raises:
            GraphError: The zoo has no network of an id.
            SplitError: Inputs of the test part are not given.
        """
        self._check("test")
        rows = self._rows_of(ids)
        beside = self._zoo.held_out
        of_rows = None if beside is None else beside.of_rows(rows)
        if of_rows is not None:
            return of_rows
        stored = [self._zoo.functional(name)[rows].astype(np.float64) for name in self._zoo.functional_names]
        found = np.concatenate(stored, axis=1) if stored else np.empty((0, 0))
        return found if np.isfinite(found).any(axis=1).all() else np.empty((0, 0))

    def _rows_of(self, ids: Sequence[str]) -> np.ndarray:
        known, wanted = self._zoo.ids, np.asarray(ids)
        order = np.argsort(known)
        rows = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
        missing = wanted[known[rows] != wanted]
        if len(missing):
            raise GraphError(f"zoo {self._zoo.name!r} has no network {str(missing[0])!r}; expected ids of its own networks")
        return rows

    def labelled(
        self, part: Part, num_inputs: int | None = None, *, seed: int = 0, corpus: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs with what the zoo's networks should give for them.

        Of classifiers: images ``[inputs, channels, height, width]`` of a part of a corpus, and their classes, int64 ``[inputs]``.
        Of implicit neural representations: places of pixels ``[inputs, 2]``, the same ones in each part, and the values there of
        every image of the corpus, ``[images, inputs, channels]``; a network's own is at its ``image_index``.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            num_inputs: How many, drawn at random; None for all, in the corpus's order.
            seed: Which ones.
            corpus: One of the zoo's corpora; None for the first.

        Raises:
            UnknownNameError: The zoo has no such corpus.
            SplitError: There is no such part.
        """
        recipe = self._recipe
        names = (recipe.corpus,) if isinstance(recipe, InrRecipe) else recipe.images.corpora
        if corpus is not None and corpus not in names:
            raise UnknownNameError(f"corpus of zoo {self._zoo.name!r}", corpus, names)
        self._check(part)
        if isinstance(recipe, InrRecipe):
            inputs, targets = points_of(recipe.images), grey_values(recipe.images)
        else:
            splits = load_images(recipe.images, corpus)
            inputs, targets = getattr(splits, f"{part}_images"), getattr(splits, f"{part}_labels")
        rows = np.arange(len(inputs))
        if num_inputs is not None:
            rows = np.random.default_rng(seed).permutation(rows)[:num_inputs]
        of_inputs = targets[:, rows] if isinstance(recipe, InrRecipe) else targets[rows]
        return torch.from_numpy(inputs[rows]), torch.from_numpy(of_inputs)

    def of_parts(self, parts: Sequence[Part]) -> ZooPrograms:
        """The same programs with the inputs of other parts of the corpora."""
        return ZooPrograms(self._zoo, parts)

    def _check(self, part: str) -> None:
        if part not in self._parts:
            raise SplitError(f"corpora have no part {part!r} here; expected one of {', '.join(self._parts)}")

    @cached_property
    def _recipe(self) -> ClassifierRecipe | InrRecipe:
        if self._zoo.info.recipe is None:
            raise GraphError(
                f"zoo {self._zoo.name!r} holds no recipe, so its networks cannot be run on probes; "
                "expected a zoo that ngbench generated: use a method that reads weights alone"
            )
        return parse_recipe(self._zoo.info.recipe, source=f"the recipe of zoo {self._zoo.name!r}")

    @cached_property
    def _architectures(self) -> Mapping[str, Architecture]:
        """What each topology was built as, by digest."""
        recipe, run_index = self._recipe, self._zoo.metadata["run_index"]
        topologies, first = np.unique(self._zoo.topology_index, return_index=True)
        pairs = zip(topologies.tolist(), first.tolist(), strict=True)
        return {self._zoo.topologies[index].digest: recipe.architecture_of(int(run_index[row])) for index, row in pairs}


@lru_cache(maxsize=1024)
def _program(architecture: Architecture) -> Program:
    return Program.of(build(architecture, architecture.activations[0]), example_input(architecture))
