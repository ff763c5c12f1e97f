"""Small CNN Zoo, from files in its layout."""

from __future__ import annotations

import csv
import gzip
import random

import numpy as np
import pytest
import torch

from ngbench.errors import ForeignZooError
from ngbench.graph import restore
from ngbench.store import PUBLISHED, import_zoo, verify
from ngbench.store.published.small_cnn import SmallCnn

LAYOUT = """varname,start_idx,end_idx,size,shape
sequential/conv2d/bias:0,0,16,16,"(16,)"
sequential/conv2d/kernel:0,16,160,144,"(3, 3, 1, 16)"
sequential/conv2d_1/bias:0,160,176,16,"(16,)"
sequential/conv2d_1/kernel:0,176,2480,2304,"(3, 3, 16, 16)"
sequential/conv2d_2/bias:0,2480,2496,16,"(16,)"
sequential/conv2d_2/kernel:0,2496,4800,2304,"(3, 3, 16, 16)"
sequential/dense/bias:0,4800,4810,10,"(10,)"
sequential/dense/kernel:0,4810,4970,160,"(16, 10)"
"""
EPOCHS = (0, 40, 86)
NUM_RUNS = 11


def metrics():
    rows = []
    for run in range(NUM_RUNS):
        for epoch in EPOCHS:
            row = {"": f"x/{run}", "config.activation": ("relu", "tanh")[run % 2], "config.b_init": "zeros"}
            row |= {"config.dataset": "mnist", "config.dnn_architecture": "cnn", "config.dropout": 0.1 * (run % 5)}
            row |= {"config.epochs": 86, "config.init_std": "" if run % 3 else 0.02, "config.l2reg": 1e-5 * run}
            row |= {"config.learning_rate": 1e-3 * (run + 1), "config.optimizer": "adam", "config.random_seed": 42}
            row |= {"config.train_fraction": 0.5, "config.w_init": "he_normal", "modeldir": f"/data/{run:04d}", "step": epoch}
            rows.append(row | {"test_accuracy": epoch / 100, "test_loss": 2.0, "train_accuracy": 0.9, "train_loss": 0.3})
    return rows


def write(folder, *, rows=None, weights=None, layout=LAYOUT, order="header"):
    rows = metrics() if rows is None else rows
    home = folder / "mnist"
    home.mkdir(parents=True)
    values = np.random.default_rng(4).normal(size=(len(rows), 4970)).astype(np.float32) if weights is None else weights
    np.save(home / "weights.npy", values)
    (home / "layout.csv").write_text(layout)
    with gzip.open(home / "metrics.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if order:
        places = np.random.default_rng(9).permutation(len(rows)).tolist()
        (folder / "mnist_split.csv").write_text("".join(f"{place}\n" for place in ([0] if order == "header" else []) + places))
    return values


@pytest.fixture
def zoo(tmp_path):
    write(tmp_path / "files")
    return import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_every_row_becomes_the_network_that_tensorflow_would_run(zoo, tmp_path):
    rows = np.load(tmp_path / "files/mnist/weights.npy")
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(6))
    for index in (0, 4, 32):
        module = SmallCnn(28, ("relu", "tanh")[index // 3 % 2]).module().eval()
        module.load_state_dict(restore(zoo[index]))
        hidden = images.permute(0, 2, 3, 1).double().numpy()
        for start, channels in ((0, 1), (160, 16), (2480, 16)):
            bias = rows[index, start : start + 16]
            kernel = rows[index, start + 16 : start + 16 + 9 * channels * 16].reshape(3, 3, channels, 16)
            windows = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), axis=(1, 2))[:, ::2, ::2]
            hidden = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias
            hidden = np.maximum(hidden, 0) if index // 3 % 2 == 0 else np.tanh(hidden)
        logits = hidden.mean((1, 2)) @ rows[index, 4810:].reshape(16, 10) + rows[index, 4800:4810]
        assert np.allclose(module(images).detach().numpy(), logits, rtol=1e-3, atol=1e-3)


def test_checkpoints_have_their_metrics_and_their_run(zoo):
    assert zoo.ids[4] == "/data/0001/40"
    assert zoo.run_ids[4] == "/data/0001"
    assert zoo.metadata["epoch"].tolist() == list(EPOCHS) * NUM_RUNS
    assert zoo.metadata["activation"][3] == "tanh"
    assert zoo.metadata["test_accuracy"][2] == 0.86
    assert np.isnan(zoo.metadata["init_std"][3])
    assert zoo.info.licence == "CC-BY-4.0"


