from __future__ import annotations

import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ngbench.errors import GraphError
from ngbench.evaluation.speed import cell as cells
from ngbench.evaluation.speed.cases import CASES, Case, random_networks
from ngbench.evaluation.speed.cell import Cell, CellResult, Timed, measure, measure_apart
from ngbench.loading import GraphDataset
from ngbench.registry import Registry
from ngbench.testing import mlp_topology

NUM_NETWORKS, BATCH_SIZE = 12, 4
TINY = Case("tiny", "MLPs", BATCH_SIZE, lambda num_graphs: random_networks(mlp_topology((2, 5, 3)), num_graphs), num_batches=3)

PLANTED = """
import os, resource, signal
import numpy as np

class Planted:
    num_parameters = 17

    def fit(self, *parts): ...
    def predict(self, *parts): ...
    info = None

    def steps(self, problem, train, context, *, batch_size):
        return self.endless(batch_size)

    def forwards(self, networks, context, *, batch_size):
        return self.endless(batch_size)

    def endless(self, batch_size):
        while True:
            self.work()
            yield batch_size

    def work(self): ...

class Hungry(Planted):
    def work(self):
        np.ones(200_000_000, dtype=np.uint8)

class Faulty(Planted):
    def work(self):
        raise ZeroDivisionError(f"within {resource.getrlimit(resource.RLIMIT_DATA)[0]} bytes")

class Killed(Planted):
    def work(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Talkative(Planted):
    def work(self):
        print("step")
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Path of a method in a module of its own; a part of it is planted."""
    (tmp_path / "planted_methods.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: f"planted_methods:{name}"
    sys.modules.pop("planted_methods", None)


@pytest.fixture
def tiny(monkeypatch):
    """Replaces the cases by a tiny one."""
    registry = Registry("case")
    registry.register("tiny", TINY)
    monkeypatch.setattr("ngbench.evaluation.speed.cases.CASES", registry)
    monkeypatch.setattr(cells, "REPEAT_S", 0.001)


def apart(method):
    return measure_apart(Cell(name="row", method=method, case="width-32", repeats=2))


@pytest.mark.slow
def test_two_hundred_megabytes_that_a_step_takes_and_gives_back_are_seen_in_a_fresh_process(planted):
    hungry, modest = apart(planted("Hungry")), apart(planted("Talkative"))
    assert 195e6 < hungry.peak_memory_bytes < 230e6
    assert modest.peak_memory_bytes < 40e6
    assert (hungry.batch_size, hungry.num_parameters, hungry.train.repeats) == (CASES["width-32"].batch_size, 17, 2)
    assert hungry.train.least <= hungry.train.median <= hungry.train.most


def test_a_fault_of_a_method_is_a_reason_with_its_text_and_the_process_may_not_take_more_than_the_machine_has(planted):
    result = apart(planted("Faulty"))
    fault, limit = re.fullmatch(r"(\w+): within (\d+) bytes", result.reason).groups()
    assert (fault, result.is_fault, result.train) == ("ZeroDivisionError", True, None)
    assert 0 < int(limit) <= 1.1 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_process_that_the_system_ends_is_a_reason(planted):
    assert apart(planted("Killed")).reason == "the system ended the process, most likely for want of memory"


def method_of_steps(monkeypatch, steps, forward=lambda: None):
    """Puts a method in place whose training is the function given, and whose forward pass does some work."""
    method = SimpleNamespace(steps=steps, forwards=lambda *parts, batch_size: endless(batch_size, forward), num_parameters=3)
    monkeypatch.setattr("ngbench.methods.make_method", lambda name, settings: method)
    return Cell(name="row", method="any", case="tiny", repeats=3)


def endless(batch_size, work=lambda: None):
    while True:
        work()
        yield batch_size


@pytest.fixture
def nap(monkeypatch):
    """Sleeps on a clock that nothing else moves."""
    now = [0.0]

    def sleep(duration_s):
        now[0] += duration_s

    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return sleep


@pytest.mark.usefixtures("tiny")
def test_the_share_of_a_slow_loader_is_seen(monkeypatch, nap):
    make = GraphDataset.batch
    monkeypatch.setattr(GraphDataset, "batch", lambda self, positions=None: (nap(0.03), make(self, positions))[1])

    def steps(problem, train, context, *, batch_size):
        return endless(batch_size, lambda: (train.batch(torch.arange(batch_size).numpy()), nap(0.01)))

    cell = method_of_steps(monkeypatch, steps, forward=lambda: nap(0.01))
    slow = measure(cell)
    assert slow.train.share_loading == pytest.approx(0.75)
    assert slow.infer.share_loading == 0
    monkeypatch.setattr(GraphDataset, "batch", make)
    assert measure(cell).train.share_loading == 0


@pytest.mark.usefixtures("tiny")
def test_a_rate_counts_networks_and_leaves_the_warm_up_out(monkeypatch, nap):
    naps = iter([0.2, 0.1, 0.01, 0.02, 0.05, 0.04])

    def steps(*parts, batch_size):
        return endless(batch_size, lambda: nap(next(naps)))

    rate = measure(method_of_steps(monkeypatch, steps, forward=lambda: nap(0.01))).train
    assert [rate.least, rate.median, rate.most] == pytest.approx([BATCH_SIZE / 0.05, BATCH_SIZE / 0.04, BATCH_SIZE / 0.02])
    assert rate.repeats == 3


@pytest.mark.usefixtures("tiny")
def test_slow_steps_are_repeated_twice_only(monkeypatch, nap):
    monkeypatch.setattr(cells, "LIMIT_S", 0.03)

    def steps(*parts, batch_size):
        return endless(batch_size, lambda: nap(0.02))

    assert measure(method_of_steps(monkeypatch, steps, forward=lambda: nap(0.01))).train.repeats == 2


@pytest.mark.usefixtures("tiny")
def test_what_a_method_refuses_is_a_reason(monkeypatch):
    def refuse(*parts, batch_size):
        raise GraphError("it reads no MLPs")

    result = measure(method_of_steps(monkeypatch, refuse))
    assert (result.reason, result.is_fault) == ("it reads no MLPs", False)


@pytest.mark.usefixtures("tiny")
def test_memory_that_the_machine_lacks_is_a_reason_and_another_runtime_error_is_not_hidden(monkeypatch):
    def lack_in_numpy(*parts, batch_size):
        np.ones(1 << 50, dtype=np.uint8)

    reason = measure(method_of_steps(monkeypatch, lack_in_numpy)).reason
    assert reason.startswith("out of memory: Unable to allocate 1.00 PiB")

    def lack(*parts, batch_size):
        torch.empty(1 << 50)

    assert measure(method_of_steps(monkeypatch, lack)).reason == "out of memory: it asks for more than this machine has free"

    def fail(*parts, batch_size):
        raise RuntimeError("shapes 3 and 4 do not match")

    with pytest.raises(RuntimeError, match="shapes 3 and 4"):
        measure(method_of_steps(monkeypatch, fail))


@pytest.mark.usefixtures("tiny")
def test_a_method_without_steps_or_embeddings_is_a_reason():
    steps, embedding = (Cell(name="mean", method="mean", case="tiny", what=what) for what in ("steps", "embedding"))
    assert "mean has no steps that can be timed" in measure(steps).reason
    assert "mean has no embed" in measure(embedding).reason


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("method", ["ng-gnn", "flat-mlp"])
def test_a_method_of_the_package_is_measured(method):
    result = measure(Cell(name=method, method=method, case="tiny", repeats=2))
    assert result.reason is None
    assert (result.batch_size, result.num_edges, result.num_threads) == (BATCH_SIZE, 25, 1)
    assert result.num_parameters > 0
    assert result.train.median > 0
    assert result.infer.median > 0
    assert CellResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.usefixtures("tiny")
def test_an_embedding_is_measured():
    result = measure(Cell(name="ng-gnn", method="ng-gnn", case="tiny", what="embedding"))
    assert result.embed.median > 0
    assert (result.train, result.batch_size) == (None, NUM_NETWORKS)


def test_timed_networks_are_the_same_networks():
    networks = TINY.networks()
    timed = Timed.of(networks).to("cpu")
    assert timed.batch().bundles[0].values.equal(networks.bundles[0].values)
    assert timed.clock.seconds > 0
