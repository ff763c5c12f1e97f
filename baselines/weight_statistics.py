"""Statistics of the weights and node features of a network's layers, read by gradient boosting or by a perceptron."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch

from baselines.fitting import boosting, perceptron, training
from baselines.fitting.saved import Saved, as_tensors
from baselines.fitting.tables import Table
from baselines.fitting.trees import Trees
from baselines.reading.encoding import UNMARKED
from ngbench.errors import MethodError
from ngbench.graph import Topology
from ngbench.graph.topology import Slot
from ngbench.loading import GraphBundle, GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext

Layer = tuple[int, str]
"""Place of a layer, 1 for the first and -1, -2, … from the last, and ``"weight"`` or a node feature such as ``"bias"``."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_STATISTICS = 2 + len(QUANTILES)


@dataclass(frozen=True)
class Config(perceptron.Config):
    """Options of `WeightStatistics`: those of its perceptron, and which models are compared.

    Args:
        model: ``"best"`` for the better of gradient boosting and a perceptron, by the validation metric; or ``"boosting"`` or
            ``"perceptron"`` alone.

    Raises:
        ConfigError: A number is out of range, `model` has none of the named values, or it is ``"boosting"``, which reads no other
            option, beside one.
    """

    model: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("model", "best", *MODELS)
        if self.model == "boosting":
            self.check_unused(*(field.name for field in fields(self) if field.name != "model"), beside="model")


Model = Literal["boosting", "perceptron"]
MODELS: tuple[Model, ...] = get_args(Model)


class WeightStatistics:
    """Mean, variance and five quantiles of each layer's weights and of its biases, read by gradient boosting or a perceptron.

    Both are fitted, and the one that is better by the validation metric predicts; `chosen` says which.

    Unterthiner et al. 2020, "Predicting Neural Network Accuracy from Weights" (arXiv:2002.11448); later papers call it
    StatNN. Differs from the paper in keeping all layers where it keeps four. That is for networks of one structure: of
    several, whose layers do not correspond, it reads `StatisticsByKind`.

    Args:
        config: Options.
    """

    info = MethodInfo(
        name="weight-statistics",
        title="Weight statistics",
        access="weights",
        invariant=True,
        any_architecture=True,
        paper="Unterthiner et al. 2020, arXiv:2002.11448",
    )
    Config = Config

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self.scores: dict[Model, float] = {}
        self._models: dict[Model, Any] = {}
        self.standardise: Standardise | None = None

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {score:.3f}" for name, score in self.scores.items())
        return f"WeightStatistics(chosen={self.chosen!r}, val {scores})" if scores else "WeightStatistics(not fitted)"

    @property
    def chosen(self) -> Model:
        """Which model predicts: ``"boosting"`` or ``"perceptron"``.

        Raises:
            MethodError: The method has not been fitted.
        """
        if not self.scores:
            raise MethodError("weight-statistics has not been fitted; expected a call of fit before this one")
        best = max if self.problem.higher_is_better else min
        return best(self.scores, key=self.scores.__getitem__)

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers of a perceptron; 0 for trees, which have splits and leaves."""
        model = self._models[self.chosen]
        return sum(parameter.numel() for parameter in model.parameters()) if self.chosen == "perceptron" else 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Fits both models on `train` and keeps the one that is better on `val`."""
        if len(train.bundles) == 1:
            self.read: StatisticsByLayer | StatisticsByKind = StatisticsByLayer.of(train)
        else:
            self.read = StatisticsByKind.of(train)
        train_table, val_table = (Table.of(self.read(split), split) for split in (train, val))
        self.standardise = Standardise.of(train_table.features)
        self.problem, self._models, self.scores = problem, {}, {}
        if self.config.model != "perceptron":
            self._models["boosting"] = boosting.fit_best(problem, train_table, val=val_table, context=context)
        if self.config.model != "boosting":
            self._models["perceptron"] = perceptron.fit(problem, train_table, config=self.config, val=val_table, context=context)
        for name in self._models:
            self.scores[name] = problem.metric(self._predict(name, val_table.features), val.targets)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``.

        Raises:
            MethodError: The method has not been fitted.
        """
        return self._predict(self.chosen, self.read(networks))

    def embed(self, networks: GraphDataset) -> np.ndarray:
        """The statistics, each in units of its spread over the training networks, float64 ``[graphs, features]``.

        Raises:
            MethodError: The method has not been fitted.
        """
        if self.standardise is None:
            raise MethodError("weight-statistics has not been fitted; expected a call of fit before this one")
        return self.standardise(self.read(networks))

    def save(self, folder: Path) -> None:
        """Writes both models into a folder that exists: see `baselines.fitting.saved`.

        Raises:
            MethodError: The method has not been fitted.
        """
        perceptron_, arrays = self._models.get("perceptron"), {}
        if self.standardise is None:
            raise MethodError("weight-statistics has not been fitted; expected a call of fit before save")
        arrays |= {f"standardise.{name}": getattr(self.standardise, name) for name in ("centre", "scale")}
        if "boosting" in self._models:
            arrays |= {f"boosting.{name}": values for name, values in self._models["boosting"].arrays().items()}
        tensors = as_tensors(arrays)
        if perceptron_ is not None:
            tensors |= {f"perceptron.{name}": values for name, values in perceptron_.state_dict().items()}
        survey = Survey(self.read, self.scores, () if perceptron_ is None else tuple(perceptron_.flagged))
        Saved(self.info.name, self.config, self.problem, survey, tensors).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The method that `save` wrote; it predicts and embeds the same, to the bit.

        Raises:
            ResultError: The folder holds something else; the text says what.
        """
        saved = Saved.read(folder, method=cls.info.name, config=cls.Config, survey=Survey)
        method, survey = cls(saved.config), saved.survey
        method.read, method.scores, method.problem = survey.read, dict(survey.scores), saved.problem
        centre, scale = (saved.array(f"standardise.{name}", kind="f", num_axes=1) for name in ("centre", "scale"))
        method.standardise = Standardise(centre, scale)
        for name in survey.scores:
            if name == "boosting":
                method._models[name] = Trees.load(saved, prefix="boosting.")
            else:
                with training.seeded(0):
                    options = {"num_outputs": saved.problem.num_outputs, "flagged": survey.flagged}
                    module = perceptron.Perceptron(method.config, np.zeros((1, len(centre))), **options)
                saved.fill(module, prefix="perceptron.")
                method._models[name] = module
        return method

    def _predict(self, name: Model, features: np.ndarray) -> np.ndarray:
        if name == "boosting":
            return boosting.predict(self._models[name], features, problem=self.problem)
        return perceptron.predict(self._models[name], features, problem=self.problem, num_threads=self.config.num_threads)


