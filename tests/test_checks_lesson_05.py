import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minildm import checks
from minildm.attention import Attention, attention_maps


def good_attention(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


def good_flops(n, dim):
    return 8 * n * dim**2 + 4 * n**2 * dim


RIGHT = [
    (checks.masked_attention, good_attention),
    (checks.attention_flops, good_flops),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_flops_are_those_that_pytorch_counts():
    n, dim = 6, 20
    layer = Attention(dim, heads=5)
    with attention_maps(layer), FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, n, dim))
    assert counter.get_total_flops() == good_flops(n, dim)


def masked(use, scale=lambda d: d**-0.5):
    return lambda q, k, v, mask: use(q @ k.mT * scale(q.shape[-1]), mask[:, None]) @ v


def hidden(scores, mask):
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.masked_attention, masked(lambda s, m: s.softmax(-1)), "mask is not used"),
        (checks.masked_attention, masked(lambda s, m: hidden(s, ~m)), "wrong way round"),
        (checks.masked_attention, masked(lambda s, m: (s * m).softmax(-1)), "minus infinity"),
        (checks.masked_attention, masked(lambda s, m: s.masked_fill(~m, -1e9).softmax(-2)), "the wrong axis"),
        (checks.masked_attention, masked(lambda s, m: s.masked_fill(~m, 0).softmax(-1)), "minus infinity"),
        (checks.masked_attention, masked(lambda s, m: s.softmax(-1) * m), "do not sum to 1"),
        (checks.masked_attention, masked(lambda s, m: s * m), "without a softmax"),
        (checks.masked_attention, masked(lambda s, m: (s - torch.inf * ~m).softmax(-1)), "times 0 is NaN"),
        (checks.masked_attention, masked(lambda s, m: s.masked_fill(~m, torch.inf).softmax(-1)), "all is NaN"),
        (checks.masked_attention, masked(lambda s, m: s.masked_fill(~m, -torch.inf).softmax(1)), "axis -1"),
        (checks.masked_attention, masked(lambda s, m: (s + m).softmax(-1)), "added as 1 and 0"),
        (checks.masked_attention, masked(lambda s, m: s.softmax(-1).masked_fill(~m, -torch.inf)), "before the softmax"),
        (checks.masked_attention, masked(lambda s, m: hidden(s, m[:, 0])), "is \\(b, 1, m\\)"),
        (checks.masked_attention, masked(hidden, lambda d: 1), "not divided by the root"),
        (checks.masked_attention, masked(hidden, lambda d: 1 / d), "take its root"),
        (checks.masked_attention, masked(hidden, lambda d: d**0.5), "instead of divided"),
        (checks.attention_flops, lambda n, d: good_flops(n, d) // 2, "counts as two"),
        (checks.attention_flops, lambda n, d: 4 * n * n * d, "linear layers are missing"),
        (checks.attention_flops, lambda n, d: 6 * n * d * d + 4 * n * n * d, "output layer is missing"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 2 * n * n * d, "one of the two products"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d, "scores are missing"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 4 * n * d, "square of n"),
        (checks.attention_flops, lambda n, d: 3 * n * d * d + 2 * n * n * d, "counts as two$"),
        (checks.attention_flops, lambda n, d: 4 * n * d * d + 4 * n * n * d, "in the linear layers, too"),
        (checks.attention_flops, lambda n, d: 2 * n * d * d + 4 * n * n * d, "four linear layers"),
        (checks.attention_flops, lambda n, d: 8 * n * d + 4 * n * n * d, "dim · dim products"),
        (checks.attention_flops, lambda n, d: 8 * d * d + 4 * n * n * d, "dim · dim products"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 4 * n * n, "an inner product"),
        (checks.attention_flops, lambda n, d: 8 * n * d * d + 4 * n * n * d * d, "an inner product"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"(?m)likely: .*{hint}"):
        check(wrong)
