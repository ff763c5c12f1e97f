import datasets
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ngbench.errors import ImagesError, RecipeError
from ngbench.zoo.fit import fit
from ngbench.zoo.hub_images import HubImages, load_hub_images
from ngbench.zoo.images import ImagesSpec, load_corpus, load_images
from ngbench.zoo.recipe import parse_recipe

HEIGHT, WIDTH, CLASSES = 5, 3, 4
NUM_ROWS = {"train": 40, "test": 12}
SOURCE = HubImages(hub="somebody/spots", size=(HEIGHT, WIDTH), color="rgb")


def written(folder, *, mode="RGB", num_rows=NUM_ROWS, labels=True):
    """Writes random pictures, and gives their pixels ``[rows, height, width(, channels)]`` by split."""
    rng, pixels, splits = np.random.default_rng(3), {}, {}
    for name, count in num_rows.items():
        shape = (count, HEIGHT, WIDTH, 3) if mode == "RGB" else (count, HEIGHT, WIDTH)
        pixels[name] = rng.integers(0, 256, shape, dtype=np.uint8)
        content = {"picture": [Image.fromarray(own) for own in pixels[name]], "kind": [i % CLASSES for i in range(count)]}
        kind = datasets.ClassLabel(num_classes=CLASSES) if labels else datasets.Value("int64")
        splits[name] = datasets.Dataset.from_dict(
            content, features=datasets.Features({"picture": datasets.Image(), "kind": kind})
        )
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return pixels


@pytest.mark.parametrize("place", ["", "spots", "somebody/spots"])
def test_the_folder_may_be_the_dataset_or_hold_it_by_its_name(tmp_path, monkeypatch, place):
    pixels = written(tmp_path / "own" / place)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path / "own"))
    for part, (images, labels) in load_hub_images(SOURCE).items():
        np.testing.assert_allclose(images, pixels[part].transpose(0, 3, 1, 2) / 255, rtol=1e-6)
        assert (images.dtype, labels.dtype) == (np.float32, np.int64)
        assert labels.tolist() == [i % CLASSES for i in range(NUM_ROWS[part])]
        assert not images.flags.writeable


