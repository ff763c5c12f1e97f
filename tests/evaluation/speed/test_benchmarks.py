from __future__ import annotations

import math
import time

import pytest

from ngbench.errors import UnknownNameError
from ngbench.evaluation.speed.benchmarks import BENCHMARKS, Benchmark, Workload, run_benchmarks

NUM_NETWORKS, REPEATS = 13, 2
UNITS = {
    "graphs": "networks/s",
    "zoo": "ms",
    "mapped": "networks/s",
    "memmap": "networks/s",
    "stored": "networks/s",
    "start-up": "s",
    "trace": "ms",
    "scramble": "ms",
    "batches": "batches/s",
}


def test_every_benchmark_has_its_unit_and_is_listed_here():
    assert {name: benchmark.unit for name, benchmark in BENCHMARKS.items()} == UNITS


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_runs_and_gives_a_positive_number(name):
    (result,) = run_benchmarks([name], num_networks=NUM_NETWORKS, repeats=REPEATS)
    assert (result.name, result.unit, result.repeats) == (name, UNITS[name], REPEATS)
    assert math.isfinite(result.value)
    assert result.value > 0
    assert (result.met is None) == (result.target == "")


def test_the_aims_are_those_of_the_design():
    targets = {name: (benchmark.target, benchmark.unit) for name, benchmark in BENCHMARKS.items() if benchmark.target is not None}
    assert targets == {
        "graphs": (20_000, "networks/s"),
        "zoo": (50, "ms"),
        "mapped": (500_000, "networks/s"),
        "start-up": (0.5, "s"),
    }


@pytest.fixture
def only(monkeypatch):
    """Replaces the benchmarks by those given."""

    def replace(*benchmarks):
        monkeypatch.setattr(
            "ngbench.evaluation.speed.benchmarks.BENCHMARKS", {benchmark.name: benchmark for benchmark in benchmarks}
        )

    return replace


def sleeper(name, unit, target, *durations_s):
    """A benchmark of 50 units of work that sleeps, first for the warm-up and then once for each measurement."""
    naps = iter(durations_s)
    return Benchmark(name, f"sleep {name}", unit, target, lambda num_networks: Workload(lambda: time.sleep(next(naps)), 50))


def test_the_value_is_the_median_after_the_warm_up(only):
    only(sleeper("nap", "ms", 1000, 0.3, 0.02, 0.2, 0.01))
    (result,) = run_benchmarks(repeats=3)
    assert 20 <= result.value < 200
    least, most = (float(text) for text in result.spread.split(" to "))
    assert 10 <= least <= result.value <= most
    assert 200 <= most < 300
    assert (result.target, result.met) == ("at most 1,000 ms", True)


def test_a_rate_counts_the_amount_of_work_and_is_met_from_below(only):
    only(sleeper("nap", "networks/s", 5001, 0, 0.01))
    (result,) = run_benchmarks(repeats=1)
    assert 50 / 0.2 < result.value <= 50 / 0.01
    assert (result.target, result.met) == ("at least 5,001 networks/s", False)


def test_seconds_beyond_the_aim_are_not_met(only):
    only(sleeper("nap", "s", 0.001, 0, 0.01), sleeper("rest", "s", None, 0, 0.01))
    missed, aimless = run_benchmarks(repeats=1)
    assert 0.01 <= missed.value < 1
    assert (missed.target, missed.met) == ("at most 0.001 s", False)
    assert (aimless.target, aimless.met) == ("", None)


def test_progress_names_each_benchmark_as_it_begins(only):
    only(sleeper("nap", "s", None, 0, 0), sleeper("rest", "s", None, 0, 0))
    seen = []
    run_benchmarks(progress=lambda *report: seen.append(report), repeats=1)
    assert seen == [(0, 2, "nap"), (1, 2, "rest"), (2, 2, "")]


def test_an_unknown_benchmark_is_refused_with_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown benchmark 'scrambel': did you mean 'scramble'"):
        run_benchmarks(["scrambel"])
