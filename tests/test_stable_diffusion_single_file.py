"""Single files in the original layout: what diffusers' own conversion makes of them, ours makes too."""

from functools import cache
from types import SimpleNamespace

import diffusers
import pytest
import torch
from clip_vocabulary import END, vocabulary, write_clip
from compare import assert_equal, random, randomized
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import SD_1, SD_2, load, load_single_file
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion._original_names import original_name
from minildm.tensors import seeded
from minildm.text import TextEncoder, Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # newer packages, inside of diffusers and transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tokenizer", vocabulary(), END)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder)


@cache
def networks(version, in_channels=4):
    """Small ones, of the sizes that nothing in a file says but its version: 32 groups, heads of 64 or 8 of them."""
    with seeded(version):
        unet = dict(in_channels=in_channels, out_channels=4, blocks_per_level=2, attention=(1, 0, 1), groups=32)
        more = dict(heads=8, projection="conv") if version == 1 else dict(heads=(1, 2, 3), projection="linear")
        unet = Denoiser(**unet, channels=(64, 128, 192), context_dim=128, **more)
        vae = AutoencoderKL(3, 4, (32, 64), 2, groups=32, scale_factor=0.18215)
        activation = "quick_gelu" if version == 1 else "gelu"
        text = TextEncoder(49408, 128, depth=3, heads=2, activation=activation, hidden_dim=96)
    return tuple(randomized(module, seed) for seed, module in enumerate((unet, vae, text)))


