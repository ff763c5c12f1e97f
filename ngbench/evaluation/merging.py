"""The exam of merging: a method's matchings of networks, and what the networks are worth that are merged by them.

All numbers follow from the matchings: for each pair of networks a permutation of nodes, or where their widths are unequal which
units optimal transport brings together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngbench.alignment import Curves, LabelledImages, Moments, curves, line, match, plans, reestimated, scores, spread
from ngbench.alignment.matching import group_of
from ngbench.errors import GraphError, MethodError, PredictionsError
from ngbench.evaluation.blinding import permitted, runnable, shown
from ngbench.evaluation.exam import BOOTSTRAP_SEED, Exam, Scored, orbit_salt
from ngbench.evaluation.merging_items import MergingItems, Plans, acted, draw_items, rows_of, take
from ngbench.evaluation.predictions import Predictions
from ngbench.graph import NeuralGraph, Program, Topology
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset, ZooPrograms
from ngbench.loading.probes import Part
from ngbench.metrics import Resamples
from ngbench.store import Zoo
from ngbench.tasks import MergingPlan, Task


@dataclass(frozen=True)
class MergingImages:
    """What merged networks are scored on.

    Args:
        train: Training images, from which statistics are estimated again, ``[images, *input shape]``.
        test: Labelled images of another part.
    """

    train: Tensor
    test: LabelledImages

    @classmethod
    def of(cls, programs: ZooPrograms, plan: MergingPlan, *, corpus: str | None = None, part: Part = "test") -> MergingImages:
        """Those of a zoo.

        Args:
            programs: Of the zoo.
            plan: How many.
            corpus: One of its corpora; None for the first.
            part: Of the corpus, whose images score.
        """
        test = LabelledImages(*programs.labelled(part, plan.num_test_images, corpus=corpus))
        return cls(programs.labelled("train", plan.num_train_images, corpus=corpus)[0], test)


class MergingExam(Exam):
    """Asks which nodes of two test networks correspond, for many pairs of networks and of networks with copies of themselves."""

    def __init__(self, task: Task, zoo: Zoo):
        super().__init__(task, zoo)
        self._scored: dict[tuple[int | None, bytes], MergingScore] = {}

    @property
    def plan(self) -> MergingPlan:
        """What is drawn and measured."""
        return self.task.plan(MergingPlan)

    @cached_property
    def items(self) -> MergingItems:
        """What is matched of the test networks."""
        return self._drawn(GraphDataset.from_zoo(self.zoo, self.rows))

    @property
    def ids(self) -> tuple[str, ...]:
        """Kind and networks of each matching."""
        return self.items.names

    @property
    def row_shape(self) -> tuple[int, ...]:
        """One number for each node, or more where plans of unequal widths take them."""
        return (self.items.row_length,)

    def ask(self, method: Any, networks: GraphDataset) -> np.ndarray:
        """Matchings, int64 ``[matches, row length]``."""
        return matchings(method, self._drawn(networks))

    def _drawn(self, networks: GraphDataset) -> MergingItems:
        """The items; of a scrambled copy of the networks the same ones."""
        corpora = self.zoo.metadata["corpus"][self.rows].tolist() if "corpus" in self.zoo.columns else None
        return draw_items(networks, plan=self.plan, corpora=corpora, runs=self.zoo.run_ids[self.rows].tolist())

    @cached_property
    def _images(self) -> dict[str, MergingImages]:
        programs = ZooPrograms(self.zoo)
        return {corpus: MergingImages.of(programs, self.plan, corpus=corpus or None) for corpus in set(self.items.corpora)}

    def measured(self, values: np.ndarray, *, copy: int | None = None) -> MergingScore:
        """Every number of some matchings.

        Args:
            values: int64 ``[matches, row length]``.
            copy: Of which scrambled copy of the networks; None for the networks themselves.

        Raises:
            PredictionsError: As of `MergingItems.unpacked`.
        """
        key = copy, np.asarray(values).tobytes()
        if key not in self._scored:
            plain = GraphDataset.from_zoo(self.zoo, self.rows)
            items = self.items if copy is None else self._drawn(plain.scrambled(salt=orbit_salt(copy)))
            self._scored[key] = score(items, values, self._images)
        return self._scored[key]

    def scores(self, values: np.ndarray, twins: np.ndarray) -> dict[str, float]:
        """Metrics of the matchings of the networks themselves."""
        return dict(self.measured(values).metrics)

    def shifts(self, values: np.ndarray, twins: np.ndarray) -> np.ndarray:
        """NaN, ``[rows]``: nodes of scrambled networks have other numbers, so that the scores alone tell what moved."""
        return np.full(len(values), np.nan)

    def score(self, predictions: Predictions) -> Scored:
        """Scores matchings, those of each scrambled copy on its own networks.

        Raises:
            PredictionsError: A row is missing, extra, there twice, or none of its networks as of `MergingItems.unpacked`, or what
                is left out differs between copies.
        """
        values, scrambled = predictions.aligned(self.ids)
        for array in (values, *scrambled):
            self.check(array)
        copies = [dict(self.measured(own, copy=copy).metrics) for copy, own in enumerate(scrambled)]
        own, primary = self.scores(values, scrambled[0]), self.task.primary
        _check_alike([own, *copies], "scrambled copies")
        worst = min(copies, key=lambda found: found[primary.name] if primary.higher_is_better else -found[primary.name])
        return Scored(values, scrambled, own, worst, self.shifts(values, scrambled[0]))

    def resamples(self, method: str, scored: Sequence[Scored]) -> Resamples:
        """Of the primary metric of resampled pairs.

        Raises:
            PredictionsError: Some seeds leave out the pairs of unequal widths, and others do not.
        """
        _check_alike([found.scores for found in scored], "seeds")
        rows = [self.measured(found.values).of_pairs[self.task.metrics[0]] for found in scored]
        options = {"seed": BOOTSTRAP_SEED, "clusters": self.items.pairs, "num_resamples": self.task.num_resamples}
        return Resamples.of_rows(np.stack(rows), method=method, **options)


def _check_alike(found: Sequence[Mapping[str, float]], what: str) -> None:
    """Whether all have numbers of the pairs of unequal widths, or none."""
    if any(set(own) != set(found[0]) for own in found):
        raise PredictionsError(
            f"some {what} of the predictions leave out pairs of unequal widths, and others do not; expected plans in all or none"
        )


def matchings(method: Any, items: MergingItems) -> np.ndarray:
    """What a method says of every item, int64 ``[matches, row length]``.

    A method that offers ``match(first, second)`` is asked for the elements that bring the second networks' nodes to the first's,
    and leaves out pairs of unequal widths; of one that offers ``embed_nodes(networks)`` the embeddings are matched, where widths
    are unequal by optimal transport.

    Raises:
        MethodError: It offers neither, or what it gives does not fit the networks.
    """
    if hasattr(method, "match"):
        return items.packed([*_matched(method, items), *(None for _ in items.unequal)])
    if not hasattr(method, "embed_nodes"):
        raise MethodError(f"method {method.info.name!r} embeds no nodes and matches no networks; expected one that can")
    given, order = shown(items.networks, method.info)
    embedded = method.embed_nodes(given)
    if len(embedded) != len(items.networks):
        raise MethodError(
            f"method {method.info.name!r} embeds {len(embedded)} networks; expected each of the {len(items.networks)}"
        )
    nodes = [embedded[place] for place in np.argsort(order)]
    topologies = items.topologies
    elements = [match(topologies[a], nodes[a], nodes[b]) for a, b in items.equal.tolist()]
    transported = [plans(topologies[a], topologies[b], embeddings=(nodes[a], nodes[b])) for a, b in items.unequal.tolist()]
    return items.packed([*elements, *transported])


def _matched(method: Any, items: MergingItems) -> list[GroupElement]:
    """What a method says of pairs of networks of one topology, by itself."""
    pairs = items.equal
    firsts, order = shown(take(items.networks, pairs[:, 0]), method.info)
    seconds = runnable(take(items.networks, pairs[order, 1], firsts.ids), method.info)
    matched = method.match(firsts, permitted(seconds, method.info))
    found = [matched[place] for place in np.argsort(order)] if len(matched) == len(pairs) else matched
    if len(found) != len(pairs) or any(e.topology != items.topologies[i] for e, i in zip(found, pairs[:, 0], strict=True)):
        raise MethodError(f"method {method.info.name!r} gives {len(found)} matchings; expected one for each of {len(pairs)}")
    return found


@dataclass(frozen=True)
class MergingScore:
    """Every number of one method.

    Args:
        metrics: Means over items, by name; kinds of which there are no items are left out.
        of_pairs: What is measured of each pair, by metric, float64 ``[pairs]``.
        curves: Lines of the pairs as they are.
        repaired: The same with statistics estimated again.
    """

    metrics: Mapping[str, float]
    of_pairs: Mapping[str, np.ndarray]
    curves: Curves
    repaired: Curves


def score(items: MergingItems, matchings: np.ndarray, images: Mapping[str, MergingImages]) -> MergingScore:
    """Scores matchings.

    Args:
        items: What was matched.
        matchings: Of all items, int64 ``[matches, row length]``.
        images: By corpus.

    Raises:
        PredictionsError: As of `MergingItems.unpacked`.
    """
    of_pairs, of_recoveries, of_triples, of_sets, of_unequal = items.parts(items.unpacked(matchings))
    rows = rows_of(items.networks)
    seconds = [acted(element, rows[second]) for element, second in zip(of_pairs, items.pairs[:, 1], strict=True)]
    plain, repaired = _lines(items, items.pairs, seconds, images)
    columns = {
        "midpoint_accuracy": plain.midpoint_accuracy,
        "barrier": plain.barrier,
        "barrier_area": plain.barrier_area,
        "midpoint_accuracy_repaired": repaired.midpoint_accuracy,
        "barrier_repaired": repaired.barrier,
        "endpoint_accuracy": plain.endpoint_accuracy,
    }
    metrics = {name: float(values.mean()) for name, values in columns.items()}
    metrics |= _recovery(items, of_recoveries) | _cycles(of_triples) | _sets(items, of_sets, images)
    metrics |= _unequal(items, of_unequal, images)
    return MergingScore(metrics, columns, plain, repaired)


def _lines(
    items: MergingItems, pairs: np.ndarray, seconds: Sequence[Tensor], images: Mapping[str, MergingImages]
) -> tuple[Curves, Curves]:
    """The lines of pairs as they are, and with statistics estimated again.

    Args:
        items: Of which the pairs are some.
        pairs: Positions, int64 ``[pairs, 2]``.
        seconds: Value rows of the second networks on the first's topology, their nodes brought to the first's.
        images: By corpus.
    """
    rows, num_points = rows_of(items.networks), items.plan.num_points
    shape = (len(pairs), num_points)
    plain, repaired = (Curves(np.empty(shape), np.empty(shape)) for _ in range(2))
    for bench, members in _benches(items, pairs[:, 0], images):
        first = torch.stack([rows[pairs[k, 0]] for k in members])
        second = torch.stack([seconds[k] for k in members])
        between = line(first, second, num_points)
        goal = Moments.between(bench.moments(first), bench.moments(second), num_points)
        again = bench.repaired(between.flatten(0, 1), goal).view(between.shape)
        for found, lines in ((plain, between), (repaired, again)):
            own = curves(bench.program, lines, bench.images.test)
            found.loss[members], found.accuracy[members] = own.loss, own.accuracy
    return plain, repaired


def _unequal(items: MergingItems, of_pairs: Sequence[Plans | None], images: Mapping[str, MergingImages]) -> dict[str, float]:
    """Of pairs of unequal widths, the second networks spread over the units of the first; none where they are left out."""
    rows, topologies, seconds = rows_of(items.networks), items.topologies, []
    for own, (first, second) in zip(of_pairs, items.unequal.tolist(), strict=True):
        if own is not None:
            graph = NeuralGraph.from_row(topologies[second], rows[second])
            seconds.append(spread(topologies[first], graph, own).row())
    if not seconds:
        return {}
    plain, repaired = _lines(items, items.unequal, seconds, images)
    found = {
        "midpoint_accuracy_unequal": plain.midpoint_accuracy,
        "midpoint_accuracy_unequal_repaired": repaired.midpoint_accuracy,
        "barrier_unequal": plain.barrier,
        "endpoint_accuracy_unequal": _accuracies(items, items.unequal.ravel(), images),
    }
    return {name: float(values.mean()) for name, values in found.items()}


def _accuracies(items: MergingItems, positions: np.ndarray, images: Mapping[str, MergingImages]) -> np.ndarray:
    """Test accuracy of some networks as they are, float64 ``[networks]``."""
    rows, found = rows_of(items.networks), np.empty(len(positions))
    for bench, members in _benches(items, positions, images):
        found[members] = scores(bench.program, torch.stack([rows[positions[k]] for k in members]), bench.images.test)[1]
    return found


def _recovery(items: MergingItems, elements: Sequence[GroupElement]) -> dict[str, float]:
    """Of the nodes that a copy's permutation may move the share that is matched right, and the share of copies without fault."""
    metrics = {}
    for noise in items.plan.noises if items.recoveries else ():
        both = [(item, element) for item, element in zip(items.recoveries, elements, strict=True) if item.noise == noise]
        right = [_share_in_place(element.compose(item.element)) for item, element in both]
        metrics[f"recovery_{noise:g}"] = float(np.mean(right))
        metrics[f"recovery_exact_{noise:g}"] = float(np.mean(np.array(right) == 1))
    return metrics


