"""A suite: every method on every task, zoo and target, each cell in a process of its own, so that one that fails is a row.

``python -m ngbench.evaluation.suite`` is that process: it takes a `SuiteCell` as JSON and tells its progress in lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ngbench.errors import NgbenchError, NotApplicableError, UnknownNameError
from ngbench.evaluation.identity import is_measured
from ngbench.evaluation.protocol import Bench, check_question, check_seeds, checked_device
from ngbench.methods import method_class
from ngbench.progress import Progress
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task

Status = Literal["waiting", "running", "done", "not applicable", "left out", "failed"]

PATIENCE_S = 20.0
"""How long a process that was interrupted may take to keep what it has, before it is killed."""


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
        folder = resources.files("ngbench.evaluation") / "suites"
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


@dataclass
class State:
    """How far a cell is.

    Args:
        cell: Which.
        status: What became of it.
        reason: Why it is not applicable, or failed.
        share: Done, of the seed under way.
        text: What its progress says.
    """

    cell: SuiteCell
    status: Status = "waiting"
    reason: str | None = None
    share: float = 0.0
    text: str = ""


class Watch(Protocol):
    """Told of every change of a cell."""

    def __call__(self, state: State, /) -> None:
        """A cell has changed."""


@dataclass
class Runner:
    """Runs cells, some at a time, each in a process.

    Args:
        cells: What to run.
        jobs: Processes at the same time.
        watch: Told of every change; from several threads, one at a time.
    """

    cells: Sequence[SuiteCell]
    jobs: int
    watch: Watch
    _zoos: dict[str, Zoo] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _processes: set[subprocess.Popen[str]] = field(default_factory=set)
    _is_stopped: bool = False

    def run(self) -> list[State]:
        """All cells; those that were finished before with the same code are not run again.

        A cell that fails, or whose process ends, is a state with a reason. An interruption ends all processes.
        """
        states = [State(cell) for cell in self.cells]
        for state in states:
            self._settle(state)
        # what takes over the fits of another task waits until they are there
        takes_over = [TASKS[state.cell.task].fitted_as is not None for state in states]
        for turn in (False, True):
            self._run_all([state for state, takes in zip(states, takes_over, strict=True) if takes == turn])
        return states

    def _run_all(self, states: Sequence[State]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run, state) for state in states if state.status == "waiting"]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _stop(self) -> None:
        """Ends all processes, and lets none begin."""
        with self._lock:
            self._is_stopped = True
            processes = list(self._processes)
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _settle(self, state: State) -> None:
        """What can be said of a cell without running it."""
        cell = state.cell
        if cell.left_out is not None:
            self._change(state, "left out", cell.left_out)
            return
        try:
            zoo = self._zoo(cell.zoo)
            task = TASKS[cell.task].asked(cell.zoo, target=cell.target)
            check_question(cell.method, task, zoo)
            done = is_measured(task, zoo, cell.method, cell.seeds, out=cell.out, device=checked_device(cell.device))
            self._change(state, "done" if done else "waiting")
        except NotApplicableError as error:
            self._change(state, "not applicable", str(error))
        except NgbenchError as error:
            self._change(state, "failed", str(error))

    def _zoo(self, name: str) -> Zoo:
        if name not in self._zoos:
            self._zoos[name] = open_zoo(name)
        return self._zoos[name]

    def _change(self, state: State, status: Status, reason: str | None = None) -> None:
        with self._lock:
            state.status, state.reason = status, reason
            self.watch(state)

    def _run(self, state: State) -> None:
        process = self._begin()
        if process is None:
            return
        self._change(state, "running")
        complaints: list[str] = []
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            errors = process.stderr
            listener = threading.Thread(target=lambda: complaints.extend(errors.readlines()))
            listener.start()
            process.stdin.write(state.cell.model_dump_json())
            process.stdin.close()
            for line in process.stdout:
                self._hear(state, line)
            code = process.wait()
            listener.join()
        if code == 0:
            self._change(state, "done")
        elif self._is_stopped:
            self._change(state, "waiting")
        else:
            self._change(state, "failed", _reason(code, complaints))

    def _begin(self) -> subprocess.Popen[str] | None:
        """The process of a cell; None where all have been ended."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment.setdefault("OMP_NUM_THREADS", "1")
        with self._lock:
            if self._is_stopped:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "ngbench.evaluation.suite"],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
            self._processes.add(process)
            return process

    def _hear(self, state: State, line: str) -> None:
        told = json.loads(line)
        with self._lock:
            state.share, state.text = told["share"], told["text"]
            self.watch(state)


def _reason(code: int, complaints: Sequence[str]) -> str:
    if code == -signal.SIGKILL:
        return "the system ended the process, most likely for want of memory"
    said = [line.strip() for line in complaints if line.strip()]
    if code in (1, 2) and said:
        return said[-1]
    end = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with code {code}"
    return f"the process ended {end}" + (f"; the last that it said: {said[-1]}" if said else "")


def measure(cell: SuiteCell, stages: Callable[[str], Progress]) -> None:
    """Runs a cell in this process and writes its result.

    Raises:
        NgbenchError: As of `ngbench.evaluation.run`.
    """
    bench = Bench.open(
        TASKS[cell.task], cell.zoo, target=cell.target, out=Path(cell.out), device=checked_device(cell.device), stages=stages
    )
    entrant = bench.measure(cell.method, {}, cell.seeds)
    bench.report(entrant, {})


def main() -> None:
    """The process of one cell."""
    cell = SuiteCell.model_validate_json(sys.stdin.read())
    # what libraries print is no progress, whether Python or C prints it
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def stages(label: str, /) -> Progress:
        def progress(done: int, total: int, text: str = "", /) -> None:
            print(json.dumps({"share": done / max(total, 1), "text": f"{label}, {text}"}), file=output, flush=True)

        return progress

    try:
        measure(cell, stages)
    except NgbenchError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def by_question(states: Sequence[State]) -> Mapping[tuple[str, str, str | None], list[State]]:
    """The cells of each task, zoo and target, in the order of the suite."""
    found: dict[tuple[str, str, str | None], list[State]] = {}
    for state in states:
        found.setdefault(state.cell.question, []).append(state)
    return found


if __name__ == "__main__":
    main()
