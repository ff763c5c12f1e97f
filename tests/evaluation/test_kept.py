from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from baselines.flat_mlp import FlatMLP
from ngbench.errors import MethodError, ResultError
from ngbench.evaluation import run
from ngbench.evaluation.kept import KEPT_FILE, KEPT_FOLDER, keep, open_run
from ngbench.store import open_zoo

SETTINGS = {"epochs": "1", "width": "7"}


class Mine(FlatMLP):
    """A method that is named by its path."""


@pytest.fixture(scope="module")
def folder(small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    run("flat-mlp", zoo=small_zoo_path, seeds=(0, 3), settings=SETTINGS, out=out, device="cpu")
    (found,) = out.glob("generalization/small-v1/flat-mlp-*")
    return found


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edited(place, **changes):
    path = place / KEPT_FOLDER / KEPT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_run_keeps_each_seed_and_what_it_said_of_the_validation_networks(folder, small_zoo_path):
    kept, zoo = open_run(folder), open_zoo(small_zoo_path)
    assert [record.seed for record in kept.records] == [0, 3]
    assert kept.first.method == "flat-mlp"
    rows = zoo.split("val")
    np.testing.assert_array_equal(kept.first.val_targets, zoo.metadata["test_accuracy"][rows])
    from ngbench.loading import GraphDataset

    networks = GraphDataset.from_zoo(zoo, rows)
    np.testing.assert_allclose(kept.ask("predict", networks), [record.val_predictions for record in kept.records], rtol=1e-14)
    mean = np.mean([method.predict(networks) for method in kept.methods], axis=0)
    np.testing.assert_allclose(kept.residuals(), np.abs(mean - np.array(kept.first.val_targets)), atol=1e-14)


def test_one_seed_is_opened_by_its_folder(folder):
    assert [record.seed for record in open_run(folder / "seed-3").records] == [3]


def test_a_method_that_cannot_be_saved_is_not_kept(folder):
    with pytest.raises(ResultError, match="mean has no fitted method: its method cannot be saved"):
        open_run(folder.parent / "mean")
    assert not list((folder.parent / "mean").glob(f"*/{KEPT_FOLDER}"))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ResultError, match="it is no folder that `ngbench run` wrote"):
        open_run(tmp_path)


def test_a_seed_of_which_nothing_is_kept_is_fitted_again(folder, small_zoo_path):
    shutil.rmtree(folder / "seed-0" / KEPT_FOLDER)
    before = (folder / "seed-3" / KEPT_FOLDER / KEPT_FILE).stat().st_mtime_ns
    out = folder.parents[2]
    run("flat-mlp", zoo=small_zoo_path, seeds=(0, 3), settings=SETTINGS, out=out, device="cpu")
    assert (folder / "seed-0" / KEPT_FOLDER / KEPT_FILE).exists()
    assert (folder / "seed-3" / KEPT_FOLDER / KEPT_FILE).stat().st_mtime_ns == before


def test_what_fails_to_be_saved_leaves_what_was_kept_before(copy, folder):
    class Fails:
        def save(self, folder):
            (folder / "half").write_text("")
            raise OSError("no room")

    before = (copy / "seed-0" / KEPT_FOLDER / KEPT_FILE).read_text()
    with pytest.raises(OSError, match="no room"):
        keep(Fails(), open_run(folder).first, copy / "seed-0")
    assert (copy / "seed-0" / KEPT_FOLDER / KEPT_FILE).read_text() == before
    assert not list((copy / "seed-0").glob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zoo_sha256": "0" * 64}, "seeds 0, 3 in .* were fitted on other networks"),
        ({"val_predictions": [0.5]}, "validation predictions; expected as many as answers"),
        ({"format_version": 9}, "kept.json is no Kept that this ngbench can read"),
        ({"more": 1}, "kept.json is no Kept that this ngbench can read .more: Extra inputs"),
    ],
)
def test_records_that_do_not_fit_together_or_are_of_another_version_are_refused(copy, changes, message):
    edited(copy / "seed-3", **changes)
    with pytest.raises(ResultError, match=message):
        open_run(copy)


def test_code_that_a_file_names_is_run_only_if_the_user_names_it_too(copy):
    for seed in (0, 3):
        edited(copy / f"seed-{seed}", method=f"{__name__}:Mine")
    with pytest.raises(MethodError, match=f"method '{__name__}:Mine', which is code of its own; expected --method"):
        open_run(copy)


def test_a_method_without_a_call_says_so(folder):
    class Silent:
        pass

    from dataclasses import replace

    with pytest.raises(MethodError, match="method 'flat-mlp' of .* has no embed"):
        replace(open_run(folder), methods=(Silent(),)).ask("embed", None)
