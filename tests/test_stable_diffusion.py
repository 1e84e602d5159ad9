"""Stable Diffusion in small, at random: what diffusers saves we load and the reverse, and both draw alike."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from clip_vocabulary import END, TEXTS, vocabulary, write_clip
from compare import random, randomized
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from small_sd import BETAS, small
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.samplers import ddim
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import SD_1, SD_1_INPAINTING, SD_2, SD_2_INPAINTING, load, reference_name, save
from minildm.stable_diffusion import _configs as configs
from minildm.tensors import count_parameters, peak_memory, seeded
from minildm.text import TextEncoder, train_tokenizer

pytestmark = [  # numpy 2 and newer versions of other packages, inside of diffusers and transformers
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# Pairwise different sizes everywhere; latents are a quarter of the picture's size.
UNET = dict(block_out_channels=(16, 24, 40), layers_per_block=2, norm_num_groups=8, sample_size=8, out_channels=4)
UNET |= dict(
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
KINDS = {
    "SD 1": dict(
        unet=dict(in_channels=4, attention_head_dim=4),
        text=dict(hidden_act="quick_gelu", num_hidden_layers=2),
        predicts="epsilon",
        scheduler=diffusers.PNDMScheduler,  # as on the Hub
        pad=END,
    ),
    "SD 2": dict(
        unet=dict(in_channels=4, attention_head_dim=(2, 3, 5), use_linear_projection=True),
        text=dict(hidden_act="gelu", num_hidden_layers=3),
        predicts="v_prediction",
        scheduler=diffusers.DDIMScheduler,
        pad="!",
    ),
    "inpainting": dict(
        unet=dict(in_channels=9, attention_head_dim=4),
        text=dict(hidden_act="quick_gelu", num_hidden_layers=1),
        predicts="epsilon",
        scheduler=diffusers.PNDMScheduler,  # as on the Hub
        pad=END,
    ),
}


def sibling(pipe, kind):
    """Another pipeline of diffusers with the same parts."""
    other = kind(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """diffusers' pipeline of one kind, the folder it saved, and ours, loaded from that."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("sd")
    end = 49407
    with seeded(0):
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=24, intermediate_size=36, num_attention_heads=3, eos_token_id=end, **kind["text"]
            )
        )
        unet = diffusers.UNet2DConditionModel(**UNET, **kind["unet"], cross_attention_dim=24)
        vae = diffusers.AutoencoderKL(
            latent_channels=4,
            block_out_channels=(12, 16, 20),
            layers_per_block=2,
            norm_num_groups=4,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            scaling_factor=0.3,
        )
    for seed, module in enumerate((unet, vae, text)):
        randomized(module, seed)
    with torch.no_grad():  # latents that are all but certain, for diffusers draws where we take the mean
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -40
    parts = dict(unet=unet, vae=vae, text_encoder=text, safety_checker=None, feature_extractor=None)
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(write_clip(folder / "clip", vocabulary(), kind["pad"]))
    parts["scheduler"] = kind["scheduler"](
        **BETAS, prediction_type=kind["predicts"], set_alpha_to_one=False, steps_offset=1
    )
    pipeline = StableDiffusionInpaintPipeline if request.param == "inpainting" else StableDiffusionPipeline
    theirs = pipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "pipe")
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    return SimpleNamespace(kind=request.param, theirs=theirs, ours=load(folder / "pipe"), folder=folder / "pipe")


@pytest.fixture(scope="module")
def one():
    return small()


