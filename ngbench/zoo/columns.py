"""What each metadata column of a zoo means: its role, type, and the values that it can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from ngbench.zoo.architectures import ACTIVATIONS, FAMILIES, MIXED, NORMS
from ngbench.zoo.initializers import INITIALIZERS
from ngbench.zoo.optimizers import OPTIMIZERS, SCHEDULES

Role = Literal["identity", "hyperparameter", "measurement"]


@dataclass(frozen=True)
class Column:
    """One metadata column.

    Args:
        name: Its name in the metadata.
        role: ``hyperparameter``: chosen before training, so that a baseline without weights may see it; ``measurement``:
            taken from the trained network; ``identity``: which network it is.
        dtype: ``"str"``, ``"int"`` or ``"float"``.
        description: One line, with the unit where there is one.
        choices: The names it can hold; empty if it holds numbers.
        low: Least number it can hold, inclusive.
        high: Greatest number it can hold, inclusive.
    """

    name: str
    role: Role
    dtype: Literal["str", "int", "float"]
    description: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def allows(self, value: Any) -> bool:
        """Whether the value has the column's type and lies in its range."""
        if self.dtype == "str":
            return isinstance(value, str) and (not self.choices or value in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.dtype == "int" else int | float):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def domain(self) -> str:
        """The allowed values in words, for error texts."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = "-inf" if self.low is None else f"{self.low:g}", "inf" if self.high is None else f"{self.high:g}"
        return f"{self.dtype} in [{low}, {high}]" if self.dtype != "str" else "str"


_COLUMNS = (
    Column("run_id", "identity", "str", "name of the training run, unique in the zoo"),
    Column("run_index", "identity", "int", "number of the run in its recipe, from 0", low=0),
    Column("seed", "identity", "int", "seed of the run's own initial weights, training images, batch order and dropout", low=0),
    Column("activation", "hyperparameter", "str", "nonlinearity after each convolution", choices=(*ACTIVATIONS, MIXED)),
    Column("initializer", "hyperparameter", "str", "distribution of the initial weights", choices=tuple(INITIALIZERS)),
    Column("init_scale", "hyperparameter", "float", "factor on the initial weights", low=1e-6, high=1e6),
    Column("optimizer", "hyperparameter", "str", "update rule", choices=tuple(OPTIMIZERS)),
    Column("learning_rate", "hyperparameter", "float", "learning rate at the first step", low=1e-12, high=1e6),
    Column("schedule", "hyperparameter", "str", "how the learning rate goes on", choices=tuple(SCHEDULES)),
    Column("weight_decay", "hyperparameter", "float", "factor of the weights in the update, biases included", low=0, high=1e3),
    Column("dropout", "hyperparameter", "float", "share of activations dropped after each convolution", low=0, high=0.95),
    Column("batch_size", "hyperparameter", "int", "images a step", low=1, high=65536),
    Column("epochs", "hyperparameter", "int", "passes over the run's own training images", low=1, high=100_000),
    Column("train_share", "hyperparameter", "float", "share of the training images that the run sees", low=1e-6, high=1),
    Column("train_accuracy", "measurement", "float", "fraction right on the run's own training images", low=0, high=1),
    Column("val_accuracy", "measurement", "float", "fraction right on the validation images", low=0, high=1),
    Column("test_accuracy", "measurement", "float", "fraction right on the test images", low=0, high=1),
    Column("train_loss", "measurement", "float", "mean cross-entropy in nats on the run's own training images", low=0),
    Column("val_loss", "measurement", "float", "mean cross-entropy in nats on the validation images", low=0),
    Column("test_loss", "measurement", "float", "mean cross-entropy in nats on the test images", low=0),
)
_EPOCH = Column(
    "epoch", "hyperparameter", "int", "passes over the run's own training images when its network was taken; 0: untrained", low=0
)
_DESIGN_COLUMNS = (
    Column("family", "hyperparameter", "str", "family of architectures", choices=FAMILIES),
    Column("corpus", "hyperparameter", "str", "images and labels that it was trained on, and is measured on"),
    Column("width", "hyperparameter", "int", "units, channels or token width of the widest hidden layer", low=1),
    Column("depth", "hyperparameter", "int", "hidden linear layers, convolutions, residual or transformer blocks", low=1),
    Column("kernel_size", "hyperparameter", "int", "height and width of kernels or patches; 0 where there are none", low=0),
    Column("norm", "hyperparameter", "str", "norm of the hidden layers", choices=NORMS),
    Column("num_classes", "hyperparameter", "int", "outputs", low=1),
    Column("num_parameters", "hyperparameter", "int", "trained numbers, running statistics not counted", low=1),
)
_INR_COLUMNS = (
    Column("run_id", "identity", "str", "name of the fit, unique in the zoo"),
    Column("run_index", "identity", "int", "number of the fit in its recipe, from 0", low=0),
    Column("seed", "identity", "int", "seed of the fit; decides its initial weights where they are its own", low=0),
    Column(
        "image_index", "identity", "int", "position in the corpus of the image that it was fitted to; decides the split", low=0
    ),
    Column("fit_index", "identity", "int", "number of the fit among those of its image, from 0", low=0),
    Column("label", "identity", "int", "class of the image in its corpus", low=0),
    Column("optimizer", "hyperparameter", "str", "update rule", choices=tuple(OPTIMIZERS)),
    Column("learning_rate", "hyperparameter", "float", "learning rate at the first step", low=1e-12, high=1e6),
    Column("schedule", "hyperparameter", "str", "how the learning rate goes on", choices=tuple(SCHEDULES)),
    Column("weight_decay", "hyperparameter", "float", "factor of the weights in the update, biases included", low=0, high=1e3),
    Column("num_steps", "hyperparameter", "int", "optimisation steps, each on all pixels", low=1, high=10_000_000),
    Column("psnr", "measurement", "float", "peak signal-to-noise ratio in dB on the image's pixels, whose range is 1"),
    Column("loss", "measurement", "float", "mean squared error on the image's pixels", low=0),
)
# of other zoos the texts say more; digits-cnn v1 holds the texts above
_REWORDED = {
    "activation": "nonlinearity of the hidden layers",
    "dropout": "share of activations dropped: after each hidden layer of MLPs and CNNs, before the head of others",
}
COLUMNS: Mapping[str, Column] = MappingProxyType({column.name: column for column in _COLUMNS})
"""The columns of every generated zoo of classifiers."""
DESIGN_COLUMNS: Mapping[str, Column] = MappingProxyType({column.name: column for column in _DESIGN_COLUMNS})
"""The further columns of a zoo of classifiers that differ in architecture or corpus."""
INR_COLUMNS: Mapping[str, Column] = MappingProxyType({column.name: column for column in _INR_COLUMNS})
"""The columns of every generated zoo of implicit neural representations."""


def columns_of(role: Role) -> tuple[str, ...]:
    """Names of the columns of every generated zoo of classifiers that have a role, in their order."""
    return tuple(column.name for column in _COLUMNS if column.role == role)


def zoo_columns(*, has_design: bool, is_cnn: bool, has_checkpoints: bool = False) -> tuple[Column, ...]:
    """All columns of a generated zoo of classifiers, in their order.

    Args:
        has_design: Whether those of `DESIGN_COLUMNS` are among them.
        is_cnn: Whether all networks are convolutional, which the texts say then.
        has_checkpoints: Whether networks are taken from their runs at several epochs, which a column tells.
    """
    if has_checkpoints:
        without = zoo_columns(has_design=has_design, is_cnn=is_cnn)
        first = next(place for place, column in enumerate(without) if column.role == "measurement")
        return (*without[:first], _EPOCH, *without[first:])
    if not has_design and is_cnn:
        return _COLUMNS
    reworded = [replace(c, description=_REWORDED.get(c.name, c.description)) for c in _COLUMNS]
    identity = [column for column in reworded if column.role == "identity"]
    return (*identity, *(_DESIGN_COLUMNS if has_design else ()), *(column for column in reworded if column.role != "identity"))
