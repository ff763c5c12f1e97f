"""Weight matching: the permutation of one network's units that brings its weights closest to those of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ngbench.alignment import assign
from ngbench.errors import ConfigError, GraphError
from ngbench.graph import NeuralGraph, Topology, symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphBundle, GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext

STATISTICS = ("running_mean", "running_var")
"""Node features that are measured, not learned, and of any size: they have no part in the distance of two networks."""

SMALLEST_STEP = 1e-12
"""Least gain for which units move, as a share of the largest inner product that there can be: rounding is no reason to."""


@dataclass(frozen=True)
class Config:
    """Options of `WeightMatching`.

    Args:
        num_starts: Runs of which the best is taken: the first starts from no permutation, the others from random ones. A run
            that finds the networks to be permutations of one another is the last. Of 58 transformers of `digits-park` and
            their permuted twins one run finds 55, five find all but one whose units differ by less than rounding.
        max_sweeps: Passes over all indices in a run, at most.

    Raises:
        ConfigError: A number is out of range.
    """

    num_starts: int = 5
    max_sweeps: int = 100

    def __post_init__(self) -> None:
        for name in ("num_starts", "max_sweeps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a number above 0")


class WeightMatching:
    """Weight matching by coordinate descent over the traced symmetry group.

    Git Re-Basin (Ainsworth, Hayase and Srinivasa, ICLR 2023), Algorithm 1: maximises the inner product of the first network's
    weights with those of the permuted second, one index at a time in random order, by linear assignment, until no index
    moves. Differs from the paper in what is permuted: every index of the graph's symmetry, all slots that show it counted
    together, so that residual streams need no rule of their own, and units of a head are matched inside each pair of heads; and
    the descent starts several times. Where one tensor has an index along both axes, the assignment is of its linear part, and is
    taken only where it gains.

    Args:
        config: Options; the defaults of `Config` if None.
    """

    info = MethodInfo(
        name="weight-matching",
        title="Weight matching",
        access="weights",
        invariant=False,
        any_architecture=True,
        paper="Ainsworth et al. 2023, arXiv:2209.04836",
    )
    Config = Config
    num_parameters = 0

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self.seed = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Learns nothing; the seed of the context is that of orders and starts, which is 0 before."""
        self.seed = context.seed

    def match(self, first: GraphDataset, second: GraphDataset) -> list[GroupElement]:
        """For each pair of networks, paired by position, the element that brings the second closest to the first.

        Raises:
            GraphError: The numbers of networks differ, or the two networks of a pair have different structures.
        """
        if len(first) != len(second):
            raise GraphError(f"got {len(first)} first and {len(second)} second networks; expected pairs")
        pairs = zip(_networks(first), _networks(second), strict=True)
        return [self._matched(*pair) for pair in pairs]

    def _matched(self, first: NeuralGraph, second: NeuralGraph) -> GroupElement:
        if first.topology.structure != second.topology.structure:
            raise GraphError(
                f"networks with {first.topology.num_values} and {second.topology.num_values} values differ in structure; "
                "expected two of one structure"
            )
        pair = Pair(first, second)
        runs: list[Permutations] = []
        for start in range(self.config.num_starts):
            rng = np.random.default_rng([self.seed, start])
            permutations = pair.random_start(int(rng.integers(2**63))) if start else {}
            runs.append(pair.descend(permutations, rng=rng, max_sweeps=self.config.max_sweeps))
            if pair.is_best(runs[-1]):
                break
        best = max(runs, key=pair.objective)
        return GroupElement(second.topology, {name: torch.from_numpy(own) for name, own in best.items()})


def _networks(networks: GraphDataset) -> list[NeuralGraph]:
    """Each network by itself, in order."""
    placed: dict[int, NeuralGraph] = {}
    for bundle in networks.bundles:
        for row, position in enumerate(bundle.index.tolist()):
            placed[position] = _network(bundle, row)
    return [placed[position] for position in range(len(networks))]


def _network(bundle: GraphBundle, row: int) -> NeuralGraph:
    return NeuralGraph.from_row(bundle.variants[int(bundle.variant[row])], bundle.values[row].detach().cpu())


Permutations = Mapping[str, np.ndarray]
"""For each node group that moves an int64 array ``[nodes]``; as in a `GroupElement`."""


@dataclass(frozen=True)
class Part:
    """One slot as the inner product sees it.

    Args:
        position: Of the slot among those of the topology.
        target: Group along the first axis.
        source: Group along the second axis; None where that has one entry, which moves with the first.
        block: Name of the block whose sources have to be spread over the whole source group; None where they are whole.
    """

    position: int
    target: str
    source: str | None
    block: str | None


@dataclass(frozen=True)
class Family:
    """Indices that stand together in a group, such as heads and the units in them, and have to be assigned together.

    Args:
        groups: Names of the groups that they make up.
        parts: Numbers of the parts with one of these groups along an axis.
        is_linear: Whether no part has them along both axes, so that one assignment finds the best for the others as they are.
    """

    groups: frozenset[str]
    parts: tuple[int, ...]
    is_linear: bool


