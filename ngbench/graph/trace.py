"""From a torch module to its neural graph: its exported operations are walked once, and each adds its groups and blocks."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import layers
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.walk import Walk


def trace(
    module: nn.Module, example_input: Tensor | tuple[Tensor, ...] = (), example_kwargs: Mapping[str, Tensor] | None = None
) -> NeuralGraph:
    """The neural graph of a module; its values are views of the module's parameters.

    The module is walked in evaluation mode through `torch.export` and left as it was. An input of more than one axis
    has the batch first; the units of an input are the axis that the first layer reads.

    Args:
        module: Any module made of supported operations (`ngbench.graph.layers.supported`).
        example_input: One input of the right shape, or a tuple of all inputs.
        example_kwargs: Inputs that are passed by name.

    Raises:
        UnsupportedLayerError: The module does not run, an operation cannot be expressed, or a parameter does not reach the
            output; the text names the path of the module or parameter.
    """
    return walk_module(module, example_input, example_kwargs)[1]


def walk_module(
    module: nn.Module, example_input: Tensor | tuple[Tensor, ...] = (), example_kwargs: Mapping[str, Tensor] | None = None
) -> tuple[Walk, NeuralGraph]:
    """The graph of a module as of `trace`, with the walk that found it."""
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    _check_parameters(module)
    program = export(module, inputs, dict(example_kwargs or {}))
    entries = {path: entry.detach() for path, entry in module.state_dict(keep_vars=True).items()}
    trained = {path for path, _ in module.named_parameters(remove_duplicate=False)}
    walk = _walked(program)
    return walk, walk.graph(entries, trained)


def trace_program(program: torch.export.ExportedProgram) -> NeuralGraph:
    """The neural graph of a module that was exported before; its values are views of the program's parameters.

    Raises:
        UnsupportedLayerError: As of `trace`.
    """
    trained = program.graph_signature.parameters
    # A program has all parameters and then all buffers; a module has its own side by side.
    places: dict[str, int] = {}
    for path in trained:
        places.setdefault(path.rpartition(".")[0], len(places))
    paths = sorted(program.state_dict, key=lambda path: places.get(path.rpartition(".")[0], len(places)))
    return _walked(program).graph({path: program.state_dict[path].detach() for path in paths}, set(trained))


def _walked(program: torch.export.ExportedProgram) -> Walk:
    _simplify(program.graph)
    if any(_writes_to_others(node) for node in program.graph.nodes):
        with _quiet():
            program = program.run_decompositions({})
        _simplify(program.graph)
    walk = Walk.of(program)
    for node in program.graph.nodes:
        if node.op == "call_function":
            walk.values[node] = layers.apply(walk, node)
        elif node.op == "output":
            # A program exported in training mode also gives back the buffers that it wrote to.
            results = [value for value in node.args[0] if isinstance(value, fx.Node)]
            walk.finish([value for value in results if value.name in program.graph_signature.user_outputs])
    return walk


def _check_parameters(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}: make an instance of it" if isinstance(module, type) else f"a {type(module).__name__}"
        raise UnsupportedLayerError(f"expected a torch.nn.Module to trace, got {got}")
    for path, entry in module.state_dict(keep_vars=True).items():
        if torch.nn.parameter.is_lazy(entry):
            raise UnsupportedLayerError(
                f"parameter {path!r} has no shape yet; run the module once on an example input, then trace it"
            )
        if entry.is_complex():
            raise UnsupportedLayerError(f"parameter {path!r} holds complex numbers ({entry.dtype}); expected real ones")


def _simplify(graph: fx.Graph) -> None:
    """Takes out assertions on types and operations that nothing reads; of the latter only in-place ones remain."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _writes_to_others(node: fx.Node) -> bool:
    """Whether an operation changes memory that others read under another name."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable or not isinstance(node.args[0], fx.Node):
        return False
    if "dropout" in schema.name:
        return False
    before = node.args[0]
    returns = getattr(getattr(before.target, "_schema", None), "returns", [])
    is_view = before.op != "call_function" or any(
        result.alias_info is not None and not result.alias_info.is_write for result in returns
    )
    return is_view or not node.users or len(before.users) > 1


def export(module: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """The module's operations in evaluation mode; its mode is set back.

    Raises:
        UnsupportedLayerError: It does not run, or decides by the values of tensors.
    """
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module, inputs, kwargs, strict=False)
    # The module's own forward pass runs here, and may raise any of these by itself.
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (*inputs, *kwargs.values()) if isinstance(tensor, Tensor))
        raise UnsupportedLayerError(
            f"{type(module).__name__} does not run under torch.export with inputs of shape {shapes} ({reason.strip()}); "
            "expected a forward pass without data-dependent control flow, and an example input that it accepts"
        ) from error
    finally:
        for child, training in modes.items():
            child.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing a program that it cannot export, and from warning of what concerns only itself."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        # torch writes the program that it could not finish to standard error.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"The tensor attributes? self\.", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
            yield
    finally:
        logging.disable(before)
