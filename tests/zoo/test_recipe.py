import subprocess
import sys

import pytest
import yaml

from ngbench.errors import RecipeError, UnknownNameError
from ngbench.zoo.columns import COLUMNS, columns_of
from ngbench.zoo.recipe import Recipe, load_recipe, recipe_names


def write(path, change):
    content = load_recipe("digits-cnn").model_dump(mode="json")
    change(content)
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_shipped_recipe_loads_under_its_own_name():
    assert "digits-cnn" in recipe_names()
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.title
        assert recipe.description
        assert recipe.licence
        assert recipe.citation


def test_recipes_load_without_torch():
    code = "import sys; from ngbench.zoo.recipe import load_recipe; load_recipe('digits-cnn'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_recipe_survives_json():
    recipe = load_recipe("digits-cnn")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_recipe_loads_from_a_path(tmp_path):
    path = write(tmp_path / "mine.yaml", lambda content: content.update(name="mine"))
    assert load_recipe(path).name == "mine"


def test_sample_depends_on_seed_and_run_only(small_recipe):
    recipe = small_recipe(num_runs=30)
    forwards = [recipe.sample(index) for index in range(30)]
    backwards = [small_recipe(num_runs=50).sample(index) for index in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert recipe.sample(0) != recipe.sample(1)
    assert recipe.sample(0) != small_recipe(seed=recipe.seed + 1).sample(0)


def test_samples_have_every_hyperparameter_column_within_its_domain():
    recipe = load_recipe("digits-cnn")
    for index in range(200):
        sample = recipe.sample(index)
        assert tuple(sample) == columns_of("hyperparameter")
        assert all(COLUMNS[name].allows(value) for name, value in sample.items())


def test_learning_rate_comes_from_the_range_of_the_run_s_own_optimizer():
    recipe = load_recipe("digits-cnn")
    samples = [recipe.sample(index) for index in range(300)]
    for optimizer, case in recipe.hyperparameters["learning_rate"].cases.items():
        rates = [sample["learning_rate"] for sample in samples if sample["optimizer"] == optimizer]
        assert len(rates) > 20
        assert case.low <= min(rates) < max(rates) < case.high


def test_run_ids_and_seeds_are_unique():
    recipe = load_recipe("digits-cnn")
    indices = range(recipe.num_runs)
    assert len({recipe.run_id(index) for index in indices}) == recipe.num_runs
    assert len({recipe.run_seed(index) for index in indices}) == recipe.num_runs


def test_run_beyond_the_recipe_is_refused(small_recipe):
    with pytest.raises(RecipeError, match=r"'digits-cnn' has runs 0 to 12, got run index 13"):
        small_recipe(num_runs=13).sample(13)


def test_unknown_name_suggests_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown recipe 'digits-cn': did you mean 'digits-cnn'"):
        load_recipe("digits-cn")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml' cannot be read: .*No such file"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: [1, 2", "bad.yaml' is no YAML: .*line 1"), ("- a\n- b", "bad.yaml': expected a mapping of keys, got list")],
)
def test_text_that_is_no_recipe_is_refused(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), r"key 'colour': Extra inputs are not permitted, got 'red'"),
        (lambda c: c.update(num_runs=0), r"key 'num_runs': .*greater than 0, got 0"),
        (lambda c: c.update(num_runs=0, seed=-1), r"key 'num_runs': .*\(and 1 more\)"),
        (lambda c: c.pop("licence"), r"key 'licence': Field required"),
        (lambda c: c.update(rounding="int8"), r"key 'rounding': .*'bfloat16', 'float16' or 'none', got 'int8'"),
        (lambda c: c["images"].update(num_val=0), r"key 'images.num_val': .*greater than 0, got 0"),
        (lambda c: c["architecture"].update(strides=[1, 1]), r"key 'architecture': .*got 3, 2 and 3"),
        (
            lambda c: c["architecture"].update(strides=[3, 3, 1]),
            r"key 'architecture': .*convolution 1 leaves no height of the input",
        ),
        (lambda c: c["hyperparameters"].pop("dropout"), r"key 'hyperparameters': .*missing \['dropout'\], unknown \[\]"),
        (
            lambda c: c["hyperparameters"].update(dropout={"kind": "uniform", "low": 0.1, "high": 1.5}),
            r"dropout: expected float in \[0, 0\.95\], got 1\.5",
        ),
        (
            lambda c: c["hyperparameters"].update(activation={"kind": "choice", "values": ["relu", "rleu"]}),
            r"activation: expected one of relu, .*, got 'rleu'",
        ),
        (
            lambda c: c["hyperparameters"].update(epochs={"kind": "fixed", "value": 2.5}),
            r"epochs: expected int in \[1, 100000\], got 2\.5",
        ),
        (lambda c: c["hyperparameters"].update(epochs={"kind": "sometimes"}), r"key 'hyperparameters.epochs': .*'sometimes'"),
        (
            lambda c: c["hyperparameters"]["learning_rate"]["cases"].pop("adam"),
            r"learning_rate: expected a case for each optimizer",
        ),
        (
            lambda c: c["hyperparameters"]["learning_rate"].update(hyperparameter="lr"),
            r"learning_rate: expected the name .* got 'lr'",
        ),
    ],
)
def test_wrong_key_or_value_is_named(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write(tmp_path / "wrong.yaml", change))
    assert "wrong.yaml" in str(caught.value)