@cache
def tensors_of(version, modules):
    """A whole file: our parameters by the original names, and what else lies in such files."""
    unet, vae, text = modules
    found = {original_name(module, key): t for module in (unet, vae) for key, t in module.state_dict().items()}
    for name in [name for name in found if ".attn_1." in name and name.endswith("weight") and "norm" not in name]:
        found[name] = found[name][:, :, None, None]
    if version == 1:
        found |= {original_name(text, key): t for key, t in text.state_dict().items()}
        found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        start, state = "cond_stage_model.model.transformer.resblocks", text.state_dict()
        found |= {original_name(text, key, open_clip=True): t for key, t in state.items() if "attention.to_" not in key}
        for i in range(4):
            of = "blocks." + str(min(i, 2))
            for kind in ("weight", "bias"):
                parts = [state[f"{of}.attention.to_{letter}.{kind}"] for letter in "qkv"]
                found[f"{start}.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
                found[f"{start}.{i}.attn.out_proj.{kind}"] = state[f"{of}.attention.to_out.{kind}"]
            if i == 3:  # the last block, which is not used
                last = {
                    key.replace("resblocks.2", "resblocks.3"): t for key, t in found.items() if "resblocks.2" in key
                }
                found |= {key: t + 1 for key, t in last.items()}
        found["cond_stage_model.model.text_projection"] = torch.zeros(128, 128)
        found["cond_stage_model.model.logit_scale"] = torch.zeros(())
    found |= {"betas": NoiseSchedule.scaled_linear().betas.float(), "model_ema.decay": torch.zeros(())}
    found["model_ema.diffusion_modelout2bias"] = torch.zeros(4)
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.fixture(scope="module", params=[1, 2], ids=["SD 1", "SD 2"])
def file(request, tmp_path_factory):
    modules = networks(request.param)
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(tensors_of(request.param, modules), path)
    return SimpleNamespace(version=request.param, path=path, modules=modules)


@torch.no_grad()
def test_what_diffusers_converts_we_read(file, tokenizer):
    checkpoint = load_file(file.path)
    unet, vae, text = file.modules
    config = to_configs.unet(unet, [8, 8])
    their_unet = diffusers.UNet2DConditionModel.from_config(config).eval()
    their_unet.load_state_dict(theirs.convert_ldm_unet_checkpoint(checkpoint, their_unet.config))  # strict
    their_vae = diffusers.AutoencoderKL.from_config(to_configs.vae(vae, [16, 16])).eval()
    their_vae.load_state_dict(theirs.convert_ldm_vae_checkpoint(checkpoint, their_vae.config))
    config = to_configs.text_encoder(text, tokenizer)
    their_text = CLIPTextModel(CLIPTextConfig(**config | dict(num_hidden_layers=3 if file.version == 1 else 4))).eval()
    if file.version == 1:
        state = theirs.convert_ldm_clip_checkpoint(checkpoint, "cond_stage_model.transformer.")
    else:
        state = theirs.convert_open_clip_checkpoint(their_text, checkpoint)
        state = {key: tensor for key, tensor in state.items() if "text_projection" not in key}
    known = {key.removeprefix("text_model."): key for key in their_text.state_dict()}
    state = {known.get(key.removeprefix("text_model."), key): tensor for key, tensor in state.items()}
    missing, unexpected = their_text.load_state_dict(state, strict=False)
    assert not missing and {key.rpartition(".")[2] for key in unexpected} <= {"position_ids"}

    ours = load_single_file(file.path, tokenizer, predicts=None if file.version == 1 else "v")
    x_t, t, context = random(2, 4, 8, 12), torch.tensor([3, 981]), random(2, 77, 128, seed=2)
    assert_equal(ours.unet(x_t, t, context), their_unet(x_t, t, context).sample)
    x, z = random(2, 3, 16, 24), random(2, 4, 8, 12)
    assert_equal(ours.vae.encode(x).mean, their_vae.encode(x).latent_dist.mean)
    assert_equal(ours.vae.decode(z), their_vae.decode(z).sample)
    ids, mask = ours.tokenizer(["a cat", "two dogs and a heart"])
    hidden = their_text(ids, output_hidden_states=True)
    expected = hidden.last_hidden_state
    if file.version == 2:
        norm = next(module for name, module in their_text.named_modules() if name.endswith("final_layer_norm"))
        expected = norm(hidden.hidden_states[-2])
    assert_equal(ours.text_encoder(ids, mask), expected)


def test_it_is_the_pipeline_that_it_was(file, tokenizer):
    pipe = load_single_file(file.path, tokenizer, predicts="v" if file.version == 2 else None)
    for module, expected in zip((pipe.unet, pipe.vae, pipe.text_encoder), file.modules, strict=True):
        assert module.config == expected.config and not module.training
        assert all(torch.equal(t, expected.state_dict()[key]) for key, t in module.state_dict().items())
    settings = (SD_1 if file.version == 1 else SD_2).pipeline
    assert (pipe.predicts, pipe.size) == (("eps", (512, 512)) if file.version == 1 else ("v", (768, 768)))
    for name in ("guidance", "spacing", "offset", "ends_clean", "sees_padding"):
        assert getattr(pipe, name) == settings[name]
    torch.testing.assert_close(pipe.schedule.betas, NoiseSchedule.scaled_linear().betas)
    start = pipe.tokenizer.bpe.token_to_id("!") if file.version == 2 else pipe.tokenizer.end
    assert pipe.tokenizer.pad == start
    assert pipe("a cat", steps=1, size=(16, 24), seed=0, output="tensor").shape == (1, 3, 16, 24)


def test_the_names_of_the_full_size():
    """As many tensors as the files of Stable Diffusion 1 have, and some of their names."""
    with torch.device("meta"):
        modules = Denoiser(**SD_1.unet), AutoencoderKL(**SD_1.vae), TextEncoder(**SD_1.text_encoder)
    unet, vae, text = ({original_name(m, key): t.shape for key, t in m.state_dict().items()} for m in modules)
    assert (len(unet), len(vae), len(text)) == (686, 248, 196)
    start = "model.diffusion_model"
    for name, shape in {
        f"{start}.time_embed.2.bias": (1280,),
        f"{start}.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{start}.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        f"{start}.input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        f"{start}.input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
        f"{start}.middle_block.1.transformer_blocks.0.attn2.to_v.weight": (1280, 768),
        f"{start}.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{start}.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        f"{start}.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        f"{start}.out.2.weight": (4, 320, 3, 3),
    }.items():
        assert unet[name] == shape
    start = "first_stage_model"
    for name, shape in {
        f"{start}.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        f"{start}.encoder.down.2.downsample.conv.bias": (512,),
        f"{start}.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        f"{start}.decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
        f"{start}.decoder.mid.attn_1.proj_out.bias": (512,),
        f"{start}.quant_conv.weight": (8, 8, 1, 1),
    }.items():
        assert vae[name] == shape
    assert text["cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight"] == (768, 768)


def test_older_names_and_half_precision(folder, tmp_path):
    modules = networks(1)
    old = {name.replace(".text_model.", "."): t.half() for name, t in tensors_of(1, modules).items()}
    save_file(old, tmp_path / "old.safetensors")
    pipe = load_single_file(tmp_path / "old.safetensors", folder, dtype=torch.bfloat16)
    assert {p.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters()} == {torch.bfloat16}
    assert (pipe.text_encoder.tokens.weight - modules[2].tokens.weight).abs().max() < 0.02


def test_inpainting(tokenizer, tmp_path):
    save_file(tensors_of(1, networks(1, in_channels=9)), tmp_path / "inpaint.safetensors")
    assert load_single_file(tmp_path / "inpaint.safetensors", tokenizer).inpaints
    save_file(tensors_of(1, networks(1, in_channels=5)), tmp_path / "depth.safetensors")
    with pytest.raises(ValueError, match="depth.safetensors: its parts do not fit together: .*got one from 5 to 4"):
        load_single_file(tmp_path / "depth.safetensors", tokenizer)


@pytest.mark.parametrize(
    ("more", "metadata", "expected"),
    [
        ({}, {"modelspec.prediction_type": "v"}, "v"),
        ({}, {"modelspec.predict_key": "epsilon"}, "eps"),
        ({"v_pred": torch.zeros(0)}, {}, "v"),
    ],
)
def test_what_the_file_says_it_predicts(more, metadata, expected, tokenizer, tmp_path):
    tensors, path = tensors_of(2, networks(2)), tmp_path / "model.safetensors"
    save_file(tensors | more, path, metadata)
    pipe = load_single_file(path, tokenizer)
    assert (pipe.predicts, pipe.size) == (expected, (768, 768) if expected == "v" else (512, 512))
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match="model.safetensors is version 2 and does not say what its U-Net predicts: pred"
    ):
        load_single_file(path, tokenizer)


