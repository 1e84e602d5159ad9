import pytest
import torch

from minildm import checks
from minildm.autoencoder import AutoencoderKL, Gaussian
from minildm.tensors import seeded


def good_ratio(in_channels, halvings, latent_channels):
    """Counted on a network."""
    with torch.device("meta"):
        vae = AutoencoderKL(in_channels, latent_channels, [4] * (halvings + 1), middle_attention=False)
        x = torch.empty(1, in_channels, 32, 32)
        return x.numel() / vae.encode(x).mean.numel()


def good_kl(mean_q, std_q, mean_p, std_p):
    """By torch's own distributions."""
    q, p = torch.distributions.Normal(mean_q, std_q), torch.distributions.Normal(mean_p, std_p)
    return torch.distributions.kl_divergence(q, p).sum(1)


def good_scale(mean, std):
    """By the mean square of samples, minus the squared mean."""
    return ((mean**2 + std**2).mean() - mean.mean() ** 2) ** -0.5


RIGHT = [(checks.compression, good_ratio), (checks.kl_between, good_kl), (checks.scale_factor, good_scale)]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_dividing_by_one_less_is_the_same_scale(capsys):
    checks.scale_factor(lambda mean, std: (mean.var() + std.square().mean()) ** -0.5)
    assert capsys.readouterr().out.startswith("✓")


