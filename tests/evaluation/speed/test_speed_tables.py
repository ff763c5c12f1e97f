from __future__ import annotations

import pytest

from ngbench.errors import UnknownNameError
from ngbench.evaluation.plots import draw_growth
from ngbench.evaluation.speed.benchmarks import BENCHMARKS, BenchmarkResult
from ngbench.evaluation.speed.cell import Cell, CellResult, Rate
from ngbench.evaluation.speed.configurations import configurations
from ngbench.evaluation.speed.tables import READING, Wanted, authors_growth_s, compare, plan, record
from ngbench.methods import methods


def rows(names, **wanted):
    """What is planned, as ``(table, label)``."""
    return [(job.table, job.label) for job in plan(names, Wanted(**wanted))]


def cells(names, **wanted):
    return [job.run.args[0] for job in plan(names, Wanted(**wanted)) if job.table != READING]


def result(name, case, *, method="ng-gnn", device="cpu", train=50.0, infer=200.0, peak=2**30):
    rates = [Rate(median=value, least=value - 1, most=value + 1, repeats=3, share_loading=0.01) for value in (train, infer)]
    cell = Cell(name=name, method=method, case=case, device=device)
    return CellResult(cell=cell, batch_size=8, num_edges=100.0, train=rates[0], infer=rates[1], peak_memory_bytes=peak)


@pytest.fixture(autouse=True)
def _discovered():
    """Entry points are found before a test replaces them."""
    len(methods)


def test_usual_tables_have_every_benchmark_the_shipped_zoos_and_the_light_configurations():
    planned = rows(())
    assert [label for table, label in planned if table == READING] == list(BENCHMARKS)
    of_methods = [label for table, label in planned if table == "methods"]
    assert {"ng-gnn on digits-cnn", "ng-gnn on digits-park", "flat-mlp on digits-cnn"} <= set(of_methods)
    assert not any(label.startswith("mean") for label in of_methods)
    of_configurations = [label for table, label in planned if table == "configurations"]
    assert of_configurations == ["inr-gnn-d32 on inr", "inr-gnn-d64 on inr", "cnn-gnn-d32 on cnn"]
    assert {table for table, _ in planned} == {READING, "methods", "configurations"}


def test_a_heavy_configuration_is_measured_when_its_name_or_its_case_and_method_are_asked_for():
    assert rows(["cnn-gnn", "graphs"]) == [(READING, "graphs"), ("configurations", "cnn-gnn on cnn")]
    assert ("configurations", "wide-gnn on wide") in rows((), methods=("ng-gnn",), cases=("wide",))
    assert ("configurations", "wide-gnn on wide") not in rows((), cases=("wide",))
    assert ("configurations", "inr-gnn-d32 on inr") in rows((), methods=("ng-gnn",))
    assert ("configurations", "cnn-gnn on cnn") not in rows((), methods=("ng-gnn",))
    assert rows((), methods=("flat-mlp",), cases=("inr",)) == [("methods", "flat-mlp on inr")]


def test_configurations_of_a_method_that_is_not_installed_are_left_out_unless_asked_for(monkeypatch):
    monkeypatch.setattr(methods, "_entries", {name: entry for name, entry in methods._entries.items() if name != "ng-gnn"})
    monkeypatch.setattr(methods, "_discovered", True)
    assert not any("gnn" in label for _, label in rows(()))
    with pytest.raises(UnknownNameError, match="unknown method 'ng-gnn'"):
        rows(["cnn-gnn"])


def test_a_method_that_does_not_load_does_not_keep_others_from_being_measured(monkeypatch):
    monkeypatch.setattr(methods, "_entries", {"broken": "no.such_module:Method", "flat-mlp": methods._entries["flat-mlp"]})
    monkeypatch.setattr(methods, "_discovered", True)
    planned = rows(["methods"], cases=("inr",))
    assert planned == [("methods", "broken on inr"), ("methods", "flat-mlp on inr")]


