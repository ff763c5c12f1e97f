import numpy as np
import pytest

from ngbench.errors import ImagesError, UnknownNameError
from ngbench.zoo.images import ImagesSpec, corpora, load_corpus, load_images, pixel_grid


def spec(**changes):
    return ImagesSpec(**{"corpus": "digits", "split_seed": 0, "num_train": 1000, "num_val": 297, "num_test": 500, **changes})


def rows(images):
    return {image.tobytes() for image in images}


def test_digits_are_real_images_in_channels_first_layout():
    splits = load_images(spec())
    assert splits.train_images.shape == (1000, 1, 8, 8)
    assert splits.val_images.shape == (297, 1, 8, 8)
    assert splits.test_images.shape == (500, 1, 8, 8)
    for images in (splits.train_images, splits.val_images, splits.test_images):
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
    assert splits.test_labels.dtype == np.int64


def test_splits_share_no_image_and_together_are_the_corpus():
    from sklearn.datasets import load_digits

    splits = load_images(spec())
    parts = [rows(images) for images in (splits.train_images, splits.val_images, splits.test_images)]
    corpus = rows((load_digits().images / 16).astype(np.float32))
    assert sum(map(len, parts)) == len(corpus) == 1797
    assert set.union(*parts) == corpus


def test_labels_stay_with_their_images():
    from sklearn.datasets import load_digits

    digits, splits = load_digits(), load_images(spec())
    label_of = {
        (image / 16).astype(np.float32).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)
    }
    assert [label_of[image.tobytes()] for image in splits.test_images] == splits.test_labels.tolist()


def test_every_split_has_the_classes_in_the_same_proportions():
    splits = load_images(spec(num_train=400, num_val=130, num_test=270))
    for labels in (splits.train_labels, splits.val_labels, splits.test_labels):
        shares = np.bincount(labels, minlength=10) / len(labels)
        assert shares == pytest.approx(np.full(10, 0.1), abs=0.02)


def test_split_depends_on_its_seed_only():
    first, again, other = load_images(spec()), load_images(spec()), load_images(spec(split_seed=1))
    assert np.array_equal(first.train_images, again.train_images)
    assert not np.array_equal(first.train_images, other.train_images)


def test_split_of_the_released_zoo_is_the_same_for_ever():
    assert load_images(spec()).test_labels[:12].tolist() == [0, 5, 1, 7, 3, 9, 2, 6, 4, 8, 0, 5]


def test_more_images_than_there_are_is_refused():
    with pytest.raises(ImagesError, match=r"'digits' has 1797 images, but the splits ask for 1000 \+ 297 \+ 501 = 1798"):
        load_images(spec(num_test=501))


def test_unknown_corpus_suggests_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown image corpus 'digit': did you mean 'digits'"):
        load_images(spec(corpus="digit"))


def test_corpora_made_from_the_digits_keep_images_and_labels_together():
    images, labels = corpora["digits"].load()
    inverted, rotated, parity, in_range = (
        corpora[f"digits-{name}"].load() for name in ("inverted", "rotated", "parity", "range")
    )
    assert np.array_equal(inverted[0] + images, np.ones_like(images))
    # counter-clockwise: what was the right column is the top row
    assert np.array_equal(rotated[0][:, 0, 0, :], images[:, 0, :, -1])
    assert np.array_equal(rotated[0][:, 0, :, 0], images[:, 0, 0, ::-1])
    assert np.array_equal(inverted[1], labels)
    assert np.array_equal(rotated[1], labels)
    assert set(zip(labels.tolist(), parity[1].tolist(), strict=True)) == {(d, d % 2) for d in range(10)}
    assert set(zip(labels.tolist(), in_range[1].tolist(), strict=True)) == {(d, int(d > 4)) for d in range(10)}
    assert np.array_equal(parity[0], images)


@pytest.mark.parametrize("name", list(corpora))
def test_every_corpus_has_the_classes_that_it_says(name):
    images, labels = corpora[name].load()
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == np.int64
    assert np.unique(labels).tolist() == list(range(corpora[name].num_classes))


def test_one_of_several_corpora_is_loaded_by_name_and_the_first_without():
    several = spec(corpus=("digits-parity", "digits"))
    assert set(load_images(several, "digits").test_labels) == set(range(10))
    assert set(load_images(several).test_labels) == {0, 1}


@pytest.mark.parametrize("name", list(corpora))
def test_a_corpus_has_as_many_images_as_are_registered(name):
    images, labels = load_corpus(name)
    assert len(images) == len(labels) == corpora[name].num_images
    assert not images.flags.writeable


def test_the_corners_of_the_grid_are_at_one():
    grid = pixel_grid(3, 5)
    assert (grid.shape, grid.dtype) == ((15, 2), np.float32)
    assert grid[[0, 4, 10, 14]].tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert grid[1].tolist() == [-1, -0.5]
