"""Models of the papers by name: a method, its settings, the case, and how fast their authors' code is."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

FILE = "configurations.yaml"

DeviceKind = Literal["cuda", "cpu"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Speed(_Record):
    """How fast the authors' code is on one machine; networks per second, None where it was not measured.

    Attributes:
        train: Whole training steps.
        infer: Without gradients.
        peak_gib: Most memory of a training step.
        train_mended: Training with one fault of the code mended.
        train_tuned: Training, malloc kept from returning memory.
        infer_tuned: Without gradients, likewise.
        train_mended_tuned: Mended and tuned.
    """

    train: PositiveFloat | None = None
    infer: PositiveFloat | None = None
    peak_gib: PositiveFloat | None = None
    train_mended: PositiveFloat | None = None
    train_tuned: PositiveFloat | None = None
    infer_tuned: PositiveFloat | None = None
    train_mended_tuned: PositiveFloat | None = None


class Reference(_Record):
    """The authors' code in one configuration.

    Attributes:
        num_parameters: Learned numbers.
        cuda: Its speed on a GPU.
        cpu: Its speed on a CPU.
    """

    num_parameters: PositiveInt
    cuda: Speed = Speed()
    cpu: Speed = Speed()


class Configuration(_Record):
    """A method with the settings of a model that was published.

    Attributes:
        name: As it is typed.
        what: The model, in one line.
        case: Name of the case that it is timed on.
        method: Name of the method.
        settings: Its settings, as text.
        heavy: Whether it is timed only when it is asked for.
        growth_s: Widths of MLPs at which its growth is measured, and the authors' seconds for a network and training step there,
            on a CPU; None where they were not measured.
        reference: The authors' code.
    """

    name: str
    what: str
    case: str
    method: str
    settings: dict[str, str]
    heavy: bool = False
    growth_s: dict[PositiveInt, PositiveFloat | None] = Field(default_factory=dict)
    reference: Reference


class ReferenceCode(_Record):
    """Where the figures of the authors' code are from.

    Attributes:
        source: Repository and commit.
        machines: On what it ran, by kind of device.
    """

    source: str
    machines: dict[DeviceKind, str]


class _Table(BaseModel):
    # further keys are settings that several configurations share by YAML's anchors
    model_config = ConfigDict(frozen=True, extra="ignore")

    reference: ReferenceCode
    configurations: tuple[Configuration, ...]


def device_kind(device: str) -> DeviceKind:
    """The kind of a torch device."""
    return "cuda" if device.startswith("cuda") else "cpu"


def reference_code() -> ReferenceCode:
    """Where the figures are from."""
    return _table().reference


def configurations() -> dict[str, Configuration]:
    """All configurations by name, in the order of the file."""
    return {configuration.name: configuration for configuration in _table().configurations}


@cache
def _table() -> _Table:
    return _Table.model_validate(
        yaml.safe_load(resources.files("ngbench.evaluation.speed").joinpath(FILE).read_text(encoding="utf-8"))
    )
