import pytest
from pydantic import ValidationError

from ngbench.graph import trace
from ngbench.zoo.architectures import ParkCnn, build, example_input
from ngbench.zoo.park import ParkSampler
from ngbench.zoo.recipe import load_recipe

SAMPLER = ParkSampler(
    num_architectures=300,
    seed=5,
    input_shape=(3, 9, 7),
    num_classes=6,
    depths=(2, 4),
    channels=(4, 8, 16),
    kernel_sizes=(3, 5),
    activations=("relu", "none"),
)


def park(**changes):
    content = {
        "family": "park_cnn",
        "input_shape": (3, 9, 7),
        "channels": (4, 2, 5),
        "kernel_sizes": (3, 1, 5),
        "layer_activations": ("relu", "none", "tanh"),
        "skips": (-1, -1, 0),
        "num_classes": 6,
    }
    return ParkCnn(**content | changes)


def test_every_choice_is_drawn_about_as_often():
    drawn = [SAMPLER.architecture(number) for number in range(300)]
    for counted, values in (
        ([each.depth for each in drawn], (2, 4)),
        ([channels for each in drawn for channels in each.channels], (4, 8, 16)),
        ([size for each in drawn for size in each.kernel_sizes], (3, 5)),
        ([name for each in drawn for name in each.layer_activations], ("relu", "none")),
        ([each.skips[3] for each in drawn if each.depth == 4], (-1, 0, 1)),
        ([each.skips[2] for each in drawn if each.depth == 4], (-1, 0)),
    ):
        assert set(counted) == set(values)
        assert [counted.count(value) / len(counted) for value in values] == pytest.approx(
            [1 / len(values)] * len(values), abs=0.08
        )
    assert {each.skips[:2] for each in drawn} == {(-1, -1)}


def test_an_architecture_follows_from_seed_and_number():
    assert SAMPLER.architecture(7) == SAMPLER.architecture(7)
    assert SAMPLER.architecture(7) != SAMPLER.model_copy(update={"seed": 6}).architecture(7)


def test_skips_are_in_the_neural_graph():
    blocks = [len(trace(build(a, "mixed"), example_input(a)).topology.blocks) for a in (park(), park(skips=(-1, -1, -1)))]
    assert blocks[0] > blocks[1] == 4


def test_runs_of_the_shipped_park_share_architectures():
    recipe = load_recipe("cifar10-park")
    assert recipe.architecture_of(3) == recipe.architecture_of(283) != recipe.architecture_of(4)
    assert {recipe.architecture_of(i).depth for i in range(280)} == {2, 3, 4, 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skips": (-1, -1, 1)}, r"at least two before each, got \(-1, -1, 1\)"),
        ({"kernel_sizes": (3, 4, 5)}, r"odd ones, which keep height and width, got \(3, 4, 5\)"),
        ({"layer_activations": ("relu", "none", "than")}, "or none, got than"),
        ({"channels": (4, 2)}, r"need one entry a layer, got \[2, 3\]"),
    ],
)
def test_wrong_parks_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        park(**changes)
