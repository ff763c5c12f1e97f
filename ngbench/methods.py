"""What a method must offer to be measured, and the registry in which methods stand."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ngbench.errors import ConfigError, MethodError, NotApplicableError, RegistrationError
from ngbench.loading import GraphDataset
from ngbench.metrics import METRICS
from ngbench.progress import Progress, silent
from ngbench.registry import Registry, load_object
from ngbench.tasks import TASKS, Kind, Task

Access = Literal["none", "hyperparameters", "weights", "probes", "truth"]


@dataclass(frozen=True)
class MethodInfo:
    """What the tables say of a method.

    Args:
        name: As it is typed.
        title: As it is printed.
        access: What the method reads of a network; methods of different access are never ranked together. ``"truth"``: what
            answers are scored by, as an anchor of the tables may.
        invariant: Whether it claims that its predictions do not change when hidden neurons are permuted.
        any_architecture: Whether it reads networks of several architectures at once.
        paper: Where the method comes from.
        kinds: Kinds of problem that it solves; empty for all whose `CALLS` it has.
        num_probes: Inputs that it runs each network on; 0 unless its access is ``"probes"``.
    """

    name: str
    title: str
    access: Access
    invariant: bool
    any_architecture: bool
    paper: str
    kinds: tuple[Kind, ...] = ()
    num_probes: int = 0

    @property
    def track(self) -> str:
        """What it is ranked among: its access, with the number of probes, as ``"probes-8"``."""
        return f"probes-{self.num_probes}" if self.access == "probes" else self.access


@dataclass(frozen=True)
class Budget:
    """How much training a method may do, the same for all.

    Args:
        max_epochs: Passes over the training networks.
        num_candidates: Configurations that a method without epochs may compare by the validation metric.
    """

    max_epochs: int
    num_candidates: int


@dataclass(frozen=True)
class Problem:
    """What a task asks of a method.

    Args:
        kind: ``"regression"``: one number a network, targets float64 ``[graphs]``. ``"classification"``: one of `classes`,
            targets int64 ``[graphs]``. ``"retrieval"``: embeddings in which networks of one class are near, targets as for
            classification. ``"merging"``: vectors of nodes by which the neurons of two networks are matched, no targets.
        metric: The function that selects, ``(predictions, targets) -> float``.
        higher_is_better: Direction of the metric.
        bounds: Least and largest possible target of a regression.
        classes: Names of the classes, for classification and retrieval.
    """

    kind: Kind
    metric: Any
    higher_is_better: bool
    bounds: tuple[float, float] = (0.0, 1.0)
    classes: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Numbers that a module gives for a network: one for each class, or one."""
        return len(self.classes) or 1

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON has it, its metric by name; a metric that is not one of `METRICS` is left out."""
        name = getattr(self.metric, "name", None)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "metric": name if name in METRICS else None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Problem:
        """The problem of `as_json`.

        Raises:
            ConfigError: A key is missing or unknown, or a value is of another type.
            UnknownNameError: There is no such metric.
        """
        try:
            problem = TypeAdapter(cls).validate_json(json.dumps(fields))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigError(f"problem has a wrong {'.'.join(map(str, first['loc']))!r}: {first['msg']}") from error
        return dataclasses.replace(problem, metric=None if problem.metric is None else METRICS[problem.metric])


@dataclass(frozen=True)
class RunContext:
    """Where and how one run of a method takes place.

    Args:
        seed: Seeds everything random.
        budget: Limit on training.
        device: Torch device name.
        checkpoint_path: Where a long fit may keep its state and find it again; None to keep none.
        progress: Called as the fit advances.
    """

    seed: int
    budget: Budget
    device: str = "cpu"
    checkpoint_path: Path | None = None
    progress: Progress = field(default=silent)


@runtime_checkable
class Method(Protocol):
    """A method: it is fitted once on the train split, may select on the val split, and then predicts.

    A class has a frozen dataclass `Config` and is built with one: ``MyMethod(MyMethod.Config(width=64))``. A mapping ``tuned``
    may name other settings for a task or zoo, as text: ``{"classification/digits-inr": {"width": "96"}}``. What a method
    cannot do it leaves out; the evaluator then reports it as not applicable.
    """

    info: MethodInfo

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Learns from the train split; `val` is for selection only."""
        ...

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64, in the order of `networks.ids`: ``[graphs]`` or ``[graphs, classes]``.

        Of classes the probabilities: from 0, a network's summing to 1.
        """
        ...

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers; 0 where the notion does not apply."""
        ...


@runtime_checkable
class TrainsBySteps(Protocol):
    """What a `Method` that trains by gradient steps offers besides, so that `ngbench bench` can measure it.

    Both take the networks in batches made by `GraphDataset.batch`, in random order, again and again without an end, on the device
    of the context, and give the number of networks of a batch when it is done. On a GPU they need not wait for it.
    """

    def steps(self, problem: Problem, train: GraphDataset, context: RunContext, *, batch_size: int) -> Iterator[int]:
        """Sets the method up for `train` as `fit` does, so that `num_parameters` is known; each item is a step of its training.

        Raises:
            NgbenchError: It cannot read these networks.
        """
        ...

    def forwards(self, networks: GraphDataset, context: RunContext, *, batch_size: int) -> Iterator[int]:
        """After `steps`: each item is a batch of networks predicted, without gradients, in the precision of training."""
        ...


