"""Searches: what they try, that they never open a test split, that they go on, and their mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from baselines import search
from baselines.search import Search, fit, main, read, table
from ngbench.errors import ConfigError
from ngbench.loading import ZooPrograms
from ngbench.methods import MethodInfo
from ngbench.store import Zoo

TEXT = """
why: a test
method: mean
zoos: [digits-cnn]
seeds: [0, 3]
candidates:
  - {}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mean.yaml"
    file.write_text(TEXT)
    return file


def test_every_candidate_is_tried_on_every_zoo_with_every_seed():
    tried = Search(why="x", method="m", zoos=["a", "b"], seeds=[1, 2], candidates=[{}, {"film": False, "channels": 8}]).fits()
    expected = [(zoo, text, seed) for zoo in "ab" for text in ({}, {"film": "false", "channels": "8"}) for seed in (1, 2)]
    assert [(what["zoo"], what["settings"], what["seed"]) for what in tried] == expected


def test_a_fit_is_scored_on_the_validation_split_and_the_test_split_stays_closed(monkeypatch, path):
    opened, split = [], Zoo.split
    monkeypatch.setattr(Zoo, "split", lambda self, part, **options: opened.append(part) or split(self, part, **options))
    search._splits.cache_clear()
    record = fit(next(Search.load(path).fits()), "cpu")
    assert set(opened) == {"train", "val"}
    assert (record["val"], record["num_parameters"], record["device"]) == (0.0, 1, "cpu")


def test_a_matcher_is_scored_by_midpoints_on_validation_images(monkeypatch):
    opened, labelled = [], ZooPrograms.labelled
    monkeypatch.setattr(
        ZooPrograms,
        "labelled",
        lambda self, part, *args, **options: opened.append(part) or labelled(self, part, *args, **options),
    )
    about = {"method": "naive", "task": "merging", "zoo": "digits-mlp", "settings": {}, "seed": 0}
    record = fit(about, "cpu")
    assert set(opened) == {"train", "val"}
    assert 0.4 < record["val"] < 0.7
    assert record["recovery_0.3"] < 0.2 < record["barrier"]


def test_a_setting_that_fails_is_a_record_with_the_reason(path):
    what = {**next(Search.load(path).fits()), "settings": {"width": "4"}}
    assert "has no settings; got width" in fit(what, "cpu")["failed"]


@pytest.mark.slow
def test_what_stands_in_the_file_is_not_fitted_again(path):
    found = [CliRunner().invoke(main, [str(path)]) for _ in range(2)]
    assert [result.exit_code for result in found] == [0, 0]
    records = read(path.with_suffix(".jsonl"))
    assert [record["seed"] for record in sorted(records, key=lambda r: r["seed"])] == [0, 3]
    assert "| digits-cnn | mean | the defaults | 0.000 ± 0.000 | 2 | 1 |" in found[1].output


def test_the_best_of_a_zoo_stands_first_with_the_spread_over_its_seeds():
    def record(value, seed, **settings):
        parts = {"zoo": "z", "method": "m", "settings": settings, "seed": seed}
        return {**parts, "val": value, "fit_s": 2.0, "num_parameters": 1234}

    failed = {"zoo": "z", "method": "m", "settings": {"a": "2"}, "seed": 0, "failed": "x"}
    rows = table([record(0.5, 0), record(0.7, 0, a="1"), record(0.9, 1, a="1"), failed]).splitlines()
    assert rows[2] == "| z | m | a 1 | 0.800 ± 0.141 | 2 | 1,234 | 2 |"
    assert rows[-1] == "| z | m | the defaults | 0.500 | 1 | 1,234 | 2 |"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("why: [", r"search .*\.yaml is no YAML"),
        ("why: x", r"search .*\.yaml: method: Field required; expected the fields why, method, task, zoos"),
        (TEXT + "speed: 3", "speed: Extra inputs are not permitted"),
        (TEXT.replace("[0, 3]", "[]"), "seeds: List should have at least 1 item"),
    ],
)
def test_a_file_that_is_no_search_is_refused(text, message, path):
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Search.load(path)
    result = CliRunner().invoke(main, [str(path)])
    assert (result.exit_code, result.output.startswith("error: search")) == (2, True)


@pytest.mark.parametrize("file", sorted((Path(search.__file__).parent / "searches").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_search_is_one_and_its_results_are_of_its_candidates(file):
    keys = {search._key(what) for what in Search.load(file).fits()}
    results = read(file.with_suffix(".jsonl"))
    assert results
    assert {search._key(record) for record in results} <= keys
    assert all(0 < record["val"] < 1 for record in results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cdua"], "device is 'cdua'; expected one that this machine has: cpu"),
        (["--zoo", "digits-cn"], "zoo 'digits-cn' is in none of these searches; expected one of digits-cnn"),
    ],
)
def test_an_unknown_device_or_zoo_is_refused_before_anything_is_fitted(options, message, path):
    result = CliRunner().invoke(main, [str(path), *options])
    assert (result.exit_code, message in result.output) == (2, True)
    assert not path.with_suffix(".jsonl").exists()


class Unlucky:
    """A method that fails with an error of Python's own for one seed."""

    info = MethodInfo("unlucky", "Unlucky", "none", invariant=True, any_architecture=True, paper="none")
    num_parameters = 1

    def fit(self, problem, train, val, context):
        if context.seed == 3:
            raise MemoryError("no memory for 3")

    def predict(self, networks):
        return np.zeros(len(networks))


@pytest.mark.slow
def test_an_error_of_any_kind_is_a_record_and_the_other_fits_go_on(path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    path.write_text(TEXT.replace("method: mean", f"method: {__name__}:Unlucky"))
    for _ in range(2):
        assert CliRunner().invoke(main, [str(path)]).exit_code == 0
        records = sorted(read(path.with_suffix(".jsonl")), key=lambda record: record["seed"])
        found = [(record["seed"], record.get("val"), record.get("failed")) for record in records]
        assert found == [(0, 0.0, None), (3, None, "MemoryError: no memory for 3")]
