"""Every neuron of a permuted architecture gives what the neuron that it was gave; whole-numbered inputs are refused."""

from __future__ import annotations

import pytest
import torch

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import Program, symmetry
from ngbench.graph.neural_graph import NeuralGraph

NUM_PROBES = 3

pytestmark = pytest.mark.slow


def test_permuted_neurons_have_permuted_activations(architecture):
    whole = [tensor for tensor in (*architecture.inputs, *architecture.kwargs.values()) if not tensor.is_floating_point()]
    if whole:
        with pytest.raises(UnsupportedLayerError, match="holds int64, which cannot be probed"):
            Program.of(architecture.module, architecture.inputs, architecture.kwargs)
        return
    program, topology = Program.of(architecture.module, architecture.inputs), architecture.graph.topology
    assert program.topology == topology
    generator = torch.Generator().manual_seed(3)
    inputs = tuple(torch.randn(NUM_PROBES, *shape, generator=generator).double() for shape in program.inputs.values())
    row, element = architecture.graph.row().double(), symmetry.group(topology).sample(5)
    moved = element.act(NeuralGraph.from_row(topology, row)).row()
    before, after = program.activations(torch.stack([row, moved]), inputs).unbind(1)
    assert not torch.allclose(before, after)
    for group in topology.groups:
        own = slice(topology.node_ptr[group.name], topology.node_ptr[group.name] + group.size)
        permutation = element.permutations.get(group.name, torch.arange(group.size))
        torch.testing.assert_close(after[own], before[own][permutation], rtol=1e-7, atol=1e-8)
        assert group.role in ("input", "structural") or group.name.endswith(("positions", "embeddings")) or before[own].any()
