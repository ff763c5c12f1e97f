from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ngbench.errors import GraphError, ImagesError, MethodError, NotApplicableError
from ngbench.evaluation.use.align import labelled
from ngbench.evaluation.use.images import OwnImages
from ngbench.evaluation.use.merge import merge_networks
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph, restore, symmetry

FILE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 9), nn.Tanh(), nn.Linear(9, 10)
    return nn.Sequential(*parts), torch.zeros(1, 1, 8, 8)

def flat():
    return nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)), torch.zeros(1, 64)

def wide():
    return nn.Sequential(nn.Linear(64, 11), nn.ReLU(), nn.Linear(11, 10)), torch.zeros(1, 64)

def tanh():
    return nn.Sequential(nn.Linear(64, 11), nn.Tanh(), nn.Linear(11, 10)), torch.zeros(1, 64)

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.zeros(1, 1, 8, 8)

def other():
    return nn.Sequential(nn.Linear(63, 10)), torch.zeros(1, 63)
"""
IMAGES = OwnImages("digits")


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "own_merge_file.py").write_text(FILE)
    sys.path.insert(0, str(folder))
    yield {name: OwnModule(f"own_merge_file:{name}") for name in ("net", "flat", "wide", "tanh", "few", "other")}
    sys.path.remove(str(folder))
    sys.modules.pop("own_merge_file", None)


@pytest.fixture(scope="module")
def pair(modules):
    """A trained network and a copy of it whose neurons are permuted, with other counters."""
    net = modules["net"].source.module
    data, optimizer = IMAGES.part("train"), torch.optim.Adam(net.parameters(), lr=0.01)
    net.train()
    for _ in range(15):
        loss = cross_entropy(net(data.images), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    topology = modules["net"].graph.topology
    first = NeuralGraph.from_state_dict(topology, {name: values.clone() for name, values in net.state_dict().items()})
    second = symmetry.group(topology).sample(3).act(first)
    second.buffers = {name: values + 5 for name, values in first.buffers.items()}
    return first, second


def loaded(entries):
    parts = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 9), nn.Tanh(), nn.Linear(9, 10)
    net = nn.Sequential(*parts).eval()
    net.load_state_dict(entries)
    return net


def accuracy(entries):
    data = IMAGES.part("test")
    return float((loaded(entries)(data.images).argmax(1) == data.labels).double().mean())


@pytest.mark.parametrize("by", ["weight-matching", "activation-matching"])
def test_a_permuted_copy_is_merged_into_the_network_itself(modules, pair, by):
    found = merge_networks(modules["net"], *pair, by=by, images=IMAGES)
    for name, values in restore(pair[0]).items():
        torch.testing.assert_close(found.entries[name], values)
    assert found.after.barrier == pytest.approx(0, abs=1e-6)
    assert found.before.barrier > 0.1
    assert (found.num_moved > 10, found.num_nodes) == (True, 21)


def test_averages_without_alignment_are_what_torch_says_of_them(modules, pair):
    found = merge_networks(modules["net"], *pair, by="naive", images=IMAGES)
    first, second = (restore(graph) for graph in pair)
    mean = {name: values if not values.is_floating_point() else (values + second[name]) / 2 for name, values in first.items()}
    for name, values in mean.items():
        torch.testing.assert_close(found.entries[name], values)
    assert found.before == found.after
    assert found.before.accuracies == pytest.approx((accuracy(first), accuracy(mean), accuracy(second)))
    data = IMAGES.part("test")
    with torch.no_grad():
        losses = [float(cross_entropy(loaded(entries)(data.images), data.labels)) for entries in (first, mean, second)]
    assert found.before.losses == pytest.approx(losses, rel=1e-4)
    assert found.num_moved == 0


def test_order_types_and_counters_are_those_of_the_first_network(modules, pair):
    first, second = pair
    half = {n: v.bfloat16() if v.is_floating_point() else v for n, v in restore(first).items()}
    found = merge_networks(
        modules["net"], NeuralGraph.from_state_dict(first.topology, half), second, by="weight-matching", images=IMAGES
    )
    assert list(found.entries) == list(half)
    assert {n: v.dtype for n, v in found.entries.items()} == {n: v.dtype for n, v in half.items()}
    assert found.entries["1.num_batches_tracked"] == half["1.num_batches_tracked"]


def test_repair_gives_batch_norms_the_statistics_of_the_mean(modules, pair):
    found = merge_networks(modules["net"], *pair, by="naive", images=IMAGES, repair=True)
    assert found.repaired is not None
    assert found.repaired.accuracies[1] == pytest.approx(accuracy(found.entries))
    given = loaded(found.entries)[0](IMAGES.part("train").images[:512])
    torch.testing.assert_close(found.entries["1.running_mean"], given.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-4)


def test_inputs_are_left_as_they_are(modules, pair):
    before = [graph.row().clone() for graph in pair]
    merge_networks(modules["net"], *pair, by="weight-matching", images=IMAGES, repair=True)
    assert all(torch.equal(graph.row(), row) for graph, row in zip(pair, before, strict=True))


@pytest.fixture(scope="module")
def unequal(modules):
    """A network, and a wider one that computes the same: two units of it stand twice, and all in another order."""
    torch.manual_seed(5)
    first = {name: values.clone() for name, values in modules["flat"].source.module.state_dict().items()}
    units = torch.tensor([3, 8, 0, 5, 1, 1, 7, 2, 6, 4, 3])
    shares = 1 / torch.bincount(units)[units]
    second = {
        "0.weight": first["0.weight"][units],
        "0.bias": first["0.bias"][units],
        "2.weight": first["2.weight"][:, units] * shares,
        "2.bias": first["2.bias"],
    }
    states = (("flat", first), ("wide", second))
    return tuple(NeuralGraph.from_state_dict(modules[name].graph.topology, state) for name, state in states)


def test_a_network_of_another_width_is_spread_over_the_units_of_the_first(modules, unequal):
    options = {"images": IMAGES, "second_module": modules["wide"], "repair": True}
    found = merge_networks(modules["flat"], *unequal, **options)
    for name, values in restore(unequal[0]).items():
        torch.testing.assert_close(found.entries[name], values, atol=1e-5, rtol=1e-4)
    assert found.after.barrier == pytest.approx(0, abs=1e-5)
    assert found.before.accuracies == (found.after.accuracies[0], None, found.after.accuracies[0])
    assert found.before.losses[::2] == pytest.approx((found.after.losses[0],) * 2, rel=1e-5)
    assert (found.before.barrier, found.before.losses[1]) == (None, None)
    assert found.repaired is not None
    assert (found.num_moved, found.num_nodes) == (None, 11)
    back = merge_networks(modules["wide"], *unequal[::-1], images=IMAGES, second_module=modules["flat"])
    assert back.after.losses == pytest.approx((found.before.losses[0],) * 3, rel=1e-4)
    assert {name: values.shape for name, values in back.entries.items()} == {n: v.shape for n, v in restore(unequal[1]).items()}


def test_a_second_module_of_the_same_widths_is_matched(modules, unequal):
    same = OwnModule("own_merge_file:flat")
    found = merge_networks(modules["flat"], unequal[0], unequal[0], images=IMAGES, second_module=same)
    assert (found.num_moved, found.num_nodes) == (0, 9)
    assert found.before == found.after


@pytest.mark.parametrize(
    ("by", "name", "error", "message"),
    [
        ("weight-matching", "wide", MethodError, "method 'weight-matching' embeds no nodes, .* expected activation-matching"),
        (None, "tanh", GraphError, r"networks differ in groups \('0'\); expected one family of different widths"),
        (None, "net", GraphError, r"networks differ in groups \('0', '1', '2'\)"),
        (None, "few", ImagesError, "images have labels up to 9, and own_merge_file:few gives 3 outputs"),
    ],
)
def test_networks_that_cannot_be_spread_are_refused(modules, unequal, by, name, error, message):
    second = modules[name].graph
    with pytest.raises(error, match=message):
        merge_networks(modules["flat"], unequal[0], second, by=by, images=IMAGES, second_module=modules[name])


def test_images_take_the_shape_of_the_input(modules):
    found = labelled(modules["flat"], IMAGES.part("test"))
    assert found.images.shape[1:] == (64,)
    torch.testing.assert_close(found.images, IMAGES.part("test").images.flatten(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", r"images have shape \(1, 8, 8\), and own_merge_file:other takes \(63,\)"),
        ("few", "images have labels up to 9, and own_merge_file:few gives 3 outputs"),
    ],
)
def test_images_that_do_not_fit_are_refused(modules, name, message):
    graph = modules[name].graph
    with pytest.raises(ImagesError, match=message):
        merge_networks(modules[name], graph, graph, by="naive", images=IMAGES)


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        ("ng-gnn", MethodError, "method 'ng-gnn' is trained before it matches; expected the folder of a run"),
        ("mean", NotApplicableError, "method 'mean' is not applicable to merging"),
    ],
)
def test_methods_that_cannot_match_as_they_are_are_refused(modules, pair, by, error, message):
    with pytest.raises(error, match=message):
        merge_networks(modules["net"], *pair, by=by, images=IMAGES)


def test_counters_that_the_first_network_lacks_are_left_out(modules, pair):
    first = NeuralGraph(pair[0].topology, pair[0].slot_values, {})
    found = merge_networks(modules["net"], first, pair[1], by="naive", images=IMAGES)
    assert "1.num_batches_tracked" not in found.entries
