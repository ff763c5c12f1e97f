"""The protocol in words says all that the task files say."""

from importlib import resources
from pathlib import Path

import pytest
import yaml

from ngbench.metrics import METRICS, facts_of
from ngbench.tasks import TASKS, describe
from ngbench.tasks.describe import SHARED, as_markdown

ANSWERS = {
    "regression": "a number from {bounds[0]} to {bounds[1]} for each network",
    "classification": "a probability of each class",
    "retrieval": "an embedding of each network",
    "merging": "an embedding of each node",
}


def set_in(name):
    """What the YAML file of a task sets."""
    return yaml.safe_load((resources.files("ngbench.tasks") / f"{name}.yaml").read_text(encoding="utf-8"))


def said_of(fields):
    """What the text must say of each field of a file."""
    budget = f"{fields['max_epochs']} epochs, or {fields['num_candidates']} candidates"
    return {
        "version": f"version {fields['version']}.",
        "name": f"`{fields['name']}`",
        "title": f"## {fields['title']}\n",
        "question": f"*{fields['question']}*",
        "kind": f"| answer | {ANSWERS[fields['kind']].format(bounds=fields.get('target_bounds'))}",
        "zoos": "; ".join(f"`{zoo}`" + (f": {', '.join(of)}" if of else "") for zoo, of in fields["zoos"].items()),
        "target_bounds": "a number from 0 to 1",
        "metrics": ", ".join(f"{facts_of(name).title} ({direction(name)} is better)" for name in fields["metrics"]),
        "selection": f"| {METRICS[fields['selection']].title if fields['selection'] in METRICS else fields['selection']} |",
        "loss": f"| loss | {fields['loss']}",
        "fitted_as": f"the fits of `{fields.get('fitted_as')}` are taken over",
        "baselines": ", ".join(f"`{name}`" for name in fields["baselines"]),
        "max_epochs": budget,
        "num_candidates": budget,
        "num_seeds": f"| seeds | {fields['num_seeds']} |",
        "num_scrambled": f"| scrambled copies | {fields['num_scrambled']} |",
        "num_resamples": f"{fields['num_resamples']:,} resamples",
        "confidence": f"| intervals | {100 * fields['confidence']:g}%",
    }


def direction(name):
    return "higher" if facts_of(name).higher_is_better else "lower"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_field_that_a_file_sets_is_said(name):
    fields, text = set_in(name), as_markdown([TASKS[name]])
    said = said_of(fields)
    assert set(fields) <= set(said)
    missing = {field for field in fields if said[field] not in text}
    assert missing == set()
    for metric in fields["metrics"]:
        assert f"\n* {facts_of(metric).title}: {facts_of(metric).description}" in text


def test_another_number_is_another_text():
    task = TASKS["generalization"]
    changes = {
        "max_epochs": 7,
        "num_candidates": 13,
        "num_seeds": 11,
        "num_scrambled": 17,
        "num_resamples": 1900,
        "confidence": 0.8,
    }
    for field, value in changes.items():
        assert as_markdown([task.model_copy(update={field: value})]) != as_markdown([task])


def test_rows_have_two_columns_and_what_all_share_stands_once():
    text = as_markdown(TASKS.values())
    assert text.count(SHARED) == 1
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {3}


def test_the_page_of_the_protocol_is_what_the_files_say():
    names = ["generalization", "classification", "retrieval", "merging"]
    page = Path(describe.__file__).with_name("README.md")
    assert set(names) == set(TASKS)
    wanted = as_markdown([TASKS[name] for name in names])
    assert page.read_text(encoding="utf-8") == wanted, "run: ngbench protocol " + " ".join(names) + f" > {page}"
