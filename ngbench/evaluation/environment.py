"""Where a run took place: versions, device, commit, and how much memory and time it took."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_limits

PACKAGES = ("ngbench", "torch", "torch_geometric", "numpy", "scipy", "scikit-learn", "h5py")


class Environment(BaseModel):
    """What a result depends on beside its configuration.

    Attributes:
        device: Torch device, with its name.
        num_threads: CPU threads that torch used.
        platform: Operating system and processor.
        python: Python version.
        packages: Versions by package name.
        git_commit: Commit of the ngbench checkout, ``+changes`` behind it where files differ; None outside a checkout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    num_threads: int
    platform: str
    python: str
    packages: dict[str, str]
    git_commit: str | None


def current_environment(device: str) -> Environment:
    """The environment of this process.

    Args:
        device: Torch device name.
    """
    import torch

    return Environment(
        device=f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device,
        num_threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=versions_of(PACKAGES),
        git_commit=_git_commit(Path(__file__).resolve().parents[2]),
    )


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Version of each package that is installed."""
    return {name: found for name in packages if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    if not (folder / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, torch and the libraries under numpy compute on one thread, so that their sums have one order."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(num_threads)


class Usage:
    """Seconds and peak memory of what runs inside a ``with``: resident memory over what it was before, or CUDA memory allocated.

    Attributes:
        duration_s: Wall-clock seconds.
        peak_memory_bytes: None where the platform does not tell.
    """

    def __init__(self, device: str):
        self.duration_s = 0.0
        self.peak_memory_bytes: int | None = None
        self._device = device
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Usage:
        self._before, self._highest = memory_bytes("VmRSS"), memory_bytes("VmHWM")
        self._peak = self._before
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._sampler.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.duration_s = time.perf_counter() - self._start
        self._stop.set()
        if self._device.startswith("cuda"):
            import torch

            self.peak_memory_bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._before is not None and self._peak is not None:
            self._sampler.join()
            highest = memory_bytes("VmHWM")
            if highest is not None and highest > (self._highest or 0):
                # a new peak of the whole process, which the samples may have missed
                self._peak = highest
            self.peak_memory_bytes = max(0, self._peak - self._before)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            resident = memory_bytes("VmRSS")
            if resident is None:
                return
            self._peak = max(self._peak or 0, resident)


def memory_bytes(entry: str) -> int | None:
    """Memory of this process, as Linux counts it; None elsewhere.

    Args:
        entry: ``"VmRSS"`` for what is resident, ``"VmHWM"`` for its peak so far, ``"VmData"`` for what is private.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line.split() for line in status.splitlines() if line.startswith(f"{entry}:")]
    return 1024 * int(lines[0][1]) if lines else None
