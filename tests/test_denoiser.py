"""The denoiser against diffusers' U-Nets on the same weights, and its loss against values worked out by hand."""

import json
import math

import pytest
import torch
from compare import assert_equal, random, randomized
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.embeddings import Timesteps

from minildm import weights
from minildm.denoiser import Denoiser, TimeBlock, timestep_embedding
from minildm.layers import Cond, ResidualBlock
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import reference_name
from minildm.tensors import count_parameters
from minildm.unet import UNet

SD1 = dict(channels=(320, 640, 1280, 1280), blocks_per_level=2, attention=(0, 1, 2), heads=8, context_dim=768)
SD2 = SD1 | dict(heads=(5, 10, 20, 20), context_dim=1024, projection="linear")
SMALL = dict(channels=(12, 24, 36), blocks_per_level=2, attention=(1,), heads=2, groups=6)


def copy_weights(ours, theirs):
    """All parameters at random, the same in both."""
    randomized(ours)
    theirs.load_state_dict({reference_name(ours, name): t for name, t in ours.state_dict().items()})  # strict
    return theirs.eval()


def conditional(config, **more):
    """diffusers' conditional U-Net of our configuration."""
    levels = len(config["channels"])
    attends = [level in config["attention"] for level in range(levels)]
    heads = config["heads"]
    return UNet2DConditionModel(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        block_out_channels=config["channels"],
        layers_per_block=config["blocks_per_level"],
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=heads if isinstance(heads, int) else list(heads),  # their name; it is the number of heads
        cross_attention_dim=config["context_dim"],
        use_linear_projection=config.get("projection") == "linear",
        norm_num_groups=config.get("groups", 32),
        **more,
    )


