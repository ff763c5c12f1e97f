"""Recurrent layers: a group for each gate and for the state, whose units agree; the state is read by the gates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import fx

from ngbench.graph import axes as ax
from ngbench.graph.axes import Factor, Index, positions
from ngbench.graph.draft import BlockDraft, GroupDraft, Value
from ngbench.graph.layers.rule import Arguments, Result, layer_name, operation_name, parameter_path, rule, unsupported

if TYPE_CHECKING:
    from ngbench.graph.walk import Walk

GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "rnn_tanh": ("state",),
    "rnn_relu": ("state",),
}


@rule(*GATES)
def _recurrent(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """`torch.nn.LSTM`, `GRU` and `RNN`, any number of layers and directions."""
    kind = operation_name(node)
    if "batch_sizes" in args:
        raise unsupported(node, f"{kind!r} of packed sequences is not supported", "padded sequences")
    value = walk.as_units(node, args["input"])
    walk.units_on(value, -1)
    num_each = 4 if args["has_biases"] else 2
    directions = 2 if args["bidirectional"] else 1
    entries: list[Any] = list(args["params"])
    if len(entries) != num_each * directions * int(args["num_layers"]):
        raise unsupported(node, f"{kind!r} with projections is not supported", "proj_size=0")
    states: list[Value] = []
    for _ in range(int(args["num_layers"])):
        layer = []
        for _ in range(directions):
            weights, entries = entries[:num_each], entries[num_each:]
            layer.append(_layer(walk, node, kind, value, weights))
            _start(walk, layer[-1], args["hx"], place=len(states) + len(layer) - 1)
        states += layer
        value = _joined(layer, value)
    time = 1 if args["batch_first"] else 0
    last = [replace(s, axes=tuple(e for axis, e in enumerate(s.axes) if axis != time or len(s.axes) < 3)) for s in states]
    if len(value.axes) < 3:
        last = [replace(s, axes=s.axes[1:]) for s in states]
    cells = [replace(s, texts=dict.fromkeys(s.texts, "cell")) for s in last]
    return [
        value,
        *(
            Value(positions(found.shape), entries=tuple(each))
            for each, found in zip((last, cells), node.meta["val"][1:], strict=False)
        ),
    ]


def _start(walk: Walk, state: Value, given: Any, *, place: int) -> None:
    """A computed state to start from enters the state's group; their units agree."""
    for tensor in given if isinstance(given, list | tuple) else [given]:
        found = walk.values[tensor]
        if not isinstance(found, Value) or _is_zero(tensor):
            continue
        if found.is_constant:
            ax.pin_beside(state.axes[-1], walk.value(tensor).axes[-1])
            next(iter(state.texts)).pooling.add("start")
            continue
        start = found.entries[place] if found.entries else walk.as_units(tensor, tensor)
        walk.default_units(start)
        ax.unify(start.axes[-1], state.axes[-1])
        walk.add_identity(next(iter(state.texts)), start, "start")


def _is_zero(node: fx.Node) -> bool:
    """Whether a tensor is made of zeros, perhaps in another shape."""
    while operation_name(node) in ("expand", "view", "reshape", "unsqueeze", "squeeze", "transpose", "clone", "contiguous", "to"):
        node = node.all_input_nodes[0]
    return operation_name(node) in ("zeros", "zeros_like", "new_zeros")