def test_grey_is_the_mean_over_channels_and_pixels_are_standardised(tmp_path, monkeypatch):
    pixels = written(tmp_path)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    grey = HubImages(hub="somebody/spots", size=(HEIGHT, WIDTH), color="grey", mean=(0.5,), std=(0.5,))
    expected = pixels["test"].astype(float).mean(axis=3)[:, None] / 127.5 - 1
    np.testing.assert_allclose(load_hub_images(grey)["test"][0], expected, atol=1e-6)
    each = HubImages(hub="somebody/spots", size=(HEIGHT, WIDTH), color="rgb", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    expected = (pixels["test"] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    np.testing.assert_allclose(load_hub_images(each)["test"][0], expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_grey_pictures_have_three_equal_channels_where_colours_are_asked_for(tmp_path, monkeypatch):
    pixels = written(tmp_path, mode="L")
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    images = load_hub_images(SOURCE)["train"][0]
    for channel in range(3):
        np.testing.assert_allclose(images[:, channel], pixels["train"] / 255, rtol=1e-6)


def test_pictures_of_another_size_are_resized(tmp_path, monkeypatch):
    pixels = written(tmp_path)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    images = load_hub_images(HubImages(hub="somebody/spots", size=(10, 6), color="rgb"))["train"][0]
    assert images.shape == (40, 3, 10, 6)
    means = pixels["train"].mean((1, 2)) / 255
    np.testing.assert_allclose(images.mean((2, 3)), means, atol=0.06)


def test_training_and_validation_images_are_of_the_train_split_and_test_images_of_the_test_split(tmp_path, monkeypatch):
    pixels = written(tmp_path)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    splits = load_images(ImagesSpec(corpus="spots", source=SOURCE, split_seed=1, num_train=24, num_val=8, num_test=10))
    of_split = {
        part: {(own / np.float32(255)).tobytes() for own in pixels[part].transpose(0, 3, 1, 2).astype(np.float32)}
        for part in pixels
    }
    seen = {name: {own.tobytes() for own in getattr(splits, f"{name}_images")} for name in ("train", "val", "test")}
    assert [len(found) for found in seen.values()] == [24, 8, 10]
    assert seen["train"] | seen["val"] <= of_split["train"]
    assert seen["test"] <= of_split["test"]
    assert not seen["train"] & seen["val"]
    assert np.bincount(splits.train_labels).tolist() == [6] * CLASSES


def test_implicit_representations_are_of_train_images_then_test_images(tmp_path, monkeypatch, inr_recipe):
    written(tmp_path, mode="L")
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    source = {"hub": "somebody/spots", "size": [HEIGHT, WIDTH], "color": "grey"}
    content = inr_recipe.model_dump(mode="json") | {"corpus": "spots", "source": source, "num_runs": 160, "fits_per_image": 3}
    recipe = parse_recipe(content, source="a test")
    networks = fit(recipe, [0, 119, 120])
    assert networks.metadata["image_index"].tolist() == [0, 39, 40]
    assert networks.functional["spots"].shape == (3, HEIGHT * WIDTH)
    images, labels = load_corpus(recipe.images)
    assert len(images) == 52
    assert networks.metadata["label"].tolist() == labels[[0, 39, 40]].tolist()
    with pytest.raises(ImagesError, match="run 'glance-00156' is of image 52; expected one of the 52 that there are"):
        fit(recipe, [156])


def test_a_missing_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path / "nowhere"))
    with pytest.raises(ImagesError, match="images of 'somebody/spots': there is no folder '.*nowhere'"):
        load_hub_images(SOURCE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": {"train": 8}}, "has splits train; expected train and test"),
        ({"labels": False}, r"has columns picture \(Image\), kind \(Value\); expected one of images"),
    ],
)
def test_datasets_without_test_images_or_classes_are_refused(tmp_path, monkeypatch, arguments, message):
    written(tmp_path, **arguments)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    with pytest.raises(ImagesError, match=message):
        load_hub_images(SOURCE)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path, monkeypatch):
    (tmp_path / "note.bin").write_bytes(b"nothing")
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    with pytest.raises(ImagesError, match=r"folder .* is not read as a dataset"):
        load_hub_images(SOURCE)


@pytest.mark.parametrize(("changes", "count", "part"), [({"num_val": 17}, 41, "train"), ({"num_test": 13}, 13, "test")])
def test_more_images_than_a_split_has_are_refused(tmp_path, monkeypatch, changes, count, part):
    written(tmp_path)
    monkeypatch.setenv("NGBENCH_IMAGES", str(tmp_path))
    sizes = {"num_train": 24, "num_val": 8, "num_test": 10} | changes
    message = f"'somebody/spots' has {NUM_ROWS[part]} images in split {part}, but {count} are asked for"
    with pytest.raises(ImagesError, match=message):
        load_images(ImagesSpec(corpus="spots", source=SOURCE, split_seed=1, **sizes))


def test_numbers_of_channels_and_ids_are_checked():
    with pytest.raises(ValidationError, match="mean: expected 1 number or one for each of 3 channels, got 2"):
        HubImages(hub="somebody/spots", size=(4, 4), color="rgb", mean=(0.1, 0.2))
    with pytest.raises(ValidationError, match="String should match pattern"):
        HubImages(hub="../spots", size=(4, 4), color="rgb")


def test_a_source_has_a_name_of_its_own(small_recipe):
    content = small_recipe().model_dump(mode="json")
    content["images"]["source"] = SOURCE.model_dump(mode="json")
    with pytest.raises(RecipeError, match="one name of its own for the images of somebody/spots, got 'digits'"):
        parse_recipe(content, source="a test")
