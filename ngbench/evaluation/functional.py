"""How far apart the functions of networks are, whatever their weights: the truth that retrieval is measured against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.loading import GraphBundle, GraphDataset, ZooPrograms
from ngbench.store import Zoo

NUM_INPUTS = 256
"""Held-out inputs that functions are compared on, of each corpus as many; all pixels of an image that has fewer."""

_GRAPHS_AT_ONCE = 64


def functional_distance(zoo: Zoo, rows: np.ndarray) -> np.ndarray:
    """Distance of the functions of each two networks of a zoo, float32 ``[graphs, graphs]``, from 0 to infinity.

    It is the root mean squared difference of what they give for inputs that none was trained on: probabilities of classes, or
    values such as those of pixels. Networks with different numbers of outputs are infinitely far apart. Where the zoo holds
    such outputs, these are taken.

    Args:
        zoo: A zoo with a recipe.
        rows: Which networks, int64 ``[graphs]``.

    Raises:
        GraphError: The zoo has no recipe, so that its networks cannot be run.
    """
    found = np.full((len(rows), len(rows)), np.inf, dtype=np.float32)
    for positions, given in _known_outputs(zoo, rows):
        flat = torch.from_numpy(given)
        # by differences: products of rows would leave equal ones apart by their rounding
        distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
        found[np.ix_(positions, positions)] = distance.float().numpy()
    return found


def _known_outputs(zoo: Zoo, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    if zoo.functional_names:
        stored = zoo.functional(zoo.functional_names[0])[rows].astype(np.float64)
        if np.isfinite(stored).all():
            return [(np.arange(len(rows)), stored)]
    return comparable_outputs(GraphDataset.from_zoo(zoo, rows))


def comparable_outputs(networks: GraphDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """What networks of a zoo give for held-out inputs, those together whose outputs can be compared.

    Args:
        networks: Of a zoo with a recipe.

    Returns:
        For each number of outputs the positions of the networks, int64 ``[graphs]``, and their outputs, float64
        ``[graphs, values]``.

    Raises:
        GraphError: Only the values of the networks are known, or modules at hand run them.
    """
    programs = networks.bundles[0].programs
    if not isinstance(programs, ZooPrograms):
        raise GraphError(f"{len(networks)} networks are of no zoo that ngbench generated; expected one, whose inputs are known")
    inputs, found = programs.inputs(NUM_INPUTS, part="test"), dict[int, list[tuple[Tensor, Tensor]]]()
    for bundle in networks.bundles:
        given = outputs(bundle, inputs)
        given = given.softmax(-1) if programs.gives_classes else given
        found.setdefault(given.shape[-1], []).append((bundle.index, given.flatten(1)))
    return [_joined(parts) for parts in found.values()]


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    index = torch.cat([index for index, _ in parts])
    return index.numpy(), torch.cat([given for _, given in parts]).double().numpy()


@torch.no_grad()
def outputs(bundle: GraphBundle, inputs: Tensor) -> Tensor:
    """What networks of one structure give for the same inputs, ``[graphs, inputs, outputs]``.

    Args:
        bundle: The networks.
        inputs: ``[inputs, *input shape]``.

    Raises:
        GraphError: Only their values are known.
    """
    is_output = torch.cat([torch.full((group.size,), group.role == "output") for group in bundle.topology.groups])
    every, rows = range(0, len(bundle), _GRAPHS_AT_ONCE), torch.arange(len(bundle))
    parts = [bundle.rows(rows[start : start + _GRAPHS_AT_ONCE]).activations(inputs)[is_output] for start in every]
    return torch.cat([part.permute(1, 2, 0) for part in parts])
