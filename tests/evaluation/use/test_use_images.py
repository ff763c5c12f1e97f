from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from ngbench.errors import ImagesError
from ngbench.evaluation.use.images import OwnImages
from ngbench.zoo.images import load_corpus

HEIGHT, WIDTH = 4, 3
NUM_IMAGES = {"train": 14, "test": 10}


def rows(num_images, *, mode="RGB", size=(WIDTH, HEIGHT), seed=0):
    rng = np.random.default_rng(seed)
    shape = (num_images, size[1], size[0], 3) if mode == "RGB" else (num_images, size[1], size[0])
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    content = {"picture": [Image.fromarray(own) for own in pixels], "kind": [i % 2 for i in range(num_images)]}
    return pixels, datasets.Dataset.from_dict(content, features=features)


def test_halves_of_a_corpus_have_no_image_in_common_and_the_classes_alike():
    images = OwnImages("digits")
    parts = {name: images.part(name) for name in ("train", "test")}
    known, labels = load_corpus("digits")
    assert sum(len(part.labels) for part in parts.values()) <= len(labels)
    for part in parts.values():
        shares = np.bincount(part.labels, minlength=10) / len(part.labels)
        np.testing.assert_allclose(shares, np.bincount(labels) / len(labels), atol=0.01)
    seen = [{own.numpy().tobytes() for own in part.images} for part in parts.values()]
    assert len(seen[0] & seen[1]) <= len(known) - len({own.tobytes() for own in known})


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_a_dataset_is_read_as_it_stands(tmp_path, mode):
    parts = {name: rows(count, mode=mode, seed=count) for name, count in NUM_IMAGES.items()}
    datasets.DatasetDict({name: found for name, (_, found) in parts.items()}).save_to_disk(str(tmp_path / "data"))
    images = OwnImages(str(tmp_path / "data"))
    for name, (pixels, _) in parts.items():
        expected = (pixels if mode == "RGB" else pixels[..., None]).transpose(0, 3, 1, 2).astype(np.float32) / 255
        labels = {own.tobytes(): number % 2 for number, own in enumerate(expected)}
        part = images.part(name)
        assert {own.numpy().tobytes(): int(label) for own, label in zip(part.images, part.labels, strict=True)} == labels


def test_some_images_of_a_folder_that_stands_class_by_class_are_of_all_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("ngbench.evaluation.use.images.MOST_IMAGES", 8)
    sorted_rows = rows(40)[1].select([*range(0, 40, 2), *range(1, 40, 2)])
    save(tmp_path / "data", train=sorted_rows, test=sorted_rows)
    part = OwnImages(str(tmp_path / "data")).part("train")
    assert len(part.labels) == 8
    assert set(part.labels.tolist()) == {0, 1}


def test_a_dataset_of_one_split_is_halved(tmp_path):
    rows(12)[1].save_to_disk(str(tmp_path / "data"))
    images = OwnImages(str(tmp_path / "data"))
    assert [len(images.part(name).labels) for name in ("train", "test")] == [6, 6]


def test_pixels_are_standardised_channel_by_channel(tmp_path):
    rows(12)[1].save_to_disk(str(tmp_path / "data"))
    plain = OwnImages(str(tmp_path / "data")).part("test").images.numpy()
    given = OwnImages(str(tmp_path / "data"), mean=(0.1, 0.2, 0.3), std=(0.5,)).part("test").images.numpy()
    expected = (plain - np.array([0.1, 0.2, 0.3], dtype=np.float32)[:, None, None]) / 0.5
    np.testing.assert_allclose(given, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean is 0.1, 0.2 for images of 1 channels; expected one finite number"),
        ({"std": (0.0,)}, "std is 0.0 for images of 1 channels; .* above 0"),
        ({"mean": (float("nan"),)}, "mean is nan for images"),
    ],
)
def test_numbers_that_standardise_nothing_are_refused(options, message):
    with pytest.raises(ImagesError, match=message):
        OwnImages("digits", **options).part("test")


def save(folder, **splits):
    datasets.DatasetDict(splits).save_to_disk(str(folder))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "no images .*data'; expected one of digits, .* or a folder of a dataset"),
        (lambda folder: folder.mkdir(), "folder .*data is not read as a dataset"),
        (lambda folder: save(folder, left=rows(4)[1], right=rows(4)[1]), "has splits left, right; expected train and test"),
        (
            lambda folder: datasets.Dataset.from_dict({"text": ["a"] * 4}).save_to_disk(str(folder)),
            r"has columns text \(Value\); expected one of images and one of class labels",
        ),
        (
            lambda folder: save(folder, train=rows(4)[1], test=rows(6)[1].map(lambda row: {"kind": -1})),
            "has images without a class in a part that is read",
        ),
        (
            lambda folder: datasets.concatenate_datasets([rows(6)[1], rows(6, size=(5, 6))[1]]).save_to_disk(str(folder)),
            r"has images of shapes \(4, 3, 3\), \(6, 5, 3\); expected one shape",
        ),
    ],
)
def test_folders_without_labelled_images_of_one_shape_are_refused(tmp_path, write, message):
    write(tmp_path / "data")
    with pytest.raises(ImagesError, match=message):
        OwnImages(str(tmp_path / "data")).part("test")
