"""Networks of a published zoo are run again on their images, and what is recorded is compared."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ngbench.errors import ForeignZooError, ImagesError
from ngbench.store import PUBLISHED, import_zoo, reevaluate
from ngbench.store.published import Evaluation
from ngbench.store.published.deep_align import AlignMlp

NUM_RUNS, NUM_IMAGES, NUM_CLASSES = 7, 45, 10
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
COLUMNS = ("activation", "w_init", "b_init", "optimizer", "init_std", "learning_rate", "l2reg", "dropout", "train_fraction")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with random pictures as MNIST, their pixels ``[images, 28, 28]`` and labels."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("images")
    pixels = rng.integers(0, 256, (NUM_IMAGES, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=NUM_CLASSES)})
    content = {"image": [Image.fromarray(own) for own in pixels], "label": labels.tolist()}
    made = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(folder / "mnist"))
    return folder, pixels, labels


def write_small_cnns(folder, weights, accuracies):
    folder.mkdir(parents=True)
    np.save(folder / "weights.npy", weights)
    (folder / "layout.csv").write_text(LAYOUT)
    names = [f"config.{name}" for name in COLUMNS]
    with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "modeldir", "step", "train_accuracy", "train_loss", "test_accuracy", "test_loss"])
        for run, accuracy in enumerate(accuracies):
            writer.writerow(["relu", "he", "zeros", "adam", *[0.1] * 5, f"run-{run}", 86, 0.5, 1.0, accuracy, 1.0])


def accuracy_of(row, pixels, labels):
    """The fraction right of a network, straight from its row of weights as TensorFlow stores it."""
    hidden = torch.tensor(pixels[:, None] / 127.5 - 1, dtype=torch.float64)
    for start, channels in ((0, 1), (160, 16), (2480, 16)):
        bias, stop = torch.tensor(row[start : start + 16]).double(), start + 16 + 144 * channels
        kernel = torch.tensor(row[start + 16 : stop].reshape(3, 3, channels, 16).transpose(3, 2, 0, 1).copy()).double()
        hidden = nn.functional.conv2d(hidden, kernel, bias, stride=2).relu()
    logits = hidden.mean((2, 3)) @ torch.tensor(row[4810:].reshape(16, 10)).double() + torch.tensor(row[4800:4810]).double()
    return float(np.mean(logits.argmax(1).numpy() == labels))


@pytest.fixture(scope="module")
def weights(images):
    rows = np.random.default_rng(4).normal(size=(NUM_RUNS, 4970)).astype(np.float32)
    return rows, [accuracy_of(row, *images[1:]) for row in rows]


def test_an_import_says_how_far_recorded_accuracies_are_off(images, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", str(images[0]))
    rows, accuracies = weights
    recorded = [accuracy + (0.125 if run == 4 else 0) for run, accuracy in enumerate(accuracies)]
    write_small_cnns(tmp_path / "files", rows, recorded)
    found = []
    import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5", prove=found.append)
    (proof,) = found
    assert proof.rows.tolist() == list(range(NUM_RUNS))
    np.testing.assert_allclose(proof.measured, accuracies, atol=1e-12)
    np.testing.assert_allclose(proof.recorded, recorded, atol=1e-12)
    assert len(set(accuracies)) > 2
    assert (proof.largest, proof.mean) == pytest.approx((0.125, 0.125 / NUM_RUNS))
    said = "test_accuracy of 7 networks on 45 images is off by 0.0179 in the mean and by 0.1250 at most"
    assert str(proof) == said


def test_what_is_not_recorded_is_not_drawn_and_the_draw_follows_the_seed(images, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", str(images[0]))
    rows, accuracies = weights
    write_small_cnns(tmp_path / "files", rows, [*accuracies[:5], "", ""])
    published, found = PUBLISHED["small-cnn-mnist"], []
    zoo = import_zoo(published, tmp_path / "files", tmp_path / "zoo.h5", prove=found.append)
    assert found[0].rows.tolist() == [0, 1, 2, 3, 4]
    built = [next(iter(published.read(tmp_path / "files"))).architecture] * NUM_RUNS
    drawn = [reevaluate(zoo, published, built, num_networks=3, seed=seed).rows.tolist() for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(rows) for rows in drawn}) > 1
    write_small_cnns(tmp_path / "none", rows, [""] * NUM_RUNS)
    zoo = import_zoo(published, tmp_path / "none", tmp_path / "none.h5", prove=found.append)
    assert len(found) == 1


@pytest.mark.parametrize("place", [None, "nowhere", "cifar10"])
def test_without_the_images_nothing_is_run(images, weights, tmp_path, monkeypatch, place):
    (tmp_path / "cifar10").mkdir()
    monkeypatch.delenv("NGBENCH_IMAGES", raising=False)
    if place:
        monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path / place))
    write_small_cnns(tmp_path / "files", *weights)
    found = []
    import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5", prove=found.append)
    assert found == []


def test_images_that_cannot_be_read_are_an_error(weights, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path / "mnist"))
    write_small_cnns(tmp_path / "files", *weights)
    with pytest.raises(ImagesError, match=rf"folder {tmp_path}/mnist is not read as a dataset"):
        import_zoo(PUBLISHED["small-cnn-mnist"], tmp_path / "files", tmp_path / "zoo.h5", prove=print)


def test_losses_of_networks_that_take_pixels_in_a_row_are_compared(images, tmp_path, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", str(images[0] / "mnist"))
    torch.manual_seed(5)
    module = AlignMlp((784, 128, 128, 128, 10)).module()
    inputs = torch.tensor((images[1].reshape(NUM_IMAGES, -1) / 255 - 0.1307) / 0.3081, dtype=torch.float32)
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(module(inputs).double(), torch.tensor(images[2])))
    (tmp_path / "files").mkdir()
    torch.save({**module.state_dict(), "label": {"test_loss": loss + 0.25}}, tmp_path / "files/model_0.pth")
    found = []
    import_zoo(PUBLISHED["deep-align-mnist-mlp"], tmp_path / "files", tmp_path / "zoo.h5", prove=found.append)
    assert found[0].measured == pytest.approx(loss, abs=1e-5)
    assert found[0].largest == pytest.approx(0.25, abs=1e-5)


def test_images_of_another_shape_than_a_network_takes_are_refused(images, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", str(images[0]))
    write_small_cnns(tmp_path / "files", *weights)
    wrong = replace(PUBLISHED["small-cnn-mnist"], evaluation=Evaluation("ylecun/mnist", image_shape=(3, 7, 5)))
    with pytest.raises(ForeignZooError, match=r"'run-\d/86' takes inputs of shape \(1, 28, 28\); the images of 'yle.*' have"):
        import_zoo(wrong, tmp_path / "files", tmp_path / "zoo.h5", prove=print)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_what_is_measured_again_is_a_column_of_the_zoo(name):
    evaluation = PUBLISHED[name].evaluation
    assert evaluation is None or evaluation.column in {column.name for column in PUBLISHED[name].columns}
    assert evaluation is None or len(evaluation.mean) == len(evaluation.std)


def test_most_zoos_of_classifiers_of_images_are_measured_again():
    assert sum(PUBLISHED[name].evaluation is not None for name in PUBLISHED) == 11
