"""Values of networks that stay in their file until they are asked for, behind the face of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ngbench.errors import GraphError
from ngbench.graph import Topology, symmetry

if TYPE_CHECKING:
    from ngbench.store import Zoo

Reader = Callable[[np.ndarray], Tensor]
"""From positions, int64 ``[graphs]``, to the value rows there, float32 ``[graphs, values]``."""

_aten = torch.ops.aten


class StoredValues(Tensor):
    """Value rows of networks, float32 ``[graphs, values]``, of which only those that are asked for are read.

    To index the first axis, as ``values[rows]``, reads these rows, and ``values.to(device)`` reads nothing. Everything else
    that a tensor can do reads all, and so needs the memory for them. Nothing is kept: what is asked for again is read again.

    Args:
        read: Reads rows; picklable.
        shape: Numbers of networks and of values.
        device: Where rows go that were read.

    Raises:
        GraphError: It is to be changed in place.
    """

    read: Reader

    @staticmethod
    def __new__(  # noqa: D102 - the class is documented
        cls: type[StoredValues], read: Reader, shape: tuple[int, int], device: torch.device | str = "cpu"
    ) -> StoredValues:
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=torch.device(device))
        made.read = read
        return made

    def rows(self, positions: np.ndarray) -> Tensor:
        """Some rows, int64 ``[graphs]``, counted from the end where they are negative; ``[graphs, values]`` on the device."""
        return self.read(np.arange(len(self))[positions]).to(self.device)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """All rows as an array, read now."""
        return self.rows(np.arange(len(self))).numpy(force=force)

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, first = kwargs or {}, args[0]
        if func._schema.is_mutable:
            raise GraphError(
                f"the values of {len(first)} networks stay in their file and cannot be changed in place by {func}; "
                "expected an operation that gives new values, or rows of them"
            )
        if isinstance(first, cls):
            if func is _aten.detach.default:
                return first
            if (
                func is _aten._to_copy.default
                and kwargs.get("dtype") in (None, torch.float32)
                and kwargs.get("device") is not None
            ):
                return cls(first.read, (first.shape[0], first.shape[1]), kwargs["device"])
            positions = _rows_asked(func, args)
            if positions is not None:
                found = first.rows(np.atleast_1d(positions))
                return found if np.ndim(positions) else found[0]
        args, kwargs = tree_map_only(cls, lambda values: values.rows(np.arange(len(values))), (args, kwargs))
        return func(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return StoredValues, (self.read, tuple(self.shape), str(self.device))

    def __deepcopy__(self, memo: Any) -> StoredValues:
        return self

    def __repr__(self, **_: Any) -> str:
        return f"StoredValues({tuple(self.shape)}, device={str(self.device)!r})"


def _rows_asked(func: Any, args: tuple[Any, ...]) -> np.ndarray | None:
    """The rows that an operation on stored values asks for, without an axis where it is one; None where it asks for more."""
    values, rest = args[0], args[1:]
    if func is _aten.index.Tensor and len(rest[0]) == 1 and rest[0][0].ndim == 1:
        return rest[0][0].cpu().numpy()
    if func is _aten.index_select.default and rest[0] == 0:
        return rest[1].cpu().numpy()
    if func is _aten.select.int and rest[0] == 0:
        return np.asarray(rest[1])
    if func is _aten.slice.Tensor and (not rest or rest[0] == 0):
        return np.arange(len(values))[slice(*rest[1:])]
    return None


@dataclass(frozen=True)
class ZooRows:
    """Reads the values of some rows of a zoo.

    Args:
        zoo: An open zoo.
        chosen: Its rows, of one structure, int64 ``[graphs]``.
    """

    zoo: Zoo
    chosen: np.ndarray

    def __call__(self, positions: np.ndarray) -> Tensor:
        """See `Reader`."""
        return torch.from_numpy(self.zoo.values(self.chosen[positions]))


@dataclass(frozen=True)
class ScrambledRows:
    """Reads networks and replaces them by random equivalent ones.

    Args:
        read: Reads the networks.
        topology: Their topology.
        seeds: Which equivalent ones, uint64 ``[graphs]``; see `symmetry.SymmetryGroup.scramble`.
    """

    read: Reader
    topology: Topology
    seeds: np.ndarray

    def __call__(self, positions: np.ndarray) -> Tensor:
        """See `Reader`."""
        return symmetry.group(self.topology).scramble(self.read(positions), self.seeds[positions])
