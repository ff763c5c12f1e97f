"""Architectures that people train, tiny and with random weights, each with the symmetry group that theory gives it.

Multi-head attention with h heads of d units: query and key units move together within a head, value units by themselves,
and heads as wholes, ``(S_d × S_d) ≀ S_h``. A residual stream is one ``S_n`` whatever its depth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ngbench.graph import trace

NUM_GRAPHS = 2
NUM_TOKENS, NUM_WORDS = 7, 29
SEED = 5


@dataclass
class Architecture:
    """A module with random parameters, inputs for it, and its group.

    Args:
        module: In float32, as people have it.
        inputs: Tensors for `forward`, in order.
        group: The symmetry group as it prints.
        kwargs: Tensors for `forward`, by name.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    group: str
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def graph(self):
        """The module's graph, traced once."""
        return self.trace()

    def trace(self):
        """The module's graph, traced again."""
        return trace(self.module, self.inputs, self.kwargs)

    @cached_property
    def precise(self):
        """A copy of the module in float64."""
        module = copy.deepcopy(self.module).double()
        for child in module.modules():
            if hasattr(child, "config"):
                # Its fast kernel for experts knows no float64.
                child.config._experts_implementation = "eager"
        return module

    @cached_property
    def state_dict(self):
        """The parameters in float64."""
        return {path: entry.clone() for path, entry in self.precise.state_dict().items()}

    @cached_property
    def before(self):
        """The outputs that a symmetry keeps."""
        return self.outputs(self.state_dict)

    def outputs(self, state_dict):
        """Outputs with some parameters, computed in float64 and flattened to one row."""
        self.precise.load_state_dict(state_dict)
        inputs = [tensor.double() if tensor.is_floating_point() else tensor for tensor in self.inputs]
        # transformers computes norms and softmax in float32 whatever the parameters' type.
        with (
            torch.no_grad(),
            mock.patch.object(torch, "float32", torch.float64),
            mock.patch.object(torch, "float", torch.float64),
            mock.patch.object(Tensor, "float", Tensor.double),
        ):
            outputs = self.precise(*inputs, **self.kwargs)
        return torch.cat([output.flatten() for output in (outputs if isinstance(outputs, tuple) else (outputs,))])

    def change(self, element):
        """By how much an element of some group changes the outputs, relative to the largest; None if it moves no parameter."""
        moved = element.act_state_dict(self.state_dict)
        if all(torch.equal(moved[path], entry) for path, entry in self.state_dict.items()):
            return None
        return float((self.outputs(moved) - self.before).abs().max() / self.before.abs().max())


def make_architecture(module, *inputs, group, kwargs=None):
    """Parameters and running statistics redrawn, large enough that every unit matters to the outputs."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(noise * 0.3)
        for path, buffer in module.named_buffers():
            if path.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            if path.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return Architecture(module.eval(), tuple(inputs), group, kwargs or {})


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))


def words(num=NUM_TOKENS):
    return torch.randint(0, NUM_WORDS, (NUM_GRAPHS, num), generator=torch.Generator().manual_seed(SEED))


class PreactivationBlock(nn.Module):
    """Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, figure 1."""

    def __init__(self, num_sources, num_targets, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(num_sources), nn.Conv2d(num_sources, num_targets, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(num_targets), nn.Conv2d(num_targets, num_targets, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(num_sources, num_targets, 1, stride, bias=False) if num_sources != num_targets else None

    def forward(self, x):
        active = torch.relu(self.norm1(x))
        around = x if self.shortcut is None else self.shortcut(active)
        return around + self.conv2(torch.relu(self.norm2(self.conv1(active))))


def wide_resnet():
    blocks = PreactivationBlock(4, 6, 1), PreactivationBlock(6, 6, 1), PreactivationBlock(6, 8, 2)
    head = nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *blocks, *head)
    # The stem, then for each block its inner units, and one stream for each width.
    return make_architecture(module, draw(NUM_GRAPHS, 3, 9, 9), group="S_4 × S_6 × S_6 × S_6 × S_8 × S_8")


class DenseBlock(nn.Module):
    """Huang et al., Densely Connected Convolutional Networks, CVPR 2017, equation 2."""

    def __init__(self, num_sources, growth, num_layers):
        super().__init__()
        widths = [num_sources + number * growth for number in range(num_layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1)) for width in widths
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def dense_block():
    transition = nn.BatchNorm2d(13), nn.ReLU(), nn.Conv2d(13, 5, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 9, 2)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), DenseBlock(4, 3, 3), *transition)
    return make_architecture(module, draw(NUM_GRAPHS, 2, 6, 6), group="S_4 × S_3 × S_3 × S_3 × S_5")


class UNet(nn.Module):
    """Ronneberger et al., MICCAI 2015: one resolution down and up again, the fine channels joined to the coarse ones."""

    def __init__(self):
        super().__init__()
        self.down, self.bottom = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.join, self.head = nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(9, 7, 3, padding=1), nn.Conv2d(7, 3, 1)

    def forward(self, x):
        fine = torch.relu(self.down(x))
        coarse = torch.relu(self.bottom(F.max_pool2d(fine, 2)))
        return self.head(torch.relu(self.join(torch.cat([self.up(coarse), fine], 1))))


def unet():
    return make_architecture(UNet(), draw(NUM_GRAPHS, 2, 8, 6), group="S_4 × S_6 × S_5 × S_7")


class LSTMClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(NUM_WORDS, 5)
        self.lstm, self.head = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(14, 3)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0].mean(1))


def lstm_classifier():
    # The four gates of a layer and direction move with its state.
    return make_architecture(LSTMClassifier(), words(), group="S_5 × S_7 × S_7 × S_7 × S_7")


class Siren(nn.Module):
    """Sitzmann et al., NeurIPS 2020, with their frequency 30."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.c(torch.sin(30 * self.b(torch.sin(30 * self.a(x)))))