def assert_equal(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape and ours.std() > 0.01
    assert (ours - theirs).abs().max() <= tolerance


def test_what_it_says_of_itself(both):
    pipe = both.ours
    assert (pipe.scale_factor, pipe.size, pipe.multiple, pipe.guidance) == (0.3, (32, 32), 16, 7.5)
    assert pipe.predicts == ("v" if both.kind == "SD 2" else "eps")
    assert (pipe.spacing, pipe.offset, pipe.inpaints) == ("leading", 1, both.kind == "inpainting")
    assert not pipe.ends_clean and not both.theirs.scheduler.config.set_alpha_to_one
    torch.testing.assert_close(pipe.schedule.betas, NoiseSchedule.scaled_linear().betas)
    for ours, theirs in [(pipe.unet, both.theirs.unet), (pipe.vae, both.theirs.vae)]:
        assert count_parameters(ours) == count_parameters(theirs) and not ours.training
    assert not any(parameter.is_meta for parameter in pipe.text_encoder.parameters())


def test_the_networks_are_the_references(both):
    ours, theirs = both.ours, both.theirs
    x_t, t, context = random(2, ours.unet.in_channels, 8, 12), torch.tensor([3, 981]), random(2, 77, 24, seed=2)
    with torch.no_grad():
        assert_equal(ours.unet(x_t, t, context), theirs.unet(x_t, t, context).sample)
        x, z = random(2, 3, 32, 48), random(2, 4, 8, 12)
        assert_equal(ours.vae.encode(x).mean, theirs.vae.encode(x).latent_dist.mean)
        assert_equal(ours.vae.decode(z), theirs.vae.decode(z).sample)
        ids, mask = ours.tokenizer([text for text in TEXTS if "masterpiece" not in text])
        assert_equal(ours.text_encoder(ids, mask), theirs.text_encoder(ids).last_hidden_state)


@torch.no_grad()
def test_the_networks_take_no_more_memory_than_the_references(both):
    ours, theirs = both.ours, both.theirs
    z, x = random(2, 4, 16, 24), random(2, 3, 64, 96)
    told = random(2, ours.unet.in_channels, 16, 24), torch.tensor([3, 981]), random(2, 77, 24, seed=2)
    for mine, yours, *inputs in [
        (ours.unet, lambda *told: theirs.unet(*told, return_dict=False), *told),
        (ours.vae.encode, lambda x: theirs.vae.encode(x, return_dict=False), x),
        (ours.vae.decode, lambda z: theirs.vae.decode(z, return_dict=False), z),
    ]:
        assert 0 < peak_memory(mine, *inputs) <= peak_memory(yours, *inputs)


def test_the_ids_are_the_references(both):
    for text in TEXTS:
        expected = both.theirs.tokenizer(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
        assert both.ours.tokenizer(text)[0][0].tolist() == expected


PROMPTS, NEGATIVE = ["a cat left of a red heart", "一只猫"], ["", "🐱 blurry"]
HOW = dict(num_inference_steps=4, guidance_scale=5.0, output_type="pt", negative_prompt=NEGATIVE)
OURS = dict(steps=4, guidance=5.0, output="tensor", negative_prompt=NEGATIVE)


@pytest.mark.parametrize("both", ["SD 1", "SD 2"], indirect=True)
def test_text_to_image_is_the_references(both):
    x_T, size = random(2, 4, 8, 12, seed=3), dict(height=32, width=48)
    assert_equal(both.ours(PROMPTS, x_T=x_T, **OURS), both.theirs(PROMPTS, latents=x_T, **size, **HOW).images, 1e-3)
    ours = both.ours(PROMPTS, x_T=x_T, **OURS | dict(guidance=1, steps=3))
    how = size | HOW | dict(guidance_scale=1.0, num_inference_steps=3)
    assert_equal(ours, both.theirs(PROMPTS, latents=x_T, **how).images, 1e-3)


@pytest.mark.parametrize("both", ["SD 1", "SD 2"], indirect=True)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_the_references(both, strength):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    theirs = sibling(both.theirs, StableDiffusionImg2ImgPipeline)
    how = HOW | dict(negative_prompt="", generator=torch.Generator().manual_seed(6))
    found = theirs(PROMPTS[0], image, strength, **how).images
    how = OURS | dict(negative_prompt="", x_T=second_draw(6))
    assert_equal(both.ours(PROMPTS[0], image=image, strength=strength, **how), found, 1e-3)


@pytest.mark.parametrize("both", ["SD 1"], indirect=True)
@pytest.mark.parametrize(("to_one", "eta"), [(True, 0.0), (False, 1.0), (True, 1.0)])
def test_where_ddim_ends(both, to_one, eta, monkeypatch):
    """It counts: with the other end the pictures are ten times as far apart."""
    x_T, prompt = random(1, 4, 8, 12, seed=3), PROMPTS[0]
    scheduler = diffusers.DDIMScheduler.from_config(both.theirs.scheduler.config, set_alpha_to_one=to_one)
    monkeypatch.setattr(both.theirs, "scheduler", scheduler)
    how = HOW | dict(negative_prompt="", height=32, width=48, latents=x_T, eta=eta)
    theirs = both.theirs(prompt, generator=torch.Generator().manual_seed(6), **how).images
    how = OURS | dict(negative_prompt="", x_T=x_T, seed=6, sampler=partial(ddim, eta=eta))
    monkeypatch.setattr(both.ours, "ends_clean", to_one)
    assert_equal(both.ours(prompt, **how), theirs, 5e-5)
    monkeypatch.setattr(both.ours, "ends_clean", not to_one)
    assert (both.ours(prompt, **how) - theirs).abs().max() > 5e-4


@pytest.mark.parametrize("both", ["SD 1"], indirect=True)
def test_what_diffusers_calls_otherwise(both, monkeypatch):
    """The table in the docstring of minildm.stable_diffusion, call by call."""
    x_T, prompt = random(1, 4, 8, 8, seed=3), PROMPTS[0]
    theirs = partial(both.theirs, prompt, num_inference_steps=3, guidance_scale=2.0, output_type="pt")
    ours = partial(both.ours, steps=3, guidance=2.0, output="tensor")

    def seeds(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    assert_equal(ours(prompt, seed=3), theirs(generator=seeds(3)[0]).images, 1e-3)
    several = theirs(generator=seeds(5, 2), num_images_per_prompt=2).images
    assert_equal(ours(prompt, seed=[5, 2]), several, 1e-3)
    assert_equal(ours([prompt] * 2, seed=[5, 2]), several, 1e-3)
    assert_equal(ours(prompt, seed=3, size=(32, 48)), theirs(generator=seeds(3)[0], height=32, width=48).images, 1e-3)
    context, nothing = random(2, 1, 77, 24, seed=4)
    found = both.theirs(
        prompt_embeds=context, negative_prompt_embeds=nothing, latents=x_T, num_inference_steps=3, guidance_scale=2.0,
        output_type="pt",
    ).images  # fmt: skip
    assert_equal(ours(context=context, negative_context=nothing, x_T=x_T), found, 1e-3)
    drawn = theirs(latents=x_T, output_type="pil").images[0], ours(prompt, x_T=x_T, output="pil")
    difference = [torch.tensor(list(picture.tobytes())) for picture in drawn]
    assert (difference[0] - difference[1]).abs().max() <= 1
    latents = []
    theirs(latents=x_T, callback_on_step_end=lambda pipe, i, t, more: latents.append(more["latents"]) or more)
    steps = list(both.ours.steps(prompt, x_T=x_T, steps=3, guidance=2.0))
    assert len(latents) == 3
    for step, expected in zip(steps[1:], latents, strict=True):
        assert_equal(step.x_t, expected, 1e-3)
    skipping = load(both.folder)
    del skipping.text_encoder.blocks[-1:]
    text = both.theirs.text_encoder
    monkeypatch.setitem(text.__dict__, "text_model", text)  # where it was in the transformers that diffusers expects
    how = dict(
        x_T=x_T, steps=3, guidance=1, output="tensor"
    )  # theirs skips in the prompt alone, not in the negative one
    assert_equal(skipping(prompt, **how), theirs(latents=x_T, clip_skip=1, guidance_scale=1.0).images, 1e-3)
    assert (skipping(prompt, **how) - both.ours(prompt, **how)).abs().max() > 1e-3


SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm_solver_2m",
}


@pytest.mark.parametrize("both", ["SD 1"], indirect=True)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_scheduler_is_a_sampler_and_the_schedule_of_the_model(both, name, monkeypatch):
    """The table of lesson 11: their class is our sampler; what their file says of the model is in pipe.schedule."""
    spacing = "trailing" if name.startswith("DPM") else "leading"  # there DPM-Solver counts one step more than others
    kept = {key: value for key, value in both.theirs.scheduler.config.items() if key[0] != "_" and "alpha" not in key}
    scheduler = getattr(diffusers, name).from_config(kept | dict(clip_sample=False, timestep_spacing=spacing))
    monkeypatch.setattr(both.theirs, "scheduler", scheduler)
    monkeypatch.setattr(both.ours, "ends_clean", True)
    monkeypatch.setattr(both.ours, "spacing", spacing)
    x_T, generator = random(1, 4, 8, 12, seed=3), torch.Generator().manual_seed(6)
    how = dict(HOW, negative_prompt="", num_inference_steps=5, latents=x_T, height=32, width=48, generator=generator)
    theirs = both.theirs(PROMPTS[0], **how).images
    ours = partial(both.ours, PROMPTS[0], **OURS | dict(negative_prompt="", x_T=x_T, seed=6, steps=5))
    assert_equal(ours(sampler=SAMPLERS[name]), theirs, 1e-4)
    assert (ours(sampler="ddim" if SAMPLERS[name] == "heun" else "heun") - theirs).abs().max() > 1e-3


def second_draw(seed):
    """The noise of diffusers, which first draws from the latent of the picture."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 4, 8, 12, generator=generator) for _ in range(2)][1]


MASK = torch.zeros(1, 1, 32, 48)
MASK[..., 7:22, 9:40] = 1


@pytest.mark.parametrize("both", ["SD 1", "SD 2"], indirect=True)
def test_inpainting_with_any_u_net_is_the_references(both):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    theirs = sibling(both.theirs, StableDiffusionInpaintPipeline)
    how = HOW | dict(negative_prompt="", strength=0.75, height=32, width=48, generator=torch.Generator().manual_seed(6))
    found = theirs(PROMPTS[0], image * 2 - 1, MASK, **how).images
    how = OURS | dict(negative_prompt="", strength=0.75, x_T=second_draw(6))
    ours = both.ours(PROMPTS[0], image=image, mask=MASK, **how)
    assert_equal(ours, found, 1e-3)
    assert (ours - both.ours(PROMPTS[0], image=image, **how)).abs().max() > 0.01  # the mask mattered


@pytest.mark.parametrize("both", ["inpainting"], indirect=True)
def test_inpainting_with_its_own_u_net_is_the_references(both):
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    x_T = random(2, 4, 8, 12, seed=3)
    mask = torch.cat([MASK, MASK.flip(2)])
    found = both.theirs(PROMPTS, image * 2 - 1, mask, latents=x_T, strength=1.0, height=32, width=48, **HOW).images
    assert_equal(both.ours(PROMPTS, image=image, mask=mask, x_T=x_T, **OURS), found, 1e-3)
    drawn = Image.fromarray(MASK[0, 0].mul(255).byte().numpy())
    how = OURS | dict(negative_prompt="", image=image[:1], x_T=x_T[:1])
    assert_equal(both.ours(PROMPTS[0], mask=drawn, **how), both.ours(PROMPTS[0], mask=MASK, **how))


@pytest.mark.parametrize("both", ["SD 2", "inpainting"], indirect=True)
def test_what_we_save_diffusers_opens(both, tmp_path):
    folder = save(both.ours, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(theirs) is type(both.theirs)
    for name in ("unet", "vae", "text_encoder"):
        expected = getattr(both.theirs, name).state_dict()
        found = getattr(theirs, name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    for key in ("prediction_type", "set_alpha_to_one", "timestep_spacing", "steps_offset"):
        assert theirs.scheduler.config[key] == both.theirs.scheduler.config[key]
    again = load(folder)
    x_T = random(1, 4, 8, 12, seed=3)
    image = torch.full((1, 3, 32, 48), 0.3)
    more = dict(image=image, mask=MASK) if both.ours.inpaints else {}
    pictures = [pipe("a cat", x_T=x_T, steps=2, output="tensor", **more) for pipe in (again, both.ours)]
    assert torch.equal(*pictures)


def test_what_the_learner_trains_diffusers_opens(one, tmp_path):
    """A vocabulary, a schedule and classes of its own."""
    theirs = diffusers.DiffusionPipeline.from_pretrained(save(one, tmp_path / "one"))
    theirs.set_progress_bar_config(disable=True)
    ids = theirs.tokenizer("a cat 猫", padding="max_length", max_length=13, truncation=True)["input_ids"]
    assert ids == one.tokenizer("a cat 猫")[0][0].tolist()
    x_t, t, y = random(2, 4, 4, 6), torch.tensor([3, 50]), torch.tensor([-1, 0])
    with torch.no_grad():
        context = one.text_encoder(torch.tensor([ids, ids]))
        assert_equal(theirs.text_encoder(torch.tensor([ids, ids])).last_hidden_state, context)
        assert_equal(theirs.unet(x_t, t, context, class_labels=y % 4).sample, one.unet(x_t, t, context, y=y))
    torch.testing.assert_close(theirs.scheduler.betas.double(), one.schedule.betas, rtol=1e-6, atol=0)
    again = load(tmp_path / "one")
    assert again.schedule == one.schedule
    how = dict(steps=3, seed=0, y=1, guidance=2, output="tensor")
    assert (again.spacing, again.unet.num_classes) == ("trailing", 3)
    assert torch.equal(again("a cat", **how), one("a cat", **how))


HUB = {  # what the folders on the Hub say, as far as it is not diffusers' or transformers' default
    "SD 1": (
        SD_1,
        dict(cross_attention_dim=768),
        dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
        (859_520_964, 83_653_863, 123_060_480),
    ),
    "SD 1, inpainting": (
        SD_1_INPAINTING,
        dict(cross_attention_dim=768, in_channels=9),
        dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
        (859_535_364, 83_653_863, 123_060_480),
    ),
    "SD 2": (
        SD_2,
        dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
        dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"),
        (865_910_724, 83_653_863, 340_387_840),
    ),
    "SD 2, inpainting": (
        SD_2_INPAINTING,
        dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, in_channels=9),
        dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"),
        (865_925_124, 83_653_863, 340_387_840),
    ),
}
HUB_VAE = dict(block_out_channels=[128, 256, 512, 512], layers_per_block=2)
HUB_VAE |= dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)


@pytest.mark.parametrize("kind", HUB)
def test_the_full_size(kind):
    """Our configurations are those of the files, down to the last parameter."""
    ours, unet, text, expected = HUB[kind]
    file = Path("config.json")
    text = text | dict(eos_token_id=2)
    with torch.device("meta"):
        read = configs.unet(unet, file), configs.vae(HUB_VAE, file), configs.text_encoder(text, file)
        built = Denoiser(**ours.unet), AutoencoderKL(**ours.vae), TextEncoder(**ours.text_encoder)
    assert [module.config for module in built] == [module.config for module in read]
    assert tuple(count_parameters(module) for module in built) == expected and built[2].end == 49407
    assert all(parameter.is_meta for module in built for parameter in module.parameters())


@pytest.mark.parametrize("kind", ["SD 1", "SD 2"])
def test_each_tensor_of_the_full_size_is_the_references(kind):
    ours, unet, text, _ = HUB[kind]
    with torch.device("meta"):
        for module, theirs in (
            (Denoiser(**ours.unet), diffusers.UNet2DConditionModel(**unet)),
            (AutoencoderKL(**ours.vae), diffusers.AutoencoderKL(**HUB_VAE)),
            (TextEncoder(**ours.text_encoder), CLIPTextModel(CLIPTextConfig(**text))),
        ):
            found = {reference_name(module, name): tensor.shape for name, tensor in module.state_dict().items()}
            assert found == {name.removeprefix("text_model."): t.shape for name, t in theirs.state_dict().items()}


def test_the_settings_of_the_full_size(both):
    ours = {"SD 1": SD_1, "SD 2": SD_2, "inpainting": SD_1_INPAINTING}[both.kind]
    named = {name: value for name, value in ours.pipeline.items() if name != "size"}
    assert {name: getattr(both.ours, name) for name in named} == named


@pytest.mark.parametrize("both", ["SD 1"], indirect=True)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_as_the_references_write_them(both, variant, tmp_path):
    both.theirs.save_pretrained(tmp_path / "pipe", max_shard_size="40KB", variant=variant)
    written = sorted(path.name for path in tmp_path.rglob("*.safetensors*"))
    assert sum("-of-" in name for name in written) > 6 and all(
        ("fp16" in name) == (variant == "fp16") for name in written
    )
    found = load(tmp_path / "pipe")
    for name in ("unet", "vae", "text_encoder"):
        ours, expected = (getattr(pipe, name).state_dict() for pipe in (found, both.ours))
        assert all(torch.equal(ours[key], expected[key]) for key in expected)
    index = next(tmp_path.glob("pipe/unet/*.index.*"))
    next(tmp_path.glob("pipe/unet/*-of-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"unet/diffusion.*-of-.*\.safetensors is missing"):
        load(tmp_path / "pipe")
    index.write_text("{}")
    with pytest.raises(ValueError, match=f"{index.name} is damaged"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("both", ["SD 1", "SD 2"], indirect=True)
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.05), (torch.float16, 0.006)])
def test_half_the_memory(both, dtype, close):
    """Networks in half precision, latents and pictures in float32; the bound is a few of dtype's roundings."""
    half = load(both.folder, dtype=dtype)
    assert {p.dtype for m in (half.unet, half.vae, half.text_encoder) for p in m.parameters()} == {dtype}
    x_T = random(1, 4, 8, 12, seed=3)
    drawn, exact = (pipe(PROMPTS[0], steps=3, x_T=x_T, output="tensor") for pipe in (half, both.ours))
    assert drawn.dtype == torch.float32 and 0 < (drawn - exact).abs().mean() < close


def test_a_pocket_pipeline_is_the_references(tmp_path):
    """Small networks with one number of groups, wide latents, a vocabulary and a schedule of their own."""
    with seeded(0):
        tokenizer = train_tokenizer(["a red cat", "a dog"], 280, length=31)
        text = TextEncoder(len(tokenizer), 24, depth=2, heads=3, length=31)
        vae = AutoencoderKL(3, 16, (16, 32, 64, 128), 1, groups=8, scale_factor=0.7)
        unet = Denoiser(16, 16, (32, 48, 80), 1, attention=(1, 2), heads=(2, 3, 5), context_dim=24, groups=8)
    for seed, module in enumerate((unet, vae, text)):
        randomized(module, seed)
    settings = dict(predicts="v", size=(64, 96), spacing="trailing", sees_padding=True)
    pocket = LatentDiffusion(unet, vae, NoiseSchedule.cosine(600), text, tokenizer, **settings)
    theirs = diffusers.DiffusionPipeline.from_pretrained(save(pocket, tmp_path / "pocket"))
    theirs.set_progress_bar_config(disable=True)
    x_T = random(2, 16, 8, 12, seed=3)
    for steps in (4, 5):
        how = HOW | dict(num_inference_steps=steps, latents=x_T, height=64, width=96)
        assert_equal(pocket(PROMPTS, x_T=x_T, **OURS | dict(steps=steps)), theirs(PROMPTS, **how).images, 1e-3)
    again, how = load(tmp_path / "pocket"), dict(seed=1, steps=2, guidance=3, output="tensor")
    assert torch.equal(again("a cat", **how), pocket("a cat", **how))
