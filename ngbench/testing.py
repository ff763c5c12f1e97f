"""For tests of methods: fake zoos of untrained networks, made at once, and `check_method`, which puts a method to the proof.

Needs no test framework: what a method breaks is raised as a `MethodError` that says what moved, and by how much.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import GraphError, MethodError, NgbenchError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Program, Topology, symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.graph.topology import Index
from ngbench.loading import GraphDataset
from ngbench.loading.dataset import scramble_seed
from ngbench.methods import CALLS, Budget, MethodInfo, Problem, RunContext, make_method
from ngbench.metrics import ACCURACY, KENDALL_TAU
from ngbench.tasks import Kind
from ngbench.zoo.architectures import ACTIVATIONS

TOLERANCE = 1e-5
"""How far predictions may move where they should stay, relative to the largest of them or to one."""


def mlp_topology(widths: Sequence[int], *, activation: str = "relu") -> Topology:
    """What `trace` gives of ``Sequential(linear0, activation, linear1, …)``, without the seconds that a first trace takes.

    Args:
        widths: Units of the input and of each linear layer.
        activation: Of every hidden layer.
    """
    return _chain(widths[0], [(f"linear{i}", "linear", (), width) for i, width in enumerate(widths[1:])], activation)


def cnn_topology(
    channels: Sequence[int], *, num_classes: int, kernel: tuple[int, ...] = (3, 3), activation: str = "relu"
) -> Topology:
    """What `trace` gives of ``Sequential(conv0, activation, conv1, …, global pooling, flatten, head)``.

    Args:
        channels: Channels of the input and of each convolution.
        num_classes: Units of the linear head.
        kernel: Spatial shape of every kernel.
        activation: Of every convolution.
    """
    convolutions = [(f"conv{i}", "conv", kernel, size) for i, size in enumerate(channels[1:])]
    return _chain(channels[0], [*convolutions, ("head", "linear", (), num_classes)], activation)


def _chain(num_inputs: int, layers: Sequence[tuple[str, str, tuple[int, ...], int]], activation: str) -> Topology:
    """Layers ``(name, operation, kernel, units)``, each reading the one before."""
    groups, blocks = [NodeGroup("input", num_inputs, "input", "none", 0)], []
    parameters: list[tuple[str, tuple[int, ...]]] = []
    for depth, (name, operation, kernel, size) in enumerate(layers, start=1):
        source, last = groups[-1], depth == len(layers)
        bias = NodeFeature("bias", ParameterView(f"{name}.bias"))
        groups.append(NodeGroup(name, size, "output" if last else "hidden", "none" if last else activation, depth, (bias,)))
        blocks.append(EdgeBlock(name, source.name, name, "dense", operation, kernel, ParameterView(f"{name}.weight")))
        parameters += [(f"{name}.weight", (size, source.size, *kernel)), (f"{name}.bias", (size,))]
    return Topology(tuple(groups), tuple(blocks), tuple(parameters))


def residual_topology(num_channels: int = 4, *, num_inner: int = 3, num_classes: int = 5) -> Topology:
    """A convolution, a residual block of two more with batch norm and a learned slope, global pooling and a linear head.

    Args:
        num_channels: Channels of the residual stream.
        num_inner: Channels inside the block.
        num_classes: Units of the linear head.
    """
    moments = ("bias", "running_mean", "running_var")
    groups = (
        NodeGroup("input", 1, "input", "none", 0),
        NodeGroup("stem", num_channels, "hidden", "none", 1, _features("stem", "bias"), ("stream",)),
        NodeGroup("conv0", num_inner, "hidden", "none", 2, (), ("inner",)),
        NodeGroup("norm", num_inner, "hidden", "prelu", 3, (*_features("norm", *moments), _slope("norm")), ("inner",)),
        NodeGroup("conv1", num_channels, "hidden", "none", 4, (), ("stream",)),
        NodeGroup("add", num_channels, "hidden", "relu", 5, (), ("stream",)),
        NodeGroup("head", num_classes, "output", "none", 6, _features("head", "bias")),
    )
    blocks = (
        _block("stem", "input", "stem", "conv", kernel=(3, 3)),
        _block("conv0", "stem", "conv0", "conv", kernel=(3, 2)),
        EdgeBlock("norm", "conv0", "norm", "diagonal", "batch_norm", (), ParameterView("norm.weight")),
        _block("conv1", "norm", "conv1", "conv", kernel=(2, 2)),
        EdgeBlock("skip", "stem", "add", "diagonal", "residual"),
        EdgeBlock("add", "conv1", "add", "diagonal", "residual"),
        _block("head", "add", "head", "linear"),
    )
    return _of_parts(groups, blocks, (Index("stream", num_channels), Index("inner", num_inner)))


def attention_topology(width: int = 4, *, num_heads: int = 2, head_width: int = 3, num_classes: int = 5) -> Topology:
    """Patches and their positions, one layer of attention around which a residual stream runs, and a linear head.

    Args:
        width: Units of the residual stream.
        num_heads: Heads of the attention.
        head_width: Units of a query, key or value in one head.
        num_classes: Units of the linear head.
    """
    inner, queries, values = num_heads * head_width, ("heads", "queries"), ("heads", "values")
    groups = (
        NodeGroup("input", 1, "input", "none", 0),
        NodeGroup("positions", 6, "input", "none", 0),
        NodeGroup("patch", width, "hidden", "none", 1, _features("patch", "bias"), ("stream",)),
        NodeGroup("query", inner, "hidden", "none", 2, _features("query", "bias"), queries),
        NodeGroup("key", inner, "hidden", "none", 2, _features("key", "bias"), queries),
        NodeGroup("value", inner, "hidden", "none", 2, _features("value", "bias"), values),
        NodeGroup("scores", num_heads, "structural", "softmax", 3, (), ("heads",)),
        NodeGroup("mixed", inner, "structural", "none", 4, (), values),
        NodeGroup("add", width, "hidden", "none", 5, _features("add", "bias"), ("stream",)),
        NodeGroup("head", num_classes, "output", "none", 6, _features("head", "bias")),
    )
    blocks = (
        _block("patch", "input", "patch", "conv", kernel=(2, 2)),
        _block("position", "positions", "patch", "positional"),
        *(_block(name, "patch", name, "linear") for name in ("query", "key", "value")),
        *(EdgeBlock(f"{end}-scores", end, "scores", "grouped", "attention", shared=("heads",)) for end in ("query", "key")),
        EdgeBlock("weighting", "scores", "mixed", "grouped", "attention", shared=("heads",)),
        EdgeBlock("weighted", "value", "mixed", "diagonal", "attention"),
        _block("output", "mixed", "add", "linear"),
        EdgeBlock("skip", "patch", "add", "diagonal", "residual"),
        _block("head", "add", "head", "linear"),
    )
    heads = Index("heads", num_heads)
    units = [Index(name, head_width, parents=("heads",)) for name in ("queries", "values")]
    return _of_parts(groups, blocks, (Index("stream", width), heads, *units))


def _features(owner: str, *names: str) -> tuple[NodeFeature, ...]:
    return tuple(NodeFeature(name, ParameterView(f"{owner}.{name}")) for name in names)


def _slope(owner: str) -> NodeFeature:
    """One number that all nodes share, as PReLU has it."""
    return NodeFeature("slope", ParameterView(f"{owner}.slope"), shared=True)


def _block(name: str, source: str, target: str, operation: str, *, kernel: tuple[int, ...] = ()) -> EdgeBlock:
    """Every source to every target, with a parameter of its own."""
    return EdgeBlock(name, source, target, "dense", operation, kernel, ParameterView(f"{name}.weight"))


def _of_parts(groups: Sequence[NodeGroup], blocks: Sequence[EdgeBlock], indices: Sequence[Index]) -> Topology:
    """A topology each of whose parameters is shown whole, once."""
    size = {group.name: group.size for group in groups}
    parameters: list[tuple[str, tuple[int, ...]]] = [
        (feature.parameter.path, (1,) if feature.shared else (group.size,)) for group in groups for feature in group.features
    ]
    for block in blocks:
        if block.parameter is not None:
            sources = () if block.pattern == "diagonal" else (size[block.source],)
            parameters.append((block.parameter.path, (size[block.target], *sources, *block.kernel)))
    return Topology(tuple(groups), tuple(blocks), tuple(parameters), tuple(indices))


ONE_STRUCTURE = tuple(cnn_topology((1, 6, 4), num_classes=5, kernel=(3, 2), activation=name) for name in ("relu", "tanh"))
"""Two topologies of one structure: the same groups and blocks, other activations."""

SEVERAL_STRUCTURES = (
    *ONE_STRUCTURE,
    cnn_topology((1, 7, 4, 3), num_classes=5, kernel=(2, 2)),
    mlp_topology((9, 8, 5), activation="silu"),
)
"""Topologies that differ in depth, widths, kernels and kinds of layer."""

OTHER_FAMILIES = (residual_topology(), attention_topology())
"""Topologies with what chains of layers lack: running moments, shared numbers, residual, structural and grouped edges."""

ALL_FAMILIES = (*SEVERAL_STRUCTURES, *OTHER_FAMILIES)
"""Topologies of all kinds."""


def fake_dataset(topologies: Sequence[Topology] = ONE_STRUCTURE, *, num_graphs: int = 24, seed: int = 0) -> GraphDataset:
    """A fake split of untrained networks, network i on topology ``i % len(topologies)``.

    The scale of a network's weights decides most of its target in [0, 1] and stands among its hyper-parameters, beside its
    activation: weights and hyper-parameters both tell of the target.
    """
    graphs = fake_graphs(topologies, num_graphs=num_graphs, seed=seed)
    scale = _scales(num_graphs, seed)
    noise = np.random.default_rng([seed, 1]).uniform(-0.1, 0.1, num_graphs)
    targets = np.clip(0.5 + np.log10(scale) + noise, 0.0, 1.0)
    ids = [f"fake-{seed}-{i:05d}" for i in range(num_graphs)]
    dataset = GraphDataset.from_graphs(graphs, ids=ids, targets=targets, programs=fake_program)
    activation = np.array([graph.topology.groups[1].activation for graph in graphs])
    return replace(dataset, hyperparameters={"activation": activation, "init_scale": scale})


@lru_cache(maxsize=64)
def fake_program(topology: Topology) -> Program:
    """What runs fake networks of a chain of layers, such as those of `SEVERAL_STRUCTURES`, on inputs.

    Raises:
        GraphError: The topology is no chain as `mlp_topology` and `cnn_topology` make it.
    """
    kernels = [block.kernel for block in topology.blocks if block.operation == "conv"]
    room = [2 + sum(size - 1 for size in sizes) for sizes in zip(*kernels, strict=True)]
    program = None
    if all(block.operation in ("conv", "linear") for block in topology.blocks):
        program = Program.of(_chain_module(topology), torch.zeros(1, topology.groups[0].size, *room))
    if program is None or program.topology != topology:
        raise GraphError(
            f"no module is known of fake networks with groups {', '.join(group.name for group in topology.groups)}; expected "
            "those of mlp_topology or cnn_topology"
        )
    return program


def _chain_module(topology: Topology) -> nn.Sequential:
    """The layers of a chain; the first linear layer behind convolutions reads their averages over the image."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for before, block in zip((None, *topology.blocks), topology.blocks, strict=False):
        source, target = topology.group(block.source), topology.group(block.target)
        if block.operation == "conv":
            layers[block.name] = getattr(nn, f"Conv{len(block.kernel)}d")(source.size, target.size, block.kernel)
        else:
            if before is not None and before.operation == "conv":
                layers |= {"pool": getattr(nn, f"AdaptiveAvgPool{len(before.kernel)}d")(1), "flatten": nn.Flatten()}
            layers[block.name] = nn.Linear(source.size, target.size)
        if target.activation in _MODULES:
            layers[f"activation-{target.name}"] = getattr(nn, _MODULES[target.activation])()
    return nn.Sequential(layers)


