"""U-Nets between our configurations and those of diffusers, both ways: the same outputs on the same weights."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from compare import assert_equal, random, randomized

from minildm import weights
from minildm.denoiser import Denoiser
from minildm.stable_diffusion import _configs as configs
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion import reference_name

FILE = Path("unet/config.json")
OURS = {
    "pixels": dict(channels=(16, 24, 40), blocks_per_level=1, attention=(1, 2), heads=(2, 3, 5), groups=8),
    "classes": dict(
        channels=(12, 24, 36), blocks_per_level=2, attention=(1,), heads=(1, 2, 3), groups=6, num_classes=4
    ),
    "one width of heads, by chance": dict(channels=(8, 16, 24, 24), attention=(3,), heads=4, groups=4),
    "nothing attends": dict(channels=(12, 18), attention=(), middle_attention=False, groups=3, eps=1e-4),
    "in the middle alone": dict(channels=(12, 18, 24), attention=(), heads=3, groups=6, num_classes=1),
    "attention, but not in the middle": dict(
        channels=(12, 24), attention=(0,), heads=(3, 1), middle_attention=False, groups=6
    ),
    "one level": dict(channels=(16,), attention=(0,), heads=2, blocks_per_level=3, groups=4),
    "words": dict(channels=(12, 18), attention=(0, 1), heads=(2, 3), groups=6, context_dim=10),
    "words and classes": dict(
        channels=(16, 8), attention=(0,), heads=2, groups=8, context_dim=10, num_classes=5, projection="linear"
    ),
}


def inputs(c):
    t, x_t = torch.tensor([3, 981]), random(2, c["in_channels"], 16, 24)
    context = None if c["context_dim"] is None else random(2, 7, c["context_dim"], seed=2)
    y = None if c["num_classes"] is None else torch.tensor([0, -1])  # the last row is "no label"
    ours = dict(context=context, y=y)
    theirs = dict(class_labels=y if y is None else y % (c["num_classes"] + 1)) | (
        {} if context is None else dict(encoder_hidden_states=context)
    )
    return x_t, t, ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("name", OURS)
def test_ours_is_the_same_in_diffusers_and_back(name):
    ours = randomized(Denoiser(in_channels=3, out_channels=5, **OURS[name]))
    config = json.loads(json.dumps(to_configs.unet(ours, [16, 24])))
    theirs = getattr(diffusers, config["_class_name"]).from_config(config).eval()
    assert type(theirs) is (diffusers.UNet2DConditionModel if "words" in name else diffusers.UNet2DModel)
    theirs.load_state_dict({reference_name(ours, key): t for key, t in ours.state_dict().items()})  # strict
    x_t, t, told, also = inputs(ours.config)
    assert_equal(ours(x_t, t, **told), theirs(x_t, t, **also).sample)
    again = configs.unet(config, FILE)
    spelled = json.loads(theirs.to_json_string()) | {"_null_class": True}  # every key spelled out
    assert again.config == configs.unet(spelled, FILE).config == ours.config | {"heads": again.config["heads"]}
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.eval()(x_t, t, **told), ours(x_t, t, **told))


THEIRS = {
    "as diffusers' lesson trains it": dict(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
    ),
    "classes": dict(block_out_channels=(8, 16, 24, 32), norm_num_groups=4, num_class_embeds=7, layers_per_block=1),
    "one head": dict(
        block_out_channels=(8, 12, 16, 20), norm_num_groups=4, attention_head_dim=None, layers_per_block=1
    ),
    "no attention in the middle": dict(
        block_out_channels=(8, 12),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        add_attention=False,
        dropout=0.1,
    ),
    "other widths and channels": dict(
        in_channels=1,
        out_channels=2,
        block_out_channels=(12, 24),
        down_block_types=("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2,
        attention_head_dim=6,
        norm_num_groups=3,
        norm_eps=1e-4,
        attn_norm_num_groups=3,
        time_embedding_dim=48,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", THEIRS)
def test_theirs_is_the_same_here(name):
    theirs = randomized(diffusers.UNet2DModel(**THEIRS[name]))
    ours = configs.unet(json.loads(theirs.to_json_string()), FILE).eval()
    assert (ours.num_classes, theirs.config.num_class_embeds) == (theirs.config.num_class_embeds,) * 2
    names = {reference_name(ours, key): key for key in ours.state_dict()}
    tensors = {names[key]: tensor for key, tensor in theirs.state_dict().items()}
    if ours.num_classes:
        tensors["classes.weight"] = torch.cat([tensors["classes.weight"], torch.full((1, 32), torch.nan)])
    ours.load_state_dict(tensors)  # strict
    x_t, t, _, _ = inputs(ours.config)
    y = torch.tensor([0, ours.num_classes - 1]) if ours.num_classes else None  # all of theirs are classes
    assert_equal(ours(x_t, t, y=y), theirs(x_t, t, class_labels=y).sample)


@pytest.mark.parametrize("kind", [diffusers.UNet2DModel, diffusers.UNet2DConditionModel])
def test_what_a_file_leaves_unsaid_is_its_classes(kind):
    with torch.device("meta"):
        theirs = kind(cross_attention_dim=8) if kind is diffusers.UNet2DConditionModel else kind()
        said = {"_class_name": kind.__name__} | ({"cross_attention_dim": 8} if "Condition" in kind.__name__ else {})
        ours, spelled = configs.unet(said, FILE), configs.unet(json.loads(theirs.to_json_string()), FILE)
    assert ours.config == spelled.config
    shapes = {reference_name(ours, key): tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


def chosen(message):
    """What an error says to choose."""
    return {name: json.loads(value) for name, value in re.findall(r"(groups|heads)=(\d+|\[[\d, ]+\])", message)}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, r"have \[8, 16, 24, 32\] groups: build it with one number of groups, groups=8; .* 1, 2, 4, 8, 16, 32$"),
        (dict(channels=(32, 64, 128), context_dim=10), r"groups=8; its widths split into 1, 2, 4, 8, 16, 32$"),
        (dict(channels=(24, 36)), r"have \[6, 9, .*\] groups: .* groups=6; its widths split into 1, 2, 3, 4, 6, 12$"),
        (dict(channels=(10, 14), heads=2), r"groups=2; its widths split into 1, 2$"),
        (
            dict(channels=(320, 640), groups=32, attention=(0, 1), heads=8),
            "channels / heads of 40 at level 0, 80 at level 1",
        ),
        (
            dict(channels=(32, 48, 64), groups=8, attention=(0, 1), heads=(1, 4, 2)),
            r"heads=\[8, 12, 16\], so that each has 4",
        ),
    ],
)
def test_what_to_choose_is_said_and_is_right(config, said):
    exported, errors = None, []
    while exported is None:  # the groups, then the heads
        assert len(errors) < 3
        model = Denoiser(3, 3, **config)
        try:
            exported = to_configs.unet(model, [16, 16])
        except ValueError as error:
            errors.append(str(error))
            config = config | chosen(errors[-1])
    assert re.search(said, errors[0])
    theirs = getattr(diffusers, exported["_class_name"]).from_config(exported)
    assert {reference_name(model, key) for key in model.state_dict()} == set(theirs.state_dict())


def test_the_shipped_ones():
    """Which of them diffusers has a class for."""
    found = {}
    for name in ("scenes-pixel", "scenes-latent", "openmoji-32", "pocket"):
        try:
            found[name] = to_configs.unet(weights.load(name), [16, 16])["_class_name"]
        except ValueError as error:
            found[name] = chosen(str(error))
    assert found == {
        "scenes-pixel": "UNet2DModel",
        "scenes-latent": {"heads": [1, 4, 8]},
        "openmoji-32": {"groups": 8},
        "pocket": "UNet2DConditionModel",
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (dict(flip_sin_to_cos=False), "flip_sin_to_cos is False, .* expected true"),
        (dict(freq_shift=1), "freq_shift is 1, .* expected 0"),
        (dict(downsample_padding=0), "downsample_padding is 0, .* expected 1"),
        (dict(resnet_time_scale_shift="scale_shift"), "expected 'default'"),
        (dict(time_embedding_type="fourier"), "expected 'positional'"),
        (dict(class_embed_type="timestep"), "expected null or false"),
        (dict(mid_block_type=None), "expected 'UNetMidBlock2D'"),
        (dict(downsample_type="resnet"), "expected 'conv'"),
        (dict(attn_norm_num_groups=2), "expected null or 8"),
        (dict(time_embedding_dim=100), "expected null or 64"),
        (dict(attention_head_dim=5), r"attention_head_dim is 5, .* a divisor of the widths that attend, of \[16, 32\]"),
        (dict(down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"]), "2 of AttnDownBlock2D, DownBlock2D, "),
        (dict(block_out_channels=None), "a list, each one whole number"),
        (dict(sizes=[1]), "sizes is .* expected null or false"),
    ],
)
def test_another_architecture_is_refused(changed, said):
    config = dict(_class_name="UNet2DModel", block_out_channels=[16, 32], norm_num_groups=8)
    config |= dict(down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"])
    assert configs.unet(config, FILE).config["heads"] == [1, 4]
    with pytest.raises(ValueError, match=f"unet/config.json: .*{said}"):
        configs.unet(config | changed, FILE)