def _layer(walk: Walk, node: fx.Node, kind: str, value: Value, weights: list[Any]) -> Value:
    """A layer whose state feeds back into its gates."""
    name = _name(walk, node, kind, weights[0])
    gate, unit = _gates(walk, node, kind, name, value, weights)
    state = walk.add_group(node, f"{name}.state")
    state.units = (Factor(unit, state),)
    recurrent = walk.shown(node, weights[1], [gate.units, state.units])
    walk.add_block(BlockDraft(f"{name}.recurrent", kind, gate, state.units, {state: ""}, weight=recurrent))
    _open(walk, kind, name, gate, state)
    return walk.made(node, state, (*value.axes[:-1], state.units))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(walk: Walk, node: fx.Node, args: Arguments) -> Result:
    """One step of a recurrent layer: the gates read the state before, which the state after agrees with."""
    kind = operation_name(node).removesuffix("_cell")
    given = args["hx"] if isinstance(args["hx"], list | tuple) else [args["hx"]]
    value, before = walk.as_units(node, args["input"]), [walk.as_units(node, tensor) for tensor in given]
    walk.units_on(value, -1)
    weights = [args[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if args[name] is not None]
    name = _name(walk, node, kind, weights[0])
    gate, unit = _gates(walk, node, kind, name, value, weights)
    hidden = walk.folded(node, before[0], [len(before[0].axes) - 1], name=name)
    walk.note(gate.units)
    ax.unify(hidden.axes[-1], (Factor(unit),))
    recurrent = walk.shown(node, weights[1], [gate.units, hidden.axes[-1]])
    walk.add_block(BlockDraft(f"{name}.recurrent", kind, gate, hidden.axes[-1], hidden.texts, weight=recurrent))
    state = walk.add_group(node, f"{name}.state")
    state.units = (Factor(unit, state),)
    _open(walk, kind, name, gate, state)
    # The state before is kept in part: the cell of an LSTM, the state itself of a GRU.
    for kept in before[1:] if kind == "lstm" else before if kind == "gru" else ():
        if kept.is_constant and not kept.varies(1):
            continue
        ax.unify(kept.axes[-1], state.units)
        walk.add_identity(state, kept, kind)
    made = walk.made(node, state, (*value.axes[:-1], state.units))
    return [made, replace(made, texts={state: "cell"})] if kind == "lstm" else made


def _name(walk: Walk, node: fx.Node, kind: str, weight: Any) -> str:
    path = parameter_path(walk, node, weight, "weight")
    return f"{layer_name(path, kind)}{path.rpartition('.')[2].removeprefix('weight_ih')}"


def _gates(walk: Walk, node: fx.Node, kind: str, name: str, value: Value, weights: list[Any]) -> tuple[GroupDraft, Index]:
    """The group of the gates, which agree with one another, with the block that reads the input; and one gate's units."""
    gates, num_units = GATES[kind], int(weights[1].meta["val"].shape[1])
    value = walk.folded(node, value, [len(value.axes) - 1], name=name)
    unit = Index(num_units)
    gate = walk.add_group(node, f"{name}.gates" if len(gates) > 1 else name)
    gate.units = (Factor(Index.of("sum", [unit] * len(gates)), gate),) if len(gates) > 1 else (Factor(unit, gate),)
    inputs = walk.shown(node, weights[0], [gate.units, value.axes[-1]])
    walk.add_block(BlockDraft(f"{name}.input", kind, gate, (*value.axes[-1], *value.hidden), value.texts, weight=inputs))
    for feature, bias in zip(("bias", "recurrent_bias"), weights[2:], strict=False):
        gate.features.append((feature, walk.shown(node, bias, [gate.units], role=feature)))
    return gate, unit


def _open(walk: Walk, kind: str, name: str, gate: GroupDraft, state: GroupDraft) -> None:
    """Each gate's unit acts on the state's unit of the same place."""
    pairs = tuple((child, state.units[0]) for child in (gate.units[0].children() if len(GATES[kind]) > 1 else gate.units))
    walk.add_block(BlockDraft(f"{name}.state", kind, state, gate.units, {gate: "gates"}, pairs))


def _joined(states: list[Value], before: Value) -> Value:
    """Both directions side by side."""
    if len(states) == 1:
        return states[0]
    texts = {draft: text for state in states for draft, text in state.texts.items()}
    return Value((*before.axes[:-1], (ax.join([ax.as_factor(state.axes[-1]) for state in states]),)), texts)
