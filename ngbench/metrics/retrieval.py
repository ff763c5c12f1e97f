"""How well a ranking of networks by similarity brings the relevant ones first.

The gallery of a query holds all other networks and, in the query's own place, its mate: the query with its hidden units
permuted, which computes the same function. So a similarity is ``[queries, gallery]`` with the mates on the diagonal, and no
query is in its own gallery. Entries of equal similarity stand in random order: every score is its expected value over all
orders of tied entries (McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores", ECIR 2008), so that a constant embedding scores as a random ranking does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from ngbench.errors import PredictionsError
from ngbench.metrics.checks import MATE
from ngbench.metrics.metric import Metric

RELATED, NEAR = 1, 2

# Coarser than the rounding of a dot product of float64, so that equal embeddings are tied whatever order they are summed in.
_DECIMALS = 12
_QUERIES_AT_ONCE = 256


def cosine_similarity(embeddings: ArrayLike, mates: ArrayLike) -> np.ndarray:
    """Cosine of the angle between each query and each entry of its gallery, float64 ``[queries, gallery]``.

    It is rounded to 12 decimals, so that the rounding of sums breaks no tie. An embedding of zeros is at right angles to all,
    itself included.

    Args:
        embeddings: Of each network, ``[graphs, features]``.
        mates: Of each network's mate, ``[graphs, features]``.

    Raises:
        PredictionsError: Shapes differ, or a number is not finite.
    """
    own, scrambled = _directions("embeddings", embeddings), _directions("embeddings of mates", mates)
    if own.shape != scrambled.shape:
        raise PredictionsError(
            f"embeddings have shape {list(own.shape)} and those of mates {list(scrambled.shape)}; "
            "expected one of each for every network: embed the scrambled networks in the same order"
        )
    similarity = own @ own.T
    np.fill_diagonal(similarity, np.einsum("gf,gf->g", own, scrambled))
    return np.round(similarity, _DECIMALS, out=similarity)


def relevance(labels: ArrayLike, functional: np.ndarray, *, num_near: int) -> np.ndarray:
    """Grade of each entry of each query's gallery, int8 ``[queries, gallery]``.

    3: the mate. 2: near in function, no farther than the `num_near`-th nearest other network, and not infinitely far.
    1: of the same label. 0: neither. A count makes near mean the same for every query and zoo, whatever the unit and spread of
    the distance, where a threshold would leave some queries without any and give others most of the gallery.

    Args:
        labels: Class or corpus of each network, ``[graphs]``.
        functional: Distance of the functions of networks, from 0 to infinity, ``[graphs, graphs]``.
        num_near: How many others are near; more where several are equally far.

    Raises:
        PredictionsError: Shapes do not fit, or a distance is negative or no number.
    """
    labels, distance = np.asarray(labels), np.array(functional)
    if labels.ndim != 1 or distance.shape != (len(labels), len(labels)):
        raise PredictionsError(
            f"labels have shape {list(labels.shape)} and functional distances {list(distance.shape)}; expected [graphs] and "
            "[graphs, graphs] of the same networks"
        )
    unusable = ~(distance >= 0)
    if unusable.any():
        query, entry = np.argwhere(unusable)[0]
        raise PredictionsError(
            f"functional distances hold {unusable.sum()} of {distance.size} values that are negative or no numbers, the first is "
            f"{distance[query, entry]} from network {query} to {entry}; expected values from 0 to infinity"
        )
    np.fill_diagonal(distance, np.inf)
    last = min(num_near, len(labels)) - 1
    limit = np.partition(distance, last, axis=1)[:, last, np.newaxis]
    grades = (labels[:, np.newaxis] == labels).astype(np.int8) * np.int8(RELATED)
    grades[(distance <= limit) & (distance < np.inf)] = NEAR
    np.fill_diagonal(grades, MATE)
    return grades


@dataclass(frozen=True)
class Ranking:
    """Galleries in the order of falling similarity; entries ``start`` to ``stop`` are tied with an entry, itself included.

    Args:
        grades: ``[queries, gallery]``.
        start: int64 ``[queries, gallery]``.
        stop: int64 ``[queries, gallery]``.
    """

    grades: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, similarity: np.ndarray, grades: np.ndarray) -> Ranking:
        """Galleries ranked by similarity; both ``[queries, gallery]``."""
        order = np.argsort(-similarity, axis=1)
        ranked = np.take_along_axis(similarity, order, axis=1)
        places = np.arange(similarity.shape[1])
        steps = ranked[:, 1:] != ranked[:, :-1]
        first = np.pad(steps, ((0, 0), (1, 0)), constant_values=True)
        last = np.pad(steps, ((0, 0), (0, 1)), constant_values=True)
        start = np.maximum.accumulate(np.where(first, places, 0), axis=1)
        ends = np.where(last, places + 1, len(places))
        stop = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        return cls(np.take_along_axis(grades, order, axis=1), start, stop)

    def without_mates(self) -> Ranking:
        """The same galleries without the mate of each query."""
        others = self.grades != MATE
        mate = others.argmin(axis=1)[:, np.newaxis]
        parts = self.grades, self.start - (mate < self.start), self.stop - (mate < self.stop)
        return Ranking(*(part[others].reshape(len(part), -1) for part in parts))

    def tied_sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of some values over the entries before those tied with an entry, and over those tied, ``[queries, gallery]``."""
        sums = np.pad(np.cumsum(values, axis=1, dtype=np.int64), ((0, 0), (1, 0)))
        before = np.take_along_axis(sums, self.start, axis=1)
        return before, np.take_along_axis(sums, self.stop, axis=1) - before


