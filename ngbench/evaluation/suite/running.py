"""Runs the cells of a suite, some at a time, each in a process of its own, on this machine or on a cluster."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from ngbench.cluster import Executor, spread
from ngbench.errors import NgbenchError, NotApplicableError
from ngbench.evaluation.identity import is_measured
from ngbench.evaluation.protocol import check_question, checked_device
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.evaluation.suite.process import attend, begin, end, reason_of, run_elsewhere
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS

Status = Literal["waiting", "running", "done", "not applicable", "left out", "failed"]


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
        jobs: Processes at the same time; a cluster has as many as it has room for.
        watch: Told of every change; from several threads, one at a time.
        executor: Where: on this machine, or on a Ray cluster, all of whose machines have the cells' folder.
    """

    cells: Sequence[SuiteCell]
    jobs: int
    watch: Watch
    executor: Executor = "local"
    _zoos: dict[str, Zoo] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _processes: set[subprocess.Popen[str]] = field(default_factory=set)
    _is_stopped: bool = False

    def run(self) -> list[State]:
        """All cells; those that were finished before with the same code are not run again.

        A cell that fails, or whose process ends, is a state with a reason. An interruption ends all processes.

        Raises:
            ClusterError: The Ray cluster cannot be used, or one of its machines does not have the cells' folder.
        """
        states = [State(cell) for cell in self.cells]
        for state in states:
            self._settle(state)
        waiting = [state for state in states if state.status == "waiting"]
        if self.executor == "ray":
            self._run_on_cluster(waiting)
            return states
        # what takes over the fits of another task waits until they are there
        takes_over = [TASKS[state.cell.task].fitted_as is not None for state in waiting]
        for turn in (False, True):
            self._run_here([state for state, takes in zip(waiting, takes_over, strict=True) if takes == turn])
        return states

    def _run_here(self, states: Sequence[State]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._run, state) for state in states]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _run_on_cluster(self, states: Sequence[State]) -> None:
        if not states:
            return
        after = _sources([state.cell for state in states])
        device = self._device(states[0].cell)
        out = Path(states[0].cell.out).resolve()
        out.mkdir(parents=True, exist_ok=True)

        def report(number: int, share: float, text: str) -> None:
            state = states[number]
            state.share, state.text = share, text
            self._change(state, "running")

        with tempfile.NamedTemporaryFile(dir=out, prefix=".seen-by-all-") as mark:
            placed = {"out": str(out), "device": device}
            parts = {n: (state.cell.model_copy(update=placed), mark.name) for n, state in enumerate(states)}
            try:
                for number, (code, complaints) in spread(run_elsewhere, parts, device=device, report=report, after=after):
                    self._end(states[number], code, complaints)
            except BaseException:
                for state in states:
                    if state.status == "running":
                        self._change(state, "waiting")
                raise

    def _stop(self) -> None:
        """Ends all processes, and lets none begin."""
        with self._lock:
            self._is_stopped = True
            processes = list(self._processes)
        end(processes)

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
            done = is_measured(task, zoo, cell.method, cell.seeds, out=cell.out, device=self._device(cell))
            self._change(state, "done" if done else "waiting")
        except NotApplicableError as error:
            self._change(state, "not applicable", str(error))
        except NgbenchError as error:
            self._change(state, "failed", str(error))

    def _device(self, cell: SuiteCell) -> str:
        """What a cell runs on; this machine needs not have what the cluster has."""
        is_known = self.executor == "ray" and cell.device is not None
        return str(cell.device) if is_known else checked_device(cell.device)

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
        code, complaints = attend(process, state.cell, partial(self._hear, state))
        self._end(state, code, complaints)

    def _end(self, state: State, code: int, complaints: Sequence[str]) -> None:
        if code == 0:
            self._change(state, "done")
        elif self._is_stopped:
            self._change(state, "waiting")
        else:
            self._change(state, "failed", reason_of(code, complaints))

    def _begin(self) -> subprocess.Popen[str] | None:
        """The process of a cell; None where all have been ended."""
        with self._lock:
            if self._is_stopped:
                return None
            process = begin()
            self._processes.add(process)
            return process

    def _hear(self, state: State, share: float, text: str) -> None:
        with self._lock:
            state.share, state.text = share, text
            self.watch(state)


def _sources(cells: Sequence[SuiteCell]) -> dict[int, int]:
    """Numbers of cells that take over the fits of another cell, with its number."""
    numbers = {(cell.task, cell.zoo, cell.target, cell.method): number for number, cell in enumerate(cells)}
    sources = {n: (str(TASKS[c.task].fitted_as), c.zoo, c.target, c.method) for n, c in enumerate(cells)}
    return {number: numbers[source] for number, source in sources.items() if source in numbers}


def by_question(states: Sequence[State]) -> Mapping[tuple[str, str, str | None], list[State]]:
    """The cells of each task, zoo and target, in the order of the suite."""
    found: dict[tuple[str, str, str | None], list[State]] = {}
    for state in states:
        found.setdefault(state.cell.question, []).append(state)
    return found
