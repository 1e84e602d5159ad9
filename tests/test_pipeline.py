"""The pipeline on tiny networks: that it does what its parts would, and each picture depends on its own seed alone."""

import inspect
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minildm import samplers, weights
from minildm.attention import Attention, attention_maps
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import SAMPLERS, LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.tensors import peak_memory, seeded
from minildm.text import TextEncoder, train_tokenizer

CAPTIONS = ["a red cat", "a dog left of a cat", "一只红色的猫"]
HOW = dict(steps=3, seed=0, output="tensor")


def build(in_channels=5, words=True, num_classes=None, **settings):
    """Latents of 5 channels at half the size; the U-Net halves them once more."""
    with seeded(1):
        vae = AutoencoderKL(3, 5, channels=(8, 12), scale_factor=5.0)
        unet = Denoiser(in_channels, 5, (8, 12), context_dim=10 if words else None, num_classes=num_classes)
        told = ()
        if words:
            tokenizer = train_tokenizer(CAPTIONS, 290, length=24)
            told = TextEncoder(len(tokenizer), 10, depth=1, heads=2, length=24), tokenizer
    for module in (vae, unet, *told[:1]):
        module.eval().requires_grad_(False)
    with torch.no_grad():  # so that conditions weigh something
        for parameter in unet.parameters():
            parameter *= 1.5
    settings = dict(predicts="v", size=(8, 12), guidance=3.0) | settings
    return LatentDiffusion(unet, vae, NoiseSchedule.cosine(50), *told, **settings)


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def apart(one, other):
    return (one - other).abs().max().item()


@pytest.fixture(scope="module")
def pipe():
    return build()


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(3))


