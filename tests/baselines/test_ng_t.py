"""NG-T: the authors' numbers, invariance, independence of neighbours, several architectures at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.fitting.training import in_float64, seeded
from baselines.ng_t import NGT, GraphTransformer
from baselines.reading import encoding, node_pairs, relational_attention
from baselines.reading.encoding import Vocabulary
from baselines.reading.node_pairs import NodePairs
from baselines.reference import ng_t_options, ng_t_weights
from ngbench.errors import ConfigError, GraphError
from ngbench.graph import NeuralGraph, symmetry
from ngbench.loading import GraphDataset, Normalization
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    OTHER_FAMILIES,
    PROBLEM,
    SEVERAL_STRUCTURES,
    check_method,
    cnn_topology,
    fake_dataset,
    fake_graphs,
    mlp_topology,
)

GOLDEN = ["ng-t-cnn", "ng-t-inr"]
CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=12, num_candidates=1))
SMALL = NGT.Config(
    node_channels=6,
    edge_channels=5,
    attention_channels=8,
    num_heads=2,
    num_layers=3,
    node_hidden=7,
    edge_hidden=9,
    read_out_hidden=11,
    batch_size=16,
)
OPTIONS = {
    "default": SMALL,
    "paper": replace(SMALL, encoding="fourier", clip=0.0, pooling="cat", weight_noise=0.0, mixed=False, dropout=0.2),
    "both-ways": replace(SMALL, reverse_edges=True),
    "mixed": replace(SMALL, mixed=True),
    "mixed-both-ways": replace(SMALL, mixed=True, reverse_edges=True, pooling="attention"),
    "fixed-pairs": replace(SMALL, edge_updates=False, pooling="max"),
    "one-layer": replace(SMALL, num_layers=1),
}


def untrained(config=SMALL, *, topologies=ALL_FAMILIES):
    """A network of random weights, in which every table and bias matters."""
    train = fake_dataset(topologies, num_graphs=36)
    with seeded(1):
        module = GraphTransformer(config, Vocabulary.of(train, config), Normalization.fit(train), num_outputs=2)
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


@torch.no_grad()
def outputs(module, networks):
    return in_float64(module)(networks.batch().to("cpu", torch.float64)).numpy()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_authors_outputs_are_reproduced_in_float64(reference, name):
    parameters, config, networks, file = reference(name)
    found = outputs(NGT.from_reference(parameters, config).module, networks)
    np.testing.assert_allclose(found, file["output"], atol=1e-8, rtol=0)
    np.testing.assert_allclose(found, file["output_in_one_batch"], atol=1e-8, rtol=0)
    assert np.ptp(file["output"], axis=0).min() > 1e-3, "the networks' outputs differ, so that agreement means something"


@pytest.mark.parametrize("name", GOLDEN)
def test_nodes_and_pairs_enter_the_first_layer_as_in_the_authors_code(reference, name):
    parameters, config, networks, file = reference(name)
    encoder = NGT.from_reference(parameters, config).module.encoder
    (reading,) = encoder.read(networks.batch())
    with torch.no_grad():
        ((nodes, pairs, mask),) = NodePairs.of(reading).spread(*encoder(reading), encoder.absent_edge())
    assert mask is None
    np.testing.assert_allclose(nodes[0], file["graph/node_features"][0], atol=1e-6)
    np.testing.assert_allclose(pairs[0], file["graph/edge_features"][0], atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_outputs_depend_on_every_parameter_of_the_reference(reference, name):
    parameters, config, networks, file = reference(name)
    theirs = {name: parameter.double().requires_grad_() for name, parameter in parameters.items()}
    module = NGT.from_reference(parameters, config).module
    weights = ng_t_weights(theirs, ng_t_options(theirs, config))
    found = torch.func.functional_call(module, weights, (networks.batch(),))
    torch.testing.assert_close(found.detach(), torch.from_numpy(file["output"]), atol=1e-8, rtol=0)
    grads = torch.autograd.grad(found.square().sum(), list(theirs.values()), allow_unused=True)
    without = {name for name, grad in zip(theirs, grads, strict=True) if grad is None or grad.abs().max() < 1e-9}
    # these networks do not record their activations
    assert without == ({"construct_graph.act_emb.embedding.weight"} if name == "ng-t-cnn" else set())


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        (None, "modulate_v", False, r"modulate_v of the reference model is False; expected True"),
        (None, "node_update_type", "mlp", r"node_update_type of the reference model is 'mlp'; expected 'rt'"),
        (None, "use_cls_token", True, r"use_cls_token of the reference model is True; expected False"),
        ("graph_constructor", "linear_as_conv", False, r"graph_constructor\.linear_as_conv of the reference model is False"),
        ("graph_constructor", "num_probe_features", 3, r"num_probe_features of the reference model is 3; expected 0"),
        (None, "pooling_layer_idx", "all", r"pools by 'cat' over 'all'; expected 'cat' over 'last'"),
        (None, "use_gating", True, r"the reference model has an option 'use_gating', which is True; expected one of d_attn_hid,"),
    ],
)
def test_an_option_of_the_authors_that_is_not_there_is_refused(reference, section, name, value, message):
    parameters, config, _, _ = reference("ng-t-cnn")
    (config[section] if section else config)[name] = value
    with pytest.raises(ConfigError, match=message):
        NGT.from_reference(parameters, config)


def test_it_keeps_the_rules_of_methods():
    check_method(lambda: NGT(SMALL))


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_permuted_networks_have_the_same_outputs(config):
    module, networks = untrained(config), fake_dataset(ALL_FAMILIES, num_graphs=13, seed=1)
    expected = outputs(module, networks)
    np.testing.assert_allclose(outputs(module, networks.scrambled(salt="a")), expected, rtol=0, atol=1e-10)
    assert np.ptp(expected, axis=0).min() > 1e-3


def test_exchanged_outputs_are_another_network():
    graphs = fake_graphs(ONE_STRUCTURE[:1], num_graphs=13)
    exchange = symmetry.GroupElement(ONE_STRUCTURE[0], {"head": torch.tensor([1, 0, 2, 3, 4])})
    before, after = (outputs(untrained(), GraphDataset.from_graphs(some)) for some in (graphs, [exchange.act(g) for g in graphs]))
    assert np.abs(after - before).max() > 1e-4


def test_nodes_permute_as_the_neurons_do():
    module = in_float64(untrained())
    (graph,) = fake_graphs(ONE_STRUCTURE, num_graphs=1, seed=6)
    element = symmetry.group(graph.topology).sample(7)
    batches = [GraphDataset.from_graphs([g]).batch().to("cpu", torch.float64) for g in (graph, element.act(graph))]
    with torch.no_grad():
        before, after = (module.embed_nodes(batch)[0] for batch in batches)
    moved = 0
    for group in graph.topology.groups:
        nodes = slice(graph.topology.node_ptr[group.name], graph.topology.node_ptr[group.name] + group.size)
        order = element.permutations.get(group.name, torch.arange(group.size))
        moved += int((order != torch.arange(group.size)).any())
        torch.testing.assert_close(after[nodes], before[nodes][order], atol=1e-12, rtol=0)
    assert moved == 2


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["float32", "float64"])
def test_an_output_depends_on_no_neighbour(config, dtype, tolerance):
    module, networks = untrained(config).to(dtype), fake_dataset(ALL_FAMILIES, num_graphs=13, seed=1)
    with torch.no_grad():
        together = module(networks.batch().to("cpu", dtype))
        alone = torch.cat([module(networks.batch(np.array([position])).to("cpu", dtype)) for position in range(13)])
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance * max(1.0, float(alone.abs().max())))


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_padding_and_chunks_change_neither_outputs_nor_gradients(config, monkeypatch):
    config = replace(config, dropout=0.0, weight_noise=0.0)
    module = in_float64(untrained(config)).train()
    batch = fake_dataset(ALL_FAMILIES, num_graphs=13, seed=1).batch().to("cpu", torch.float64)
    found = []
    for graphs_per_structure, largest_padding, floats in ((0, 1.0, 2**30), (100, 1.0, 2**30), (100, 1.3, 500), (100, 9.0, 1)):
        monkeypatch.setattr(encoding, "GRAPHS_PER_STRUCTURE", graphs_per_structure)
        monkeypatch.setattr(node_pairs, "LARGEST_PADDING", largest_padding)
        monkeypatch.setitem(relational_attention.FLOATS_IN_CHUNK, "cpu", floats)
        module.zero_grad()
        values = module(batch)
        values.square().sum().backward()
        found.append([values.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    assert len(found[0]) > 20
    for other in found[1:]:
        for mine, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()) + 1e-15)


def test_a_weight_that_is_zero_is_no_other_than_a_tiny_one():
    (graph,) = fake_graphs(ONE_STRUCTURE[:1], num_graphs=1)
    rows = graph.row().double().repeat(2, 1)
    rows[0, -3:], rows[1, -3:] = 0.0, 1e-9
    zero, tiny = (GraphDataset.from_graphs([NeuralGraph.from_row(graph.topology, row)]) for row in rows)
    np.testing.assert_allclose(outputs(untrained(), zero), outputs(untrained(), tiny), rtol=0, atol=1e-7)


def test_dropout_falls_on_nodes_and_pairs_in_training_only():
    module = untrained(replace(SMALL, dropout=0.3, weight_noise=0.0))
    batch = fake_dataset(ALL_FAMILIES, num_graphs=13).batch()
    with seeded(0):
        first = module.train()(batch)
    with seeded(0):
        assert torch.equal(first, module(batch))
    assert not torch.equal(first, module(batch))
    assert torch.equal(module.eval()(batch), module(batch))
    for layer in module.layers:
        layer.dropout = 0.0
    assert not torch.equal(module.train()(batch), module.eval()(batch)), "pairs drop too"


def test_networks_of_families_that_training_lacked_are_read():
    module = untrained(topologies=SEVERAL_STRUCTURES)
    networks = fake_dataset((*OTHER_FAMILIES, cnn_topology((1, 9, 8, 7), num_classes=4, kernel=(2, 2)), mlp_topology((3, 20, 2))))
    assert np.isfinite(outputs(module, networks)).all()
    assert np.ptp(outputs(module, networks), axis=0).min() > 1e-4


def test_more_outputs_than_in_training_cannot_be_concatenated():
    module = untrained(OPTIONS["paper"], topologies=SEVERAL_STRUCTURES)
    with pytest.raises(GraphError, match="a network has 12 output nodes, .* expected at most 5"):
        outputs(module, fake_dataset([mlp_topology((3, 4, 12))], num_graphs=2))


def test_it_learns_what_the_scale_of_the_weights_tells():
    method = NGT(replace(SMALL, epochs=12))
    method.fit(PROBLEM, fake_dataset(num_graphs=160, seed=1), fake_dataset(num_graphs=40, seed=2), CONTEXT)
    test = fake_dataset(num_graphs=80, seed=3)
    assert KENDALL_TAU(method.predict(test.without_targets()), test.targets) > 0.6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pooling": "median"}, "pooling is 'median'"),
        ({"attention_channels": 30, "num_heads": 4}, "attention_channels is 30 with num_heads 4; expected a multiple of it"),
        ({"read_out_layers": -1}, "read_out_layers is -1; expected a number from 0 upward"),
        ({"num_heads": 0}, "num_heads is 0; expected a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a share, at least 0 and below 1"),
    ],
)
def test_unknown_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        NGT.Config(**option)


def test_the_options_of_the_paper():
    paper = NGT.Config.paper(num_layers=2)
    assert (paper.encoding, paper.pooling, paper.weight_noise, paper.clip, paper.dropout) == ("fourier", "cat", 0.0, 0.0, 0.2)
    assert (paper.node_channels, paper.edge_channels, paper.attention_channels, paper.num_heads) == (64, 32, 128, 8)
    assert paper.num_layers == 2
