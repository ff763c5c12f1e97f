"""Predictions that were made without ngbench: from inputs to an archive with numpy alone, and every fault in a sentence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from leaderboard.archive import Archive
from leaderboard.plain import pack_plain, read_plain
from ngbench.cli import main
from ngbench.errors import SubmissionError
from ngbench.evaluation import exam_of
from ngbench.evaluation.evaluate import origin_of
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import ONE_STRUCTURE, fake_dataset
from ngbench.zoo.columns import COLUMNS

NUM_NETWORKS, NUM_CLASSES, COPIES = 60, 3, 3

STRANGER = """
import sys
import numpy as np

inputs = np.load(sys.argv[1])
count = len(inputs["ids"])

def predict(values):
    return values.reshape(count, -1).std(axis=1) + float(sys.argv[3])

np.savez(sys.argv[2], ids=inputs["ids"], values=predict(inputs["values"]), scrambled=[predict(v) for v in inputs["scrambled"]])
assert not [name for name in sys.modules if name.startswith(("ngbench", "torch", "leaderboard"))]
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    dataset = fake_dataset(ONE_STRUCTURE, num_graphs=NUM_NETWORKS, seed=5)
    bundle, names = dataset.bundles[0], ("activation", "init_scale", "optimizer", "test_accuracy")
    optimizer = np.array(["adam", "momentum", "sgd"])[np.arange(NUM_NETWORKS) % NUM_CLASSES]
    path = tmp_path_factory.mktemp("zoo") / "plain.h5"
    with ZooWriter(path, ZooInfo("plain", "2", "Fakes", "MIT", "none"), columns=[COLUMNS[name] for name in names]) as writer:
        topologies = [bundle.variants[int(variant)] for variant in bundle.variant]
        metadata = {**dataset.hyperparameters, "optimizer": optimizer, "test_accuracy": dataset.targets}
        writer.append(topologies, bundle.values.numpy(), ids=dataset.ids, metadata=metadata)
    return open_zoo(path)


@pytest.fixture(scope="module")
def exam(zoo):
    return exam_of(TASKS["generalization"].asked("plain"), zoo)


@pytest.fixture(scope="module")
def classes(zoo):
    return exam_of(TASKS["classification"].asked("plain", target="optimizer"), zoo)


@pytest.fixture
def said(exam):
    """What a sound file says."""
    rng = np.random.default_rng(3)
    count = len(exam.ids)
    return {"ids": np.array(exam.ids), "values": rng.random(count), "scrambled": rng.random((COPIES, count))}


def faults(path, exam):
    with pytest.raises(SubmissionError) as caught:
        read_plain(path, exam=exam, method="mine", seed=4)
    return caught.value.faults


def npz(folder, **arrays):
    np.savez(folder / "said.npz", **arrays)
    return folder / "said.npz"


def parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "said.parquet")
    return folder / "said.parquet"


def rows(said):
    """The same as columns of a Parquet file."""
    count = len(said["ids"])
    return {
        "id": said["ids"].tolist() * (1 + COPIES),
        "copy": np.repeat(np.arange(1 + COPIES), count),
        "values": np.concatenate([said["values"], *said["scrambled"]]).tolist(),
    }


