"""Attention against values worked out by hand and against diffusers' layers on the same weights."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from compare import assert_equal, random
from compare import randomized as at_random
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from minildm.attention import (
    Attention,
    FeedForward,
    SpatialAttention,
    SpatialTransformer,
    TransformerBlock,
    attention_maps,
    mean_map,
)
from minildm.layers import Cond

IN_ATTENTION = {"to_out": "to_out.0"}
IN_BLOCK = {
    "self_attention.to_out": "attn1.to_out.0",
    "self_attention": "attn1",
    "cross_attention.to_out": "attn2.to_out.0",
    "cross_attention": "attn2",
    "feed_forward.fc1": "ff.net.0.proj",
    "feed_forward.fc2": "ff.net.2",
}


randomized = partial(at_random, matrices=1.5, vectors=0.5)  # large enough that attention has its preferences


def copy_weights(ours, theirs, names):
    """Fill `theirs` with our weights; `names` says which of our prefixes are called what there."""
    state = {}
    for name, tensor in ours.state_dict().items():
        prefix = next((p for p in names if name.startswith(p + ".")), None)
        state[names[prefix] + name.removeprefix(prefix) if prefix else name] = tensor
    theirs.load_state_dict(state)  # strict: every tensor is used and none is missing
    return theirs.eval()


def test_attention_by_hand():
    """Scores log 3 and 0 are weights 3/4 and 1/4."""
    layer = Attention(1, heads=1)
    with torch.no_grad():
        layer.to_q.weight.fill_(1.0)
        layer.to_k.weight.fill_(math.log(3))
        layer.to_v.weight.fill_(8.0)
        layer.to_out.weight.fill_(2.0)
        layer.to_out.bias.fill_(5.0)
        x = torch.tensor([[[1.0], [0.0]]])
        expected = torch.tensor([[[2 * 8 * 3 / 4 + 5], [2 * 8 * 1 / 2 + 5]]])  # the second place sees both alike
        torch.testing.assert_close(layer(x), expected)
        with attention_maps(layer) as maps:
            torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(maps[""][0], torch.tensor([[[[0.75, 0.25], [0.5, 0.5]]]]))


def test_the_gate_by_hand():
    layer = FeedForward(1, expansion=1)
    with torch.no_grad():
        layer.fc1.weight.copy_(torch.tensor([[3.0], [1.0]]))
        layer.fc1.bias.zero_()
        layer.fc2.weight.fill_(1.0)
        layer.fc2.bias.zero_()
        x = torch.tensor([[[2.0]]])
        torch.testing.assert_close(layer(x).item(), 3 * 2 * 2 * 0.5 * (1 + math.erf(2 / math.sqrt(2))))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("context_dim", [None, 10])
def test_attention_equals_the_reference(context_dim, bias):
    ours = randomized(Attention(12, context_dim, heads=3, bias=bias))
    theirs = TheirAttention(12, context_dim, heads=3, dim_head=4, bias=bias)
    copy_weights(ours, theirs, IN_ATTENTION)
    x, context = random(2, 7, 12), None if context_dim is None else random(2, 5, 10, seed=2)
    with torch.no_grad():
        assert_equal(ours(x, context), theirs(x, context))


def test_masked_attention_equals_the_reference():
    ours = randomized(Attention(12, 10, heads=3))
    theirs = copy_weights(ours, TheirAttention(12, 10, heads=3, dim_head=4), IN_ATTENTION)
    x, context = random(2, 7, 12), random(2, 5, 10, seed=2)
    mask = torch.tensor([[True, True, False, True, False], [False, False, True, True, True]])
    bias = torch.where(mask, 0.0, -10_000.0)[:, None]  # (b, 1, m), as their networks hand it on
    with torch.no_grad():
        assert_equal(ours(x, context, mask), theirs(x, context, attention_mask=bias))


def test_transformer_block_equals_the_reference():
    ours = randomized(TransformerBlock(12, 10, heads=3))
    theirs = copy_weights(ours, BasicTransformerBlock(12, 3, 4, cross_attention_dim=10), IN_BLOCK)
    x, context = random(2, 7, 12), random(2, 5, 10, seed=2)
    with torch.no_grad():
        assert_equal(ours(x, context), theirs(x, encoder_hidden_states=context))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("projection", ["conv", "linear"])
def test_spatial_transformer_equals_the_reference(projection, depth):
    ours = randomized(SpatialTransformer(12, 10, heads=3, depth=depth, projection=projection, groups=6))
    theirs = Transformer2DModel(
        num_attention_heads=3,
        attention_head_dim=4,
        in_channels=12,
        num_layers=depth,
        norm_num_groups=6,
        cross_attention_dim=10,
        use_linear_projection=projection == "linear",
    )
    names = {"project_in": "proj_in", "project_out": "proj_out"}
    names |= {
        f"blocks.{i}.{ours}": f"transformer_blocks.{i}.{theirs}"
        for i in range(depth)
        for ours, theirs in (IN_BLOCK | {f"norm{n}": f"norm{n}" for n in (1, 2, 3)}).items()
    }
    copy_weights(ours, theirs, names)
    x, context = 1e-3 * random(2, 12, 3, 5), random(2, 4, 10, seed=2)  # dim, so that eps shows
    with torch.no_grad():
        assert_equal(ours(x, Cond(context=context)), theirs(x, encoder_hidden_states=context, return_dict=False)[0])


@pytest.mark.parametrize("heads", [1, 3])
def test_spatial_attention_equals_the_reference(heads):
    ours = randomized(SpatialAttention(12, heads, groups=6, eps=1e-5))
    theirs = TheirAttention(
        12,
        heads=heads,
        dim_head=12 // heads,
        norm_num_groups=6,
        eps=1e-5,
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    )
    names = {"norm": "group_norm", "attention.to_out": "to_out.0"} | {f"attention.to_{c}": f"to_{c}" for c in "qkv"}
    copy_weights(ours, theirs, names)
    x = 1e-2 * random(2, 12, 3, 5)
    with torch.no_grad():
        assert_equal(ours(x), theirs(x))


def test_a_mask_is_the_same_as_leaving_words_out():
    layer = randomized(Attention(12, 10, heads=3))
    x, context = random(2, 7, 12), random(2, 5, 10, seed=2)
    mask = torch.tensor([[True, False, True, True, False]] * 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, context, mask), layer(x, context[:, [0, 2, 3]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spelled_out", [False, True])
def test_seeing_nothing_gives_nothing_and_no_nan(spelled_out):
    layer = randomized(Attention(12, 10, heads=3))
    x, context = random(2, 7, 12).requires_grad_(), random(2, 5, 10, seed=2).requires_grad_()
    mask = torch.tensor([[False] * 5, [True, True, False, True, True]])
    if spelled_out:
        with attention_maps(layer) as maps:
            out = layer(x, context, mask)
        assert (maps[""][0][0] == 0).all()
        torch.testing.assert_close(maps[""][0][1].sum(-1), torch.ones(3, 7))
    else:
        out = layer(x, context, mask)
    torch.testing.assert_close(out[0], layer.to_out.bias.expand(7, 12))
    torch.testing.assert_close(out[1], layer(x[1:], context[1:, mask[1]])[0], atol=1e-5, rtol=0)
    out.square().sum().backward()
    assert (context.grad[0] == 0).all() and context.grad[1, mask[1]].abs().min() > 0
    for tensor in (x.grad, context.grad, *(p.grad for p in layer.parameters())):
        assert tensor.isfinite().all()


def test_a_mask_for_each_place():
    """Causal attention: what comes later changes nothing before it."""
    layer = randomized(Attention(12, heads=3))
    x = random(2, 7, 12)
    later = x.clone()
    later[:, 4:] += 1
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 7, 7)
    with torch.no_grad():
        before, after = layer(x, mask=mask), layer(later, mask=mask)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amin(dim=(0, 2)).min() > 1e-4


@pytest.mark.parametrize(
    "module", [TransformerBlock(12, 10, heads=3), SpatialTransformer(12, 10, heads=3), SpatialAttention(12, 3)]
)
def test_every_parameter_learns(module):
    x, context = random(2, 12, 3, 5), random(2, 4, 10, seed=2)
    randomized(module)
    out = module(x.flatten(2).mT, context) if isinstance(module, TransformerBlock) else module(x, Cond(context=context))
    out.square().mean().backward()
    unbiased = {name for name, _ in module.named_parameters() if not name.endswith("to_k.bias")}
    for name, parameter in module.named_parameters():  # a bias of the keys shifts all scores alike: it has no effect
        assert parameter.grad is not None and (name not in unbiased or parameter.grad.abs().max() > 1e-7), name


class Two(nn.Module):
    """Two blocks, as in a network."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = TransformerBlock(12, 10, heads=3), TransformerBlock(12, 10, heads=2)

    def forward(self, x, context, mask=None):
        return self.coarse(self.fine(x, context, mask)[:, ::2], context, mask)


