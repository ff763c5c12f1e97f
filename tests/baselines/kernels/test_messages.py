"""The fused kernels against the plain path in float64: on a GPU, and here in Triton's interpreter.

The interpreter has to be asked for before Triton is imported, so that this file is also a program that prints errors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from baselines.kernels import messages
from baselines.kernels.messages import LAUNCHES, Incidence, fused_messages, is_available
from baselines.reading.message_passing import Aggregate, FlatWiring, Linear, SumOfEnds, Wiring
from ngbench.testing import SEVERAL_STRUCTURES, attention_topology, cnn_topology, residual_topology

TINY, OTHER = cnn_topology((1, 2), num_classes=2), cnn_topology((1, 1), num_classes=3)
BATCH = [(residual_topology(), 2), (attention_topology(), 1), (cnn_topology((1, 4, 4), num_classes=5), 3)]
NAMES = (
    "received", "new_edges", "edges", "ends", "film.weight", "film.bias", "in.weight", "in.bias", "out.weight", "out.bias"
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One layer on random tensors."""

    wiring: Wiring | FlatWiring
    num_graphs: int
    channels: int
    updates: bool = True
    residual: bool = True
    precision: str = "ieee"
    dtype: torch.dtype = torch.float32


INTERPRETED = {
    "both-ways": Case(Wiring.of(TINY, True), 15, 16),
    "several-slots": Case(Wiring.of(TINY, True), 3, 16, residual=False),
    "first-layer": Case(Wiring.of(TINY, False), 1, 16, updates=False),
    "flat": Case(FlatWiring.of([(TINY, 1), (OTHER, 1)], reverse_edges=False), 1, 16),
    "bfloat16": Case(Wiring.of(TINY, False), 16, 16, dtype=torch.bfloat16),
    "summed": Case(Wiring.of(TINY, True), 11, 16),
    "summed-first-layer": Case(Wiring.of(TINY, True), 5, 16, updates=False),
}
LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 0.05}


def plain_messages(edges, ends, wiring, *, film, update, residual):
    """What `fused_messages` should give, by the plain path."""
    ends = SumOfEnds.apply(ends, wiring)
    if update is not None:
        of_edge, ends = ends.chunk(2, -1)
        updated = update[1](functional.silu(update[0](edges) + of_edge))
        edges = edges + updated if residual else updated
    return Aggregate.apply(film(edges), ends, wiring), edges


