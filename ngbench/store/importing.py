"""From the files of a published zoo to a zoo file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ngbench.errors import ForeignZooError, GraphError
from ngbench.graph import Topology, trace
from ngbench.graph.layout import pack
from ngbench.progress import Progress, silent
from ngbench.store.published import Architecture, PublishedNetwork, PublishedZoo
from ngbench.store.published.archives import unpacked
from ngbench.store.reader import Zoo
from ngbench.store.reevaluation import Reevaluation, reevaluate
from ngbench.store.schema import ZooInfo
from ngbench.store.splits import NO_PART, PARTS
from ngbench.store.writer import ZooWriter

_AT_ONCE = 1024
_VALUES_AT_ONCE = 2**24
_NOT_FINITE = "network {} has values that are not finite"


def import_zoo(
    published: PublishedZoo,
    source: str | Path,
    out: str | Path,
    *,
    progress: Progress = silent,
    limit: int | None = None,
    prove: Callable[[Reevaluation], None] | None = None,
) -> Zoo:
    """Converts a published zoo to a zoo file.

    Each architecture is traced once. A network with values that are not finite is recorded as diverged. The file has the split
    `default` by run, and each reference split of which the files tell the parts.

    Args:
        published: What the files are; one of `PUBLISHED`.
        source: The folder or archive with its files.
        out: The zoo file to write.
        progress: Told the networks done, of a total that is not known before the end.
        limit: Take only the first networks, as many as this.
        prove: Told what some networks do on the images that they were tested on, where these are at hand (`reevaluate`); None not
            to run any.

    Raises:
        ForeignZooError: The files are missing, damaged, hostile or of another layout, the limit is below 1, or there is no
            network.
        UnsupportedLayerError: An architecture has no graph.
        StoreWriteError: The file cannot be written.
        ImagesError: The images cannot be read; the file stands then.
    """
    out = Path(out)
    if limit is not None and limit < 1:
        raise ForeignZooError(f"limit is {limit}; expected at least 1")
    with unpacked(Path(source), beside=out) as folder:
        architectures = convert(published, islice(published.read(folder), limit), out, source=source, progress=progress)
    zoo = Zoo(out)
    found = reevaluate(zoo, published, architectures) if prove is not None else None
    if prove is not None and found is not None:
        prove(found)
    return zoo


def convert(
    published: PublishedZoo,
    networks: Iterable[PublishedNetwork],
    out: Path,
    *,
    source: str | Path,
    progress: Progress = silent,
) -> list[Architecture]:
    """Writes networks of a published zoo to a zoo file; returns the architecture of each that it holds.

    Args:
        published: What they are.
        networks: They, read one at a time.
        out: The zoo file to write.
        source: Where they come from, for the text of an error.
        progress: Told the networks done.

    Raises:
        ForeignZooError: A network is not built as its architecture, or none is finite.
        UnsupportedLayerError: An architecture has no graph.
        StoreWriteError: The file cannot be written.
    """
    info = ZooInfo(published.name, published.version, published.title, published.licence, published.citation)
    with ZooWriter(out, info, columns=published.columns) as writer:
        converter = _Converter(published, writer)
        for alike in _stacks(networks):
            converter.append(alike)
            progress(converter.num_networks, 0, f"{len(converter.topologies)} architectures")
        if not converter.num_networks:
            raise ForeignZooError(f"{str(source)!r} holds no finite network of zoo {published.name!r}; expected at least one")
        converter.add_splits()
    return converter.architectures


def reason_left_out(network: PublishedNetwork) -> str | None:
    """Why a zoo file has no place for a network; None where it has."""
    with np.errstate(over="ignore"):
        finite = all(np.isfinite(values.astype(np.float32)).all() for values in network.parameters.values())
    return None if finite else _NOT_FINITE.format(network.id)


class _Converter:
    """Appends networks to a writer, and remembers their parts in the reference splits."""

    def __init__(self, published: PublishedZoo, writer: ZooWriter):
        self.published, self.writer = published, writer
        self.topologies: dict[Architecture, Topology] = {}
        self.parts: dict[str, list[int]] = {name: [] for name in published.references}
        self.architectures: list[Architecture] = []

    @property
    def num_networks(self) -> int:
        """How many are appended."""
        return len(self.architectures)

    def append(self, networks: Sequence[PublishedNetwork]) -> None:
        """Appends networks whose parameters have the same paths and shapes."""
        rows = self._rows(networks)
        finite = np.asarray(np.isfinite(rows).all(axis=1))
        lost = [network for network, kept in zip(networks, finite, strict=True) if not kept]
        self.writer.add_diverged((network.run_id, _NOT_FINITE.format(network.id)) for network in lost)
        networks = [network for network, kept in zip(networks, finite, strict=True) if kept]
        if not networks:
            return
        self.writer.append(
            [self.topologies[network.architecture] for network in networks],
            rows[finite],
            ids=[network.id for network in networks],
            run_ids=[network.run_id for network in networks],
            metadata={c.name: [network.metadata[c.name] for network in networks] for c in self.published.columns},
        )
        for name, parts in self.parts.items():
            parts += [PARTS.index(network.parts[name]) if name in network.parts else NO_PART for network in networks]
        self.architectures += [network.architecture for network in networks]

    def add_splits(self) -> None:
        """Adds each reference split that has a network."""
        for name, parts in self.parts.items():
            if any(part != NO_PART for part in parts):
                self.writer.add_split(name, np.array(parts, dtype=np.int8))

    def _rows(self, networks: Sequence[PublishedNetwork]) -> np.ndarray:
        """Canonical value rows ``[networks, values]`` of networks of one architecture."""
        first = networks[0]
        if first.architecture not in self.topologies:
            self._check_shapes(first)
            module = first.architecture.module().eval()
            self.topologies[first.architecture] = trace(module, first.architecture.example_input()).topology
        try:
            return pack(self.topologies[first.architecture], _stacked(networks)).numpy()
        except GraphError as error:
            raise self._not_built(first, error) from error

    def _check_shapes(self, network: PublishedNetwork) -> None:
        """Proves that a network has the parameters of its architecture, which a file may claim to be larger than the memory."""
        try:
            with torch.device("meta"):
                module = network.architecture.module()
        # what torch raises for sizes that no module has, and names that one has already
        except (RuntimeError, ValueError, TypeError, OverflowError, KeyError) as error:
            raise self._not_built(network, error) from error
        shapes = _shapes(network)
        for path, values in module.named_parameters():
            if shapes.get(path) != values.shape:
                got, expected = shapes.get(path, "none"), tuple(values.shape)
                raise self._not_built(network, f"state-dict entry {path!r} has shape {got}; expected {expected}")

    def _not_built(self, network: PublishedNetwork, reason: object) -> ForeignZooError:
        return ForeignZooError(
            f"network {network.id!r} of zoo {self.published.name!r} is not built as {network.architecture} ({reason}); "
            "fetch its files again"
        )


def _stacks(networks: Iterable[PublishedNetwork]) -> Iterator[list[PublishedNetwork]]:
    """Runs of networks of one architecture and one form of parameters, cut where they would take too much memory."""
    stack: list[PublishedNetwork] = []
    form, num_values = None, 0
    for network in networks:
        shapes = _shapes(network)
        if stack and ((network.architecture, shapes) != form or len(stack) >= _AT_ONCE or num_values >= _VALUES_AT_ONCE):
            yield stack
            stack, num_values = [], 0
        form = (network.architecture, shapes)
        num_values += sum(values.size for values in network.parameters.values())
        stack.append(network)
    if stack:
        yield stack


def _shapes(network: PublishedNetwork) -> dict[str, tuple[int, ...]]:
    for path, values in network.parameters.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            got = getattr(values, "dtype", type(values).__name__)
            raise ForeignZooError(f"network {network.id!r} holds {got} in {path!r}; expected real numbers")
    return {path: values.shape for path, values in network.parameters.items()}


def _stacked(networks: Sequence[PublishedNetwork]) -> dict[str, torch.Tensor]:
    """Arrays by path, float32 ``[networks, *shape]``; numbers beyond float32 become infinite."""
    paths = networks[0].parameters
    with np.errstate(over="ignore"):
        arrays = {path: np.stack([network.parameters[path] for network in networks]).astype(np.float32) for path in paths}
    return {path: torch.from_numpy(values) for path, values in arrays.items()}
