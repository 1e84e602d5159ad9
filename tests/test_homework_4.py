"""Homework 4, another compression: right but unusual answers pass, wrong ones are caught with a hint that fits."""

import pytest
import torch
from homework import Assignment

from minildm import AutoencoderKL

BOOK = Assignment("4_compression")


def fine(f, c):
    """By levels alone, without a patch."""
    widths = {2: (24, 28), 4: (16, 20, 28), 8: (8, 16, 20, 24)}[f]
    return AutoencoderKL(3, c, channels=widths, blocks_per_level=1, groups=2, middle_attention=False)


def coarse(f, c, **more):
    widths = (16, 28) if c > 8 else (24, 28)
    return AutoencoderKL(3, c, **dict(channels=widths, blocks_per_level=1, patch=f // 2, groups=4) | more)


def frozen(f, c):
    return coarse(f, c, middle_attention=False).requires_grad_(False)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("must become a latent", lambda f, c: coarse(4, c, middle_attention=False)),
        (r"f = 8, 16 channels; it becomes \(4, 8, 4\)", lambda f, c: coarse(f, 4, middle_attention=False)),
        ("parameters; for a fair comparison", lambda f, c: coarse(f, c, channels=(64, 64))),
        ("parameters; for a fair comparison", lambda f, c: coarse(f, c, channels=(8, 8))),
        ("parameters", lambda f, c: coarse(f, c, channels=(24, 28), middle_attention=False)),
        ("cannot be trained", frozen),
        ("expected an AutoencoderKL", lambda f, c: "f = 4"),
        ("returned None", lambda f, c: None),
        ("not written yet", lambda f, c: ...),
    ],
)
def test_wrong_autoencoders(hint, answer):
    BOOK.refuses("build", hint, build=answer)


@pytest.mark.parametrize("answer", [fine, lambda f, c: coarse(f, c, middle_attention=False)])
def test_right_autoencoders(answer):
    BOOK.accepts("build", build=answer)


def split(
    limit=lambda k, n, f: 2 * f * k < n, power=2, both=True, swapped=False, fold=lambda k, n: torch.minimum(k, n - k)
):
    def answer(x, x_hat, f):
        h, w = x.shape[2:]
        found = (torch.fft.fft2(x_hat - x).abs().square() / (h * w) ** power).mean(1)
        down, across = (limit(fold(torch.arange(n), n), n, f) for n in (h, w))
        below = down[:, None] & across if both else down[:, None] | across
        parts = (found * below).sum((1, 2)), (found * ~below).sum((1, 2))
        return parts[::-1] if swapped else parts

    return answer


def circle(x, x_hat, f):
    """Below where the wave is long enough, whatever its direction."""
    power = (torch.fft.fft2(x_hat - x, norm="forward").abs() ** 2).mean(1)
    down, across = (torch.fft.fftfreq(n) for n in x.shape[2:])
    below = down[:, None] ** 2 + across**2 < 1 / (2 * f) ** 2
    return (power * below).sum((1, 2)), (power * ~below).sum((1, 2))


def by_averages(x, x_hat, f):
    """Squares of f by f averaged: a common stand-in for a filter, and not the same."""
    error = x_hat - x
    low = torch.nn.functional.avg_pool2d(error, f).repeat_interleave(f, 2).repeat_interleave(f, 3)
    return low.square().mean((1, 2, 3)), (error - low).square().mean((1, 2, 3))


def columns(x, x_hat, f):
    """Frequencies across alone."""
    w = x.shape[3]
    found = (torch.fft.fft(x_hat - x).abs() / w).square().mean((1, 2))
    below = 2 * f * torch.minimum(torch.arange(w), w - torch.arange(w)) < w
    return (found * below).sum(1), (found * ~below).sum(1)


