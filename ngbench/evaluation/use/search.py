"""The networks of a zoo that are nearest to one's own, by the cosine of a fitted method's embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ngbench.evaluation.kept import KeptRun
from ngbench.evaluation.networks import networks_of
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph
from ngbench.store import Zoo
from ngbench.store.splits import PARTS
from ngbench.tasks import TASKS


@dataclass(frozen=True)
class Hit:
    """A network of a zoo.

    Args:
        id: Its id.
        similarity: Cosine of its embedding and the query's, mean over the run's seeds.
        part: Of the run's split, or of the default one where the zoo has no such: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        columns: What the zoo knows of it.
    """

    id: str
    similarity: float
    part: str
    columns: dict[str, Any]


def search(run: KeptRun, module: OwnModule, graph: NeuralGraph, *, zoo: Zoo, top: int = 10) -> list[Hit]:
    """The nearest networks, the nearest first.

    Args:
        run: A fitted method that embeds.
        module: Of the query.
        graph: The query.
        zoo: Where to look.
        top: How many.

    Raises:
        MethodError: The method embeds no networks.
        NgbenchError: It cannot read the query, or the networks of the zoo.
    """
    query = run.ask("embed", module.dataset([run.domain.in_words_of_training(graph)], ["query"]))
    task = TASKS[run.first.task].asked(zoo.name, target=run.first.target)
    gallery = run.ask("embed", networks_of(task, zoo, np.arange(len(zoo))))
    similarity = (_unit(gallery) @ _unit(query).transpose(0, 2, 1)).mean(axis=0)[:, 0]
    parts = zoo.parts(run.first.split if run.first.split in zoo.splits else "default")
    nearest = np.argsort(-similarity, kind="stable")[:top]
    return [
        Hit(
            id=str(zoo.ids[row]),
            similarity=float(similarity[row]),
            part=(*PARTS, "")[parts[row]],
            columns={name: zoo.metadata[name][row].item() for name in zoo.columns},
        )
        for row in nearest.tolist()
    ]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length one, ``[..., graphs, features]``; a row of zeros stays."""
    norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.where(norms > 0, norms, 1)