@runtime_checkable
class Saves(Protocol):
    """What a `Method` offers besides, so that `ngbench run` keeps it when it is fitted and others can use it on their networks.

    What is loaded answers as what was saved did, to the bit. Nothing may be unpickled.
    """

    def save(self, folder: Path) -> None:
        """Writes what was fitted into an empty folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Any:
        """The method that `save` wrote.

        Raises:
            NgbenchError: The folder holds something else.
        """
        ...


CALLS: Mapping[Kind, tuple[str, ...]] = {
    "regression": ("predict",),
    "classification": ("predict",),
    "retrieval": ("embed",),
    "merging": ("embed_nodes", "match"),
}
"""What a method must offer for a kind of problem: one of these calls, beside `fit`.

``embed(networks)`` gives float64 ``[graphs, features]``, ``embed_nodes(networks)`` a list of ``[nodes, channels]``, one for each
network, and ``match(first, second)`` a list of group elements, each of which brings a network of `second` to the order of that of
`first`.
"""

methods: Registry[Any] = Registry("method", entry_point_group="ngbench.methods")
"""Method classes by name; entry points of the group ``ngbench.methods`` are found by themselves."""


def method_class(name: str) -> Any:
    """The class of a registered name, or of a path ``package.module:Class``.

    Raises:
        UnknownNameError: No method of that name.
        MethodError: What stands at the path is no method.
    """
    found = load_object(name, kind="method") if ":" in name else methods[name]
    missing = [part for part in ("info", "fit") if not hasattr(found, part)]
    if missing or not isinstance(found, type):
        raise MethodError(
            f"method {name!r} is {'a class without ' + ', '.join(missing) if isinstance(found, type) else type(found).__name__}; "
            "expected a class with info, fit and one of predict, embed, embed_nodes and match"
        )
    return found


def is_applicable(name: str, kind: Kind) -> bool:
    """Whether a method has a call for a kind of problem, and does not say that it does not solve it."""
    found = method_class(name)
    return any(hasattr(found, call) for call in CALLS[kind]) and (not found.info.kinds or kind in found.info.kinds)


def why_not_applicable(name: str, task: Task) -> str | None:
    """Why a method does not answer a task, in one clause; None where it does."""
    if is_applicable(name, task.kind):
        return None
    others = [other.name for other in TASKS.values() if is_applicable(name, other.kind)]
    reasons = [f"answers {' and '.join(others)} alone"] if others else []
    if not any(hasattr(method_class(name), call) for call in CALLS[task.kind]):
        reasons.insert(0, f"has no {' or '.join(CALLS[task.kind])}")
    return f"method {name!r} is not applicable to {task.name}: it {', and '.join(reasons)}"


def check_applicable(name: str, task: Task) -> None:
    """Whether a method answers a task.

    Raises:
        NotApplicableError: It lacks the calls, or says that it does not; the text names methods that do.
    """
    reason = why_not_applicable(name, task)
    if reason is not None:
        raise NotApplicableError(f"{reason}; expected one of {', '.join(_methods_for(task.kind))}")


def _methods_for(kind: Kind) -> list[str]:
    found = []
    for name in methods:
        # one that does not load, or is no method, is none to choose
        with contextlib.suppress(RegistrationError, MethodError):
            if is_applicable(name, kind):
                found.append(name)
    return found


def check_budget(name: str, settings: Mapping[str, str] | None, task: Task) -> None:
    """Whether settings keep a method within the budget of a task.

    Raises:
        ConfigError: They ask for more epochs, or are wrong.
    """
    epochs = getattr(getattr(make_method(name, settings), "config", None), "epochs", 0)
    if isinstance(epochs, int) and epochs > task.max_epochs:
        raise ConfigError(
            f"setting 'epochs' of method {name!r} is {epochs}, beyond the budget of task {task.name!r}; expected at most "
            f"{task.max_epochs} epochs"
        )


def make_method(name: str, settings: Mapping[str, str] | None = None, *, task: str | None = None, zoo: str | None = None) -> Any:
    """A method ready to be fitted.

    Args:
        name: Registered name or ``package.module:Class``.
        settings: Values of its `Config` by field name, as text.
        task: Name of the task that it is fitted for; with the zoo it chooses among settings that the method's ``tuned`` names
            for ``"task/zoo"``, or for ``"task"`` on any zoo. Those in `settings` come before these.
        zoo: Name of the zoo.

    Raises:
        ConfigError: A setting is not a field of the method's `Config`, or its text is no value of the field's type.
    """
    cls = method_class(name)
    config_type = getattr(cls, "Config", None)
    if config_type is None:
        if settings:
            raise ConfigError(f"method {name!r} has no settings; got {', '.join(settings)}")
        return cls()
    defaults = config_type()
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(config_type)}
    values = {}
    tuned: Mapping[str, Mapping[str, str]] = getattr(cls, "tuned", {})
    chosen = {**tuned.get(f"{task}/{zoo}", tuned.get(f"{task}", {})), **(settings or {})}
    for key, text in chosen.items():
        if key not in known:
            raise ConfigError(f"method {name!r} has no setting {key!r}; expected one of {', '.join(sorted(known))}")
        values[key] = _parse(text, known[key], where=f"setting {key!r} of method {name!r}")
    return cls(dataclasses.replace(defaults, **values))


def _parse(text: str, default: object, *, where: str) -> object:
    """A setting's text as a value of the type of its default."""
    kind = bool if default is None else type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{where} is {text!r}; expected {'true or false' if kind is bool else kind.__name__} such as {default!r}"
        ) from error
    raise ConfigError(f"{where} cannot be set as text; expected to be set in Python")
