"""Task files: what a wrong one says, what the shipped ones ask, and of which column."""

from importlib import resources

import pytest
import yaml

from ngbench.errors import ConfigError, UnknownNameError
from ngbench.metrics import METRICS
from ngbench.store import RELEASED, open_zoo
from ngbench.tasks import TASKS, MergingPlan, RetrievalPlan
from ngbench.tasks import task as task_module
from ngbench.tasks.task import LOSSES, load_task, parse_task

CONTENT = {
    "version": 3,
    "name": "age",
    "title": "Age",
    "question": "How old is the network?",
    "kind": "regression",
    "zoos": {"nursery": ["epochs", "run_index"], "school": ["epochs"]},
    "metrics": ["mae", "r2"],
    "selection": "r2",
    "loss": LOSSES["regression"],
    "baselines": ["mean"],
    "max_epochs": 5,
    "num_candidates": 2,
    "num_seeds": 7,
    "num_scrambled": 4,
    "num_resamples": 11,
    "confidence": 0.9,
}


PAIRS = {
    "num_pairs": 5,
    "num_triples": 4,
    "num_sets": 3,
    "set_sizes": [2, 6],
    "num_recoveries": 7,
    "noises": [0, 0.25],
    "pool_size": 40,
    "num_points": 9,
    "num_test_images": 80,
    "num_train_images": 60,
}
OF_PAIRS = ["barrier", "barrier_repaired", "barrier_area", "midpoint_accuracy", "midpoint_accuracy_repaired"]
OF_UNEQUAL = [
    *("barrier_unequal", "endpoint_accuracy_unequal", "midpoint_accuracy_unequal", "midpoint_accuracy_unequal_repaired"),
]
OF_SETS = ["merged_2", "merged_2_repaired", "merged_6", "merged_6_repaired"]
MERGING = {
    "kind": "merging",
    "zoos": {"pairs": []},
    "metrics": [*OF_PAIRS, "endpoint_accuracy"],
    "more_metrics": [
        *OF_UNEQUAL,
        "cycle_consistency",
        *OF_SETS,
        "recovery_0",
        "recovery_exact_0",
        "recovery_0.25",
        "recovery_exact_0.25",
    ],
    "selection": "recovery_0.25",
    "loss": LOSSES["merging"],
    "merging": PAIRS,
}
RETRIEVAL = {
    "kind": "retrieval",
    "metrics": ["map"],
    "selection": "accuracy",
    "loss": LOSSES["retrieval"],
    "retrieval": {"num_near": 3, "num_inputs": 9},
}


def task(**changes):
    return parse_task(yaml.safe_dump({**CONTENT, **changes}), source="age.yaml")


def test_a_file_says_all_of_a_task():
    found = task()
    assert found.model_dump(include=set(CONTENT)) == {
        **CONTENT,
        "zoos": {"nursery": ("epochs", "run_index"), "school": ("epochs",)},
        "metrics": ("mae", "r2"),
        "baselines": ("mean",),
    }
    assert (found.target, found.target_bounds, found.split) == (None, (0.0, 1.0), "default")
    assert found.default_zoo == "nursery"
    assert found.primary is METRICS["mae"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_folds": 3}, r"task file 'age\.yaml': key 'num_folds': Extra inputs .*, got 3; expected the keys version, name"),
        (
            {"kind": "guessing"},
            r"key 'kind': Input should be 'regression', 'classification', .*, got 'guessing'; expected the keys",
        ),
        ({"num_seeds": 0}, "key 'num_seeds': Input should be greater than 0, got 0"),
        ({"num_scrambled": "many"}, "key 'num_scrambled': Input should be a valid integer, .* got 'many'"),
        ({"confidence": 1.0}, r"key 'confidence': Input should be less than 1, got 1\.0"),
        ({"zoos": {}}, r"key 'zoos': Dictionary should have at least 1 item .*, got \{\}"),
        ({"metrics": []}, r"key 'metrics': Tuple should have at least 1 item .*, got \(?\[?"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_both(changes, message):
    with pytest.raises(ConfigError, match=message):
        task(**changes)


def test_a_key_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="key 'selection': Field required"):
        parse_task(yaml.safe_dump({key: value for key, value in CONTENT.items() if key != "selection"}), source="age.yaml")


@pytest.mark.parametrize("changes", [{"metrics": ["mae", "kendal_tau"]}, {"selection": "kendal_tau"}])
def test_an_unknown_metric_is_refused_with_the_close_one(changes):
    with pytest.raises(UnknownNameError, match="unknown metric 'kendal_tau': did you mean 'kendall_tau'"):
        task(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["mae", "accuracy"]}, "metrics of task 'age', of regression: accuracy; expected some of kendall_tau, mae"),
        ({"more_metrics": ["map"]}, "metrics of task 'age', of regression: map; expected some of kendall_tau, mae"),
        ({"selection": "accuracy"}, "selection of task 'age', of regression: accuracy; expected some of kendall_tau, mae"),
        ({**RETRIEVAL, "selection": "map"}, "selection of task 'age', of retrieval: map; expected some of accuracy, ece"),
        ({**MERGING, "selection": "recovery_0.3"}, "selection of task 'age', of merging: recovery_0.3; expected some of barrier"),
        ({**MERGING, "more_metrics": ["merged_3"]}, "metrics of task 'age', of merging: merged_3; expected some of barrier"),
        (
            {**MERGING, "more_metrics": [*OF_UNEQUAL, *OF_SETS]},
            "metrics of task 'age' leave out cycle_consistency, recovery_0, recovery_0.25, ",
        ),
        ({"loss": "hinge"}, "loss of task 'age' is 'hinge'; expected 'cross-entropy of the target as a share of its bounds'"),
        (
            {"baselines": ["mean", "meen"]},
            "baselines of task 'age' are no methods: meen; expected some of activation-matching",
        ),
        (
            {"fitted_as": "generalisation"},
            "fitted_as of task 'age' is 'generalisation'; expected one of classification, gener",
        ),
        (
            {"name": "merging", "fitted_as": "merging"},
            "fitted_as of task 'merging' is 'merging'; expected one of classification",
        ),
        (
            {"fitted_as": "generalization"},
            "selection of task 'age' is 'r2', and it takes over the fits of 'generalization'; ",
        ),
        (
            {"fitted_as": "generalization", "selection": "kendall_tau"},
            "max_epochs of task 'age' is 5, and it takes over the fits of 'generalization'; expected 60",
        ),
        ({"retrieval": RETRIEVAL["retrieval"]}, "'age' is of kind 'regression'; expected the key 'retrieval' of that kind alone"),
        ({**MERGING, "merging": None}, "'age' is of kind 'merging'; expected the key 'merging' of that kind alone"),
        ({**MERGING, "merging": {**PAIRS, "num_points": 8}}, "num_points is 8; expected an odd number"),
        ({**MERGING, "merging": {**PAIRS, "noises": [0.5, 0]}}, "noises is 0.5, 0; expected rising numbers"),
        ({**MERGING, "merging": {**PAIRS, "set_sizes": [2, 2]}}, "set_sizes is 2, 2; expected rising numbers"),
        ({**MERGING, "merging": {**PAIRS, "num_pars": 8}}, r"key 'merging\.num_pars': Extra inputs .*, got 8"),
        ({**MERGING, "merging": {**PAIRS, "num_sets": 0}}, r"key 'merging\.num_sets': Input should be greater than 0, got 0"),
        ({**RETRIEVAL, "retrieval": {"num_near": 3}}, r"key 'retrieval\.num_inputs': Field required"),
    ],
)
def test_what_does_not_fit_the_kind_or_the_rest_of_the_file_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        task(**changes)