def test_a_prompt_becomes_a_picture_as_its_parts_would_draw_it(pipe):
    """Every step by hand: the words, the noise, guidance, DDIM, the scale factor."""
    x_T = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        (ids, mask), (no_ids, no_mask) = pipe.tokenizer("a red cat"), pipe.tokenizer("a dog")
        context, no_context = pipe.text_encoder(ids, mask), pipe.text_encoder(no_ids, no_mask)

        def denoise(x_t, t):
            told, untold = pipe.unet(x_t, t, context, mask), pipe.unet(x_t, t, no_context, no_mask)
            return untold + 2.5 * (told - untold)

        *_, last = samplers.ddim(denoise, pipe.schedule, x_T, 3, predicts="v")
        expected = (pipe.vae.decode(last.x_t / 5.0) + 1) / 2
    how = dict(negative_prompt="a dog", guidance=2.5, steps=3)
    found = pipe("a red cat", x_T=x_T, output="tensor", **how)
    assert found.shape == (1, 3, 8, 12) and found.min() >= 0 and found.max() <= 1 and found.std() > 0.01
    assert_equal(found, expected.clamp(0, 1))
    assert_equal(pipe("a red cat", seed=7, output="tensor", **how), found)  # the seed is that of this noise
    *steps, last = pipe.steps("a red cat", seed=7, **how)
    assert [step.t for step in (*steps, last)] == [49, 32, 16, -1]
    assert_equal(pipe.decode(last.x_t, check=False), found)
    drawn = pipe("a red cat", seed=7, **how)
    assert isinstance(drawn, Image.Image) and drawn.size == (12, 8)
    assert np.abs(np.asarray(drawn) / 255 - found[0].movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6


def test_conditions_matter(pipe):
    plain = pipe("a red cat", **HOW)
    for changed in (
        dict(prompt="a dog"),
        dict(prompt=""),
        dict(guidance=1),
        dict(negative_prompt="a dog"),
        dict(seed=1),
        dict(steps=4),
        dict(sampler="heun"),
    ):
        assert apart(pipe(**dict(prompt="a red cat") | HOW | changed), plain) > 1e-3, changed
    assert_equal(pipe("a red cat", guidance=3, **HOW), plain)  # the pipeline's own
    assert_equal(pipe("a red cat", guidance=1, negative_prompt="a dog", **HOW), pipe("a red cat", guidance=1, **HOW))


def test_guidance_in_an_interval():
    pipe, limited = build(), build(guidance_interval=[20, 40])
    rows = []
    hook = limited.unet.register_forward_hook(lambda module, given, answer: rows.append(len(answer)))
    found = limited("a red cat", steps=5, seed=0, output="tensor")  # at 49, 39, 29, 19 and 9
    hook.remove()
    assert rows == [1, 2, 2, 1, 1]
    assert apart(found, pipe("a red cat", steps=5, seed=0, output="tensor")) > 1e-3
    limited.guidance_interval = None
    assert_equal(limited("a red cat", **HOW), pipe("a red cat", **HOW))
    with pytest.raises(ValueError, match="guidance's interval as its lowest and its highest timestep"):
        build(guidance_interval=(40, 20))


def test_a_folder_from_before_there_were_intervals(pipe, tmp_path):
    folder = build(guidance_interval=(5, 40)).save_pretrained(tmp_path / "pocket")
    assert LatentDiffusion.from_pretrained(folder).guidance_interval == (5, 40)
    index = json.loads((folder / "pipeline.json").read_text())
    del index["guidance_interval"]
    (folder / "pipeline.json").write_text(json.dumps(index))
    assert LatentDiffusion.from_pretrained(folder).guidance_interval is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_depends_on_its_own_seed_alone(pipe, name, picture):
    prompts, how = ["a cat", "a dog left of a cat", "a red cat"], dict(steps=3, sampler=name, output="tensor")
    state = torch.get_rng_state()
    together = pipe(prompts, seed=4, image=picture, **how)
    assert together.shape == (3, 3, 8, 12) and torch.equal(torch.get_rng_state(), state)
    for i in (0, 2):
        assert_equal(pipe(prompts[i], seed=4 + i, image=picture, **how), together[i : i + 1])
    assert_equal(pipe(prompts[::-1], seed=[6, 5, 4], image=picture, **how), together.flip(0))


def test_no_seed_draws_from_the_global_stream(pipe):
    how = HOW | dict(seed=None)
    with seeded(5):
        first, second = pipe("a cat", **how), pipe("a cat", **how)
    with seeded(5):
        assert torch.equal(pipe("a cat", **how), first)
    assert apart(first, second) > 1e-3


def test_one_or_a_list(pipe):
    assert isinstance(pipe("a cat", steps=1, seed=0), Image.Image)
    for result in (
        pipe(["a cat"], steps=1, seed=[3]),
        pipe("a cat", steps=1, seed=[0, 1, 2]),
        pipe(["a cat", "a dog"], steps=1, seed=0),
        pipe("a cat", steps=1, x_T=torch.zeros(2, 5, 4, 6)),
        pipe("a cat", steps=1, negative_prompt=["a dog", "", "a cat"]),
    ):
        assert isinstance(result, list) and all(isinstance(one, Image.Image) for one in result)
    assert len(pipe("a cat", steps=1, seed=range(3))) == 3
    one, other = pipe("a cat", steps=1, seed=[0, 0], output="tensor")
    torch.testing.assert_close(one, other)


def test_size(pipe):
    assert pipe("a cat", steps=1, seed=0, size=16, output="tensor").shape == (1, 3, 16, 16)
    assert pipe("a cat", steps=1, seed=0, size=(4, 20)).size == (20, 4)
    x_T = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    assert pipe("a cat", steps=1, x_T=x_T, output="tensor").shape == (1, 3, 4, 16)
    assert_equal(
        pipe("a cat", steps=1, seed=0, size=(4, 16), output="tensor"), pipe("a cat", steps=1, x_T=x_T, output="tensor")
    )


class Counting(nn.Module):
    """Remembers how many pictures went through at each call."""

    def __init__(self, module):
        super().__init__()
        self.module, self.calls = module, []

    def forward(self, x, *args, **told):
        self.calls.append(len(x))
        return self.module(x, *args, **told)


def test_nothing_is_computed_twice(pipe, monkeypatch):
    text = Counting(pipe.text_encoder)
    monkeypatch.setattr(pipe, "text_encoder", text)
    seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        pipe(["a cat", "a dog", "a cat"], steps=2, seed=0)
        assert (text.calls, seen) == ([2, 1], [6, 6])
        seen.clear()
        text.calls.clear()
        pipe(["a cat", "a cat"], steps=2, seed=0, guidance=1)
        assert (text.calls, seen) == ([1], [2, 2])
    finally:
        hook.remove()


def test_labels():
    pipe = build(words=False, num_classes=4)
    one = pipe(y=2, **HOW)
    assert apart(one, pipe(y=3, **HOW)) > 1e-3
    assert apart(one, pipe(**HOW)) > 1e-3
    together = pipe(y=[2, None, 3], **HOW)
    assert_equal(together[:1], one)
    assert_equal(together, pipe(y=torch.tensor([2, -1, 3]), **HOW))
    assert_equal(together[1:2], pipe(**HOW | dict(seed=1)))
    x_T = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told, none = (pipe.unet(x_T, torch.tensor([49]), y=torch.tensor([y])) for y in (2, -1))
        x_0 = pipe.schedule.v_to_x_0(x_T, none + 3 * (told - none), torch.tensor([49]))
    assert_equal(pipe.decode(x_0, check=False), pipe(y=2, steps=1, seed=0, output="tensor"))


def test_unconditional():
    pipe = build(words=False)
    seen = []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert pipe(seed=[3, 4], steps=2, output="tensor").shape == (2, 3, 8, 12)
    assert seen == [2, 2]
    assert isinstance(pipe(steps=1), Image.Image)
    with pytest.raises(ValueError, match="for a model without conditions, guidance is 1"):
        pipe(guidance=2)


def test_from_a_picture(pipe, picture):
    """The start is the noised latent, and strength says at which of the timesteps."""
    eps = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    z = pipe.encode(picture)
    with torch.no_grad():
        assert_equal(z, 5 * pipe.vae.encode(2 * picture - 1).mean)
    whole = [49, 37, 24, 11]
    for strength, path in [(1, whole), (0.5, whole[2:]), (0.8, whole[1:]), (None, whole[1:]), (0.01, whole[3:])]:
        steps = list(pipe.steps("a cat", image=picture, strength=strength, steps=4, seed=0))
        assert [step.t for step in steps] == [*path, -1]
        assert_equal(steps[0].x_t, pipe.schedule.add_noise(z, eps, torch.tensor(path[:1])))
    drawn = Image.fromarray(picture[0].mul(255).round().byte().movedim(0, -1).numpy())
    assert pipe("a cat", image=drawn, steps=4, seed=0).size == (12, 8)
    assert len(pipe("a cat", image=[drawn, drawn], steps=4, seed=0)) == 2
    found = pipe("a cat", image=drawn, **HOW)
    assert apart(found, pipe("a cat", image=picture, **HOW)) < 0.01
    pixels = torch.from_numpy(np.array(drawn)).movedim(-1, 0) / 255  # (c, h, w)
    assert_equal(found, pipe("a cat", image=pixels, **HOW))


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_known_stays(name, predicts, picture):
    """Outside the mask each x_t is the picture's latent at the noise of its step, and the last is the latent itself."""
    pipe = build(predicts=predicts)
    mask = torch.zeros(8, 12)
    mask[2:5, 3:9] = 1
    new = mask[::2, ::2].bool()  # the first pixel of each square
    z = pipe.encode(picture)
    for strength in (1, 0.5):
        steps = list(pipe.steps("a cat", image=picture, mask=mask, strength=strength, steps=4, seed=0, sampler=name))
        assert_equal(steps[-1].x_t[..., ~new], z[..., ~new])
        assert apart(steps[-1].x_t[..., new], z[..., new]) > 1e-2
        eps = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
        for step in steps[:1] if name == "ddpm" else steps[:-1]:
            expected = pipe.schedule.add_noise(z, eps, torch.tensor([step.t]))
            torch.testing.assert_close(step.x_t[..., ~new], expected[..., ~new], rtol=0, atol=1e-3)
        if strength == 1:
            assert_equal(steps[0].x_t[..., new], eps[..., new])


def test_all_masked_is_text_to_image_and_nothing_masked_is_the_picture(pipe, picture):
    assert_equal(pipe("a cat", image=picture, mask=torch.ones(8, 12), **HOW), pipe("a cat", **HOW))
    found = pipe("a cat", image=picture, mask=torch.zeros(1, 1, 8, 12, dtype=torch.bool), **HOW)
    assert_equal(found, pipe.decode(pipe.encode(picture)))
    white, black = (Image.new("RGB", (12, 8), colour) for colour in ("white", "black"))
    together = pipe("a cat", image=picture, mask=[white, black], **HOW | dict(seed=[0, 0]))
    assert_equal(together[:1], pipe("a cat", **HOW))
    assert_equal(together[1:], found)


def test_a_u_net_for_inpainting_sees_mask_and_surroundings(picture):
    pipe, seen = build(in_channels=11), []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.zeros(8, 12)
    mask[2:5, 3:9] = 1
    steps = list(pipe.steps("a cat", image=picture, mask=mask, steps=2, seed=0))
    hidden = torch.where(mask > 0, 0.5, picture)  # grey, 0 in [-1, 1]
    for x, step in zip(seen, steps, strict=False):
        assert x.shape == (2, 11, 4, 6)
        for half in x:
            assert_equal(half[:5], step.x_t[0])
            assert_equal(half[5], mask[::2, ::2])
            assert_equal(half[6:], pipe.encode(hidden)[0])
    eps = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    assert_equal(steps[0].x_t, eps)
    changed = torch.where(mask > 0, 0.9, picture)  # what the mask covers does not matter at strength 1
    for strength in (1, 0.4):
        how = dict(mask=mask, strength=strength, **HOW)
        difference = apart(pipe("a cat", image=picture, **how), pipe("a cat", image=changed, **how))
        assert difference <= 1e-5 if strength == 1 else difference > 1e-3
    with pytest.raises(ValueError, match="this U-Net is for inpainting: pass image=... and mask="):
        pipe("a cat")


def test_spacing_offset_and_other_samplers():
    pipe = build(spacing="leading", offset=1)
    assert [step.t for step in pipe.steps("a cat", steps=5)] == [41, 31, 21, 11, 1, -1]
    own = partial(samplers.ddim, eta=1.0)
    assert apart(pipe("a cat", sampler=own, **HOW), pipe("a cat", **HOW)) > 1e-3


def test_timesteps_of_ones_own(pipe, picture):
    """In place of steps, for each sampler; of an image's way the last part is left."""
    own = [40, 22, 9, 3]
    for timesteps in (own, tuple(own), torch.tensor(own)):
        steps = list(pipe.steps("a cat", timesteps=timesteps, seed=0, sampler="dpm_solver_2m"))
        assert [step.t for step in steps] == [*own, -1]
    drawn = [pipe("a cat", timesteps=each, seed=0, output="tensor") for each in (own, torch.tensor(own))]
    assert_equal(*drawn)
    assert isinstance(pipe("a cat", timesteps=torch.tensor(own), seed=0), Image.Image)  # one, not one for each number
    for strength, left in [(1, own), (0.5, own[2:]), (None, own[1:])]:
        steps = list(pipe.steps("a cat", timesteps=own, image=picture, strength=strength, seed=0))
        assert [step.t for step in steps] == [*left, -1]
    plain = samplers.timesteps(pipe.schedule, 3)
    assert_equal(pipe("a cat", timesteps=plain, **HOW), pipe("a cat", **HOW))
    for wrong, message in [([3, 9], "descending order"), ([50, 3], "from 49 down to 0"), ([], "list of integers")]:
        with pytest.raises(ValueError, match=message):
            pipe("a cat", timesteps=wrong, image=picture)


def test_karras_steps():
    pipe = build(spacing="karras")
    expected = samplers.timesteps(pipe.schedule, 6, "karras")
    assert expected != samplers.timesteps(pipe.schedule, 6)
    assert [step.t for step in pipe.steps("a cat", steps=6, sampler="dpm_solver_2m")] == [*expected, -1]
    found = pipe("a cat", timesteps=expected, seed=0, sampler="dpm_solver_2m", output="tensor")
    assert_equal(pipe("a cat", steps=6, seed=0, sampler="dpm_solver_2m", output="tensor"), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(timesteps=[9, 3]), r"without timesteps, .* use pipe\(\.\.\., timesteps=\.\.\.\)"),
        (dict(spacing="karras"), r"without spacing, .* use pipe\.spacing"),
        (dict(steps=9, eta=1.0), "without steps"),
        (dict(predicts="eps"), "without predicts"),
        (dict(clip=1.0, generator=None), r"without generator, clip, .* use pipe\(\.\.\., seed=\.\.\.\), pipe\.clip"),
    ],
)
def test_what_a_sampler_may_not_bring_along(pipe, options, message):
    """The pipeline would overrule it, and nobody would notice."""
    with pytest.raises(ValueError, match=message):
        pipe("a cat", sampler=partial(partial(samplers.ddim, **options), ends_clean=True), **HOW)