def by_waves(x, x_hat, f):
    """Without torch.fft: the error's part along each sine and cosine, one direction after the other."""
    low = x_hat - x
    for axis in (2, 3):
        n = low.shape[axis]
        at = torch.arange(n, dtype=x.dtype)
        waves = [torch.ones(n, dtype=x.dtype) / n**0.5]
        for k in range(1, n):
            if 2 * f * k < n:
                waves += [torch.cos(2 * torch.pi * k * at / n) * (2 / n) ** 0.5]
                waves += [torch.sin(2 * torch.pi * k * at / n) * (2 / n) ** 0.5]
        basis = torch.stack(waves)
        low = torch.movedim(torch.movedim(low, axis, -1) @ basis.T @ basis, -1, axis)
    below = low.square().mean((1, 2, 3))
    return below, (x_hat - x).square().mean((1, 2, 3)) - below


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("cannot hold a wave", split(limit=lambda k, n, f: 2 * f * k <= n)),
        ("cannot hold a wave", split(limit=lambda k, n, f: f * k < n)),
        ("can hold a wave", split(limit=lambda k, n, f: 4 * f * k < n)),
        ("can hold a wave of 2 cycles across 20", split(limit=lambda k, n, f: k < n // (2 * f))),
        ("below in both directions", split(both=False)),
        ("over the whole picture", split(limit=lambda k, n, f: 2 * f * k / n < n)),
        ("a rectangle, no circle", circle),
        ("a number for each picture", lambda x, y, f: [one.mean()[None] for one in split()(x, y, f)]),
        ("no frequency at all", split(swapped=True)),
        ("mean squared error", split(power=1)),
        ("can hold a wave", split(fold=lambda k, n: k)),
        ("has it twice", split(fold=lambda k, n: torch.where(2 * k < n, k, k - n))),
        ("hold a wave|mean squared error", by_averages),
        ("mean squared error|expected", lambda x, y, f: [part.mean() for part in split()(x, y, f)]),
        ("as fine as one from column", columns),
    ],
)
def test_wrong_splits(hint, answer):
    BOOK.refuses("split-error", hint, split_error=answer)


@pytest.mark.parametrize("answer", [split(), by_waves, lambda *case: torch.stack(split()(*case))])
def test_right_splits(answer):
    BOOK.accepts("split-error", split_error=answer)


def units(over=(0, 2, 3), power=1.0, correction=0, keep=True):
    return lambda z: (z.mean(over, keepdim=keep), z.var(over, correction=correction, keepdim=keep) ** (power / 2))


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("expected means of shape", units((0,))),
        ("expected means of shape", units((0, 1, 2, 3))),
        ("expected means of shape", units(keep=False)),
        ("mean square of each channel must be 1", units(power=2.0)),
        ("by the number, not by one less", units(correction=1)),
        ("mean 0", lambda z: (0 * units()(z)[0], units()(z)[1])),
        ("expected two results", lambda z: units()(z)[1]),
        ("mean square", lambda z: (units()(z)[0], 1 / units()(z)[1])),
    ],
)
def test_wrong_units(hint, answer):
    BOOK.refuses("channel-units", hint, channel_units=answer)


def by_moments(z):
    mean = torch.einsum("nchw->c", z) / z[:, 0].numel()
    square = torch.einsum("nchw,nchw->c", z, z) / z[:, 0].numel()
    return mean.view(1, -1, 1, 1), (square - mean**2).sqrt().view(1, -1, 1, 1)


@pytest.mark.parametrize(
    "answer", [units(), by_moments, lambda z: (units()(z)[0], units()(z)[1] + 1e-6), lambda z: units()(z.double())]
)
def test_right_units(answer):
    BOOK.accepts("channel-units", channel_units=answer)


