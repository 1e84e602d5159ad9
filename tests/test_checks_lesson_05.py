import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minildm import checks
from minildm.attention import Attention, attention_maps


def good_norm(x, groups, eps):
    return F.group_norm(x, groups, eps=eps)


def heads_of(z, heads):
    return z.unflatten(-1, (heads, -1)).transpose(1, 2)


def good_attention(q, k, v, heads):
    out = F.scaled_dot_product_attention(*(heads_of(z, heads) for z in (q, k, v)))
    return out.transpose(1, 2).flatten(2)


def good_flops(n, dim):
    return 8 * n * dim**2 + 4 * n**2 * dim


RIGHT = [
    (checks.group_norm, good_norm),
    (checks.attention, good_attention),
    (checks.attention_flops, good_flops),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
def test_a_stub_is_left_alone(check, capsys):
    def stub(*arguments):
        raise NotImplementedError

    check(stub)
    assert capsys.readouterr().out == f"– {check.__name__}: not written yet\n"


def test_the_flops_are_those_that_pytorch_counts():
    n, dim = 6, 20
    layer = Attention(dim, heads=5)
    with attention_maps(layer), FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, n, dim))
    assert counter.get_total_flops() == good_flops(n, dim)


def moments(x, axes, correction=0):
    return x.mean(axes, keepdim=True), x.var(axes, keepdim=True, correction=correction)


def over(axes, correction=0):
    def norm(x, groups, eps):
        z = x.unflatten(1, (groups, -1))  # (b, g, k, h, w)
        mean, variance = moments(z, axes, correction)
        return ((z - mean) / (variance + eps).sqrt()).flatten(1, 2)

    return norm


def interleaved(x, groups, eps):
    z = x.unflatten(1, (-1, groups))  # (b, k, g, h, w)
    mean, variance = moments(z, (1, 3, 4))
    return ((z - mean) / (variance + eps).sqrt()).flatten(1, 2)


def divided_by(root):
    def norm(x, groups, eps):
        z = x.unflatten(1, (groups, -1))
        mean, variance = moments(z, (2, 3, 4))
        return ((z - mean) / root(variance, eps)).flatten(1, 2)

    return norm


def spelled_out(scale, axis=-1, use=torch.softmax):
    def attend(q, k, v, heads):
        q, k, v = (heads_of(z, heads) for z in (q, k, v))
        weights = use(q @ k.mT * scale(q.shape[-1], heads), axis)
        return (weights @ v).transpose(1, 2).flatten(2)

    return attend


def root(d, heads):
    return d**-0.5


def other_split(q, k, v, heads):
    q, k, v = (z.unflatten(-1, (-1, heads)).movedim(-1, 1) for z in (q, k, v))  # (d h)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).matmul(v).movedim(1, -1).flatten(2)


def other_merge(q, k, v, heads):
    q, k, v = (heads_of(z, heads) for z in (q, k, v))
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).matmul(v).movedim(1, -1).flatten(2)


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.group_norm, over((0, 2, 3, 4)), "over the batch, too"),
        (checks.group_norm, over((0, 3, 4)), "BatchNorm"),
        (checks.group_norm, over((3, 4)), "InstanceNorm"),
        (checks.group_norm, over((1, 2, 3, 4)), "LayerNorm"),
        (checks.group_norm, over((2,)), "each pixel is normalised"),
        (checks.group_norm, interleaved, "neighbouring channels"),
        (checks.group_norm, over((2, 3, 4), correction=1), "n - 1"),
        (checks.group_norm, divided_by(lambda v, eps: v.sqrt()), "eps is missing"),
        (checks.group_norm, divided_by(lambda v, eps: v.sqrt() + eps), "eps belongs below the root"),
        (checks.group_norm, divided_by(lambda v, eps: v + eps), "a root is missing"),
        (checks.attention, spelled_out(lambda d, heads: 1.0), "not divided by the root"),
        (checks.attention, spelled_out(lambda d, heads: 1 / d), "take its root"),
        (checks.attention, spelled_out(lambda d, heads: d**0.5), "instead of divided"),
        (checks.attention, spelled_out(lambda d, heads: (d * heads) ** -0.5), "all heads together"),
        (checks.attention, spelled_out(root, axis=-2), "those who ask"),
        (checks.attention, spelled_out(root, use=lambda scores, axis: scores), "without a softmax"),
        (checks.attention, lambda q, k, v, heads: good_attention(q, k, v, 1), "split them into heads"),
        (checks.attention, other_split, r"not as \(d h\)"),
        (checks.attention, other_merge, r"merged as \(d h\)"),
        (checks.attention_flops, lambda n, d: good_flops(n, d) // 2, "counts as two"),
        (checks.attention_flops, lambda n, d: 4 * n * n * d, "linear layers are missing"),
        (checks.attention_flops, lambda n, d: 6 * n * d * d + 4 * n * n * d, "output layer is missing"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 2 * n * n * d, "one of the two products"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d, "scores are missing"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 4 * n * d, "square of n"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)
