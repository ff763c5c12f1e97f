"""Data cards: what is generated follows from the file, what is written by hand stays."""

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from matplotlib.figure import Figure

from ngbench.errors import CardError
from ngbench.store import RELEASED, Zoo, ZooWriter, generate, histogram_edges, main_measurement, open_zoo, summary, update_card
from ngbench.store.card import BEGIN, END, draw_histogram, recipe_digest


@pytest.fixture
def zoo(small_zoo_path):
    return open_zoo(small_zoo_path)


def test_the_generated_part_is_made_anew_and_the_rest_stays(zoo, tmp_path):
    (tmp_path / "small.md").write_text(f"by hand\n{BEGIN}\nold 123\n{END}\nalso by hand\n")
    for _ in range(2):
        text = update_card(zoo, tmp_path).read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("\nalso by hand\n")
    assert "old 123" not in text
    assert f"| networks | {len(zoo):,}, each from a run of its own |" in text
    assert zoo.sha256 in text
    assert all(f"| `{name}` |" in text for name in zoo.columns)
    assert (tmp_path / "small-test-accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["no markers", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_card_without_markers_is_refused_and_kept(zoo, tmp_path, text):
    (tmp_path / "small.md").write_text(text)
    with pytest.raises(CardError, match=r"small\.md lacks the lines"):
        update_card(zoo, tmp_path)
    assert (tmp_path / "small.md").read_text() == text


def test_a_missing_card_is_not_invented(zoo, tmp_path):
    with pytest.raises(CardError, match=r"no data card .*small\.md"):
        update_card(zoo, tmp_path)


def test_columns_are_summed_up_by_range_or_by_counts(zoo):
    scale = zoo.metadata["init_scale"]
    assert summary(scale) == f"{scale.min():.4g} to {scale.max():.4g}"
    relu = int((zoo.metadata["activation"] == "relu").sum())
    assert summary(np.array([10781, 3, 2**62])) == f"3 to {2**62}"
    assert summary(np.array([32, 32])) == "32"
    assert summary(np.array([0.03, 0.03])) == "0.03"
    assert summary(np.repeat([np.nan, 0.5, 2.0], [1234, 2, 3])) == "0.5 to 2, not given for 1,234"
    assert summary(np.array([np.inf, np.nan, -np.inf])) == "not given for 1, infinite for 2"
    assert summary(zoo.metadata["activation"]) == f"relu {relu}, tanh {len(zoo) - relu}"


@pytest.mark.parametrize("num_families", [1, 2, 3])
def test_each_family_has_a_panel_and_no_panel_is_empty(num_families, tmp_path, monkeypatch):
    figures, names = [], ["cnn", "mlp", "resnet"][:num_families]
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))

    class Drawn(list):
        name, version, columns = "some", "1", ("family", "corpus", "test_accuracy")
        metadata: ClassVar = {
            "family": np.repeat(names, 5),
            "corpus": np.full(5 * num_families, "digits"),
            "test_accuracy": np.linspace(0, 1, 5 * num_families),
        }

    draw_histogram(Drawn(range(5 * num_families)), tmp_path / "some.png", column="test_accuracy")
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [panel.get_title() for panel in panels] == [f"{name} (5)" for name in names]


def test_a_histogram_reaches_over_what_there_is_unless_accuracies_fill_half_of_their_range():
    narrow = np.repeat([0.97, 0.972, 0.974, 0.976], [2, 3, 5, 7])
    assert histogram_edges(narrow, column="test_accuracy", num_bins=20) == pytest.approx([0.97, 0.9715, 0.973, 0.9745, 0.976])
    wide = np.linspace(0.3, 0.9, 31)
    assert histogram_edges(wide, column="test_accuracy", num_bins=4) == [0, 0.25, 0.5, 0.75, 1]
    assert histogram_edges(wide, column="dropout", num_bins=3) == pytest.approx([0.3, 0.5, 0.7, 0.9])
    with_gaps = np.concatenate([wide, [np.nan, np.inf]])
    assert histogram_edges(with_gaps, column="dropout", num_bins=40) == histogram_edges(wide, column="dropout", num_bins=40)
    assert len(histogram_edges(np.full(3, np.nan), column="dropout", num_bins=3)) == 1


def test_a_card_of_several_families_has_a_row_for_each_and_one_for_each_split(mixed_recipe, tmp_path):
    zoo = generate(mixed_recipe, tmp_path / "mixed.h5")
    (tmp_path / "mixed.md").write_text(f"{BEGIN}\n{END}\n")
    text = update_card(zoo, tmp_path).read_text()
    counts = {family: int((zoo.metadata["family"] == family).sum()) for family in ("mlp", "cnn", "resnet", "transformer")}
    for family, count in counts.items():
        topologies = len(set(zoo.topology_index[zoo.metadata["family"] == family].tolist()))
        assert f"| {family} | {count} | {topologies} |" in text
    assert "| cnn | 4 |" in text
    assert "| 3, 4 | 2 | 3 | batch |" in text
    assert "2 test, tests on family transformer |" in text
    assert "tests on width above 5 (mlp), 2 (resnet), 3 (cnn) |" in text
    assert (tmp_path / "mixed-test-accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert f"| trained | the first {mixed_recipe.num_runs} runs of recipe `{recipe_digest(zoo.info.recipe)}` |" in text


def test_a_card_of_representations_tells_fits_initialisation_and_errors(inr_zoo, tmp_path):
    (tmp_path / "glance.md").write_text(f"{BEGIN}\n{END}\n")
    text = update_card(inr_zoo, tmp_path).read_text()
    assert "| fits | 3 of each of 11 images of corpus `digits` |" in text
    assert "| initialisation | initial weights of its own for each fit |" in text
    assert f"median {np.median(inr_zoo.metadata['psnr']):.1f}, " in text
    assert "by hash of `image_index` |" in text
    assert (tmp_path / "glance-psnr.png").read_bytes().startswith(b"\x89PNG")


def test_a_zoo_that_measures_nothing_needs_a_column_to_draw(tiny, tmp_path):
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns[:1]) as writer:
        writer.append(tiny.topologies[:1], tiny.mlp_rows[:1], ids=["a"], metadata={"optimizer": ["sgd"]})
    with pytest.raises(CardError, match="zoo 'tiny' has neither column 'test_accuracy' nor 'psnr'"):
        main_measurement(Zoo(tmp_path / "a.h5"))


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_the_cards_of_released_zoos_are_up_to_date(name, tmp_path):
    card = Path(__file__).parents[2] / "data_cards" / f"{name}.md"
    shutil.copy(card, tmp_path)
    assert update_card(open_zoo(name), tmp_path).read_text() == card.read_text()
