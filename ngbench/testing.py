"""For tests of methods: fake zoos of untrained networks, made at once, and `check_method`, which puts a method to the proof.

Needs no test framework: what a method breaks is raised as a `MethodError` that says what moved, and by how much.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import GraphError, MethodError, NgbenchError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Program, Topology
from ngbench.graph.topology import Index
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, MethodInfo, Problem, RunContext, make_method
from ngbench.metrics import KENDALL_TAU
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


PROBLEM = Problem(kind="regression", metric=KENDALL_TAU, higher_is_better=True, bounds=(0.0, 1.0))
"""The problem that `check_method` poses: the target of `fake_dataset`, judged by Kendall's τ_b."""

FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a method raises that does not see that it cannot do what it is asked for."""


def check_method(method: str | Callable[[], Any], *, seed: int = 0) -> None:
    """Runs a method through what every method must keep, on fake zoos and with two epochs or candidates.

    It offers `Method`; it edits none of its inputs; it gives one finite float64 for each network, in the order of the ids; a
    prediction depends on no other network in the set; the same seed gives the same predictions; where it claims
    ``invariant``, permuted networks get the same predictions; where it claims ``any_architecture``, all this holds for
    networks of `ALL_FAMILIES` at once (of `SEVERAL_STRUCTURES`, where it runs networks on probes), and fitted on one structure
    it predicts for all of them; otherwise it refuses several
    structures with an `NgbenchError`.

    Args:
        method: A registered name, a path ``package.module:Class``, a class, or any function that makes a method.
        seed: Seeds the method and the fake zoos.

    Raises:
        MethodError: The first of these that the method breaks, with the numbers.
    """
    make = _maker(method)
    info = _checked_info(make())
    one = _check_on(make, info, ONE_STRUCTURE, seed)
    if info.any_architecture:
        families = _families(info)
        _check_on(make, info, families, seed)
        _check_unseen(one, info, families, seed)
    else:
        _check_refusal(make, one, info, seed)


def _maker(method: str | Callable[[], Any]) -> Callable[[], Any]:
    if isinstance(method, str):
        return lambda: make_method(method)
    config_type = getattr(method, "Config", None)
    return method if config_type is None else lambda: method(config_type())  # type: ignore[call-arg]


def _checked_info(method: Any) -> MethodInfo:
    # asked of the class: a method that is not fitted yet may have no number of parameters
    missing = [name for name in ("info", "fit", "predict", "num_parameters") if not hasattr(type(method), name)]
    if missing or not isinstance(method.info, MethodInfo):
        lack = f"lacks {', '.join(missing)}" if missing else f"has an info of type {type(method.info).__name__}"
        raise MethodError(f"{type(method).__name__} {lack}; expected what ngbench.methods.Method names")
    empty = [name for name in ("name", "title", "paper") if not getattr(method.info, name)]
    if empty:
        raise MethodError(f"info of {type(method).__name__} has an empty {', '.join(empty)}; expected a text for the tables")
    return method.info


def _check_on(make: Callable[[], Any], info: MethodInfo, topologies: Sequence[Topology], seed: int) -> Any:
    """Fits on networks of some topologies and checks what a method keeps for any; gives the fitted method."""
    test = fake_dataset(topologies, num_graphs=17, seed=seed + 2).without_targets()
    method = _fitted(make, info, topologies, seed)
    predictions = _predict(method, info, test)
    if info.access in ("weights", "probes") and np.ptp(predictions) == 0:
        raise MethodError(
            f"method {info.name!r} predicts {predictions[0]:g} for all {len(test)} networks; expected it to read weights"
        )
    again = _predict(_fitted(make, info, topologies, seed), info, test)
    _check_same(info, again, predictions, rule="when fitted twice with one seed", tolerance=0.0)
    order = np.random.default_rng(seed).permutation(len(test))
    reordered, few = _take(test, order), _take(test, order[:3])
    _check_same(info, _predict(method, info, reordered), predictions[order], rule="when the networks stand in another order")
    _check_same(info, _predict(method, info, few), predictions[order[:3]], rule="when other networks are left out of the set")
    if info.invariant:
        scrambled = _predict(method, info, test.scrambled(salt=f"check-method-{seed}"))
        _check_same(info, scrambled, predictions, rule="when hidden neurons are permuted, although it claims to be invariant")
    return method


def _families(info: MethodInfo) -> Sequence[Topology]:
    """Topologies that a method of any architecture reads; one that runs networks gets those whose modules are known."""
    return SEVERAL_STRUCTURES if info.access == "probes" else ALL_FAMILIES


def _check_unseen(one: Any, info: MethodInfo, families: Sequence[Topology], seed: int) -> None:
    """A method of any architecture, fitted on one structure, predicts for deeper and wider ones and for other families."""
    larger = (mlp_topology((12, 10, 9, 8, 11)), cnn_topology((3, 8, 7, 6, 5), num_classes=9, kernel=(5, 4), activation="mish"))
    unseen = fake_dataset((*larger, *families), num_graphs=16, seed=seed + 2).without_targets()
    try:
        _predict(one, info, unseen)
    except MethodError:
        raise
    except (NgbenchError, *FAILURES) as error:
        raise MethodError(
            f"method {info.name!r} raises {type(error).__name__} when asked to predict for architectures that it was not fitted "
            f"on, but declares any_architecture=True: {error}; expected predictions"
        ) from error


def _check_refusal(make: Callable[[], Any], one: Any, info: MethodInfo, seed: int) -> None:
    """A method of one architecture refuses several in `fit`, and another one in `predict`."""
    another = fake_dataset(SEVERAL_STRUCTURES[-1:], num_graphs=5, seed=seed + 2).without_targets()
    attempts = {
        "fit networks of several structures": lambda: _fitted(make, info, SEVERAL_STRUCTURES, seed),
        "predict for a structure that it was not fitted on": lambda: one.predict(another),
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except NgbenchError:
            continue
        except FAILURES as error:
            raise MethodError(
                f"method {info.name!r} raises {type(error).__name__} when asked to {what}: {error}; expected an NgbenchError"
            ) from error
        raise MethodError(f"method {info.name!r} does {what}, but declares any_architecture=False; expected an NgbenchError")


def _fitted(make: Callable[[], Any], info: MethodInfo, topologies: Sequence[Topology], seed: int) -> Any:
    train = fake_dataset(topologies, num_graphs=72, seed=seed)
    val = fake_dataset(topologies, num_graphs=24, seed=seed + 1)
    before = _contents(train), _contents(val)
    method = make()
    method.fit(PROBLEM, train, val, RunContext(seed=seed, budget=Budget(max_epochs=2, num_candidates=2)))
    _check_unchanged(info, "fit", before, (_contents(train), _contents(val)))
    if not isinstance(method.num_parameters, int) or method.num_parameters < 0:
        raise MethodError(f"method {info.name!r} has {method.num_parameters!r} parameters; expected an int from 0")
    return method


def _predict(method: Any, info: MethodInfo, networks: GraphDataset) -> np.ndarray:
    before = _contents(networks)
    predictions = method.predict(networks)
    _check_unchanged(info, "predict", before, _contents(networks))
    expected = f"a float64 array [{len(networks)}] of finite numbers"
    if not isinstance(predictions, np.ndarray) or predictions.dtype != np.float64 or predictions.shape != (len(networks),):
        got = f"{getattr(predictions, 'dtype', type(predictions).__name__)} {list(np.shape(predictions))}"
        raise MethodError(f"method {info.name!r} predicts {got}; expected {expected}")
    if not np.isfinite(predictions).all():
        row = int(np.argmin(np.isfinite(predictions)))
        raise MethodError(
            f"method {info.name!r} predicts {predictions[row]} for network {networks.ids[row]!r}; expected {expected}"
        )
    return predictions


def _check_same(info: MethodInfo, got: np.ndarray, expected: np.ndarray, *, rule: str, tolerance: float = TOLERANCE) -> None:
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    moved = float(np.abs(got - expected).max())
    if moved > allowed:
        raise MethodError(f"predictions of method {info.name!r} move by up to {moved:.2g} {rule}; expected at most {allowed:.2g}")


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
