"""matrix-cnn reads each layer as an image; padding changes nothing, and the order of neurons does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from baselines import matrix_cnn
from baselines.matrix_cnn import MatrixCNN, gathered_images, pictures_of
from ngbench.errors import ConfigError, MethodError
from ngbench.graph import NodeFeature, NodeGroup, ParameterView, Topology
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    PROBLEM,
    attention_topology,
    check_method,
    cnn_topology,
    fake_dataset,
    mlp_topology,
    residual_topology,
)

CONTEXT = RunContext(seed=5, budget=Budget(max_epochs=8, num_candidates=1))
SMALL = MatrixCNN.Config(channels=6, num_layers=2, width=16, epochs=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def fitted():
    method = MatrixCNN(SMALL)
    method.fit(PROBLEM, fake_dataset(num_graphs=160, seed=1), fake_dataset(num_graphs=40, seed=2), CONTEXT)
    return method


def module_on(networks, **options):
    torch.manual_seed(0)
    return MatrixCNN(replace(SMALL, **options)).build(networks, num_outputs=1).double().eval()


def in_float64(networks):
    return networks.batch().to("cpu", torch.float64)


def test_it_keeps_the_rules_of_methods():
    check_method(lambda: MatrixCNN(SMALL))


def test_it_learns_what_the_scale_of_the_weights_tells(fitted):
    test = fake_dataset(num_graphs=80, seed=3)
    assert KENDALL_TAU(fitted.predict(test.without_targets()), test.targets) > 0.5


def test_its_predictions_move_when_neurons_are_permuted(fitted):
    assert not MatrixCNN.info.invariant
    test = fake_dataset(num_graphs=80, seed=3)
    assert np.abs(fitted.predict(test) - fitted.predict(test.scrambled(salt="any"))).max() > 1e-3


def test_a_method_that_claims_to_be_invariant_fails():
    class Claims(MatrixCNN):
        info = replace(MatrixCNN.info, invariant=True)

    with pytest.raises(MethodError, match="predictions of method 'matrix-cnn' move by up to .* when hidden neurons are permuted"):
        check_method(lambda: Claims(SMALL))


def test_it_predicts_for_deeper_wider_and_other_families_than_training(fitted):
    unseen = fake_dataset((*ALL_FAMILIES, mlp_topology((70, 65, 9)), cnn_topology((3, 8, 7, 6), num_classes=9, kernel=(5, 4))))
    assert np.isfinite(fitted.predict(unseen)).all()


def test_the_images_of_a_network_are_its_parameters_in_the_order_of_depth():
    blocks = {topology: [picture.block for picture in pictures_of(topology)] for topology in ALL_FAMILIES}
    assert blocks[residual_topology()] == ["stem", "conv0", "norm", "conv1", "head"]
    assert blocks[attention_topology()] == ["patch", "position", "query", "key", "value", "output", "head"]
    assert [picture.size for picture in pictures_of(residual_topology())] == [(4, 1), (3, 4), (3, 1), (4, 3), (5, 4)]


def test_node_features_that_no_weights_enter_with_are_an_image_of_one_column():
    features = tuple(NodeFeature(name, ParameterView(f"norm.{name}")) for name in ("running_mean", "running_var"))
    chain = mlp_topology((3, 4, 5))
    groups = (*chain.groups, NodeGroup("norm", 5, "output", "none", 3, features))
    topology = Topology(groups, chain.blocks, (*chain.parameters, *((f.parameter.path, (5,)) for f in features)))
    assert pictures_of(topology)[-1].block is None
    assert pictures_of(topology)[-1].size == (5, 1)
    networks = fake_dataset([topology], num_graphs=3)
    before = module_on(networks)(in_float64(networks))
    changed = in_float64(networks).map(lambda values: values + torch.arange(values.shape[1]).ge(9) * 0.5)
    assert (module_on(networks)(changed) - before).abs().min() > 0


@pytest.mark.parametrize(
    "topology", [residual_topology(5, num_inner=3), cnn_topology((2, 7, 9), num_classes=5)], ids=["res", "cnn"]
)
def test_what_is_read_is_that_of_each_image_by_itself_without_padding(topology):
    """Independent reference: torch's convolutions on one unpadded image of one network at a time."""
    networks = fake_dataset([topology], num_graphs=3)
    module = module_on(networks)
    (bundle,) = module.normalization(in_float64(networks)).bundles
    pictures = pictures_of(topology)
    got = module._pooled([bundle]).unflatten(0, (len(bundle), len(pictures)))
    kernel = module.vocabulary.kernel
    for graph in range(len(bundle)):
        for place, picture in enumerate(pictures):
            rows, columns = picture.size
            block = topology.edge_block(picture.block)
            weights = bundle.block(picture.block)[graph]
            image = torch.zeros(rows, columns, *kernel, dtype=torch.float64)
            inner = tuple(slice((k - s) // 2, (k - s) // 2 + s) for k, s in zip(kernel, block.kernel or (1, 1), strict=True))
            image[(..., *inner)] = weights.view(rows, columns, *(block.kernel or (1, 1)))
            biases = [bundle.node_feature(picture.group, name)[graph] for name in module.vocabulary.features]
            channels = [*image.flatten(2).permute(2, 0, 1), *(bias[:, None].expand(rows, columns) for bias in biases)]
            image = torch.stack(channels)[None]
            first, second = module.convolutions
            image = functional.gelu(first(image))
            image = image + functional.gelu(second(image))
            pooled = torch.cat([image.mean((2, 3)), image.amax((2, 3))], 1)
            torch.testing.assert_close(got[graph, place], module.read_image(pooled)[0], rtol=1e-12, atol=1e-12)


@pytest.fixture
def padding(monkeypatch):
    """Pads all images to one size from here on."""

    def pad(*size):
        monkeypatch.setattr(matrix_cnn, "_padded", lambda _: size)
        matrix_cnn._gathered.clear()

    yield pad
    matrix_cnn._gathered.clear()


def test_more_padding_changes_nothing(padding):
    networks = fake_dataset(ALL_FAMILIES, num_graphs=13)
    module = module_on(networks)
    expected = module(in_float64(networks))
    padding(64, 32)
    assert {size for t in ALL_FAMILIES for size in gathered_images(t, module.vocabulary, torch.device("cpu"))} == {(64, 32)}
    torch.testing.assert_close(module(in_float64(networks)), expected, rtol=1e-12, atol=1e-12)


def test_without_masks_padding_would_change_predictions(monkeypatch):
    networks = fake_dataset(ALL_FAMILIES, num_graphs=13)
    module = module_on(networks)
    expected = module(in_float64(networks))
    convolved = module._convolved
    monkeypatch.setattr(module, "_convolved", lambda images, masks: convolved(images, torch.ones_like(masks)))
    assert (module(in_float64(networks)) - expected).abs().max() > 1e-4


def test_tables_of_few_structures_are_kept_and_the_oldest_go(monkeypatch):
    networks = fake_dataset(ALL_FAMILIES, num_graphs=13)
    module = module_on(networks)
    matrix_cnn._gathered.clear()
    expected = module(in_float64(networks))
    assert len(matrix_cnn._gathered) == len(networks.bundles)
    last = list(matrix_cnn._gathered)[-1]
    monkeypatch.setattr(matrix_cnn, "MOST_ENTRIES", 1)
    matrix_cnn._gathered.clear()
    torch.testing.assert_close(module(in_float64(networks)), expected, rtol=0, atol=0)
    assert list(matrix_cnn._gathered) == [last]


def test_networks_keep_their_place_in_a_batch_of_many_structures():
    networks = fake_dataset(ALL_FAMILIES, num_graphs=13)
    module = module_on(networks)
    alone = torch.cat([module(networks.batch(np.array([n])).to("cpu", torch.float64)) for n in range(len(networks))])
    torch.testing.assert_close(module(in_float64(networks)), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4; expected an odd number above 0"),
        ({"num_layers": 0}, "num_layers is 0; expected a number above 0"),
        ({"weight_noise": -0.5}, r"weight_noise is -0\.5; expected a number from 0 upward"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        MatrixCNN.Config(**option)


def test_activations_are_read_and_unknown_ones_are_not(fitted):
    test = fake_dataset(num_graphs=37, seed=3)
    (bundle,) = test.bundles
    other = replace(bundle, variant=1 - bundle.variant)
    assert np.abs(fitted.predict(replace(test, bundles=(other,))) - fitted.predict(test)).min() > 0
    gelu, silu = (cnn_topology((1, 6, 4), num_classes=5, kernel=(3, 2), activation=name) for name in ("gelu", "silu"))
    assert ONE_STRUCTURE[0].structure == gelu.structure
    unknown = [replace(test, bundles=(replace(bundle, variants=(topology, topology)),)) for topology in (gelu, silu)]
    np.testing.assert_array_equal(*(fitted.predict(networks) for networks in unknown))


def test_parameters_are_counted(fitted):
    # 3 × 2 numbers of a kernel and a bias enter; two operations; relu, tanh and none
    convolutions = (6 + 1) * 6 * 9 + 6 + 6 * 6 * 9 + 6
    tables, depth = (2 + 3) * 16, 4 * 16
    read = 13 * 16 + 17 * 16
    head = 49 * 16 + 17
    assert fitted.num_parameters == convolutions + tables + depth + read + head
