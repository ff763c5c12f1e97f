"""The audit of a method: fitted for a moment on trained networks, watched while the networks' symmetry group acts on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ngbench.errors import NgbenchError, SplitError, WithheldError
from ngbench.evaluation.audit.architectures import ask_fakes, ask_zoo, chosen, problem_of
from ngbench.evaluation.audit.elements import PERMUTATIONS, SCALES, SIGNS, Size, act
from ngbench.evaluation.audit.movement import Outputs, movements
from ngbench.evaluation.audit.proof import Inputs, held_out_inputs, prove
from ngbench.evaluation.audit.record import MethodAudit, Movement, Plan, Proof, Shuffle, ZooAudit
from ngbench.evaluation.audit.wiring import UNITS, distances, tell_apart
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext, check_applicable, is_applicable, make_method, methods
from ngbench.progress import Progress, Stages, silent_stages
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS

TARGETS = ("test_accuracy", "psnr")
"""What a method is fitted to while its outputs are watched: the first of these columns that a zoo has."""

PAIR_RATE = 1e-3
"""Largest learning rate of the fit that tells networks from their shuffles, for methods with such a setting.

The wiring is a weak signal at first: at 3e-3 ng-gnn was still at chance after 20 epochs, at 1e-3 it reached an AUC of 0.95.
"""

DTYPES: Mapping[Any, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


def auditable() -> list[str]:
    """Names of the registered methods that can be audited: those that solve a regression."""
    return [name for name in methods if is_applicable(name, "regression")]


def default_zoos(*, any_architecture: bool) -> tuple[str, ...]:
    """The zoos on which a method is audited: one of one architecture, and one of many for methods that read any."""
    return ("digits-cnn", "digits-park") if any_architecture else ("digits-cnn",)


def audit_method(
    method: str,
    *,
    zoos: Sequence[str | Path] = (),
    settings: Mapping[str, str] | None = None,
    scales: bool = False,
    signs: bool = False,
    device: str = "cpu",
    plan: Plan | None = None,
    stages: Stages = silent_stages,
) -> MethodAudit:
    """Measures what a method does when networks are replaced by equivalent ones, by other architectures, and by shuffles.

    Args:
        method: Registered name, or ``package.module:Class``.
        zoos: Names or paths of zoos; none for `default_zoos`.
        settings: Fields of the method's `Config`, as text.
        scales: Whether positive scales act too.
        signs: Whether changes of sign act too.
        device: Torch device of the method.
        plan: How much is measured; None for the defaults.
        stages: Told of each part as it begins.

    Raises:
        NotApplicableError: The method solves no regression, in which the questions are put.
        AuditError: An element of the group changed the function of a network, so that nothing can be said.
        GraphError: The networks of a zoo cannot be run, so that there is no proof.
        NgbenchError: The method, a setting or a zoo cannot be used; see its children.
    """
    plan = plan or Plan()
    check_applicable(method, TASKS["generalization"])
    make = partial(make_method, method, settings)
    info = make().info
    opened = [open_zoo(zoo) for zoo in zoos or default_zoos(any_architecture=info.any_architecture)]
    sizes = (*PERMUTATIONS, *(SCALES if scales else ()), *(SIGNS if signs else ()))
    auditor = _Auditor(method, make, partial(make_method, method, _patient(method, settings or {})), plan, sizes, device, stages)
    return MethodAudit(
        method=method,
        title=info.title,
        access=info.track,
        settings=dict(settings or {}),
        claims_invariant=info.invariant,
        claims_any_architecture=info.any_architecture,
        zoos=tuple(auditor.on_zoo(zoo, shuffle=number == 0) for number, zoo in enumerate(opened)),
        acceptances=tuple(auditor.acceptances([open_zoo("digits-park")] if not zoos else opened)),
    )


def _patient(method: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings with a learning rate of at most `PAIR_RATE`, unless they name one or the method has none."""
    rate = getattr(getattr(make_method(method, settings), "config", None), "learning_rate", 0.0)
    return ({"learning_rate": str(PAIR_RATE)} if rate > PAIR_RATE else {}) | dict(settings)