def average_precision(ranking: Ranking) -> np.ndarray:
    """Mean, over the other networks that are related or near, of the share of such among those up to it, ``[queries]``.

    McSherry and Najork (2008), section 3.2. NaN where no other network is.
    """
    ranking = ranking.without_mates()
    places, relevant = np.arange(ranking.grades.shape[1]), ranking.grades >= RELATED
    before, tied = ranking.tied_sums(relevant)
    size = ranking.stop - ranking.start
    # of the relevant ones in a tie, those expected in front of one that stands at this place
    in_front = (places - ranking.start) * (tied - 1) / np.maximum(size - 1, 1)
    precision = (before + in_front + 1) / (places + 1)
    return _share((tied / size * precision).sum(axis=1), relevant.sum(axis=1))


def recall(ranking: Ranking, *, depth: int) -> np.ndarray:
    """Share of the other networks near in function that stand among the first `depth`, of as many as can, ``[queries]``.

    Where more are near than places, all places filled by them count as 1 (capped recall; Thakur et al., "BEIR", NeurIPS 2021).
    NaN where none is near.
    """
    ranking = ranking.without_mates()
    near = ranking.grades >= NEAR
    _, tied = ranking.tied_sums(near)
    found = (tied / (ranking.stop - ranking.start))[:, :depth].sum(axis=1)
    return _share(found, np.minimum(near.sum(axis=1), depth))


def normalized_gain(ranking: Ranking) -> np.ndarray:
    """The nDCG over the whole gallery, ``[queries]``: Σ gain / log2(1 + rank) as a share of that of the best order.

    Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002; the gain of a grade is 2^grade - 1
    and the discount falls from the first rank on, as in Burges et al., "Learning to Rank using Gradient Descent", ICML 2005.
    """
    discounts = 1 / np.log2(np.arange(ranking.grades.shape[1]) + 2)
    gains = 2 ** ranking.grades.astype(np.int64) - 1
    _, tied = ranking.tied_sums(gains)
    # sums, not products of matrices: the same to the last bit however many queries there are
    found = (tied / (ranking.stop - ranking.start) * discounts).sum(axis=1)
    best = (-np.sort(-gains, axis=1) * discounts).sum(axis=1)
    # rounding may carry the best order of ties beyond it
    return np.minimum(found / best, 1.0)


def mate_rank(ranking: Ranking) -> np.ndarray:
    """Rank of the query's mate, from 1, ``[queries]``; among tied entries their mean rank."""
    mate = (ranking.grades == MATE).argmax(axis=1)[:, np.newaxis]
    start, stop = (np.take_along_axis(part, mate, axis=1)[:, 0] for part in (ranking.start, ranking.stop))
    return (start + stop + 1) / 2