def test_betas_of_its_own(tokenizer, tmp_path):
    expected = NoiseSchedule.scaled_linear(40).zero_terminal_snr().predicting("v")
    save_file(tensors_of(1, networks(1)) | {"betas": expected.betas}, tmp_path / "zero.safetensors")
    pipe = load_single_file(tmp_path / "zero.safetensors", tokenizer, predicts="v")
    assert pipe.schedule == pipe.unet.schedule == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"conditioner.embedders.0.weight": torch.zeros(1)} | t, "is Stable Diffusion XL; minildm reads"),
        (lambda t: {"lora_unet_down.weight": torch.zeros(1)}, "is a LoRA, not a whole model"),
        (lambda t: {"control_model.weight": torch.zeros(1)} | t, "is a ControlNet"),
        (
            lambda t: {k: v for k, v in t.items() if "first_stage" not in k},
            r"no tensors first_stage_model\.\.\.\.: expect",
        ),
        (lambda t: {"conv_in.weight": torch.zeros(1)}, r"one file; for a folder of diffusers, call load\(folder\)"),
        (lambda t: t | {"model.diffusion_model.extra": torch.zeros(1)}, "extra belongs to no part of this network"),
        (lambda t: {k: v for k, v in t.items() if not k.endswith("out.0.bias")}, "lacks tensors: .*out.0.bias"),
        (lambda t: {k: v for k, v in t.items() if not k.endswith("out.2.weight")}, "lacks the tensor 'out.2.weight'"),
        (
            lambda t: t | {"model.diffusion_model.out.0.bias": torch.zeros(3)},
            r"out.0.bias of shape \(64,\), got \(3,\)",
        ),
        (
            lambda t: {k: v for k, v in t.items() if "input_blocks.1." not in k},
            "its networks are none of minildm's|lacks the tensor",
        ),
    ],
)
def test_what_is_no_such_file(change, message, tokenizer, tmp_path):
    save_file(change(tensors_of(1, networks(1))), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"model.safetensors:? .*{message}"):
        load_single_file(tmp_path / "model.safetensors", tokenizer)


def test_what_is_no_file(tokenizer, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"pickled")
    with pytest.raises(ValueError, match="expected a .safetensors file, got .*ckpt: minildm unpickles nothing"):
        load_single_file(tmp_path / "model.ckpt", tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load_single_file(tmp_path / "model.safetensors", tokenizer)
    with pytest.raises(FileNotFoundError, match="there is no file .*none.safetensors"):
        load_single_file(tmp_path / "none.safetensors", tokenizer)
    with pytest.raises(ValueError, match=r"model.safetensors is one file: load_single_file\(file, tokenizer\)"):
        load(tmp_path / "model.safetensors")
