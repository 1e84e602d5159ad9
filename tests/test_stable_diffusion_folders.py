"""Folders in the layout of diffusers: older and damaged files, what is refused, what is downloaded, what is said."""

import json
import shutil
import sys

import diffusers
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sd import BETAS, change, small, vars_of
from transformers import CLIPTextConfig, CLIPTextModel

from minildm.adapt import LoRA
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import load, reference_name, save

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # newer packages, inside of diffusers and transformers


@pytest.fixture(scope="module")
def one():
    return small()


def test_each_tensor_is_read_straight_to_its_place(one, tmp_path, monkeypatch):
    """No second copy: the parameters are the very tensors that were read."""
    read = set()

    class Spy:
        def __init__(self, *args, **options):
            self.file = safe_open(*args, **options)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            tensor = self.file.get_tensor(name)
            read.add(tensor.data_ptr())
            return tensor

    folder = save(one, tmp_path / "one")
    monkeypatch.setattr("minildm.stable_diffusion._weights.safe_open", Spy)
    pipe = load(folder)
    assert read == {p.data_ptr() for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters()}


def test_older_and_larger_files(one, tmp_path):
    """Shards, the names of older autoencoders, position_ids, a prefix or none."""
    folder = save(one, tmp_path / "one")
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / "unet" / file)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(vae)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in tensors.items()}
    assert sum("proj_attn" in key for key in tensors) == 4
    save_file(tensors, vae)
    theirs = diffusers.AutoencoderKL.from_pretrained(folder / "vae").state_dict()  # which knows these names, too
    assert all(torch.equal(theirs[reference_name(one.vae, key)], t) for key, t in one.vae.state_dict().items())
    text = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(text) | {"text_model.embeddings.position_ids": torch.arange(13)[None]}
    save_file({key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}, text)
    again = load(folder)
    for name in ("unet", "vae", "text_encoder"):
        before, after = (getattr(pipe, name).state_dict() for pipe in (one, again))
        assert all(torch.equal(before[key], after[key]) for key in before)
    index.write_text("{}")
    with pytest.raises(ValueError, match="index.json is damaged"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {"a": "none.safetensors"}}))
    with pytest.raises(FileNotFoundError, match="none.safetensors is missing"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet/config.json", "addition_embed_type", "text_time", "null or false"),  # SDXL
        ("unet/config.json", "transformer_layers_per_block", [1, 2], "expected 1"),
        ("unet/config.json", "down_block_types", ["DownBlock2D", "AttnDownBlock2D"], "2 of CrossAttnDownBlock2D"),
        ("unet/config.json", "up_block_types", ["UpBlock2D", "UpBlock2D"], "where down_block_types have it"),
        ("unet/config.json", "cross_attention_dim", [12, 12], "one whole number from 1"),
        ("unet/config.json", "attention_head_dim", [2, 0], "one whole number from 1"),
        ("unet/config.json", "block_out_channels", 16, "a list, each one whole number from 1"),
        ("unet/config.json", "norm_eps", "1e-5", "a number above 0"),
        ("unet/config.json", "sample_size", [4, 6, 8], "one or two whole numbers from 1"),
        ("vae/config.json", "mid_block_add_attention", None, "true or false"),
        ("vae/config.json", "layers_per_block", 0, "one whole number from 1"),
        ("vae/config.json", "shift_factor", 0.1, "null or false"),
        ("vae/config.json", "down_block_types", ["DownBlock2D"] * 2, "DownEncoderBlock2D 2 times"),
        ("text_encoder/config.json", "model_type", "t5", "'clip_text_model'"),
        ("text_encoder/config.json", "hidden_act", "relu", "'quick_gelu' or 'gelu'"),
        ("text_encoder/config.json", "use_attention_mask", True, "false"),
        ("text_encoder/config.json", "hidden_size", None, "one whole number from 1"),
        ("scheduler/scheduler_config.json", "trained_betas", {}, "one whole number"),
        ("scheduler/scheduler_config.json", "timestep_spacing", "karras", "'leading', 'linspace', 'trailing'"),
        ("scheduler/scheduler_config.json", "set_alpha_to_one", 0, "true or false"),
        ("scheduler/scheduler_config.json", "prediction_type", "flow", "'epsilon', 'sample', 'v_prediction'"),
        ("scheduler/scheduler_config.json", "thresholding", True, "false"),
        ("model_index.json", "text_encoder_2", ["transformers", "CLIPTextModelWithProjection"], "no other part"),
    ],
)
def test_what_is_not_supported_is_named(one, tmp_path, file, key, value, message):
    folder = save(one, tmp_path / "one")
    change(folder / file, **{key: value})
    with pytest.raises(ValueError, match=f"{file}: {key} is .* does not support: .*{message}"):
        load(folder)


