"""NG-GNN and NG-T as on a CUDA device, kernels and all, against the plain path; without a GPU a CPU passes for one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from baselines.fitting.rounding import in_dtype
from baselines.ng_gnn import NGGNN, GraphNetwork
from baselines.ng_t import NGT, GraphTransformer
from baselines.reading.encoding import Vocabulary
from ngbench.loading import Normalization
from ngbench.testing import fake_dataset, mlp_topology

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GNN = {"num_frequencies": 5, "num_layers": 3, "clip": 0.0}
TRANSFORMER = {"num_frequencies": 5, "num_layers": 2, "clip": 0.0, "dropout": 0.0, "node_channels": 16, "edge_channels": 16}
TRANSFORMER |= {"attention_channels": 32, "num_heads": 2, "node_hidden": 16, "edge_hidden": 32}
CASES = {
    "ng-gnn": (GraphNetwork, NGGNN.Config.paper(channels=16, reverse_edges=True, **GNN)),
    "ng-gnn-without-fused-messages": (GraphNetwork, NGGNN.Config.paper(channels=128, reverse_edges=True, **GNN)),
    "ng-t": (GraphTransformer, NGT.Config.paper(**TRANSFORMER)),
}


def loss_and_gradients(module, networks, precision):
    """In bfloat16 as `Stepper` does it, and otherwise in float32."""
    module.zero_grad()
    batch = networks.batch().to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
        if precision == "bfloat16":
            with in_dtype(module, torch.bfloat16):
                outputs = module(batch).float()
        else:
            outputs = module(batch).float()
    (outputs * torch.linspace(1, 2, outputs.numel(), device=DEVICE).view(outputs.shape)).sum().backward()
    return [outputs.detach(), torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])]


@pytest.mark.parametrize("name", ["ng-gnn", "ng-t"])
def test_a_step_on_kernels_gives_the_outputs_and_gradients_of_the_plain_path(name, monkeypatch):
    assert_steps_agree(name, "bfloat16", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_so_does_a_step_in_float32(name, monkeypatch):
    assert_steps_agree(name, "float32", monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_so_does_a_step_on_a_gpu(name, precision, monkeypatch):
    assert_steps_agree(name, precision, monkeypatch)


def assert_steps_agree(name, precision, monkeypatch):
    """The step of a case near that of the plain path in float32; in bfloat16 not too near."""
    kind, config = CASES[name]
    networks = fake_dataset([mlp_topology((2, 3, 2))], num_graphs=4)
    torch.manual_seed(0)
    config = type(config)(**{**vars(config), "precision": precision})
    module = kind(config, Vocabulary.of(networks, config), Normalization.fit(networks), num_outputs=2).to(DEVICE)
    monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "0")
    if DEVICE == "cuda":
        monkeypatch.setattr("baselines.kernels.usable._has_triton", lambda: False)
    plain = loss_and_gradients(module, networks, "float32")
    if DEVICE == "cuda":
        monkeypatch.undo()
    else:
        monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "1")
        monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    found = loss_and_gradients(module, networks, precision)
    errors = [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in zip(found, plain, strict=True)]
    assert max(errors) < {"float32": 1e-3, "bfloat16": 0.1}[precision], errors
    assert precision == "float32" or max(errors) > 1e-4