def _cycles(elements: Sequence[GroupElement]) -> dict[str, float]:
    """The share of nodes that come back to themselves by a, b, c and a again."""
    rounds = [elements[start : start + 3] for start in range(0, len(elements), 3)]
    shares = [_share_in_place(ab.compose(bc).compose(ca)) for ab, bc, ca in rounds]
    return {"cycle_consistency": float(np.mean(shares))} if shares else {}


def _sets(items: MergingItems, elements: Sequence[GroupElement], images: Mapping[str, MergingImages]) -> dict[str, float]:
    """Accuracy of the mean of the first 2, 3, … networks of each set, as it is and with statistics estimated again."""
    rows, sizes = rows_of(items.networks), items.plan.set_sizes
    found = {name: np.empty((len(sizes), len(items.sets))) for name in ("", "_repaired")}
    for bench, members in _benches(items, items.sets[:, 0], images):
        aligned = torch.stack([torch.stack(_members(rows, items.sets[k], elements, k)) for k in members])
        moments = bench.moments(aligned.flatten(0, 1))
        parts = [values.view(*aligned.shape[:2], -1) for values in (moments.mean, moments.std)]
        means = torch.cat([aligned[:, :size].mean(1) for size in sizes])
        goal = Moments(*(torch.cat([values[:, :size].mean(1) for size in sizes]) for values in parts))
        for name, merged in (("", means), ("_repaired", bench.repaired(means, goal))):
            found[name][:, members] = scores(bench.program, merged, bench.images.test)[1].reshape(len(sizes), len(members))
    if not len(items.sets):
        return {}
    return {f"merged_{size}{name}": float(own[k].mean()) for name, own in found.items() for k, size in enumerate(sizes)}


