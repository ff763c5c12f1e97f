import pytest
import torch
from torch import nn

from ngbench.errors import UnknownNameError
from ngbench.graph import restore, symmetry, trace
from ngbench.zoo.architectures import ACTIVATIONS, Cnn, Mlp, Resnet, Siren, Transformer, build, example_input, num_parameters
from ngbench.zoo.modules import ResidualBlock, TransformerBlock

IMAGE = (2, 8, 12)
ARCHITECTURES = {
    "mlp": Mlp(family="mlp", input_shape=IMAGE, width=7, depth=2, norm="none", num_classes=5),
    "mlp with batch norm": Mlp(family="mlp", input_shape=IMAGE, width=7, depth=3, norm="batch", num_classes=5),
    "mlp with layer norm": Mlp(family="mlp", input_shape=IMAGE, width=7, depth=2, norm="layer", num_classes=5),
    "cnn": Cnn(family="cnn", input_shape=IMAGE, channels=(3, 4), kernel_size=3, strides=(2, 1), paddings=(0, 1), num_classes=5),
    "cnn with batch norm": Cnn(
        family="cnn",
        input_shape=IMAGE,
        channels=(3, 4),
        kernel_size=2,
        strides=(2, 1),
        paddings=(0, 1),
        num_classes=5,
        norm="batch",
    ),
    "resnet": Resnet(family="resnet", input_shape=IMAGE, width=3, depth=3, kernel_size=5, num_classes=5),
    "transformer of means": Transformer(
        family="transformer", input_shape=IMAGE, width=6, depth=2, num_heads=3, patch_size=4, pooling="mean", num_classes=5
    ),
    "transformer with a class token": Transformer(
        family="transformer", input_shape=IMAGE, width=8, depth=1, num_heads=2, patch_size=2, pooling="token", num_classes=5
    ),
}


def filled(module, seed=0):
    """The module in float64 with every number of its state drawn at random, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for path, values in module.double().state_dict().items():
        if values.is_floating_point():
            drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype)
            values.copy_(drawn.square() + 0.1 if path.endswith("running_var") else drawn)
    return module.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_family_maps_images_to_class_scores(name):
    module = build(ARCHITECTURES[name], "relu", dropout=0.3)
    assert example_input(ARCHITECTURES[name]).shape == (1, *IMAGE)
    assert module(torch.rand(4, *IMAGE)).shape == (4, 5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_family_is_a_graph_whose_permuted_twin_computes_the_same(name, activation):
    module = filled(build(ARCHITECTURES[name], activation))
    images = torch.rand(3, *IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    graph = trace(module, images[:1])
    state_dict = module.state_dict()
    assert restore(graph).keys() == state_dict.keys()
    assert all(torch.equal(values, state_dict[path]) for path, values in restore(graph).items())
    twin = build(ARCHITECTURES[name], activation).double().eval()
    twin.load_state_dict(restore(symmetry.group(graph.topology).sample(2).act(graph)))
    assert not all(torch.equal(values, state_dict[path]) for path, values in twin.state_dict().items())
    torch.testing.assert_close(twin(images), module(images), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_family_uses_the_activation_everywhere(name):
    module = build(ARCHITECTURES[name], "silu")
    kinds = {type(layer) for layer in module.modules()}
    assert kinds & {getattr(nn, name) for name in ACTIVATIONS.values()} == {nn.SiLU}


def test_a_residual_block_is_that_of_the_paper():
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(3)).double()
    for halves in (True, False):
        block = filled(ResidualBlock(3, 3, "relu", halves=halves))
        hidden = block.norm1(nn.functional.conv2d(images, block.conv1.weight, stride=2 if halves else 1, padding=1)).clamp(min=0)
        hidden = block.norm2(nn.functional.conv2d(hidden, block.conv2.weight, padding=1))
        shortcut = images
        if halves:
            shortcut = block.shortcut_norm(
                torch.einsum("ts,nshw->nthw", block.shortcut.weight[:, :, 0, 0], images[:, :, ::2, ::2])
            )
        torch.testing.assert_close(block(images), (hidden + shortcut).clamp(min=0))


def test_a_transformer_block_is_torch_s_encoder_layer_with_norms_first():
    block = filled(TransformerBlock(6, 3, "gelu"))
    layer = nn.TransformerEncoderLayer(6, 3, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).double()
    names = {
        "query_key_value.weight": "self_attn.in_proj_weight",
        "query_key_value.bias": "self_attn.in_proj_bias",
        "output": "self_attn.out_proj",
        "expand": "linear1",
        "contract": "linear2",
    }
    state_dict = {}
    for path, values in block.state_dict().items():
        stem = path.rpartition(".")[0]
        state_dict[names.get(path, path.replace(stem, names.get(stem, stem)))] = values
    layer.load_state_dict(state_dict)
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3)).double()
    torch.testing.assert_close(block(tokens), layer.train()(tokens))


def test_the_class_token_comes_first_and_is_all_that_the_head_reads():
    module = filled(build(ARCHITECTURES["transformer with a class token"], "gelu"))
    image = torch.rand(1, *IMAGE).double()
    tokens = module.patches(image)
    assert tokens.shape == (1, 1 + 4 * 6, 8)
    torch.testing.assert_close(tokens[0, 0], module.patches.token[0, 0] + module.patches.positions[0, 0])
    torch.testing.assert_close(module.pool(tokens), tokens[:, 0])


def test_patches_are_numbered_row_by_row():
    module = filled(build(ARCHITECTURES["transformer of means"], "gelu"))
    image = torch.rand(1, *IMAGE).double()
    patch = image[0, :, 4:8, 8:12]
    expected = torch.einsum("tchw,chw->t", module.patches.conv.weight, patch) + module.patches.conv.bias
    torch.testing.assert_close(module.patches(image)[0, 5], expected + module.patches.positions[0, 5])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 192 * 7 + 7 + 7 * 7 + 7 + 7 * 5 + 5),
        ("cnn with batch norm", 3 * 2 * 4 + 2 * 3 + 4 * 3 * 4 + 2 * 4 + 4 * 5 + 5),
        ("resnet", 3 * 2 * 25 + 6 * 9 * 25 + 9 + 8 * 2 * 3 + 3 * 5 + 5),
        (
            "transformer with a class token",
            (8 * 2 * 4 + 8 + 8 + 25 * 8) + (16 + 3 * 64 + 24 + 64 + 8 + 16 + 128 + 16 + 128 + 8) + 16 + 8 * 5 + 5,
        ),
    ],
)
def test_parameters_are_counted_without_running_statistics(name, count):
    assert num_parameters(ARCHITECTURES[name]) == count


def test_a_siren_is_sines_of_linear_layers_and_a_linear_head():
    architecture = Siren(family="siren", width=6, depth=2, omega=20, num_channels=3)
    module, points = build(architecture, "sine"), torch.rand(5, 2)
    a, b, head = (layer for layer in module if isinstance(layer, torch.nn.Linear))
    hidden = torch.sin(20 * (points @ a.weight.T + a.bias))
    hidden = torch.sin(20 * (hidden @ b.weight.T + b.bias))
    torch.testing.assert_close(module(points), hidden @ head.weight.T + head.bias)
    hidden_groups = [group for group in trace(module, example_input(architecture)).topology.groups if group.role == "hidden"]
    assert [(group.size, group.activation) for group in hidden_groups] == [(6, "sine(20)"), (6, "sine(20)")]


def test_a_siren_has_no_other_activation():
    with pytest.raises(UnknownNameError, match="unknown activation 'relu'"):
        build(Siren(family="siren", width=6, depth=2, omega=20, num_channels=3), "relu")
