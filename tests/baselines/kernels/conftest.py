"""What tests of the kernels share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(autouse=True)
def interpreted(interpreted_kernels: None) -> None:
    """Only these tests take the baselines' kernels on a CPU."""


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
