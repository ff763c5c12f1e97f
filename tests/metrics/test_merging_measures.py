from __future__ import annotations

import pytest

from ngbench.errors import UnknownNameError
from ngbench.metrics import facts_of, merging_measures


def test_there_is_a_measure_for_each_noise_and_size_of_a_set():
    found = merging_measures([0, 0.25], [3])
    assert [name for name in found if any(character.isdigit() for character in name)] == [
        "recovery_0",
        "recovery_exact_0",
        "recovery_0.25",
        "recovery_exact_0.25",
        "merged_3",
        "merged_3_repaired",
    ]
    assert all(measure.name == name for name, measure in found.items())
    assert {name for name, measure in found.items() if not measure.higher_is_better} == {
        "barrier",
        "barrier_repaired",
        "barrier_area",
        "barrier_unequal",
    }


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("barrier", "Barrier", "Largest excess of the test loss"),
        ("recovery_0.25", "Recovery 0.25", "Share of the hidden nodes matched right in a permuted copy with noise of 0.25 "),
        ("recovery_exact_2", "Exact 2", "Share of networks without a fault in a permuted copy with noise of 2 "),
        ("barrier_unequal", "Barrier, unequal widths", "Largest excess of the test loss"),
        ("merged_5", "Of 5", "Test accuracy of the mean of 5 aligned networks."),
        ("merged_12_repaired", "Of 12, repaired", "Test accuracy of the mean of 12 aligned networks. Statistics of its units"),
    ],
)
def test_the_facts_of_a_number_follow_from_its_name(name, title, text):
    facts = facts_of(name)
    assert (facts.name, facts.title) == (name, title)
    assert facts.description.startswith(text)


@pytest.mark.parametrize("name", ["recovery_", "recovery_1e", "recovery_0.30", "merged_", "merged_03", "merged_3_fixed"])
def test_other_names_are_no_measures(name):
    with pytest.raises(UnknownNameError, match=f"unknown metric '{name}'"):
        facts_of(name)
