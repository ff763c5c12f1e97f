"""``ngbench zoo`` on a zoo of several families, as a user types it."""

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.store import RELEASED, open_zoo
from ngbench.zoo.recipe import recipe_names


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def made(mixed_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(yaml.safe_dump(mixed_recipe.model_dump(mode="json")))
    result = ngbench("zoo", "generate", folder / "mixed.yaml", "--out", folder / "mixed.h5", "--workers", "1")
    return folder / "mixed.h5", result


def test_generate_says_how_many_networks_are_where(made):
    path, result = made
    assert f"12 networks in {path}, sha256" in result.stdout


def test_info_tells_every_split_and_column(made):
    text = ngbench("zoo", "info", made[0]).stdout
    assert "split default: train" in text
    assert "split family-held-out: train" in text
    assert "test 2 (no run is in two)" in text
    for column in ("family", "corpus", "width", "depth", "kernel_size", "norm", "num_classes", "num_parameters"):
        assert column in text


def test_list_tells_the_released_zoos_and_every_recipe_with_what_it_makes():
    text = " ".join(ngbench("zoo", "list").stdout.split())
    for name in recipe_names():
        assert f" {name} " in text
    assert "SIRENs of 8 × 8 handwritten digits, all fitted from the same initial weights" in text
    assert "digits-inr-shared" not in RELEASED


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("nope", "unknown metadata column of zoo 'digits-mlp' 'nope'"),
        ("optimizer", "column 'optimizer' of zoo 'digits-mlp' holds text; expected a --column of numbers"),
    ],
)
def test_a_column_that_cannot_be_drawn_is_refused_before_anything_is_printed(column, message):
    result = ngbench("zoo", "info", "digits-mlp", "--column", column, exit_code=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_info_draws_the_range_that_there_is_and_prints_integers_in_full():
    lines = ngbench("zoo", "info", "digits-mlp").stdout.splitlines()
    assert "256 networks on 1 topology, 4.8 MB, licence CC-BY-4.0" in lines
    accuracies = open_zoo("digits-mlp").metadata["test_accuracy"]
    bars = lines[lines.index("test_accuracy") + 2 :]
    assert len(bars) == len(np.unique(accuracies))
    assert (bars[0].split()[0], bars[-1].split()[1]) == (f"{accuracies.min():.4f}", f"{accuracies.max():.4f}")
    assert sum(int(bar.split()[2]) for bar in bars) == len(accuracies)
    assert str(open_zoo("digits-mlp").metadata["seed"].max()) in " ".join(lines)


def test_a_column_of_one_value_is_told_and_not_drawn():
    text = ngbench("zoo", "info", "digits-mlp", "--column", "learning_rate").stdout
    assert text.endswith("learning_rate\n0.03 in all networks\n")


def test_verify_proves_a_zoo_of_several_families(made):
    text = ngbench("zoo", "verify", made[0]).stdout
    assert "FAILED" not in text
    assert "ok     split narrow-to-wide: by rule" in text


def test_card_is_made_for_a_zoo_of_several_families(made, tmp_path):
    (tmp_path / "mixed.md").write_text("<!-- made by ngbench zoo card: begin -->\n<!-- made by ngbench zoo card: end -->\n")
    ngbench("zoo", "card", made[0], "--out", tmp_path)
    assert "| transformer | 2 |" in (tmp_path / "mixed.md").read_text()


def test_a_zoo_of_representations_is_made_told_and_proved(inr_recipe, tmp_path):
    (tmp_path / "glance.yaml").write_text(yaml.safe_dump(inr_recipe.model_dump(mode="json")))
    ngbench("zoo", "generate", tmp_path / "glance.yaml", "--out", tmp_path / "a.h5", "--workers", "1", "--limit", "21")
    text = ngbench("zoo", "info", tmp_path / "a.h5").stdout
    assert "(no image_index is in two)" in text
    assert text.count("psnr") == 2
    assert "ok     recorded error: 21 networks rendered at 64 points" in ngbench("zoo", "verify", tmp_path / "a.h5").stdout