_MODULES = {**ACTIVATIONS, "mish": "Mish"}


def fake_graphs(topologies: Sequence[Topology] = ONE_STRUCTURE, *, num_graphs: int = 24, seed: int = 0) -> list[NeuralGraph]:
    """Untrained networks, network i on topology ``i % len(topologies)``.

    Every third network has weights that are exactly zero, and every third has weights that repeat: random values alone
    would hide readers that guess structure from values, or depend on the order of equal ones. Running variances are positive.
    """
    graphs = []
    for i, scale in enumerate(_scales(num_graphs, seed)):
        topology = topologies[i % len(topologies)]
        rng = np.random.default_rng([seed, 2, i])
        row = rng.normal(scale=0.4 * scale, size=topology.num_values)
        if i % 3 == 1:
            row[rng.random(topology.num_values) < 0.3] = 0.0
        if i % 3 == 2:
            row = np.round(row * 8) / 8
        for slot in topology.slots:
            if slot.feature == "running_var":
                row[slot.start : slot.stop] = np.exp(row[slot.start : slot.stop])
        graphs.append(NeuralGraph.from_row(topology, torch.from_numpy(row.astype(np.float32))))
    return graphs


def _scales(num_graphs: int, seed: int) -> np.ndarray:
    return 10 ** np.random.default_rng([seed, 0]).uniform(-0.5, 0.5, num_graphs)


