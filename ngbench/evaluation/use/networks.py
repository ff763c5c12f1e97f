"""People's own networks: a module that is named by a text, and files of weights for it."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ngbench.errors import GraphError, WeightsError
from ngbench.graph import NeuralGraph, Program, Topology
from ngbench.graph.source import Source, load_graph, load_source
from ngbench.loading import GraphDataset

INNER = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep a state dict beside other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before each name."""


@dataclass
class OwnModule:
    """A module that is named by a text; see `ngbench.graph.source`.

    Args:
        path: ``package.module:factory`` or the path of a ``.pt2`` file.
        inputs: Example inputs as text.
    """

    path: str
    inputs: Sequence[str] = field(default=())

    @cached_property
    def source(self) -> Source | None:
        """The module with its example inputs; None for a ``.pt2`` file, whose graph alone is read."""
        return None if self.path.endswith(".pt2") else load_source(self.path, inputs=self.inputs)

    @cached_property
    def graph(self) -> NeuralGraph:
        """The module as it was made.

        Raises:
            SourceError: There is no such module, or it cannot be made.
            UnsupportedLayerError: It has an operation that a graph cannot express.
        """
        return load_graph(self.path, inputs=self.inputs) if self.source is None else self.source.graph()

    @cached_property
    def program(self) -> Program:
        """What runs networks of the module's topology.

        Raises:
            GraphError: The module is a ``.pt2`` file.
        """
        if self.source is None:
            raise GraphError(f"networks of {self.path} cannot be run on inputs; expected package.module:factory in its place")
        return self.source.program()

    def __call__(self, topology: Topology) -> Program:
        """The program, as of `ngbench.loading.Programs`; the topology may have other names."""
        return self.program

    def network(self, path: Path | None) -> NeuralGraph:
        """The module with the weights of a file, or with its own.

        Raises:
            WeightsError: The file cannot be read, does not fit, or has weights that are not finite.
        """
        if path is None:
            return _finite(self.graph, self.path)
        entries = read_state_dict(path)
        try:
            return _finite(NeuralGraph.from_state_dict(self.graph.topology, entries), str(path))
        except GraphError as error:
            raise WeightsError(f"weights in {path} do not fit {self.path}: {error}") from error

    def dataset(self, graphs: Sequence[NeuralGraph], names: Sequence[str]) -> GraphDataset:
        """Networks of the module, in float32, as methods read them."""
        single = [NeuralGraph.from_row(graph.topology, graph.row().float()) for graph in graphs]
        return GraphDataset.from_graphs(single, ids=names, programs=self)


def _finite(graph: NeuralGraph, where: str) -> NeuralGraph:
    for slot, values in zip(graph.topology.slots, graph.slot_values, strict=True):
        bad = int((~values.isfinite()).sum())
        if bad:
            raise WeightsError(
                f"parameter {slot.parameter.path!r} of {where} has {bad} of {values.numel()} values that are not finite; "
                "expected numbers"
            )
    return graph


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of one that `torch.save` wrote; nothing but tensors is unpickled.

    A checkpoint that has its state dict under one of `INNER` is read there, and one of `PREFIXES` before every name is left out.

    Raises:
        WeightsError: There is no such file, it cannot be read, or holds something other than tensors by name.
    """
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    if isinstance(content, Mapping):
        inner = next((content[key] for key in INNER if isinstance(content.get(key), Mapping)), None)
        content = inner if inner is not None else content
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict: tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise WeightsError(
                f"{path} holds a {type(value).__name__} under {name!r}; expected a state dict: plain tensors by name"
            )
    entries = dict(content)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in entries):
            entries = {name.removeprefix(prefix): value for name, value in entries.items()}
    return entries


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot read weights from {path} ({error.strerror}); expected a file of a state dict") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is no safetensors file ({error}); expected one") from error


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read weights from {path} ({error.strerror}); expected a file of a state dict") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, which ngbench does not unpickle; "
            "expected a state dict: torch.save(module.state_dict(), file)"
        ) from error
    # what torch raises for files of other formats and damaged ones
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        said = "" if isinstance(error, LookupError) else str(error)
        reason = next((line for line in said.splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(f"{path} is not read by torch ({reason}); expected a state dict that torch.save wrote") from error


def write_state_dict(entries: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors by name, whole or not at all: as safetensors where the name ends so, else as `torch.save` does.

    Raises:
        WeightsError: The name has another ending, or its folder does not exist.
    """
    check_ending(path)
    # tied entries share memory, which safetensors does not keep
    own = {name: values.detach().cpu().clone(memory_format=torch.contiguous_format) for name, values in entries.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        content = save(own)
    else:
        memory = io.BytesIO()
        torch.save(own, memory)
        content = memory.getvalue()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_ending(path: Path) -> None:
    """Whether a file of weights can have a name.

    Raises:
        WeightsError: It cannot.
    """
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise WeightsError(f"weights cannot be written to {path}; expected a name that ends in .pt, .pth or .safetensors")
    if not path.parent.is_dir():
        raise WeightsError(f"weights cannot be written to {path}; expected a folder that exists, got {path.parent}")
