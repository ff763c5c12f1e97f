import json
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from ngbench.errors import RecipeError, UnknownNameError
from ngbench.zoo.columns import COLUMNS, columns_of
from ngbench.zoo.recipe import load_recipe, parse_recipe, recipe_names

HALVES = {"width": "narrow-to-wide", "depth": "shallow-to-deep"}


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


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_load_without_torch(name):
    code = f"import sys; from ngbench.zoo.recipe import load_recipe; load_recipe({name!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_survives_json(name):
    recipe = load_recipe(name)
    assert parse_recipe(json.loads(recipe.model_dump_json()), source=name) == recipe


def test_recipe_of_one_architecture_is_the_text_that_was_released():
    content = load_recipe("digits-cnn").model_dump(mode="json")
    assert list(content) == [
        "name", "version", "title", "description", "licence", "citation", "num_runs", "seed", "images", "architecture",
        "hyperparameters", "rounding", "largest_weight",
    ]  # fmt: skip
    assert list(content["architecture"]) == [
        "family", "input_shape", "channels", "kernel_size", "strides", "paddings", "num_classes"
    ]  # fmt: skip
    assert content["images"]["corpus"] == "digits"
    assert [column.name for column in load_recipe("digits-cnn").columns] == list(COLUMNS)


def test_an_entry_that_varies_stands_for_every_combination(mixed_recipe):
    cnns = mixed_recipe.architectures[3:]
    assert [(cnn.channels, cnn.strides, cnn.norm) for cnn in cnns] == [((2, 4), (2, 1), "batch"), ((3, 3), (2, 1), "batch")]


def test_runs_go_through_the_architectures_in_turn(mixed_recipe):
    assert [mixed_recipe.architecture_of(index).family for index in range(7)] == [
        "mlp", "resnet", "transformer", "cnn", "cnn", "mlp", "resnet"
    ]  # fmt: skip


def test_an_architecture_is_trained_on_the_corpora_with_as_many_classes(mixed_recipe, small_recipe):
    ten, two = mixed_recipe.architectures[0], mixed_recipe.architectures[2]
    assert mixed_recipe.corpora_for(ten) == ("digits", "digits-rotated")
    assert mixed_recipe.corpora_for(two) == ("digits-range",)
    assert small_recipe().corpora_for(two) == ("digits",)