def recall_at_1(ranking: Ranking) -> np.ndarray:
    """`recall` at the first place."""
    return recall(ranking, depth=1)


def recall_at_10(ranking: Ranking) -> np.ndarray:
    """`recall` among the first ten."""
    return recall(ranking, depth=10)


RETRIEVAL_SCORES: Mapping[str, Callable[[Ranking], np.ndarray]] = MappingProxyType(
    {
        "map": average_precision,
        "recall_at_1": recall_at_1,
        "recall_at_10": recall_at_10,
        "ndcg": normalized_gain,
        "mate_rank": mate_rank,
    }
)
"""What a ranking is scored by, per query, by the name of the metric that is its mean."""


def _scores(
    similarity: np.ndarray, grades: np.ndarray, rules: Mapping[str, Callable[[Ranking], np.ndarray]]
) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in rules}
    for first in range(0, len(similarity), _QUERIES_AT_ONCE):
        queries = slice(first, first + _QUERIES_AT_ONCE)
        ranking = Ranking.of(similarity[queries], grades[queries])
        for name, rule in rules.items():
            found[name].append(rule(ranking))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A part of a whole, NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _directions(name: str, embeddings: ArrayLike) -> np.ndarray:
    """Embeddings of length one, float64 ``[graphs, features]``; those of length zero as they are."""
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf":
        raise PredictionsError(
            f"{name} have shape {list(array.shape)} and dtype {array.dtype}; expected numbers [graphs, features], at least one"
        )
    array = array.astype(np.float64)
    broken = ~np.isfinite(array).all(axis=1)
    if broken.any():
        raise PredictionsError(
            f"{broken.sum()} of {len(array)} {name} are not finite, the first is that of network {int(np.argmax(broken))}; "
            "expected finite numbers for every network"
        )
    # by the largest number first: squares of very large or small ones leave the range of float64
    array /= _or_one(np.abs(array).max(axis=1, keepdims=True))
    return array / _or_one(np.linalg.norm(array, axis=1, keepdims=True))


def _or_one(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, lengths, 1.0)


def _metric(
    name: str,
    title: str,
    *,
    bounds: tuple[float, float],
    undefined: float | None,
    description: str,
    higher_is_better: bool = True,
) -> Metric:
    """The mean over queries of one of the scores."""
    rules = {name: RETRIEVAL_SCORES[name]}

    def of_rows(similarity: np.ndarray, grades: np.ndarray) -> np.ndarray:
        return _scores(similarity, grades, rules)[name]

    def mean(similarity: np.ndarray, grades: np.ndarray) -> float:
        rows = of_rows(similarity, grades)
        defined = ~np.isnan(rows)
        return float(rows[defined].mean()) if defined.any() else float("nan")

    return Metric(name, title, mean, higher_is_better, bounds, undefined, description, takes="rankings", of_rows=of_rows)


MEAN_AVERAGE_PRECISION = _metric(
    "map",
    "mAP",
    bounds=(0.0, 1.0),
    undefined=0.0,
    description="Mean average precision of the other networks of the query's class or corpus, or near it in function; queries "
    "that have none are left out, and 0 where none has.",
)

RECALL_AT_1 = _metric(
    "recall_at_1",
    "Recall@1",
    bounds=(0.0, 1.0),
    undefined=0.0,
    description="Share of the queries whose most similar other network is one near in function; queries that have none are left "
    "out, and 0 where none has.",
)

RECALL_AT_10 = _metric(
    "recall_at_10",
    "Recall@10",
    bounds=(0.0, 1.0),
    undefined=0.0,
    description="Mean share of the other networks near in function that stand among the ten most similar, of as many as can; "
    "queries that have none are left out, and 0 where none has.",
)

NDCG = _metric(
    "ndcg",
    "nDCG",
    bounds=(0.0, 1.0),
    undefined=None,
    description="Normalised discounted cumulated gain over the whole gallery: 7 for the query's mate, 3 for a network near in "
    "function, 1 for one of the same class or corpus.",
)

MATE_RANK = _metric(
    "mate_rank",
    "Rank of the mate",
    higher_is_better=False,
    bounds=(1.0, np.inf),
    undefined=None,
    description="Mean rank of the query's mate, the same function with its hidden units permuted, among all other networks.",
)