def test_stable_diffusion_xl_is_named(one, tmp_path):
    """As diffusers writes it: a second text tower, and embeddings that tell the U-Net more."""
    folder = save(one, tmp_path / "one")
    sizes = dict(block_out_channels=(8, 16), norm_num_groups=8, cross_attention_dim=12)
    kinds = dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")
    )
    more = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=40)
    diffusers.UNet2DConditionModel(**sizes, **kinds, **more).save_pretrained(folder / "unet")
    with pytest.raises(
        ValueError, match="unet/config.json: addition_.* is .* does not support: expected null or false"
    ):
        load(folder)
    kind = ["diffusers", "StableDiffusionXLPipeline"]
    change(folder / "model_index.json", _class_name=kind[1], tokenizer_2=["transformers", "CLIPTokenizer"])
    with pytest.raises(ValueError, match="model_index.json: tokenizer_2 is .* and no other part"):
        load(folder)


@pytest.mark.filterwarnings("ignore:.*steps_offset is 0")
def test_other_schedules(one, tmp_path):
    folder = save(one, tmp_path / "one")
    file = folder / "scheduler" / "scheduler_config.json"
    base = dict(_class_name="PNDMScheduler", num_train_timesteps=30)
    for config, expected in [
        (dict(beta_schedule="linear", beta_end=0.03), NoiseSchedule.linear(30, 1e-4, 0.03)),
        (dict(beta_schedule="squaredcos_cap_v2"), NoiseSchedule.cosine(30)),
        (BETAS | dict(rescale_betas_zero_snr=True), NoiseSchedule.scaled_linear(30).zero_terminal_snr()),
    ]:
        file.write_text(json.dumps(base | config))
        pipe = load(folder)
        assert pipe.schedule == pipe.unet.schedule == expected
        assert (pipe.predicts, pipe.spacing, pipe.offset) == ("eps", "leading", 0)
    file.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler"}))
    assert load(folder).spacing == "linspace"
    for config, message in [
        (dict(beta_schedule="sigmoid"), "beta_schedule is 'sigmoid'"),
        (dict(trained_betas=[0.1, 1.5]), "every beta above 0 and below 1"),
    ]:
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"scheduler_config.json: .*{message}"):
            load(folder)
    for schedule in (NoiseSchedule.linear(), NoiseSchedule.scaled_linear(), NoiseSchedule.cosine().zero_terminal_snr()):
        one_more = LatentDiffusion(**vars_of(one) | dict(schedule=schedule, spacing="leading", offset=1))
        saved = save(one_more, tmp_path / f"{schedule.betas[-1]:.5f}")
        assert load(saved).schedule.betas.allclose(schedule.betas, rtol=1e-12) and load(saved).offset == 1


def test_damaged_weights(one, tmp_path):
    folder = save(one, tmp_path / "one")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet)
    name = sorted(tensors)[0]
    for damaged, message in [
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"unet lacks tensors: {name}"),
        (tensors | {"add_embedding.weight": torch.zeros(1)}, "model.safetensors: the tensor add_embedding.weight"),
        (tensors | {name: torch.zeros(2, 3)}, rf"expected {name} of shape .*, got \(2, 3\)"),
    ]:
        save_file(damaged, unet)
        with pytest.raises(ValueError, match=message):
            load(folder)
    unet.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load(folder)
    unet.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing; minildm reads safetensors only"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))]
    + ["scheduler/scheduler_config.json"],
)
def test_damaged_configurations(one, tmp_path, name):
    folder = save(one, tmp_path / "one")
    for text in ("{", "[]"):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load(folder)


def test_a_damaged_tokenizer(one, tmp_path):
    folder = save(one, tmp_path / "one")
    config = folder / "tokenizer" / "tokenizer_config.json"
    for length in ("77", None, 1):
        change(config, model_max_length=length)
        with pytest.raises(ValueError, match="tokenizer_config.json: expected model_max_length as a number from 2"):
            load(folder)
    for pad in ("<pad>", 3):
        change(config, model_max_length=13, pad_token=pad)
        with pytest.raises(ValueError, match=f"tokenizer: the special token {pad!r} is not in the vocabulary"):
            load(folder)
    change(config, pad_token=None)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor merges.txt"):
        load(folder)
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        load(folder)