def test_the_reference_split_is_that_of_the_readers_of_the_field(zoo, tmp_path):
    order = [int(line) for line in (tmp_path / "files/mnist_split.csv").read_text().split()]
    assert len(order) == 34
    final = [row for row in order[1:] if row % 3 == 2]
    places = list(range(len(final) // 2))
    random.Random(0).shuffle(places)
    train = [final[place] for place in places[: int(0.8 * len(places))]]
    assert sorted(train) == zoo.split("train", "nfn-gs").tolist()
    assert sorted(final[len(final) // 2 :]) == zoo.split("test", "nfn-gs").tolist()
    assert len(zoo.split("val", "nfn-gs")) == len(places) - len(train)
    assert sorted(train) != sorted(final[: len(train)])


def test_every_promise_of_the_file_holds(zoo):
    assert [check.detail for check in verify(zoo) if not check.passed] == []


def test_a_split_file_without_its_header_gives_the_same_split(zoo, tmp_path):
    write(tmp_path / "bare", order="bare")
    bare = import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "bare", tmp_path / "bare.h5")
    assert (bare.parts("nfn-gs") == zoo.parts("nfn-gs")).all()


def test_without_a_split_file_there_is_our_split_alone(tmp_path):
    write(tmp_path / "files", order="")
    zoo = import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5", limit=7)
    assert zoo.splits == ("default",)
    assert len(zoo) == 7


def test_a_network_that_is_not_finite_is_recorded_and_left_out(tmp_path):
    weights = np.ones((33, 4970), np.float32)
    weights[5, 77] = np.nan
    write(tmp_path / "files", weights=weights)
    zoo = import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert len(zoo) == 32
    assert zoo.diverged == (("/data/0001", "network /data/0001/86 has values that are not finite"),)


def change(rows, **values):
    rows[7] |= values
    return rows


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"rows": change(metrics(), **{"config.activation": "elu"})}, "row 7 of .* has activation 'elu'"),
        ({"rows": change(metrics(), test_loss="many")}, "'test_loss' in row 7 of .* is 'many'; expected a number"),
        ({"rows": change(metrics(), step="1.5")}, "'step' in row 7 of .* is '1.5'; expected a whole number"),
        ({"rows": metrics()[:-1], "weights": np.zeros((33, 4970), np.float32), "order": ""}, "has 32 rows; expected 33"),
        ({"weights": np.zeros((32, 4970), np.float32), "order": ""}, "expected 32, one for each row"),
        ({"weights": np.zeros((33, 4969), np.float32)}, r"has shape \(33, 4969\); expected \[rows, 4970\]"),
        ({"weights": np.zeros((33, 4970), np.int64)}, "holds int64; expected one array of real numbers"),
        ({"weights": np.full((33, 2), {"a": 1}, dtype=object)}, "is no plain array .*Python objects in dtype"),
        ({"layout": LAYOUT.replace("16,160,", "17,161,")}, r"places \('sequential/conv2d/kernel:0', '17', '161'"),
        ({"layout": LAYOUT.replace('"(16, 10)"', '"__import__(1)"')}, "the shape '__import__\\(1\\)'; expected a tuple"),
        ({"layout": LAYOUT.replace("start_idx", "start")}, "lacks column 'start_idx'; it has varname, start, end_idx"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path, fault, text):
    write(tmp_path / "files", **fault)
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files"]


def test_a_split_beside_too_few_metrics_is_refused(tmp_path):
    write(tmp_path / "files", rows=metrics()[:-1], weights=np.zeros((33, 4970), np.float32), order="")
    (tmp_path / "files/mnist_split.csv").write_text("".join(f"{row}\n" for row in range(33)))
    with pytest.raises(ForeignZooError, match="metrics.csv.gz' has 32 rows; expected 33, one for each row of weights.npy"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


@pytest.mark.parametrize("name", ["layout.csv", "metrics.csv.gz"])
def test_tables_that_are_missing_are_named(tmp_path, name):
    write(tmp_path / "files", order="")
    (tmp_path / "files/mnist" / name).unlink()
    with pytest.raises(ForeignZooError, match=f"there is no '.*{name}'; expected it beside weights.npy"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_split_that_is_no_order_is_refused(tmp_path):
    write(tmp_path / "files", order="")
    (tmp_path / "files/mnist_split.csv").write_text("0\n" * 33)
    with pytest.raises(ForeignZooError, match="has no order of the 33 rows"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_truncated_files_are_refused(tmp_path):
    write(tmp_path / "files", order="")
    for name, text in (("metrics.csv.gz", "is damaged"), ("weights.npy", "is no plain array")):
        path = tmp_path / "files/mnist" / name
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ForeignZooError, match=text):
            import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "files").mkdir()
    with pytest.raises(ForeignZooError, match="holds 0 files 'weights.npy'; expected one"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    with pytest.raises(ForeignZooError, match="there is nothing at .*nowhere'"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "nowhere", tmp_path / "zoo.h5")