def test_a_sampler_may_bring_where_it_ends():
    whole, short = build(), build(ends_clean=False)
    assert apart(whole("a cat", **HOW), short("a cat", **HOW)) > 1e-4
    for ends_clean, expected in [(True, whole), (False, short)]:
        own = partial(samplers.ddim, ends_clean=ends_clean)
        for one in (whole, short):
            assert_equal(one("a cat", sampler=own, **HOW), expected("a cat", **HOW))


def test_help_shows_all_that_can_be_asked_for(pipe):
    """With the defaults of `steps`, where alone they stand."""
    shown, theirs = (inspect.signature(call).parameters for call in (pipe.__call__, pipe.steps))
    assert list(shown) == [*list(theirs)[:-1], "output", "conditions"]
    assert all(shown[name] == theirs[name] for name in theirs)
    assert shown["output"].default == "pil" and shown["steps"].default == 25


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v"])
def test_ddim_may_leave_the_noise_of_timestep_0_in(predicts, picture):
    pipe, short = build(predicts=predicts, spacing="leading"), build(predicts=predicts, ends_clean=False, offset=1)
    how = dict(prompt="a cat", seed=0, steps=3)
    for spacing, offset, path in [("leading", 1, [33, 17, 1]), ("leading", 0, [32, 16, 0])]:
        pipe.spacing, pipe.offset = short.spacing, short.offset = spacing, offset
        seen = []
        hook = short.unet.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[1][0].item()))
        *whole, last = pipe.steps(**how)
        *steps, end = short.steps(**how)
        hook.remove()
        assert [step.t for step in steps] == [t for t in path if t > 0] and end.t == -1
        assert seen == [t for t in path if t > 0]  # no look at timestep 0
        if offset:
            kept = pipe.schedule.alphas_cumprod[0]
            expected = kept.sqrt() * whole[-1].x0_hat + (1 - kept).sqrt() * whole[-1].eps_hat
            assert apart(expected, last.x_t) > 1e-3
        else:
            expected = whole[-1].x_t
        assert_equal(end.x_t, expected)
        assert_equal(pipe(sampler="heun", **how | HOW), short(sampler="heun", **how | HOW))
    mask = torch.zeros(8, 12)
    found = list(short.steps(image=picture, mask=mask, strength=0.3, **how))
    assert_equal(found[-1].x_t, short.encode(picture))  # what is known is known without noise


