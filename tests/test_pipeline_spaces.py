"""Pipelines beyond words and latents: pixels, classes, conditions of any name, denoisers of any kind, one file."""

import json

import numpy as np
import pytest
import torch
from compare import random
from PIL import Image
from torch import nn

from minildm import judge, samplers
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.pipeline._steering import start
from minildm.samplers import SAMPLERS
from minildm.schedule import PREDICTS, NoiseSchedule
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer
from minildm.unet import UNet

HOW = dict(steps=3, seed=0, output="tensor")
V = NoiseSchedule.cosine(50).predicting("v")


def pixels(channels=3, schedule=V, num_classes=None, context_dim=None, **settings):
    """A pipeline without an autoencoder, of pictures of 8×12."""
    with seeded(1):
        unet = Denoiser(channels, channels, (8, 12), num_classes=num_classes, context_dim=context_dim)
    unet.schedule = schedule
    return LatentDiffusion(unet.eval().requires_grad_(False), size=(8, 12), **settings)


def apart(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, ["ant", "bee", "cat"]])
def test_pixels(channels, labels, tmp_path):
    pipe = pixels(channels, num_classes=labels and 3, labels=labels)
    assert (pipe.multiple, pipe.scale_factor, pipe.clip, pipe.predicts, pipe.vae) == (2, 1.0, 1.0, "v", None)
    x = pipe(**HOW | dict(seed=[0, 1]))
    assert x.shape == (2, channels, 8, 12) and x.min() >= 0 and x.max() <= 1
    x_T = torch.randn(1, channels, 8, 12, generator=torch.Generator().manual_seed(0))
    (*_, last) = samplers.ddim(pipe.unet, V, x_T, 3, clip=1)
    torch.testing.assert_close(x[:1], (last.x_t + 1) / 2)
    drawn = pipe(seed=0, steps=3)
    assert drawn.mode == ("L" if channels == 1 else "RGB") and drawn.size == (12, 8)
    for path in (tmp_path / "folder", tmp_path / "one.safetensors"):
        again = LatentDiffusion.from_pretrained(pipe.save_pretrained(path, recipe="by hand"))
        torch.testing.assert_close(again(**HOW), pipe(**HOW))
        assert again.labels == labels and again.schedule == V and again.unet.schedule == V and again.vae is None
    assert (tmp_path / "one.safetensors").is_file()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_other_channels_keep_them(channels):
    """Two or four channels are no transparency where the denoiser takes so many."""
    pipe, picture = pixels(channels), torch.rand(2, channels, 8, 12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(pipe.decode(pipe.encode(picture)), picture)
    assert pipe(image=picture, strength=0.5, **HOW | dict(seed=[0, 1])).shape == picture.shape


def test_steering_in_pixels():
    pipe, picture = pixels(), torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(pipe.decode(pipe.encode(picture)), picture)
    mask = torch.zeros(8, 12)
    mask[3, 4] = 1  # a single pixel
    found = pipe(image=picture, mask=mask, **HOW)
    assert apart(found[..., mask == 0], picture[..., mask == 0]) < 1e-5
    assert apart(found[..., mask == 1], picture[..., mask == 1]) > 1e-3
    near, far = (apart(pipe(image=picture, strength=s, **HOW | dict(steps=20)), picture) for s in (0.1, 1.0))
    assert near < far
    grey = pixels(1)
    for image in (Image.new("L", (12, 8), 200), Image.new("RGB", (12, 8), "white"), np.zeros((8, 12), np.uint8)):
        assert grey(image=image, **HOW).shape == (1, 1, 8, 12)


def test_classes_by_name():
    pipe = pixels(num_classes=3, labels=["ant", "bee", "cat"])
    for one, other in [("bee", 1), (["cat", None, "ant"], [2, None, 0]), (["cat", "bee"], torch.tensor([2, 1]))]:
        assert torch.equal(pipe(y=one, **HOW), pipe(y=other, **HOW))
    for wrong, message in [
        ("be", "no class 'be'; did you mean 'bee'"),
        ("dog", "there are: ant, bee, cat"),
        (3, "to 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(y=wrong, **HOW)
    assert len(pipe(y=["ant", "bee"], steps=1)) == 2 and isinstance(pipe(y="ant", steps=1), Image.Image)
    with pytest.raises(ValueError, match="no class 'ant'; there are: no names"):
        pixels(num_classes=3)(y="ant", **HOW)
    for bad in (["a", "b"], ["a", "b", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(ValueError, match="a different name for each class"):
            pixels(num_classes=3, labels=bad)
    with pytest.raises(ValueError, match="knows no classes"):
        pixels(labels=["a"])


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_answer_and_any_sampler(name, predicts):
    """What a model predicts is a matter of reading: the same clean picture comes out of each."""
    schedule = NoiseSchedule.cosine(50)
    target = random(1, 3, 8, 12, seed=4).clamp(-1, 1)

    class Knows(Constant):
        def forward(self, x_t, t):
            x_0 = target.expand_as(x_t)
            return self.schedule.target(x_0, self.schedule.x_0_to_eps(x_t, x_0, t), t)

    pipe = LatentDiffusion(Knows(schedule.predicting(predicts)), size=(8, 12))
    torch.testing.assert_close(pipe(sampler=name, **HOW), (target + 1) / 2, rtol=0, atol=1e-3)


class Constant(nn.Module):
    """A denoiser that is no U-Net, with all that a pipeline needs and no more."""

    in_channels = out_channels = 3
    multiple = 1
    context_dim = num_classes = null_class = None
    conditions = frozenset()

    def __init__(self, schedule=V):
        super().__init__()
        self.schedule, self.weight = schedule, nn.Parameter(torch.tensor(0.5))

    def forward(self, x_t, t):
        return self.weight * x_t


class Hinted(Constant):
    """One that takes a condition of its own kind."""

    conditions = frozenset({"hint"})
    seen = None

    def forward(self, x_t, t, hint=None):
        type(self).seen = hint
        return self.weight * x_t + (0 if hint is None else hint)


def test_a_denoiser_of_any_kind():
    pipe = LatentDiffusion(Constant(), size=(5, 7))  # what it is not, it need not be: sizes of any kind
    assert pipe(**HOW).shape == (1, 3, 5, 7)
    assert pipe(image=torch.rand(3, 5, 7), strength=0.5, **HOW).shape == (1, 3, 5, 7)
    vae = AutoencoderKL(3, 3, channels=(8, 12), scale_factor=1.0).eval()
    assert LatentDiffusion(Constant(), vae, size=(8, 12))(**HOW).shape == (1, 3, 8, 12)


def test_a_condition_of_any_name():
    pipe = LatentDiffusion(Hinted(), size=(4, 6))
    hint = random(2, 3, 4, 6)
    both = pipe(hint=hint, **HOW | dict(seed=[0, 0]))
    assert apart(both[:1], both[1:]) > 1e-3 and torch.equal(Hinted.seen, hint)
    torch.testing.assert_close(both[:1], pipe(hint=hint[:1], **HOW))
    assert apart(pipe(hint=hint[:1], **HOW), pipe(**HOW)) > 1e-3
    assert pipe(hint=hint, **HOW).shape[0] == 2 and len(pipe(hint=hint, steps=1)) == 2
    for wrong, message in [
        (dict(hnt=hint), "no argument 'hnt', .* did you mean hint"),
        (dict(strenght=0.5), "did you mean strength"),
        (dict(colour=hint), "besides the rest it takes hint"),
        (dict(hint=[1, 2]), r"hint as a tensor \(b, \.\.\.\)"),
        (dict(hint=random(3, 3, 4, 6), seed=[1, 2]), "2 for seed, 3 for hint|3 for hint"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(**HOW | wrong)


@pytest.fixture(scope="module")
def words():
    with seeded(1):
        unet = Denoiser(3, 3, (8, 12), context_dim=10, schedule=V)
        tokenizer = train_tokenizer(["a red cat", "a dog"], 290, length=24)
        encoder = TextEncoder(len(tokenizer), 10, depth=1, heads=2, length=24)
    for module in (unet, encoder):
        module.eval().requires_grad_(False)
    return unet, encoder, tokenizer


def test_embeddings_made_elsewhere(words):
    unet, encoder, tokenizer = words
    pipe, bare = (
        LatentDiffusion(unet, None, None, encoder, tokenizer, size=(8, 12)),
        LatentDiffusion(unet, size=(8, 12)),
    )
    texts = ["a red cat", "a dog"]
    ids, mask = tokenizer([*texts, ""])
    context = encoder(ids, mask)
    given = dict(context=(context[:2], mask[:2]), negative_context=(context[2:], mask[2:]))
    expected = pipe(texts, **HOW)
    for each in (pipe, bare):
        torch.testing.assert_close(each(**given, **HOW), expected)
    torch.testing.assert_close(pipe(context=(context[:1], mask[:1]), **HOW), expected[:1])  # the empty prompt is known
    without = bare(context=context[:1], guidance=1, **HOW)
    torch.testing.assert_close(bare(context=context[:1].expand(2, -1, -1), guidance=1, **HOW)[:1], without)
    assert len(bare(context=context, guidance=1, steps=1)) == 3
    for wrong, message in [
        (dict(context=context[:1]), r"negative_context with a context.*guidance=1"),
        (dict(context=context[:1, :, :5], guidance=1), r"expected a context \(b, m, 10\)"),
        (dict(context=(context[:1], mask[:1, :3]), guidance=1), r"the context's mask as bool \(1, 24\)"),
        (dict(context=(context[:1], mask[:1].float()), guidance=1), r"as bool .* got \(1, 24\) of torch.float32"),
        (dict(prompt="a dog"), "no prompt: this model takes no words"),
        ({}, "expected a context"),
    ]:
        with pytest.raises(ValueError, match=message):
            bare(**HOW | wrong)
    with pytest.raises(ValueError, match="either a prompt or a context"):
        pipe("a dog", context=context[:1], **HOW)
    with pytest.raises(ValueError, match="this model takes none"):
        pixels()(context=context[:1], **HOW)


def test_words_in_one_file(words, tmp_path):
    unet, encoder, tokenizer = words
    pipe = LatentDiffusion(unet, None, None, encoder, tokenizer, size=(8, 12), words=["a red cat"], guidance=2.5)
    path = pipe.save_pretrained(tmp_path / "x.safetensors", dtype=torch.float16, note=1)
    again = LatentDiffusion.from_pretrained(path)
    assert apart(again("a red cat", **HOW), pipe("a red cat", **HOW)) < 0.02
    assert again.words == pipe.words and again.guidance == 2.5
    assert again.tokenizer("a red cat")[0].tolist() == tokenizer("a red cat")[0].tolist()
    with pytest.raises(ValueError, match="holds all there is"):
        pipe.save_pretrained(tmp_path / "y.safetensors", shipped={"text_encoder": "text-pocket"})
    from minildm import storage, weights

    tensors, metadata = storage.read(path)
    for change, message in [
        ({"format": "minildm pipeline 9"}, "expected the format"),
        ({"settings": json.dumps({})}, "damaged: KeyError"),
        ({"settings": "{"}, "damaged"),
        ({"tokenizer": "{}"}, "tokenizer"),
    ]:
        bad = storage.write(tmp_path / "bad.safetensors", tensors, metadata | change)
        with pytest.raises(ValueError, match=message):
            LatentDiffusion.from_pretrained(bad)
    alone = weights.save(tmp_path / "unet.safetensors", unet)
    with pytest.raises(ValueError, match="expected the format 'minildm pipeline 2', found 'minildm weights 1'"):
        LatentDiffusion.from_pretrained(alone)


def test_a_contradicting_schedule_is_refused():
    unet = pixels().unet
    for schedule, predicts in [(NoiseSchedule.cosine(50), None), (None, "eps"), (NoiseSchedule.linear(50), "v")]:
        with pytest.raises(ValueError, match="this model was trained with .*predicts v"):
            LatentDiffusion(unet, None, schedule, predicts=predicts)
    with pytest.raises(ValueError, match="this model has none of its own"):
        pixels(schedule=None)
    assert LatentDiffusion(unet, None, NoiseSchedule.cosine(50), predicts="v").schedule == V


@pytest.mark.parametrize("change", [{"predicts": None}, {"predicts": "noise"}, {"schedule": {}}, {"schedule": None}])
def test_a_file_that_does_not_say_how_to_read_it_is_refused(change, tmp_path):
    folder = pixels().save_pretrained(tmp_path / "p")
    settings = json.loads((folder / "pipeline.json").read_text())
    for key in [key for key, value in change.items() if value is None]:
        settings.pop(key)
        change = {}
    (folder / "pipeline.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=r"pipeline.json is damaged"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_changes_nothing(dtype):
    pipe = pixels(num_classes=2)
    expected = pipe(y=1, **HOW)
    torch.set_default_dtype(dtype)
    try:
        found = pipe(y=1, **HOW)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("steps", "strength", "left"),
    [(100, 0.29, 29), (50, 0.58, 29), (25, 0.28, 7), (10, 0.7, 7), (10, 0.05, 1), (4, 1, 4), (1000, 0.001, 1)],
)
def test_strength_leaves_its_share_of_the_steps(steps, strength, left):
    path, _ = start(
        NoiseSchedule.linear(), list(range(steps))[::-1], *[torch.zeros(1, 1, 1, 1)] * 2, strength, None, False
    )
    assert len(path) == left


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_do_not_become_black(part, value):
    with seeded(1):
        vae = AutoencoderKL(3, 4, channels=(8, 12), scale_factor=1.0).eval()
        unet = Denoiser(4, 4, (8, 12), schedule=V).eval()
    head = unet.head if part == "unet" else vae.decoder.head
    with torch.no_grad():
        head.bias.fill_(value)
    with pytest.raises(ValueError, match="NaN or infinity"):
        LatentDiffusion(unet, vae, size=(8, 12))(**HOW)


@pytest.mark.parametrize("name", ["heun", "dpm_solver_2m"])
def test_the_shipped_painter_paints_by_every_sampler(name):
    pipe = LatentDiffusion.from_pretrained("pocket")
    prompts = ["a cat", "two frogs", "a red heart", "a car above a tree"]
    painted = {each: pipe(prompts, steps=12, seed=3, sampler=each, output="tensor") for each in ("ddim", name)}
    right = {each: sum(judge.score(pictures, prompts)) for each, pictures in painted.items()}
    assert right[name] >= right["ddim"] - 1 and right[name] >= 2


class Classes(Constant):
    """One that says "no label" by the number after the last class."""

    conditions, num_classes, null_class = frozenset({"y"}), 2, 2
    seen = None

    def forward(self, x_t, t, y):
        type(self).seen = y.tolist()
        return self.weight * x_t + y[:, None, None, None]


def test_no_label_may_be_any_number():
    pipe = LatentDiffusion(Classes(), size=(4, 6), labels=["a", "b"], guidance=2)
    for y, seen in [(0, [0, 2]), ("b", [1, 2]), ([1, None], [1, 2, 2, 2])]:
        pipe(y=y, **HOW)
        assert Classes.seen == seen
    pipe(**HOW)
    assert Classes.seen == [2]
    for y in (2, -1, 3):
        with pytest.raises(ValueError, match="expected y from 0 to 1"):
            pipe(y=y, **HOW)


class Styled(Constant):
    """One with a condition that is a vector for each picture."""

    conditions = frozenset({"style"})

    def forward(self, x_t, t, style):
        assert style.shape == (len(x_t), 5)
        return self.weight * x_t + style.mean(1)[:, None, None, None]


def test_a_condition_of_any_rank_and_guidance_over_it():
    pipe, style = LatentDiffusion(Styled(), size=(4, 6), guidance=3), random(2, 5)
    assert pipe(style=style, **HOW).shape[0] == 2
    plain = pipe(style=style, **HOW)
    guided = pipe(style=style, negative_conditions={"style": 0 * style}, **HOW)
    assert apart(plain, guided) > 1e-3
    torch.testing.assert_close(guided, pipe(style=3 * style, **HOW))  # the model is linear in it
    with pytest.raises(ValueError, match="style among the unconditional conditions too: guidance exaggerates"):
        pipe(style=style, guidance=5, **HOW)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatentDiffusion(None), "NoneType lacks in_channels"),
        (lambda: LatentDiffusion("pocket"), "from_pretrained loads pipelines by name"),
        (lambda: LatentDiffusion(UNet(3, 3, (4,))), "UNet lacks schedule, conditions"),
        (lambda: pixels(spacing="even"), "got 'even'"),
        (lambda: pixels(clip=-1), "clip above 0"),
        (lambda: pixels(clip="1"), "clip above 0"),
        (lambda: pixels(guidance="4"), "finite guidance scale"),
        (lambda: pixels(offset=-3), "offset of leading timesteps"),
        (lambda: pixels(num_classes=2, labels="ab"), "got the text 'ab'"),
        (
            lambda: LatentDiffusion(type("Sized", (Constant,), {"conditions": frozenset({"size"})})()),
            "'size' has the name",
        ),
        (lambda: pixels().decode(np.zeros((1, 3, 8, 12))), "got ndarray"),
        (lambda: pixels().decode(torch.zeros(1, 5, 8, 12)), r"got \(1, 5, 8, 12\)"),
        (lambda: pixels()(strength="0.5", image=torch.rand(3, 8, 12), **HOW), "a strength above 0"),
        (lambda: pixels()(guidance=[1, 2], **HOW), "finite guidance scale"),
    ],
)
def test_what_no_call_could_use_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
