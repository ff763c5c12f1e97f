"""How far apart the functions of networks are, whatever their weights: the truth that retrieval is measured against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError, SplitError
from ngbench.loading import GraphBundle, GraphDataset, ZooPrograms
from ngbench.store import HeldOutOutputs, Zoo

_GRAPHS_AT_ONCE = 64


def functional_distance(zoo: Zoo, rows: np.ndarray, *, num_inputs: int) -> np.ndarray:
    """Distance of the functions of each two networks of a zoo, float32 ``[graphs, graphs]``, from 0 to infinity.

    It is the root mean squared difference of `comparable_outputs`; those that cannot be compared are infinitely far apart.

    Args:
        zoo: A zoo with a recipe, or one that holds outputs.
        rows: Which networks, int64 ``[graphs]``.
        num_inputs: Held-out inputs, of each corpus as many; all pixels of an image that has fewer.

    Raises:
        GraphError: The zoo has neither.
    """
    found = np.full((len(rows), len(rows)), np.inf, dtype=np.float32)
    for positions, given in comparable_outputs(GraphDataset.from_zoo(zoo, rows), num_inputs):
        flat = torch.from_numpy(given)
        # by differences: products of rows would leave equal ones apart by their rounding
        distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
        found[np.ix_(positions, positions)] = distance.float().numpy()
    return found


def comparable_outputs(networks: GraphDataset, num_inputs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What networks of a zoo give for inputs that none was trained on, those together whose outputs can be compared.

    Outputs are probabilities of classes, or values such as those of pixels. Where the zoo holds them for all of the networks,
    these are taken, which a permutation of hidden units does not change; otherwise the networks are run.

    Args:
        networks: Of a zoo, by their ids in it.
        num_inputs: Held-out inputs, of each corpus as many, each once; all pixels of an image that has fewer.

    Returns:
        For each kind of outputs the positions of the networks, int64 ``[graphs]``, and their outputs, float64
        ``[graphs, values]``.

    Raises:
        GraphError: Only the values of the networks are known, or modules at hand run them.
    """
    programs = networks.bundles[0].programs
    if not isinstance(programs, ZooPrograms):
        raise GraphError(f"{len(networks)} networks are of no zoo that ngbench generated; expected one, whose inputs are known")
    stored = programs.stored_outputs(networks.ids)
    return _of_kinds(stored) if len(stored) else _run(networks, programs, num_inputs)


def _of_kinds(stored: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stored outputs ``[graphs, values]`` by which of them networks have."""
    kinds, kind = np.unique(np.isfinite(stored), axis=0, return_inverse=True)
    members = [np.flatnonzero(kind.reshape(-1) == number) for number in range(len(kinds))]
    return [(own, stored[np.ix_(own, np.flatnonzero(has))]) for own, has in zip(members, kinds, strict=True)]


def _run(networks: GraphDataset, programs: ZooPrograms, num_inputs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outputs by their number."""
    inputs = _held_out_inputs(programs, num_inputs)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for bundle in networks.bundles:
        given = outputs(bundle, inputs)
        given = given.softmax(-1) if programs.gives_classes else given
        found.setdefault(given.shape[-1], []).append((bundle.index, given.flatten(1)))
    return [_joined(parts) for parts in found.values()]


def _held_out_inputs(programs: ZooPrograms, num_inputs: int) -> Tensor:
    # the corpora of a zoo may share images
    return programs.inputs(num_inputs, part="test").unique(dim=0)


def measured_outputs(zoo: Zoo, *, num_inputs: int) -> HeldOutOutputs:
    """Runs the test networks of a zoo on held-out inputs, for the file beside the zoo.

    Args:
        zoo: A zoo of networks that ngbench can run, which has a split `default`.
        num_inputs: Held-out inputs, of each corpus as many, each once.

    Raises:
        GraphError: The zoo has no recipe.
        SplitError: It has no test networks.
    """
    rows, programs = zoo.split("test"), ZooPrograms(zoo)
    if not len(rows):
        raise SplitError(f"zoo {zoo.name!r} has no test networks among its {len(zoo)}; expected some to run")
    inputs = _held_out_inputs(programs, num_inputs)
    found: dict[int, np.ndarray] = {}
    for positions, given in _run(GraphDataset.from_zoo(zoo, rows), programs, num_inputs):
        found |= dict(zip(positions.tolist(), given.astype(np.float32).reshape(len(given), len(inputs), -1), strict=True))
    return HeldOutOutputs(zoo.sha256, inputs.numpy(), rows, tuple(found[place] for place in range(len(rows))))


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