def test_padding_is_seen_or_not(pipe):
    seeing, seen = build(sees_padding=True), []
    seeing.unet.register_forward_pre_hook(lambda module, args, told: seen.append(told), with_kwargs=True)
    assert apart(seeing("a cat", **HOW), pipe("a cat", **HOW)) > 1e-4
    assert all("mask" not in told for told in seen)


def test_unknown_words_are_named():
    pipe = build()
    words = frozenset(["a", "cat", "dog", "red", "left", "of", *"一只红色的猫"])
    for known in (CAPTIONS, words):
        told = dict(text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, words=known)
        assert LatentDiffusion(pipe.unet, pipe.vae, pipe.schedule, **told).words == words
    pipe.words = words
    pipe("A red cat, a dog: 红猫!", **HOW)  # nothing to warn of
    pipe("", **HOW)
    with pytest.warns(UserWarning, match="never saw 'zebra', 'on', '狗' in training") as caught:
        pipe(["a zebra on a red cat", "狗"], negative_prompt="a cat", **HOW)
    assert len(caught) == 1


def test_an_unscaled_latent_is_caught(pipe, picture):
    z = pipe.encode(picture)
    z = z / z.std()
    pipe.decode(z)
    with pytest.raises(ValueError, match="look like the autoencoder's own"):
        pipe.decode(pipe.vae.unscale(z))
    pipe.decode(pipe.vae.unscale(z), check=False)
    assert pipe.scale_factor == 5.0


