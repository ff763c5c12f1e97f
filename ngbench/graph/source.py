"""Where a module comes from: a factory named by ``package.module:factory``, or an exported program in a ``.pt2`` file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ngbench.errors import SourceError
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.program import Program
from ngbench.graph.program_file import load_program
from ngbench.graph.trace import trace, trace_program

INPUT_FORM = "1x3x32x32, 1x7:int for token ids, or mask=1x7:bool for an input that is passed by name"

_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<kind>float|int|bool))?")


def load_graph(path: str, *, inputs: Sequence[str] = ()) -> NeuralGraph:
    """The neural graph of a module that is named by a text.

    Args:
        path: ``package.module:factory``, where the factory is a module, a module class, or a function that gives a module
            or ``(module, example_input)``, all without required arguments; or the path of a ``.pt2`` file.
        inputs: Example inputs as text (`example_input`), in the order of the forward pass; they replace those of a factory.

    Raises:
        SourceError: There is no such module or file, or it cannot be made, or it has no example input.
        UnsupportedLayerError: The module has an operation that a graph cannot express.
    """
    if path.endswith(".pt2"):
        if inputs:
            raise SourceError(f"{path} holds its own example inputs; got {', '.join(inputs)} beside it; expected no --input")
        return trace_program(load_program(Path(path)))
    return load_source(path, inputs=inputs).graph()


@dataclass(frozen=True)
class Source:
    """A module with example inputs.

    Args:
        module: As its factory made it.
        inputs: By position.
        named: By name.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    named: Mapping[str, Tensor]

    def graph(self) -> NeuralGraph:
        """Its neural graph.

        Raises:
            UnsupportedLayerError: The module has an operation that a graph cannot express.
        """
        return trace(self.module, self.inputs, self.named)

    def program(self) -> Program:
        """What runs networks of its topology.

        Raises:
            UnsupportedLayerError: As of `graph`, or an input holds no real numbers.
        """
        return Program.of(self.module, self.inputs, self.named)


def load_source(path: str, *, inputs: Sequence[str] = ()) -> Source:
    """The module of ``package.module:factory`` with example inputs; arguments and errors as of `load_graph`."""
    found = _import(path)
    made, example = _made(path, found)
    if inputs:
        named = [example_input(text) for text in inputs]
        return Source(made, tuple(t for name, t in named if not name), {name: t for name, t in named if name})
    if example is None:
        raise SourceError(
            f"{path} gives {type(made).__name__} and no example input; expected --input with the shape of each input "
            f"({INPUT_FORM}), or a factory that gives (module, example_input)"
        )
    if isinstance(example, Mapping):
        return Source(made, (), dict(example))
    return Source(made, tuple(example) if isinstance(example, (list, tuple)) else (example,), {})


def example_input(text: str) -> tuple[str, Tensor]:
    """An example input from its shape: ``"2x3:int"`` is a matrix of zeros, ``"1x3x8x8"`` seeded noise.

    Returns:
        The name by which it is passed, empty where it goes by position, and the tensor.

    Raises:
        SourceError: The text has another form.
    """
    match = _INPUT.fullmatch(text)
    if match is None:
        raise SourceError(f"input {text!r} is no shape; expected one such as {INPUT_FORM}")
    shape = [int(size) for size in match["shape"].split("x")]
    if match["kind"] == "int":
        return match["name"] or "", torch.zeros(shape, dtype=torch.int64)
    if match["kind"] == "bool":
        return match["name"] or "", torch.ones(shape, dtype=torch.bool)
    return match["name"] or "", torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _import(path: str) -> Any:
    """What stands at ``package.module:attribute``; the current folder comes first, as for ``python -m``."""
    module_name, colon, attribute = path.partition(":")
    if not (colon and module_name and attribute):
        raise SourceError(f"{path!r} names no module; expected package.module:factory, or the path of a .pt2 file")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path!r} does not load: {error}; expected an importable module (is it installed, or in the current folder?)"
        ) from error
    # The user's own file runs here, and may raise anything.
    except Exception as error:
        raise SourceError(
            f"{path!r} does not load: importing {module_name!r} raised {_first_line(error)}; mend the file"
        ) from error
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) or isinstance(value, nn.Module)]
        close = difflib.get_close_matches(attribute, public, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "expected the name of a factory or module in it"
        raise SourceError(f"module {module_name!r} has no attribute {attribute!r}; {hint}")
    return getattr(module, attribute)


def _made(path: str, found: Any) -> tuple[nn.Module, Any]:
    """A module and its example input, None where there is none."""
    if isinstance(found, nn.Module):
        return found, None
    if not callable(found):
        raise SourceError(
            f"{path!r} is a {type(found).__name__}; expected a module, a module class, or a function that gives one"
        )
    required = _required(found)
    if required:
        raise SourceError(
            f"{path!r} needs {', '.join(map(repr, required))}; expected a factory without required arguments: "
            "write a function that calls it with them"
        )
    try:
        made: Any = found()
    # The user's own code runs here, and may raise anything.
    except Exception as error:
        raise SourceError(f"{path!r} raised {_first_line(error)}; expected a factory that gives a module") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise SourceError(f"{path!r} gave {type(module).__name__}; expected a torch module, or (module, example_input)")
    _check_example(path, example)
    return module, example


def _check_example(path: str, example: Any) -> None:
    parts = example.values() if isinstance(example, Mapping) else example if isinstance(example, (tuple, list)) else (example,)
    strange = [type(part).__name__ for part in parts if part is not None and not isinstance(part, Tensor)]
    if strange:
        raise SourceError(
            f"{path!r} gave {strange[0]} in its example input; expected a tensor, several in a tuple, or tensors by name"
        )


def _required(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        # Some built-in callables have no signature; calling it tells.
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in open_ended]


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
