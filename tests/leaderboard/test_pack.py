"""Finished runs become an archive that scores as their results say."""

from __future__ import annotations

import json
import shutil

import pytest

import ngbench
from leaderboard.archive import Archive
from leaderboard.pack import find_results, pack_runs, parse_about, read_about
from leaderboard.score import score
from leaderboard.validate import validate
from ngbench.errors import PredictionsError, SubmissionError
from ngbench.evaluation import Result
from ngbench.methods import MethodInfo, methods
from ngbench.tasks import TASKS

ABOUT = {"authors": ["A. Name"], "external_data": False}
SEEDS = (0, 1, 2)


class OfScale:
    """Says the spread of the weights."""

    info = MethodInfo("of-scale", "Of scale", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 3

    def fit(self, problem, train, val, context):
        self.seed = context.seed

    def predict(self, networks):
        return networks.one_structure(reader="of-scale").values.double().square().mean(1).sqrt().numpy() + self.seed


@pytest.fixture(scope="module", autouse=True)
def _registered():
    quick = TASKS["generalization"].model_copy(update={"name": "test-quick", "baselines": ("mean",), "num_resamples": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._entries, "test-of-scale", OfScale)
        patch.setitem(TASKS._entries, "test-quick", quick)
        yield


@pytest.fixture(scope="module")
def finished(_registered, small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    ngbench.run("test-of-scale", "test-quick", small_zoo_path, seeds=SEEDS, out=out)
    return out


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of the runs, to be spoilt."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def folder(runs):
    return runs / "test-quick/small-v1/test-of-scale"


def test_runs_are_packed_validated_and_scored_as_their_results_say(folder, tmp_path, zoos):
    out = tmp_path / "own.zip"
    submission = pack_runs([folder], out, about=ABOUT)
    result = Result.load(folder)
    assert Archive.open(out).submission == submission
    assert submission.about.title == "Of scale"
    (own,) = submission.answers
    assert (own.track, own.trained_on, own.settings) == ("weights", ("train", "val"), {})
    assert own.hardware.startswith("cpu, 1 thread, ")
    assert [(fit.seed, fit.fit_s, fit.num_parameters) for fit in own.fits] == [(s.seed, s.fit_s, 3) for s in result.seeds]
    assert validate(out, zoos) == ()
    record = score(out, zoos, date="2026-11-23")
    assert record.differences == record.flags == ()
    assert record.rows[0].scores == result.scores
    assert record.rows[0].scrambled_scores == result.scrambled_scores


def test_a_folder_above_runs_holds_those_of_one_method(runs, tmp_path):
    with pytest.raises(SubmissionError, match="hold runs of mean, test-of-scale; expected those of one method"):
        pack_runs([runs], tmp_path / "own.zip", about=ABOUT)
    assert not (tmp_path / "own.zip").exists()
    submission = pack_runs([runs, runs / "test-quick"], tmp_path / "own.zip", about=ABOUT, method="mean")
    assert [own.track for own in submission.answers] == ["none"]


def test_two_runs_of_a_question_are_refused(runs, folder, tmp_path):
    shutil.copytree(folder, folder.with_name("test-of-scale-again"))
    with pytest.raises(SubmissionError, match="test-quick on small about test_accuracy is answered by 2 runs; expected one"):
        pack_runs([runs], tmp_path / "own.zip", about=ABOUT, method="test-of-scale")


@pytest.mark.parametrize(("method", "fault"), [(None, "of a run;"), ("ng-gnn", "of a run of method 'ng-gnn';")])
def test_folders_without_a_run_are_refused(tmp_path, method, fault):
    with pytest.raises(SubmissionError, match=f"holds no result.json {fault} expected a folder"):
        list(find_results([tmp_path], method))


def test_predictions_that_are_gone_are_said_by_path(folder, tmp_path):
    (folder / "seed-1/predictions.npz").unlink()
    with pytest.raises(PredictionsError, match="no predictions file .*seed-1/predictions.npz; expected one that"):
        pack_runs([folder], tmp_path / "own.zip", about=ABOUT)


def test_settings_and_claims_are_kept_as_text_and_numbers(folder, tmp_path):
    fields = json.loads((folder / "result.json").read_text())
    fields["settings"] = {"width": 64, "norm": "layer", "note": "", "long": "x" * 400}
    (folder / "result.json").write_text(json.dumps(fields))
    (own,) = pack_runs([folder], tmp_path / "own.zip", about=ABOUT).answers
    assert own.settings == {"width": "64", "norm": "layer", "note": '""', "long": "x" * 299 + "…"}
    assert own.fits[1].claimed == fields["seeds"][1]["scores"]


def test_a_run_on_a_zoo_whose_name_no_submission_may_hold_is_refused(folder, tmp_path):
    fields = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**fields, "zoo": "my zoo"}))
    with pytest.raises(SubmissionError, match="'test-of-scale' on zoo 'my zoo': result.json: zoo: expected a name of"):
        pack_runs([folder], tmp_path / "own.zip", about=ABOUT)
    (folder / "result.json").write_text(json.dumps({**fields, "settings": {"note": "two\nlines"}}))
    with pytest.raises(SubmissionError, match="result.json: settings.note: expected one line of text"):
        pack_runs([folder], tmp_path / "own.zip", about=ABOUT)


def test_all_that_is_wrong_with_the_metadata_is_said():
    with pytest.raises(SubmissionError) as error:
        parse_about({"title": "", "authors": "A. Name", "more": 1})
    faults = error.value.faults
    assert [sentence.split(": ")[1] for sentence in faults[:-1]] == ["title", "authors", "external_data", "more"]
    assert faults[-1] == "the keys are title, authors, external_data, description, paper, code"


@pytest.mark.parametrize("text", ['{"title": "T", "authors": ["A"]}', "title: T\nauthors:\n  - A\n"])
def test_metadata_are_read_from_json_and_yaml(tmp_path, text):
    (tmp_path / "about.txt").write_text(text)
    assert read_about(tmp_path / "about.txt") == {"title": "T", "authors": ["A"]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"- A", "about.yaml: holds list; expected keys"),
        (b"a: [", "about.yaml: cannot be read (while parsing"),
        (b"\xff\xfe\xff", "about.yaml: cannot be read ("),
        (b"!!python/object/apply:os.getpid []", "about.yaml: cannot be read (could not determine a constructor"),
    ],
)
def test_metadata_that_are_none_are_refused_and_nothing_in_them_is_run(tmp_path, content, fault):
    (tmp_path / "about.yaml").write_bytes(content)
    with pytest.raises(SubmissionError) as error:
        read_about(tmp_path / "about.yaml")
    assert fault in str(error.value)
    with pytest.raises(SubmissionError, match="none.yaml: cannot be read"):
        read_about(tmp_path / "none.yaml")
