"""The autoencoder against diffusers' on the same weights, its scale factor, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from compare import assert_equal, random, randomized
from diffusers import AutoencoderKL as TheirAutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn
from torch.distributions import Normal, kl_divergence

from minildm import weights
from minildm.autoencoder import (
    AutoencoderKL,
    Gaussian,
    autoencoder_loss,
    draw_latent,
    tiled_decode,
    tiled_encode,
)
from minildm.layers import ResidualBlock
from minildm.stable_diffusion import reference_name
from minildm.tensors import count_parameters, seeded

SD = dict(in_channels=3, latent_channels=4, channels=(128, 256, 512, 512), blocks_per_level=2)
SMALL = dict(in_channels=3, latent_channels=5, channels=(12, 24, 36), blocks_per_level=1, groups=6)


def reference(config, **more):
    """diffusers' autoencoder of our configuration."""
    levels = len(config["channels"])
    return TheirAutoencoderKL(
        in_channels=config["in_channels"],
        out_channels=config["in_channels"],
        latent_channels=config["latent_channels"],
        block_out_channels=config["channels"],
        layers_per_block=config["blocks_per_level"],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        mid_block_add_attention=config.get("middle_attention", True),
        norm_num_groups=config.get("groups", 32),
        **more,
    )


def test_full_size_is_stable_diffusion():
    with torch.device("meta"):  # shapes only
        model, theirs = AutoencoderKL(**SD), reference(SD)
    assert count_parameters(model) == 83_653_863
    assert model.multiple == 8
    ours = {reference_name(model, name): tuple(t.shape) for name, t in model.state_dict().items()}
    assert ours == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    norms = {n: m.eps for n, m in theirs.named_modules() if isinstance(m, nn.GroupNorm)}
    mine = {reference_name(model, f"{n}.w"): m for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
    assert {name.removesuffix(".w"): norm.eps for name, norm in mine.items()} == norms
    assert {norm.num_groups for norm in mine.values()} == {32}  # picked, not told


@pytest.mark.parametrize(
    "config",
    [
        dict(channels=(12, 24, 36, 36), blocks_per_level=2, groups=6),  # as Stable Diffusion's
        dict(channels=(8, 12, 20), blocks_per_level=1, groups=2, middle_attention=False),
        dict(channels=(12,), blocks_per_level=3, groups=4),
    ],
    ids=["like SD", "no attention", "one level"],
)
def test_equals_the_reference(config):
    config = dict(in_channels=3, latent_channels=5) | config
    ours, theirs = randomized(AutoencoderKL(**config)), reference(config).eval()
    theirs.load_state_dict({reference_name(ours, name): t for name, t in ours.state_dict().items()})  # strict
    f = ours.multiple
    x, z = random(2, 3, 2 * f, 3 * f), random(2, 5, 4, 3, seed=2)
    with torch.no_grad():
        mine, yours = ours.encode(x), theirs.encode(x).latent_dist
        assert mine.mean.shape == (2, 5, 2, 3)
        assert_equal(mine.mean, yours.mean)
        assert_equal(mine.logvar, yours.logvar)
        assert_equal(mine.std, yours.std)
        assert_equal(mine.sample(torch.Generator().manual_seed(3)), yours.sample(torch.Generator().manual_seed(3)))
        torch.testing.assert_close(mine.kl(), yours.kl())
        assert ours.decode(z).shape == (2, 3, 4 * f, 3 * f)
        assert_equal(ours.decode(z), theirs.decode(z).sample)
        assert_equal(ours(x), theirs(x).sample)


def test_a_wild_variance_is_bounded_as_the_reference_bounds_it():
    model, h = randomized(AutoencoderKL(**SMALL)), 1000 * random(2, 10, 3, 4)
    with torch.no_grad():
        mine, yours = model.encode(random(2, 3, 12, 16), lambda _: h), DiagonalGaussianDistribution(model.quant(h))
    assert mine.logvar.min() == -30 and mine.logvar.max() == 20
    assert torch.equal(mine.logvar, yours.logvar)


def test_the_divergence_by_hand():
    """KL(N(m, s²), N(0, 1)) = (m² + s² - 1) / 2 - log s, summed over a latent."""
    mean, std = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    posterior = Gaussian(mean.reshape(2, 1, 1, 2), 2 * std.log().reshape(2, 1, 1, 2))
    torch.testing.assert_close(posterior.kl(), torch.tensor([2.0 + 4.0 - math.log(3), 0.0]))
    torch.testing.assert_close(posterior.std, std.reshape(2, 1, 1, 2))
    reference = kl_divergence(Normal(mean, std), Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), reference.sum(1))
    half = Gaussian(posterior.mean.half(), posterior.logvar.half()).kl()
    assert half.dtype == torch.float32