def test_tiles_and_many_pictures(pipe, picture, monkeypatch):
    z = torch.randn(3, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    whole = pipe.decode(z)
    monkeypatch.setattr(pipe, "tile", 8)
    assert_equal(pipe.decode(z), whole)
    large = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    tiled = pipe.encode(large)
    monkeypatch.setattr(pipe, "tile", None)
    assert_equal(pipe.encode(large), tiled)
    seen = []
    monkeypatch.setattr(pipe.vae, "decode", lambda z: seen.append(len(z)) or torch.zeros(len(z), 3, 512, 512))
    pipe.decode(torch.zeros(3, 5, 256, 256))
    assert seen == [1, 1, 1]


@torch.no_grad()
def test_large_pictures_need_little_memory():
    """In tiles the autoencoder needs little; and attention, whose kernel is fused, never holds who looks where."""
    pipe = build()
    pipe.vae = AutoencoderKL(3, 5, channels=(8, 12, 16), scale_factor=5.0)
    z, x = torch.randn(1, 5, 64, 64), torch.rand(1, 3, 256, 256)
    whole = peak_memory(pipe.decode, z), peak_memory(pipe.encode, x)
    pipe.tile = 32
    assert peak_memory(pipe.decode, z) < whole[0] / 2 and peak_memory(pipe.encode, x) < whole[1] / 1.5
    layer, n = Attention(16, heads=2), 2048
    x, mask, who_looks_where = torch.randn(1, n, 16), torch.ones(1, n, dtype=torch.bool), 2 * n * n * 4
    for told in ((), (x, mask)):
        assert 0 < peak_memory(layer, x, *told) < who_looks_where / 40
        with attention_maps(layer):
            assert peak_memory(layer, x, *told) > who_looks_where


def test_lower_precision(pipe, picture):
    half = build().to(torch.bfloat16)
    for how in (dict(), dict(image=picture, mask=torch.ones(8, 12))):
        found, exact = (each("a cat", steps=3, seed=0, output="tensor", **how) for each in (half, pipe))
        assert found.dtype == torch.float32 and apart(found, exact) < 0.05
    (first, *_) = half.steps("a cat", seed=0, steps=3)
    assert first.x_t.dtype == torch.float32 and half.device.type == "cpu"


@pytest.mark.parametrize(
    ("build_with", "call_with"),
    [
        (dict(), dict(prompt="a red cat")),
        (dict(words=False, num_classes=3), dict(y=1)),
        (dict(words=False, predicts="x_0", spacing="leading", offset=1, ends_clean=False, size=16), {}),
    ],
)
def test_it_comes_back_from_its_folder(build_with, call_with, tmp_path):
    pipe = build(**build_with)
    pipe.words = None if "words" in build_with else frozenset(["a", "猫", "red", "cat"])
    pipe.schedule = pipe.schedule.zero_terminal_snr()
    folder = pipe.save_pretrained(tmp_path / "here" / "pocket", recipe="by hand")
    again = LatentDiffusion.from_pretrained(folder)
    for name in ("unet", "vae", "text_encoder"):  # to the bit
        if getattr(pipe, name) is not None:
            mine, theirs = (getattr(one, name).state_dict() for one in (pipe, again))
            assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert_equal(again(**HOW, **call_with), pipe(**HOW, **call_with))
    assert again.schedule == pipe.schedule and torch.equal(again.schedule.signal, pipe.schedule.signal)
    names = ("words", "predicts", "guidance", "guidance_interval", "spacing", "offset", "ends_clean", "sees_padding")
    names += ("scale_factor",)
    assert all(getattr(again, name) == getattr(pipe, name) for name in names)
    assert tuple(again.size) == tuple(pipe.size)
    assert weights.record(folder / "unet.safetensors")["recipe"] == "by hand"
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["pocket"]
    assert not any(module.training for module in (again.unet, again.vae))


def test_saving_replaces_a_pipeline_and_nothing_else(pipe, tmp_path, monkeypatch):
    folder = pipe.save_pretrained(tmp_path / "pocket")
    build(words=False).save_pretrained(folder, dtype=torch.float16)
    assert {path.name for path in folder.iterdir()} == {"pipeline.json", "unet.safetensors", "vae.safetensors"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match="mine has no pipeline.json but thesis.txt"):
        pipe.save_pretrained(tmp_path / "mine")
    bad = build()
    bad.text_encoder = lambda ids, mask: None
    with pytest.raises(ValueError, match=r"text encoder is not minildm's.*pipe\(context=\.\.\.\)"):
        bad.save_pretrained(folder)
    assert LatentDiffusion.from_pretrained(folder).text_encoder is None  # the old one is whole
    assert {path.name for path in tmp_path.iterdir()} == {"pocket", "mine"}


def test_shipped_weights_are_named_not_written(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "shelf")
    weights.save("small-vae", pipe.vae)
    folder = pipe.save_pretrained(tmp_path / "pocket", shipped={"vae": "small-vae"})
    assert not (folder / "vae.safetensors").exists() and (folder / "unet.safetensors").exists()
    again = LatentDiffusion.from_pretrained(folder)
    told = HOW | dict(prompt=CAPTIONS[0])
    assert torch.equal(again(**told), pipe(**told))
    with seeded(9):
        other = AutoencoderKL(**pipe.vae.config)
    weights.save("other-vae", other)
    with pytest.raises(ValueError, match="not those that ship as 'other-vae'"):
        pipe.save_pretrained(tmp_path / "pocket", shipped={"vae": "other-vae"})
    assert torch.equal(LatentDiffusion.from_pretrained(folder)(**told), pipe(**told))  # the old one is whole
    weights.save("small-vae", other)
    with pytest.raises(ValueError, match="trained with other weights than the installed 'small-vae': train it again"):
        LatentDiffusion.from_pretrained(folder)


def test_finding(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "shelf")
    with pytest.raises(FileNotFoundError, match="no pipeline 'pockt'.* ships with minildm: none"):
        LatentDiffusion.from_pretrained("pockt")
    pipe.save_pretrained(tmp_path / "shelf" / "pocket")
    assert LatentDiffusion.from_pretrained("pocket").predicts == "v"
    with pytest.raises(FileNotFoundError, match="ships with minildm: pocket"):
        LatentDiffusion.from_pretrained("pockt")
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="layout of diffusers: minildm.stable_diffusion.load"):
        LatentDiffusion.from_pretrained(tmp_path / "sd")


