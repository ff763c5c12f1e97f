"""The process of one cell of a suite, so that a cell that fails is a row and no more.

``python -m ngbench.evaluation.suite.process`` is that process: it takes a `SuiteCell` as JSON, tells its progress in lines of
JSON, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from ngbench.cluster import Tell
from ngbench.errors import ClusterError, NgbenchError
from ngbench.evaluation.protocol import Bench, checked_device
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.progress import Progress
from ngbench.tasks import TASKS

PATIENCE_S = 20.0
"""How long a process that was interrupted may take to keep what it has, before it is killed."""

_WAIT_S = 0.25


def begin() -> subprocess.Popen[str]:
    """A process that waits for a cell."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    return subprocess.Popen(
        [sys.executable, "-m", "ngbench.evaluation.suite.process"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def attend(process: subprocess.Popen[str], cell: SuiteCell, hear: Tell) -> tuple[int, list[str]]:
    """Gives a process its cell, hears how far it is, and gives its exit code and what it complained of, once it has ended."""
    complaints: list[str] = []
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        errors = process.stderr
        listener = threading.Thread(target=lambda: complaints.extend(errors.readlines()))
        listener.start()
        # it stays open: the process ends with this one
        print(cell.model_dump_json(), file=process.stdin, flush=True)
        for line in process.stdout:
            told = json.loads(line)
            hear(told["share"], told["text"])
        code = process.wait()
        listener.join()
    return code, complaints


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Interrupts processes, which keep what they have, and kills those that do not end."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_elsewhere(part: tuple[SuiteCell, str], tell: Tell) -> tuple[int, list[str]]:
    """Runs a cell, in a process of its own, on the machine of a cluster that this is called on.

    Args:
        part: The cell, and a file in its folder, which shows that this machine has the same folder.
        tell: Told the share that is done and a text.

    Returns:
        Exit code, and what the process complained of.

    Raises:
        ClusterError: The folder is not that of the other machines.
    """
    cell, mark = part
    if not Path(mark).exists():
        raise ClusterError(
            f"machine {socket.gethostname()!r} of the cluster does not have the folder {cell.out!r} of the machine that asks; "
            "expected one that all share, for results and what is taken up again: name it as --out"
        )
    tell(0.0, "")
    process = begin()
    with ThreadPoolExecutor(1) as pool:
        attending = pool.submit(attend, process, cell, tell)
        try:
            # what cancels this is noticed between two waits
            while not wait([attending], timeout=_WAIT_S).done:
                pass
        except BaseException:
            end([process])
            raise
    return attending.result()


def reason_of(code: int, complaints: Sequence[str]) -> str:
    """Why a process failed, by its exit code and what it complained of."""
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
    # a process that ignores or blocks interruptions, as one in the background or on a cluster does, has children that do
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    cell = SuiteCell.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_other, daemon=True).start()
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


def _end_with_the_other() -> None:
    """Ends this process when the one that began it has died, which may begin the cell anew elsewhere."""
    # not through sys.stdin, whose lock a thread must not hold when Python ends
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
