"""NG-GNN: the authors' numbers, invariance, independence of neighbours, several architectures at once."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.fitting import steps
from baselines.fitting.training import in_float64, seeded
from baselines.ng_gnn import NGGNN, Config, GraphNetwork, Layer, ReadNodes
from baselines.reading import encoding
from baselines.reading.encoding import Vocabulary, depths, flat_types, position_rows, scale_and_sum
from baselines.reading.message_passing import Wiring
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeGroup, ParameterView, Topology, symmetry
from ngbench.loading import GraphDataset, Normalization
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    OTHER_FAMILIES,
    PROBLEM,
    SEVERAL_STRUCTURES,
    cnn_topology,
    fake_dataset,
    fake_graphs,
    mlp_topology,
    residual_topology,
)

CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=4, num_candidates=1))
SMALL = NGGNN.Config(channels=8, num_layers=3, epochs=4, batch_size=16)


@pytest.mark.parametrize("name", ["ng-gnn-cnn", "ng-gnn-inr"])
def test_the_authors_outputs_are_reproduced_in_float64(reference, name):
    parameters, config, networks, file = reference(name)
    module = NGGNN.from_reference(parameters, config).module
    with torch.no_grad():
        outputs = module(networks.batch()).numpy()
    np.testing.assert_allclose(outputs, file["output"], atol=1e-8, rtol=0)
    assert np.ptp(file["output"]) > 1e-3, "the networks' outputs differ, so that agreement means something"


def test_changing_any_reference_parameter_changes_the_output(reference):
    parameters, config, networks, file = reference("ng-gnn-inr")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in parameters.items():
        if "avg_deg" in name and name != "gnn.convs.0.aggr_module.avg_deg_log":
            # Of the training data, and so the same in all layers; the linear one is of a scaler that nothing here uses.
            continue
        changed = {**parameters, name: parameter + 0.1 * torch.randn(parameter.shape, generator=generator)}
        with torch.no_grad():
            outputs = NGGNN.from_reference(changed, config).module(networks.batch()).numpy()
        assert np.abs(outputs - file["output"]).max() > 1e-6, name


def test_an_unknown_option_of_the_reference_is_refused(reference):
    parameters, config, _, _ = reference("ng-gnn-inr")
    config["gnn_backbone"]["norm"] = "batchnorm"
    with pytest.raises(ConfigError, match="batchnorm"):
        NGGNN.from_reference(parameters, config)


@pytest.fixture(scope="module")
def fitted():
    method = NGGNN(SMALL)
    train = fake_dataset(SEVERAL_STRUCTURES, num_graphs=48, seed=1)
    method.fit(PROBLEM, train, fake_dataset(SEVERAL_STRUCTURES, num_graphs=16, seed=2), CONTEXT)
    return method


@pytest.mark.parametrize(
    "changes",
    [{}, {"reverse_edges": True}, {"encoding": "fourier"}, {"pooling": "cat"}, {"residual": False}, {"dropout": 0.3}],
)
def test_every_option_fits_and_keeps_its_predictions_under_permutation(changes):
    method = NGGNN(NGGNN.Config(**{**vars(SMALL), "epochs": 1, **changes}))
    train = fake_dataset(SEVERAL_STRUCTURES, num_graphs=24, seed=1)
    method.fit(PROBLEM, train, train, CONTEXT)
    test = fake_dataset(SEVERAL_STRUCTURES, num_graphs=12, seed=4)
    predictions = method.predict(test)
    assert np.ptp(predictions) > 0
    np.testing.assert_allclose(method.predict(test.scrambled(salt="any")), predictions, atol=1e-10, rtol=0)


def test_a_prediction_does_not_depend_on_the_neighbours_in_the_batch(fitted):
    graphs = fake_graphs(SEVERAL_STRUCTURES, num_graphs=13, seed=5)
    together = fitted.predict(GraphDataset.from_graphs(graphs))
    alone = np.concatenate([fitted.predict(GraphDataset.from_graphs([graph])) for graph in graphs])
    np.testing.assert_allclose(alone, together, atol=1e-12, rtol=0)
    module = fitted.module.eval()
    with torch.no_grad():
        batch = module(GraphDataset.from_graphs(graphs).batch())
        single = torch.cat([module(GraphDataset.from_graphs([graph]).batch()) for graph in graphs])
    assert (batch - single).abs().max() < 1e-6


def test_node_embeddings_permute_as_the_neurons_do(fitted):
    (graph,) = fake_graphs(ONE_STRUCTURE, num_graphs=1, seed=6)
    element = symmetry.group(graph.topology).sample(7)
    before, after = (fitted.embed_nodes(GraphDataset.from_graphs([g]))[0] for g in (graph, element.act(graph)))
    moved = 0
    for group in graph.topology.groups:
        start = graph.topology.node_ptr[group.name]
        order = element.permutations.get(group.name, torch.arange(group.size)).numpy()
        moved += int((order != np.arange(group.size)).any())
        np.testing.assert_allclose(after[start : start + group.size], before[start : start + group.size][order], atol=1e-10)
    assert moved == 2


def test_embeddings_stand_in_the_order_of_the_networks(fitted):
    networks = fake_dataset(SEVERAL_STRUCTURES, num_graphs=9, seed=8)
    embedded = fitted.embed(networks)
    assert embedded.shape[0] == 9
    (bundle,) = GraphDataset.from_graphs(fake_graphs(SEVERAL_STRUCTURES, num_graphs=9, seed=8)[4:5]).bundles
    alone = fitted.embed(GraphDataset(("x",), (bundle,), None, {}))
    np.testing.assert_allclose(embedded[4], alone[0], atol=1e-10)


def test_it_learns_what_the_scale_of_the_weights_tells():
    method = NGGNN(NGGNN.Config(channels=8, num_layers=2, epochs=12, batch_size=16))
    context = RunContext(seed=1, budget=Budget(max_epochs=12, num_candidates=1))
    method.fit(PROBLEM, fake_dataset(num_graphs=160, seed=1), fake_dataset(num_graphs=40, seed=2), context)
    test = fake_dataset(num_graphs=80, seed=3)
    assert KENDALL_TAU(method.predict(test.without_targets()), test.targets) > 0.6


def test_it_must_be_fitted_first():
    with pytest.raises(MethodError, match="ng-gnn has not been fitted"):
        NGGNN().predict(fake_dataset())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"encoding": "sine"}, "encoding is 'sine'"),
        ({"pooling": "median"}, "pooling is 'median'"),
        ({"channels": 0}, "channels is 0; expected a number above 0"),
        ({"weight_noise": -0.1}, r"weight_noise is -0\.1; expected a number from 0 upward"),
        ({"num_frequencies": 64}, "num_frequencies is 64, which nothing reads where encoding is 'linear'; expected 128"),
        ({"frequency_scale": 1.0}, r"frequency_scale is 1\.0, which nothing reads where encoding is 'linear'; expected 3\.0"),
        ({"probes": "data"}, "probes is 'data', which nothing reads where num_probes is 0; expected 'learned', the default, or"),
    ],
)
def test_unknown_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        NGGNN.Config(**option)


@pytest.mark.parametrize("name", ["ng-gnn-cnn", "ng-gnn-inr"])
def test_nodes_and_edges_enter_the_first_layer_as_in_the_authors_code(reference, name):
    parameters, config, networks, file = reference(name)
    module = NGGNN.from_reference(parameters, config).module
    nodes, edges = module.encoder(*module.encoder.read(networks.batch()))
    np.testing.assert_allclose(nodes[:, 0].detach(), file["graph/node_features"], atol=1e-6)
    if "graph/edge_features" in file:
        np.testing.assert_allclose(edges[:, 0].detach(), file["graph/edge_features"], atol=1e-6)


def test_the_norm_spans_one_graph_where_that_of_the_authors_spans_the_batch(reference):
    parameters, config, networks, file = reference("ng-gnn-inr")
    assert np.abs(outputs(NGGNN.from_reference(parameters, config).module, networks) - file["output_in_one_batch"]).max() > 1e-4


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("gnn_backbone", "gating_edges", True, r"gnn_backbone\.gating_edges of the reference model is True; expected False"),
        ("graph_constructor", "num_probe_features", 3, r"num_probe_features of the reference model is 3; expected 0"),
        (None, "pooling_layer_idx", "all", r"pools by 'cat' over 'all'; expected 'cat' over 'last'"),
    ],
)
def test_an_option_of_the_authors_that_is_not_there_is_refused(reference, section, name, value, message):
    parameters, config, _, _ = reference("ng-gnn-cnn")
    (config[section] if section else config)[name] = value
    with pytest.raises(ConfigError, match=message):
        NGGNN.from_reference(parameters, config)


TOPOLOGIES = ALL_FAMILIES
OPTIONS = {
    "default": NGGNN.Config(),
    "paper": NGGNN.Config.paper(),
    "both-ways": NGGNN.Config(reverse_edges=True),
    "paper-both-ways": NGGNN.Config.paper(reverse_edges=True),
    "concatenated": NGGNN.Config(pooling="cat", num_layers=2),
    "one-layer": NGGNN.Config(num_layers=1),
    "mixed": NGGNN.Config(mixed=True),
    "mixed-both-ways": NGGNN.Config(mixed=True, reverse_edges=True),
    "mixed-concatenated": NGGNN.Config(mixed=True, pooling="cat"),
}


def untrained(config=SMALL, *, topologies=TOPOLOGIES):
    """A network of random weights, in which every table and bias matters."""
    train = fake_dataset(topologies, num_graphs=36)
    with seeded(1):
        vocabulary = Vocabulary.of(train, config)
        module = GraphNetwork(replace(config, channels=6), vocabulary, Normalization.fit(train), num_outputs=2)
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


@torch.no_grad()
def outputs(module, networks):
    return in_float64(module)(networks.batch().to("cpu", torch.float64)).numpy()


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_random_weights_too_give_permuted_networks_the_same_outputs(config):
    module, networks = untrained(config), fake_dataset(TOPOLOGIES, num_graphs=13, seed=1)
    expected = outputs(module, networks)
    np.testing.assert_allclose(outputs(module, networks.scrambled(salt="a")), expected, rtol=0, atol=1e-10)
    assert np.ptp(expected, axis=0).min() > 1e-3


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_an_output_in_float32_depends_on_no_neighbour(config):
    module, networks = untrained(config), fake_dataset(TOPOLOGIES, num_graphs=13, seed=1)
    with torch.no_grad():
        alone = torch.cat([module(networks.batch(np.array([position]))) for position in range(13)])
        torch.testing.assert_close(module(networks.batch()), alone, rtol=0, atol=1e-6)


def test_exchanged_outputs_are_another_network():
    graphs = fake_graphs(ONE_STRUCTURE[:1], num_graphs=13)
    exchange = symmetry.GroupElement(ONE_STRUCTURE[0], {"head": torch.tensor([1, 0, 2, 3, 4])})
    module = untrained()
    before, after = (outputs(module, GraphDataset.from_graphs(some)) for some in (graphs, [exchange.act(g) for g in graphs]))
    assert np.abs(after - before).max() > 1e-4


def test_a_weight_that_is_zero_keeps_its_edge():
    (graph,) = fake_graphs(ONE_STRUCTURE[:1], num_graphs=1)
    rows = graph.row().double().repeat(2, 1)
    rows[0, -3:], rows[1, -3:] = 0.0, 1e-9
    zero, tiny = (GraphDataset.from_graphs([NeuralGraph.from_row(graph.topology, row)]) for row in rows)
    np.testing.assert_allclose(outputs(untrained(), zero), outputs(untrained(), tiny), rtol=0, atol=1e-7)


def test_activations_are_told_apart_and_unknown_ones_still_read():
    row = fake_graphs(ONE_STRUCTURE[:1], num_graphs=1)[0].row()
    variants = [*ONE_STRUCTURE, cnn_topology((1, 6, 4), num_classes=5, kernel=(3, 2), activation="mish")]
    networks = GraphDataset.from_graphs([NeuralGraph.from_row(topology, row) for topology in variants])
    relu, tanh, mish = outputs(untrained(), networks)
    assert min(np.abs(relu - tanh).max(), np.abs(relu - mish).max(), np.abs(tanh - mish).max()) > 1e-4


def test_a_kernel_is_read_as_if_padded_around_its_centre():
    narrow, wide = (cnn_topology((1, 4), num_classes=2, kernel=kernel) for kernel in ((3, 1), (3, 3)))
    (graph,) = fake_graphs([narrow], num_graphs=1)
    entries = {path: graph.slot_values[slot].reshape(shape) for path, shape, slot in _entries(narrow)}
    entries["conv0.weight"] = torch.nn.functional.pad(entries["conv0.weight"], (1, 1))
    module = untrained()
    module.encoder.normalization = copy.copy
    same = [GraphDataset.from_graphs([g]) for g in (graph, NeuralGraph.from_state_dict(wide, entries))]
    np.testing.assert_allclose(outputs(module, same[0]), outputs(module, same[1]), rtol=0, atol=1e-12)


def _entries(topology):
    slots = {slot.parameter.path: position for position, slot in enumerate(topology.slots)}
    return [(path, shape, slots[path]) for path, shape in topology.parameters]


def test_noise_falls_on_the_weights_in_training_only():
    module, batch = untrained(), fake_dataset(TOPOLOGIES, num_graphs=13).batch()
    assert not torch.equal(module.train()(batch), module(batch))
    assert torch.equal(module.eval()(batch), module(batch))


def test_a_diverged_network_is_read_within_limits():
    (graph,) = fake_graphs(ONE_STRUCTURE[:1], num_graphs=1)
    diverged = GraphDataset.from_graphs([NeuralGraph.from_row(graph.topology, graph.row() * 1e30)])
    assert np.abs(outputs(untrained(), diverged)).max() < 1e3
    assert np.abs(outputs(untrained(replace(SMALL, clip=0.0)), diverged)).max() > 1e6


def test_more_inputs_or_outputs_than_in_training_take_the_last_embedding():
    vocabulary = Vocabulary.of(fake_dataset(SEVERAL_STRUCTURES), NGGNN.Config(mixed=False))
    assert (vocabulary.num_inputs, vocabulary.num_hidden_layers, vocabulary.num_outputs) == (9, 3, 5)
    rows = position_rows(vocabulary, mlp_topology((11, 2, 1, 1, 1, 7)))
    assert rows.tolist() == [*range(9), 8, 8, 9, 9, 10, 11, 11, 12, 13, 14, 15, 16, 16, 16]


def test_a_kernel_larger_than_in_training_is_read_around_its_centre():
    module = untrained(topologies=[cnn_topology((1, 4), num_classes=2, kernel=(3, 2))])
    graphs = fake_graphs([cnn_topology((1, 4), num_classes=2, kernel=(5, 5))], num_graphs=3)
    rows = torch.stack([graph.row() for graph in graphs]).double()
    slot = graphs[0].topology.slots[graphs[0].topology.slot_index["conv0", None]]
    border, inside = rows[1].clone(), rows[2].clone()
    border[slot.start] += 1  # a corner of the first kernel
    inside[slot.start + 12] += 1  # its centre

    def read(row):
        return outputs(module, GraphDataset.from_graphs([NeuralGraph.from_row(graphs[0].topology, row)]))

    np.testing.assert_array_equal(read(border), read(rows[1]))
    assert np.abs(read(inside) - read(rows[2])).max() > 1e-6


def test_more_outputs_than_in_training_cannot_be_concatenated():
    module = untrained(replace(SMALL, pooling="cat"), topologies=SEVERAL_STRUCTURES)
    with pytest.raises(
        GraphError, match=r"a network has 12 output nodes, .* expected at most 5, as in training: use pooling 'mean'"
    ):
        outputs(module, fake_dataset([mlp_topology((3, 4, 12))], num_graphs=2))


def test_wider_and_deeper_networks_than_in_training_are_read(fitted):
    networks = fake_dataset([cnn_topology((1, 9, 8, 7, 6, 5), num_classes=4, kernel=(2, 2)), mlp_topology((3, 20, 2))])
    assert np.isfinite(fitted.predict(networks)).all()


def test_networks_without_hidden_layers_or_biases_are_read():
    groups = (NodeGroup("in", 3, "input", "none", 0), NodeGroup("out", 2, "output", "none", 1))
    block = EdgeBlock("w", "in", "out", "dense", "linear", (), ParameterView("w"))
    topologies = [Topology(groups, (block,), (("w", (2, 3)),))]
    assert np.isfinite(outputs(untrained(topologies=topologies), fake_dataset(topologies, num_graphs=4))).all()


def test_the_options_of_the_paper():
    paper = NGGNN.Config.paper(channels=64)
    assert (paper.encoding, paper.residual, paper.pooling, paper.weight_noise) == ("fourier", False, "cat", 0.0)
    assert paper.channels == 64


def test_embeddings_need_a_fit_too():
    with pytest.raises(MethodError, match="ng-gnn has not been fitted; expected a call of fit before this one"):
        NGGNN().embed(fake_dataset())


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_one_flat_graph_gives_the_numbers_and_gradients_of_bundle_by_bundle(config, monkeypatch):
    module, batch = (
        in_float64(untrained(config)),
        fake_dataset(TOPOLOGIES, num_graphs=13, seed=1).batch().to("cpu", torch.float64),
    )
    found = []
    for graphs_per_structure, num_readings in ((0, len(batch.bundles)), (100, 1)):
        monkeypatch.setattr(encoding, "GRAPHS_PER_STRUCTURE", graphs_per_structure)
        assert len(module.encoder.read(batch)) == num_readings
        module.zero_grad()
        values = module(batch)
        values.square().sum().backward()
        found.append([values.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    for side_by_side, flat in zip(*found, strict=True):
        torch.testing.assert_close(flat, side_by_side, rtol=1e-10, atol=1e-10 * float(side_by_side.abs().max()))


@pytest.mark.parametrize("graphs_per_structure", [0, 100], ids=["bundles", "flat"])
def test_embeddings_of_both_readings_stand_in_the_order_of_the_networks(graphs_per_structure, monkeypatch, fitted):
    networks = GraphDataset.from_graphs(fake_graphs(SEVERAL_STRUCTURES, num_graphs=9, seed=8))
    embedded, nodes = fitted.embed(networks), fitted.embed_nodes(networks)
    monkeypatch.setattr(encoding, "GRAPHS_PER_STRUCTURE", graphs_per_structure)
    np.testing.assert_allclose(fitted.embed(networks), embedded, atol=1e-12)
    for mine, other in zip(fitted.embed_nodes(networks), nodes, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-12)


def test_many_networks_of_few_structures_are_read_bundle_by_bundle_and_others_as_one():
    module = untrained()
    num_graphs = len(SEVERAL_STRUCTURES) * encoding.GRAPHS_PER_STRUCTURE
    assert len(module.encoder.read(fake_dataset(SEVERAL_STRUCTURES, num_graphs=num_graphs).batch())) == 3
    assert len(module.encoder.read(fake_dataset(SEVERAL_STRUCTURES, num_graphs=9).batch())) == 1
    assert len(module.encoder.read(fake_dataset(ONE_STRUCTURE, num_graphs=2).batch())) == 1


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_a_family_that_training_lacked_is_read(config):
    module = untrained(config, topologies=SEVERAL_STRUCTURES)
    assert not module.vocabulary.operations
    networks = fake_dataset(OTHER_FAMILIES, num_graphs=8)
    assert np.isfinite(outputs(module, networks)).all()
    assert np.ptp(outputs(module, networks), axis=0).min() > 1e-4


def test_the_operations_of_blocks_are_told_apart():
    first = residual_topology()
    blocks = [replace(block, operation="gate") if block.operation == "residual" else block for block in first.blocks]
    gated = replace(first, blocks=tuple(blocks))
    row = fake_graphs([first], num_graphs=1)[0].row()
    networks = GraphDataset.from_graphs([NeuralGraph.from_row(topology, row) for topology in (first, gated)])
    module = untrained()
    assert module.vocabulary.operations == ("attention", "batch_norm", "positional", "residual")
    residual, unknown = outputs(module, networks)
    assert np.abs(residual - unknown).max() > 1e-4


def test_without_unusual_operations_the_model_has_no_embedding_of_them():
    assert untrained(topologies=SEVERAL_STRUCTURES).encoder.operation.shape == (0, 6)


def test_running_moments_and_shared_numbers_are_read():
    (graph,) = fake_graphs(OTHER_FAMILIES[:1], num_graphs=1)
    module = untrained()
    assert module.vocabulary.features == ("bias", "running_mean", "running_var", "slope")
    before = outputs(module, GraphDataset.from_graphs([graph]))
    for feature in ("running_mean", "running_var", "slope"):
        slot = graph.topology.slots[graph.topology.slot_index["norm", feature]]
        row = graph.row()
        row[slot.start] += 0.5
        after = outputs(module, GraphDataset.from_graphs([NeuralGraph.from_row(graph.topology, row)]))
        assert np.abs(after - before).max() > 1e-6, feature


MIXED = replace(SMALL, mixed=True)


def test_networks_are_read_as_mixed_where_training_has_several_structures():
    for topologies, mixed in ((ONE_STRUCTURE, False), (SEVERAL_STRUCTURES, True)):
        method = NGGNN(replace(SMALL, epochs=1))
        method.fit(PROBLEM, fake_dataset(topologies, num_graphs=18), fake_dataset(topologies, num_graphs=6, seed=1), CONTEXT)
        assert method.module.config.mixed is mixed
        assert len(method.module.encoder.depth) == (3 if mixed else 0)


def test_networks_of_one_structure_are_read_as_before():
    config = replace(SMALL, epochs=2)
    train, val = (fake_dataset(ONE_STRUCTURE, num_graphs=18, seed=seed) for seed in (0, 1))
    predictions = []
    for mixed in (None, False, True):
        method = NGGNN(replace(config, mixed=mixed))
        method.fit(PROBLEM, train, val, CONTEXT)
        predictions.append(method.predict(val))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert np.abs(predictions[0] - predictions[2]).max() > 1e-4


def test_depths_are_relative_to_the_deepest_layer():
    rows = depths(mlp_topology((2, 1, 3, 1, 5)))
    assert rows.dtype == torch.float32
    expected = [[0, 0, 0]] * 2 + [[1 / 4, 1 / 2, 1 / 4]] + [[2 / 4, 1 / 3, 1 / 3]] * 3 + [[3 / 4, 1 / 4, 1 / 2]] + [[0, 0, 0]] * 5
    torch.testing.assert_close(rows, torch.tensor(expected))


def test_layers_are_told_apart_by_depth_alone_where_structures_are_mixed():
    vocabulary = Vocabulary.of(fake_dataset(SEVERAL_STRUCTURES), NGGNN.Config(mixed=True))
    assert (vocabulary.num_inputs, vocabulary.num_hidden_layers, vocabulary.num_outputs) == (9, 1, 5)
    assert position_rows(vocabulary, mlp_topology((2, 1, 3, 1, 5))).tolist() == [0, 1, 9, 9, 9, 9, 9, 10, 11, 12, 13, 14]


def test_padding_is_not_counted_in_a_kernel():
    vocabulary = Vocabulary.of(fake_dataset([cnn_topology((1, 4), num_classes=2, kernel=(3, 3))]), NGGNN.Config(mixed=False))
    narrow = cnn_topology((1, 4), num_classes=2, kernel=(5, 1))
    # four convolutions, of whose five numbers three are kept, then eight weights of the head
    assert flat_types(vocabulary, narrow, False)[0].tolist() == [3] * 4 + [1] * 8


def test_inner_and_output_nodes_are_pooled_apart_and_inputs_left_out():
    module = untrained(MIXED, topologies=SEVERAL_STRUCTURES)
    topology = mlp_topology((4, 3, 2, 5))
    networks = fake_dataset([topology], num_graphs=7)
    (reading,) = module.encoder.read(networks.batch())
    nodes = module.node_vectors(reading).detach()
    embedded = module.embed(networks.batch()).detach()
    torch.testing.assert_close(embedded, torch.cat([nodes[4:9].mean(0), nodes[9:].mean(0)], 1))


def test_scale_and_sum_of_kernels_are_the_same_whatever_their_padding():
    config = replace(MIXED, weight_noise=0.0)
    values = torch.randn(2, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for kernel in ((2, 3), (4, 5)):
        module = untrained(config, topologies=[cnn_topology((1, 4), num_classes=2, kernel=kernel)])
        module.encoder.normalization = copy.copy
        topology = cnn_topology((1, 4), num_classes=2, kernel=(1, 2))
        (graph,) = fake_graphs([topology], num_graphs=1)
        row = graph.row().double()
        slot = topology.slots[topology.slot_index["conv0", None]]
        row[slot.start : slot.start + 2] = values
        networks = GraphDataset.from_graphs([NeuralGraph.from_row(topology, row)])
        (reading,) = module.encoder.read(networks.batch().to("cpu", torch.float64))
        found.append(torch.stack(scale_and_sum(reading.weights.values[0], len(reading.weights.kinds[0].columns)))[:, 0, 0, 0])
    torch.testing.assert_close(found[0], found[1])
    expected = torch.stack([(values.square().mean() + 1e-4).sqrt().log(), values.sum() / 2**0.5])
    torch.testing.assert_close(found[0], expected)


def test_a_large_network_is_read_a_few_targets_at_a_time_to_the_same_numbers(monkeypatch):
    topologies = [*ALL_FAMILIES]
    for config in (SMALL, replace(SMALL, reverse_edges=True, residual=False)):
        module = in_float64(untrained(config))
        for topology in topologies:
            batch = fake_dataset([topology], num_graphs=2).batch().to("cpu", torch.float64)
            monkeypatch.undo()
            with torch.no_grad():
                whole = module(batch)
                monkeypatch.setitem(steps.FLOATS_AT_ONCE, "cpu", 6 * 2 * 7)
                torch.testing.assert_close(module(batch), whole, rtol=0, atol=1e-12)
                num_parts = len(list(Wiring.of(topology, config.reverse_edges).parts(7, torch.device("cpu"))))
            assert num_parts > len(topology.blocks)
            torch.testing.assert_close(module(batch).detach(), whole, rtol=0, atol=1e-12)


def test_embeddings_are_computed_on_as_many_threads_as_the_configuration_says(monkeypatch):
    before, seen = torch.get_num_threads(), []
    method = NGGNN(replace(SMALL, num_threads=before + 1))
    method._module, networks = untrained(SMALL), fake_dataset(num_graphs=3)
    for name in ("embed", "embed_nodes"):
        plain = getattr(GraphNetwork, name)
        monkeypatch.setattr(
            GraphNetwork, name, lambda self, b, plain=plain: seen.append(torch.get_num_threads()) or plain(self, b)
        )
    method.embed(networks)
    method.embed_nodes(networks)
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("residual", [False, True])
def test_layers_in_little_memory_give_the_numbers_and_gradients_of_the_others(residual):
    torch.manual_seed(0)
    channels, num_graphs = 12, 3
    layer = Layer(Config(channels=channels, residual=residual), updates_edges=True).double()
    wiring = Wiring.of(residual_topology(), True)
    edges = torch.randn(wiring.num_edges, num_graphs, channels, dtype=torch.float64, requires_grad=True)
    ends = torch.randn(wiring.num_nodes, num_graphs, 4 * channels, dtype=torch.float64, requires_grad=True)
    layers = (layer.edge_in, layer.edge_out, layer.film)
    given = [edges, ends, *(parameter for part in layers for parameter in part.parameters())]
    found = []
    for compute in (layer._received, layer._received_sparingly):
        received, new_edges = compute(edges, ends, wiring)
        found.append([received, new_edges, *torch.autograd.grad(received.square().sum() + new_edges.square().sum(), given)])
    assert all(torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10) for ours, theirs in zip(*found, strict=True))


def test_nodes_read_at_once_are_those_read_with_the_factor_drawn_out():
    torch.manual_seed(0)
    layer = Layer(Config(channels=6), updates_edges=False).double()
    nodes, received, factors = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 3, 6), (5, 3, 24), (5, 1, 1)))
    given = [nodes.requires_grad_(), received.requires_grad_(), layer.node.weight, layer.node.bias]
    found = []
    for out in (
        layer._read(nodes, received, factors),
        ReadNodes.apply(nodes, received, factors, layer.node.weight, layer.node.bias),
    ):
        found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    assert all(torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10) for ours, theirs in zip(*found, strict=True))
