"""Queries stand beside the networks that are really nearest, with the grades that they are scored by."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ngbench.evaluation.exam import Scored
from ngbench.evaluation.report.examples import NUM_NEIGHBOURS, NUM_QUERIES, examples, legend, png, rendered
from ngbench.store import open_zoo


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_read_back_as_it_was(channels):
    image = np.random.default_rng(1).integers(0, 256, (5, 7, channels)) / 255
    data = base64.b64decode(png(image).removeprefix("data:image/png;base64,"))
    found = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(found.reshape(image.shape), np.round(image * 255))


@pytest.fixture(scope="module")
def shown(planted):
    exam = planted.exams["retrieval"]
    values = np.random.default_rng(2).standard_normal((len(exam.ids), 4))
    twins = values + 0.1 * np.random.default_rng(3).standard_normal(values.shape)
    images = rendered(exam.zoo, exam.rows)
    return exam, values, twins, examples("m", exam, Scored(values, twins[None], {}, {}, np.zeros(len(values))), images)


def test_neighbours_are_the_nearest_by_cosine_the_mate_among_them(shown):
    exam, values, twins, found = shown
    assert len(found.rows) == NUM_QUERIES
    assert len({query.label for query, _ in found.rows}) == NUM_QUERIES
    for query, neighbours in found.rows:
        row = exam.ids.index(query.name)
        gallery = values.copy()
        gallery[row] = twins[row]
        cosine = gallery @ values[row] / np.linalg.norm(gallery, axis=1) / np.linalg.norm(values[row])
        nearest = np.argsort(-cosine)[:NUM_NEIGHBOURS]
        assert [n.name for n in neighbours] == [exam.ids[k] for k in nearest]
        assert [n.cosine for n in neighbours] == pytest.approx(cosine[nearest])
        assert [n.grade for n in neighbours] == exam.grades[row, nearest].tolist()
        assert all(n.label == exam.classes[exam.labels[exam.ids.index(n.name)]] for n in neighbours)


def test_networks_of_images_are_shown_as_what_they_render(shown):
    exam, _, _, found = shown
    assert found.are_images
    stored = exam.zoo.functional("digits")[exam.rows].astype(float).clip(0, 1).reshape(-1, 8, 8, 1)
    query, _ = found.rows[0]
    assert query.image == png(stored[exam.ids.index(query.name)])


def test_networks_that_are_no_images_are_not(small_zoo_path):
    assert rendered(open_zoo(small_zoo_path), np.arange(3)) is None


def test_networks_are_named_without_their_zoo(shown):
    exam, _, _, found = shown
    for query, neighbours in found.rows:
        for network in (query, *neighbours):
            assert network.name in exam.ids
            assert network.name == f"{exam.zoo.name}-{network.number}"


def test_signs_are_explained_by_what_networks_are_related_by():
    assert "○ same corpus, ✕ neither; corpus, number of the network, cosine" in legend("corpus", are_images=False)
    assert legend("label", are_images=True).endswith("○ same label, ✕ neither. Below each: its label.")