CLASSES = ("faint", "medium", "strong")
"""Classes of fake networks, by the scale of their weights."""


def fake_classes(networks: GraphDataset) -> GraphDataset:
    """A fake split whose targets are the places in `CLASSES`, int64 ``[graphs]``: thirds of the scale of a network's weights."""
    limits = 10 ** np.array([-1 / 6, 1 / 6])
    return replace(networks, targets=np.digitize(networks.hyperparameters["init_scale"], limits))


PROBLEM = Problem(kind="regression", metric=KENDALL_TAU, higher_is_better=True, bounds=(0.0, 1.0))
"""The target of `fake_dataset`, judged by Kendall's τ_b."""

PROBLEMS: Mapping[Kind, Problem] = {
    "regression": PROBLEM,
    "classification": Problem("classification", ACCURACY, higher_is_better=True, classes=CLASSES),
    "retrieval": Problem("retrieval", ACCURACY, higher_is_better=True, classes=CLASSES),
    "merging": Problem("merging", None, higher_is_better=True),
}
"""The problems that `check_method` poses, by kind."""

FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a method raises that does not see that it cannot do what it is asked for."""


def check_method(method: str | Callable[[], Any], *, seed: int = 0) -> None:
    """Runs a method through what every method must keep, on fake zoos and with two epochs or candidates.

    It offers `info`, `fit`, `num_parameters` and one of the calls of `ngbench.methods.CALLS`. For each call that it has: it
    edits none of its inputs; it says something finite of the right shape of each network, in the order of the ids; that depends
    on no other network in the set, unless the method reads nothing of networks; the same seed gives the same. Predictions of a
    regression are float64 ``[graphs]``, of a classification probabilities; embeddings are float64 ``[graphs, features]``. Where
    it claims ``invariant``, permuted networks get the same predictions and embeddings; embeddings of nodes permute as hidden
    neurons do in any case; matchings are elements of the symmetry group. Where it claims ``any_architecture``, all this holds
    for networks of `ALL_FAMILIES` at once (of `SEVERAL_STRUCTURES`, where it runs networks on probes), and fitted on one
    structure it reads all of them; otherwise it refuses several structures with an `NgbenchError`. It is fitted for the first
    kind of problem that it solves; where that is a regression, also for a classification if it solves that.

    Args:
        method: A registered name, a path ``package.module:Class``, a class, or any function that makes a method.
        seed: Seeds the method and the fake zoos.

    Raises:
        MethodError: The first of these that the method breaks, with the numbers.
    """
    make = _maker(method)
    info = _checked_info(make())
    kinds = _kinds(make(), info)
    trial = Trial(make, info, kinds[0], seed)
    one = trial.check_on(ONE_STRUCTURE)
    if info.any_architecture:
        trial.check_on(trial.families)
        trial.check_unseen(one)
    else:
        trial.check_refusal(one)
    if kinds[:2] == ["regression", "classification"]:
        Trial(make, info, "classification", seed, only=("predict",)).check_on(ONE_STRUCTURE)


def _maker(method: str | Callable[[], Any]) -> Callable[[], Any]:
    if isinstance(method, str):
        return lambda: make_method(method)
    config_type = getattr(method, "Config", None)
    return method if config_type is None else lambda: method(config_type())  # type: ignore[call-arg]


def _checked_info(method: Any) -> MethodInfo:
    # asked of the class: a method that is not fitted yet may have no number of parameters
    missing = [name for name in ("info", "fit", "num_parameters") if not hasattr(type(method), name)]
    if not any(hasattr(type(method), call) for call in SAID):
        missing.append(" or ".join(SAID))
    if missing or not isinstance(method.info, MethodInfo):
        lack = f"lacks {', '.join(missing)}" if missing else f"has an info of type {type(method.info).__name__}"
        raise MethodError(f"{type(method).__name__} {lack}; expected what ngbench.methods.Method names")
    empty = [name for name in ("name", "title", "paper") if not getattr(method.info, name)]
    if empty:
        raise MethodError(f"info of {type(method).__name__} has an empty {', '.join(empty)}; expected a text for the tables")
    return method.info


def _kinds(method: Any, info: MethodInfo) -> list[Kind]:
    """Kinds of problem that a method solves."""
    offered: list[Kind] = [kind for kind, calls in CALLS.items() if any(hasattr(type(method), call) for call in calls)]
    lacking = [kind for kind in info.kinds if kind not in offered]
    if lacking:
        known: dict[str, str] = {kind: " or ".join(calls) for kind, calls in CALLS.items()}
        calls = known.get(lacking[0], f"one of the kinds {', '.join(CALLS)}")
        raise MethodError(f"info of {type(method).__name__} names kind {lacking[0]!r}; expected it to have {calls}")
    return [kind for kind in offered if not info.kinds or kind in info.kinds]


SAID: Mapping[str, tuple[str, str, str]] = {
    "predict": ("predicts", "predictions", "predict for"),
    "embed": ("embeds networks as", "embeddings", "embed"),
    "embed_nodes": ("embeds nodes as", "embeddings of nodes", "embed nodes of"),
    "match": ("matches networks as", "matchings", "match"),
}
"""For error texts: what a method does by a call, what comes of it, and what it is asked to do."""

Answers = list[Any]
"""What is said of each network: an array, or for matchings a dictionary of arrays."""


@dataclass(frozen=True)
class Trial:
    """Checks of a method that is fitted for problems of one kind.

    Args:
        make: Makes the method.
        info: What it claims.
        kind: Kind of problem.
        seed: Seeds the method and the fake zoos.
        only: Names of the calls that are checked, of those that the method has.
    """

    make: Callable[[], Any]
    info: MethodInfo
    kind: Kind
    seed: int
    only: tuple[str, ...] = tuple(SAID)

    @property
    def calls(self) -> list[str]:
        """Names of the calls that are checked."""
        has_predictions = self.kind in ("regression", "classification")
        offered = [call for call in self.only if hasattr(type(self.make()), call)]
        return [call for call in offered if call != "predict" or has_predictions]

    @property
    def families(self) -> Sequence[Topology]:
        """Topologies that a method of any architecture reads; one that runs networks gets those whose modules are known."""
        return SEVERAL_STRUCTURES if self.info.access == "probes" else ALL_FAMILIES

    def networks(self, topologies: Sequence[Topology], *, num_graphs: int, offset: int) -> GraphDataset:
        """A fake split with what the problem asks for."""
        split = fake_dataset(topologies, num_graphs=num_graphs, seed=self.seed + offset)
        if self.kind == "merging":
            return split.without_targets()
        return split if self.kind == "regression" else fake_classes(split)

    def fitted(self, topologies: Sequence[Topology]) -> Any:
        """The method, fitted on networks of some topologies."""
        train, val = (self.networks(topologies, num_graphs=size, offset=place) for place, size in enumerate((72, 24)))
        before = _contents(train), _contents(val)
        method = self.make()
        method.fit(PROBLEMS[self.kind], train, val, RunContext(seed=self.seed, budget=Budget(max_epochs=2, num_candidates=2)))
        _check_unchanged(self.info, "fit", before, (_contents(train), _contents(val)))
        if not isinstance(method.num_parameters, int) or method.num_parameters < 0:
            raise MethodError(f"method {self.info.name!r} has {method.num_parameters!r} parameters; expected an int from 0")
        return method

    def check_on(self, topologies: Sequence[Topology]) -> Any:
        """Fits on networks of some topologies and checks what a method keeps for any; gives the fitted method."""
        test = self.networks(topologies, num_graphs=17, offset=2).without_targets()
        method, twin = self.fitted(topologies), self.fitted(topologies)
        for call in self.calls:
            answers = self.said(method, call, test)
            self.check_same(call, self.said(twin, call, test), answers, rule="when fitted twice with one seed", tolerance=0.0)
            if self.info.access in ("weights", "probes") and call != "match" and _all_equal(answers):
                first = f"{answers[0]:g}" if np.ndim(answers[0]) == 0 else "the same"
                raise MethodError(
                    f"method {self.info.name!r} {SAID[call][0]} {first} for all {len(test)} networks; expected it to read weights"
                )
            # networks of which nothing is read cannot be told apart
            if self.info.access != "none":
                self.check_alone(method, call, test, answers)
            self.check_permuted(method, call, test, answers)
        return method

    def check_alone(self, method: Any, call: str, test: GraphDataset, answers: Answers) -> None:
        """What is said of a network depends neither on its place nor on other networks."""
        order = np.random.default_rng(self.seed).permutation(len(test))
        rules = {"when the networks stand in another order": order, "when other networks are left out of the set": order[:3]}
        for rule, chosen in rules.items():
            said = self.said(method, call, _take(test, chosen))
            self.check_same(call, said, [answers[place] for place in chosen], rule=rule)

    def check_permuted(self, method: Any, call: str, test: GraphDataset, answers: Answers) -> None:
        """Where neurons are permuted, what is said of networks stays if that is claimed, and what is said of nodes moves."""
        permuted, places = _permuted(test, self.seed)
        if call == "embed_nodes":
            moved = [own[place] for own, place in zip(answers, places, strict=True)]
            rule = "from where their neurons are when hidden neurons are permuted"
            self.check_same(call, self.said(method, call, permuted), moved, rule=rule)
        elif call != "match" and self.info.invariant and self.info.access != "none":
            rule = "when hidden neurons are permuted, although it claims to be invariant"
            self.check_same(call, self.said(method, call, permuted), answers, rule=rule)

    def check_unseen(self, one: Any) -> None:
        """A method of any architecture, fitted on one structure, reads deeper and wider ones and other families."""
        deeper = cnn_topology((3, 8, 7, 6, 5), num_classes=9, kernel=(5, 4), activation="mish")
        larger = (mlp_topology((12, 10, 9, 8, 11)), deeper, *self.families)
        unseen = fake_dataset(larger, num_graphs=16, seed=self.seed + 2).without_targets()
        for call in self.calls:
            try:
                self.said(one, call, unseen)
            except MethodError:
                raise
            except (NgbenchError, *FAILURES) as error:
                raise MethodError(
                    f"method {self.info.name!r} raises {type(error).__name__} when asked to {SAID[call][2]} architectures that "
                    f"it was not fitted on, but declares any_architecture=True: {error}; expected {SAID[call][1]}"
                ) from error

    def check_refusal(self, one: Any) -> None:
        """A method of one architecture refuses several in `fit`, and another one in every call."""
        another = fake_dataset(SEVERAL_STRUCTURES[-1:], num_graphs=5, seed=self.seed + 2).without_targets()
        attempts: dict[str, Callable[[], Any]] = {"fit networks of several structures": lambda: self.fitted(SEVERAL_STRUCTURES)}
        for call in self.calls:
            attempts[f"{SAID[call][2]} a structure that it was not fitted on"] = partial(_answer, one, call, another, self.seed)
        for what, attempt in attempts.items():
            try:
                attempt()
            except NgbenchError:
                continue
            except FAILURES as error:
                raise MethodError(
                    f"method {self.info.name!r} raises {type(error).__name__} when asked to {what}: {error}; "
                    "expected an NgbenchError"
                ) from error
            raise MethodError(
                f"method {self.info.name!r} does {what}, but declares any_architecture=False; expected an NgbenchError"
            )

    def said(self, method: Any, call: str, networks: GraphDataset) -> Answers:
        """What a method says of each network by a call, checked for type, shape and numbers."""
        before = _contents(networks)
        answer = _answer(method, call, networks, self.seed)
        _check_unchanged(self.info, call, before, _contents(networks))
        if call == "match":
            return self._checked_matchings(answer, networks)
        expected = self._expected(call, len(networks))
        is_right_type = isinstance(answer, list) if call == "embed_nodes" else isinstance(answer, np.ndarray) and answer.ndim > 0
        rows = list(answer) if is_right_type else []
        shapes = [self._row_shape(call, topology, rows) for topology in _topologies(networks)]
        if [np.shape(row) for row in rows] != shapes or any(getattr(row, "dtype", None) != np.float64 for row in rows):
            raise MethodError(f"method {self.info.name!r} {SAID[call][0]} {_described(answer)}; expected {expected}")
        for id, row in zip(networks.ids, rows, strict=True):
            self._check_numbers(call, id, row, expected)
        return rows

    def _row_shape(self, call: str, topology: Topology, rows: Answers) -> tuple[int, ...]:
        """Shape of what is said of a network; the first network decides how many features or channels all have."""
        if call == "predict":
            return (len(CLASSES),) if self.kind == "classification" else ()
        width = (np.shape(rows[0])[-1:] if rows else ()) or (0,)
        return width if call == "embed" else (topology.num_nodes, *width)

    def _expected(self, call: str, num_networks: int) -> str:
        if call == "embed_nodes":
            return f"a list of {num_networks} float64 arrays [nodes, channels] of finite numbers"
        if call == "embed":
            return f"a float64 array [{num_networks}, features] of finite numbers"
        if self.kind == "classification":
            return f"a float64 array [{num_networks}, {len(CLASSES)}] of probabilities, from 0 and summing to 1"
        return f"a float64 array [{num_networks}] of finite numbers"

    def _check_numbers(self, call: str, id: str, row: np.ndarray, expected: str) -> None:
        finite, wrong = np.isfinite(row), None
        if not finite.all():
            wrong = f"{np.asarray(row)[~finite][0]} for network {id!r}"
        elif call == "predict" and self.kind == "classification" and (row.min() < 0 or abs(row.sum() - 1) > TOLERANCE):
            wrong = f"{np.round(row, 6).tolist()}, which sum to {row.sum():.6g}, for network {id!r}"
        if wrong is not None:
            raise MethodError(f"method {self.info.name!r} {SAID[call][0]} {wrong}; expected {expected}")

    def _checked_matchings(self, answer: Any, networks: GraphDataset) -> Answers:
        """Permutations of each matching by group."""
        expected = f"a list of {len(networks)} elements of the symmetry groups of the networks"
        if not isinstance(answer, list) or len(answer) != len(networks):
            raise MethodError(f"method {self.info.name!r} {SAID['match'][0]} {_described(answer)}; expected {expected}")
        for id, element, topology in zip(networks.ids, answer, _topologies(networks), strict=True):
            if not isinstance(element, GroupElement) or element.topology.structure != topology.structure:
                raise MethodError(
                    f"method {self.info.name!r} matches network {id!r} by {type(element).__name__} of another structure or type; "
                    f"expected {expected}"
                )
            for group, permutation in element.permutations.items():
                if sorted(permutation.tolist()) != list(range(topology.group(group).size)):
                    raise MethodError(
                        f"method {self.info.name!r} matches group {group!r} of network {id!r} by {permutation.tolist()}; "
                        f"expected a permutation of its {topology.group(group).size} nodes"
                    )
        return [_places(element) for element in answer]

    def check_same(self, call: str, got: Answers, expected: Answers, *, rule: str, tolerance: float = TOLERANCE) -> None:
        """Whether the same is said, up to rounding."""
        allowed = tolerance * max(1.0, max(float(np.abs(row).max()) for row in expected))
        moved = max(
            float(np.abs(own - row).max()) if np.shape(own) == np.shape(row) else np.inf
            for own, row in zip(got, expected, strict=True)
        )
        if moved > allowed:
            raise MethodError(
                f"{SAID[call][1]} of method {self.info.name!r} move by up to {moved:.2g} {rule}; expected at most {allowed:.2g}"
            )


def _answer(method: Any, call: str, networks: GraphDataset, seed: int) -> Any:
    """What a call gives; networks are matched with equivalent ones."""
    if call == "match":
        return method.match(networks, _permuted(networks, seed)[0])
    return getattr(method, call)(networks)


def _permuted(networks: GraphDataset, seed: int) -> tuple[GraphDataset, list[np.ndarray]]:
    """Equivalent networks, and for each the nodes of the first one that its nodes were, int64 ``[nodes]``."""
    twins = networks.scrambled(salt=f"check-method-{seed}")
    places: dict[int, np.ndarray] = {}
    for bundle in networks.bundles:
        group = symmetry.group(bundle.topology)
        for position in bundle.index.tolist():
            places[position] = _places(group.sample(scramble_seed(f"check-method-{seed}", networks.ids[position])))
    return twins, [places[position] for position in range(len(networks))]


def _places(element: GroupElement) -> np.ndarray:
    """The nodes of the original that the nodes of an acted graph are, int64 ``[nodes]``."""
    topology = element.topology
    own = [element.permutations.get(g.name, torch.arange(g.size)) + topology.node_ptr[g.name] for g in topology.groups]
    return torch.cat(own).numpy()


def _topologies(networks: GraphDataset) -> list[Topology]:
    """The topology of each network, in the order of the ids."""
    found = {
        position: bundle.variants[variant]
        for bundle in networks.bundles
        for position, variant in zip(bundle.index.tolist(), bundle.variant.tolist(), strict=True)
    }
    return [found[position] for position in range(len(networks))]


def _all_equal(answers: Answers) -> bool:
    return all(np.array_equal(answer, answers[0]) for answer in answers)


def _described(answer: Any) -> str:
    """Type and shape of an answer, of the first entry where it is a list of arrays."""
    if isinstance(answer, list):
        first = f" of {answer[0].dtype} {list(answer[0].shape)}" if answer and isinstance(answer[0], np.ndarray) else ""
        return f"list [{len(answer)}]{first}"
    return f"{getattr(answer, 'dtype', type(answer).__name__)} {list(np.shape(answer))}"


def _check_unchanged(info: MethodInfo, call: str, before: Any, after: Any) -> None:
    try:
        np.testing.assert_equal(after, before)
    except AssertionError as error:
        difference = " ".join(str(error).split())
        raise MethodError(
            f"{call} of method {info.name!r} edits its inputs; expected them unchanged, got: {difference}"
        ) from error


def _contents(networks: GraphDataset) -> list[Any]:
    """Copies of all that a method could edit in place."""
    arrays = [array.clone().numpy() for bundle in networks.bundles for array in (bundle.values, bundle.variant, bundle.index)]
    columns = {name: column.copy() for name, column in networks.hyperparameters.items()}
    return [networks.ids, arrays, columns, None if networks.targets is None else networks.targets.copy()]


def _take(networks: GraphDataset, positions: np.ndarray) -> GraphDataset:
    """Some networks of a set, in the order of their positions."""
    return GraphDataset(
        ids=tuple(networks.ids[position] for position in positions),
        bundles=networks.batch(positions).bundles,
        targets=None if networks.targets is None else networks.targets[positions],
        hyperparameters={name: column[positions] for name, column in networks.hyperparameters.items()},
    )
