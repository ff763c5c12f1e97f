"""Where there is no GPU, Triton interprets its programs; it must know before it is imported."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these tests take the kernels on a CPU."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "1")


@pytest.fixture(autouse=True)
def mended_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 makes an integer of an array of one number, which numpy 2.4 refuses, and multiplies the bits of bfloat16."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    language = pytest.importorskip("triton.language")
    patch_tensor, multiply = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patch(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: scalar.handle.data.item())

    def in_float32(handle):
        if handle.dtype.scalar != language.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), language.float32)

    def create_dot(builder, left, right, *rest):
        return multiply(builder, in_float32(left), in_float32(right), *rest)

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nothing was written to holds no number."""

    def poison(make):
        def poisoned(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return poisoned

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture
def on_side_stream() -> Callable[[Callable[[], object]], object]:
    """Runs something on a stream of its own, as what is captured later must have run before, and gives its result."""

    def run(compute: Callable[[], object]) -> object:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = compute()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    return run
