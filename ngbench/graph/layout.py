"""Between a state dict and the canonical slots of a topology, for one network or for many stacked along leading axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph.topology import ParameterView, Slot, Topology


def show(entry: Tensor, view: ParameterView, shape: tuple[int, ...], *, num_batch_axes: int = 0) -> Tensor:
    """What a view shows of a state-dict entry; no copy where the memory order allows it.

    Args:
        entry: ``[*batch, *parameter shape]``.
        view: Which part, in which axis order.
        shape: Canonical shape of the slot.
        num_batch_axes: Number of leading axes to keep.

    Returns:
        ``[*batch, *shape]``.
    """
    if not view.split:
        return entry.reshape(shape if num_batch_axes == 0 else (*entry.shape[:num_batch_axes], *shape))
    part = _part(entry, view, num_batch_axes)
    return part.reshape(*entry.shape[:num_batch_axes], *shape)


def _part(entry: Tensor, view: ParameterView, num_batch_axes: int) -> Tensor:
    """The sliced and reordered entry, with one axis for each of `view.split`; always a view."""
    part = (
        entry.view(*entry.shape[:num_batch_axes], *view.split)
        if entry.is_contiguous()
        else entry.reshape(*entry.shape[:num_batch_axes], *view.split)
    )
    for axis, (start, stop) in enumerate(view.bounds):
        part = part.narrow(num_batch_axes + axis, start, stop - start)
    if view.inner:
        part = part.view(*part.shape[:num_batch_axes], *view.inner)
    if view.order:
        part = part.permute(*range(num_batch_axes), *(num_batch_axes + axis for axis in view.order))
    return part


def slots_of(topology: Topology, entries: Mapping[str, Tensor], *, num_batch_axes: int = 0) -> tuple[Tensor, ...]:
    """The slot values ``[*batch, *slot shape]`` of stacked or single state-dict entries.

    Raises:
        GraphError: The entries are not those of the topology, by name or shape.
    """
    for path, shape in topology.parameters:
        if path not in entries:
            raise GraphError(f"state dict lacks {path!r}; expected {', '.join(p for p, _ in topology.parameters)}")
        got = tuple(entries[path].shape[num_batch_axes:])
        if got != shape:
            raise GraphError(f"state-dict entry {path!r} has shape {got}; expected {shape}")
    if len(entries) != len(topology.parameters):
        extra = sorted(set(entries) - {path for path, _ in (*topology.parameters, *topology.tied)} - set(topology.buffers))
        if extra:
            raise GraphError(f"state dict has entries {', '.join(map(repr, extra))} that the topology lacks; expected none")
    return tuple(show(entries[s.parameter.path], s.parameter, s.shape, num_batch_axes=num_batch_axes) for s in topology.slots)


def entries_of(topology: Topology, slot_values: Sequence[Tensor], *, num_batch_axes: int = 0) -> dict[str, Tensor]:
    """The state-dict entries ``[*batch, *parameter shape]`` of slot values: the inverse of `slots_of`, bit for bit.

    An entry that one slot shows whole is a view of that slot; one that is spread over several slots is assembled.
    """
    by_path: dict[str, list[tuple[Slot, Tensor]]] = {}
    for slot, values in zip(topology.slots, slot_values, strict=True):
        by_path.setdefault(slot.parameter.path, []).append((slot, values))
    entries = {}
    for path, shape in topology.parameters:
        parts = by_path[path]
        batch = parts[0][1].shape[:num_batch_axes]
        slot, values = parts[0]
        if len(parts) == 1 and not slot.parameter.bounds:
            entries[path] = _hide(values, slot.parameter, num_batch_axes).reshape((*batch, *shape))
            continue
        entry = values.new_empty(*batch, *shape)
        for slot, values in parts:
            part = _part(entry, slot.parameter, num_batch_axes)
            part.copy_(values.reshape(part.shape))
        entries[path] = entry
    return entries | {path: entries[owner] for path, owner in topology.tied}


def in_order(topology: Topology, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State-dict entries in the order of the module's state dict."""
    return {path: entries[path] for path in topology.order or entries if path in entries}


def _hide(values: Tensor, view: ParameterView, num_batch_axes: int) -> Tensor:
    """Slot values back in the axis order of `view.split`, for a view that cuts nothing."""
    if not view.order:
        return values
    ordered = values.reshape(*values.shape[:num_batch_axes], *(view.split[axis] for axis in view.order))
    inverse = [num_batch_axes + view.order.index(axis) for axis in range(len(view.order))]
    return ordered.permute(*range(num_batch_axes), *inverse)


def pack(topology: Topology, entries: Mapping[str, Tensor]) -> Tensor:
    """Canonical value rows ``[networks, values]`` of state-dict entries stacked along a first axis ``[networks, ...]``.

    Raises:
        GraphError: The entries are not those of the topology, by name or shape.
    """
    return torch.cat([values.flatten(1) for values in slots_of(topology, entries, num_batch_axes=1)], dim=1)


def split_rows(topology: Topology, rows: Tensor) -> tuple[Tensor, ...]:
    """The slot values ``[*batch, *slot shape]`` of value rows ``[*batch, values]``, without a copy.

    Raises:
        GraphError: The rows have another length.
    """
    if rows.shape[-1] != topology.num_values:
        raise GraphError(f"value rows have {rows.shape[-1]} values; expected {topology.num_values} for this topology")
    return tuple(rows[..., slot.start : slot.stop].unflatten(-1, slot.shape) for slot in topology.slots)


def unpack(topology: Topology, rows: Tensor) -> dict[str, Tensor]:
    """State-dict entries stacked along a first axis, of canonical value rows ``[networks, values]``: the inverse of `pack`.

    Raises:
        GraphError: The rows have another length.
    """
    return entries_of(topology, split_rows(topology, rows), num_batch_axes=1)
