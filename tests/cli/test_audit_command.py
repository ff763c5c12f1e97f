"""``ngbench audit`` as a user types it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from baselines.trivial import Mean
from ngbench.cli import main
from ngbench.errors import NgbenchError
from ngbench.evaluation.audit import Audit
from ngbench.methods import methods


class Liar(Mean):
    """Takes one architecture, and declares any."""

    info = dataclasses.replace(Mean.info, name="liar")

    def predict(self, networks):
        networks.one_structure(reader="liar")
        if len(networks.bundles[0].topology.groups) > 5:
            raise NgbenchError("liar reads no residual networks")
        return super().predict(networks)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(methods._entries, "test-liar", Liar)


SMALL = ("--networks", 3, "--pairs", 4, "--epochs", 1, "--device", "cpu")


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in ("audit", *arguments)], env={"COLUMNS": "220"})
    assert result.exit_code == exit_code, result.output
    return result


def test_one_method_is_shown_with_its_proof_its_tables_and_its_verdicts(tmp_path):
    out = tmp_path / "audit.json"
    shown = ngbench(
        "--method", "mean", "--zoo", "digits-cnn", "--scales", "--signs", "--out", out, *SMALL, "--networks", 30
    ).stdout
    for text in ("digits-cnn v1: 30 test networks", "permutation, all layers", "function moves", "float64", "told apart, AUC"):
        assert text in shown
    assert "a transformer" in shown
    assert "unmoved by scales? mean yes" in shown
    record = Audit.model_validate_json(out.read_text())
    assert (record.plan.num_networks, record.plan.num_pairs, record.plan.pair_epochs) == (30, 4, 1)
    assert record.methods[0].equivariant == "yes"


def test_elements_that_no_network_has_are_named():
    shown = ngbench("--method", "mean", "--zoo", "digits-cnn", "--scales", *SMALL, "--networks", 2).stdout
    assert "none of these networks has elements of: scale, σ = 0.1; scale, σ = 0.5; scale, σ = 1.0" in shown


def test_json_is_the_record_and_nothing_else():
    record = Audit.model_validate(json.loads(ngbench("--method", "mean", "--zoo", "digits-cnn", "--json", *SMALL).stdout))
    assert [audit.method for audit in record.methods] == ["mean"]


def test_all_methods_make_a_markdown_table(monkeypatch):
    monkeypatch.setattr("ngbench.evaluation.audit.auditable", lambda: ["mean"])
    shown = ngbench("--all", "--zoo", "digits-cnn", *SMALL).stdout
    lines = shown.splitlines()
    assert lines[0].startswith("| method | equivariant? |")
    assert lines[2] == "| `mean` | yes | 0 | — | — | yes | 7 of 7 | no | 0.50 | 0.50 |"
    assert len(lines) == 3


def test_a_method_that_breaks_its_word_ends_with_one():
    result = ngbench("--method", "test-liar", "--zoo", "digits-cnn", *SMALL, exit_code=1)
    assert "contradiction: test-liar declares any_architecture=True, but fitted on fake CNNs of one structure" in result.stderr
    assert "some" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "got no method; expected --method NAME, perhaps several times, or --all"),
        (("--all", "--method", "mean"), "got both --all and --method"),
        (("--method", "ng-gn"), "unknown method 'ng-gn': did you mean 'ng-gnn'"),
        (("--method", "mean", "--method", "flat-ml"), "did you mean 'flat-mlp'"),
        (
            ("--method", "majority"),
            "method 'majority' is not applicable to generalization: it answers classification alone; expected one of",
        ),
        (("--method", "mean", "--zoo", "digits-cn"), "did you mean 'digits-cnn'"),
        (("--method", "mean", "--set", "width=3"), "method 'mean' has no settings; got width"),
        (("--method", "flat-mlp", "--set", "wdth=3"), "method 'flat-mlp' has no setting 'wdth'"),
        (("--method", "mean", "--out", "nowhere/audit.json"), "is in a folder that does not exist"),
        (("--method", "mean", "--device", "tpu"), "device is 'tpu'; expected one that this machine has"),
    ],
)
def test_a_mistake_is_one_line(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text in ngbench(*arguments, exit_code=2).stderr


def test_an_interruption_shows_what_there_is(monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ngbench.evaluation.audit.audit_method", stop)
    assert "interrupted after 0 of 1 methods" in ngbench("--method", "mean", exit_code=130).stderr


def test_what_was_measured_is_kept_when_a_later_method_breaks(monkeypatch, tmp_path):
    class Broken(Mean):
        def fit(self, problem, train, val, context):
            raise ValueError("a fault of the method")

    monkeypatch.setitem(methods._entries, "test-broken", Broken)
    out = tmp_path / "audit.json"
    with pytest.raises(ValueError, match="a fault of the method"):
        CliRunner().invoke(
            main,
            [str(a) for a in ("audit", "--method", "mean", "--method", "test-broken", "--out", out, *SMALL)],
            catch_exceptions=False,
        )
    assert [audit.method for audit in Audit.model_validate_json(out.read_text()).methods] == ["mean"]


def test_the_help_shows_one_command_a_line():
    shown = ngbench("--help").stdout
    assert "  ngbench audit --method ng-gnn\n" in shown
