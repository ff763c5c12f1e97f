"""Networks at the size that people train: time and memory of tracing and permuting, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

GIGABYTE = 2**30

RESNET50 = """
from transformers import ResNetConfig, ResNetForImageClassification
module = ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()
inputs = torch.randn(2, 3, 64, 64)
for name, buffer in module.named_buffers():
    if name.endswith("running_mean"):
        buffer.normal_(0, 0.1)
    if name.endswith("running_var"):
        buffer.uniform_(0.5, 1.5)
"""

GPT2 = """
from transformers import GPT2Config, GPT2LMHeadModel
module = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
inputs = torch.randint(0, 50257, (2, 64))
"""

MEASURE = """
import json, os, resource, time
import torch
from ngbench.graph import restore, symmetry, trace

torch.manual_seed(0)
torch.set_num_threads(2)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def measure(name, function):
    start, before = time.perf_counter(), resident()
    result = function()
    measured[name + "_s"] = time.perf_counter() - start
    measured[name + "_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return result

def outputs():
    with torch.no_grad():
        return module(inputs).logits

def change(element):
    before, state_dict = outputs(), module.state_dict()
    module.load_state_dict(element.act_state_dict(state_dict))
    return float((outputs() - before).abs().max() / before.abs().max())

{make}
measured = {{"num_parameters": sum(parameter.numel() for parameter in module.parameters())}}
graph = measure("trace", lambda: trace(module, inputs))
group = symmetry.group(graph.topology)
element = group.sample(7)
twin = measure("twin", lambda: element.act(graph))

expected, restored = module.state_dict(), restore(graph)
measured["restored"] = list(restored) == list(expected) and all(torch.equal(restored[path], expected[path]) for path in expected)
measured["undone"] = element.inverse().act(twin).equal(graph)
module.load_state_dict(restore(twin))
measured["law"] = trace(module, inputs).equal(twin)

del twin, restored, expected
module.double()
inputs = inputs.double() if inputs.is_floating_point() else inputs
first = next(part for part in graph.topology.groups if part.name in element.permutations)
alone = symmetry.GroupElement(graph.topology, {{first.name: torch.arange(first.size).roll(1)}})
measured |= {{"group": str(group), "kept": change(element), "changed": change(alone)}}
print(json.dumps(measured))
"""


def run(make):
    """What a new process measures of one architecture."""
    script = MEASURE.format(make=make)
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(finished.stdout.splitlines()[-1])
    print({key: value for key, value in measured.items() if key != "group"})
    assert measured["restored"]
    assert measured["undone"]
    assert measured["law"]
    assert measured["kept"] < 1e-10
    assert measured["changed"] > 1e-6
    return measured


def test_resnet50_traces_permutes_and_restores():
    measured = run(RESNET50)
    assert measured["num_parameters"] == 25_557_032
    # The stem, then for each stage two inner layers in each block, and the stream, known when the first block is.
    stages = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
    factors = ["S_64"]
    for width, stream, num_blocks in stages:
        factors += [f"S_{width}", f"S_{width}", f"S_{stream}", *[f"S_{width}"] * (2 * (num_blocks - 1))]
    assert measured["group"] == " × ".join(factors)
    assert measured["trace_s"] < 60
    assert measured["twin_s"] < 30
    assert measured["trace_bytes"] < GIGABYTE


def test_gpt2_small_traces_in_a_minute_with_a_gigabyte_and_permutes_in_half_a_minute():
    measured = run(GPT2)
    assert measured["num_parameters"] == 124_439_808
    assert measured["group"] == " × ".join(["S_768", *["((S_64 × S_64) ≀ S_12)", "S_3072"] * 12])
    assert measured["trace_s"] < 60
    assert measured["trace_bytes"] < GIGABYTE
    assert measured["twin_s"] < 30
