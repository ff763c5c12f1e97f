"""The tables that `ngbench bench` prints: which cells each has, and how ours compare with the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from ngbench.errors import RegistrationError, UnknownNameError
from ngbench.evaluation.speed.benchmarks import BENCHMARKS, BenchmarkResult, run_benchmarks
from ngbench.evaluation.speed.cases import CASES, GROWTH_WIDTHS
from ngbench.evaluation.speed.cell import Cell, CellResult, measure_apart
from ngbench.evaluation.speed.configurations import Configuration, configurations, device_kind
from ngbench.methods import method_class, methods
from ngbench.registry import Registry

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

TWO_THREADS: Mapping[str, str] = MappingProxyType({"num_threads": "2"})

READING = "reading"
"""The table of `BENCHMARKS`, which need no method."""


@dataclass(frozen=True)
class Wanted:
    """What a user asks of the tables of cells.

    Args:
        names: Configurations asked for by name; they are measured however heavy they are.
        methods: Methods asked for; none stands for all.
        cases: Cases asked for; none stands for the usual ones.
        device: Torch device.
        repeats: Of each cell.
        settings: Of every method, beside or in place of those that a row has.
        num_threads: CPU threads of methods that have such a setting; None for two, as the authors' code had, in a configuration
            and on a large network, and for what is usual in a method.
    """

    names: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    device: str = "cpu"
    repeats: int = 5
    num_threads: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def cell(self, method: str, case: str, *, settings: Mapping[str, str] = NO_SETTINGS, **parts: Any) -> Cell:
        """A cell of a method, under its own name unless told otherwise."""
        threads = {"num_threads": str(self.num_threads)} if self.num_threads is not None and _takes_threads(method) else {}
        chosen = {**settings, **self.settings, **threads}
        options = {"name": method, "method": method, "case": case, "device": self.device, "repeats": self.repeats}
        return Cell.model_validate({**options, "settings": chosen, **parts})

    def takes(self, configuration: Configuration) -> bool:
        """Whether a configuration is measured: a heavy one by its name, or by its method and case together."""
        if self.names:
            return configuration.name in self.names
        chosen = [(configuration.method, self.methods), (configuration.case, self.cases)]
        if not all(value in among for value, among in chosen if among) or configuration.method not in methods:
            return False
        return not configuration.heavy or bool(self.methods and self.cases)


@dataclass(frozen=True)
class CellTable:
    """A table whose rows are cells.

    Args:
        name: As it is typed.
        title: As it is printed.
        cells: What is measured for it.
        usual: Whether it is measured without being asked for.
    """

    name: str
    title: str
    cells: Callable[[Wanted], list[Cell]]
    usual: bool = False


@dataclass(frozen=True)
class Job:
    """One row of a table, not yet measured.

    Args:
        table: Name of the table.
        label: What runs, in a few words.
        run: Measures it.
    """

    table: str
    label: str
    run: Callable[[], BenchmarkResult | CellResult]


def plan(names: Sequence[str], wanted: Wanted) -> list[Job]:
    """What is to be measured, table by table.

    Args:
        names: Tables, single benchmarks and configurations; none stands for the usual tables, less the reading of zoos where
            methods or cases are asked for.
        wanted: Choice among cells; its `names` are set here.

    Raises:
        UnknownNameError: No table, benchmark, configuration, method or case of a name.
    """
    known = [READING, *TABLES, *BENCHMARKS, *configurations()]
    for name in names:
        if name not in known:
            raise UnknownNameError("benchmark", name, known)
    for method in wanted.methods:
        method_class(method)
    for case in wanted.cases:
        CASES[case]
    tables = [name for name in names if name in TABLES]
    single = [name for name in names if name in BENCHMARKS]
    named = tuple(name for name in names if name in configurations())
    if not names:
        tables = [name for name, table in TABLES.items() if table.usual]
    if READING in names or not (names or wanted.methods or wanted.cases):
        single = list(BENCHMARKS)
    jobs = [Job(READING, name, partial(_benchmark, name, wanted.repeats)) for name in single]
    for name in named:
        # said at once, before anything is measured
        method_class(configurations()[name].method)
    if named and "configurations" not in tables:
        tables.append("configurations")
    for name in tables:
        jobs += [
            Job(name, f"{cell.name} on {cell.case}", partial(measure_apart, cell))
            for cell in TABLES[name].cells(replace(wanted, names=named))
        ]
    return jobs


def _benchmark(name: str, repeats: int) -> BenchmarkResult:
    (result,) = run_benchmarks([name], repeats=repeats)
    return result


def _methods(wanted: Wanted) -> list[Cell]:
    chosen = wanted.methods or tuple(name for name in methods if _may_have_steps(name))
    cases = wanted.cases or tuple(name for name, case in CASES.items() if case.usual)
    return [wanted.cell(method, case) for case in cases for method in chosen]


def _may_have_steps(method: str) -> bool:
    """Whether a method trains by steps; one that does not load stands in the table, with the reason."""
    try:
        return hasattr(method_class(method), "steps")
    except RegistrationError:
        return True


def _configurations(wanted: Wanted) -> list[Cell]:
    chosen = [configuration for configuration in configurations().values() if wanted.takes(configuration)]
    return [wanted.cell(c.method, c.case, name=c.name, settings=_on_two_threads(c)) for c in chosen]


def _on_two_threads(configuration: Configuration) -> dict[str, str]:
    return {**TWO_THREADS, **configuration.settings}


def _takes_threads(method: str) -> bool:
    return hasattr(getattr(method_class(method), "Config", None), "num_threads")


def _growth(wanted: Wanted) -> list[Cell]:
    grown = {c.method: c for c in configurations().values() if c.growth_s}
    chosen = wanted.methods or tuple(method for method in grown if method in methods)
    cells = []
    for method in chosen:
        settings = _on_two_threads(grown[method]) if method in grown else NO_SETTINGS
        widths = grown[method].growth_s if method in grown else GROWTH_WIDTHS
        cases = [f"width-{width}" for width in widths]
        cells += [wanted.cell(method, case, settings=settings) for case in cases if not wanted.cases or case in wanted.cases]
    return cells


def _large(wanted: Wanted) -> list[Cell]:
    return [
        wanted.cell(method, "resnet50", name=f"{method}, {what}", what=what, settings=settings)
        for method in wanted.methods or ("ng-gnn",)
        for settings in [TWO_THREADS if _takes_threads(method) else NO_SETTINGS]
        for what in ("steps", "embedding")
    ]


TABLES: Registry[CellTable] = Registry("table")
for _table in (
    CellTable("methods", "methods as they are, in training and inference", _methods, usual=True),
    CellTable("configurations", "models of the papers, beside their authors' code", _configurations, usual=True),
    CellTable("growth", "growth with width, MLPs 2-w-w-3", _growth),
    CellTable("large", "a network of the size that people train", _large),
):
    TABLES.register(_table.name, _table)


@dataclass(frozen=True)
class Comparison:
    """A configuration beside its authors' code on a device of the same kind; None where there is no figure.

    Args:
        train: Times as many networks per second in training steps.
        train_mended: The same, against their code with one fault mended.
        infer: Times as many in inference.
        memory: Our peak memory as a share of theirs.
    """

    train: float | None
    train_mended: float | None
    infer: float | None
    memory: float | None


def compare(result: CellResult) -> Comparison | None:
    """How a result compares with the authors' code; None where the cell is no configuration of `configurations`."""
    found = configurations().get(result.cell.name)
    if found is None:
        return None
    theirs = getattr(found.reference, device_kind(result.cell.device))
    train, infer = (None if rate is None else rate.median for rate in (result.train, result.infer))
    peak = None if result.peak_memory_bytes is None else result.peak_memory_bytes / 2**30
    return Comparison(
        train=_ratio(train, theirs.train),
        train_mended=_ratio(train, theirs.train_mended),
        infer=_ratio(infer, theirs.infer),
        memory=_ratio(peak, theirs.peak_gib),
    )


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours / theirs


def authors_growth_s(result: CellResult) -> float | None:
    """Seconds of the authors' code for a network and training step of a cell of the table of growth, on a CPU."""
    widths = {f"width-{width}": width for width in GROWTH_WIDTHS}
    if device_kind(result.cell.device) != "cpu" or result.cell.case not in widths:
        return None
    found = [c.growth_s for c in configurations().values() if c.method == result.cell.method and c.growth_s]
    return found[0].get(widths[result.cell.case]) if found else None


def record(row: BenchmarkResult | CellResult) -> dict[str, Any]:
    """A row for JSON; that of a configuration with its authors' figures and what `compare` says."""
    if isinstance(row, BenchmarkResult):
        return asdict(row)
    content, found = row.model_dump(mode="json"), compare(row)
    if found is not None:
        content["authors"] = configurations()[row.cell.name].reference.model_dump(mode="json")
        content["times_the_authors"] = asdict(found)
    return content
