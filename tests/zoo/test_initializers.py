import numpy as np
import pytest

from ngbench.zoo.initializers import INITIALIZERS, initialize, initialize_siren

SHAPES = {"conv.weight": (40, 30, 3, 5), "conv.bias": (40,), "head.weight": (70, 40), "head.bias": (70,)}
FAN_IN, FAN_OUT = 30 * 15, 40 * 15


def drawn(kind, scale=1.0):
    flat = initialize(SHAPES, np.random.default_rng(3), kind=kind, scale=scale)
    sizes = np.cumsum([np.prod(shape) for shape in SHAPES.values()])
    assert flat.shape == (sizes[-1],)
    return {path: part.reshape(SHAPES[path]) for path, part in zip(SHAPES, np.split(flat, sizes[:-1]), strict=True)}


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("he_normal", (2 / FAN_IN) ** 0.5),
        ("glorot_normal", (2 / (FAN_IN + FAN_OUT)) ** 0.5),
        ("lecun_uniform", (1 / (3 * FAN_IN)) ** 0.5),
        ("normal", 0.1),
    ],
)
def test_weights_have_the_deviation_of_their_rule(kind, deviation):
    assert drawn(kind)["conv.weight"].std() == pytest.approx(deviation, rel=0.02)
    assert drawn(kind)["conv.weight"].mean() == pytest.approx(0, abs=0.05 * deviation)


def test_truncated_weights_end_at_two_deviations():
    # a normal distribution cut at two deviations has 0.87963 of its own
    weights = drawn("truncated_normal")["conv.weight"]
    assert weights.std() == pytest.approx(0.087963, rel=0.02)
    assert 0.199 < np.abs(weights).max() <= 0.2


@pytest.mark.parametrize("path", ["conv.weight", "head.weight"])
def test_orthogonal_weights_have_orthonormal_rows_or_columns(path):
    matrix = drawn("orthogonal")[path].reshape(SHAPES[path][0], -1)
    gram = matrix @ matrix.T if len(matrix) < len(matrix.T) else matrix.T @ matrix
    assert gram == pytest.approx(np.eye(len(gram)), abs=1e-12)


@pytest.mark.parametrize("kind", INITIALIZERS)
def test_scale_multiplies_weights_and_biases_are_zero(kind):
    once, thrice = drawn(kind), drawn(kind, scale=3.0)
    for path in SHAPES:
        assert thrice[path] == pytest.approx(3 * once[path], rel=1e-14)
        assert (once[path] == 0).all() == path.endswith("bias")


def test_scales_of_norms_are_one_and_change_no_other_draw():
    shapes = {**SHAPES, "norm.weight": (7,), "norm.bias": (7,)}
    rng = np.random.default_rng(3)
    flat = initialize(shapes, rng, kind="he_normal", scale=2.0, ones={"norm.weight"})
    assert (flat[-14:-7] == 1).all()
    assert (flat[-7:] == 0).all()
    assert np.array_equal(flat[:-14], initialize(SHAPES, np.random.default_rng(3), kind="he_normal", scale=2.0))


def test_sirens_start_within_the_range_of_their_sources_and_without_biases():
    shapes = {"a.weight": (500, 6), "a.bias": (500,), "b.weight": (70, 500)}
    flat = initialize_siren(shapes, np.random.default_rng(2), omega=20)
    first, biases, second = np.split(flat, [3000, 3500])
    for weights, sources in ((first, 6), (second, 500)):
        limit = np.sqrt(6 / sources) / 20
        assert np.abs(weights).max() == pytest.approx(limit, rel=0.01)
        assert weights.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
    assert not biases.any()