def results(case, *, fused, device="cpu", seed=0):
    """Outputs and gradients of the real edges, all nodes and all parameters, under `NAMES`."""
    generator, wiring, real = torch.Generator().manual_seed(seed), case.wiring, case.wiring.num_real_edges
    kind = case.dtype if fused else torch.float64

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device, case.dtype).to(kind)

    edges = random(wiring.num_edges, case.num_graphs, case.channels).requires_grad_()
    ends = random(wiring.num_nodes, case.num_graphs, (4 if case.updates else 2) * case.channels).requires_grad_()
    layers = [Linear(case.channels, width) for width in (2 * case.channels, case.channels, case.channels)]
    layers = layers if case.updates else layers[:1]
    for layer in layers:
        layer.to(device, torch.float32 if fused else torch.float64)
        for parameter in layer.parameters():
            parameter.data = (torch.randn(parameter.shape, generator=generator) / case.channels**0.5).to(parameter)
    options = {"film": layers[0], "update": tuple(layers[1:]) or None, "residual": case.residual}
    if fused:
        outputs = fused_messages(edges, ends, wiring, **options, precision=case.precision)
    else:
        outputs = plain_messages(edges, ends, wiring, **options)
    received, new_edges = outputs
    weights = [random(*received.shape), random(*new_edges[:real].shape)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    grads = torch.autograd.grad([received, new_edges[:real]], [edges, ends, *parameters], weights)
    assert grads[0][real:].eq(0).all()
    assert new_edges[real:].isfinite().all()
    values = [received, new_edges[:real], grads[0][:real], *grads[1:]]
    return dict(zip(NAMES, [value.detach() for value in values], strict=False))


def errors(case, **options):
    """Of every result the norm of the error by the norm of what it should be."""
    ours, expected = (results(case, fused=fused, **options) for fused in (True, False))
    return {name: ((ours[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected}


@pytest.fixture(scope="module")
def interpreted():
    """The errors of all cases in Triton's interpreter."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "NGBENCH_INTERPRET_KERNELS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__))]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", INTERPRETED)
def test_the_interpreted_kernels_give_outputs_and_gradients_of_the_plain_path(interpreted, name):
    found = interpreted[name]
    assert set(found) == set(NAMES if INTERPRETED[name].updates else NAMES[:6])
    assert max(found.values()) < LARGEST_ERROR[INTERPRETED[name].dtype], found


def test_rounding_is_seen_as_an_error(interpreted):
    assert interpreted["bfloat16"]["received"] > LARGEST_ERROR[torch.float32]


def interpret_all():
    """Prints the errors of `INTERPRETED`."""
    from triton.runtime import interpreter

    patch_tensor, patch_language, patched = interpreter._patch_lang_tensor, interpreter._patch_lang, set()

    def patch_tensor_with_index(tensor, scope):
        # scalars are arrays of one number, of which numpy 2.4 makes no index
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def patch_language_once(function):
        # the interpreter does so in every call of every function, which takes most of its time
        module = function.__module__
        if module not in patched:
            patch_language(function)
            patched.add(module)
        return interpreter._LangPatchScope()

    interpreter._patch_lang_tensor, interpreter._patch_lang = patch_tensor_with_index, patch_language_once
    found = {name: errors(case) for name, case in INTERPRETED.items() if not name.startswith("summed")}
    for launches in LAUNCHES.values():
        launches[16] = replace(launches[16], num_programs=20, sums_in=("ieee",))
    messages.MOST_IN_INT32 = 1
    found |= {name: errors(case) for name, case in INTERPRETED.items() if name.startswith("summed")}
    print(json.dumps(found))


TOPOLOGIES = {
    "residual": residual_topology(),
    "attention": attention_topology(),
    **{f"structure-{i}": topology for i, topology in enumerate(SEVERAL_STRUCTURES[1:])},
}


@pytest.mark.parametrize("reverse_edges", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_the_tables_say_which_edges_enter_and_leave_each_node(topology, reverse_edges):
    wiring = Wiring.of(topology, reverse_edges)
    assert_tables_fit(wiring)
    assert Incidence.of(wiring, torch.device("cpu")) is Incidence.of(wiring, torch.device("cpu"))


def test_the_tables_of_a_flat_graph_say_which_edges_enter_and_leave_each_node():
    assert_tables_fit(FlatWiring.of(BATCH, reverse_edges=True))


def assert_tables_fit(wiring):
    """Numbers on the nodes, brought to the edges by the plain path, stand there too by the tables."""
    tables = Incidence.of(wiring, torch.device("cpu"))
    numbers = torch.arange(wiring.num_nodes, dtype=torch.float64).view(-1, 1, 1)
    zeros = torch.zeros_like(numbers)
    targets, sources = (
        SumOfEnds.apply(torch.cat(pair, -1), wiring).flatten().long() for pair in ((numbers, zeros), (zeros, numbers))
    )
    edges = list(range(wiring.num_real_edges))
    assert sorted(tables.entering.tolist()) == sorted(tables.leaving.tolist()) == edges
    assert torch.equal(tables.sources.long(), sources[tables.entering])
    for node in range(wiring.num_nodes):
        entering = tables.entering[tables.entering_ptr[node] : tables.entering_ptr[node + 1]]
        leaving = tables.leaving[tables.leaving_ptr[node] : tables.leaving_ptr[node + 1]]
        assert targets[entering].eq(node).all()
        assert sources[leaving].eq(node).all()


def test_the_kernels_are_for_some_sizes_and_types_on_a_gpu(monkeypatch):
    monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "0")
    assert not is_available(torch.zeros(3, 2, 32))
    monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "1")
    monkeypatch.setattr("baselines.kernels.usable._has_triton", lambda: True)
    assert is_available(torch.zeros(3, 2, 32))
    assert is_available(torch.zeros(3, 2, 64, dtype=torch.bfloat16))
    assert not is_available(torch.zeros(3, 2, 32, dtype=torch.float64))
    assert not is_available(torch.zeros(3, 2, 48))
    monkeypatch.setattr("baselines.kernels.usable._has_triton", lambda: False)
    assert not is_available(torch.zeros(3, 2, 32))


def test_triton_is_not_imported_before_a_kernel_runs():
    program = "import sys, baselines.ng_gnn, baselines.kernels.messages; print('triton' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["False"]


def test_every_kernel_has_a_launch_for_every_number_of_channels():
    assert {tuple(launches) for launches in LAUNCHES.values()} == {(16, 32, 64)}
    assert all(launch.num_rows >= launch.num_graphs for launches in LAUNCHES.values() for launch in launches.values())


ON_GPU = [
    Case(Wiring.of(topology, reverse_edges), num_graphs, channels, updates=updates, residual=residual)
    for topology in TOPOLOGIES.values()
    for reverse_edges, num_graphs, channels, updates, residual in (
        (True, 1, 16, True, True),
        (False, 3, 32, True, False),
        (True, 16, 64, True, True),
        (True, 35, 32, True, True),
        (False, 100, 16, False, True),
        (True, 129, 32, False, True),
        (True, 128, 64, True, False),
    )
]


@pytest.mark.gpu
@pytest.mark.parametrize("index", range(len(ON_GPU)))
def test_the_kernels_give_outputs_and_gradients_of_the_plain_path(index):
    found = errors(ON_GPU[index], device="cuda", seed=index)
    assert max(found.values()) < 1e-4, found


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("reverse_edges", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("updates", [False, True], ids=["first-layer", "update"])
def test_the_kernels_do_so_in_a_flat_graph(channels, reverse_edges, updates):
    wiring = FlatWiring.of(BATCH, reverse_edges=reverse_edges).to(torch.device("cuda"))
    found = errors(Case(wiring, 1, channels, updates=updates), device="cuda")
    assert max(found.values()) < 1e-4, found


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "dtype", "largest"),
    [
        ("tf32x3", torch.float32, 1e-4),
        ("tf32", torch.float32, 0.03),
        ("bf16", torch.float32, 0.1),
        ("ieee", torch.bfloat16, 0.1),
        ("bf16", torch.bfloat16, 0.1),
    ],
)
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_rounded_products_and_storage_stay_near(precision, dtype, largest, channels):
    case = Case(Wiring.of(residual_topology(), True), 37, channels, precision=precision, dtype=dtype)
    found = errors(case, device="cuda")
    assert max(found.values()) < largest, found


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "dtype", "largest"), [("tf32x3", torch.float32, 1e-4), ("bf16", torch.bfloat16, 0.1)])
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_gradients_of_weights_that_are_summed_on_the_way_are_the_same(precision, dtype, largest, channels, monkeypatch):
    for kernel in ("gradients_of_messages", "gradients_of_update"):
        launch = replace(LAUNCHES[kernel][channels], sums_in=(precision,))
        monkeypatch.setitem(LAUNCHES[kernel], channels, launch)
    for num_graphs in (8, 37):
        case = Case(Wiring.of(residual_topology(), True), num_graphs, channels, precision=precision, dtype=dtype)
        found = errors(case, device="cuda")
        assert max(found.values()) < largest, found


@pytest.mark.gpu
def test_two_runs_give_the_same_bits():
    case = Case(Wiring.of(attention_topology(), True), 70, 32, precision="tf32")
    first, second = (results(case, fused=True, device="cuda") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_a_captured_step_gives_what_the_step_gives(on_side_stream):
    wiring, channels = Wiring.of(residual_topology(), True), 32
    torch.manual_seed(0)
    film, *update = (Linear(channels, width).cuda() for width in (2 * channels, channels, channels))
    edges = torch.randn(wiring.num_edges, 5, channels, device="cuda", requires_grad=True)
    ends = torch.randn(wiring.num_nodes, 5, 4 * channels, device="cuda", requires_grad=True)

    def step():
        received, new_edges = fused_messages(edges, ends, wiring, film=film, update=tuple(update), residual=True)
        return torch.autograd.grad(received.square().sum() + new_edges.sum(), [edges, ends, film.weight])

    on_side_stream(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        edges.mul_(0.5)
    graph.replay()
    assert all(torch.equal(ours, expected) for ours, expected in zip(captured, step(), strict=True))


if __name__ == "__main__":
    interpret_all()