@dataclass(frozen=True)
class Survey:
    """What is kept of a fitted `WeightStatistics` beside its arrays.

    Args:
        read: What it reads of a network.
        scores: Validation metric of each model.
        flagged: Features that the perceptron flags where they are missing.
    """

    read: StatisticsByLayer | StatisticsByKind
    scores: dict[Model, float]
    flagged: tuple[int, ...]


@dataclass(frozen=True)
class Standardise:
    """Distances of features from their medians in units of half the range of the middle 68 %; 0 where one is missing.

    Args:
        centre: Medians, ``[features]``.
        scale: Half ranges, ``[features]``; 1 where a feature hardly varies.
        clip: Largest distance that is told apart.
    """

    centre: np.ndarray
    scale: np.ndarray
    clip: float = 4.0

    @classmethod
    def of(cls, features: np.ndarray) -> Standardise:
        """Medians and ranges of training features ``[graphs, features]``."""
        known = ~np.isnan(features).all(axis=0)
        low, centre, high = (np.zeros(features.shape[1]) for _ in range(3))
        low[known], centre[known], high[known] = np.nanquantile(features[:, known], (0.16, 0.5, 0.84), axis=0)
        return cls(centre, np.where(high > low, (high - low) / 2, 1.0))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """``[graphs, features]`` to the same."""
        return np.nan_to_num(np.clip((features - self.centre) / self.scale, -self.clip, self.clip))


@dataclass(frozen=True)
class StatisticsByLayer:
    """`statistics` of the layers of the training networks; other structures meet them in the first layer and from the last."""

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, train: GraphDataset) -> StatisticsByLayer:
        """The layers that training networks have."""
        return cls(tuple(sorted({layer for bundle in train.bundles for layer in layers_of(bundle.topology)})))

    def __call__(self, networks: GraphDataset) -> np.ndarray:
        """Features of networks, float64 ``[graphs, features]``."""
        return statistics(networks, self.layers)


@dataclass(frozen=True)
class StatisticsByKind:
    """For each kind of numbers the statistics of its first and last layer and their mean over its layers, and two counts.

    Kinds are weights, the scales of each norm and whatever else has an operation of its own, and each node feature. So networks
    of any depth, width and family have the same columns, NaN where they lack a kind; kinds that training lacked are left out.
    Weights count times the root of their target's fan-in, so that wide and narrow layers of one initialisation agree. The counts
    are the layers of the kind and the numbers in them.
    """

    kinds: tuple[str, ...]

    @classmethod
    def of(cls, train: GraphDataset) -> StatisticsByKind:
        """The kinds that training networks have."""
        return cls(tuple(sorted({kind for bundle in train.bundles for kind, _ in kinds_of(bundle.topology)})))

    def __call__(self, networks: GraphDataset) -> np.ndarray:
        """Features of networks, float64 ``[graphs, features]``."""
        return _of_all(networks, self._of_bundle)

    def _of_bundle(self, bundle: GraphBundle) -> torch.Tensor:
        layers: dict[str, list[np.ndarray]] = defaultdict(list)
        for (kind, _), slots in sorted(kinds_of(bundle.topology).items()):
            layers[kind].append(np.concatenate([_at_unit_scale(bundle.values, slot) for slot in slots], axis=1))
        features = np.full((len(bundle), len(self.kinds), 3 * NUM_STATISTICS + 2), np.nan)
        features[:, :, -2:] = 0
        for column, kind in enumerate(self.kinds):
            if kind in layers:
                features[:, column] = _over_layers(layers[kind])
        return torch.from_numpy(features.reshape(len(bundle), -1).T)


