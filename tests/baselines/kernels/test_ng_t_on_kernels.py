"""NG-T on Triton's kernels against NG-T without them, on graphs of several sizes; where there is no GPU, by the interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from baselines import ng_t
from baselines.ng_t import NGT, GraphTransformer
from baselines.reading.encoding import Vocabulary
from ngbench.loading import Normalization
from ngbench.testing import fake_dataset, mlp_topology

CONFIG = NGT.Config(
    node_channels=8,
    edge_channels=16,
    attention_channels=16,
    num_heads=1,
    num_layers=2,
    node_hidden=8,
    edge_hidden=32,
    weight_noise=0.0,
    mixed=False,
)


def test_kernels_give_the_outputs_and_gradients_of_the_plain_path(monkeypatch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = fake_dataset([mlp_topology((2, 3)), mlp_topology((2, 2, 2))], num_graphs=4)
    torch.manual_seed(0)
    module = GraphTransformer(CONFIG, Vocabulary.of(networks, CONFIG), Normalization.fit(networks), num_outputs=1).to(device)
    found = []
    for is_fast in (True, False):
        if not is_fast:
            monkeypatch.setattr(ng_t.attention_kernels, "applies", lambda *_, **__: False)
            monkeypatch.setattr(ng_t.pair_kernels, "applies", lambda *_: False)
            monkeypatch.setattr(ng_t.attention_kernels, "relational_attention", None)
            monkeypatch.setattr(ng_t.pair_kernels, "update_pairs", None)
        module.zero_grad()
        values = module(networks.batch().to(device))
        values.square().sum().backward()
        found.append([values.detach(), *(p.grad for p in module.parameters() if p.grad is not None and p.numel())])
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()) + 1e-9)
