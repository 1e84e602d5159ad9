"""Pipelines without an autoencoder, from and to the DDPMPipeline and DDIMPipeline of diffusers: the same pictures."""

import json
import math

import diffusers
import pytest
import torch
from compare import randomized
from diffusers import DDIMPipeline, DDPMPipeline
from small_sd import change, small
from test_stable_diffusion import assert_equal

from minildm.denoiser import Denoiser, timestep_embedding
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import load, save
from minildm.stable_diffusion._time import told_later
from minildm.tensors import seeded

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # newer packages, inside of diffusers

UNET = dict(channels=(16, 24), attention=(1,), heads=(2, 3), groups=8)


def build(schedule=None, unet=UNET, channels=3, **settings):
    with seeded(0):
        model = Denoiser(channels, channels, **unet)
    schedule = schedule or NoiseSchedule.linear(50).predicting("v")
    return LatentDiffusion(randomized(model), schedule=schedule, **dict(size=(16, 24)) | settings)


def drawn(pipe, seed=3, steps=5, **how):
    """A picture (1, c, h, w) of diffusers' pipeline, and the same call of ours."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipe(generator=generator, num_inference_steps=steps, output_type="pt", **how).images


HOW = dict(seed=3, steps=5, output="tensor")


def in_own_memory(pipe):
    """The pipeline with its U-Net's weights copied to where torch would have put them.

    Read straight from a file they lie on no multiple of 64 bytes, and some processors then add in another order.
    """
    for parameter in pipe.unet.parameters():
        parameter.data = parameter.data.clone()
    return pipe


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (NoiseSchedule.linear(50).predicting("v"), {}),
        (NoiseSchedule.cosine(60), dict(clip=math.inf, spacing="leading", offset=2)),
        (NoiseSchedule.scaled_linear(1000).predicting("x_0"), dict(size=16, clip=0.2)),
        (NoiseSchedule.cosine(80).zero_terminal_snr().predicting("v"), dict(clip=0.5)),
        (NoiseSchedule.linear(40, 1e-3, 0.1), dict(clip=math.inf, spacing="leading", ends_clean=False)),
    ],
    ids=["v", "cosine", "x_0", "zero terminal SNR", "noise left in"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_we_save_draws_the_same_in_diffusers(schedule, settings, channels, tmp_path):
    pipe = build(schedule, channels=channels, **settings)
    folder = save(pipe, tmp_path / "pixels")
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(theirs) is DDIMPipeline and type(theirs.unet) is diffusers.UNet2DModel
    ours = pipe(**HOW)
    assert_equal(ours, drawn(theirs, use_clipped_model_output=True), 1e-4)
    again = in_own_memory(load(folder))
    assert torch.equal(again(**HOW), ours)
    assert again.schedule == again.unet.schedule == pipe.schedule and again.vae is None
    for name in ("size", "guidance", "spacing", "offset", "ends_clean", "labels"):
        assert getattr(again, name) == getattr(pipe, name)
    if "clip" not in settings:
        assert (ours - build(schedule, channels=channels, clip=math.inf, **settings)(**HOW)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("scheduler", "more"),
    [
        (diffusers.DDPMScheduler, {}),
        (diffusers.DDPMScheduler, dict(clip_sample=False, prediction_type="v_prediction")),
        (diffusers.DDPMScheduler, dict(clip_sample_range=0.4, beta_schedule="squaredcos_cap_v2")),
        (diffusers.DDIMScheduler, {}),
        (diffusers.DDIMScheduler, dict(set_alpha_to_one=False, clip_sample=False, steps_offset=1)),
    ],
)
def test_what_diffusers_saves_draws_the_same_here(scheduler, more, tmp_path):
    with seeded(0):
        unet = diffusers.UNet2DModel(
            sample_size=16,
            block_out_channels=(16, 24),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            layers_per_block=1,
        )
    kind = DDPMPipeline if scheduler is diffusers.DDPMScheduler else DDIMPipeline
    theirs = kind(randomized(unet), scheduler(num_train_timesteps=100, **more))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert ours.size == (16, 16) and ours.guidance == 1
    how, name = ({}, "ddpm") if kind is DDPMPipeline else (dict(use_clipped_model_output=True), "ddim")
    assert_equal(ours(**HOW, sampler=name), drawn(theirs, **how), 1e-4)


FLOW = dict(sampler="euler", seed=3, output="tensor")


@pytest.mark.parametrize(("steps", "total"), [(4, 1000), (5, 41), (2, 7)])
def test_a_flow_draws_the_same_in_diffusers_and_back(steps, total, tmp_path):
    """There the network is told timesteps from 1, and its first layer makes up for it."""
    pipe = build(NoiseSchedule.flow(total), spacing="linspace", clip=math.inf)
    folder = save(pipe, tmp_path / "flow")
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(theirs) is DDPMPipeline and type(theirs.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    ours = pipe(steps=steps, **FLOW)
    assert_equal(ours, drawn(theirs, steps=steps), 1e-4)
    again = load(folder)
    assert again.schedule == again.unet.schedule == pipe.schedule and again.spacing == "linspace"
    assert_equal(again(steps=steps, **FLOW), ours, 1e-4)
    theirs.unet.time_embedding.linear_1.weight.data.copy_(pipe.unet.time[0].weight)  # it mattered
    assert (drawn(theirs, steps=steps) - ours).abs().max() > 1e-3


def test_a_flow_of_diffusers_draws_the_same_here(tmp_path):
    with seeded(0):
        sizes = dict(block_out_channels=(16, 24), norm_num_groups=8, layers_per_block=1, sample_size=16)
        kinds = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        theirs = DDPMPipeline(
            randomized(diffusers.UNet2DModel(**sizes, **kinds)), diffusers.FlowMatchEulerDiscreteScheduler()
        )
    theirs.save_pretrained(tmp_path / "theirs")
    assert_equal(load(tmp_path / "theirs")(steps=4, **FLOW), drawn(theirs, steps=4), 1e-4)
    change(tmp_path / "theirs" / "scheduler" / "scheduler_config.json", shift=3.0)
    with pytest.warns(UserWarning, match="shift is 3.0, but minildm lays its steps out as pipe.spacing says"):
        assert load(tmp_path / "theirs").schedule == NoiseSchedule.flow()  # what the network was trained with


@pytest.mark.parametrize("dim", [2, 16, 31])
@pytest.mark.parametrize("steps", [-1, 1, 5])
def test_told_later(dim, steps):
    weight, t = torch.randn(7, dim, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 40, 990])
    expected = timestep_embedding(t + steps, dim) @ weight.T
    torch.testing.assert_close(timestep_embedding(t, dim) @ told_later(weight, steps).T, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(told_later(told_later(weight, steps), -steps), weight, rtol=0, atol=1e-6)
    assert told_later(weight.half(), steps).dtype == torch.float16


def test_names_of_classes_travel(tmp_path):
    own = dict(labels=["cat", "dog", "红心"], guidance=2.5, guidance_interval=(3, 40))
    pipe = build(unet=UNET | dict(num_classes=3), **own)
    with pytest.warns(UserWarning, match="tells its U-Net no class: pipe.unet.x_t, t, class_labels=y. does") as said:
        folder = save(pipe, tmp_path / "classes")
    assert said[0].filename == __file__
    again = in_own_memory(load(folder))
    assert all(getattr(again, name) == value for name, value in own.items()) and again.unet.num_classes == 3
    for y in ("dog", 2, None):
        assert torch.equal(again(y=y, **HOW), pipe(y=y, **HOW))
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    x_t, t = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 20, 49])
    with torch.no_grad():
        expected = theirs.unet(x_t, t, class_labels=torch.tensor([1, 2, 3])).sample
        assert_equal(pipe.unet(x_t, t, y=torch.tensor([1, 2, -1])), expected)


def test_classes_without_a_no_label_are_all_there(tmp_path):
    with seeded(0):
        sizes = dict(block_out_channels=(16, 24), norm_num_groups=8, layers_per_block=1, sample_size=16)
        kinds = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        unet = randomized(diffusers.UNet2DModel(**sizes, **kinds, num_class_embeds=4))
    DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="unet: its 4 classes are all of something: without y"):
        ours = load(tmp_path / "theirs")
    x_t, t, y = (
        torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
        torch.full((4,), 9),
        torch.arange(4),
    )
    with torch.no_grad():
        assert_equal(ours.unet(x_t, t, y=y), unet(x_t, t, class_labels=y).sample)
        unet.class_embedding.weight.zero_()
        assert_equal(ours.unet(x_t, t), unet(x_t, t, class_labels=y).sample)
    with pytest.warns(UserWarning, match="no class"):
        save(ours, tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.unet.num_classes == 4 and torch.equal(again.unet(x_t, t, y=y), ours.unet(x_t, t, y=y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(spacing="linspace"), "DDIM does not lead from one timestep of linspace to the next"),
        (dict(spacing="linspace", unet=UNET | dict(num_classes=1)), "linspace|no class"),
        (dict(schedule=NoiseSchedule.flow()), 'steps of a flow out as spacing="linspace", and does not clip'),
    ],
)
def test_saving_says_what_will_differ(settings, message, tmp_path):
    with pytest.warns(UserWarning, match=message) as said:
        save(build(**settings), tmp_path / "pixels")
    assert {warning.filename for warning in said} == {__file__} and len(said) == len(settings)


@pytest.mark.parametrize(
    "found",
    [
        {"guidance": "much"},
        {"guidance": math.nan},
        {"labels": "cat"},
        {"labels": [1]},
        {"more": 1},
        [],
        3,
        {"guidance": True},
        {"guidance_interval": [40, 3]},
    ],
)
def test_damaged_settings_of_ours(found, tmp_path):
    folder = save(build(), tmp_path / "pixels")
    change(folder / "model_index.json", _minildm=found)
    with pytest.raises(
        ValueError, match="model_index.json: _minildm is .* expected guidance, a number, guidance_interval, .*labels"
    ):
        load(folder)


def test_labels_that_do_not_fit(tmp_path):
    folder = save(build(), tmp_path / "pixels")
    change(folder / "model_index.json", _minildm={"labels": ["cat"]})
    with pytest.raises(ValueError, match="pixels: its parts do not fit together: .*a different name for each class"):
        load(folder)


WORDS = dict(channels=(16, 24), groups=8, context_dim=12)


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (lambda: build(unet=WORDS), "diffusers has no pipeline for words in pixels: save_pretrained writes"),
        (lambda: LatentDiffusion(Denoiser(7, 3, **UNET), schedule=NoiseSchedule.linear()), "inpainting in pixels"),
        (
            lambda: LatentDiffusion(Denoiser(4, 4, **UNET), small().vae, NoiseSchedule.linear()),
            "diffusers has no pipeline for latents without words: save_pretrained writes",
        ),
        (lambda: build(unet=dict(channels=(16, 32))), r"groups: build it with one number of groups, groups=4"),
        (
            lambda: build(unet=UNET | dict(attention=(0, 1), heads=1)),
            r"build it with heads=\[2, 3\], so that each has 8",
        ),
        (
            lambda: build(NoiseSchedule.flow(shift=3.0)),
            "no pipeline for .*flow, .* it has NoiseSchedule.flow.. in pixels",
        ),
        (
            lambda: build(NoiseSchedule.linear().predicting("flow")),
            "no pipeline for .*linear, .*expected a network that predicts one of 'eps', 'x_0', 'v'",
        ),
        (lambda: build(NoiseSchedule.flow().predicting("v")), "diffusers takes betas: this schedule has no betas"),
    ],
)
def test_what_diffusers_has_no_class_for(pipe, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(pipe(), tmp_path / "pixels")
    assert not any(tmp_path.iterdir())


def test_a_text_encoder_of_ones_own(tmp_path):
    """The rest is saved, and both take its embeddings."""
    one = small()
    own = LatentDiffusion(
        one.unet,
        one.vae,
        one.schedule,
        lambda ids, mask: ids[..., None] / 9.0 + torch.zeros(12),
        one.tokenizer,
        size=(8, 12),
    )
    with pytest.raises(
        ValueError, match=r"through a TextEncoder, got <function.*save the rest, LatentDiffusion\(pipe\.unet"
    ):
        save(own, tmp_path / "own")
    pipe = LatentDiffusion(own.unet, own.vae, own.schedule, size=(8, 16))
    folder = save(pipe, tmp_path / "own")
    assert sorted(path.name for path in folder.iterdir()) == ["model_index.json", "scheduler", "unet", "vae"]
    again = load(folder)
    assert again.text_encoder is None and again.tokenizer is None
    context, nothing = torch.randn(2, 1, 5, 12, generator=torch.Generator().manual_seed(1))
    x_T = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(2))
    how = dict(context=context, negative_context=nothing, x_T=x_T, steps=3, guidance=2.0, output="tensor", y=1)
    assert torch.equal(again(**how), pipe(**how))
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.unet.class_embedding = None  # which StableDiffusionPipeline does not tell it
    with torch.no_grad():
        pipe.unet.classes.weight.zero_()
    how.pop("y")
    found = theirs(
        prompt_embeds=context, negative_prompt_embeds=nothing, latents=x_T, num_inference_steps=3, guidance_scale=2.0,
        output_type="pt", height=8, width=16,
    ).images  # fmt: skip
    assert_equal(pipe(**how), found, 1e-3)


def test_an_index_of_other_networks(tmp_path):
    folder = save(build(), tmp_path / "pixels")
    index = json.loads((folder / "model_index.json").read_text())
    for changed, said in [
        (dict(unet=[None, None]), "names no network: expected unet, or unet, vae"),
        (dict(text_encoder=["transformers", "CLIPTextModel"]), "names unet, text_encoder: expected unet, or"),
    ]:
        (folder / "model_index.json").write_text(json.dumps(index | changed))
        with pytest.raises(ValueError, match=f"model_index.json {said}"):
            load(folder)
    change(folder / "model_index.json", unet=index["unet"], text_encoder=None, _class_name="KarrasVePipeline")
    with pytest.warns(
        UserWarning, match="_class_name is 'KarrasVePipeline'; minildm takes its parts for .* DDIMPipeline"
    ):
        load(folder)
