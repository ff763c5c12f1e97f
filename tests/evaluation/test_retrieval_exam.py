"""The exam of retrieval scores planted embeddings as the metrics of rankings do, its own mates among them."""

import numpy as np
import pytest

import ngbench
from ngbench.errors import PredictionsError
from ngbench.evaluation import Predictions, exam_of, rescore, retrieval
from ngbench.methods import MethodInfo, methods
from ngbench.metrics import METRICS
from ngbench.metrics.retrieval import RETRIEVAL_SCORES, cosine_similarity, relevance
from ngbench.store import open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import fake_dataset

NUM_COPIES, NUM_NEAR = 3, 5


def retrieval_scores(similarity, grades):
    """What each metric of rankings says of each query."""
    return {name: METRICS[name].of_rows(*METRICS[name].checked(similarity, grades)) for name in RETRIEVAL_SCORES}


def planted_distance(zoo, rows, *, num_inputs=256):
    """Near are the networks of a class whose scales are near."""
    assert num_inputs == 256
    scale, label = (zoo.metadata[name][rows] for name in ("init_scale", "activation"))
    return (np.abs(scale[:, None] - scale) + 100 * (label[:, None] != label)).astype(np.float32)


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setattr(retrieval, "functional_distance", planted_distance)
    changes = {"name": "test-quick", "baselines": (), "num_scrambled": NUM_COPIES, "num_resamples": 200}
    quick = TASKS["retrieval"].model_copy(update=changes)
    monkeypatch.setitem(TASKS._entries, "test-quick", quick)
    return quick.asked("small", target="activation")


@pytest.fixture
def exam(task, small_zoo_path):
    return exam_of(task, open_zoo(small_zoo_path))


def by_class(exam):
    """A direction for each class; all of one class are tied, their mates among them."""
    return np.eye(7)[exam.labels + 2]


def answers(exam, values, scrambled):
    return Predictions(exam.ids, np.asarray(values), np.asarray(scrambled), {})


def expected(exam, values, mates):
    """What the metrics give, by way of the scores of queries."""
    distance = planted_distance(exam.zoo, exam.rows)
    grades = relevance(exam.zoo.metadata["activation"][exam.rows], distance, num_near=NUM_NEAR)
    rows = retrieval_scores(cosine_similarity(values, mates), grades)
    return {name: np.nanmean(rows[name]) for name in exam.task.metrics}


def noisy(exam, seed, *, noise=0.5):
    return by_class(exam) + noise * np.random.default_rng(seed).standard_normal((len(exam.ids), 7))


def test_embeddings_that_are_perfect_by_class_bring_the_class_first(exam):
    values = by_class(exam)
    scored = exam.score(answers(exam, values, [values] * NUM_COPIES))
    assert scored.scores["map"] == 1.0
    assert scored.scores == scored.scrambled_scores == pytest.approx(expected(exam, values, values), abs=1e-12)
    sizes = np.bincount(exam.labels)
    assert scored.scores["mate_rank"] == pytest.approx(np.mean([(size + 1) / 2 for size in sizes[exam.labels]]))
    np.testing.assert_allclose(scored.shifts, 0, atol=1e-12)


def test_constant_embeddings_score_as_a_random_order_does(exam):
    values, num_graphs = np.full((len(exam.ids), 3), 0.7), len(exam.ids)
    scored = exam.score(answers(exam, values, [values] * NUM_COPIES))
    assert scored.scores["mate_rank"] == (num_graphs + 1) / 2
    assert scored.scores["recall_at_1"] == pytest.approx(NUM_NEAR / (num_graphs - 1))
    assert scored.scores["recall_at_10"] == pytest.approx(10 / (num_graphs - 1))
    drawn = [expected(exam, *np.random.default_rng(seed).standard_normal((2, num_graphs, 3)))["map"] for seed in range(30)]
    assert scored.scores["map"] == pytest.approx(np.mean(drawn), abs=0.02)


def test_scores_are_those_of_the_metrics_with_the_first_copy_as_mates(exam):
    values, *scrambled = (noisy(exam, seed) for seed in range(NUM_COPIES + 1))
    scored = exam.score(answers(exam, values, scrambled))
    assert scored.scores == pytest.approx(expected(exam, values, scrambled[0]), abs=1e-12)
    assert scored.scores["mate_rank"] != pytest.approx(expected(exam, values, scrambled[1])["mate_rank"])


@pytest.mark.parametrize("bad", range(NUM_COPIES))
def test_the_copy_that_ranks_worst_counts_with_the_plain_networks_as_its_mates(exam, bad):
    values = noisy(exam, 9, noise=0.1)
    scrambled = [noisy(exam, copy, noise=3.0 if copy == bad else 0.1) for copy in range(NUM_COPIES)]
    scored = exam.score(answers(exam, values, scrambled))
    assert scored.scrambled_scores == pytest.approx(expected(exam, scrambled[bad], values), abs=1e-12)
    assert scored.scrambled_scores["map"] < scored.scores["map"] - 0.1


def test_a_shift_is_one_minus_the_cosine_to_that_copy_which_is_farthest(exam):
    turns = np.array([0.0, 30.0, 60.0, 180.0])[np.arange(len(exam.ids)) % 4]
    values = 5 * np.eye(2)[np.zeros(len(exam.ids), dtype=int)]
    turned = np.column_stack([np.cos(np.deg2rad(turns)), np.sin(np.deg2rad(turns))])
    scored = exam.score(answers(exam, values, [values, turned, values]))
    np.testing.assert_allclose(scored.shifts, np.array([0, 1 - np.sqrt(0.75), 0.5, 2])[np.arange(len(exam.ids)) % 4], atol=1e-9)


