from __future__ import annotations

import pytest

from ngbench.graph.repeats import Repeat, find_repeats, joint_name, pattern_of


@pytest.mark.parametrize(
    ("entries", "stretches"),
    [
        ("", []),
        ("abc", [Repeat(0, 3, 1)]),
        ("xababab", [Repeat(0, 1, 1), Repeat(1, 2, 3)]),
        ("xababay", [Repeat(0, 1, 1), Repeat(1, 2, 2), Repeat(5, 2, 1)]),
        ("aaaa", [Repeat(0, 1, 4)]),
        ("aabcabcabcd", [Repeat(0, 1, 1), Repeat(1, 3, 3), Repeat(10, 1, 1)]),
    ],
)
def test_a_sequence_is_cut_where_it_repeats(entries, stretches):
    assert find_repeats(entries) == stretches


@pytest.mark.parametrize("entries", ["aabcabcabcdxyxy", "abababcabab", "zzyzzyzz"])
def test_stretches_cover_the_sequence_and_their_copies_are_equal(entries):
    stretches = find_repeats(entries)
    assert [place for s in stretches for place in range(s.start, s.stop)] == list(range(len(entries)))
    for stretch in stretches:
        for offset in range(stretch.length):
            assert len({entries[place] for place in stretch.copies(offset)}) == 1


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("h.3.ln_1", "h.4.ln_1", True),
        ("add", "add_7", True),
        ("sdpa:2", "sdpa_1:2", True),
        ("c_attn[0]", "c_attn[1]", False),
        ("conv1", "conv2", False),
    ],
)
def test_names_of_copies_have_one_pattern(first, second, alike):
    assert (pattern_of(first) == pattern_of(second)) is alike


@pytest.mark.parametrize(
    ("names", "joint"),
    [
        (["h.0.ln_1", "h.1.ln_1", "h.2.ln_1"], "h.0…2.ln_1"),
        (["head", "head"], "head"),
        (["add_1", "add_7"], "add_1…7"),
        (["add", "add_7"], "add, …"),
    ],
)
def test_copies_have_a_joint_name(names, joint):
    assert joint_name(names) == joint