def test_samples_come_from_the_generator():
    mean = torch.full((300, 2, 5, 3), -4.0)
    posterior = Gaussian(mean, torch.full_like(mean, 2 * math.log(0.5)))
    state = torch.get_rng_state()
    first, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.mean().item() == pytest.approx(-4, abs=0.03) and first.std().item() == pytest.approx(0.5, abs=0.02)
    with seeded(5):
        assert not torch.equal(posterior.sample(), posterior.sample())
    assert torch.equal(posterior.at(torch.zeros_like(mean)), mean)
    assert Gaussian(mean.half(), mean.half()).sample(torch.Generator()).dtype == torch.float16


@pytest.mark.parametrize(
    ("config", "multiple"),
    [
        (dict(channels=(8, 12), patch=2), 4),
        (dict(channels=(8, 12, 16), blocks_per_level=(0, 1, 2)), 4),
        (dict(channels=(8,), patch=4, middle_attention=False), 4),
        (dict(channels=(8, 12), blocks_per_level=(2, 0)), 2),
    ],
    ids=["patches", "no block above", "patches alone", "no block below"],
)
def test_leaner_ones(config, multiple, tmp_path):
    model = randomized(AutoencoderKL(2, 3, **config))
    assert model.multiple == multiple
    x = random(2, 2, 6 * multiple, 5 * multiple)
    latent = model.encode(x)
    assert latent.mean.shape == latent.std.shape == (2, 3, 6, 5)
    assert model(x).shape == x.shape
    blocks = [isinstance(layer, ResidualBlock) for layer in model.decoder.up]
    assert sum(blocks) == sum(1 + n for n in model.config["blocks_per_level"])
    loaded = weights.load(weights.save(tmp_path / "vae.safetensors", model))
    assert torch.equal(loaded(x), model(x))


def test_a_patch_is_made_of_its_own_pixels():
    model = AutoencoderKL(2, 3, channels=(8,), patch=2)
    x, seen = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6), []
    model.encode(x, lambda patches: seen.append(patches) or model.encoder(patches))
    (patches,) = seen
    assert patches.shape == (1, 8, 2, 3)
    assert sorted(patches[0, :, 1, 2].tolist()) == sorted(x[0, :, 2:, 4:].flatten().tolist())
    assert torch.equal(model.decode(torch.zeros(1, 3, 2, 3), lambda h: patches), x)


