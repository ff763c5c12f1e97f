"""What a task asks, what it withholds, and that the worst of the scrambled copies counts."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import ngbench
from ngbench.errors import ConfigError, GraphError, NotApplicableError, PredictionsError, SplitError
from ngbench.evaluation import Predictions, Result, exam_of, rescore, run_beside_baselines
from ngbench.evaluation.networks import examples_of, networks_of, problem_of
from ngbench.evaluation.plots import draw_predictions
from ngbench.methods import MethodInfo, methods
from ngbench.metrics import METRICS
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import ONE_STRUCTURE, SEVERAL_STRUCTURES, fake_dataset
from ngbench.zoo.columns import COLUMNS
from ngbench.zoo.transfer import OneOf

OPTIMIZERS = np.array(["sgd", "adam", "momentum"])
CLASSES = ("adam", "momentum", "sgd")
NUM_NETWORKS, NUM_COPIES = 140, 3
CALLS = []


def written(path, topologies):
    """A zoo of untrained networks: the scale of their weights chooses the optimizer that the metadata name."""
    dataset = fake_dataset(topologies, num_graphs=NUM_NETWORKS, seed=11)
    scale = dataset.hyperparameters["init_scale"]
    optimizer = OPTIMIZERS[np.searchsorted(np.quantile(scale, [1 / 3, 2 / 3]), scale)]
    names = ("activation", "init_scale", "optimizer", "schedule", "test_accuracy")
    metadata = {**dataset.hyperparameters, "optimizer": optimizer, "schedule": np.full(NUM_NETWORKS, "cosine")}
    metadata["test_accuracy"] = dataset.targets
    splits = {"adam-held-out": OneOf(kind="one_of", column="optimizer", values=("adam",))}
    info = ZooInfo(name="kinds", version="1", title="Fakes", licence="MIT", citation="none", recipe=None)
    with ZooWriter(path, info, columns=[COLUMNS[name] for name in names], splits=splits) as writer:
        for bundle in dataset.bundles:
            rows = bundle.index.numpy()
            writer.append(
                [bundle.variants[int(variant)] for variant in bundle.variant],
                bundle.values.numpy(),
                ids=[dataset.ids[row] for row in rows],
                metadata={name: column[rows] for name, column in metadata.items()},
            )
    return path


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("kinds") / "kinds.h5", ONE_STRUCTURE)


@pytest.fixture(scope="module")
def zoo(zoo_path):
    return open_zoo(zoo_path)


def asked(target, *, name="classification", **options):
    return TASKS[name].asked("kinds", target=target, **options)


def of_scale(networks):
    """The spread of the weights of each network, ``[graphs]``."""
    spread = np.zeros(len(networks))
    for bundle in networks.bundles:
        spread[bundle.index.numpy()] = bundle.values.double().square().mean(1).sqrt().numpy()
    return spread


class ByScale:
    """The class whose mean spread of weights in training is nearest; notes what it was given."""

    info = MethodInfo("by-scale", "By scale", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 3

    def fit(self, problem, train, val, context):
        CALLS.append((problem, train, val))
        spread = of_scale(train)
        self.centres = np.array([spread[train.targets == place].mean() for place in range(len(problem.classes))])

    def predict(self, networks):
        CALLS.append(networks)
        distance = np.abs(of_scale(networks)[:, None] - self.centres)
        likely = np.exp(-20 * distance)
        return likely / likely.sum(1, keepdims=True)


class BadOnce(ByScale):
    """Says the opposite of one copy: the third set of networks that it is asked about."""

    def fit(self, problem, train, val, context):
        super().fit(problem, train, val, context)
        self.num_asked = 0

    def predict(self, networks):
        self.num_asked += 1
        found = super().predict(networks)
        return found[:, ::-1] if self.num_asked == 3 else found


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    CALLS.clear()
    for name, cls in {"test-by-scale": ByScale, "test-bad-once": BadOnce}.items():
        monkeypatch.setitem(methods._entries, name, cls)


def one_hot(places, *, right=0.9):
    """Probabilities that name a class of three."""
    return np.where(np.arange(3) == np.asarray(places)[:, None], right, (1 - right) / 2)


def answers(exam, values, scrambled):
    return Predictions(exam.ids, np.asarray(values), np.asarray(scrambled), {})


def test_shifts_of_unsigned_numbers_are_differences_of_either_sign(zoo):
    exam = exam_of(asked("optimizer"), zoo)
    values, twins = (np.eye(3, dtype=np.uint8)[list(places)] for places in ((0, 1, 2), (0, 2, 1)))
    np.testing.assert_array_equal(exam.shifts(values, twins), [0, 1, 1])


@pytest.mark.parametrize("bad", range(NUM_COPIES))
def test_the_scrambled_scores_are_those_of_the_worst_copy_whichever_it_is(zoo, bad):
    exam = exam_of(asked("optimizer"), zoo)
    wrong = np.where(np.arange(len(exam.ids)) % 3 == 0, (exam.targets + 1) % 3, exam.targets)
    scrambled = np.stack([one_hot(wrong if copy == bad else exam.targets) for copy in range(NUM_COPIES)])
    scored = exam.score(answers(exam, one_hot(exam.targets), scrambled))
    assert (scored.scores["accuracy"], scored.scores["macro_f1"]) == (1.0, 1.0)
    assert scored.scrambled_scores["accuracy"] == accuracy_score(exam.targets, wrong) < 0.7
    assert scored.scrambled_scores["macro_f1"] == pytest.approx(f1_score(exam.targets, wrong, average="macro"), abs=1e-12)
    assert set(scored.scores) == set(scored.scrambled_scores) == {"accuracy", "macro_f1", "ece"}
    np.testing.assert_allclose(scored.shifts, np.where(np.arange(len(exam.ids)) % 3 == 0, 0.85, 0), atol=1e-12)


@pytest.mark.parametrize("bad", range(NUM_COPIES))
def test_where_lower_is_better_the_worst_copy_is_the_one_of_the_highest_score(zoo, bad):
    task = asked("test_accuracy", name="generalization").model_copy(update={"metrics": ("mae", "r2")})
    exam = exam_of(task, zoo)
    off = 0.01 * np.arange(1, NUM_COPIES + 1)
    off[bad] = 0.5
    scored = exam.score(answers(exam, exam.targets, exam.targets + off[:, None]))
    assert scored.scores["mae"] == 0
    assert scored.scrambled_scores["mae"] == pytest.approx(0.5)
    assert scored.scrambled_scores["r2"] == pytest.approx(METRICS["r2"](exam.targets + 0.5, exam.targets))
    np.testing.assert_allclose(scored.shifts, 0.5)


def test_answers_are_put_in_the_order_of_the_exam(zoo):
    exam = exam_of(asked("optimizer"), zoo)
    order = np.random.default_rng(0).permutation(len(exam.ids))
    says = one_hot(exam.targets)[order]
    shuffled = Predictions(tuple(exam.ids[row] for row in order), says, np.stack([says]), {})
    assert exam.score(shuffled).scores["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("name", "target", "shape", "expected"),
    [
        ("classification", "optimizer", (2,), r"has shape \[2\]; expected \[3\]"),
        ("classification", "optimizer", (), r"has shape \[\]; expected \[3\]"),
        ("classification", "optimizer", (3, 1), r"has shape \[3, 1\]; expected \[3\]"),
        ("generalization", "test_accuracy", (1,), r"has shape \[1\]; expected \[\]"),
    ],
)
def test_answers_of_another_shape_are_refused(zoo, name, target, shape, expected):
    exam = exam_of(asked(target, name=name), zoo)
    says = np.full((len(exam.ids), *shape), 0.5)
    with pytest.raises(PredictionsError, match=f"what is said of a row of task '{name}' {expected}"):
        exam.score(answers(exam, says, says[None]))


def test_what_is_no_probability_is_refused(zoo):
    exam = exam_of(asked("optimizer"), zoo)
    with pytest.raises(PredictionsError, match="rows that are no probabilities, the first is row 0"):
        exam.score(answers(exam, 2 * one_hot(exam.targets), 2 * one_hot(exam.targets)[None]))


def test_the_classes_are_those_of_training_by_name_and_the_targets_their_places(zoo):
    task = asked("optimizer")
    exam, problem, train = exam_of(task, zoo), problem_of(task, zoo), examples_of(task, zoo, "train")
    assert exam.classes == problem.classes == CLASSES
    assert (problem.kind, problem.num_outputs, problem.metric) == ("classification", 3, METRICS["accuracy"])
    assert train.targets.dtype == exam.targets.dtype == np.int64
    assert np.array(CLASSES)[train.targets].tolist() == zoo.metadata["optimizer"][zoo.split("train")].tolist()
    assert np.array(CLASSES)[exam.targets].tolist() == zoo.metadata["optimizer"][zoo.split("test")].tolist()


def test_a_regression_has_no_classes(zoo):
    problem = problem_of(asked("test_accuracy", name="generalization"), zoo)
    assert (problem.classes, problem.num_outputs, problem.bounds) == ((), 1, (0.0, 1.0))


def test_a_class_that_training_lacks_is_refused_by_name(zoo):
    with pytest.raises(
        SplitError, match="column 'optimizer' of zoo 'kinds' has adam in split 'adam-held-out', test, but not in tr"
    ):
        exam_of(asked("optimizer", split="adam-held-out"), zoo)


def test_a_column_of_one_value_is_refused(zoo):
    with pytest.raises(
        SplitError, match="column 'schedule' of zoo 'kinds' has one value in training; expected two or more classes"
    ):
        exam_of(asked("schedule"), zoo)


def test_a_column_that_the_zoo_lacks_is_refused(zoo):
    with pytest.raises(
        SplitError,
        match="zoo 'kinds' has no column 'family' for task 'classification', which is asked of digits-inr, digits-park; expected "
        "one of these zoos, or --target with a column of this one: activation, optimizer, schedule$",
    ):
        exam_of(asked("family"), zoo)


@pytest.mark.parametrize("name", ["classification", "generalization", "retrieval"])
def test_a_column_that_only_says_which_network_it_is_is_refused(name):
    park = open_zoo("digits-park")
    with pytest.raises(ConfigError, match="column 'seed' of zoo 'digits-park' only says which network it is; expected one that"):
        exam_of(TASKS[name].asked("digits-park", target="seed"), park)


def test_a_column_of_text_is_no_number_to_tell(zoo):
    with pytest.raises(
        ConfigError,
        match="column 'optimizer' of zoo 'kinds' holds text; expected one that task 'generalization' can ask about: init_scale,",
    ):
        exam_of(asked("optimizer", name="generalization"), zoo)


def test_the_columns_of_a_task_may_be_asked_about_whatever_their_role():
    inr = open_zoo("digits-inr")
    assert inr.columns["label"].role == "identity"
    assert len(exam_of(TASKS["classification"].asked("digits-inr"), inr).classes) == 10


def test_many_classes_that_training_lacks_are_counted_and_some_are_named(zoo):
    with pytest.raises(
        SplitError, match=r"column 'init_scale' of zoo 'kinds' has \d+ values, such as [^,]+(, [^,]+){3}, …, in sp"
    ):
        exam_of(asked("init_scale"), zoo)


@pytest.mark.parametrize("target", ["optimizer", "activation", "init_scale"])
def test_the_column_that_is_asked_about_is_withheld_and_the_others_are_not(zoo, target):
    networks = networks_of(asked(target), zoo, zoo.split("test"))
    assert set(networks.hyperparameters) == {"activation", "init_scale", "optimizer", "schedule"} - {target}
    assert networks.targets is None


def test_networks_that_differ_in_the_activation_alone_are_the_same_where_it_is_asked_about(zoo):
    train, test = (networks_of(asked("activation"), zoo, zoo.split(part)) for part in ("train", "test"))
    (bundle,) = test.bundles
    assert len(bundle.variants) == 1
    assert not bundle.variant.any()
    assert train.bundles[0].variants == bundle.variants
    activations = {group.activation for group in bundle.topology.groups}
    assert activations.isdisjoint({"relu", "tanh"})
    np.testing.assert_array_equal(bundle.values.numpy(), zoo.values(zoo.split("test")))
    with pytest.raises(GraphError, match=f"{len(test)} networks with .* cannot be run on inputs"):
        _ = bundle.input_shapes


def test_where_something_else_is_asked_about_they_differ_and_may_be_run(zoo):
    (bundle,) = networks_of(asked("optimizer"), zoo, zoo.split("test")).bundles
    assert bundle.variants == ONE_STRUCTURE
    assert set(bundle.variant.tolist()) == {0, 1}
    assert bundle.programs is not None


def quick(monkeypatch, **changes):
    """The task of classification without baselines, or with others."""
    changes = {"name": "test-quick", "baselines": (), "num_resamples": 50, **changes}
    monkeypatch.setitem(TASKS._entries, "test-quick", TASKS["classification"].model_copy(update=changes))


def test_a_classification_is_run_scored_and_scored_again(zoo, zoo_path, tmp_path, monkeypatch):
    quick(monkeypatch, baselines=("majority",))
    result = ngbench.run("test-by-scale", "test-quick", zoo_path, target="optimizer", out=tmp_path)
    folder = tmp_path / "test-quick/kinds-v1-optimizer/test-by-scale"
    predictions, rows = Predictions.load(folder / "seed-0/predictions.npz"), zoo.split("test")
    named = np.array(CLASSES)[predictions.values.argmax(1)]
    truth = zoo.metadata["optimizer"][rows]
    assert predictions.ids == tuple(zoo.ids[rows].tolist())
    assert predictions.scrambled.shape == (NUM_COPIES, len(rows), 3)
    assert result.scores["accuracy"].mean == accuracy_score(truth, named) > 0.7
    assert result.scores["macro_f1"].mean == pytest.approx(f1_score(truth, named, average="macro"), abs=1e-12)
    assert result.scrambled_scores["accuracy"] == result.scores["accuracy"]
    assert result.interval.low < result.interval.score == result.scores["accuracy"].mean <= result.interval.high
    share = np.mean(zoo.metadata["optimizer"][zoo.split("train")][:, None] == np.array(CLASSES), axis=0)
    most_common = accuracy_score(truth, np.full(len(rows), CLASSES[int(share.argmax())]))
    assert result.differences["majority"].score == pytest.approx(accuracy_score(truth, named) - most_common)
    assert (result.target, result.primary, result.task_version) == ("optimizer", "accuracy", 1)
    assert (rescore(folder, zoo=zoo), draw_predictions(result, zoo, folder)) == ((result, []), None)


def test_what_a_method_is_given_holds_no_answer(zoo, zoo_path, tmp_path, monkeypatch):
    quick(monkeypatch)
    ngbench.run("test-by-scale", "test-quick", zoo_path, target="optimizer", out=tmp_path)
    (problem, train, val), *asked_about = CALLS
    assert problem.classes == CLASSES
    assert all(networks.targets is None for networks in asked_about)
    assert len(asked_about) == 1 + NUM_COPIES + 1
    assert all("optimizer" not in networks.hyperparameters for networks in (train, val, *asked_about))
    values = [networks.bundles[0].values.numpy() for networks in asked_about[: 1 + NUM_COPIES]]
    assert len({array.tobytes() for array in values}) == 1 + NUM_COPIES


def test_a_method_that_is_bad_on_one_copy_has_that_copy_in_the_table(zoo_path, tmp_path, monkeypatch):
    quick(monkeypatch)
    options = {"target": "optimizer", "out": tmp_path}
    sound, bad = (ngbench.run(name, "test-quick", zoo_path, **options) for name in ("test-by-scale", "test-bad-once"))
    assert bad.scores == sound.scores
    assert bad.scrambled_scores["accuracy"].mean < sound.scrambled_scores["accuracy"].mean - 0.3
    assert bad.seeds[0].largest_shift > 0.5 > 1e-9 > sound.seeds[0].largest_shift


def test_two_targets_have_folders_and_identities_of_their_own(zoo_path, tmp_path, monkeypatch):
    quick(monkeypatch, zoos={"kinds": ("optimizer", "activation")})
    found = {
        target: ngbench.run("test-by-scale", "test-quick", zoo_path, target=target, out=tmp_path)
        for target in ("optimizer", "activation", None)
    }
    folders = {"optimizer": "kinds-v1", "activation": "kinds-v1-activation"}
    assert sorted(path.name for path in (tmp_path / "test-quick").iterdir()) == sorted(folders.values())
    for target, folder in folders.items():
        assert Result.load(tmp_path / "test-quick" / folder / "test-by-scale").target == target
    assert found["optimizer"].seeds[0].identity != found["activation"].seeds[0].identity
    assert found[None].seeds == found["optimizer"].seeds
    assert sum(isinstance(call, tuple) for call in CALLS) == 2


def test_a_method_that_does_not_solve_the_kind_is_refused_before_anything_is_fitted(zoo_path, tmp_path):
    with pytest.raises(NotApplicableError, match="method 'mean' is not applicable to classification: it answers gener"):
        ngbench.run("mean", "classification", zoo_path, target="optimizer", out=tmp_path)
    assert not list(tmp_path.iterdir())


class Refuses(ByScale):
    """Reads no network of any zoo."""

    def fit(self, problem, train, val, context):
        raise GraphError(f"{len(train)} networks cannot be run; expected programs")


def test_a_baseline_that_cannot_read_a_zoo_has_a_reason_and_the_method_its_result(tmp_path, monkeypatch):
    monkeypatch.setitem(methods._entries, "test-refuses", Refuses)
    quick(monkeypatch, baselines=("majority", "flat-mlp", "test-refuses", "test-by-scale"))
    several = written(tmp_path / "several.h5", SEVERAL_STRUCTURES)
    found = run_beside_baselines("test-by-scale", "test-quick", several, target="optimizer", out=tmp_path)
    assert [result.method for result in found.results] == ["test-by-scale", "majority"]
    assert set(found.results[0].differences) == {"majority"}
    assert set(found.missing) == {"flat-mlp", "test-refuses"}
    assert "reads one architecture; zoo 'kinds' has" in found.missing["flat-mlp"]
    assert "networks cannot be run; expected programs" in found.missing["test-refuses"]
    # the method itself is no row with a reason
    with pytest.raises(GraphError, match="networks cannot be run"):
        run_beside_baselines("test-refuses", "test-quick", several, target="optimizer", out=tmp_path)
