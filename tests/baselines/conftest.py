"""Models of the authors, in numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ngbench.graph import EdgeBlock, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Topology
from ngbench.loading import GraphDataset

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def reference():
    """Opens a file of the folder golden."""
    return _opened


def _opened(name):
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
    topology = _layered(weights)
    graphs = []
    for network in range(len(weights[0])):
        entries = {f"{i}.weight": weights[i][network] for i in range(num_layers)}
        entries |= {f"{i}.bias": biases[i][network] for i in range(num_layers)}
        graphs.append(NeuralGraph.from_state_dict(topology, entries))
    return parameters, config, GraphDataset.from_graphs(graphs), file


def _layered(weights):
    groups, blocks, parameters = [NodeGroup("in", weights[0].shape[2], "input", "none", 0)], [], []
    for i, weight in enumerate(weights):
        role = "output" if i + 1 == len(weights) else "hidden"
        feature = NodeFeature("bias", ParameterView(f"{i}.bias"))
        groups.append(NodeGroup(f"l{i}", weight.shape[1], role, "unrecorded", i + 1, (feature,)))
        view = ParameterView(f"{i}.weight")
        blocks.append(EdgeBlock(f"l{i}", groups[-2].name, f"l{i}", "dense", "conv", tuple(weight.shape[3:]), view))
        parameters += [(f"{i}.weight", tuple(weight.shape[1:])), (f"{i}.bias", (weight.shape[1],))]
    return Topology(tuple(groups), tuple(blocks), tuple(parameters))