def test_damaged_folders(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "pocket")
    file = folder / "pipeline.json"
    good = json.loads(file.read_text())
    for text in ("{", "[]", "{}", json.dumps({k: v for k, v in good.items() if k != "parts"})):
        file.write_text(text)
        with pytest.raises(ValueError, match="pipeline.json is damaged"):
            LatentDiffusion.from_pretrained(folder)
    file.write_text(json.dumps(good | {"format": "minildm pipeline 9"}))
    with pytest.raises(ValueError, match="found 'minildm pipeline 9'; update minildm"):
        LatentDiffusion.from_pretrained(folder)
    file.write_text(json.dumps(good))
    (folder / "vae.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="vae.safetensors"):
        LatentDiffusion.from_pretrained(folder)


PICTURE = torch.zeros(1, 3, 8, 12)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(size=10), "divisible by 4, .* got 10×10: ask for 8×8"),
        (dict(size=(12, 1)), "got 12×1: ask for 12×4"),
        (dict(image=torch.zeros(1, 3, 9, 12)), "got 9×12: .* resize"),
        (dict(image=PICTURE, size=16), r"size to be that of the image, \(8, 12\), got 16"),
        (dict(image=2 + PICTURE), r"pictures in \[0, 1\]"),
        (dict(image=PICTURE, strength=0), "strength above 0 and up to 1, .* got 0"),
        (dict(image=PICTURE, strength=1.5), "got 1.5"),
        (dict(strength=0.5), "expected an image with a mask or a strength"),
        (dict(mask=torch.ones(8, 12)), "expected an image with a mask"),
        (dict(image=PICTURE, mask=torch.ones(12, 8)), "a mask as large as the picture, 8×12, .* got 1 of 12×8"),
        (dict(steps=0), "steps as a whole number from 1 to 50"),
        (dict(steps=51), "got 51"),
        (dict(sampler="ddin"), "sampler as one of ddpm, ddim, euler, heun, dpm_solver_2m, got 'ddin'"),
        (dict(output="jpeg"), "got 'jpeg'"),
        (dict(guidance=-1), "guidance scale from 0"),
        (dict(prompt=["a", "b"], seed=[1, 2, 3]), "one length, .* got 2 for prompt, 3 for seed"),
        (dict(prompt=[]), "0 for prompt"),
        (dict(prompt=None), 'a prompt, "" to say nothing; got None'),
        (dict(prompt=7), "valid Unicode, got 7"),
        (dict(y=1), "knows no classes"),
        (dict(x_T=torch.zeros(1, 4, 4, 6)), r"expected x_T: \(1, 5, h, w\), got shape \(1, 4, 4, 6\)"),
        (dict(x_T=torch.zeros(1, 5, 3, 6)), "got 6×12"),
        (dict(x_T=torch.zeros(1, 5, 4, 6), size=16), "noise for pictures of 8×12, not of 16"),
    ],
)
def test_bad_arguments(pipe, how, message):
    with pytest.raises(ValueError, match=message):
        pipe(**dict(prompt="a cat", steps=1) | how)


