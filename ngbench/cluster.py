"""Spreads the parts of a long computation over a Ray cluster; the one file that knows Ray.

Ray is the extra ``ngbench[ray]``. The cluster is the one that the program is connected to, else the one that ``RAY_ADDRESS``
names, else one that runs on this machine, else one that is begun here and ended with the work.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from ngbench.errors import ClusterError

Part = TypeVar("Part")
Result = TypeVar("Result")
Executor = Literal["local", "ray"]
"""Where parts are worked on: in processes of this machine, or on a Ray cluster."""

NUM_ATTEMPTS = 4
"""How often a part is begun whose worker dies: what kills its worker each time is not tried for ever."""

PATIENCE_S = 25.0
"""How long work that is cancelled may take to end by itself."""

_REPORT_S = 0.25
_ANSWER_S = 10.0
# Ray reads them when it is imported, or begins. It reports to its makers unless told not to; and what it says of workers that
# die goes to standard output, where results stand.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
Tell = Callable[[float, str], None]


def spread(
    work: Callable[[Part, Tell], Result],
    parts: Mapping[int, Part],
    *,
    device: str,
    report: Callable[[int, Any, str], None],
    after: Mapping[int, int] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Does the work of each part on the cluster and gives the results as they are ready, in any order.

    A part takes one processor and, on CUDA, one GPU; as many are worked on at a time as the cluster has. Where a worker or its
    machine dies, or the result is lost, the part is queued again. Every machine has ngbench, in this version; modules are looked
    for on the path of this process too, and the settings ``NGBENCH_*`` of this process hold in the workers.

    Args:
        work: What is done, ``work(part, tell)``, of which ``tell(done, text)`` says how far it is; a function of a module that
            every machine has.
        parts: The parts, by number.
        device: ``"cpu"`` or ``"cuda"``.
        report: Told ``(part number, done, text)`` as parts advance, at most four times a second each.
        after: Numbers of parts that are begun after another part, whose number it gives, has ended.

    Yields:
        Number and result of each part.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached or lacks what a part takes, a machine lacks a module, or
            the worker of a part died in each of `NUM_ATTEMPTS` attempts.
    """
    num_gpus = num_gpus_of(device)
    ray = _ray()
    with _connected(ray):
        _check_resources(ray, {"CPU": 1, "GPU": num_gpus})
        # it takes no processor, and where its own process dies what it was told is lost, and nothing else
        board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        # Ray's own retries do not end where a part needs more memory than there is
        task = ray.remote(_work_on).options(num_cpus=1, num_gpus=num_gpus, max_retries=0)

        settings = {name: value for name, value in os.environ.items() if name.startswith("NGBENCH_")}

        def submit(number: int) -> Any:
            return task.remote(sys.path, settings, pickle.dumps((work, parts[number])), number, board)

        yield from _results(ray, submit, board, tuple(parts), report=report, after=after or {})


def num_gpus_of(device: str) -> int:
    """GPUs that a part takes.

    Raises:
        ClusterError: The device names one of several GPUs.
    """
    if device not in ("cpu", "cuda"):
        raise ClusterError(f"device is {device!r}; a Ray cluster itself says which GPU a part gets: expected 'cpu' or 'cuda'")
    return int(device == "cuda")


def _results(
    ray: Any,
    submit: Callable[[int], Any],
    board: Any,
    numbers: tuple[int, ...],
    *,
    report: Callable[..., None],
    after: Mapping[int, int],
) -> Iterator[tuple[int, Any]]:
    waiting = {number for number in numbers if after.get(number) in numbers}
    pending = {submit(number): number for number in numbers if number not in waiting}
    num_deaths: Counter[int] = Counter()
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=_REPORT_S)
            for number, done, text in ray.get(board.take.remote()):
                if number in pending.values():
                    report(number, done, text)
            for reference in ready:
                number = pending.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    num_deaths[number] += 1
                    _check_deaths(number, num_deaths[number], error)
                    report(number, 0, f"its worker died: attempt {num_deaths[number] + 1} of {NUM_ATTEMPTS}")
                    pending[submit(number)] = number
                    continue
                freed = {other for other in waiting if after[other] == number}
                waiting -= freed
                pending |= {submit(other): other for other in sorted(freed)}
                yield number, result
    except BaseException:
        _cancel(ray, list(pending))
        raise


def _check_deaths(number: int, num_deaths: int, error: Exception) -> None:
    if num_deaths == NUM_ATTEMPTS:
        raise ClusterError(
            f"the worker of part {number} died in each of {NUM_ATTEMPTS} attempts, the last time because of "
            f"{type(error).__name__} ({str(error).strip().splitlines()[0]}), perhaps for lack of memory; finished parts are "
            "kept: run again on machines with more memory, or with smaller parts"
        ) from error


def _cancel(ray: Any, references: list[Any]) -> None:
    """Ends work: as Ctrl-C would, and by force where that takes too long."""
    for reference in references:
        ray.cancel(reference)
    if references:
        _, running = ray.wait(references, num_returns=len(references), timeout=PATIENCE_S)
        for reference in running:
            ray.cancel(reference, force=True)


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ClusterError(
            f"Ray cannot be imported ({error}); a cluster needs it on every machine: pip install 'ngbench[ray]', or leave out "
            "the executor to work on this machine"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():
            # Ray itself asks for minutes
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS {address!r} ({str(error).strip().splitlines()[0]}); name one that runs, or "
            "unset it to work on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_resources(ray: Any, needed: Mapping[str, int]) -> None:
    found = ray.cluster_resources()
    for name, number in needed.items():
        if found.get(name, 0) < number:
            raise ClusterError(
                f"a part takes {number} {name}; the Ray cluster has {found.get(name, 0):g}: start a machine that has one, or "
                "choose another device"
            )


class _Board:
    """Where workers write how far they are, and who waits for them reads it."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float, str]] = []

    def tell(self, number: int, done: float, text: str) -> None:
        self.told.append((number, done, text))

    def take(self) -> list[tuple[int, float, str]]:
        taken, self.told = self.told, []
        return taken


def _work_on(path: list[str], settings: dict[str, str], pickled: bytes, number: int, board: Any) -> Any:
    os.environ.update(settings)
    sys.path += [place for place in path if place not in sys.path]
    try:
        work, part = pickle.loads(pickled)
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"machine {socket.gethostname()!r} of the cluster has no module {error.name!r}; expected all that this machine has: "
            "install it there"
        ) from error
    last = float("-inf")

    def tell(done: float, text: str = "", /) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_S:
            last = time.monotonic()
            board.tell.remote(number, done, text)

    return work(part, tell)
