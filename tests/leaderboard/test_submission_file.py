"""What ``submission.json`` may hold, and that everything wrong in it is said at once."""

from __future__ import annotations

import copy
import json
import re

import pytest

from leaderboard import submission
from leaderboard.submission import Submission, json_schema, parse_submission

QUESTION = {
    "task": "generalization",
    "task_version": 1,
    "zoo": "digits-cnn",
    "zoo_version": "1",
    "zoo_sha256": "5" * 64,
    "target": "test_accuracy",
}
FIT = {"seed": 3, "num_parameters": 7, "fit_s": 2.5, "predict_s": 1, "claimed": {"recovery_0.3": 0.25}}
ANSWERS = {"question": QUESTION, "track": "probes-8", "trained_on": ["train"], "hardware": "cpu", "fits": [FIT]}
ABOUT = {"title": "<b>Bold</b> & 'sharp'", "authors": ["Ł. Ünï", "名前"], "external_data": True, "code": "https://a.b/c?d=1"}
WHOLE = {"format_version": 1, "about": ABOUT, "answers": [ANSWERS]}


def changed(path, value):
    """The whole submission with one entry set, or left out where the value is None."""
    content = copy.deepcopy(WHOLE)
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(content)


def test_what_is_said_is_kept_as_text_signs_of_html_included():
    found, faults = parse_submission(json.dumps(WHOLE))
    assert faults == []
    assert found.about.title == "<b>Bold</b> & 'sharp'"
    assert found.about.authors == ("Ł. Ünï", "名前")
    assert parse_submission(found.model_dump_json()) == (found, [])


def test_predictions_have_a_place_for_each_task_zoo_split_target_and_seed():
    found, _ = parse_submission(json.dumps(WHOLE))
    assert found.paths == ("predictions/generalization/digits-cnn-test_accuracy/seed-3.npz",)
    asked = found.answers[0].question
    assert asked.model_copy(update={"split": "wide"}).folder == "predictions/generalization/digits-cnn-wide-test_accuracy"
    assert asked.model_copy(update={"target": None}).folder == "predictions/generalization/digits-cnn"
    assert str(asked) == "generalization on digits-cnn about test_accuracy"


FIRST = ("answers", 0)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("about", "title"), "a\nb", r"about.title: expected one line of text without control characters, got 'a\nb'"),
        (("about", "title"), "a\u202eb", r"about.title: expected one line of text without control characters, got 'a\u202eb'"),
        (("about", "title"), "x" * 81, "about.title: string should have at most 80 characters, got 'xxx"),
        (("about", "code"), "javascript:alert(1)", "about.code: expected a link that begins with http:// or https://, got 'java"),
        (("about", "code"), "https://a.b/'onload=1", "about.code: expected a link that begins with http:// or https://"),
        (("about", "external_data"), "yes", "about.external_data: input should be a valid boolean, got 'yes'"),
        (("about", "authors"), [], "about.authors: tuple should have at least 1 item"),
        (("about", "licence"), "MIT", "about.licence: extra inputs are not permitted, got 'MIT'"),
        ((*FIRST, "hardware"), None, "answers.0.hardware: field required"),
        ((*FIRST, "track"), "weigths", "answers.0.track: expected weights, probes-8 or the like, hyperparameters, none or truth"),
        ((*FIRST, "trained_on"), ["train", "test"], "answers.0.trained_on.1: input should be 'train' or 'val', got 'test'"),
        ((*FIRST, "question", "zoo"), "../x", "answers.0.question.zoo: expected a name of at most 64 letters, digits, "),
        ((*FIRST, "question", "zoo_sha256"), "5" * 63, "answers.0.question.zoo_sha256: expected a sha256 of 64 hexadecimal"),
        ((*FIRST, "fits", 0, "fit_s"), float("nan"), "answers.0.fits.0.fit_s: input should be"),
        ((*FIRST, "fits", 0, "seed"), -1, "answers.0.fits.0.seed: input should be greater than or equal to 0, got -1"),
        ((*FIRST, "fits", 0, "num_parameters"), 2**70, "answers.0.fits.0.num_parameters: input should be less than"),
        ((*FIRST, "fits", 0, "claimed"), {"r2": float("inf")}, "answers.0.fits.0.claimed.r2: input should be a finite number"),
        (("format_version",), 2, "has format_version 2; expected 1; upgrade ngbench"),
        (("format_version",), True, "has format_version True; expected 1"),
        (("format_version",), None, "has format_version None; expected 1"),
    ],
)
def test_a_wrong_entry_is_said_by_place_and_value(path, value, fault):
    found, faults = parse_submission(changed(path, value))
    assert found is None
    (sentence,) = faults
    assert sentence.startswith("submission.json")
    assert fault in sentence


def test_all_that_is_wrong_is_said_at_once():
    content = {**WHOLE, "more": 1, "about": {**ABOUT, "title": "", "code": "ftp://x"}}
    _, faults = parse_submission(json.dumps(content))
    assert [sentence.split(": ")[1] for sentence in faults] == ["about.title", "about.code", "more"]


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", "[" * 100_000, '{"format_version": ' + "9" * 5000 + "}", "{'a': 1}"])
def test_what_is_no_json_is_said_to_be_none(text):
    found, (sentence,) = parse_submission(text)
    assert found is None
    assert "submission.json is no JSON (" in sentence


@pytest.mark.parametrize("content", [[], 3, None, "text"])
def test_json_of_another_kind_is_refused(content):
    assert parse_submission(json.dumps(content)) == (None, ["submission.json has format_version None; expected 1"])


def test_a_long_value_is_cut_in_the_sentence():
    _, (sentence,) = parse_submission(changed(("about", "title"), "y" * 5000))
    assert len(sentence) < 250
    assert "…" in sentence


def test_the_schema_names_every_key_and_its_patterns_are_read_by_python_too():
    schema = json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    kinds = {"Submission": schema, **schema["$defs"]}
    for kind in (Submission, submission.About, submission.Answers, submission.Fit, submission.Question):
        assert set(kinds[kind.__name__]["properties"]) == set(kind.model_fields)
        assert kinds[kind.__name__]["additionalProperties"] is False
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(schema)))
    assert len(patterns) == 5
    for pattern in patterns:
        re.compile(json.loads(pattern))