def test_maps_are_handed_out_and_change_nothing(monkeypatch):
    model = randomized(Two()).eval()
    x, context = random(2, 8, 12), random(2, 5, 10, seed=2)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    fused = []

    def spy(*args, attend=F.scaled_dot_product_attention, **kwargs):
        fused.append(args[0].shape)
        return attend(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        expected = model(x, context, mask)
        assert len(fused) == 4
        with attention_maps(model) as maps:
            assert (model(x, context, mask) - expected).abs().max() <= 1e-5
            model(x, context, mask)
        assert len(fused) == 4  # inside, none is fused
        model(x, context, mask)
        assert len(fused) == 8
    assert list(maps) == [f"{b}.{k}_attention" for b in ("fine", "coarse") for k in ("self", "cross")]
    shapes = {name: [tuple(m.shape) for m in calls] for name, calls in maps.items()}
    assert shapes["fine.self_attention"] == [(2, 3, 8, 8)] * 2  # two calls, and none after
    assert shapes["fine.cross_attention"] == [(2, 3, 8, 5)] * 2
    assert shapes["coarse.cross_attention"] == [(2, 2, 4, 5)] * 2
    for calls in maps.values():
        torch.testing.assert_close(calls[0].sum(-1), torch.ones(calls[0].shape[:3]))
        assert torch.equal(calls[0], calls[1])
    assert (maps["fine.cross_attention"][0][1, :, :, 2:] == 0).all()


def test_maps_are_the_softmax_of_the_scores():
    layer = randomized(Attention(6, 4, heads=2))
    x, context = random(1, 3, 6), random(1, 5, 4, seed=2)
    with torch.no_grad(), attention_maps(layer) as maps:
        layer(x, context)
        q, k = layer.to_q(x)[0, :, 3:], layer.to_k(context)[0, :, 3:]  # the second head
    torch.testing.assert_close(maps[""][0][0, 1], torch.softmax(q @ k.T / math.sqrt(3), -1))


def test_maps_of_some_layers_only_also_nested_and_after_an_error():
    model = randomized(Two())
    x, context = random(2, 8, 12), random(2, 5, 10, seed=2)
    with attention_maps(model, "cross") as outer:
        with pytest.raises(RuntimeError, match="on purpose"), attention_maps(model, "fine.cross") as inner:
            model(x, context)
            raise RuntimeError("on purpose")
        model(x, context)
    model(x, context)
    assert list(outer) == ["fine.cross_attention", "coarse.cross_attention"]
    assert [len(calls) for calls in outer.values()] == [1, 2]  # the inner one listened instead, for a while
    assert {name: len(calls) for name, calls in inner.items()} == {"fine.cross_attention": 1}
    assert all(layer.maps is None for layer in model.modules() if isinstance(layer, Attention))
    assert not any(m.requires_grad for calls in outer.values() for m in calls)


def test_training_goes_on_while_maps_are_written_down():
    model, x, context = randomized(Two()), random(2, 8, 12), random(2, 5, 10, seed=2)
    gradients = []
    for listen in (False, True):
        model.zero_grad()
        if listen:
            with attention_maps(model):
                model(x, context).square().mean().backward()
        else:
            model(x, context).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_mean_map_by_hand():
    """Two layers, 2×4 and 1×2 places, two words: average over heads, then layers, at the size of the picture."""
    fine = torch.zeros(1, 2, 8, 2)
    fine[0, 0, 5, 1] = 1.0  # one head of two looks from place (1, 1) at the second word
    coarse = torch.zeros(1, 1, 2, 2)
    coarse[0, 0, :, 0] = 0.5  # everywhere
    found = mean_map({"fine": [fine], "coarse": [coarse]}, (2, 4))
    expected = torch.zeros(1, 2, 2, 4)
    expected[0, 0] = 0.5 / 2
    expected[0, 1, 1, 1] = 0.5 / 2
    torch.testing.assert_close(found, expected)
    assert mean_map({"fine": [fine], "coarse": [coarse]}, (6, 12)).shape == (1, 2, 6, 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(10, heads=4), "10 channels do not split into 4 heads"),
        (lambda: Attention(10, heads=0), "into 0 heads"),
        (lambda: SpatialTransformer(8, 6, 2, projection="mlp"), "got 'mlp'"),
        (lambda: SpatialTransformer(8, 6, 2)(torch.zeros(1, 8, 2, 2), Cond()), r"cond\.context .* got None"),
        (lambda: attention_maps(Two(), "middle").__enter__(), "'middle' in its name; there are: fine.self_attention"),
        (lambda: attention_maps(nn.Linear(1, 1)).__enter__(), "there are: none"),
        (lambda: mean_map({"a": []}, (2, 2)), "got none"),
        (lambda: mean_map({"a": [torch.ones(1, 1, 4, 3)], "b": [torch.ones(1, 1, 4, 4)]}, (2, 2)), "share b and m"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