def _members(rows: Sequence[Tensor], members: np.ndarray, elements: Sequence[GroupElement], number: int) -> list[Tensor]:
    """The value rows of a set, all brought to the first."""
    others = len(members) - 1
    own = elements[number * others : (number + 1) * others]
    return [rows[members[0]], *(acted(element, rows[place]) for element, place in zip(own, members[1:], strict=True))]


@dataclass(frozen=True)
class _Bench:
    """What networks of one topology and corpus are run with."""

    program: Program
    images: MergingImages

    def moments(self, rows: Tensor) -> Moments:
        return Moments.of(self.program, rows, self.images.train)

    def repaired(self, rows: Tensor, goal: Moments) -> Tensor:
        return reestimated(self.program, rows, self.images.train, goal=goal)


def _benches(items: MergingItems, firsts: np.ndarray, images: Mapping[str, MergingImages]) -> list[tuple[_Bench, np.ndarray]]:
    """For each topology and corpus what runs its networks, and which of the items are its own, by their first networks."""
    own: dict[tuple[Topology, str], list[int]] = {}
    for number, first in enumerate(firsts.tolist()):
        own.setdefault((items.topologies[first], items.corpora[first]), []).append(number)
    programs = {variant.structure: bundle.programs for bundle in items.networks.bundles for variant in bundle.variants}
    found = []
    for (topology, corpus), members in own.items():
        known = programs[topology.structure]
        if known is None:
            raise GraphError("the networks of the items cannot be run; expected networks of a zoo, or programs beside them")
        found.append((_Bench(known(topology), images[corpus]), np.array(members)))
    return found


def _share_in_place(element: GroupElement) -> float:
    """Of the nodes that any symmetry moves the share that an element leaves in place."""
    moving = group_of(element.topology).moving_groups
    nodes = [element.permutations.get(name, torch.arange(element.topology.group(name).size)) for name in moving]
    return float(torch.cat([own == torch.arange(len(own)) for own in nodes]).double().mean()) if nodes else 1.0