def test_bad_labels_and_words():
    pipe = build(words=False, num_classes=3)
    for y in (3, 4, -2, [0, 9]):
        with pytest.raises(ValueError, match="expected y from 0 to 2"):
            pipe(y=y)
    for how in (dict(prompt="a cat"), dict(negative_prompt="a cat")):
        with pytest.raises(ValueError, match="this model takes no words|to say nothing"):
            pipe(**how)


def test_parts_that_do_not_fit(pipe):
    parts = dict(unet=pipe.unet, vae=pipe.vae, schedule=pipe.schedule)
    told = dict(text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    for changed, message in [
        (dict(unet=Denoiser(4, 5, (8, 12))), "from 5 channels, .* or 11 for inpainting, to 5, got one from 4 to 5"),
        (dict(unet=Denoiser(5, 5, (8, 12))), "a tokenizer and a text_encoder with a U-Net that takes a context"),
        (dict(tokenizer=None), "a tokenizer and a text_encoder"),
        (dict(unet=Denoiser(5, 5, (8, 12), context_dim=9)), "context_dim is 9, the text encoder's 10"),
        (dict(vae=AutoencoderKL(3, 5, channels=(8, 12))), "scale factor is not known: call vae.measure_scale"),
        (dict(predicts="noise"), "got 'noise'"),
        (dict(size=(8, 13)), "divisible by 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            LatentDiffusion(**parts | told | changed)
