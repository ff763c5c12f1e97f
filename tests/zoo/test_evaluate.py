import numpy as np
import pytest
import torch

from ngbench.zoo.architectures import Cnn, build
from ngbench.zoo.evaluate import STACK_SIZE, evaluate, round_to_16_bits

CNN = Cnn(family="cnn", input_shape=(1, 8, 7), channels=(3, 4), kernel_size=3, strides=(1, 2), paddings=(0, 1), num_classes=5)


@pytest.mark.parametrize("num_networks", [1, STACK_SIZE + 3])
def test_scores_equal_those_of_each_network_alone(num_networks):
    torch.manual_seed(2)
    modules = [build(CNN, "gelu", dropout=0.5).double().eval() for _ in range(num_networks)]
    parameters = {
        path: np.stack([module.state_dict()[path].numpy() * 5 for module in modules]) for path in modules[0].state_dict()
    }
    rng = np.random.default_rng(2)
    images, labels = rng.random((300, 1, 8, 7)), rng.integers(0, 5, 300)
    accuracy, loss = evaluate(modules[0], parameters, images=images, labels=labels)
    assert accuracy.shape == loss.shape == (num_networks,)
    for network, module in enumerate(modules):
        module.load_state_dict({path: torch.from_numpy(values[network]) for path, values in parameters.items()})
        logits = module(torch.from_numpy(images))
        assert accuracy[network] == (logits.argmax(1).numpy() == labels).mean()
        assert loss[network] == pytest.approx(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(), rel=1e-12
        )


def test_evaluation_leaves_its_inputs_alone():
    module = build(CNN, "relu")
    parameters = {path: values.numpy()[None].copy() for path, values in module.state_dict().items()}
    before = {path: values.copy() for path, values in parameters.items()}
    images = np.ones((4, 1, 8, 7), dtype=np.float32)
    evaluate(module, parameters, images=images, labels=np.zeros(4, dtype=np.int64))
    assert all(np.array_equal(before[path], parameters[path]) for path in parameters)
    assert (images == 1).all()


@pytest.mark.parametrize(("kind", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_rounding_keeps_the_significant_bits_of_the_type(kind, bits):
    weights = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
    rounded = round_to_16_bits(weights, kind)
    assert rounded.dtype == torch.float32
    assert (rounded * 2 ** (bits - 1)).frac().abs().max() == 0
    assert (rounded - weights).abs().max() <= 2.0**-bits
    assert torch.equal(round_to_16_bits(rounded, kind), rounded)


def test_no_rounding_is_the_identity():
    weights = torch.rand(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_to_16_bits(weights, "none"), weights)
