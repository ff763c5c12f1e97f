"""What a run cost and where it ran."""

import subprocess
import sys
import time

import numpy as np

from ngbench.evaluation.environment import Usage, current_environment

MEASURED = """
import time
import numpy as np
from ngbench.evaluation.environment import Usage

with Usage("cpu") as usage:
    block = np.ones(30_000_000)
    time.sleep(0.1)
print(usage.duration_s, usage.peak_memory_bytes, block.nbytes)
"""


def test_usage_measures_time_and_memory_of_what_runs_inside():
    # in a process of its own: one that has trained keeps memory, which a block may then take without a rise
    printed = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True).stdout.split()
    duration_s, peak_memory_bytes, block_bytes = float(printed[0]), printed[1], int(printed[2])
    assert block_bytes == 240_000_000
    assert duration_s > 0.1
    assert peak_memory_bytes == "None" or 200e6 < int(peak_memory_bytes) < 400e6


def test_memory_held_before_does_not_count():
    block = np.ones(30_000_000)
    with Usage("cpu") as usage:
        time.sleep(0.05)
    assert block[0] == 1
    assert usage.peak_memory_bytes is None or usage.peak_memory_bytes < 50e6


def test_the_environment_names_versions_and_device():
    found = current_environment("cpu")
    assert found.device == "cpu"
    assert found.num_threads > 0
    assert {"torch", "numpy", "h5py"} <= set(found.packages)


def test_a_peak_too_short_for_the_samples_is_counted(monkeypatch):
    figures = iter([("VmRSS", 100), ("VmHWM", 120), ("VmHWM", 350)])

    def of(entry):
        expected, megabytes = next(figures)
        assert entry == expected
        return megabytes * 10**6

    monkeypatch.setattr("ngbench.evaluation.environment.memory_bytes", of)
    monkeypatch.setattr(Usage, "_sample", lambda self: None)
    with Usage("cpu") as usage:
        pass
    assert usage.peak_memory_bytes == 250 * 10**6