def test_digits_park_is_balanced():
    recipe = load_recipe("digits-park")
    architectures = recipe.architectures
    assert len(set(architectures)) == len(architectures) == 64
    assert recipe.num_runs % 64 == 0
    for family in ("mlp", "cnn", "resnet", "transformer"):
        of_family = [a for a in architectures if a.family == family]
        assert len(of_family) == 16
        limits = {name: recipe.splits[split].limits[family] for name, split in HALVES.items()}
        corners = Counter(tuple(getattr(a, name) > limit for name, limit in limits.items()) for a in of_family)
        assert corners == dict.fromkeys([(False, False), (False, True), (True, False), (True, True)], 4)


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
        (
            lambda c: c.pop("architectures"),
            "expected either architecture, one for all runs, or architectures, a list, or sampler; got none of them",
        ),
        (
            lambda c: c.update(architecture=c["architectures"][0]),
            "expected either architecture, .* got architecture and architectures",
        ),
        (
            lambda c: c.update(checkpoints=[0, 2]),
            r"fixed number of epochs \[2, 3\], got \[0, 2\]",
        ),
        (
            lambda c: c["hyperparameters"].update(activation={"kind": "choice", "values": ["relu", "mixed"]}),
            "activation: expected one of relu, leaky_relu, gelu, silu, tanh, sigmoid for a mlp, got 'mixed'",
        ),
        (lambda c: c["architectures"][1].update(family="gru"), r"key 'architectures.1': .*'gru' .*'mlp', 'cnn', 'resnet'"),
        (lambda c: c["architectures"][1].update(kernel_size=4), r"'architectures.1.resnet': .* odd kernel_size, got 4"),
        (lambda c: c["architectures"][2].update(num_heads=4), r"num_heads must divide width, got 4 heads for width 6"),
        (lambda c: c["architectures"][2].update(patch_size=3), r"patch_size must divide .* \(1, 8, 8\), got 3"),
        (
            lambda c: c["architectures"][0].update(vary={"width": 3}),
            r"vary: expected a list of values for each key, got {'width': 3}",
        ),
        (
            lambda c: c["images"].update(corpus=["digits", "digits-rotated"]),
            "none of digits, digits-rotated has the 2 of a transformer",
        ),
        (
            lambda c: c["splits"]["narrow-to-wide"].update(column="wide"),
            r"split 'narrow-to-wide': expected a column of int or float: width, depth, .*; got 'wide'",
        ),
        (
            lambda c: c["splits"]["narrow-to-wide"].update(within="depth"),
            r"split 'narrow-to-wide': expected a column of str: family, corpus, .*; got 'depth'",
        ),
        (
            lambda c: c["splits"]["family-held-out"].update(column="test_accuracy"),
            r"split 'family-held-out': expected a column of str: family, .*; got 'test_accuracy'",
        ),
        (
            lambda c: c.update(architecture={**c.pop("architectures")[0], "num_classes": 7}),
            "none of digits, digits-rotated, digits-range has the 7 of a mlp",
        ),
        (lambda c: c["splits"].update(default=c["splits"]["narrow-to-wide"]), r"none of them 'default', got 'default'"),
        (lambda c: c["splits"].update({"a/b": c["splits"]["narrow-to-wide"]}), r"names of letters, digits and '-', .* got 'a/b'"),
    ],
)
def test_wrong_design_is_named(mixed_recipe, tmp_path, change, message):
    content = mixed_recipe.model_dump(mode="json")
    change(content)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), r"key 'colour': unknown, got 'red'$"),
        (lambda c: c.update(num_runs=0), r"key 'num_runs': .*greater than 0, got 0"),
        (lambda c: c.update(num_runs=0, seed=-1), r"key 'num_runs': .*, got 0 \(and 1 more: seed\)$"),
        (
            lambda c: (c.pop("version"), c.pop("title"), c.update(bogus=1)),
            r"key 'bogus': unknown, got 1 \(and 2 more: version, title\)",
        ),
        (lambda c: c.pop("licence"), r"key 'licence': Field required$"),
        (lambda c: c.update(rounding="int8"), r"key 'rounding': .*'bfloat16', 'float16' or 'none', got 'int8'"),
        (lambda c: c["images"].update(num_val=0), r"key 'images.num_val': .*greater than 0, got 0"),
        (lambda c: c["architecture"].update(strides=[1, 1]), r"key 'architecture.cnn': .*got 3, 2 and 3"),
        (
            lambda c: c["architecture"].update(strides=[3, 3, 1]),
            r"key 'architecture.cnn': .*convolution 1 leaves no height of the input",
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


def test_the_json_of_a_recipe_of_classifiers_names_no_kind():
    assert "kind" not in load_recipe("digits-park").model_dump(mode="json")
    assert load_recipe("digits-inr").model_dump(mode="json")["kind"] == "inr"


def test_a_recipe_of_classifiers_may_name_its_kind(tmp_path):
    path = write(tmp_path / "named.yaml", lambda content: content.update(kind="classifier"))
    assert load_recipe(path) == load_recipe("digits-cnn")


def test_all_digits_are_fitted_six_times_and_by_the_twins_once_from_own_or_the_same_weights():
    recipe, twin, single = load_recipe("digits-inr"), load_recipe("digits-inr-shared"), load_recipe("digits-inr-single")
    assert (recipe.num_runs, recipe.fits_per_image, recipe.initialization) == (6 * 1797, 6, "independent")
    assert (twin.num_runs, twin.fits_per_image, twin.initialization) == (1797, 1, "shared")
    assert (single.num_runs, single.fits_per_image, single.initialization) == (1797, 1, "independent")
    for other in (twin, single):
        assert (other.architecture, other.hyperparameters) == (recipe.architecture, recipe.hyperparameters)


def test_all_runs_of_digits_mlp_are_trained_alike():
    recipe = load_recipe("digits-mlp")
    assert recipe.sample(3) == recipe.sample(200)
    assert recipe.run_seed(3) != recipe.run_seed(200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="gan"), "key 'kind': expected one of classifier, inr, got 'gan'"),
        (
            lambda c: c.pop("kind"),
            r"key 'corpus': unknown, got 'digits' \(and 5 more: .*hyperparameters, images,",
        ),
        (
            lambda c: c.update(num_runs=5392),
            "5392 runs, 3 an image, take 1798 images; expected at most the 1797 of corpus 'digits'",
        ),
        (lambda c: c.update(fits_per_image=0), "key 'fits_per_image': .*greater than 0, got 0"),
        (lambda c: c.update(initialization="own"), "key 'initialization': .*'independent' or 'shared', got 'own'"),
        (lambda c: c["architecture"].update(omega=-1), "key 'architecture.omega': .*greater than 0, got -1"),
        (lambda c: c["architecture"].update(family="mlp"), "key 'architecture.family': .*'siren', got 'mlp'"),
        (lambda c: c["hyperparameters"].pop("num_steps"), r"missing \['num_steps'\], unknown \[\]"),
        (
            lambda c: c["hyperparameters"].update(dropout={"kind": "fixed", "value": 0.1}),
            r"expected one distribution for each of optimizer, .*, num_steps; missing \[\], unknown \['dropout'\]",
        ),
        (
            lambda c: c["hyperparameters"].update(num_steps={"kind": "fixed", "value": 0}),
            r"num_steps: expected int in \[1, 1e\+07\], got 0",
        ),
    ],
)
def test_a_wrong_recipe_of_representations_is_refused(inr_recipe, tmp_path, change, message):
    content = inr_recipe.model_dump(mode="json")
    change(content)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "wrong.yaml")


def test_a_corpus_that_no_one_knows_is_refused(inr_recipe):
    with pytest.raises(UnknownNameError, match="unknown image corpus 'digit': did you mean 'digits'"):
        parse_recipe(inr_recipe.model_dump() | {"corpus": "digit"}, source="here")


def test_columns_say_what_holds_for_the_zoo_s_families():
    names = ("digits-cnn", "digits-mlp", "digits-park")
    texts = {name: {column.name: column.description for column in load_recipe(name).columns} for name in names}
    assert texts["digits-cnn"]["activation"] == "nonlinearity after each convolution"
    assert texts["digits-mlp"]["activation"] == texts["digits-park"]["activation"] == "nonlinearity of the hidden layers"
    assert list(texts["digits-mlp"]) == list(texts["digits-cnn"])


def test_a_copy_of_a_recipe_has_the_architecture_that_it_was_given():
    recipe = load_recipe("digits-mlp")
    narrow = recipe.architecture.model_copy(update={"width": 12})
    assert recipe.architecture_of(0).width != 12
    assert recipe.model_copy(update={"architecture": narrow}).architecture_of(0).width == 12
