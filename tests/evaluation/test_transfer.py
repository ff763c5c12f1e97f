"""Probes of a frozen embedding know what it holds and nothing else, and their scores follow from their files."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import accuracy_score

import ngbench
from ngbench.cli import main
from ngbench.errors import PredictionsError
from ngbench.evaluation import Predictions, rescore
from ngbench.evaluation.transfer import probed_targets, transfer_file, transfer_scores
from ngbench.methods import MethodInfo, methods
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

TARGETS = ("corpus", "family", "optimizer", "activation")
FAMILIES = ("cnn", "mlp", "resnet", "transformer")


def families_of(networks):
    """The place of each network's family among `FAMILIES`, by the operations of its blocks."""
    found = np.zeros(len(networks), dtype=np.int64)
    for bundle in networks.bundles:
        operations = {block.operation for block in bundle.topology.blocks}
        signs = {"transformer": "attention", "resnet": "residual", "cnn": "conv", "mlp": "linear"}
        family = next(name for name, sign in signs.items() if sign in operations)
        found[bundle.index.numpy()] = FAMILIES.index(family)
    return found


class Nothing:
    """Predicts the first class, and embeds nothing."""

    info = MethodInfo("nothing", "Nothing", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 0

    def fit(self, problem, train, val, context):
        self.num_classes = len(problem.classes)

    def predict(self, networks):
        return np.eye(self.num_classes)[np.zeros(len(networks), dtype=np.int64)]


class OfFamily(Nothing):
    """Embeds the family, one-hot, and a feature that is the same for all."""

    def embed(self, networks):
        assert networks.targets is None
        return np.column_stack([np.eye(len(FAMILIES))[families_of(networks)], np.full(len(networks), 7.0)])


@pytest.fixture(scope="module")
def zoo():
    return open_zoo("digits-park")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """The methods and the task of this file, for its own tests only."""
    quick = {"name": "test-quick", "baselines": (), "num_resamples": 20, "num_scrambled": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._entries, "test-of-family", OfFamily)
        patch.setitem(methods._entries, "test-nothing", Nothing)
        patch.setitem(TASKS._entries, "test-quick", TASKS["classification"].model_copy(update=quick))
        yield


def run(name, out, **options):
    result = ngbench.run(name, "test-quick", "digits-park", target="optimizer", out=out, device="cpu", **options)
    return result, out / "test-quick/digits-park-v1-optimizer" / name


@pytest.fixture(scope="module")
def finished(_registered, tmp_path_factory):
    """A run whose embedding holds the family, and its folder."""
    return run("test-of-family", tmp_path_factory.mktemp("transfer"))


def test_probes_find_what_the_embedding_holds_and_guess_the_rest(finished, zoo):
    (seed,) = finished[0].seeds
    assert set(seed.transfer) == set(TARGETS)
    assert seed.transfer["family"] == 1.0
    rows = zoo.split("test")
    for target in set(TARGETS) - {"family"}:
        _, counts = np.unique(zoo.metadata[target][rows], return_counts=True)
        assert 0.5 / len(counts) < seed.transfer[target] < counts.max() / len(rows) + 0.06, target


def test_what_probes_say_is_kept_beside_the_seed_and_their_scores_follow_from_it(finished, zoo):
    result, folder = finished
    place, rows = folder / "seed-0", zoo.split("test")
    assert sorted(path.name for path in place.glob("probe-*")) == sorted(f"probe-{target}.npz" for target in TARGETS)
    for target in TARGETS:
        kept, classes = Predictions.load(transfer_file(place, target)), np.unique(zoo.metadata[target])
        assert kept.ids == tuple(zoo.ids[rows].tolist())
        assert kept.about["probe"] == target
        assert (kept.about["target"], kept.about["zoo_sha256"], kept.about["seed"]) == ("optimizer", zoo.sha256, 0)
        named = classes[kept.values.argmax(1)]
        assert accuracy_score(zoo.metadata[target][rows], named) == result.seeds[0].transfer[target]
    assert transfer_scores(TASKS["test-quick"].asked("digits-park", target="optimizer"), zoo, place) == result.seeds[0].transfer
    assert json.loads((place / "seed.json").read_text())["transfer"] == result.seeds[0].transfer


def test_scores_of_probes_are_scored_again_with_the_others(finished):
    result, folder = finished
    assert rescore(folder) == (result, [])
    shown = CliRunner().invoke(main, ["evaluate", str(folder)])
    assert shown.exit_code == 0, shown.output
    # of the seed 2 * 3 scores, 4 probes, validation, two shifts and a count; of all seeds 2 * 3 spreads and an interval
    assert f"all {2 * 3 + 4 + 1 + 2 + 1 + 2 * (2 * 3) + 4} numbers" in shown.stdout


def test_a_probe_that_was_changed_or_is_gone_is_a_difference(finished):
    _, folder = finished
    path = transfer_file(folder / "seed-0", "family")
    whole, kept = path.read_bytes(), Predictions.load(path)
    try:
        turned = np.roll(kept.values, 1, axis=1)
        Predictions(kept.ids, turned, turned[None], kept.about).save(path)
        (difference,) = rescore(folder)[1]
        assert (difference.seed, difference.name, difference.stored, difference.found) == (0, "transfer family", 1.0, 0.0)
        Predictions(kept.ids[1:], turned[1:], turned[None, 1:], kept.about).save(path)
        with pytest.raises(PredictionsError, match="1 row is missing"):
            rescore(folder)
        path.unlink()
        assert [found.name for found in rescore(folder)[1]] == ["transfer family"]
    finally:
        path.write_bytes(whole)


def test_a_method_without_embeddings_is_not_probed_even_where_files_of_an_earlier_fit_lie(finished, tmp_path):
    _, folder = finished
    stale = tmp_path / "test-quick/digits-park-v1-optimizer/test-nothing/seed-0"
    stale.mkdir(parents=True)
    for target in TARGETS:
        transfer_file(stale, target).write_bytes(transfer_file(folder / "seed-0", target).read_bytes())
    result, _ = run("test-nothing", tmp_path)
    assert result.seeds[0].transfer == {}
    assert list(stale.glob("probe-*")) == []


def test_only_a_classification_with_several_targets_is_probed(zoo):
    classification = TASKS["classification"]
    asked = classification.asked("digits-park", target="family")
    assert probed_targets(asked, zoo) == TARGETS
    assert probed_targets(classification.asked("digits-park", target="schedule"), zoo) == ()
    assert probed_targets(classification.asked("digits-inr"), open_zoo("digits-inr")) == ()
    assert probed_targets(TASKS["generalization"].asked("digits-park"), zoo) == ()
    assert probed_targets(TASKS["retrieval"].asked("digits-park"), zoo) == ()


def test_a_target_whose_class_the_split_holds_out_is_not_probed(zoo):
    task = TASKS["classification"].asked("digits-park", split="family-held-out", target="corpus")
    assert probed_targets(task, zoo) == ("corpus", "optimizer", "activation")