def test_embeddings_are_put_in_the_order_of_the_exam(exam):
    values, order = noisy(exam, 1), np.random.default_rng(2).permutation(len(exam.ids))
    scrambled = np.stack([noisy(exam, seed) for seed in (5, 6, 7)])
    shuffled = Predictions(tuple(exam.ids[row] for row in order), values[order], scrambled[:, order], {})
    assert exam.score(shuffled).scores == exam.score(answers(exam, values, scrambled)).scores


def test_resamples_are_of_the_mean_over_seeds_of_the_primary_metric(exam):
    scored = [exam.score(answers(exam, noisy(exam, seed), [noisy(exam, 10 * seed + 1)] * NUM_COPIES)) for seed in (1, 2)]
    found = exam.resamples("any", scored)
    assert found.score == pytest.approx(np.mean([one.scores["map"] for one in scored]), abs=1e-12)
    assert found.draws.shape == (200,)
    interval = found.interval()
    assert interval.low < found.score < interval.high


def test_what_is_no_vector_of_numbers_for_each_network_is_refused(exam):
    flat = np.ones(len(exam.ids))
    with pytest.raises(PredictionsError, match=r"what is said of a row of task 'test-quick' has shape \[\]; expected \[any\]"):
        exam.score(answers(exam, flat, [flat] * NUM_COPIES))
    wide, broken = np.ones((len(exam.ids), 4)), np.ones((len(exam.ids), 4))
    with pytest.raises(PredictionsError, match=r"scrambled predictions have shape \(1, \d+, 3\); expected copies of shape"):
        exam.score(answers(exam, wide, wide[None, :, :3]))
    broken[6, 2] = np.inf
    with pytest.raises(PredictionsError, match=rf"1 of the values are not finite \({exam.ids[6]}\)"):
        exam.score(answers(exam, broken, [wide] * NUM_COPIES))


def test_a_method_is_asked_for_its_embedding_as_float32(exam):
    class Planted:
        info = Kept.info

        def embed(self, networks):
            return np.stack([bundle.values[:, :2].double().numpy() for bundle in networks.bundles])[0]

    networks = fake_dataset(num_graphs=9)
    found = exam.ask(Planted(), networks)
    assert (found.dtype, found.shape) == (np.float32, (9, 2))
    # in the order of the networks, whatever the order in which they were shown
    np.testing.assert_array_equal(found, networks.bundles[0].values[:, :2].numpy())


def test_random_embeddings_score_as_chance_does_and_their_files_give_the_same_again(exam, task, small_zoo_path, tmp_path):
    options = {"target": "activation", "out": tmp_path, "device": "cpu"}
    result = ngbench.run("random-embedding", "test-quick", small_zoo_path, seeds=range(6), **options)
    constant = np.ones((len(exam.ids), 3))
    chance = exam.score(answers(exam, constant, [constant])).scores
    assert result.scores["map"].mean == pytest.approx(chance["map"], abs=0.05)
    assert result.scores["mate_rank"].mean == pytest.approx(chance["mate_rank"], rel=0.25)
    assert result.seeds[0].largest_shift > 0.5
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    assert rescore(folder, zoo=exam.zoo) == (result, [])


FITS = []


class Kept:
    """Embeds by the shares of activations in training; what it learned can be saved."""

    info = MethodInfo("kept", "Kept", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 3

    def fit(self, problem, train, val, context):
        FITS.append((problem.kind, problem.classes, context.seed))
        self.shares = np.bincount(train.targets, minlength=len(problem.classes)) / len(train)

    def predict(self, networks):
        return np.tile(self.shares, (len(networks), 1))

    def embed(self, networks):
        (bundle,) = networks.bundles
        order = bundle.index.numpy()
        return np.outer(bundle.values.double().square().sum(1).sqrt().numpy()[np.argsort(order)], self.shares + 0.1)

    def save(self, folder):
        np.save(folder / "shares.npy", self.shares)

    @classmethod
    def load(cls, folder):
        method = cls()
        method.shares = np.load(folder / "shares.npy", allow_pickle=False)
        return method


def test_a_method_that_can_be_kept_is_fitted_once_for_both_tasks(task, small_zoo_path, tmp_path, monkeypatch):
    monkeypatch.setitem(methods._entries, "test-kept", Kept)
    FITS.clear()
    options = {"zoo": small_zoo_path, "target": "activation", "out": tmp_path, "seeds": (0, 1)}
    found = ngbench.run("test-kept", "test-quick", **options)
    assert [kind for kind, _, _ in FITS] == ["classification", "classification"]
    assert [seed for _, _, seed in FITS] == [0, 1]
    again = ngbench.run("test-kept", "classification", **options)
    assert len(FITS) == 2
    assert [seed.fit_s for seed in again.seeds] == [seed.fit_s for seed in found.seeds]
    ngbench.run("test-kept", "test-quick", **{**options, "seeds": (2,)})
    assert [seed for _, _, seed in FITS] == [0, 1, 2]


def test_a_method_that_cannot_be_kept_is_fitted_for_retrieval_itself(task, small_zoo_path, tmp_path, monkeypatch):
    unkept = type("Unkept", (), {name: getattr(Kept, name) for name in ("info", "num_parameters", "fit", "predict", "embed")})
    monkeypatch.setitem(methods._entries, "test-unkept", unkept)
    FITS.clear()
    ngbench.run("test-unkept", "test-quick", zoo=small_zoo_path, target="activation", out=tmp_path)
    assert [kind for kind, _, _ in FITS] == ["retrieval"]