def _of_all(networks: GraphDataset, measure: Callable[[GraphBundle], torch.Tensor]) -> np.ndarray:
    """What is measured of some networks of one structure, ``[features, graphs]``, of all, float64 ``[graphs, features]``."""
    order = np.concatenate([bundle.index.cpu().numpy() for bundle in networks.bundles])
    found = torch.cat([bundle.measured(measure) for bundle in networks.bundles], dim=1).numpy()
    return np.ascontiguousarray(found.T[np.argsort(order)])


def _at_unit_scale(values: torch.Tensor, slot: Slot) -> np.ndarray:
    """Values of a slot ``[graphs, ...]``; weights times the root of the fan-in of a target."""
    fan_in = 1 if slot.feature is not None else math.prod(slot.shape[1:])
    return values[:, slot.start : slot.stop].numpy() * np.float32(math.sqrt(fan_in))


def _over_layers(layers: list[np.ndarray]) -> np.ndarray:
    """Summaries of the first and last of some layers ``[graphs, values]``, their mean over all, and two counts."""
    summaries = [_summary(layer) for layer in layers]
    counts = np.full((len(layers[0]), 2), (len(layers), sum(layer.shape[1] for layer in layers)))
    return np.concatenate([summaries[0], summaries[-1], np.mean(summaries, axis=0), counts], axis=1)


def kinds_of(topology: Topology) -> dict[tuple[str, int], list[Slot]]:
    """The slots of each kind and depth: kinds are ``"weight"``, other operations of blocks, and names of node features."""
    slots = defaultdict(list)
    for slot in topology.slots:
        if slot.feature is not None:
            slots[slot.feature, topology.group(slot.owner).layer].append(slot)
        else:
            block = topology.edge_block(slot.owner)
            kind = "weight" if block.operation in UNMARKED else block.operation
            slots[kind, topology.group(block.target).layer].append(slot)
    return dict(slots)


def statistics(networks: GraphDataset, layers: Sequence[Layer]) -> np.ndarray:
    """Mean, variance, minimum, quartiles and maximum of each layer's values, float64 ``[graphs, layers * 7]``.

    NaN where a network lacks a layer. Equal bit for bit for networks that differ by a permutation: a rounding error would be
    enough to cross a split of a tree.
    """

    def of_bundle(bundle: GraphBundle) -> torch.Tensor:
        features = np.full((len(bundle), len(layers), NUM_STATISTICS), np.nan)
        slots_by_layer = layers_of(bundle.topology)
        for column, layer in enumerate(layers):
            if layer in slots_by_layer:
                values = torch.cat([bundle.values[:, slot.start : slot.stop] for slot in slots_by_layer[layer]], dim=1)
                features[:, column] = _summary(values.numpy())
        return torch.from_numpy(features.reshape(len(bundle), -1).T)

    return _of_all(networks, of_bundle)


def layers_of(topology: Topology) -> dict[Layer, list[Slot]]:
    """The slots of each layer, weights and node features apart; blocks that enter one depth together are one layer."""
    slots = defaultdict(list)
    deepest = max(group.layer for group in topology.groups)
    for slot in topology.slots:
        depth = topology.group(topology.edge_block(slot.owner).target if slot.feature is None else slot.owner).layer
        slots[1 if depth == 1 < deepest else depth - deepest - 1, slot.feature or "weight"].append(slot)
    return dict(slots)


def _summary(values: np.ndarray) -> np.ndarray:
    """Mean, variance and quantiles of each row, ``[graphs, values] -> [graphs, 7]``."""
    # sorted first, so that the order of a row's values does not even change how sums round
    ordered = np.sort(values, axis=1).astype(np.float64)
    positions = np.array(QUANTILES) * (ordered.shape[1] - 1)
    below, above = np.floor(positions).astype(int), np.ceil(positions).astype(int)
    quantiles = ordered[:, below] + (positions - below) * (ordered[:, above] - ordered[:, below])
    # numpy sums each contiguous row by itself, in an order that only the row's length decides
    return np.column_stack([ordered.mean(axis=1), ordered.var(axis=1), quantiles])
