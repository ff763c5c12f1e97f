"""The exam of retrieval: embeddings of the test networks, ranked by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ngbench.evaluation.blinding import in_order, shown
from ngbench.evaluation.exam import BOOTSTRAP_SEED, Exam, Scored, targets_of
from ngbench.evaluation.functional import functional_distance
from ngbench.loading import GraphDataset
from ngbench.metrics import METRICS, Resamples
from ngbench.metrics.retrieval import cosine_similarity, relevance
from ngbench.tasks import RetrievalPlan


class RetrievalExam(Exam):
    """Asks for an embedding of each test network; the others, and the query's scrambled copy, are its gallery."""

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each test network, int64 ``[graphs]``."""
        return targets_of(self.task, self.zoo, self.rows, self.classes)

    @property
    def ids(self) -> tuple[str, ...]:
        """The test networks."""
        return tuple(self.zoo.ids[self.rows].tolist())

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Any number of features."""
        return (-1,)

    @cached_property
    def grades(self) -> np.ndarray:
        """How relevant each test network is to each, int8 ``[graphs, graphs]``; see `ngbench.metrics.retrieval.relevance`."""
        plan = self.task.plan(RetrievalPlan)
        distance = functional_distance(self.zoo, self.rows, num_inputs=plan.num_inputs)
        return relevance(self.labels, distance, num_near=plan.num_near)

    def ask(self, method: Any, networks: GraphDataset) -> np.ndarray:
        """Embeddings, float32 ``[graphs, features]``."""
        given, order = shown(networks, method.info)
        return in_order(np.asarray(method.embed(given), dtype=np.float32), order, method=method.info.name)

    def scores(self, values: np.ndarray, twins: np.ndarray) -> dict[str, float]:
        """Metrics of the rankings."""
        similarity = cosine_similarity(values, twins)
        return {name: METRICS[name](similarity, self.grades) for name in self.task.metrics}

    def shifts(self, values: np.ndarray, twins: np.ndarray) -> np.ndarray:
        """1 minus the cosine of a network's embedding and that of its scrambled copy."""
        return 1 - np.diagonal(cosine_similarity(values, twins))

    def resamples(self, method: str, scored: Sequence[Scored]) -> Resamples:
        """Of the scores of resampled queries; the gallery stays."""
        of_rows = METRICS[self.task.metrics[0]].of_rows
        assert of_rows is not None, "metrics of rankings are means over queries"
        rows = [of_rows(cosine_similarity(found.values, found.scrambled[0]), self.grades) for found in scored]
        options = {"seed": BOOTSTRAP_SEED, "clusters": self.clusters, "num_resamples": self.task.num_resamples}
        return Resamples.of_rows(np.stack(rows), method=method, **options)