def test_parts_that_do_not_fit_together(one, tmp_path):
    folder = save(one, tmp_path / "one")
    text = folder / "text_encoder"
    CLIPTextModel(
        CLIPTextConfig(vocab_size=259, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(text)
    change(text / "config.json", eos_token_id=258)
    with pytest.raises(ValueError, match="one: its parts do not fit together: .*context_dim is 12, .* encoder's 16"):
        load(folder)


def test_not_found(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere', and it is no name"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="'nobody/nothing', and it could not be downloaded: are you online"):
        load("nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="no folder 'nobody/nothing'; to download it: pip install huggingface_hub"):
        load("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model_index.json is missing"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (dict(unet=Denoiser(4, 4, (8, 16), heads=2, context_dim=12)), r"have \[2, 4, 6, 8\] groups: build it"),
        (dict(unet=Denoiser(4, 4, (8, 16), heads=2, context_dim=12, groups=8, skip=False)), "skip=False"),
        (dict(text_encoder=lambda ids, mask: None), "through a TextEncoder, got <function"),
        (dict(vae=AutoencoderKL(3, 4, (8,), patch=2, groups=4, scale_factor=1.0)), "no such autoencoder: .*patch=2"),
        (dict(vae=AutoencoderKL(3, 4, (8, 12), (1, 2), groups=4, scale_factor=1.0)), r"blocks_per_level=\[1, 2\]"),
    ],
)
def test_what_diffusers_has_no_like_of(one, parts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(LatentDiffusion(schedule=one.schedule, **vars_of(one) | parts), tmp_path / "one")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_a_lora_is_not_written_but_merged_it_is(name, tmp_path):
    pipe = small()
    lora = LoRA(getattr(pipe, name))
    for parameter in lora.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    for merge in (lambda: None, lora.merge):
        merge()
        with pytest.raises(ValueError, match=r"a LoRA beside .*lora\.merge\(\) and then lora\.remove\(\) keep it"):
            save(pipe, tmp_path / "one")
        assert not any(tmp_path.iterdir())
    lora.remove()
    again, module = getattr(load(save(pipe, tmp_path / "one")), name), getattr(pipe, name)
    assert all(torch.equal(tensor, module.state_dict()[key]) for key, tensor in again.state_dict().items())
    before = getattr(small(), name).state_dict()
    assert any(not torch.equal(tensor, before[key]) for key, tensor in again.state_dict().items())
    lora = LoRA(module)
    lora.remove()  # alone: all is as it was
    assert module.state_dict().keys() == before.keys()


def halved(folder, *parts, variant="fp16"):
    """Rename the weights of some parts, as if they were another variant of them."""
    for part in parts:
        (file,) = (folder / part).glob("*.safetensors")
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A repository that is a folder here; what was downloaded of it lies in the second. -> (repository, downloaded)"""
    repository, local = tmp_path / "repository", tmp_path / "downloaded"

    def snapshot_download(repo_id, allow_patterns=None, ignore_patterns=None):
        assert repo_id == "some/body"
        there = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for name in filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, local / name)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return repository, local


NETWORKS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize("alone", [NETWORKS, ("unet",), ("vae", "text_encoder")])
def test_a_repository_with_half_precision_alone(one, hub, alone):
    halved(save(one, hub[0]), *alone)
    for found in (load("some/body"), load(hub[0]), load("some/body", variant="fp16")):
        for name in NETWORKS:
            ours, expected = (getattr(pipe, name).state_dict() for pipe in (found, one))
            assert all(torch.equal(ours[key], expected[key]) for key in expected)


def weights_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (None, ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]),
        ("fp16", ["text_encoder/model.fp16", "unet/diffusion_pytorch_model.fp16", "vae/diffusion_pytorch_model"]),
        ("non_ema", ["text_encoder/model", "unet/diffusion_pytorch_model.non_ema", "vae/diffusion_pytorch_model"]),
    ],
)
def test_of_several_variants_one_is_downloaded(one, hub, variant, expected):
    """And nothing else: neither the pickled twins nor pictures."""
    repository, downloaded = hub
    save(one, repository)
    for name in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        shutil.copy(repository / f"{name}.safetensors", repository / f"{name}.fp16.safetensors")
    shutil.copy(
        repository / "unet" / "diffusion_pytorch_model.safetensors",
        repository / "unet" / "diffusion_pytorch_model.non_ema.safetensors",
    )
    for name in ("unet/diffusion_pytorch_model.bin", "picture.png", "v1-5-pruned.safetensors", "safety_checker/a.json"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_bytes(b"large")
    load("some/body", variant=variant)
    assert weights_in(downloaded) == [f"{name}.safetensors" for name in expected]
    assert not {path.suffix for path in downloaded.rglob("*.*")} - {".json", ".txt", ".safetensors"}
    assert not (downloaded / "safety_checker").exists()


@pytest.mark.parametrize(("variant", "shards"), [(None, 1), ("fp16", 3), ("non_ema", 2)])
def test_shards_in_each_variant(one, hub, variant, shards):
    repository, downloaded = hub
    whole = save(one, repository) / "unet" / "diffusion_pytorch_model.safetensors"
    tensors, dot = load_file(whole), f".{variant}" if variant else ""
    names = sorted(tensors)
    where = {
        name: f"diffusion_pytorch_model{dot}-{1 + i % shards:05}-of-{shards:05}.safetensors"
        for i, name in enumerate(names)
    }
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, whole.with_name(file))
    index = whole.with_name(f"{whole.name}.index{dot}.json")
    index.write_text(json.dumps({"weight_map": where}))
    whole.unlink()
    found = load("some/body", variant=variant).unet.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in one.unet.state_dict().items())
    assert len(list((downloaded / "unet").glob("*.safetensors"))) == shards


def test_a_whole_file_beside_an_index_without_its_shards(one, tmp_path):
    folder = save(one, tmp_path / "one")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "elsewhere.safetensors"}}))
    assert torch.equal(load(folder).unet.stem.weight, one.unet.stem.weight)


def test_an_index_does_not_lead_out_of_its_folder(one, tmp_path):
    folder = save(one, tmp_path / "one")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "outside.safetensors")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../outside.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"one/unet/outside\.safetensors is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "diffusion_pytorch_model.msgpack"])
def test_what_is_pickled_is_not_opened(one, tmp_path, name):
    folder = save(one, tmp_path / "one")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / name)
    with pytest.raises(
        FileNotFoundError, match=f"safetensors only; {name} is not opened, since unpickling can run any"
    ):
        load(folder)


def test_a_variant_that_is_not_there(one, hub):
    folder = save(one, hub[0])
    for where in (folder, "some/body"):
        with pytest.raises(FileNotFoundError, match="no weights of the variant 'bf16'"):
            load(where, variant="bf16")
    halved(folder, "unet", variant="bf16")
    load("some/body", variant="bf16")
    with pytest.raises(
        FileNotFoundError, match=r"only; there is diffusion_pytorch_model\.bf16\.safetensors: name its vari"
    ):
        load(folder)


def test_what_a_scheduler_leaves_unsaid_is_its_classes(one, tmp_path):
    """Also where only the index names the class."""
    folder = save(one, tmp_path / "one")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text("{}")
    change(folder / "model_index.json", scheduler=["diffusers", "HeunDiscreteScheduler"])
    pipe = load(folder)
    assert pipe.spacing == "linspace" and pipe.schedule == NoiseSchedule.linear(1000, 0.00085, 0.012)
    change(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    with pytest.warns(UserWarning, match="steps_offset is 0, diffusers takes 1 instead; so does pipe.offset = 1"):
        pipe = load(folder)
    assert (pipe.spacing, pipe.offset, pipe.ends_clean) == ("leading", 0, False)
    change(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    with pytest.raises(ValueError, match="scheduler_config.json: _class_name is 'EDMEulerScheduler'"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "changed", "message"),
    [
        (
            "text_encoder/config.json",
            dict(rope_theta=1e4),
            "config.json: rope_theta is 10000.0, which minildm does not",
        ),
        ("text_encoder/config.json", dict(gated=True), "config.json: gated is True"),
        ("scheduler/scheduler_config.json", dict(use_karras_sigmas=True), "use_karras_sigmas is true"),
        (
            "model_index.json",
            dict(_class_name="StableDiffusionPanoramaPipeline"),
            "is 'StableDiffusionPanoramaPipeline'",
        ),
    ],
)
def test_what_is_left_out_is_said(one, tmp_path, file, changed, message):
    folder = save(one, tmp_path / "one")
    change(folder / file, **changed)
    with pytest.warns(UserWarning, match=message) as said:
        load(folder)
    assert len(said) == 1 and said[0].filename == __file__


def test_dropout_is_of_training(one, tmp_path):
    folder = save(one, tmp_path / "one")
    change(folder / "unet" / "config.json", dropout=0.1)
    assert torch.equal(load(folder).unet.stem.weight, one.unet.stem.weight)


def test_saving_says_what_will_differ_and_overwrites_nothing(one, tmp_path):
    hides = LatentDiffusion(schedule=one.schedule, **vars_of(one) | dict(sees_padding=False))
    with pytest.warns(UserWarning, match="diffusers lets pictures see the padding"):
        folder = save(hides, tmp_path / "one")
    with pytest.raises(FileExistsError, match="one is not empty"):
        save(one, folder)
    assert (folder / "model_index.json").is_file()
    early = LatentDiffusion(schedule=one.schedule, **vars_of(one) | dict(spacing="leading", offset=0))
    with pytest.warns(UserWarning, match="diffusers puts leading timesteps at an offset of 1, this pipeline at 0"):
        save(early, tmp_path / "early")
    karras = LatentDiffusion(schedule=one.schedule, **vars_of(one) | dict(spacing="karras"))
    with pytest.warns(UserWarning, match='DDIM has no Karras steps, so the folder says "trailing"'):
        assert load(save(karras, tmp_path / "karras")).spacing == "trailing"
