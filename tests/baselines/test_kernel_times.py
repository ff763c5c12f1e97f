from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from baselines import kernel_times
from baselines.kernel_times import Kernel, breakdowns, busy_us, kernels_of, main, text
from ngbench.errors import ConfigError

TRACE = {
    "traceEvents": [
        {"cat": "kernel", "name": "pairs_forward", "ts": 30.0, "dur": 10.0, "args": {"grid": [7, 1, 1]}},
        {"cat": "cpu_op", "name": "aten::add", "ts": 0.0, "dur": 90.0},
        {"cat": "gpu_memset", "name": "Memset (Device)", "ts": 10.0, "dur": 5.0},
        {"cat": "kernel", "name": "aggregate", "ts": 12.0, "dur": 2.0, "args": {}},
        {"cat": "gpu_user_annotation", "name": "Optimizer.step#AdamW.step", "ts": 10.0, "dur": 80.0},
    ]
}


def test_the_kernels_of_a_trace_stand_in_the_order_in_which_they_began():
    assert [kernel.name for kernel in kernels_of(TRACE)] == ["Memset (Device)", "aggregate", "pairs_forward"]
    assert kernels_of(TRACE)[2].details == {"grid": [7, 1, 1]}


def test_time_counts_once_in_which_two_kernels_run():
    # 10 to 15, within which 12 to 14, and 30 to 40
    assert busy_us(kernels_of(TRACE)) == pytest.approx(15.0)
    assert busy_us([Kernel("a", 0.0, 4.0, {}), Kernel("b", 3.0, 5.0, {})]) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("gradients_of_update", "messages of NG-GNN"),
        ("attention_backward_pairs", "attention of NG-T"),
        ("pairs_backward_ends", "pairs of NG-T"),
        ("gradient_of_weight", "Fourier features"),
        ("nvjet_tst_128x64_64x5_1x2_h_bz_TNT", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser"),
        ("void at::native::elementwise_kernel<direct_copy_kernel_cuda>", "copies and clearing"),
        ("void at::native::reduce_kernel<512, 1>", "sums, norms, softmax"),
        ("void at::native::vectorized_elementwise_kernel<4, sigmoid>", "elementwise"),
        ("somebody_elses", "others"),
    ],
)
def test_kernels_are_grouped_by_what_they_do(name, group):
    assert Kernel(name, 0.0, 1.0, {}).group == group


def test_a_breakdown_adds_up_and_says_how_long_no_kernel_runs():
    kernels = kernels_of(TRACE) * kernel_times.NUM_TRACED
    found = kernel_times._breakdown("inr-t", "training", 0.05, kernels, floor_ms=0.01)
    assert sum(ms for ms, _ in found.groups.values()) == pytest.approx(0.017)
    assert found.num_kernels == 3
    assert found.kernels[0][:2] == ("pairs_forward", pytest.approx(0.01))
    shown = text(found, 1)
    assert "inr-t, training: 0.050 ms a step, 3 kernels" in shown
    assert "20.0 %  edges or pairs" in shown
    assert "1 × 10.0 µs, grid [7, 1, 1]" in shown


def test_a_configuration_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="configuration 'inr-gcn' is not known; expected one of inr-gnn-d32, "):
        next(breakdowns("inr-gcn", {}, 1e12))


def test_without_a_cuda_device_the_command_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["inr-t"])
    assert result.exit_code == 2
    assert "measures CUDA devices; expected one, found none" in result.output


@pytest.mark.gpu
def test_on_a_gpu_it_names_the_kernels_of_both_passes(tmp_path):
    result = CliRunner().invoke(main, ["cnn-gnn-d32", "--out", str(tmp_path / "times.json")])
    assert result.exit_code == 0, result.output
    training, inference = json.loads((tmp_path / "times.json").read_text())
    assert "gradients_of_messages" in [row[0] for row in training["kernels"]]
    assert "aggregate" in [row[0] for row in inference["kernels"]]
    assert 0 < training["floor_ms"] < training["busy_ms"] < training["step_ms"]
