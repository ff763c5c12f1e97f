"""``ngbench run`` and ``ngbench evaluate`` as a user types them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.cli.run import SeedList

METHOD_FILE = """
import numpy as np
from ngbench.methods import MethodInfo

class Sparsity:
    info = MethodInfo("sparsity", "Share of zeros", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 0
    def fit(self, problem, train, val, context):
        pass
    def predict(self, networks):
        return (networks.one_structure(reader="sparsity").values == 0).double().mean(1).numpy()
"""


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def finished(small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    output = ngbench("run", "--method", "weight-statistics", "--zoo", small_zoo_path, "--out", out, "--seeds", "0-1")
    return out, output


def test_a_run_prints_a_table_beside_the_baselines_and_where_the_files_are(finished):
    out, result = finished
    folder = out / "generalization/small-v1/weight-statistics"
    for text in ("weight-statistics", "hyperparameters", "mean", "Kendall", "scrambled", "±", "paired over networks"):
        assert text in result.stdout
    assert str(folder / "result.json") in result.stdout
    assert (folder / "predicted-vs-true.png").read_bytes().startswith(b"\x89PNG")


def test_what_sets_a_run_apart_from_the_protocol_is_said(finished):
    _, result = finished
    shown = " ".join(result.stdout.split())
    assert "on small v1 (not part of the protocol): " in shown
    assert "2 of the 3 seeds that the protocol asks for" in shown
    assert "left out" not in shown


def test_json_is_all_that_stands_on_standard_output(finished, small_zoo_path):
    out, _ = finished
    result = ngbench("run", "--method", "weight-statistics", "--zoo", small_zoo_path, "--out", out, "--seeds", "0,1", "--json")
    results = json.loads(result.stdout)["results"]
    assert {r["method"] for r in results} == {"weight-statistics", "hyperparameters", "mean"}
    assert all(Path(r["folder"], "result.json").exists() for r in results)


def test_evaluate_gives_the_same_numbers_again(finished, small_zoo_path):
    out, _ = finished
    folder = out / "generalization/small-v1/weight-statistics"
    # of each of two seeds 8 scores, validation, two shifts and a count; of both 8 spreads and 3 intervals
    assert f"all {2 * (8 + 1 + 2 + 1) + 8 * 2 + 3 * 4} numbers" in ngbench("evaluate", folder, "--zoo", small_zoo_path).stdout


def test_evaluate_exits_with_one_where_a_number_differs(finished, small_zoo_path, tmp_path):
    out, _ = finished
    source, folder = out / "generalization/small-v1/mean", tmp_path / "mean"
    shutil.copytree(source / "seed-0", folder / "seed-0")
    fields = json.loads((source / "result.json").read_text())
    fields["seeds"] = fields["seeds"][:1]
    fields["seeds"][0]["scores"]["kendall_tau"] = 0.99
    (folder / "result.json").write_text(json.dumps(fields))
    assert "stored 0.99" in ngbench("evaluate", folder, "--zoo", small_zoo_path, exit_code=1).stdout


def test_a_run_on_another_split_says_so_and_is_evaluated_on_it(split_zoo_path, tmp_path):
    shown = ngbench("run", "--method", "mean", "--zoo", split_zoo_path, "--out", tmp_path, "--split", "tanh-held-out").stdout
    assert "on small v1, tanh-held-out (not part of the protocol): " in " ".join(shown.split())
    folder = tmp_path / "generalization/small-v1-tanh-held-out/mean"
    assert "all 36 numbers" in ngbench("evaluate", folder, "--zoo", split_zoo_path).stdout


@pytest.mark.slow
def test_a_method_of_ones_own_runs_from_the_current_folder(small_zoo_path, tmp_path):
    (tmp_path / "my_file.py").write_text(METHOD_FILE)
    command = [sys.executable, "-m", "ngbench.cli", "run", "--method", "my_file:Sparsity", "--zoo", str(small_zoo_path)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "my_file:Sparsity" in found.stdout
    assert (tmp_path / "runs/generalization/small-v1/my_file.Sparsity/result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--method", "ng-gn"], "unknown method 'ng-gn': did you mean 'ng-gnn'"),
        (["run", "--method", "mean", "--task", "retrival"], "unknown task 'retrival'"),
        (["run", "--method", "mean", "--zoo", "digits-cn"], "did you mean 'digits-cnn'"),
        (["run", "--method", "mean", "--zoo", "gone.h5"], "gone.h5"),
        (["run", "--method", "no_such_module:Method"], "no_such_module"),
        (["run", "--method", "json:dumps"], "expected a class with info, fit and one of predict, embed, embed_nodes and match"),
        (["run", "--method", "mean", "--split", "narrow-to-wide"], "zoo 'digits-cnn' has no split 'narrow-to-wide'"),
        (["run", "--method", "mean", "--device", "tpu9"], "device is 'tpu9'; expected one that this machine has"),
        (
            ["run", "--method", "mean", "--seeds", "one"],
            "'one' is no number of seeds and no list of them; expected a number such as 3, or a list such as 0,1,2 or 0-4",
        ),
        (["run", "--method", "flat-mlp", "--set", "depth"], "setting 'depth' has no value; expected KEY=VALUE"),
        (["run", "--method", "flat-mlp", "--set", "no_such=3"], "has no setting 'no_such'; expected one of"),
        (
            ["run", "--method", "ng-gnn", "--set", "epochs=100"],
            "setting 'epochs' of method 'ng-gnn' is 100, beyond the budget of task 'generalization'; expected at most 60 epochs",
        ),
        (
            ["run", "--method", "naive"],
            "method 'naive' is not applicable to generalization: it has no predict, and answers merging alone; expected",
        ),
        (
            ["run", "--method", "majority", "--task", "classification", "--zoo", "digits-cnn"],
            "zoo 'digits-cnn' has no column 'label' for task 'classification', which is asked of digits-inr, digits-park",
        ),
        (
            ["run", "--method", "majority", "--task", "classification", "--zoo", "digits-park", "--target", "seed"],
            "column 'seed' of zoo 'digits-park' only says which network it is; expected one that task 'classification' can ask",
        ),
        (
            ["bench", "nope"],
            "known: batches, cnn-gnn, cnn-gnn-d32, cnn-t, cnn-t-base, configurations, graphs, growth, inr-gnn",
        ),
        (["evaluate", "/dev/null"], "/dev/null has no result.json; expected a folder that `ngbench run` finished"),
        (["evaluate", "no/such/folder"], "no/such/folder has no result.json"),
        (["zoo", "info", "digits-cn"], "did you mean 'digits-cnn'"),
        (["zoo", "generate", "digits-cn"], "did you mean 'digits-cnn'"),
        (["zoo", "verify", "gone.h5"], "gone.h5"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ngbench(*arguments, exit_code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("asked", [("--method", "mean"), ("--suite", "digits")])
def test_a_place_that_cannot_hold_results_is_refused_first(place, asked, tmp_path):
    (tmp_path / "file").write_text("kept")
    shown = ngbench("run", *asked, "--out", tmp_path / place, exit_code=2).stderr
    text = (
        f"error: --out {tmp_path / place} cannot be written to, since {tmp_path / 'file'} takes no new folder (Not a directory)"
    )
    assert shown.startswith(text)
    assert "expected a folder that you may write to, or one that can be made" in shown
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no folder that takes none")
def test_a_place_below_one_that_takes_no_folders_is_refused_first():
    assert "since /proc takes no new folder" in ngbench("run", "--method", "mean", "--out", "/proc/runs/a", exit_code=2).stderr


def test_a_mistake_has_no_empty_line_before_it(tmp_path):
    shown = ngbench("run", "--method", "ng-gn", "--out", tmp_path, exit_code=2).stderr
    assert shown.startswith("error: unknown method 'ng-gn'")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("5-5", (5,)), ("5,", (5,)), ("0,4-6", (0, 4, 5, 6))])
def test_seeds_are_counted_or_named(text, seeds):
    assert SeedList().convert(text, None, None) == seeds


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX has it")
@pytest.mark.parametrize("method", ["weight-statistics", "ng-gnn"])
def test_a_full_disk_gets_one_sentence_and_keeps_what_is_finished(method, small_zoo_path, tmp_path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); from ngbench.cli import main; main()"
    arguments = ["run", "--method", method, "--zoo", str(small_zoo_path), "--set" if method == "ng-gnn" else "--seeds"]
    command = [sys.executable, "-c", limited, *arguments, "epochs=1" if method == "ng-gnn" else "1"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2, found.stderr
    assert "cannot write" in found.stderr
    assert "free some space" in found.stderr
    assert "Traceback" not in found.stderr
    assert (tmp_path / "runs/generalization/small-v1/mean/seed-0/seed.json").exists()


def test_an_interruption_says_how_to_go_on(small_zoo_path, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ngbench.evaluation.protocol.make_method", stop)
    result = ngbench("run", "--method", "mean", "--zoo", small_zoo_path, "--out", tmp_path, exit_code=130)
    assert "the same command goes on from there" in result.stderr
