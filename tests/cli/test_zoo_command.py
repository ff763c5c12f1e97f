"""``ngbench zoo`` on a zoo of several families, as a user types it."""

import re
import sys

import datasets
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from ngbench.cli import main
from ngbench.store import RELEASED, ZooWriter, open_zoo
from ngbench.zoo.columns import Column
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


def test_generate_on_a_cluster_takes_no_number_of_workers_and_says_where_ray_is_missing(tmp_path, monkeypatch):
    asked = ("zoo", "generate", "digits-mlp", "--executor", "ray", "--out", tmp_path / "a.h5")
    shown = ngbench(*asked, "--workers", "2", exit_code=2).stderr
    assert "--workers is given beside --executor ray, whose cluster says how many there are; leave it out" in shown
    monkeypatch.setitem(sys.modules, "ray", None)
    shown = ngbench(*asked, exit_code=2).stderr
    assert "pip install 'ngbench[ray]'" in shown.splitlines()[-1]
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ("local", "device is 'tpu9'; expected one that this machine has: cpu"),
        ("ray", "device is 'tpu9'; a Ray cluster itself says which GPU a part gets: expected 'cpu' or 'cuda'"),
    ],
)
def test_generate_on_a_device_that_is_not_there_is_refused_in_one_line(tmp_path, executor, said):
    asked = ("zoo", "generate", "digits-mlp", "--out", tmp_path / "a.h5", "--executor", executor, "--device", "tpu9")
    assert said in " ".join(ngbench(*asked, exit_code=2).stderr.split())
    assert not list(tmp_path.iterdir())


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


@pytest.fixture
def measured(small_zoo_path, tmp_path, monkeypatch):
    """Writes the small zoo with one measurement in place of its own, to be shown without a line broken."""
    monkeypatch.setenv("COLUMNS", "220")
    small = open_zoo(small_zoo_path)

    def write(name, values):
        columns = [small.columns["activation"], *([] if values is None else [Column(name, "measurement", "float", "of tests")])]
        path = tmp_path / f"{name}.h5"
        with ZooWriter(path, small.info, columns=columns) as writer:
            metadata = {"activation": small.metadata["activation"]} | ({} if values is None else {name: values})
            topologies = [graph.topology for graph in small]
            writer.append(topologies, small.values(slice(None)), ids=small.ids, metadata=metadata)
        return path

    return write


def test_info_draws_what_is_measured_first_and_counts_what_is_not_given(measured):
    losses = np.linspace(0.5, 3.5, 150)
    losses[[0, 3, 4]], losses[7] = np.nan, np.inf
    lines = ngbench("zoo", "info", measured("test_loss", losses)).stdout.splitlines()
    assert "0.5201 to 3.5, not given for 3, infinite for 1" in " ".join(lines)
    bars = lines[lines.index("test_loss") + 2 :]
    assert sum(int(bar.split()[2]) for bar in bars) == 150 - 4


def test_info_draws_nothing_where_nothing_is_measured_or_given(measured):
    lines = ngbench("zoo", "info", measured("test_loss", np.full(150, np.nan))).stdout.splitlines()
    assert lines[-2:] == ["test_loss", "not given for 150"]
    assert ngbench("zoo", "info", measured("none", None)).stdout.splitlines()[-1].startswith("activation")


def test_verify_proves_a_zoo_of_several_families(made):
    text = ngbench("zoo", "verify", made[0]).stdout
    assert "FAILED" not in text
    assert "ok     split narrow-to-wide: by rule" in text


def test_merge_writes_files_of_one_zoo_into_one_and_refuses_a_network_twice(made, tmp_path):
    result = ngbench("zoo", "merge", tmp_path / "again.h5", made[0])
    assert f"12 networks of 1 files in {tmp_path / 'again.h5'}, sha256" in result.stdout
    assert (tmp_path / "again.h5").read_bytes() == made[0].read_bytes()
    refused = ngbench("zoo", "merge", tmp_path / "twice.h5", made[0], made[0], exit_code=2)
    assert "stands twice" in refused.stderr


def test_merge_writes_over_no_file_but_one_of_its_parts(made, tmp_path):
    (tmp_path / "mine.h5").write_text("mine")
    refused = ngbench("zoo", "merge", tmp_path / "mine.h5", made[0], exit_code=2).stderr
    assert f"'{tmp_path / 'mine.h5'}' is there already; expected a new file or one of the parts" in " ".join(refused.split())
    assert (tmp_path / "mine.h5").read_text() == "mine"
    (tmp_path / "part.h5").write_bytes(made[0].read_bytes())
    ngbench("zoo", "merge", tmp_path / "part.h5", tmp_path / "part.h5")


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


def test_checkpoints_of_one_run_stand_together(tmp_path, mixed_recipe):
    content = mixed_recipe.model_dump(mode="json") | {"checkpoints": [0, 1, 2], "splits": {}}
    content["hyperparameters"]["epochs"] = {"kind": "fixed", "value": 2}
    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(content))
    ngbench("zoo", "generate", tmp_path / "steps.yaml", "--out", tmp_path / "a.h5", "--workers", "1", "--limit", "7")
    zoo = open_zoo(tmp_path / "a.h5")
    assert zoo.ids[:3].tolist() == ["mixed-00000-e000", "mixed-00000-e001", "mixed-00000-e002"]
    assert (len(zoo), len(set(zoo.run_ids))) == (21, 7)
    parts = {part: set(zoo.run_ids[zoo.split(part)]) for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == 7
    assert "FAILED" not in ngbench("zoo", "verify", tmp_path / "a.h5").stdout


def test_images_are_read_from_the_folder_that_is_named(tmp_path, inr_recipe, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", "")
    rows = {"picture": [Image.new("L", (4, 3), shade) for shade in (0, 90, 200)], "kind": [0, 1, 0]}
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    own = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=own, test=own).save_to_disk(str(tmp_path / "data" / "shades"))
    source = {"hub": "somebody/shades", "size": [3, 4], "color": "grey"}
    content = inr_recipe.model_dump(mode="json") | {"corpus": "shades", "source": source, "num_runs": 18}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    arguments = ("zoo", "generate", tmp_path / "own.yaml", "--out", tmp_path / "a.h5", "--images", tmp_path / "data")
    ngbench(*arguments, "--workers", "1")
    assert open_zoo(tmp_path / "a.h5").metadata["label"].tolist() == [0] * 3 + [1] * 3 + [0] * 6 + [1] * 3 + [0] * 3


def test_outputs_stand_beside_the_zoo_and_are_not_written_over(made, tmp_path):
    path = tmp_path / "mixed.h5"
    path.write_bytes(made[0].read_bytes())
    shown = ngbench("zoo", "outputs", path, "--inputs", "16").stdout
    assert re.fullmatch(r"outputs of \d+ networks for \d+ inputs in .*mixed-outputs\.h5, .*B, sha256 [0-9a-f]{64}", shown.strip())
    assert open_zoo(path).held_out.rows.tolist() == open_zoo(path).split("test").tolist()
    assert "ok     outputs on held-out inputs" in ngbench("zoo", "verify", path).stdout
    assert "mixed-outputs.h5' is there already" in ngbench("zoo", "outputs", path, exit_code=2).stderr
