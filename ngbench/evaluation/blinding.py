"""What a method is shown of networks: weights and topology, and nothing by which it could know them again or learn the answer."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ngbench.errors import PredictionsError
from ngbench.loading import GraphDataset, ZooPrograms
from ngbench.loading.probes import PARTS, Programs
from ngbench.methods import MethodInfo


def permitted(networks: GraphDataset, info: MethodInfo) -> GraphDataset:
    """Networks to learn from; with recipe columns only for a method that says that it reads these."""
    return networks if info.access == "hyperparameters" else replace(networks, hyperparameters={})


def shown(networks: GraphDataset, info: MethodInfo) -> tuple[GraphDataset, np.ndarray]:
    """Networks as an exam shows them: in random order, under numbers, to be run only by a method that says that it runs them.

    An id tells of digits-inr the image and of a scrambled copy whose copy it is; only what reads the truth gets it. The order
    depends on the weights, so that it is another one for each copy.

    Args:
        networks: What is asked about.
        info: Of the method that is asked.

    Returns:
        The networks, and the position of each in `networks`, int64 ``[graphs]``.
    """
    digest = hashlib.sha256(b"".join(bundle.values.numpy().tobytes() for bundle in networks.bundles)).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(networks))
    bundles = networks.batch(order).bundles
    columns = {name: column[order] for name, column in networks.hyperparameters.items()}
    ids = tuple(networks.ids[place] if info.access == "truth" else str(number) for number, place in enumerate(order))
    return permitted(runnable(GraphDataset(ids, bundles, None, columns), info), info), order


def runnable(networks: GraphDataset, info: MethodInfo) -> GraphDataset:
    """Networks that are asked about, to be run only by a method that says that it runs them; on all inputs by the truth alone."""
    if info.access == "probes":
        return networks
    programs = _of_all_parts if info.access == "truth" else lambda _: None
    return replace(networks, bundles=tuple(replace(bundle, programs=programs(bundle.programs)) for bundle in networks.bundles))


def _of_all_parts(programs: Programs | None) -> Programs | None:
    return programs.of_parts(PARTS) if isinstance(programs, ZooPrograms) else programs


def in_order(answers: np.ndarray, order: np.ndarray, *, method: str) -> np.ndarray:
    """Answers ``[graphs, ...]`` about networks as they were shown, in the order in which they stood before.

    Args:
        answers: Of the method.
        order: Of `shown`.
        method: Whose answers they are.

    Raises:
        PredictionsError: There are more or fewer than networks.
    """
    if answers.shape[:1] != order.shape:
        raise PredictionsError(
            f"method {method!r} gave answers of shape {list(answers.shape)}; expected one for each of the {len(order)} networks "
            "that it was asked about"
        )
    found = np.empty_like(answers)
    found[order] = answers
    return found
