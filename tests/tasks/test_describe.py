"""The protocol in words says all that the task files say."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from ngbench.metrics import facts_of
from ngbench.store import open_zoo
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
        "in_structure": f"| in the structure itself | {', '.join(fields.get('in_structure', ()))}; needs no weights |",
        "target_bounds": "a number from 0 to 1",
        "metrics": ", ".join(f"{facts_of(name).title} ({direction(name)} is better)" for name in fields["metrics"]),
        "more_metrics": "; ".join(facts_of(name).title for name in fields.get("more_metrics", ())),
        "selection": f"| {facts_of(fields['selection']).title} |",
        "loss": f"| loss | {fields['loss']}",
        "fitted_as": f"the fits of `{fields.get('fitted_as')}` are taken over",
        "baselines": ", ".join(f"`{name}`" for name in fields["baselines"]),
        "max_epochs": budget,
        "num_candidates": budget,
        "num_seeds": f"| seeds | {fields['num_seeds']} |",
        "num_scrambled": f"| scrambled copies | {fields['num_scrambled']} |",
        "num_resamples": f"{fields['num_resamples']:,} resamples",
        "confidence": f"| intervals | {100 * fields['confidence']:g}%",
        "merging": "| drawn | ",
        "retrieval": "| near in function | ",
    }


@pytest.mark.parametrize("name", ["merging", "retrieval"])
def test_every_number_of_a_plan_is_said(name):
    plan, text = set_in(name)[name], as_markdown([TASKS[name]])
    for field, value in plan.items():
        numbers = value if isinstance(value, list) else [value]
        changed = [number + 97 for number in numbers] if field != "num_points" else [value + 98]
        update = {field: tuple(changed) if isinstance(value, list) else changed[0]}
        other = TASKS[name].model_copy(update={name: getattr(TASKS[name], name).model_copy(update=update)})
        assert as_markdown([other]) != text, field
        rows = [line for line in as_markdown([other]).splitlines() if line not in text.splitlines()]
        assert len(rows) == 1 + (field == "set_sizes"), field
        for number in changed:
            assert f"{number:,g}" in rows[-1], field


def direction(name):
    return "higher" if facts_of(name).higher_is_better else "lower"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_field_that_a_file_sets_is_said(name):
    fields, text = set_in(name), as_markdown([TASKS[name]])
    said = said_of(fields)
    assert set(fields) <= set(said)
    missing = {field for field in fields if said[field] not in text}
    assert missing == set()
    for metric in (*fields["metrics"], *fields.get("more_metrics", ())):
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


def test_what_is_said_to_stand_in_the_structure_does_and_what_is_not_does_not():
    task = TASKS["classification"]
    for name, targets in task.zoos.items():
        zoo = open_zoo(name)
        structures = np.array([topology.structure for topology in zoo.topologies])[zoo.topology_index]
        for target in targets:
            column = zoo.metadata[target]
            is_told = all(len(set(column[structures == one])) == 1 for one in set(structures))
            asked = task.asked(name, target=target)
            assert is_told == (target in task.in_structure) == (asked.caveat is not None)
    caveat = task.asked("digits-park", target="family").caveat
    assert caveat is not None
    assert "family stands in the structure" in caveat
    assert "| in the structure itself | family; needs no weights |" in as_markdown([task])
