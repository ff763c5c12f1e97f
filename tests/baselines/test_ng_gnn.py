"""NG-GNN: the authors' numbers, invariance, independence of neighbours, several architectures at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.ng_gnn import NGGNN
from ngbench.errors import ConfigError, MethodError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Topology, symmetry
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import ONE_STRUCTURE, PROBLEM, SEVERAL_STRUCTURES, fake_dataset, fake_graphs

GOLDEN = Path(__file__).parent / "golden"
CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=4, num_candidates=1))
SMALL = NGGNN.Config(channels=8, num_layers=3, epochs=4, batch_size=16)


def reference(name):
    """The authors' parameters and configuration, four networks as graphs, and the file."""
    file = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    config = json.loads(str(file["config"]))
    parameters = {key.removeprefix("param/"): torch.from_numpy(file[key]) for key in file.files if key.startswith("param/")}
    num_layers = sum(key.startswith("input/weight") for key in file.files)
    weights = [torch.from_numpy(file[f"input/weight{i}"]).double() for i in range(num_layers)]
    biases = [torch.from_numpy(file[f"input/bias{i}"]).double() for i in range(num_layers)]
    if "inr" in name:
        # The authors' INRs have weights [networks, in, out].
        weights = [weight.transpose(1, 2) for weight in weights]
    topology = layered(weights)
    graphs = []
    for network in range(len(weights[0])):
        entries = {f"{i}.weight": weights[i][network] for i in range(num_layers)}
        entries |= {f"{i}.bias": biases[i][network] for i in range(num_layers)}
        graphs.append(NeuralGraph.from_state_dict(topology, entries))
    return parameters, config, GraphDataset.from_graphs(graphs), file


def layered(weights):
    groups, blocks, parameters = [NodeGroup("in", weights[0].shape[2], "input", "none", 0)], [], []
    for i, weight in enumerate(weights):
        role = "output" if i + 1 == len(weights) else "hidden"
        feature = NodeFeature("bias", ParameterView(f"{i}.bias"))
        groups.append(NodeGroup(f"l{i}", weight.shape[1], role, "unrecorded", i + 1, (feature,)))
        view = ParameterView(f"{i}.weight")
        blocks.append(EdgeBlock(f"l{i}", groups[-2].name, f"l{i}", "dense", "conv", tuple(weight.shape[3:]), view))
        parameters += [(f"{i}.weight", tuple(weight.shape[1:])), (f"{i}.bias", (weight.shape[1],))]
    return Topology(tuple(groups), tuple(blocks), tuple(parameters))


@pytest.mark.parametrize("name", ["ng-gnn-cnn", "ng-gnn-inr"])
def test_the_authors_outputs_are_reproduced_in_float64(name):
    parameters, config, networks, file = reference(name)
    module = NGGNN.from_reference(parameters, config).module
    with torch.no_grad():
        outputs = module(networks.batch()).numpy()
    np.testing.assert_allclose(outputs, file["output"], atol=1e-8, rtol=0)
    assert np.ptp(file["output"]) > 1e-3, "the networks' outputs differ, so that agreement means something"


def test_changing_any_reference_parameter_changes_the_output():
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


def test_an_unknown_option_of_the_reference_is_refused():
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
    ("option", "message"), [({"encoding": "sine"}, "encoding is 'sine'"), ({"pooling": "max"}, "pooling is 'max'")]
)
def test_unknown_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        NGGNN.Config(**option)