def siren():
    return make_architecture(Siren(), draw(11, 2), group="S_7 × S_5")


class MixerBlock(nn.Module):
    """Tolstikhin et al., MLP-Mixer, NeurIPS 2021: one MLP across tokens, one across channels."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(10), nn.LayerNorm(10)
        self.tokens = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.channels = nn.Sequential(nn.Linear(10, 13), nn.GELU(), nn.Linear(13, 10))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 10, 2, stride=2), MixerBlock()
        self.norm, self.head = nn.LayerNorm(10), nn.Linear(10, 5)

    def forward(self, x):
        return self.head(self.norm(self.block(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def mlp_mixer():
    # Patches are positions of the image, which stay.
    return make_architecture(Mixer(), draw(NUM_GRAPHS, 3, 4, 6), group="S_10 × S_8 × S_13")


class HandWrittenAttention(nn.Module):
    """One fused layer for queries, keys and values; a class token and learned positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.out, self.head = nn.Linear(5, 12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 2)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 12)), nn.Parameter(torch.zeros(1, NUM_TOKENS + 1, 12))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.positions
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.head((x + self.out((scores @ value).transpose(1, 2).flatten(2)))[:, 0])


def hand_written_attention():
    return make_architecture(HandWrittenAttention(), draw(NUM_GRAPHS, NUM_TOKENS, 5), group="S_12 × ((S_4 × S_4) ≀ S_3)")


class Siamese(nn.Module):
    """One tower on both inputs, and a second name for its first layer."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
        self.head, self.also = nn.Linear(6, 2), self.tower[0]

    def forward(self, x, y):
        return self.head((self.tower(x) - self.tower[2](torch.relu(self.also(y)))).abs())


def siamese():
    return make_architecture(Siamese(), draw(3, 5), draw(3, 5).flip(0) + 1, group="S_8 × S_6")


class Inverted(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018) in an inverted bottleneck, then grouped convolution and group norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 6, 3), nn.Sequential(nn.Conv2d(6, 10, 1), nn.BatchNorm2d(10), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.BatchNorm2d(10), nn.SiLU())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(10, 4, 1), nn.SiLU(), nn.Conv2d(4, 10, 1), nn.Sigmoid())
        self.project = nn.Conv2d(10, 6, 1)
        self.grouped, self.norm = nn.Conv2d(6, 15, (3, 1), groups=3, dilation=(1, 2)), nn.GroupNorm(3, 15)
        self.head = nn.Linear(15, 5)

    def forward(self, x):
        x = self.stem(x)
        wide = self.depthwise(self.expand(x))
        x = x + self.project(wide * self.squeeze(wide))
        return self.head(torch.relu(self.norm(self.grouped(x))).amax((2, 3)))


def inverted_bottleneck():
    # The stream's 6 channels are read by a convolution in 3 groups: pairs, of which 3 move as wholes with their 5 targets.
    return make_architecture(Inverted(), draw(NUM_GRAPHS, 3, 7, 7), group="((S_2 × S_5) ≀ S_3) × S_10 × S_4")


class LanguageModel(nn.Module):
    """torch's own encoder layer under a causal mask, and the word embedding again as the last layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = (
            nn.Embedding(NUM_WORDS, 12),
            nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True),
        )
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, NUM_WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        mask = torch.full((x.shape[1],) * 2, float("-inf")).triu(1).to(self.norm.weight.dtype)
        return self.head(self.norm(self.layer(self.embed(x), mask)))


def language_model():
    return make_architecture(LanguageModel(), words(), group="S_12 × ((S_4 × S_4) ≀ S_3) × S_20")


class Experts(nn.Module):
    """A soft mixture of experts, each a module of its own."""

    def __init__(self):
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6)) for width in (7, 8, 9))

    def forward(self, x):
        x = self.embed(x)
        weights = self.router(x).softmax(-1)
        return self.head(x + sum(weights[:, number, None] * expert(x) for number, expert in enumerate(self.experts)))


def experts_of_several_widths():
    return make_architecture(Experts(), draw(4, 5), group="S_6 × S_7 × S_8 × S_9")