@pytest.mark.parametrize("more", [{}, {"patch": 2}, {"middle_attention": False}, {"blocks_per_level": (0, 1, 2)}])
def test_every_parameter_learns(more):
    model = AutoencoderKL(**SMALL | more)
    batch = draw_latent(random(2, 3, 16, 24), model, torch.Generator().manual_seed(0))
    autoencoder_loss(model, batch, kl=0.1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name


def test_the_scale_factor_is_measured_and_travels_with_the_checkpoint(tmp_path):
    model = randomized(AutoencoderKL(**SMALL))
    with torch.no_grad():
        model.quant.weight[:5] *= 4  # the means
    images = random(70, 3, 8, 12).clamp(-1, 1)  # more than one part
    for refused in (model.scale, model.unscale, model.check_scaled):
        with pytest.raises(ValueError, match=r"not known: call vae\.measure_scale"):
            refused(torch.zeros(1, 5, 2, 3))
    found = model.measure_scale(images)
    with torch.no_grad():
        posterior = model.encode(images)
    z = torch.cat([posterior.sample(torch.Generator().manual_seed(seed)) for seed in range(20)])
    assert found == model.scale_factor == pytest.approx(1 / z.std().item(), rel=0.01)
    assert model.scale(z).std().item() == pytest.approx(1, rel=0.01)
    torch.testing.assert_close(model.unscale(model.scale(z)), z)

    loaded = weights.load(weights.save(tmp_path / "vae.safetensors", model, dtype=torch.float16))
    assert loaded.scale_factor == found  # to the last digit, whatever the precision of the weights
    assert AutoencoderKL(**json.loads(json.dumps(loaded.config))).config == model.config


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_have_no_range_and_are_refused(dtype):
    """Whether 200 is bright or far too bright is not for the autoencoder to guess."""
    model, x = AutoencoderKL(**SMALL, scale_factor=2.0), torch.ones(2, 3, 8, 12).to(dtype)
    for call in (model.measure_scale, model.encode, model, lambda x: tiled_encode(model, x)):
        with pytest.raises(ValueError, match=f"images as floating-point numbers, got {dtype}; minildm.images.to_model"):
            call(x)
    for call in (model.decode, lambda z: tiled_decode(model, z)):
        with pytest.raises(ValueError, match=f"expected latents as floating-point numbers, got {dtype}"):
            call(torch.ones(2, 5, 2, 3).to(dtype))
    assert model.scale_factor == 2.0


def test_the_range_of_what_the_scale_factor_is_measured_on():
    model = randomized(AutoencoderKL(**SMALL))
    images = random(9, 3, 8, 12).clamp(-1, 1)
    expected = model.measure_scale(images)
    for other, said in [
        ((images + 1) * 127.5, "from 0 to 255"),
        (images / 2 - 0.7, "from -1.2 to -0.2"),
        (images.half() * 3, "from -3 to 3"),
    ]:
        with pytest.raises(ValueError, match=rf"expected pictures in \[-1, 1\], got values {said}"):
            model.measure_scale(other)
    for other, said in [((images + 1) / 2, "from 0 to 1"), (images.abs() / 2 + 0.1, "from 0.1 to 0.6")]:
        with pytest.warns(UserWarning, match=f"got values {said}; 2 . x - 1 maps") as said:
            model.measure_scale(other)
        assert said[0].filename == __file__  # it points at the call
    assert model.measure_scale(images) == expected
    assert model.measure_scale(images.double()) == pytest.approx(expected, rel=1e-6)
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = images.clone()
        spoilt[5, 1, 2, 3] = bad
        with pytest.raises(ValueError, match="nan|inf"):
            model.measure_scale(spoilt)
    assert model.scale_factor == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scale_factor_is_measured_in_half_precision(dtype):
    model, images = randomized(AutoencoderKL(**SMALL)), random(9, 3, 8, 12).clamp(-1, 1)
    expected = model.measure_scale(images)
    for half in (images.to(dtype), images):
        assert model.to(dtype).measure_scale(half) == pytest.approx(expected, rel=0.02)
    with torch.no_grad():
        model.quant.bias[0] = torch.finfo(dtype).max
        model.quant.weight[0] = torch.finfo(dtype).max
    with pytest.raises(ValueError, match="whose latents vary, got 9 with a variance of (nan|inf)"):
        model.measure_scale(images)


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), np.float32(0.5), np.array(0.5)])
def test_a_scale_factor_of_any_kind_is_a_number_in_the_file(value, tmp_path):
    model = AutoencoderKL(**SMALL)
    model.scale_factor = value
    assert type(model.scale_factor) is float
    assert weights.load(weights.save(tmp_path / "vae.safetensors", model)).scale_factor == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_latent_that_is_not_finite_is_no_scaled_one(bad):
    for scale_factor in (0.2, 1.0, 5.0):
        z = random(1, 5, 6, 7)
        z[0, 2, 3, 4] = bad
        for latent in (z, z.half(), torch.full_like(z, bad)):
            with pytest.raises(ValueError, match="latents that are finite"):
                AutoencoderKL(**SMALL, scale_factor=scale_factor).check_scaled(latent)


@pytest.mark.parametrize("scale_factor", [0.18215, 5.0])
def test_a_latent_that_was_not_scaled_is_caught(scale_factor):
    model = AutoencoderKL(**SMALL, scale_factor=scale_factor)
    scaled = random(1, 5, 6, 7)
    for spread in (0.7, 1.0, 1.4):
        model.check_scaled(spread * scaled)
        with pytest.raises(ValueError, match=r"about 1, got .* look like the autoencoder's own.*vae\.scale"):
            model.check_scaled(model.unscale(spread * scaled))
    model.check_scaled(torch.zeros(1, 5, 2, 3))  # says nothing
    AutoencoderKL(**SMALL, scale_factor=0.7).check_scaled(scaled / 0.7)  # too near to 1 to tell


