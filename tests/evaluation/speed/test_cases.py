from __future__ import annotations

import numpy as np
import pytest

from ngbench.errors import UnknownNameError
from ngbench.evaluation.speed.cases import CASES, GROWTH_WIDTHS, random_networks
from ngbench.evaluation.speed.resnet50 import resnet50
from ngbench.testing import mlp_topology

# nodes and edges of the reference cases
SIZES = {"inr": (67, 1120, 128), "cnn": (59, 688, 128), "wide": (517, 66_816, 8)}


@pytest.mark.parametrize("name", list(SIZES))
def test_the_cases_of_the_reference_have_its_sizes(name):
    networks = CASES[name].networks()
    topology = networks.bundles[0].topology
    assert (topology.num_nodes, topology.num_edges, CASES[name].batch_size) == SIZES[name]


@pytest.mark.parametrize("name", [name for name in CASES if name != "resnet50"])
def test_a_case_has_whole_batches_and_targets_within_bounds(name):
    networks = CASES[name].networks()
    assert len(networks) % CASES[name].batch_size == 0
    assert len(networks.targets) == len(networks)
    assert networks.targets.min() >= 0
    assert networks.targets.max() <= 1
    assert all(np.isfinite(bundle.values.numpy()).all() for bundle in networks.bundles)


def test_every_width_of_the_table_of_growth_is_a_case_with_its_batch():
    assert {width: CASES[f"width-{width}"].batch_size for width in GROWTH_WIDTHS} == GROWTH_WIDTHS


def test_random_networks_are_the_same_each_time_and_differ_from_one_another():
    topology = mlp_topology((2, 5, 3))
    first, again = (random_networks(topology, 7).bundles[0].values for _ in range(2))
    assert first.shape == (7, topology.num_values)
    assert first.equal(again)
    assert not first[0].equal(first[1])


def test_resnet50_has_the_parameters_of_the_paper():
    assert sum(parameter.numel() for parameter in resnet50().parameters()) == 25_557_032


def test_an_unknown_case_is_refused_with_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown case 'digits-cn': did you mean 'digits-cnn'"):
        CASES["digits-cn"]