def gain(reduce=lambda d: d.square().mean((1, 2, 3)).sqrt(), by=lambda s, eps: s, start=lambda dec, z: dec(z)):
    return lambda decode, z, s, eps: reduce(decode(z + s * eps) - start(decode, z)) / by(s, eps)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("3 times the RMS", gain(lambda d: d.square().mean((1, 2, 3)))),
        ("3 times the RMS", gain(lambda d: d.abs().mean((1, 2, 3)))),
        ("3 times the RMS", gain(by=lambda s, eps: 1)),
        ("3 times the RMS", gain(by=lambda s, eps: s**2)),
        ("divided by sigma itself", gain(by=lambda s, eps: (s * eps).square().mean((1, 2, 3)).sqrt())),
        ("over all numbers", gain(lambda d: d.square().mean((2, 3)).sqrt().mean(1))),
        ("the eps given", lambda decode, z, s, eps: gain()(decode, z, s, eps.flip(0, 1, 2, 3))),
        ("3 times the RMS", gain(lambda d: d.square().sum((1, 2, 3)).sqrt())),
        ("3 times the RMS", gain(start=lambda decode, z: 0)),
        ("a number for each picture", gain(lambda d: d.square().mean().sqrt())),
        (
            "3 times the RMS",
            gain(start=lambda decode, z: z.repeat_interleave(2, 2) if decode.__name__ == "linear" else decode(z)),
        ),
        ("in place", lambda decode, z, s, eps: gain()(decode, z, s, eps.mul_(1.5)) / 1.5),
    ],
)
def test_wrong_gains(hint, answer):
    BOOK.refuses("decoder-gain", hint, decoder_gain=answer)


def both_at_once(decode, z, sigma, eps):
    noisy, clean = decode(torch.cat([z + sigma * eps, z])).chunk(2)
    return (noisy - clean).flatten(1).norm(dim=1) / (noisy[0].numel() ** 0.5 * sigma)


@pytest.mark.parametrize("answer", [gain(), both_at_once])
def test_right_gains(answer):
    BOOK.accepts("decoder-gain", decoder_gain=answer)


def linear(
    share=lambda v, a, s: a * v / (a**2 * v + s**2),
    diagonal=False,
    dim=lambda m, a: a * m,
    back=lambda m: m,
    centred=True,
):
    def answer(z):
        mean = z.mean(0)
        off = z - mean if centred else z
        c = off.T @ off / len(z)
        v, axes = torch.linalg.eigh(torch.diag(c.diag()) if diagonal else c)
        v = v.clamp(min=0)
        return lambda z_t, a, s: back(mean) + (z_t - dim(mean, a)) @ axes @ torch.diag(share(v, a, s)) @ axes.T

    return answer


def by_solving(z, correction=0):
    """The normal equations, without axes; the mean as one more, constant, coordinate would give the same."""
    z = z.double()
    mean, c = z.mean(0), torch.cov(z.T, correction=correction)

    def denoise(z_t, a, s):
        whole = a**2 * c + s**2 * torch.eye(len(c), dtype=z.dtype)
        return (mean + torch.linalg.solve(whole, (z_t.double() - a * mean).T).T @ (a * c)).to(z_t.dtype)

    return denoise


def by_inverting(z):
    mean, inverse = z.mean(0), torch.linalg.inv(torch.cov(z.T))
    return lambda z_t, a, s: (
        mean + a * (z_t - a * mean) @ torch.linalg.inv(a**2 * torch.eye(len(mean)) + s**2 * inverse)
    )


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("along that axis", linear(diagonal=True)),
        ("smaller step|noise alone", linear(lambda v, a, s: 0 * v + 1 / (a + 1e-9))),
        ("step would be better|noise alone", linear(lambda v, a, s: v / (a**2 * v + s**2))),
        ("step would be better", linear(lambda v, a, s: a * v / (v + s**2))),
        ("step would be better", linear(lambda v, a, s: a * v**0.5 / (a**2 * v**0.5 + s))),
        ("must stay there", linear(dim=lambda m, a: m)),
        ("noise alone", linear(back=lambda m: 0 * m)),
        ("step would be better|axis", linear(centred=False)),
        ("without this one", by_inverting),
        ("by eight, not by one less", lambda z: by_solving(z, correction=1)),
        ("return that function itself", lambda z: linear()(z)(z, 0.5, 0.5)),
        ("noise alone", lambda z: lambda z_t, a, s: z_t),
        ("expected guesses of shape", lambda z: lambda z_t, a, s: linear()(z)(z_t, a, s)[:1]),
        ("returned None", lambda z: lambda z_t, a, s: None),
    ],
)
def test_wrong_linear_denoisers(hint, answer):
    BOOK.refuses("linear-denoiser", hint, linear_denoiser=answer)


@pytest.mark.parametrize("answer", [linear(), by_solving])
def test_right_linear_denoisers(answer):
    BOOK.accepts("linear-denoiser", linear_denoiser=answer)