@pytest.mark.parametrize("autocast", [False, True])
def test_lower_precision(autocast):
    model = randomized(AutoencoderKL(**SMALL))
    x, z = random(2, 3, 32, 24), random(2, 5, 8, 6)
    with torch.no_grad():
        exact = model.encode(x).mean, model.decode(z)
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                found = model.encode(x).mean, model.decode(z), tiled_decode(model, z, 8)
        else:
            model, x, z = model.bfloat16(), x.bfloat16(), z.bfloat16()
            found = model.encode(x).mean, model.decode(z), tiled_decode(model, z, 8)
    for mine, wanted in zip(found, (*exact, exact[1]), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - wanted).abs().max() <= 0.05 * wanted.abs().max()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(channels=()), "at least one level"),
        (dict(latent_channels=0), "positive sizes"),
        (dict(channels=(8, 12), blocks_per_level=(1, 1, 1)), r"one number from 0 or 2.*got \[1, 1, 1\]"),
        (dict(blocks_per_level=-1), "from 0"),
        (dict(patch=3), "power of two.*got 3"),
        (dict(patch=0), "power of two.*got 0"),
        (dict(patch=2.0), "power of two.*got 2.0"),
        (dict(channels=8), "expected channels as whole numbers, one for each level, got 8"),
        (dict(channels=(8, 12.0)), "expected channels as whole numbers.*12.0"),
        (dict(channels=(8, 12), blocks_per_level=(1, "2")), "expected blocks_per_level as whole numbers"),
        (dict(blocks_per_level=None), "expected blocks_per_level as whole numbers.*got None"),
        (dict(scale_factor="0.2x"), "above 0.*got 0.2x"),
        (dict(scale_factor=torch.ones(2)), "above 0.*got tensor"),
        (dict(scale_factor=math.nan), "above 0.*got nan"),
        (dict(channels=(8, 12), groups=5), "do not split into 5 groups"),
        (dict(scale_factor=0.0), "above 0.*got 0.0"),
        (dict(scale_factor=math.inf), "above 0.*got inf"),
    ],
)
def test_bad_configurations(config, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderKL(**config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(2, 4, 8, 12)), "expected 3 channels, got 4"),
        (lambda m: m.encode(torch.zeros(2, 3, 8, 10)), "divisible by 4.*to 8×12"),
        (lambda m: m.encode(torch.zeros(3, 8, 12)), r"x\[None\]"),
        (lambda m: m.decode(torch.zeros(2, 4, 2, 3)), r"expected latents \(b, 5, h, w\), got shape \(2, 4, 2, 3\)"),
        (lambda m: m.decode(torch.zeros(5, 2, 3)), r"got shape \(5, 2, 3\)"),
        (lambda m: tiled_encode(m, torch.zeros(1, 3, 9, 12), 4), "divisible by 4"),
        (lambda m: tiled_decode(m, torch.zeros(1, 3, 9, 12), 4), "expected latents"),
        (lambda m: tiled_decode(m, torch.zeros(1, 5, 9, 12), 0), "tile of at least 1 pixel, got 0"),
        (lambda m: tiled_encode(m, torch.zeros(3, 8, 12), 4), r"x\[None\]"),
        (lambda m: tiled_encode(m, torch.zeros(8, 12), 4), r"got shape \(8, 12\)"),
        (lambda m: tiled_decode(m, torch.zeros(5, 2, 3), 4), r"expected latents .* got shape \(5, 2, 3\)"),
        (lambda m: draw_latent(torch.zeros(3, 8, 12), m, torch.Generator()), r"x\[None\]"),
        (lambda m: draw_latent(torch.zeros(2, 3, 8, 10), m, torch.Generator()), "divisible by 4"),
        (lambda m: setattr(m, "scale_factor", -1.0), "got -1.0"),
        (lambda m: m.measure_scale(torch.zeros(0, 3, 8, 12)), "got 0 with a variance of 0"),
        (lambda m: m.measure_scale(torch.full((2, 3, 8, 12), math.nan)), "a variance of nan"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(AutoencoderKL(**SMALL))