def test_a_plan_is_that_of_its_kind():
    assert task(**MERGING).plan(MergingPlan).model_dump(mode="json") == PAIRS
    assert task(**MERGING).plan(MergingPlan).largest_set == 6
    assert task(**RETRIEVAL).plan(RetrievalPlan) == RetrievalPlan(num_near=3, num_inputs=9)
    with pytest.raises(ConfigError, match="task 'age' is of kind 'regression' and has no MergingPlan; expected one that has"):
        task().plan(MergingPlan)


def test_methods_are_not_checked_where_none_is_installed(monkeypatch):
    monkeypatch.setattr(task_module, "_method_names", lambda: ())
    assert task(baselines=["meen"]).baselines == ("meen",)


def test_fits_are_taken_over_from_a_task_that_is_fitted_alike():
    alike = {"selection": "kendall_tau", "max_epochs": 60, "num_candidates": 8}
    assert task(fitted_as="generalization", **alike).fitted_as == "generalization"


@pytest.mark.parametrize(("text", "got"), [("", "None"), ("- a\n- b", r"\['a', 'b'\]"), ("age", "'age'")])
def test_a_file_without_a_mapping_is_refused(text, got):
    with pytest.raises(ConfigError, match=f"task file 'age.yaml': key 'task': Input should be a valid dictionary .*, got {got}"):
        parse_task(text, source="age.yaml")


@pytest.mark.parametrize("text", ["name: [a", "a: b: c", "\tname: a"])
def test_a_file_that_is_no_yaml_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"task file 'age\.yaml' is no YAML: .*line 1") as raised:
        parse_task(text, source="age.yaml")
    assert "\n" not in str(raised.value)


def test_a_file_is_not_executed():
    with pytest.raises(ConfigError, match="is no YAML"):
        parse_task("name: !!python/object/apply:os.getcwd []", source="age.yaml")


@pytest.mark.parametrize(
    ("zoo", "options", "target", "split"),
    [
        (None, {}, "epochs", "default"),
        ("nursery", {"target": "run_index"}, "run_index", "default"),
        ("school", {"split": "wide"}, "epochs", "wide"),
        ("elsewhere", {}, "epochs", "default"),
        ("school", {"target": "width", "split": "wide"}, "width", "wide"),
    ],
)
def test_a_task_is_asked_of_the_first_column_that_it_names_for_a_zoo_unless_told_otherwise(zoo, options, target, split):
    asked = task().asked(zoo, **options)
    assert (asked.target, asked.split) == (target, split)
    assert asked.model_copy(update={"target": None, "split": "default"}) == task()
    assert asked.label() == target.replace("_", " ")


def test_merging_is_asked_of_no_column():
    merging = task(**MERGING)
    assert merging.asked().target is None
    assert merging.asked().label() == "age"
    with pytest.raises(ConfigError, match="task 'age' is asked about no column, got target 'epochs'; expected none"):
        merging.asked(target="epochs")


@pytest.mark.parametrize("name", list(TASKS))
def test_every_shipped_file_loads_under_its_name_and_has_no_key_twice(name):
    assert load_task(name) == TASKS[name]
    assert TASKS[name].name == name
    text = (resources.files("ngbench.tasks") / f"{name}.yaml").read_text(encoding="utf-8")
    keys = [line.partition(":")[0] for line in text.splitlines() if not line.startswith((" ", "#", "-"))]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", list(TASKS))
def test_every_shipped_file_names_columns_that_the_shipped_zoos_have(name):
    for zoo_name, columns in TASKS[name].zoos.items():
        if zoo_name in RELEASED:
            zoo = open_zoo(zoo_name)
            assert set(columns) <= set(zoo.columns)
            if TASKS[name].kind in ("classification", "retrieval"):
                assert all(2 <= len(set(zoo.metadata[column].tolist())) <= 20 for column in columns)