class Pair:
    """Two networks of one structure, and the inner product of one with the permuted other.

    Args:
        first: Stays.
        second: Is permuted.
    """

    def __init__(self, first: NeuralGraph, second: NeuralGraph):
        self.topology = first.topology
        self.parts = parts_of(self.topology)
        self.first, self.second = self._arrays(first), self._arrays(second)
        pairs = zip(self.first, self.second, strict=True)
        self.bound = sum(float(np.linalg.norm(mine) * np.linalg.norm(theirs)) for mine, theirs in pairs)

    def _arrays(self, network: NeuralGraph) -> list[np.ndarray]:
        """The values of each part, float64 ``[targets, sources, kernel]``."""
        return [self._array(part, network.slot_values[part.position].double().numpy()) for part in self.parts]

    def _array(self, part: Part, values: np.ndarray) -> np.ndarray:
        values = values.reshape(len(values), -1, values.shape[2] if values.ndim == 3 else 1)
        if part.block is None:
            return values
        assert part.source is not None, "a block has sources"
        spread = np.zeros((len(values), self.topology.group(part.source).size, values.shape[2]))
        np.put_along_axis(spread, self.topology.block_sources(part.block)[..., None], values, axis=1)
        return spread

    def random_start(self, seed: int) -> Permutations:
        """A random element of the group."""
        drawn = symmetry.group(self.topology).sample(seed).permutations
        return {name: own.numpy() for name, own in drawn.items()}

    def is_best(self, permutations: Permutations) -> bool:
        """Whether no permutation can be better: each tensor of the one network is a multiple of the other's."""
        return self.objective(permutations) >= (1 - SMALLEST_STEP) * self.bound

    def objective(self, permutations: Permutations) -> float:
        """The inner product of the first network with the permuted second."""
        products = []
        for part, mine, theirs in zip(self.parts, self.first, self.second, strict=True):
            moved = _moved(theirs, 0, permutations.get(part.target))
            products.append(float(np.vdot(mine, _moved(moved, 1, permutations.get(part.source or "")))))
        return sum(products)

    def descend(self, permutations: Permutations, *, rng: np.random.Generator, max_sweeps: int) -> Permutations:
        """Moves one family of indices after the other in random order, until a sweep moves none.

        Args:
            permutations: To start from.
            rng: Draws the orders.
            max_sweeps: Most passes over all families.
        """
        families = families_of(self.topology)
        for _ in range(max_sweeps):
            before = permutations
            for number in rng.permutation(len(families)):
                permutations = self.improved(permutations, families[number])
            if permutations is before:
                break
        return permutations

    def improved(self, permutations: Permutations, family: Family) -> Permutations:
        """With the best assignment of a family, the others as they are; the same object where none is better."""
        changed, step = self.assigned(permutations, family)
        if not family.is_linear:
            step = self.objective(changed) - self.objective(permutations)
        return changed if step > SMALLEST_STEP * self.bound else permutations

    def assigned(self, permutations: Permutations, family: Family) -> tuple[Permutations, float]:
        """The best assignment of a family where all else stays as it is, and what it gains."""
        gains = self._gains(permutations, family)
        found = assign(self.topology, gains).permutations
        changed = {**permutations, **{name: found[name].numpy() for name in family.groups}}
        step = sum(_value(gain, changed[name]) - _value(gain, permutations.get(name)) for name, gain in gains.items())
        return changed, step

    def _gains(self, permutations: Permutations, family: Family) -> dict[str, np.ndarray]:
        """For each group of a family what a node of the second network adds in the place of one of the first.

        ``[nodes, nodes]``, the first network's along the first axis.
        """
        gains: dict[str, np.ndarray] = {}
        for number in family.parts:
            for axis, name in ((0, self.parts[number].target), (1, self.parts[number].source)):
                if name in family.groups:
                    gain = self._gain(number, axis, permutations)
                    gains[name] = gains[name] + gain if name in gains else gain
        return gains

    def _gain(self, number: int, axis: int, permutations: Permutations) -> np.ndarray:
        part = self.parts[number]
        other = part.target if axis else part.source
        theirs = _moved(self.second[number], 1 - axis, permutations.get(other or ""))
        size = theirs.shape[axis]
        mine, theirs = (np.moveaxis(array, axis, 0).reshape(size, -1) for array in (self.first[number], theirs))
        return mine @ theirs.T


def _moved(values: np.ndarray, axis: int, permutation: np.ndarray | None) -> np.ndarray:
    return values if permutation is None else values.take(permutation, axis)


def _value(gain: np.ndarray, permutation: np.ndarray | None) -> float:
    """Sum of the gains of an assignment."""
    rows = np.arange(len(gain))
    return float(gain[rows, rows if permutation is None else permutation].sum())


@lru_cache(maxsize=64)
def parts_of(topology: Topology) -> tuple[Part, ...]:
    """The slots of a topology that are learned and differ from unit to unit."""
    parts = []
    for position, slot in enumerate(topology.slots):
        if slot.feature is not None:
            if slot.feature not in STATISTICS and slot.shape == (topology.group(slot.owner).size,):
                parts.append(Part(position, slot.owner, None, None))
            continue
        block = topology.edge_block(slot.owner)
        source = None if block.pattern == "diagonal" else block.source
        parts.append(Part(position, block.target, source, block.name if block.pattern == "grouped" else None))
    return tuple(parts)


@lru_cache(maxsize=64)
def families_of(topology: Topology) -> tuple[Family, ...]:
    """All moving indices of a topology by family."""
    moving = {index.name for index in symmetry.group(topology).indices}
    names = {g.name: {index.name for index in topology.indices_of(g.name)} & moving for g in topology.groups}
    families = []
    for indices in _joined(names.values()):
        groups = frozenset(group for group, own in names.items() if own & indices)
        ends = [(part.target in groups, part.source in groups) for part in parts_of(topology)]
        parts = tuple(number for number, found in enumerate(ends) if any(found))
        families.append(Family(groups, parts, is_linear=not any(all(found) for found in ends)))
    return tuple(families)


def _joined(sets: Iterable[set[str]]) -> list[set[str]]:
    """Sets with common members as one, in the order of their first."""
    found: list[set[str]] = []
    for own in sets:
        if own:
            common = [other for other in found if other & own]
            found = [other for other in found if other not in common] + [own.union(*common)]
    return found
