from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ngbench.store.splits import NO_PART, PARTS, assign, transfer

RUN_IDS = [f"run-{index:05d}" for index in range(4000)]


def test_a_part_follows_from_the_names_of_zoo_and_run_alone():
    shuffled = np.random.default_rng(0).permutation(len(RUN_IDS))
    assert (assign("zoo-a", [RUN_IDS[index] for index in shuffled]) == assign("zoo-a", RUN_IDS)[shuffled]).all()


def test_the_rule_is_the_documented_one_in_whole_numbers():
    parts = assign("zoo-a", RUN_IDS[:300])
    for run_id, part in zip(RUN_IDS, parts, strict=False):
        place = int(hashlib.sha256(f"zoo-a/{run_id}".encode()).hexdigest()[:16], 16)
        expected = "train" if 10 * place < 7 * 2**64 else "val" if 10 * place < 8 * 2**64 else "test"
        assert PARTS[part] == expected


@pytest.mark.parametrize(("part", "share"), [("train", 0.7), ("val", 0.1), ("test", 0.2)])
def test_parts_have_their_shares_within_four_standard_deviations(part, share):
    count = (assign("zoo-b", RUN_IDS) == PARTS.index(part)).sum()
    assert abs(count - share * len(RUN_IDS)) < 4 * np.sqrt(share * (1 - share) * len(RUN_IDS))


def test_another_zoo_splits_runs_of_the_same_names_otherwise():
    assert (assign("zoo-a", RUN_IDS) != assign("zoo-b", RUN_IDS)).mean() > 0.3


def test_known_parts_never_change():
    parts = assign("digits-cnn", [f"digits-cnn-{index:05d}" for index in range(40)])
    assert "".join(PARTS[part][1] for part in parts) == "rrrrrrrraerrrereerrrrerrrraeerararrrarer"


def test_a_transfer_split_tests_on_all_that_is_held_out_and_fits_on_no_test_network_of_the_default():
    default, held_out = np.array([0, 1, 2, 0, 1, 2]), np.array([False, False, False, True, True, True])
    parts = transfer(default, held_out)
    assert parts.tolist() == [0, 1, NO_PART, 2, 2, 2]
    assert parts.dtype == np.int8