@dataclass(frozen=True)
class _Auditor:
    """A method under audit; `make_patient` makes it for the fit that tells networks from their shuffles."""

    name: str
    make: Callable[[], Any]
    make_patient: Callable[[], Any]
    plan: Plan
    sizes: tuple[Size, ...]
    device: str
    stages: Stages

    def on_zoo(self, zoo: Zoo, *, shuffle: bool) -> ZooAudit:
        """Everything that is measured on the networks of a zoo."""
        start, plan = time.perf_counter(), self.plan
        train, val = (self._split(zoo, part, size) for part, size in (("train", plan.num_fit), ("val", plan.num_val)))
        networks = self._split(zoo, "test", plan.num_networks).without_targets()
        proofs, moved, shuffles = [], [], ()
        outputs: dict[str, Outputs] = {}
        refusal = None
        try:
            method = self._fit(train, val, label=f"{self.name}: fit on {zoo.name}")
        except NgbenchError as error:
            refusal = f"{type(error).__name__}: {error}"
        else:
            outputs = {dtype: Outputs.of(method, _in_dtype(networks, DTYPES[dtype])) for dtype in DTYPES}
            inputs = held_out_inputs(zoo, plan.num_inputs, seed=plan.seed)
            progress = self.stages(f"{self.name}: group on {zoo.name}")
            proofs, moved = _under_group(method, networks, self.sizes, outputs, inputs, plan, progress)
            shuffles = self._shuffles(zoo, method, networks, outputs["float64"]) if shuffle else ()
        return ZooAudit(
            zoo=zoo.name,
            zoo_version=str(zoo.version),
            zoo_sha256=zoo.sha256,
            num_networks=len(networks),
            num_fit=len(train),
            refusal=refusal,
            proofs=tuple(proofs),
            absent=() if refusal else _absent(self.sizes, proofs),
            movements=tuple(moved),
            part_refusals=dict(outputs["float32"].refusals) if outputs else {},
            shuffles=tuple(shuffles),
            duration_s=time.perf_counter() - start,
        )

    def _split(self, zoo: Zoo, part: str, most: int, *, above: float = -np.inf) -> GraphDataset:
        """Some networks of a part whose target is above a number."""
        rows = zoo.split(part)
        rows = chosen(rows[zoo.metadata[target_of(zoo)][rows] > above], most, seed=self.plan.seed)
        if len(rows) < 2:
            raise SplitError(f"zoo {zoo.name!r} has {len(rows)} {part} networks; expected at least two: use a larger zoo")
        return GraphDataset.from_zoo(zoo, rows, target=target_of(zoo))

    def _fit(self, train: GraphDataset, val: GraphDataset, *, label: str) -> Any:
        method = self.make()
        method.fit(problem_of(train, val), train, val, self._context(self.plan.fit_epochs, self.stages(label)))
        return method

    def _context(self, epochs: int, progress: Progress) -> RunContext:
        budget = Budget(max_epochs=epochs, num_candidates=1)
        return RunContext(seed=self.plan.seed, budget=budget, device=self.device, progress=progress)

    def _shuffles(self, zoo: Zoo, method: Any, networks: GraphDataset, outputs: Outputs) -> list[Shuffle]:
        plan, found = self.plan, []
        parts = {"train": plan.num_pairs, "val": plan.num_val, "test": plan.num_test_pairs}
        # a network that learned nothing has random weights, whose order says nothing: the better half is asked about
        median = float(np.median(zoo.metadata[target_of(zoo)]))
        train, val, test = (self._split(zoo, part, most, above=median) for part, most in parts.items())
        for unit in UNITS:
            apart = distances(method, outputs, _in_dtype(networks, torch.float64), unit, seed=plan.seed)
            # what becomes of kernels is told sooner
            epochs = plan.pair_epochs if unit == "edges" else max(1, plan.pair_epochs // 2)
            context = self._context(epochs, self.stages(f"{self.name}: {unit} of {zoo.name} shuffled"))
            found.append(tell_apart(self.make_patient, (train, val, test), unit, context=context, distances=apart))
        return found

    def acceptances(self, zoos: Sequence[Zoo]) -> list[Any]:
        """Whether it takes other architectures."""
        context = self._context(1, self.stages(f"{self.name}: other architectures"))
        found = ask_fakes(self.make, context, self.plan)
        for zoo in zoos:
            found += ask_zoo(self.make, zoo, target_of(zoo), context, self.plan)
        return found


def target_of(zoo: Zoo) -> str:
    """The column that methods are fitted to.

    Raises:
        SplitError: The zoo has none of `TARGETS`.
        WithheldError: It keeps that of its test networks back.
    """
    for name in TARGETS:
        if zoo.withheld(name).any():
            raise WithheldError(
                f"zoo {zoo.name!r} version {zoo.version} withholds {name!r} of its test networks; expected a zoo that tells it"
            )
        if name in zoo.columns:
            return name
    raise SplitError(f"zoo {zoo.name!r} has none of the columns {', '.join(TARGETS)}; got {', '.join(zoo.columns)}")


def _under_group(
    method: Any,
    networks: GraphDataset,
    sizes: Sequence[Size],
    outputs: Mapping[str, Outputs],
    inputs: Inputs,
    plan: Plan,
    progress: Progress,
) -> tuple[list[Proof], list[Movement]]:
    """For each size the proof, and then how far outputs move."""
    proofs, moved = [], []
    for done, size in enumerate(sizes):
        progress(done, len(sizes), f"{size.kind}, {size.name}")
        salt = f"ngbench-audit-{plan.seed}/{size.kind}/{size.name}"
        acted = act(networks, size, salt=salt, dtype=torch.float64)
        if acted is None:
            continue
        proofs.append(prove(acted, size, inputs))
        for dtype in DTYPES:
            own = acted if dtype == "float64" else act(networks, size, salt=salt, dtype=DTYPES[dtype])
            assert own is not None, "the elements do not depend on the type of the values"
            for part, shares in movements(method, outputs[dtype], own).items():
                median, largest = float(np.median(shares)), float(shares.max())
                moved.append(
                    Movement(kind=size.kind, size=size.name, dtype=dtype, part=part, median=median, largest=largest)  # pyright: ignore[reportArgumentType]
                )
    progress(len(sizes), len(sizes), "")
    return proofs, moved


def _absent(sizes: Sequence[Size], proofs: Sequence[Proof]) -> tuple[str, ...]:
    proved = {(proof.kind, proof.size) for proof in proofs}
    return tuple(f"{size.kind}, {size.name}" for size in sizes if (size.kind, size.name) not in proved)


def _in_dtype(networks: GraphDataset, dtype: torch.dtype) -> GraphDataset:
    """The same networks with values of a type."""
    bundles = tuple(bundle.to("cpu", dtype) for bundle in networks.bundles)
    return GraphDataset(networks.ids, bundles, None, networks.hyperparameters)
