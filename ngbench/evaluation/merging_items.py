"""What the task merging asks: pairs of networks whose nodes are to be matched, drawn from the ids of the test networks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngbench.alignment import differ_in_widths, widths
from ngbench.alignment.couplings import codes_of, plans_of, row_length
from ngbench.alignment.matching import group_of
from ngbench.errors import GraphError, PredictionsError, SplitError
from ngbench.graph import NeuralGraph, Topology
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.tasks import MergingPlan

_STATISTICS = ("running_mean", "running_var")

Plans = Mapping[str, np.ndarray]
"""What of two networks' units is brought together, by index that moves, ``[first units, second units]``."""


@dataclass(frozen=True)
class Recovery:
    """A network and a copy of it whose nodes were permuted, with noise on its weights.

    Args:
        network: Position of the network.
        copy: Position of the copy.
        noise: One of those of the plan.
        element: What the copy's nodes were permuted by.
    """

    network: int
    copy: int
    noise: float
    element: GroupElement


@dataclass(frozen=True)
class MergingItems:
    """What is to be matched.

    Args:
        networks: The test networks and the copies.
        topologies: Of each network.
        corpora: Name of the corpus that each network classifies.
        pairs: Positions of independent networks, int64 ``[pairs, 2]``.
        recoveries: Networks with copies of themselves.
        triples: Positions, int64 ``[triples, 3]``.
        sets: Positions, int64 ``[sets, networks]``; smaller sets are their first members.
        unequal: Positions of independent networks of one family and unequal widths, int64 ``[pairs, 2]``.
        plan: What was asked for.
    """

    networks: GraphDataset
    topologies: tuple[Topology, ...]
    corpora: tuple[str, ...]
    pairs: np.ndarray
    recoveries: tuple[Recovery, ...]
    triples: np.ndarray
    sets: np.ndarray
    unequal: np.ndarray
    plan: MergingPlan

    @property
    def matches(self) -> np.ndarray:
        """Positions of the two networks of every matching, int64 ``[matches, 2]``.

        First the pairs, then the recoveries, the three pairs a, b and b, c and c, a of each triple, the first network of each
        set with each other one, and the pairs of unequal widths.
        """
        return np.concatenate([self.equal, self.unequal])

    @property
    def equal(self) -> np.ndarray:
        """Those of two networks of one topology."""
        copies = np.array([(item.network, item.copy) for item in self.recoveries], dtype=np.int64).reshape(-1, 2)
        around = np.stack([self.triples, np.roll(self.triples, -1, axis=1)], axis=-1).reshape(-1, 2)
        to_first = np.stack([np.broadcast_to(self.sets[:, :1], self.sets[:, 1:].shape), self.sets[:, 1:]], axis=-1).reshape(-1, 2)
        return np.concatenate([self.pairs, copies, around, to_first])

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each matching, ``[matches]``."""
        around = [f"triple {k // 3}" for k in range(3 * len(self.triples))]
        sets = [f"set {k}" for k in range(len(self.sets)) for _ in range(self.plan.largest_set - 1)]
        unequal = ["unequal" for _ in self.unequal]
        kinds = [*("pair" for _ in self.pairs), *("copy" for _ in self.recoveries), *around, *sets, *unequal]
        ids = self.networks.ids
        return tuple(f"{kind}: {ids[i]}, {ids[j]}" for kind, (i, j) in zip(kinds, self.matches.tolist(), strict=True))

    def parts(self, matchings: Sequence[Any] | np.ndarray) -> tuple[Any, Any, Any, Any, Any]:
        """Those of the pairs, recoveries, triples, sets and pairs of unequal widths."""
        ends = np.cumsum([0, len(self.pairs), len(self.recoveries), 3 * len(self.triples)]).tolist()
        ends += [len(self.equal), len(self.equal) + len(self.unequal)]
        return tuple(matchings[start:stop] for start, stop in itertools.pairwise(ends))  # type: ignore[return-value]

    @property
    def row_length(self) -> int:
        """Numbers of a matching: the nodes of the largest network, or what the plans of a pair of unequal widths take."""
        lengths = [row_length(self._widths(*pair)) for pair in self.unequal.tolist()]
        return max([topology.num_nodes for topology in self.topologies] + lengths)

    def packed(self, matchings: Sequence[GroupElement | Plans | None]) -> np.ndarray:
        """Matchings as an array, int64 ``[matches, row length]``; -1 behind the last number.

        An element of the symmetry group is the permutation of each node group; plans are as of `ngbench.alignment.couplings`,
        and None, of a pair of unequal widths that is left out, is -1 alone.
        """
        packed = np.full((len(matchings), self.row_length), -1, dtype=np.int64)
        for row, matching, pair in zip(packed, matchings, self.matches.tolist(), strict=True):
            if matching is not None:
                is_element = isinstance(matching, GroupElement)
                own = _nodes_of(matching) if is_element else codes_of(matching, self._widths(*pair))
                row[: len(own)] = own
        return packed

    def unpacked(self, matchings: np.ndarray) -> list[Any]:
        """What an array holds that may come from anyone: elements, and of unequal widths `Plans`, or None for all of them.

        Raises:
            PredictionsError: It has another shape or type, a row is no element of the symmetry group of its networks or no
                plan of optimal transport with even masses, or only some of the pairs of unequal widths are left out.
        """
        matches, length = self.matches, self.row_length
        if matchings.dtype.kind not in "iu" or matchings.shape != (len(matches), length):
            raise PredictionsError(
                f"matchings have type {matchings.dtype} and shape {matchings.shape}; expected integers ({len(matches)}, {length})"
            )
        rows = list(zip(matchings.astype(np.int64), matches.tolist(), strict=True))
        elements = [self._element(row, *pair) for row, pair in rows[: len(self.equal)]]
        plans = [self._plans(row, *pair) for row, pair in rows[len(self.equal) :]]
        num_left_out = sum(own is None for own in plans)
        if 0 < num_left_out < len(plans):
            raise PredictionsError(
                f"{num_left_out} of {len(plans)} pairs of unequal widths are left out; expected plans for all of them or none"
            )
        return [*elements, *plans]

    def _widths(self, first: int, second: int) -> dict[str, tuple[int, int]]:
        return widths(self.topologies[first], self.topologies[second])

    def _plans(self, row: np.ndarray, first: int, second: int) -> Plans | None:
        if (row == -1).all():
            return None
        sizes = self._widths(first, second)
        length = row_length(sizes)
        try:
            if (row[length:] != -1).any():
                raise GraphError(f"there are numbers behind its {length} codes; expected -1")
            return plans_of(row[:length], sizes)
        except GraphError as error:
            raise PredictionsError(
                f"the matching of {self._pair(first, second)} is no plan of optimal transport: {error}"
            ) from error

    def _element(self, row: np.ndarray, first: int, second: int) -> GroupElement:
        topology = self.topologies[first]
        starts = [*topology.node_ptr.values(), topology.num_nodes]
        own = {g.name: row[start:stop] for g, (start, stop) in zip(topology.groups, itertools.pairwise(starts), strict=True)}
        group = group_of(topology)
        try:
            if (row[topology.num_nodes :] != -1).any():
                raise GraphError(f"there are numbers behind its {topology.num_nodes} nodes; expected -1")
            return group.element(group.moves(own))
        except GraphError as error:
            raise PredictionsError(
                f"the matching of {self._pair(first, second)} is no symmetry of their topology: {error}"
            ) from error

    def _pair(self, first: int, second: int) -> str:
        return f"{self.networks.ids[first]!r} and {self.networks.ids[second]!r}"


def draw_items(
    networks: GraphDataset,
    *,
    plan: MergingPlan,
    corpora: Sequence[str] | None = None,
    runs: Sequence[Any] | None = None,
    salt: str = "ngbench-merging-1",
) -> MergingItems:
    """Draws what is to be matched from the ids of test networks.

    Networks are matched with others of their topology and corpus, from other runs; some also with those of other widths.

    Args:
        networks: The test networks.
        plan: How many items of each kind are drawn, where there are networks enough.
        corpora: Name of the corpus that each classifies; None where it is one.
        runs: Training run of each; None where each has its own.
        salt: Names the draw.

    Raises:
        SplitError: No two networks can be matched.
    """
    topologies = _topologies(networks)
    names = [""] * len(networks) if corpora is None else list(corpora)
    kinds = [(topology.digest, name) for topology, name in zip(topologies, names, strict=True)]
    pools = _pools(networks.ids, kinds, runs, salt, size=plan.pool_size)
    pairs = _tuples(networks.ids, pools, 2, plan.num_pairs, salt)
    if not len(pairs):
        raise SplitError(
            f"no two of the {len(networks)} test networks have topology and corpus in common; expected a zoo for merging"
        )
    triples = _tuples(networks.ids, pools, 3, plan.num_triples, salt)
    sets = _tuples(networks.ids, pools, plan.largest_set, plan.num_sets, salt)
    unequal = _unequal(networks.ids, _families(pools, topologies, names), runs, plan.num_pairs, salt)
    chosen = sorted((n for pool in pools for n in pool), key=lambda n: _hash(salt, "recovery", networks.ids[n]))
    sources = [n for n in chosen[: plan.num_recoveries] for _ in plan.noises]
    positions = np.array([*range(len(networks)), *sources], dtype=np.int64)
    recoveries, values = [], {}
    for copy, (source, noise) in enumerate(zip(sources, itertools.cycle(plan.noises)), start=len(networks)):
        seed = int(_hash(salt, f"copy {noise:g}", networks.ids[source])[:16], 16)
        element = group_of(topologies[source]).sample(seed)
        recoveries.append(Recovery(source, copy, noise, element))
        values[copy] = (element, noise, seed)
    return MergingItems(
        networks=_with_copies(networks, positions, values),
        topologies=tuple(topologies[n] for n in positions),
        corpora=tuple(names[n] for n in positions),
        pairs=pairs,
        recoveries=tuple(recoveries),
        triples=triples,
        sets=sets,
        unequal=unequal,
        plan=plan,
    )


def acted(element: GroupElement, row: Tensor) -> Tensor:
    """The value row of a network whose nodes an element has moved."""
    return element.act(NeuralGraph.from_row(element.topology, row)).row()


def rows_of(networks: GraphDataset) -> list[Tensor]:
    """The value row of each network."""
    rows: dict[int, Tensor] = {}
    for bundle in networks.bundles:
        rows |= dict(zip(bundle.index.tolist(), bundle.values, strict=True))
    return [rows[place] for place in range(len(networks))]


def _nodes_of(element: GroupElement) -> np.ndarray:
    parts = [element.permutations.get(g.name, torch.arange(g.size)) for g in element.topology.groups]
    return torch.cat(parts).numpy()


def _topologies(networks: GraphDataset) -> list[Topology]:
    found = {
        place: bundle.variants[variant]
        for bundle in networks.bundles
        for place, variant in zip(bundle.index.tolist(), bundle.variant.tolist(), strict=True)
    }
    return [found[place] for place in range(len(networks))]


def take(networks: GraphDataset, positions: np.ndarray, ids: Sequence[str] | None = None) -> GraphDataset:
    """Some networks of a set, perhaps some of them twice."""
    return GraphDataset(
        ids=tuple(ids or (networks.ids[place] for place in positions)),
        bundles=networks.batch(positions).bundles,
        targets=None,
        hyperparameters={name: column[positions] for name, column in networks.hyperparameters.items()},
    )


def _with_copies(
    networks: GraphDataset, positions: np.ndarray, copies: Mapping[int, tuple[GroupElement, float, int]]
) -> GraphDataset:
    """Networks by position, some of them replaced by noisy permuted copies."""
    ids = [networks.ids[n] + (f" copied with noise {copies[k][1]:g}" if k in copies else "") for k, n in enumerate(positions)]
    taken = take(networks, positions, ids)
    bundles = []
    for bundle in taken.bundles:
        values = bundle.values.clone()
        for row, place in enumerate(bundle.index.tolist()):
            if place in copies:
                element, noise, seed = copies[place]
                values[row] = _noisy(element.topology, acted(element, values[row]), noise, seed)
        bundles.append(replace(bundle, values=values))
    return replace(taken, bundles=tuple(bundles))


def _noisy(topology: Topology, row: Tensor, noise: float, seed: int) -> Tensor:
    """A value row with normal noise on everything but running statistics, relative to the standard deviation of each slot."""
    rng, row = np.random.default_rng(seed), row.clone()
    for slot in topology.slots:
        drawn = torch.from_numpy(rng.standard_normal(slot.stop - slot.start)).to(row)
        if slot.feature not in _STATISTICS:
            own = row[slot.start : slot.stop]
            row[slot.start : slot.stop] = own + noise * own.std(correction=0) * drawn
    return row


def _pools(ids: Sequence[str], kinds: Sequence[Any], runs: Sequence[Any] | None, salt: str, *, size: int) -> list[list[int]]:
    """Positions of the networks of each kind, at most so many, one of each run."""
    pools: dict[Any, dict[Any, int]] = {}
    for place in sorted(range(len(ids)), key=lambda n: _hash(salt, "pool", ids[n])):
        pool = pools.setdefault(kinds[place], {})
        if len(pool) < size:
            pool.setdefault(place if runs is None else runs[place], place)
    return [list(pool.values()) for pool in pools.values()]


def _tuples(ids: Sequence[str], pools: Sequence[Sequence[int]], size: int, number: int, salt: str) -> np.ndarray:
    """Different sets of networks of one pool in a random order, int64 ``[tuples, size]``; fewer than asked for where few exist.

    Draw after draw takes the networks of a pool in the order of a new hash.
    """
    found: dict[frozenset[int], tuple[int, ...]] = {}
    large = [pool for pool in pools if len(pool) >= size]
    for attempt in range(20 * number if large else 0):
        pool = large[attempt % len(large)]
        drawn = sorted(pool, key=lambda n, attempt=attempt: _hash(salt, f"{size} of draw {attempt}", ids[n]))[:size]
        found.setdefault(frozenset(drawn), tuple(drawn))
        if len(found) == number:
            break
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, size)


def _families(
    pools: Sequence[Sequence[int]], topologies: Sequence[Topology], corpora: Sequence[str]
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Each two pools of one corpus whose networks differ in widths alone."""
    return [
        (one, other)
        for one, other in itertools.combinations(pools, 2)
        if corpora[one[0]] == corpora[other[0]] and differ_in_widths(topologies[one[0]], topologies[other[0]])
    ]


def _unequal(
    ids: Sequence[str],
    families: Sequence[tuple[Sequence[int], Sequence[int]]],
    runs: Sequence[Any] | None,
    number: int,
    salt: str,
) -> np.ndarray:
    """Different pairs of networks of two pools in a random order, int64 ``[pairs, 2]``, drawn as `_tuples` draws its own."""
    found: dict[frozenset[int], tuple[int, ...]] = {}
    for attempt in range(20 * number if families else 0):
        family = families[attempt % len(families)]
        order = {n: _hash(salt, f"unequal of draw {attempt}", ids[n]) for pool in family for n in pool}
        drawn = sorted((min(pool, key=order.__getitem__) for pool in family), key=order.__getitem__)
        if runs is None or runs[drawn[0]] != runs[drawn[1]]:
            found.setdefault(frozenset(drawn), tuple(drawn))
        if len(found) == number:
            break
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, 2)


def _hash(salt: str, purpose: str, network_id: str) -> str:
    return hashlib.sha256(f"{salt}/{purpose}/{network_id}".encode()).hexdigest()
