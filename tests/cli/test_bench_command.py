"""``ngbench bench`` as a user types it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.evaluation.speed.cell import Cell, CellResult, Rate


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result


def measured(cell, *, loading=0.01):
    rate = Rate(median=252.0, least=200.0, most=300.0, repeats=3, share_loading=loading)
    edges = {"width-32": 1184.0, "width-64": 4480.0}.get(cell.case, 1120.0)
    return CellResult(
        cell=cell, batch_size=128, num_edges=edges, num_parameters=1234, num_threads=2, train=rate, infer=rate,
        peak_memory_bytes=2**30,
    )  # fmt: skip


@pytest.fixture
def fake_cells(monkeypatch):
    """Replaces measuring by a function of the cell."""
    return lambda function: monkeypatch.setattr("ngbench.evaluation.speed.tables.measure_apart", function)


def test_a_configuration_stands_beside_its_authors_code(fake_cells):
    fake_cells(measured)
    shown = ngbench("bench", "inr-gnn-d32", "--device", "cpu").stdout
    assert "252 (200 to 300)" in shown
    assert "20 ×" in shown
    assert "12.6 ×" in shown
    assert "two cores of an AMD EPYC" in shown


def test_json_has_the_machine_the_rows_and_the_authors_figures(fake_cells):
    fake_cells(measured)
    content = json.loads(ngbench("bench", "inr-gnn-d32", "scramble", "--device", "cpu", "--json").stdout)
    assert content["environment"]["device"] == "cpu"
    assert content["reading"][0]["name"] == "scramble"
    (row,) = content["configurations"]
    assert (row["train"]["median"], row["authors"]["cpu"]["train"]) == (252.0, 12.6)


def test_a_cell_that_a_method_refuses_is_a_dash_with_the_reason_below(fake_cells):
    fake_cells(
        lambda cell: CellResult(cell=cell, reason="it reads [one] architecture") if cell.case == "wide" else measured(cell)
    )
    shown = ngbench("bench", "methods", "--method", "flat-mlp", "--case", "wide", "--case", "inr", "--device", "cpu").stdout
    assert "— flat-mlp on wide: it reads [one] architecture" in shown
    assert "1,234" in shown


def test_a_fault_of_a_method_ends_the_command_with_one(fake_cells):
    fake_cells(lambda cell: CellResult(cell=cell, reason="ZeroDivisionError: seven", is_fault=True))
    shown = ngbench("bench", "cnn-gnn", "--device", "cpu", exit_code=1).stdout
    assert "ZeroDivisionError: seven" in shown


def test_an_interrupted_bench_prints_what_there_is(fake_cells):
    def interrupted(cell):
        if cell.case == "wide":
            raise KeyboardInterrupt
        return measured(cell)

    fake_cells(interrupted)
    arguments = ("bench", "methods", "--method", "flat-mlp", "--case", "inr", "--case", "wide", "--device", "cpu")
    result = ngbench(*arguments, exit_code=130)
    assert "252 (200 to 300)" in result.stdout
    assert "interrupted after 1 of 2 rows" in result.stderr


def test_growth_is_printed_and_drawn(fake_cells, tmp_path):
    fake_cells(measured)
    path = tmp_path / "growth.png"
    arguments = ("--method", "ng-gnn", "--case", "width-32", "--case", "width-64", "--device", "cpu", "--picture", path)
    shown = ngbench("bench", "growth", *arguments).stdout
    assert path.stat().st_size > 5000
    assert "0.088" in shown
    assert "tuned malloc" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nonsense",), "unknown benchmark 'nonsense'"),
        (("--case", "innr"), "unknown case 'innr': did you mean 'inr'"),
        (("--device", "tpu"), "device is 'tpu'; expected one that this machine has: cpu"),
        (("--picture", "growth.png"), "--picture growth.png draws the table growth, which is not asked for"),
        (("growth", "--picture", "growth.bmp"), "picture 'growth.bmp' ends with '.bmp'"),
    ],
)
def test_a_mistake_is_one_line(arguments, text):
    assert text in ngbench("bench", *arguments, exit_code=2).stderr


def test_names_in_the_help_exist():
    shown = ngbench("bench", "--help").stdout
    assert all(name in shown for name in ("reading", "methods", "configurations", "growth", "large"))
    assert Cell(name="a", method="b", case="c").repeats == 5
