"""The proof that group elements left the functions of networks as they were: the networks run before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import AuditError
from ngbench.evaluation.audit.elements import Acted, Size
from ngbench.evaluation.audit.record import Proof
from ngbench.loading import ZooPrograms
from ngbench.store import Zoo

LARGEST_DIFFERENCE = 1e-9
"""How far an output may move, relative to the network's largest one or to one.

Float64 leaves 1e-16 an operation; thousands of summands, tens of layers and scales of e³ leave some 1e-12 of a result.
An element that is no symmetry moves outputs by a share of themselves that is many orders larger.
"""

Inputs = Callable[[tuple[tuple[int, ...], ...]], tuple[Tensor, ...]]
"""From the shape of each input of some networks to inputs ``[probes, *shape]``, float64."""


def random_inputs(num_inputs: int, *, seed: int) -> Inputs:
    """Normal numbers, for networks whose images are not known."""

    def inputs(shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        rng = np.random.default_rng(seed)
        return tuple(torch.from_numpy(rng.standard_normal((num_inputs, *shape))) for shape in shapes)

    return inputs


def held_out_inputs(zoo: Zoo, num_inputs: int, *, seed: int) -> Inputs:
    """Test inputs of the corpora that a zoo was trained on; normal numbers for networks that take something else.

    Raises:
        GraphError: The zoo holds no recipe, so that its networks cannot be run.
    """
    drawn, known = random_inputs(num_inputs, seed=seed), ZooPrograms(zoo).inputs(num_inputs, part="test", seed=seed).double()

    def inputs(shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        return (known,) if shapes == (tuple(known.shape[1:]),) else drawn(shapes)

    return inputs


def prove(acted: Acted, size: Size, inputs: Inputs) -> Proof:
    """Runs networks before and after a group element acted on them, in float64.

    Args:
        acted: The networks, with float64 values.
        size: Of the elements, for the record.
        inputs: Gives what the networks are run on.

    Raises:
        AuditError: An output moved: the element is no symmetry of the network.
        GraphError: Only values are known of the networks, so that they cannot be run.
    """
    largest, num_inputs = 0.0, 0
    for before, after in zip(acted.before.bundles, acted.after.bundles, strict=True):
        given = inputs(before.input_shapes)
        roles = [group.role for group in before.topology.groups for _ in range(group.size)]
        is_output = torch.tensor([role == "output" for role in roles])
        first, second = (bundle.activations(given)[is_output] for bundle in (before, after))
        # [outputs, graphs, probes]
        reference = first.abs().amax(dim=(0, 2)).clamp(min=1.0)
        differences = (first - second).abs().amax(dim=(0, 2)) / reference
        worst = int(differences.nan_to_num(nan=torch.inf).argmax())
        # not above: an output that is not a number proves nothing
        if not differences[worst] <= LARGEST_DIFFERENCE:
            raise AuditError(
                f"{size.kind} ({size.name}) moves an output of network {acted.before.ids[int(before.index[worst])]!r} by "
                f"{float(differences[worst]):.2g} of the largest; expected at most {LARGEST_DIFFERENCE:g}, as of an element of "
                "its symmetry group: report the network's topology as a fault of ngbench.graph.symmetry"
            )
        largest, num_inputs = max(largest, float(differences[worst])), max(num_inputs, len(given[0]))
    return Proof(
        kind=size.kind, size=size.name, num_networks=len(acted.elements), num_inputs=num_inputs, largest_difference=largest
    )
