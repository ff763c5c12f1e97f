"""A suite: every method on every task, zoo and target, each of which is a cell of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ngbench.errors import UnknownNameError
from ngbench.evaluation.protocol import check_seeds
from ngbench.methods import method_class
from ngbench.tasks import TASKS, Task


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeftOut(_Record):
    """What a suite does not run of a method.

    Attributes:
        zoos: Names of zoos.
        reason: As the row says it.
    """

    zoos: tuple[str, ...]
    reason: str


class Suite(_Record):
    """What a suite measures; a YAML file, whose keys these are.

    Attributes:
        version: Any change is a new one.
        name: As it is typed.
        title: As it is printed.
        tasks: Names of tasks.
        zoos: Names of zoos; a task is asked of those that it names.
        methods: Names of methods, beside the baselines of each task, in the order in which they are begun.
        left_out: What is not run of a method, by its name; it stands in the tables with the reason.
    """

    version: int = Field(gt=0)
    name: str
    title: str
    tasks: tuple[str, ...] = Field(min_length=1)
    zoos: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    left_out: dict[str, LeftOut] = {}

    @classmethod
    def load(cls, name: str) -> Suite:
        """The suite of a name.

        Raises:
            UnknownNameError: ngbench ships none of that name.
        """
        folder = resources.files("ngbench.evaluation.suite")
        names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
        if name not in names:
            raise UnknownNameError("suite", name, names)
        return cls.model_validate(yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))

    def cells(self, seeds: Sequence[int], *, methods: Sequence[str] = (), out: str, device: str | None) -> list[SuiteCell]:
        """Every method on every question; baselines last.

        Args:
            seeds: Of each cell.
            methods: In place of the suite's own; none for these.
            out: Folder under which results are kept.
            device: Torch device.

        Raises:
            UnknownNameError: No such method.
            ConfigError: The list of seeds is wrong.
        """
        check_seeds(seeds)
        for method in methods:
            method_class(method)
        chosen = tuple(methods) or self.methods
        made = [
            SuiteCell(
                method=method,
                task=task.name,
                zoo=zoo,
                target=task.target,
                seeds=tuple(seeds),
                out=out,
                device=device,
                left_out=self._why_left_out(method, zoo),
            )
            for task, zoo in self._asked()
            for method in dict.fromkeys((*chosen, *task.baselines))
        ]
        place = {method: number for number, method in enumerate(chosen)}
        return sorted(made, key=lambda cell: place.get(cell.method, len(place)))

    def _why_left_out(self, method: str, zoo: str) -> str | None:
        found = self.left_out.get(method)
        return found.reason if found is not None and zoo in found.zoos else None

    def _asked(self) -> Iterator[tuple[Task, str]]:
        for name in self.tasks:
            for zoo in TASKS[name].zoos:
                if zoo in self.zoos:
                    for target in TASKS[name].zoos[zoo] or (None,):
                        yield TASKS[name].asked(zoo, target=target), zoo


class SuiteCell(_Record):
    """A method on a question.

    Attributes:
        method: Registered name, or ``package.module:Class``.
        task: Name of a task.
        zoo: Name of a released zoo.
        target: Column that is asked about; None for a task without.
        seeds: One fit for each.
        out: Folder under which results are kept.
        device: Torch device; None for CUDA where there is one.
        left_out: Why it is not run; None where it is.
    """

    method: str
    task: str
    zoo: str
    target: str | None
    seeds: tuple[int, ...]
    out: str
    device: str | None = None
    left_out: str | None = None

    @property
    def question(self) -> tuple[str, str, str | None]:
        """Task, zoo and target."""
        return self.task, self.zoo, self.target