def unconditional(config, head_dim, **more):
    """diffusers' plain U-Net of our configuration."""
    attends = [level in config["attention"] for level in range(len(config["channels"]))]
    return UNet2DModel(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        block_out_channels=config["channels"],
        layers_per_block=config["blocks_per_level"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=head_dim,
        norm_num_groups=config["groups"],
        norm_eps=config.get("eps", 1e-5),
        **more,
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(in_channels=4, out_channels=4) | SD1, 859_520_964),
        (dict(in_channels=9, out_channels=4) | SD1, 859_535_364),  # inpainting: five more channels into the stem
        (dict(in_channels=4, out_channels=4) | SD2, 865_910_724),
    ],
    ids=["SD 1", "SD 1 inpainting", "SD 2"],
)
def test_full_size_is_stable_diffusion(config, expected):
    with torch.device("meta"):  # shapes only
        model, theirs = Denoiser(**config), conditional(config)
    assert count_parameters(model) == expected
    ours = {reference_name(model, name): tuple(t.shape) for name, t in model.state_dict().items()}
    assert ours == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    norms = {n: m.eps for n, m in theirs.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    mine = {reference_name(model, f"{n}.w"): m for n, m in model.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    assert {name.removesuffix(".w"): norm.eps for name, norm in mine.items()} == norms
    assert {norm.num_groups for norm in mine.values()} == {32}  # picked, not told


CONDITIONAL = [
    dict(channels=(12, 24, 36), blocks_per_level=2, attention=(0, 1), heads=3, groups=6),  # as SD 1
    dict(channels=(12, 24, 48), blocks_per_level=1, attention=(0, 1), heads=(1, 2, 4), projection="linear", groups=4),
    dict(channels=(12, 18), blocks_per_level=3, attention=(), heads=3, groups=6),  # in the middle only
    dict(channels=(12, 18, 24, 30), blocks_per_level=1, attention=(0, 1, 2, 3), heads=6, groups=3),
]


@pytest.mark.parametrize("config", CONDITIONAL, ids=["like SD 1", "like SD 2", "middle", "everywhere"])
def test_with_context_equals_the_reference(config):
    config = dict(in_channels=5, out_channels=3, context_dim=10) | config
    ours = Denoiser(**config).eval()
    theirs = copy_weights(ours, conditional(config))
    x_t, t, context = random(2, 5, 16, 24), torch.tensor([3, 981]), random(2, 7, 10, seed=2)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        assert_equal(ours(x_t, t, context), theirs(x_t, t, context).sample)
        masked = theirs(x_t, t, context, encoder_attention_mask=mask).sample
        assert_equal(ours(x_t, t, context, mask), masked)
        assert (masked - theirs(x_t, t, context).sample)[1].abs().max() > 1e-3  # the mask mattered


def test_with_context_and_classes_equals_the_reference():
    config = dict(in_channels=5, out_channels=3, context_dim=10) | CONDITIONAL[0]
    ours = Denoiser(**config, num_classes=6).eval()
    theirs = copy_weights(ours, conditional(config, num_class_embeds=7))
    x_t, t, context, y = random(2, 5, 8, 12), torch.tensor([3, 981]), random(2, 7, 10, seed=2), torch.tensor([5, 0])
    with torch.no_grad():
        assert_equal(ours(x_t, t, context, y=y), theirs(x_t, t, context, class_labels=y).sample)


@pytest.mark.parametrize(
    ("config", "head_dim"),
    [
        (dict(channels=(12, 24, 36), blocks_per_level=2, attention=(1,), heads=(2, 4, 6), groups=6), 6),
        (dict(channels=(12, 24), blocks_per_level=1, attention=(0, 1), heads=1, groups=4, eps=0.1), None),
        (dict(channels=(12, 24, 36), blocks_per_level=1, attention=(), heads=(1, 2, 3), groups=6), 12),
    ],
)
@pytest.mark.parametrize("middle_attention", [True, False])
@pytest.mark.parametrize("num_classes", [None, 6])
def test_without_context_equals_the_reference(config, head_dim, middle_attention, num_classes):
    config = dict(in_channels=5, out_channels=3) | config
    ours = Denoiser(**config, middle_attention=middle_attention, num_classes=num_classes).eval()
    theirs = unconditional(
        config, head_dim, add_attention=middle_attention, num_class_embeds=num_classes and num_classes + 1
    )
    copy_weights(ours, theirs)
    x_t, t = random(2, 5, 8, 12), torch.tensor([0, 500])
    y = torch.tensor([5, 2]) if num_classes else None
    with torch.no_grad():
        assert_equal(ours(x_t, t, y=y), theirs(x_t, t, class_labels=y).sample)
        if num_classes:  # no label is a class of its own
            assert_equal(ours(x_t, t), theirs(x_t, t, class_labels=torch.tensor([6, 6])).sample)
            assert ours.null_class == -1


def test_timestep_embedding():
    found = timestep_embedding(torch.tensor([0, 3]), 4)
    expected = [[1, 1, 0, 0], [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]]
    torch.testing.assert_close(found, torch.tensor(expected))
    t = torch.tensor([0, 1, 500, 999])
    assert (timestep_embedding(t, 38) - Timesteps(38, flip_sin_to_cos=True, downscale_freq_shift=0)(t)).abs().max() == 0


def test_the_block_is_told_by_a_shift_of_each_channel():
    block = TimeBlock(6, 10, emb_dim=8, groups=2)
    plain = ResidualBlock(6, 10, groups=2)
    plain.load_state_dict({n: p for n, p in block.state_dict().items() if not n.startswith("shift")})
    x, emb = random(2, 6, 4, 5), random(2, 8, seed=2)
    with torch.no_grad():
        h = random(2, 10, 4, 5, seed=3)
        told = block.condition(h, Cond(emb=emb))
        torch.testing.assert_close(told[1, 7] - h[1, 7], block.shift(emb)[1, 7].expand(4, 5))
        block.shift.weight.zero_()
        block.shift.bias.zero_()
        assert torch.equal(block(x, Cond(emb=emb)), plain(x))


def test_each_picture_is_told_its_own_time_words_and_class():
    model = Denoiser(3, 3, **SMALL, context_dim=10, num_classes=4).eval()
    x_t, context = random(1, 3, 8, 12).expand(2, 3, 8, 12), random(2, 5, 10, seed=2)
    same = context[:1].expand(2, 5, 10)
    t, y = torch.tensor([10, 10]), torch.tensor([1, 1])
    with torch.no_grad():
        a, b = model(x_t, t, same, y=y)
        torch.testing.assert_close(a, b)
        for told in (
            model(x_t, torch.tensor([10, 400]), same, y=y),
            model(x_t, t, context, y=y),
            model(x_t, t, same, y=torch.tensor([1, 2])),
        ):
            torch.testing.assert_close(told[0], a)
            assert (told[1] - a).abs().max() > 1e-4


def test_the_segmenters_weights_fit():
    """Lesson 3: without attention a denoiser is the U of lesson 1, with the time added to it."""
    u = UNet(3, 5, channels=(8, 12, 16), blocks_per_level=2)
    model = Denoiser(3, 3, channels=(8, 12, 16), blocks_per_level=2, middle_attention=False)
    state = {name: tensor for name, tensor in u.state_dict().items() if not name.startswith("head.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert {name.split(".")[-2] if "shift" in name else name.split(".")[0] for name in missing} == {
        "shift",
        "time",
        "head",
    }


@pytest.mark.parametrize("more", [{}, {"context_dim": 10}, {"num_classes": 4}, {"skip": False}, {"attention": (0, 2)}])
def test_every_parameter_learns(more):
    model = Denoiser(3, 2, **SMALL | more)
    told = {"context": random(2, 5, 10, seed=2)} if "context_dim" in more else {}
    told |= {"y": torch.tensor([0, 3])} if "num_classes" in more else {}
    model(random(2, 3, 8, 12), torch.tensor([5, 700]), **told).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name


def test_attention_as_levels_or_bools():
    by_level, by_bool = (Denoiser(3, 3, (8, 16, 24), attention=a) for a in ((0, 2), (True, False, True)))
    assert by_level.config == by_bool.config
    assert by_level.config["attention"] == [True, False, True]
    assert by_level.state_dict().keys() == by_bool.state_dict().keys()


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(channels=(12, 24, 36), blocks_per_level=2, attention=(1, 2), heads=(1, 2, 3), context_dim=10, groups=6),
        dict(channels=(8, 16), num_classes=4, middle_attention=False, skip=False, eps=1e-6),
        dict(channels=(8, 16), context_dim=5, projection="linear", attention=(True, False)),
    ],
)
def test_config_rebuilds_it_and_weights_come_back(config, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.CLASSES, "Denoiser", "minildm.denoiser")
    model = Denoiser(3, 2, **config).eval()
    assert Denoiser(**json.loads(json.dumps(model.config))).config == model.config
    loaded = weights.load(weights.save(tmp_path / "denoiser.safetensors", model, seed=0))
    x_t, t = random(2, 3, 8, 12), torch.tensor([5, 700])
    context = random(2, 4, config["context_dim"]) if "context_dim" in config else None
    with torch.no_grad():
        assert torch.equal(loaded(x_t, t, context), model(x_t, t, context))


@pytest.mark.parametrize("autocast", [False, True])
def test_lower_precision(autocast):
    model = Denoiser(3, 3, **SMALL, context_dim=10, num_classes=4).eval()
    x_t, t, context = random(2, 3, 8, 12), torch.tensor([5, 700]), random(2, 5, 10, seed=2)
    with torch.no_grad():
        exact = model(x_t, t, context)
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                found = model(x_t, t, context)
        else:
            found = model.bfloat16()(x_t.bfloat16(), t, context.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(channels=(9, 16)), r"even channels\[0\].* got 9"),
        (dict(channels=()), "at least one level"),
        (dict(channels=(8, 16), heads=(1, 2, 4)), "heads as one number or 2"),
        (dict(channels=(8, 18), attention=(1,), heads=4), "18 channels do not split into 4 heads"),
        (dict(channels=(8, 16), attention=(2,)), "levels from 0 to 1"),
        (dict(channels=(8, 16), attention=(True,)), "attention as 2 bools"),
        (dict(channels=(8, 16), attention=(True, 1)), r"got \[True, 1\]"),
        (dict(channels=(8, 16), attention=("all",)), "got"),
        (dict(channels=(8, 16), num_classes=0), "num_classes from 1"),
        (dict(channels=(8, 16), context_dim=4, projection="none"), "got 'none'"),
        (dict(channels=(8, 16), groups=5), "do not split into 5 groups"),
    ],
)
def test_bad_configurations(config, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(3, 3, **config)


X_T, T, CONTEXT = torch.zeros(2, 3, 8, 12), torch.tensor([1, 2]), torch.zeros(2, 5, 10)


@pytest.mark.parametrize(
    ("config", "told", "message"),
    [
        ({}, dict(x_t=X_T[0]), r"add a batch axis"),
        ({}, dict(x_t=X_T[:, :2]), "expected 3 channels, got 2"),
        ({}, dict(x_t=X_T[..., :10]), "divisible by 4"),
        ({}, dict(t=7), "got int"),
        ({}, dict(t=torch.tensor(7)), r"got shape \(\)"),
        ({}, dict(t=torch.tensor([7])), r"expected t: \(2,\), one timestep per picture, got \(1,\)"),
        ({}, dict(t=torch.tensor([0.1, 0.2])), r"t\.long\(\)"),
        ({}, dict(t=torch.tensor([5, -1])), "t from 0, got -1 to 5"),
        ({}, dict(context=CONTEXT), "build it with context_dim"),
        ({}, dict(mask=torch.ones(2, 5).bool()), "build it with context_dim"),
        ({}, dict(y=torch.tensor([1, 1])), "build it with num_classes"),
        ({"num_classes": 4}, dict(y=torch.tensor([1, 4])), "expected y from -1 to 3, got 1 to 4"),
        ({"num_classes": 4}, dict(y=torch.tensor([1, -2])), "expected y from -1 to 3, got -2 to 1"),
        ({"num_classes": 4}, dict(y=torch.tensor([1])), r"expected y: \(2,\)"),
        ({"num_classes": 4}, dict(y=torch.tensor([1.0, 2.0])), r"y\.long\(\)"),
        ({"num_classes": 4}, dict(y=[1, 2]), "got list"),
        ({"context_dim": 10}, {}, r"expected a context \(b, n, 10\), got None.*empty prompt"),
        ({"context_dim": 10}, dict(context=CONTEXT[..., :9]), r"\(2, n, 10\), got shape \(2, 5, 9\)"),
        ({"context_dim": 10}, dict(context=CONTEXT[:1]), r"got shape \(1, 5, 10\)"),
        ({"context_dim": 10}, dict(context=CONTEXT[0]), r"got shape \(5, 10\)"),
        ({"context_dim": 10}, dict(context=CONTEXT, mask=torch.ones(2, 5)), "got shape .* of torch.float32"),
        ({"context_dim": 10}, dict(context=CONTEXT, mask=torch.ones(2, 4).bool()), r"expected mask: \(2, 5\) bool"),
    ],
)
def test_bad_input(config, told, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(3, 3, **SMALL | config)(**dict(x_t=X_T, t=T) | told)


def test_what_a_pipeline_needs_of_it():
    for more, conditions, null_class in [
        ({}, set(), None),
        ({"context_dim": 10}, {"context", "mask"}, None),
        ({"num_classes": 4}, {"y"}, -1),
        ({"context_dim": 10, "num_classes": 4}, {"context", "mask", "y"}, -1),
    ]:
        model = Denoiser(3, 2, **SMALL, **more)
        assert (model.in_channels, model.out_channels, model.multiple, model.schedule) == (3, 2, 4, None)
        assert model.conditions == conditions and model.null_class == null_class
        assert model.context_dim == more.get("context_dim")


def test_it_keeps_its_schedule_and_so_does_its_file(tmp_path):
    for schedule in (NoiseSchedule.cosine().predicting("v"), NoiseSchedule.flow(30, 2.0), None):
        model = Denoiser(3, 3, **SMALL, schedule=schedule)
        assert model.schedule is schedule
        again = weights.load(weights.save(tmp_path / "x.safetensors", model))
        assert again.schedule == schedule
    again.schedule = NoiseSchedule.linear()  # set later, by a training
    assert weights.load(weights.save(tmp_path / "x.safetensors", again)).schedule == NoiseSchedule.linear()


@pytest.mark.parametrize("name", ["openmoji-32", "scenes-pixel", "scenes-latent", "pocket"])
def test_shipped_denoisers_say_how_they_are_read(name):
    shift = 3.0 if name == "pocket" else 1.0
    assert weights.load(name).schedule == NoiseSchedule.cosine(shift=shift).predicting("v")


def test_no_label_is_a_number_of_its_own():
    """Labels from 1 to n would otherwise be taken, the last of them for none."""
    model = Denoiser(3, 3, **SMALL, num_classes=4).eval()
    with torch.no_grad():
        none, minus = model(X_T, T), model(X_T, T, y=torch.full((2,), model.null_class))
        assert torch.equal(none, minus)
        last = model(X_T, T, y=torch.tensor([3, 3]))
        assert (last - none).abs().max() > 1e-6


def test_an_odd_timestep_embedding_ends_with_zero():
    found = timestep_embedding(torch.tensor([1, 50]), 5)
    assert found.shape == (2, 5) and not found[:, 4].any()
    assert torch.equal(found[:, :4], timestep_embedding(torch.tensor([1, 50]), 4))


@pytest.mark.parametrize("y", [-2, -6, 4, 5, 9])
def test_a_label_that_is_no_class_fails_where_nothing_is_looked_at(y, monkeypatch):
    """On a GPU labels are not looked at, since that would wait for it; the embedding itself refuses them."""
    model = Denoiser(3, 3, **SMALL, num_classes=4).eval()
    monkeypatch.setattr("minildm.denoiser.check_integers", lambda *given, **more: None)
    with pytest.raises(IndexError):
        model.embed(T, y=torch.tensor([1, y]))
    rows = model.classes.weight[[3, 4]]
    assert torch.equal(model.classes(model._labels(torch.tensor([3, -1]), 2, "cpu")), rows)