@pytest.mark.parametrize(
    ("names", "wanted", "text"),
    [
        (["grwoth"], {}, "unknown benchmark 'grwoth': did you mean 'growth'"),
        ((), {"cases": ("innr",)}, "unknown case 'innr': did you mean 'inr'"),
        ((), {"methods": ("ng-gn",)}, "unknown method 'ng-gn': did you mean 'ng-gnn'"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_runs(names, wanted, text):
    with pytest.raises(UnknownNameError, match=text):
        plan(names, Wanted(**wanted))


def test_threads_reach_the_methods_that_have_such_a_setting():
    (configuration,) = cells(["inr-gnn-d32"])
    assert configuration.settings["num_threads"] == "2"
    (configuration,) = cells(["inr-gnn-d32"], num_threads=3)
    assert configuration.settings["num_threads"] == "3"
    (own, without) = cells((), methods=("flat-mlp", "mean"), cases=("digits-cnn",), num_threads=3)
    assert (own.settings, without.settings) == ({"num_threads": "3"}, {})


def test_growth_goes_through_the_widths_of_each_method():
    planned = cells(["growth"], methods=("ng-gnn",))
    assert [cell.case for cell in planned] == [f"width-{width}" for width in (32, 64, 128, 256, 512, 1024)]
    assert planned[0].settings["channels"] == configurations()["wide-gnn"].settings["channels"]
    assert len(cells(["growth"], methods=("flat-mlp",))) == 6
    assert [cell.case for cell in cells(["growth"], methods=("ng-gnn",), cases=("width-64",))] == ["width-64"]


def test_large_is_a_step_and_an_embedding_on_the_device():
    assert [(cell.case, cell.what, cell.device) for cell in cells(["large"], device="cuda")] == [
        ("resnet50", "steps", "cuda"),
        ("resnet50", "embedding", "cuda"),
    ]
    assert [cell.settings for cell in cells(["large"])] == [{"num_threads": "2"}] * 2
    assert cells(["large"], methods=("mean",))[0].settings == {}


def test_a_configuration_is_compared_on_the_same_kind_of_device_only():
    # 12.6 in training, 20 mended, 43 in inference and 2.3 GiB on two cores; 1715 in training on the GPU
    on_cpu = compare(result("inr-gnn-d32", "inr"))
    assert on_cpu.train == pytest.approx(50 / 12.6)
    assert on_cpu.train_mended == pytest.approx(50 / 20)
    assert on_cpu.infer == pytest.approx(200 / 43)
    assert on_cpu.memory == pytest.approx(1 / 2.3)
    assert compare(result("inr-gnn-d32", "inr", device="cuda:1")).train == pytest.approx(50 / 1715)
    assert compare(result("wide-gnn", "wide")).train is None
    assert compare(result("ng-gnn", "inr")) is None


def test_seconds_of_the_authors_code_stand_beside_growth_on_a_cpu():
    assert authors_growth_s(result("ng-gnn", "width-64")) == 0.088
    assert authors_growth_s(result("ng-gnn", "width-512")) is None
    assert authors_growth_s(result("ng-gnn", "width-64", device="cuda")) is None
    assert authors_growth_s(result("flat-mlp", "width-64", method="flat-mlp")) is None


def test_a_record_has_the_authors_figures_where_there_are_any():
    content = record(result("inr-gnn-d32", "inr"))
    assert content["authors"]["cpu"]["train"] == 12.6
    assert content["times_the_authors"]["train"] == pytest.approx(50 / 12.6)
    assert "authors" not in record(result("ng-gnn", "inr"))
    timing = BenchmarkResult("nap", "sleep", 2.0, "s", "", met=None, repeats=1, spread="")
    assert record(timing)["value"] == 2.0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_of_growth_is_drawn_from_the_rows_that_have_figures(tmp_path, ending):
    empty = CellResult(cell=Cell(name="ng-t", method="ng-t", case="width-64"), reason="out of memory")
    drawn = draw_growth([result("ng-gnn", "width-32"), result("ng-gnn", "width-64"), empty], tmp_path / f"growth.{ending}")
    assert drawn.stat().st_size > 5000