def test_the_answers_are_those_of_the_package():
    assert good_ratio(3, 3, 4) == 48
    mean, std = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind()
    cloud = Gaussian(mean, std.square().log())
    torch.testing.assert_close(good_kl(mean, std.abs(), 0 * mean, 0 * std + 1), cloud.kl())
    with seeded(0):
        vae = AutoencoderKL(3, 2, (4, 4), 1)
    x = torch.rand(5, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        q = vae.encode(x)
    assert vae.measure_scale(x) == pytest.approx(good_scale(q.mean, q.std).item(), rel=1e-5)


def kl(mean=lambda d, sq, sp: d / sp, log=lambda r: r.log(), half=0.5, one=1.0, join=lambda k: k.sum(1)):
    def answer(mean_q, std_q, mean_p, std_p):
        ratio = (std_q / std_p) ** 2
        return join((ratio + mean(mean_q - mean_p, std_q, std_p) ** 2 - one - log(ratio)) * half)

    return answer


def textbook(share):
    """The divergence with `share(distance of the means, std_q, std_p)` in place of its second term."""
    return lambda mq, sq, mp, sp: ((sp / sq).log() + share(mq - mp, sq, sp) - 0.5).sum(1)


def scaled(variance):
    return lambda mean, std: variance(mean, std) ** -0.5


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.compression, lambda c, n, d: 1 / good_ratio(c, n, d), "wrong way up: divide"),
        (checks.compression, lambda c, n, d: c * 2**n / d, "both sides"),
        (checks.compression, lambda c, n, d: c * n**2 / d, "not squared"),
        (checks.compression, lambda c, n, d: c * (2 * n) ** 2 / d, "not by 2"),
        (checks.compression, lambda c, n, d: 2 ** (2 * n), "channels are forgotten"),
        (checks.compression, lambda c, n, d: d / c * 4**n, "channels are the wrong way up"),
        (checks.compression, lambda c, n, d: c * 4**n, "latent's channels count"),
        (checks.compression, lambda c, n, d: 4**n / d, "picture's channels count"),
        (checks.compression, lambda c, n, d: int(good_ratio(c, n, d)), "rounded"),
        (checks.compression, lambda c, n, d: round(good_ratio(c, n, d)), "rounded"),
        (checks.compression, lambda c, n, d: c * 4 * n / d, "a power, no product"),
        (checks.compression, lambda c, n, d: c * 64 / d, "three halvings only"),
        (checks.compression, lambda c, n, d: 2**n, "both sides are halved; and"),
        (checks.kl_between, lambda mq, sq, mp, sp: good_kl(mp, sp, mq, sq), "swapped"),
        (checks.kl_between, lambda mq, sq, mp, sp: Gaussian(mq, 2 * sq.log()).kl().double(), "p is not used"),
        (checks.kl_between, kl(half=1), "half is missing"),
        (
            checks.kl_between,
            lambda mq, sq, mp, sp: ((sp / sq).log() + (sq**2 + (mq - mp) ** 2) / sp**2 - 1).sum(1),
            "at the squares",
        ),
        (
            checks.kl_between,
            lambda mq, sq, mp, sp: ((sp / sq).log() + (sq**2 + (mq - mp) ** 2) / sp**2 / 2 - 1).sum(1),
            "counts a half",
        ),
        (
            checks.kl_between,
            lambda mq, sq, mp, sp: (sq / sp + ((mq - mp) / sp) ** 2 - 1 - (sq / sp).log()).sum(1) / 2,
            "squared",
        ),
        (checks.kl_between, kl(join=lambda k: k.mean(1)), "nats add up"),
        (checks.kl_between, kl(join=lambda k: k.sum(0)), "sum over the batch"),
        (checks.kl_between, kl(join=torch.sum), "single number"),
        (checks.kl_between, kl(join=lambda k: k.sum(1).mean()), "single number"),
        (checks.kl_between, kl(join=lambda k: k), "not summed yet"),
        (checks.kl_between, lambda mq, sq, mp, sp: good_kl(mq, sq, mp, sp) - sp.log().sum(1), "std_p is missing"),
        (checks.kl_between, textbook(lambda d, sq, sp: (sq**2 + d**2) / (2 * sp)), "variance of p, std_p"),
        (checks.kl_between, textbook(lambda d, sq, sp: (sq**2 + d**2) / (2 * sq**2)), "in deviations of q: take"),
        (checks.kl_between, textbook(lambda d, sq, sp: (sq**2 + d) / (2 * sp**2)), "is not squared"),
        (
            checks.kl_between,
            lambda mq, sq, mp, sp: ((mq**2 + sq**2 - mp**2 - sp**2) / 2 - (sq / sp).log()).sum(1),
            "a difference of two",
        ),
        (checks.kl_between, kl(mean=lambda d, sq, sp: d), "not measured in deviations of p"),
        (checks.kl_between, kl(mean=lambda d, sq, sp: d / sq), "take those of p"),
        (checks.kl_between, kl(log=lambda r: r.sqrt().log()), "ratio of variances"),
        (checks.kl_between, kl(log=lambda r: -r.log()), "wrong sign"),
        (checks.kl_between, kl(one=0), "1 is missing"),
        (checks.scale_factor, lambda m, s: 1 / good_scale(m, s), "spread itself"),
        (checks.scale_factor, lambda m, s: (m.var(correction=0) + s.mean()) ** 0.5, "squared; and take 1"),
        (checks.scale_factor, lambda m, s: m.std(correction=0) + s.mean(), "deviations do not; and take 1"),
        (checks.scale_factor, lambda m, s: m.std(correction=0), "not of means alone; and take 1"),
        (checks.scale_factor, lambda m, s: (m.var(correction=0) + s.mean() ** 2) ** 0.5, "average it; and take 1"),
        (checks.scale_factor, lambda m, s: (m.var() + (s**2).mean()).sqrt(), "spread itself"),
        (checks.scale_factor, lambda m, s: 1 / m.std(), "noise is missing"),
        (checks.scale_factor, scaled(lambda m, s: m.var() + s.var()), "take no spread of it"),
        (checks.scale_factor, lambda m, s: 1 / s.std(), "means are missing"),
        (checks.scale_factor, lambda m, s: 1 / (m.var() + s.mean()), "squared, and a root is missing"),
        (checks.scale_factor, scaled(lambda m, s: m.var() + (s**2).sum()), "not added up"),
        (checks.scale_factor, scaled(lambda m, s: m.var() + s**2), "for all numbers together, not one"),
        (checks.scale_factor, scaled(lambda m, s: m.var(0) + (s**2).mean(0)), "for all numbers together, not one"),
        (checks.scale_factor, scaled(lambda m, s: m.var(correction=0)), "noise is missing"),
        (checks.scale_factor, scaled(lambda m, s: (s**2).mean()), "means are missing"),
        (checks.scale_factor, lambda m, s: 1 / (m.std(correction=0) + s.mean()), "variances do"),
        (checks.scale_factor, scaled(lambda m, s: m.var(correction=0) + s.mean() ** 2), "before you average"),
        (checks.scale_factor, scaled(lambda m, s: m.var(correction=0) + s.mean()), "has to be squared"),
        (checks.scale_factor, lambda m, s: good_scale(m, s) ** 2, "root is missing"),
        (checks.scale_factor, scaled(lambda m, s: (m**2 + s**2).mean()), "subtract it"),
        (checks.scale_factor, scaled(lambda m, s: m.var((0, 2, 3), correction=0) + (s**2).mean((0, 2, 3))), "each"),
        (
            checks.scale_factor,
            lambda m, s: 1 / (m.var((1, 2, 3), correction=0) + (s**2).mean((1, 2, 3))).sqrt().mean(),
            "average of each picture's",
        ),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)
