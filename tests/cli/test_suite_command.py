"""``ngbench run --suite`` as a user types it."""

import json

import pytest
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.evaluation.suite.cells import Suite, SuiteCell
from ngbench.evaluation.suite.running import Runner


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def asked(monkeypatch, small_zoo_path, tmp_path):
    """Puts a suite on the small zoo in place, of one cell that is left out and of others; gives how it was asked."""
    calls = []

    def put(*methods):
        def cells(self, seeds, *, methods=(), out, device):
            calls.append((tuple(seeds), tuple(methods), out, device))
            return [cell_of(name) for name in names]

        def cell_of(name):
            left_out = "it takes | hours" if name == "ng-t" else None
            options = {"task": "generalization", "target": "test_accuracy", "seeds": (0,), "out": str(tmp_path / "runs")}
            return SuiteCell(method=name, zoo=str(small_zoo_path), left_out=left_out, **options)

        names = ("ng-t", *methods)
        monkeypatch.setattr(Suite, "cells", cells)
        return calls

    return put


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--suite", "digits", "--task", "merging"), "--task cannot be given beside --suite, which names its own tasks and zoos"),
        (("--suite", "digits", "--zoo", "digits-cnn", "--target", "optimizer"), "--zoo, --target cannot be given beside --suite"),
        (("--suite", "digits", "--split", "default", "--set", "width=4"), "--split, --set cannot be given beside --suite"),
        (
            ("--suite", "digits", "--set", "epochs=3"),
            "--set cannot be given beside --suite, which runs its methods as",
        ),
        (("--suite", "digit"), "unknown suite 'digit': did you mean 'digits'"),
        (("--suite", "digits", "--method", "ng-gn"), "unknown method 'ng-gn': did you mean 'ng-gnn'"),
        (("--suite", "digits", "--device", "tpu9"), "device is 'tpu9'; expected one that this machine has"),
        (("--suite", "digits", "--seeds", "0,0"), "seeds are [0, 0]; expected one or more different numbers"),
        ((), "no method is named; expected --method ng-gnn or the like, or --suite digits for all of them"),
        (("--task", "merging"), "no method is named"),
        (
            ("--suite", "digits", "--jobs", "2", "--executor", "ray"),
            "--jobs is given beside --executor ray, whose cluster says how",
        ),
        (
            ("--method", "mean", "--executor", "ray"),
            "--executor ray is given without --suite, whose cells alone run side by side",
        ),
        (("--method", "mean", "--jobs", "2"), "--jobs is given without --suite, whose cells alone run side by side"),
    ],
)
def test_a_mistake_gets_one_sentence_and_nothing_is_run(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ngbench("run", *arguments, exit_code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_no_job_is_a_mistake():
    assert "--jobs" in ngbench("run", "--suite", "digits", "--jobs", "0", exit_code=2).stderr


def test_tables_are_printed_and_written_and_cells_that_are_not_run_are_no_failure(asked, tmp_path):
    calls = asked("random-embedding")
    arguments = ("--seeds", "0,2", "--method", "ng-t", "--method", "deepset", "--out", tmp_path / "runs", "--device", "cpu")
    shown = ngbench("run", "--suite", "digits", *arguments)
    assert calls == [((0, 2), ("ng-t", "deepset"), str(tmp_path / "runs"), "cpu")]
    assert "### Predicting generalization on" in shown.stdout
    assert r"| ng-t | it takes \| hours |" in shown.stdout
    assert "| random-embedding | method 'random-embedding' is not applicable to generalization: it has no predict" in shown.stdout
    path = tmp_path / "runs/digits.md"
    assert f"tables   {path}" in shown.stdout
    assert path.read_text(encoding="utf-8").strip() in shown.stdout
    assert "2 of 2 cells" in shown.stderr


def test_a_cell_that_fails_is_a_row_and_exit_code_one(asked, tmp_path):
    asked("no_such_module:Method")
    shown = ngbench("run", "--suite", "digits", "--out", tmp_path, exit_code=1)
    assert "| no_such_module:Method | method 'no_such_module:Method' does not load" in shown.stdout
    assert r"| ng-t | it takes \| hours |" in shown.stdout


def test_json_is_all_that_stands_on_standard_output(asked, tmp_path):
    asked("no_such_module:Method")
    shown = ngbench("run", "--suite", "digits", "--out", tmp_path, "--json", exit_code=1)
    found = json.loads(shown.stdout)
    assert [(cell["method"], cell["status"]) for cell in found["cells"]] == [
        ("ng-t", "left out"),
        ("no_such_module:Method", "failed"),
    ]
    assert found["cells"][0]["reason"] == "it takes | hours"
    assert found["tables"] == str(tmp_path / "digits.md")
    assert shown.stderr == ""


def test_an_interruption_says_how_to_go_on(asked, tmp_path, monkeypatch):
    asked("mean")

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", stop)
    shown = ngbench("run", "--suite", "digits", "--out", tmp_path, exit_code=130)
    assert f"interrupted: what is finished is kept in {tmp_path}; the same command goes on from there" in shown.stderr
    assert "###" not in shown.stdout