class Logits(nn.Module):
    """A model of the transformers library that gives back its logits alone, without caches and hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs, **kwargs):
        return self.model(*inputs, **kwargs).logits


TRANSFORMER = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}


def resnet18():
    from transformers import ResNetConfig, ResNetForImageClassification

    widths = [6, 8, 10, 12]
    config = ResNetConfig(embedding_size=6, hidden_sizes=widths, depths=[2, 2, 2, 2], layer_type="basic", num_labels=5)
    # In each stage the inner units of two blocks, and the stream; the first stage's stream is the stem's.
    group = "S_6 × S_6 × S_6 × S_8 × S_8 × S_8 × S_10 × S_10 × S_10 × S_12 × S_12 × S_12"
    return make_architecture(Logits(ResNetForImageClassification(config)), draw(NUM_GRAPHS, 3, 32, 32), group=group)


def convnext():
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[6, 8], depths=[1, 2], num_stages=2, num_labels=5)
    group = "S_6 × S_24 × S_8 × S_32 × S_32"
    return make_architecture(Logits(ConvNextForImageClassification(config)), draw(NUM_GRAPHS, 3, 32, 32), group=group)


def mobilenet_v2():
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(
        depth_multiplier=0.1, depth_divisible_by=2, min_depth=2, expand_ratio=3, finegrained_output=False, num_labels=5
    )
    # For each width of the stream how many blocks read it: each has inner units of its own, three times as many, and the last
    # one gives the next width. The first block of width 2 has a stride, and so no way around it.
    stages = ((2, 1), (2, 2), (4, 3), (6, 4), (10, 3), (16, 3))
    inner = [" × ".join([f"S_{width}", *[f"S_{3 * width}"] * num_blocks]) for width, num_blocks in stages]
    group = " × ".join(["S_4", *inner, "S_32", "S_128"])
    return make_architecture(Logits(MobileNetV2ForImageClassification(config)), draw(NUM_GRAPHS, 3, 32, 32), group=group)


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**TRANSFORMER, image_size=8, patch_size=4, num_labels=5)
    layer = "((S_4 × S_4) ≀ S_3) × S_20"
    return make_architecture(
        Logits(ViTForImageClassification(config)), draw(NUM_GRAPHS, 3, 8, 8), group=f"S_12 × {layer} × {layer}"
    )


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**TRANSFORMER, vocab_size=NUM_WORDS, max_position_embeddings=16, num_labels=5)
    layer = "((S_4 × S_4) ≀ S_3) × S_20"
    # The last one is the pooler.
    return make_architecture(Logits(BertForSequenceClassification(config)), words(), group=f"S_12 × {layer} × {layer} × S_12")


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=NUM_WORDS, n_embd=12, n_layer=2, n_head=3, n_inner=20, n_positions=16, use_cache=False)
    layer = "((S_4 × S_4) ≀ S_3) × S_20"
    return make_architecture(Logits(GPT2LMHeadModel(config)), words(), group=f"S_12 × {layer} × {layer}")


LLAMA = {
    "vocab_size": NUM_WORDS, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 16, "use_cache": False,
}  # fmt: skip


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    # Two query heads read each key-value head and may change places. Rotary embeddings turn the pair of query-key units i and
    # i + 2 by a frequency of its own: neither another pair nor the pair's other order turns alike, so none of them moves.
    return make_architecture(Logits(LlamaForCausalLM(LlamaConfig(**LLAMA))), words(), group="S_24 × ((S_2 × S_4) ≀ S_3) × S_20")


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(**LLAMA, num_local_experts=5, num_experts_per_tok=2)
    return make_architecture(Logits(MixtralForCausalLM(config)), words(), group="S_24 × ((S_2 × S_4) ≀ S_3) × (S_20 ≀ S_5)")


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
    config = T5Config(vocab_size=NUM_WORDS, **sizes, use_cache=False, decoder_start_token_id=0)
    # Encoder and decoder share the word embedding, hence one stream. The first layer's table of relative positions, with a
    # column for each head, is added in every layer, so that the heads of both layers move together; not so across to the encoder.
    self_attention, cross_attention = "((S_4 × S_4 × S_4 × S_4) ≀ S_3)", "((S_4 × S_4) ≀ S_3)"
    encoder = f"{self_attention} × S_20 × S_20"
    decoder = f"{self_attention} × {cross_attention} × S_20 × {cross_attention} × S_20"
    kwargs = {"input_ids": words(), "decoder_input_ids": words(5)}
    return make_architecture(Logits(T5ForConditionalGeneration(config)), group=f"S_12 × {encoder} × {decoder}", kwargs=kwargs)


ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    function.__name__: function
    for function in (
        wide_resnet, dense_block, unet, lstm_classifier, siren, mlp_mixer, hand_written_attention, siamese, inverted_bottleneck,
        language_model, experts_of_several_widths, resnet18, convnext, mobilenet_v2, vit, bert, gpt2, llama, mixtral, t5,
    )
}  # fmt: skip


@pytest.fixture(params=ARCHITECTURES, scope="session")
def architecture(request):
    """Shared by all tests, so not to be written to."""
    return ARCHITECTURES[request.param]()
