"""Runs the parts of a long computation side by side in worker processes, each on one thread, here or on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any, TypeVar

from ngbench.cluster import Executor, Tell, spread
from ngbench.errors import TrainingError
from ngbench.progress import Progress

Part = TypeVar("Part")
Result = TypeVar("Result")

_REPORT_S = 0.25
_GRACE_S = 10.0
_queue: Queue[Any] | None = None


def default_num_workers() -> int:
    """One for each processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parts(
    work: Callable[[Part, Progress], Result],
    parts: Mapping[int, Part],
    *,
    num_workers: int,
    report: Callable[[int, int, str], None],
    executor: Executor = "local",
    device: str = "cpu",
) -> Iterator[tuple[int, Result]]:
    """Does the work of each part and gives the results as they are ready, in any order.

    Networks of a zoo are so small that a second thread slows the first; processes do not share one.

    Args:
        work: What is done, ``work(part, progress)``; a function of a module, so that a worker process can import it.
        parts: The parts, by number.
        num_workers: Worker processes; with 1 the work is done in this process. A cluster has as many as it has room for.
        report: Told ``(part number, units of work done, text)`` as parts advance.
        executor: Where: on this machine, or on a Ray cluster, where the part of a worker that dies is queued again.
        device: What the work is done on; a part on ``cuda`` takes a GPU of the cluster.

    Yields:
        Number and result of each part.

    Raises:
        TrainingError: A worker process of this machine died.
        ClusterError: The cluster cannot be used, or each worker of a part died.
    """
    if executor == "ray":
        yield from spread(partial(_work_alone, work), parts, device=device, report=report)
        return
    if num_workers == 1 or len(parts) == 1:
        for number, part in parts.items():
            yield number, work(part, lambda done, total, text="", /, n=number: report(n, done, text))
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(num_workers, len(parts)), mp_context=context, initializer=_start_worker, initargs=(queue,)
    ) as pool:
        try:
            futures = {pool.submit(_work_on, work, number, part): number for number, part in parts.items()}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_REPORT_S, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    report(*queue.get())
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                f"one of {num_workers} worker processes ended without a result, perhaps for lack of memory; "
                "finished parts are kept: run again, with fewer workers"
            ) from error
        except BaseException:
            workers = set(multiprocessing.active_children()) - others
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(workers)
            raise


def _stop(workers: Iterable[BaseProcess]) -> None:
    """Ends workers, which in the middle of a part would go on to its end, and waits until they are gone."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(_GRACE_S)
        if worker.is_alive():
            worker.kill()
            worker.join(_GRACE_S)


def _start_worker(queue: Queue[Any]) -> None:
    import signal

    import torch

    global _queue
    _queue = queue
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the parent is the one that stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work_on(work: Callable[[Part, Progress], Result], number: int, part: Part) -> Result:
    last = 0.0

    def progress(done: int, total: int, text: str = "", /) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_S and _queue is not None:
            last = time.monotonic()
            _queue.put((number, done, text))

    return work(part, progress)


def _work_alone(work: Callable[[Part, Progress], Result], part: Part, tell: Tell) -> Result:
    """The work of a part in a process of a cluster, which has other parts after it."""
    import torch

    torch.set_num_threads(1)
    return work(part, lambda done, total, text="", /: tell(done, text))
