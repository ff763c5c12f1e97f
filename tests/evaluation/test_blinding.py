"""Methods see weights and topology of what they are asked about, and nothing by which they could know it again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ngbench.errors import PredictionsError, SplitError
from ngbench.evaluation.blinding import in_order, permitted, shown
from ngbench.evaluation.networks import networks_of
from ngbench.loading import ZooPrograms
from ngbench.methods import MethodInfo
from ngbench.store import open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset

READS = MethodInfo("reads", "Reads", "weights", invariant=True, any_architecture=True, paper="none")
RUNS = dataclasses.replace(READS, access="probes", num_probes=3)
KNOWS = dataclasses.replace(READS, access="hyperparameters")


@pytest.fixture
def networks():
    found = fake_dataset(SEVERAL_STRUCTURES, num_graphs=23)
    return dataclasses.replace(found, hyperparameters={"width": np.arange(23)})


def norms(networks):
    found = np.empty(len(networks))
    for bundle in networks.bundles:
        found[bundle.index.numpy()] = bundle.values.double().square().sum(1).numpy()
    return found


def test_answers_come_back_in_the_order_in_which_the_networks_stood(networks):
    given, order = shown(networks, READS)
    assert order.tolist() != list(range(23))
    np.testing.assert_array_equal(in_order(norms(given), order, method="norms"), norms(networks))


def test_a_network_and_its_scrambled_copy_share_neither_name_nor_place(networks):
    copies = networks.scrambled(salt="copy")
    (given, order), (again, other) = shown(networks, READS), shown(copies, READS)
    assert given.ids == again.ids == tuple(map(str, range(23)))
    assert not set(given.ids) & set(networks.ids)
    assert (order == other).mean() < 0.3
    np.testing.assert_array_equal(shown(networks, READS)[1], order)


def test_only_a_method_that_says_so_gets_recipe_columns_or_programs(networks):
    assert networks.targets is not None
    for info in (READS, RUNS, KNOWS):
        given, order = shown(networks, info)
        assert given.targets is None
        assert all((bundle.programs is not None) == (info is RUNS) for bundle in given.bundles)
        columns = {"width": np.arange(23)[order]} if info is KNOWS else {}
        np.testing.assert_equal(dict(given.hyperparameters), columns)
        assert set(permitted(networks, info).hyperparameters) == set(columns)


def test_programs_of_networks_give_no_input_of_the_test_part():
    zoo = open_zoo("digits-cnn")
    task = TASKS["generalization"].asked("digits-cnn")
    programs = networks_of(task, zoo, zoo.split("test")[:3]).bundles[0].programs
    assert isinstance(programs, ZooPrograms)
    assert len(programs.inputs(4)) == len(programs.inputs(4, part="val")) == 4
    for asked in (lambda: programs.inputs(4, part="test"), lambda: programs.labelled("test")):
        with pytest.raises(SplitError, match="corpora have no part 'test' here; expected one of train, val"):
            asked()


def test_what_is_probed_tells_of_neither_target():
    zoo = open_zoo("digits-park")
    rows = zoo.split("val")[:40]
    task = TASKS["classification"].asked("digits-park", target="family")
    plain, hidden = networks_of(task, zoo, rows), networks_of(task, zoo, rows, hidden=["activation"])
    assert "family" not in plain.hyperparameters
    assert "activation" in plain.hyperparameters
    assert not {"family", "activation"} & set(hidden.hyperparameters)
    assert max(len(bundle.variants) for bundle in plain.bundles) > 1
    assert all(len(bundle.variants) == 1 for bundle in hidden.bundles)


@pytest.mark.parametrize("shape", [(3,), (0,), (8, 2), ()])
def test_answers_for_more_or_fewer_networks_than_were_shown_are_refused(shape):
    text = rf"method 'short' gave answers of shape \[{', '.join(map(str, shape))}\]; expected one for each of the 7 networks"
    with pytest.raises(PredictionsError, match=text):
        in_order(np.zeros(shape), np.arange(7), method="short")