def test_a_stranger_with_numpy_alone_hands_predictions_in(zoo, exam, tmp_path):
    def typed(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
        assert result.exit_code == 0, result.output
        return result.output

    program, inputs, archive = tmp_path / "stranger.py", tmp_path / "test.npz", tmp_path / "mine.zip"
    assert f"{len(exam.ids)} test networks and 3 scrambled copies" in typed(
        "zoo", "export", zoo.path, "--test-inputs", "--to", inputs
    )
    program.write_text(STRANGER)
    for seed in range(3):
        command = [sys.executable, program, inputs, tmp_path / f"seed-{seed}.npz", str(seed / 100)]
        subprocess.run(command, check=True, cwd=tmp_path)
    answers = {"task": "generalization", "zoo": str(zoo.path), "track": "weights", "hardware": "an abacus"}
    fits = [{"seed": s, "predictions": f"seed-{s}.npz", "num_parameters": 1, "fit_s": 0.5, "predict_s": 0.1} for s in range(3)]
    description = {"title": "Mine", "authors": ["A. Name"], "external_data": False, "answers": [{**answers, "fits": fits}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(description))
    shown = typed("submit", tmp_path / "mine.yaml", "--zoo", zoo.path, "--out", archive)
    assert "generalization on plain about test_accuracy, weights, 3 seeds" in shown
    assert "valid" in shown
    predictions, found = Archive.open(archive).predictions("predictions/generalization/plain-test_accuracy/seed-2.npz")
    assert found == []
    expected = zoo.values(zoo.split("test")).std(axis=1) + 0.02
    np.testing.assert_allclose(predictions.values, expected, rtol=1e-5)
    # the spread of weights stays the same when they change places
    np.testing.assert_allclose(predictions.scrambled, np.tile(expected, (COPIES, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_rows_are_found_by_id_in_whatever_order(exam, said, tmp_path, kind):
    order = np.random.default_rng(1).permutation(len(exam.ids))
    mixed = {"ids": said["ids"][order], "values": said["values"][order], "scrambled": said["scrambled"][:, order]}
    path = npz(tmp_path, **mixed) if kind == "npz" else parquet(tmp_path, **rows(mixed))
    found = read_plain(path, exam=exam, method="mine", seed=4)
    assert found.ids == exam.ids
    np.testing.assert_array_equal(found.values, said["values"])
    np.testing.assert_array_equal(found.scrambled, said["scrambled"])
    assert found.about == origin_of(exam.task, exam.zoo, method="mine", seed=4)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_probabilities_are_lists_of_as_many_as_there_are_classes(classes, said, tmp_path, kind):
    rng = np.random.default_rng(2)
    likely = rng.dirichlet(np.ones(NUM_CLASSES), (1 + COPIES, len(classes.ids)))
    said = {**said, "values": likely[0], "scrambled": likely[1:]}
    path = npz(tmp_path, **said) if kind == "npz" else parquet(tmp_path, **rows(said))
    np.testing.assert_array_equal(read_plain(path, exam=classes, method="mine", seed=4).scrambled, likely[1:])
    said["values"] = said["values"] * np.where(np.arange(len(classes.ids)) == 5, 2.0, 1.0)[:, None]
    path = npz(tmp_path, **said) if kind == "npz" else parquet(tmp_path, **rows(said))
    (fault,) = faults(path, classes)
    assert f"no probabilities for 1 row ({classes.ids[5]!r}), the first sum to 2; expected values from 0" in fault


def test_every_fault_is_told_at_once(exam, said, tmp_path):
    ids, values = said["ids"].copy(), said["values"].copy()
    missing, double = ids[3], ids[1]
    ids[0], ids[3], values[4] = "a stranger", double, np.nan
    first = exam.ids[0]
    found = " | ".join(faults(npz(tmp_path, ids=ids, values=values, scrambled=said["scrambled"][:2]), exam))
    for part in (
        "has 2 scrambled copies; expected 3, of `ngbench zoo export --test-inputs`",
        f"values lacks 2 rows ({first!r}, {str(missing)!r}); expected each of the {len(exam.ids)} test networks once",
        "values has, though the test split has not, 1 row ('a stranger')",
        f"values has more than once 1 row ({str(double)!r})",
        f"values is not finite for 1 row ({str(ids[4])!r})",
        "scrambled[1] lacks 2 rows",
    ):
        assert part in found


def test_arrays_of_another_kind_are_refused_with_their_shape(exam, said, tmp_path):
    count = len(exam.ids)
    cases = {
        "lacks scrambled, has ids, values; expected ids, values, scrambled": {"scrambled": None},
        "has ids of type int64": {"ids": np.arange(count)},
        f"has scrambled of shape [{count}] beside values of shape [{count}]": {"scrambled": said["values"]},
        "values has type <U1": {"values": np.array(["x"] * count)},
        "has shape [2]; expected []": {"values": said["values"][:, None].repeat(2, 1), "scrambled": np.zeros((3, count, 2))},
        f"values has type float64 and shape [{count - 1}] for {count} ids": {"values": said["values"][:-1]},
        "expected an .npz without pickled objects": {"values": np.array([{}] * count, dtype=object)},
    }
    for text, change in cases.items():
        arrays = {name: array for name, array in {**said, **change}.items() if array is not None}
        assert text in " | ".join(faults(npz(tmp_path, **arrays), exam)), text


def test_columns_of_another_kind_are_refused_with_their_type(exam, said, tmp_path):
    whole = rows(said)
    cases = {
        "lacks copy, has id, values": {"copy": None},
        "has id of type int64": {"id": np.arange(len(whole["id"]))},
        "copy of type string": {"copy": [str(copy) for copy in whole["copy"]]},
        "has copies [0, 1, 2, 7]; expected 0": {"copy": np.where(whole["copy"] == 3, 7, whole["copy"])},
        "has values of type string": {"values": ["x"] * len(whole["id"])},
        "has lists of 1 to 2 values": {"values": [[0.5]] * (len(whole["id"]) - 1) + [[0.5, 0.5]]},
        "has rows without values": {"values": [None, *whole["values"][1:]]},
        "has 2 scrambled copies": {name: column[: 3 * len(exam.ids)] for name, column in whole.items()},
    }
    for text, change in cases.items():
        columns = {name: column for name, column in {**whole, **change}.items() if column is not None}
        assert text in " | ".join(faults(parquet(tmp_path, **columns), exam)), text


def test_files_that_are_none_of_these_are_refused(exam, tmp_path):
    (tmp_path / "said.npz").write_bytes(b"PK no zip")
    (tmp_path / "said.parquet").write_bytes(b"PAR1 no table")
    assert "cannot be read" in faults(tmp_path / "said.npz", exam)[0]
    assert "expected a Parquet file" in faults(tmp_path / "said.parquet", exam)[0]
    assert "No such file" in faults(tmp_path / "gone.npz", exam)[0]
    assert faults(tmp_path / "said.csv", exam) == ("ends in '.csv'; expected .npz or .parquet",)


def test_a_description_tells_all_that_is_wrong_with_it_and_its_files(zoo, said, tmp_path):
    npz(tmp_path, ids=said["ids"], values=said["values"], scrambled=said["scrambled"][:1])
    fit = {"seed": 0, "predictions": "said.npz", "num_parameters": 1, "fit_s": 0.5, "predict_s": 0.1}
    answers = {"task": "generalization", "zoo": str(zoo.path), "track": "weights", "hardware": "an abacus"}
    whole = {"title": "Mine", "authors": ["A"], "external_data": False}

    def told(**keys):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **keys}))
        with pytest.raises(SubmissionError) as caught:
            pack_plain(tmp_path / "mine.yaml", tmp_path / "mine.zip")
        return " | ".join(caught.value.faults)

    assert "answers" in told()
    found = told(answers=[{**answers, "track": "all", "fits": [{**fit, "seeds": 1}]}])
    assert "answers.0.track" in found
    assert "answers.0.fits.0.seeds" in found
    found = told(
        answers=[{**answers, "fits": [fit, {**fit, "predictions": "gone.npz"}]}, {**answers, "task": "x", "fits": [fit]}]
    )
    for text in ("said.npz: has 1 scrambled copies; expected 3", "gone.npz: cannot be read", "unknown task 'x'"):
        assert text in found
    assert "trained_on" in told(answers=[{**answers, "trained_on": ["test"], "fits": [fit]}])
    assert not (tmp_path / "mine.zip").exists()
