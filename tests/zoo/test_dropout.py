import numpy as np
import pytest
import torch

from ngbench.zoo.dropout import StackedDropout

NETWORKS, STEPS, LAYERS, SHAPE = 3, 4, 2, (6, 5, 5, 3)
RATES = [0.0, 0.25, 0.6]
KEYS = torch.from_numpy(np.random.default_rng(8).integers(-(2**31), 2**31, size=(NETWORKS, STEPS, LAYERS), dtype=np.int32))


def mask_of_one_network(rate, key, size):
    """Independent of torch: unsigned arithmetic of numpy, halves taken by shifts."""
    bits = np.arange((size + 1) // 2, dtype=np.uint32) + np.uint32(key % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    halves = np.stack([bits & np.uint32(0xFFFF), bits >> np.uint32(16)], axis=1).ravel()[:size].astype(np.int64)
    signed = np.where(halves >= 32768, halves - 65536, halves)
    return (signed >= round(rate * 65536) - 32768) / (1 - rate)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 3, 1)])
def test_masks_equal_an_independent_implementation(shape):
    drop = StackedDropout(RATES, KEYS, dtype=torch.float64)
    drop.step = torch.tensor([2])
    masks = drop(torch.ones(NETWORKS, *shape, dtype=torch.float64), 1)
    for network in range(NETWORKS):
        expected = mask_of_one_network(RATES[network], int(KEYS[network, 2, 1]), int(np.prod(shape)))
        assert masks[network].numpy().ravel() == pytest.approx(expected, rel=1e-15)


def test_share_of_dropped_units_is_the_rate_and_the_mean_stays():
    rates = [0.05, 0.3, 0.9]
    masks = StackedDropout(rates, KEYS, dtype=torch.float64)(torch.ones(NETWORKS, 100_000, dtype=torch.float64), 0)
    assert (masks == 0).double().mean(dim=1).tolist() == pytest.approx(rates, abs=0.005)
    assert masks.mean(dim=1).tolist() == pytest.approx([1, 1, 1], abs=0.03)


def test_masks_of_steps_layers_and_networks_are_unrelated():
    drop, masks = StackedDropout([0.5] * NETWORKS, KEYS, dtype=torch.float64), []
    for drop.step in torch.arange(STEPS).split(1):
        masks += [drop(torch.ones(NETWORKS, 50_000, dtype=torch.float64), layer) for layer in range(LAYERS)]
    correlations = np.corrcoef(torch.cat(masks).numpy())
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.02
    # neighbouring units share a hash of 32 bits
    assert abs(np.corrcoef(masks[0][0][::2], masks[0][0][1::2])[0, 1]) < 0.02


def test_first_networks_of_a_stack_get_the_masks_of_the_whole_stack():
    drop = StackedDropout(RATES, KEYS, dtype=torch.float32)
    assert torch.equal(drop(torch.ones(2, *SHAPE), 0), drop(torch.ones(NETWORKS, *SHAPE), 0)[:2])


def test_rate_zero_leaves_activations_alone():
    hidden = torch.rand(NETWORKS, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(StackedDropout([0.0] * NETWORKS, KEYS, dtype=torch.float32)(hidden, 0), hidden)
