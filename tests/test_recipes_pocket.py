"""The recipes of the pocket model on tiny networks: what they learn from, what they leave out, what they write."""

from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from minildm import data, judge, stable_diffusion, storage, weights
from minildm.autoencoder import AutoencoderKL
from minildm.data import LANGUAGES, TASKS, heldout, parse
from minildm.data.families import meaning
from minildm.losses import denoising_loss
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket, pocket_autoencoder, pocket_feedback, pocket_loss, pocket_scenes, probe, text_pocket
from minildm.samplers import Step
from minildm.tensors import count_parameters, seeded
from minildm.text import TextEncoder, train_tokenizer
from minildm.training import History

# Three scenes of a task do not name everything.
pytestmark = pytest.mark.filterwarnings("ignore:this model never saw")
GENEVAL_SUMMARY = pocket.geneval_summary
SMALL = dict(channels=(8, 16), attention=(0, 1), heads=2, groups=4)
SCHEDULE, AUTOENCODER = pocket.schedule(), pocket.autoencoder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in, and latents in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINILDM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokens():
    captions = [text for language in LANGUAGES for text in data.prompts(400, 1, "all", language=language)]
    return train_tokenizer(captions, 500, text_pocket.LENGTH)


@pytest.fixture(scope="module")
def vae():
    with seeded(1):
        return AutoencoderKL(3, 5, channels=(8, 8, 8, 8), groups=4, scale_factor=4.0).eval()


@pytest.fixture(scope="module")
def encoder(tokens):
    with seeded(2):
        return TextEncoder(len(tokens), 16, depth=1, heads=2, length=text_pocket.LENGTH).eval()


@pytest.fixture
def tiny(monkeypatch, vae, encoder, tokens):
    """The recipe `pocket` on a few scenes, with a small U-Net."""
    real = pocket.network
    small = dict(channels=(16, 32), attention=(1,), heads=2, groups=8)
    monkeypatch.setattr(text_pocket, "load", lambda: (encoder, tokens))
    monkeypatch.setattr(pocket, "autoencoder", lambda job, seed, steps: deepcopy(vae))
    monkeypatch.setattr(pocket, "network", lambda *a, **k: real(*a, **k | small))
    monkeypatch.setattr(pocket, "SCENES", 3)
    monkeypatch.setattr(pocket, "UNSEEN", 2)
    monkeypatch.setattr(pocket, "REPAINTED", 5)
    monkeypatch.setattr(pocket, "BATCH", 4)
    for name, few in (("ROUNDS", 2), ("PROMPTS", 2), ("GROUP", 2), ("BATCH", 4)):
        monkeypatch.setattr(pocket_feedback, name, few)
    monkeypatch.setattr(pocket, "geneval_summary", lambda pipe, language: {})


# --- the text encoder


@pytest.fixture
def few_drawings(monkeypatch):
    names = {"en": ["anchor", "gear"], "zh": ["锚", "齿轮"]}
    monkeypatch.setattr(text_pocket, "drawings", lambda split="train": names)
    monkeypatch.setattr(text_pocket, "drawn", lambda split="train": np.zeros((2, *[text_pocket.SIZE] * 2, 3), np.uint8))
    monkeypatch.setattr(text_pocket, "SIZE", 64)  # what the judge knows


@pytest.mark.parametrize("families", [True, False])
def test_captions_meet_their_pictures(few_drawings, tokens, families):
    tensors = text_pocket.batch(torch.Generator().manual_seed(3), 24, tokens, families)
    texts = [tokens.decode(ids) for ids in tensors["ids"]]
    assert all(text in ("anchor", "gear", "锚", "齿轮") for text in texts[21:])  # one in eight
    assert (tensors["image"][21:] == -1).all() and tensors["image"].shape == (24, 3, 64, 64)
    prompts = [parse(text) for text in texts[:21]]
    assert {any(letter >= "\u4e00" for letter in text) for text in texts[:21]} == {True, False}
    assert not any(heldout(prompt) for prompt in prompts)
    for prompt, seen in zip(prompts, judge.inspect((tensors["image"][:21] + 1) / 2), strict=True):
        assert sorted(one.name for one in seen) == sorted(name for name, n in prompt.objects for _ in range(n))
    numbers = tensors["meaning"].tolist()
    for i, one in enumerate(prompts):
        for j, other in enumerate(prompts):
            assert (numbers[i] == numbers[j]) == (meaning(one) == meaning(other))
    alike = sum(
        bool({name for name, _ in one.objects} & {name for name, _ in other.objects})
        for one, other in zip(prompts, prompts[1:], strict=False)
    )
    assert alike > 10 if families else alike < 5


def test_the_loss_needs_no_padding(few_drawings, tokens, monkeypatch):
    with seeded(0):
        model = text_pocket.network(0, len(tokens))
    monkeypatch.setattr(model.image_encoder, "forward", lambda images: torch.eye(len(images), text_pocket.DIM))
    tensors = text_pocket.batch(torch.Generator().manual_seed(0), 8, tokens)
    lengths = []
    real = model.text_encoder.forward
    monkeypatch.setattr(
        model.text_encoder, "forward", lambda ids, mask: lengths.append(ids.shape[1]) or real(ids, mask)
    )
    short = text_pocket.loss(model, tensors)
    monkeypatch.setattr(text_pocket, "_longest", lambda ids, end: ids.shape[1])
    torch.testing.assert_close(text_pocket.loss(model, tensors), short)
    assert lengths[0] < lengths[1] == text_pocket.LENGTH


def test_retrieval_by_hand(tokens, monkeypatch):
    """A model that reads and sees perfectly, and one that sees the same in each picture."""

    class Perfect:
        def __init__(self, blind):
            self.blind = blind

        def __call__(self, ids, mask, images):
            says = [meaning(parse(tokens.decode(row))) for row in ids]
            text = torch.eye(len(says))
            return text, torch.ones_like(text) if self.blind else text, None

    monkeypatch.setattr(text_pocket, "paint", lambda prompts, *a: np.zeros((len(prompts), 2, 2, 3)))
    for language in LANGUAGES:
        assert text_pocket.retrieval(Perfect(False), tokens, language, 20) == 1
        assert set(text_pocket.hard_retrieval(Perfect(False), tokens, language, 3).values()) == {1.0}
        assert text_pocket.retrieval(Perfect(True), tokens, language, 20) == pytest.approx(1 / 20)
        assert text_pocket.hard_retrieval(Perfect(True), tokens, language, 40)["position"] == 1 / 4


def test_text_pocket_writes_encoder_and_tokenizer(tmp_path, monkeypatch, tokens, few_drawings):
    monkeypatch.setattr(text_pocket, "SIZE", 32)
    monkeypatch.setattr(
        text_pocket, "drawn", lambda split="train": torch.zeros(2, 32, 32, 3, dtype=torch.uint8).numpy()
    )
    monkeypatch.setattr(text_pocket, "tokenizer", lambda: tokens)
    monkeypatch.setattr(text_pocket, "BATCH", 8)
    monkeypatch.setattr(text_pocket, "evaluate", lambda model, tokens: {"retrieval": {"en": 0.5}})
    path = text_pocket.run(tmp_path / "t.safetensors", steps=2, seed=3)
    encoder, again = text_pocket.load(path)
    record = weights.record(path)
    assert record["measured"] == {"retrieval": {"en": 0.5}} and record["steps"] == 2 and record["seed"] == 3
    assert encoder.config["vocab_size"] == len(tokens) and encoder.config["length"] == again.length == 32
    text = "一只猫在一颗红色的心的左边"
    assert again.encode(text) == tokens.encode(text) and encoder.end == again.end
    assert sorted(file.name for file in tmp_path.glob("t.*")) == ["t.json", "t.safetensors"]
    assert not list((tmp_path / "runs").iterdir())


# --- the probe


def test_the_right_answers():
    answers = probe.truth([parse(text) for text in ("a cat right of a dog", "three cats", "a cat and a dog")])
    cat, dog = (data.VOCABULARY.index(name) for name in ("cat", "dog"))
    assert answers["things"].nonzero().tolist() == [[0, cat], [0, dog], [1, cat], [2, cat], [2, dog]]
    assert answers["count"].tolist() == [-100, 2, -100]
    assert answers["right of"].tolist() == [cat, -100, -100] and answers["left of"].tolist() == [dog, -100, -100]
    assert answers["above"].tolist() == answers["below"].tolist() == [-100] * 3


def test_scores_by_hand():
    prompts = [parse(text) for text in ("a cat right of a dog", "three cats", "a cat above a dog", "a pig")]
    truth = probe.truth(prompts)
    cat, dog, pig = (data.VOCABULARY.index(name) for name in ("cat", "dog", "pig"))
    said = {name: torch.zeros(4, len(data.VOCABULARY)) for name in ("things", *data.RELATIONS)}
    said["things"][[0, 0, 1, 2, 2, 3], [cat, dog, cat, cat, pig, pig]] = 1.0  # the third names a pig for the dog
    said["count"] = torch.tensor([[1.0, 0, 0, 0]] * 4)  # right of the pig, wrong of the cats
    said["right of"][0, cat] = said["left of"][0, dog] = said["above"][2, cat] = said["below"][2, pig] = 1.0
    scores = probe.scores(lambda context: said, truth | {"context": None})
    assert scores == {"things": 3 / 4, "count": 1 / 2, "sides": 3 / 4}


def test_the_probe_asks_of_held_out_captions_in_each_language(encoder, tokens, monkeypatch):
    drawn, real = [], probe.draw_prompt
    monkeypatch.setattr(probe, "draw_prompt", lambda *a: drawn.append(real(*a)) or drawn[-1])
    read = probe.probe(encoder, tokens, n=120, steps=2)
    assert not any(map(heldout, drawn[:240])) and all(map(heldout, drawn[240:])) and len(drawn) == 240 + 120
    assert set(read) == set(LANGUAGES) and set(read["en"]) == {"things", "count", "sides"}
    assert all(0 <= share <= 1 for figures in read.values() for share in figures.values())


# --- the U-Net


def test_latents_are_the_autoencoders_and_computed_once(vae, monkeypatch):
    some = pocket_scenes.latents(vae, "position", 5, seed=3)
    scenes = data.scene_arrays(5, 3, "train", size=64, tasks="position", layout="grid")
    with torch.no_grad():
        expected = 4.0 * vae.encode(torch.from_numpy(scenes.images).movedim(-1, 1) / 127.5 - 1).mean
    assert some.z.shape == (5, 5, 8, 8) and some.z.dtype == torch.float16
    assert (some.z - expected).abs().max() < 2e-3 * expected.abs().max()
    for language in LANGUAGES:
        assert [parse(text) for text in some.captions[language]] == scenes.prompts
    assert some.captions["en"] != some.captions["zh"]

    monkeypatch.setattr(pocket_scenes, "encoded", None)  # what is there is not computed again
    again = pocket_scenes.latents(vae, "position", 5, seed=3)
    assert torch.equal(again.z, some.z) and again.captions == some.captions
    for other in (dict(n=6), dict(seed=4), dict(task="colour"), dict(split="heldout")):
        with pytest.raises(TypeError):
            pocket_scenes.latents(vae, **dict(task="position", n=5, seed=3) | other)
    with seeded(5), pytest.raises(TypeError):
        pocket_scenes.latents(
            AutoencoderKL(3, 5, channels=(8, 8, 8, 8), groups=4, scale_factor=4.0), "position", 5, seed=3
        )


def named(tasks, n=7):
    """Latents and captions that say which scene they are."""
    return {
        task: pocket_scenes.Latents(
            torch.full((n, 1, 2, 2), 10.0 * k) + torch.arange(n)[:, None, None, None],
            torch.full((n, 2, 2), k, dtype=torch.uint8),
            torch.arange(n).half()[:, None, None, None].expand(n, 4, 2, 2),
            torch.tensor([[k, 0]], dtype=torch.uint8).expand(n, 2),
            torch.ones(n, dtype=torch.uint8),
            {language: [f"{language} {k} {i}" for i in range(n)] for language in LANGUAGES},
        )
        for k, task in enumerate(tasks)
    }


def test_a_batch_keeps_words_and_pictures_together():
    tokenizer = train_tokenizer(["en zh 0 1 2 3 4 5 6"] * 2, 280, length=12)
    batches = pocket_scenes.Batches(
        named(TASKS), tokenizer, {"counting": 3, "position": 1}, SCHEDULE, unconditional_rate=0.25
    )
    batch = batches(torch.Generator().manual_seed(1), 400)
    texts = [tokenizer.decode(ids) for ids in batch["ids"]]
    told = [text.split() for text in texts if text]
    for text, x_0, classes, boxes in zip(texts, batch["x_0"], batch["classes"], batch["boxes"], strict=True):
        if text:
            _, k, i = text.split()
            assert (x_0 == 10 * int(k) + int(i)).all() and (classes == int(k)).all() and (boxes == int(i)).all()
    assert 60 < 400 - len(told) < 140
    tasks = [TASKS[int(k)] for _, k, _ in told]
    assert set(tasks) == {"counting", "position"} and 0.65 < tasks.count("counting") / len(tasks) < 0.85
    assert {language for language, _, _ in told} == set(LANGUAGES) and {i for *_, i in told} == set("0123456")
    t = batch["t"].sort().values
    for share, bound in pocket_scenes.TIMES.items():
        assert abs(int((t < 1000 * bound).sum()) - 400 * share) <= 1
    assert (batch["t"] != t).any() and batch["t"].dtype == torch.int64 and (t.unique().diff() < 16).all()
    again = batches(torch.Generator().manual_seed(1), 400)
    assert all(torch.equal(again[name], batch[name]) for name in ("x_0", "eps", "t", "ids"))


def test_the_loss_is_told_the_words(encoder, tokens):
    model = pocket.network(5, 16, **SMALL)
    batch = _colours(tokens)(torch.Generator().manual_seed(0), 6)
    found = pocket_loss.TextConditionedLoss(encoder)(model, batch)
    context = encoder(batch["ids"]).detach()
    told = {name: batch[name] for name in ("x_0", "eps", "t")} | {"context": context}
    torch.testing.assert_close(found, denoising_loss(model, told, pocket.schedule(), "v"))
    found.backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())
    shuffled = batch | {"ids": batch["ids"].roll(1, 0)}
    assert (pocket_loss.TextConditionedLoss(encoder)(model, shuffled) - found).abs() > 1e-6


def _colours(tokens):
    there = (torch.arange(3 * 16).reshape(3, 4, 4) % 5 == 0).byte()  # something in every fifth cell
    asked = torch.tensor([[7, 0]] * 3, dtype=torch.uint8), torch.ones(3, dtype=torch.uint8)
    some = pocket_scenes.Latents(torch.randn(3, 5, 4, 4), 7 * there, torch.rand(3, 4, 4, 4), *asked, _captions(3))
    return pocket_scenes.Batches({"colour": some}, tokens, {"colour": 1}, SCHEDULE, unconditional_rate=0.5)


def test_the_second_task_is_for_training_alone(encoder, tokens):
    model = pocket.network(5, 16, **SMALL)
    batch = _colours(tokens)(torch.Generator().manual_seed(0), 6)
    loss = pocket_loss.TextConditionedLoss(encoder)
    alone = loss(model, batch)
    both = pocket_loss.WithCells(model, 1)
    context = encoder(batch["ids"]).detach()
    prediction, cells = both(batch["x_0"], batch["t"], context=context)
    torch.testing.assert_close(prediction, model(batch["x_0"], batch["t"], context=context))
    assert cells.shape == (6, 1 + len(data.VOCABULARY) + 4, 4, 4)
    together = loss(both, batch)
    wrong = loss(both, batch | {"cells": batch["cells"].roll(3, 1)})
    assert together > alone and (wrong - together).abs() > 1e-4
    together.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.head.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert not [name for name in storage.state(model) if "head.2" in name]  # the denoiser is as before
    assert model.up[-2]._forward_hooks
    how = dict(steps=1, batch_size=4, progress=False)
    pocket.fit(trained := pocket.network(5, 16, **SMALL), _colours(tokens), encoder, **how)
    assert not any(layer._forward_hooks for layer in trained.modules())  # nothing is left behind


def test_the_loss_of_cells_by_hand():
    told = torch.zeros(1, 1 + 2 + 4, 1, 2)  # two classes; two cells, all equally likely, boxes 0
    cells = torch.tensor([[1.0, 0], [0, 0.25], [0, 0.75]]).reshape(1, 3, 1, 2)
    there, boxes = torch.tensor([[[False, True]]]), torch.tensor([1.0, 2, 3, 4]).reshape(1, 4, 1, 1).expand(1, 4, 1, 2)
    expected = np.log(3) + (1 + 4 + 9 + 16) / 4  # the box of the cell where something stands
    assert pocket_loss.cells_loss(told, cells, boxes, there).item() == pytest.approx(expected)
    told[0, :3, 0, 1] = torch.tensor([0, 0, 1.0])  # chances of 1, 1 and e among 2 + e
    of_second = 0.25 * np.log(2 + np.e) + 0.75 * (np.log(2 + np.e) - 1)
    assert pocket_loss.cells_loss(told, cells, boxes, there).item() == pytest.approx((np.log(3) + of_second) / 2 + 7.5)
    assert pocket_loss.cells_loss(told * 0, cells, boxes, ~there & there).item() == pytest.approx(np.log(3))


def test_where_noise_hides_the_picture_the_second_task_asks_for_what_the_words_say(vae, tokens):
    some = pocket_scenes.latents(vae, "position", 300, seed=3)
    maps = pocket_scenes.expected_layouts(some)
    assert maps.shape == (len(data.RELATIONS), 2, 8, 8)
    for relation, (first, second) in zip(data.RELATIONS, maps, strict=True):
        sideways = {"left of": first.sum(0) - second.sum(0), "right of": second.sum(0) - first.sum(0)}
        upright = {"above": first.sum(1) - second.sum(1), "below": second.sum(1) - first.sum(1)}
        lead = (sideways | upright)[relation]
        assert lead[:4].sum() > 4 and lead[4:].sum() < -4, relation
    batches = pocket_scenes.Batches({"position": some}, tokens, {"position": 1}, SCHEDULE)
    batch = batches(torch.Generator().manual_seed(0), 200)
    torch.testing.assert_close(batch["cells"].sum(1), torch.ones(200, 8, 8))
    hidden = batch["t"] >= 940
    assert 0 < hidden.sum() < 200
    known = torch.nn.functional.one_hot(batch["classes"][~hidden], 1 + len(data.VOCABULARY)).movedim(-1, 1)
    assert torch.equal(batch["cells"][~hidden], known.float())
    things = (batch["cells"][hidden][:, 1:].amax((2, 3)) > 0).sum(1)
    assert (things == 2).all() and batch["cells"][hidden].max() < 1


def test_counts_have_layouts_of_their_own(vae):
    some = pocket_scenes.latents(vae, "counting", 60, seed=3)
    assert set(some.layouts.tolist()) == {2, 3, 4} and (some.things[:, 1] == 0).all()
    cells = pocket_scenes.expected_layouts(some).sum((1, 2, 3))
    assert cells[0] == cells[1] == 0 < cells[2] < cells[4]


def test_cells_say_what_stands_where():
    scenes = data.scene_arrays(20, 3, "train", tasks="two objects", layout="grid")
    classes, boxes = pocket_scenes._cells(scenes, 8)
    assert classes.shape == (20, 8, 8) and boxes.shape == (20, 4, 8, 8)
    for i, (mask, names) in enumerate(zip(scenes.masks, scenes.names, strict=True)):
        for j, name in enumerate(names, 1):
            y, x = np.where(mask == j)
            here = classes[i] == data.VOCABULARY.index(name) + 1
            assert here[y // 8, x // 8].all()
            row, column = y[0] // 8, x[0] // 8
            dx, dy, w, h = boxes[i, :, row, column].tolist()
            assert column * 8 + 4 + 16 * dx == pytest.approx((x.min() + x.max() + 1) / 2, abs=0.1)
            assert row * 8 + 4 + 16 * dy == pytest.approx((y.min() + y.max() + 1) / 2, abs=0.1)
            assert 24 * (w + 1) == pytest.approx(np.ptp(x) + 1, abs=0.1)
            assert 24 * (h + 1) == pytest.approx(np.ptp(y) + 1, abs=0.1)
        assert (classes[i] == 0).any()


def test_every_parameter_is_trained_by_one_optimizer():
    both = pocket_loss.WithCells(pocket.network(5, 16, **SMALL))
    named = dict(both.named_parameters())
    muon, adamw = pocket.optimizers(named, lr=0.01)
    names = {id(p): name for name, p in named.items()}
    first = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    rest = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted(first + rest) == sorted(named)
    assert all(named[name].ndim > 1 for name in first) and "denoiser.stem.weight" in rest
    assert muon.param_groups[0]["lr"] == pytest.approx(0.2)
    assert [group["lr"] for group in adamw.param_groups] == [0.01, 0.02]


def _captions(n):
    return {language: data.prompts(n, 1, tasks="colour", language=language) for language in LANGUAGES}


def test_pocket_writes_the_whole_pipeline(tmp_path, tiny, vae, capsys, monkeypatch):
    monkeypatch.setattr(pocket, "geneval_summary", partial(GENEVAL_SUMMARY, per_task=2, seeds=1, steps=3))
    path = pocket.run(tmp_path / "pocket", steps=2, seed=3)
    pipe = LatentDiffusion.from_pretrained(path)
    assert pipe.predicts == "v" and pipe.sees_padding and pipe.size == (64, 64) and pipe.guidance == pocket.GUIDANCE
    assert pipe.schedule.betas.equal(pocket.schedule().betas)
    words = {
        word for text in pocket_scenes.latents(vae, "colour", pocket.SCENES).captions["en"] for word in text.split()
    }
    assert words <= pipe.words and "red heart" not in pipe.words
    with pytest.warns(UserWarning, match="never saw 'zebra'"):
        picture = pipe("a zebra", steps=2, seed=0)
    assert picture.size == (64, 64)
    record = weights.record(path / "unet.safetensors")
    assert record["recipe"] == "pocket" and record["steps"] == 2 and record["seed"] == 3
    assert set(record["measured"]) == {"training_error", "heldout_error"}
    assert record["shares"] == pocket.SHARES and record["data"].startswith("scenes on the grid")
    printed = capsys.readouterr().out
    assert "round 2, painted: right" in printed
    assert "heldout_error" in printed and printed.count("Pocket GenEval in Chinese, held-out combinations") == 2
    assert {(language, split) for language, said in record["geneval"].items() for split in said} == set(
        product(LANGUAGES, ("train", "heldout"))
    )
    assert record["geneval"]["zh"]["heldout"]["overall"]["ceiling"]["value"] > 0.9
    assert record["feedback"]["pictures"] == 8 and record["feedback"]["steps"] == 4
    assert record["feedback"]["before"].keys() == record["geneval"].keys()
    assert not list((tmp_path / "runs").iterdir())


def test_a_pocket_at_other_settings(tmp_path, tiny, vae, tokens, monkeypatch):
    sizes, asked = [], []
    fit = pocket.fit
    monkeypatch.setattr(pocket, "fit", lambda *a, **k: asked.append(k) or fit(*a, **k))
    monkeypatch.setattr(pocket, "geneval_summary", partial(GENEVAL_SUMMARY, per_task=2, seeds=1, steps=3))
    monkeypatch.setattr(judge, "inspect", lambda images, model: sizes.append(images.shape[-2]) or [[] for _ in images])
    path = pocket.run(tmp_path / "pocket", steps=1, batch=2, lr=0.01, size=32, runs=tmp_path / "elsewhere")
    assert [(k["batch_size"], k["lr"], k["checkpoint"].parent.name) for k in asked] == [(2, 0.01, "elsewhere")]
    pipe, record = LatentDiffusion.from_pretrained(path), weights.record(path / "unet.safetensors")
    assert pipe.size == (32, 32) and record["batch"] == 2 and record["data"].endswith("32×32")
    assert set(sizes) == {64}  # what the judge knows, however large the pictures are
    for wrong in (dict(size=24), dict(size=0), dict(width=30), dict(width=0)):
        with pytest.raises(ValueError, match="size as a multiple of 16 and width as one of 4"):
            pocket.run(tmp_path / "pocket", **wrong)


@pytest.mark.parametrize("width, groups, heads", [(32, 16, 1), (64, 16, 2), (160, 16, 5), (24, 8, 1), (20, 4, 1)])
def test_other_widths_keep_the_proportions(width, groups, heads):
    config = pocket.network(4, 16, **pocket.widths(width)).config
    assert config["channels"] == [width, width] and (config["groups"], config["heads"]) == (groups, [heads, heads])
    assert pocket.network(4, 16).config == pocket.network(4, 16, **pocket.widths(160)).config


def test_a_shipped_pocket_names_what_ships_already(tmp_path, tiny, vae, encoder, monkeypatch):
    shelf = tmp_path / "shelf"
    monkeypatch.setattr(weights, "FOLDER", shelf)
    weights.save("text-pocket", encoder)
    assert pocket.run(steps=1) == shelf / "pocket"
    names = {"unet.safetensors", "vae.safetensors", "tokenizer.json", "pipeline.json"}
    assert {path.name for path in (shelf / "pocket").iterdir()} == names
    pipe, record = LatentDiffusion.from_pretrained("pocket"), weights.record("pocket")
    assert torch.equal(pipe.text_encoder(torch.ones(1, 9).long()), encoder(torch.ones(1, 9).long()))
    assert record["steps"] == 1 and record["geneval"] == dict.fromkeys(LANGUAGES, {})
    assert storage.state(weights.load("pocket")).keys() == storage.state(pipe.unet).keys()


def test_the_pocket_trains_an_autoencoder_of_its_own(tmp_path, tiny, vae, encoder, tokens, monkeypatch):
    asked = []

    def part(name):
        return lambda model, steps, **how: asked.append((name, steps, how["checkpoint"].name, how["seed"]))

    monkeypatch.setattr(pocket, "autoencoder", AUTOENCODER)
    monkeypatch.setattr(pocket_autoencoder, "network", lambda seed: deepcopy(vae))
    monkeypatch.setattr(pocket_autoencoder, "fit", part("both"))
    monkeypatch.setattr(pocket_autoencoder, "finetune_decoder", part("decoder"))
    pipe = LatentDiffusion.from_pretrained(pocket.run(tmp_path / "pocket", steps=1, seed=4))
    assert torch.equal(pipe.vae.quant.weight, vae.quant.weight.half().float())
    assert asked == [
        ("both", 1, "pocket-autoencoder.safetensors", 4),
        ("decoder", 1, "pocket-decoder.safetensors", 4),
        ("decoder", 1, "pocket-repainted.safetensors", 4),
    ]


def test_what_a_painter_leaves_wrong(tiny, vae, encoder, tokens, monkeypatch):
    pipe = LatentDiffusion(pocket.network(5, 16), vae, None, encoder, tokens, guidance=3, sees_padding=True)
    scenes, wrong = pocket.repainted(pipe, 3, seed=5)
    assert scenes.shape == (3, 3, 64, 64) and scenes.dtype == torch.uint8
    assert wrong.shape == (3, 5, 8, 8) and 0.1 < wrong.float().std() < 10
    again = pocket.repainted(pipe, 3, seed=5)
    assert torch.equal(again[0], scenes) and torch.equal(again[1], wrong)
    asked = []

    def perfect(said, image, strength, **how):
        asked.append((said, strength))
        yield Step(-1, pipe.encode(image), None, None)

    monkeypatch.setattr(pipe, "steps", perfect)
    scenes, wrong = pocket.repainted(pipe, 70, seed=5)
    assert len(scenes) == len(wrong) == 70 and wrong.abs().max() < 0.05
    assert [len(said) for said, _ in asked] == [64, 6]
    assert all(pocket.STRENGTHS[0] <= strength <= pocket.STRENGTHS[1] for _, strength in asked)


@pytest.mark.parametrize("step", [1, 3])
def test_pocket_goes_on_where_it_stopped(tmp_path, tiny, monkeypatch, step):
    monkeypatch.setattr(pocket, "error", lambda *a: 0.0)
    whole = pocket.run(tmp_path / "whole", steps=4)
    real, calls = pocket_scenes.Batches.__call__, []

    def crash(self, generator, n):
        calls.append(n)
        if len(calls) > step:
            raise KeyboardInterrupt
        return real(self, generator, n)

    fit = pocket.fit
    monkeypatch.setattr(pocket, "fit", lambda *a, **k: fit(*a, checkpoint_seconds=0, **k))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pocket_scenes.Batches, "__call__", crash)
        pocket.run(tmp_path / "again", steps=4)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"pocket.safetensors"}
    again = pocket.run(tmp_path / "again", steps=4)
    one, other = (storage.read(path / "unet.safetensors")[0] for path in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_of_several_processes_measures(tmp_path, tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(pocket, "geneval_summary", lambda pipe, language: asked.append(language) or {})
    for first in (False, True):
        assert not asked
        monkeypatch.setattr(pocket, "first_process", lambda first=first: first)
        pocket.run(tmp_path / f"pocket {first}", steps=1)
        assert first != any((tmp_path / "runs").iterdir())  # what to go on from is there until the first is done
    assert asked == list(LANGUAGES) * 2  # before it learns from its own pictures, and at the end


def test_training_never_sees_a_held_out_combination(tmp_path, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(
        pocket, "fit", lambda model, batches, *a, **k: seen.append(batches) or History([1.0], [(1, {"error": 1.0})])
    )
    pocket.run(tmp_path / "pocket", steps=1)
    texts = [text for some in seen[0].latents.values() for told in some.captions.values() for text in told]
    assert len(texts) == 2 * 3 * sum(pocket.SHARES.values()) and not any(map(heldout, texts))
    assert set(seen[0].latents) == set(TASKS) == set(pocket.SHARES)
    assert [batches.shares.tolist() for batches in seen] == [list(pocket.SHARES.values())]


def test_the_pocket_model_fits_its_budget_and_diffusers(tmp_path):
    """At full size: all three networks take 40 MB in half precision, and diffusers has networks like them."""
    vae = pocket_autoencoder.network()
    vae.scale_factor = 1.0
    tokens = train_tokenizer(["a cat", "a dog"], 300, text_pocket.LENGTH)
    encoder = text_pocket.network(0, text_pocket.VOCABULARY).text_encoder
    unet = pocket.network(vae.latent_channels, encoder.dim)
    assert sum(map(count_parameters, (vae, encoder, unet))) * 2 <= 40e6
    encoder = text_pocket.network(0, len(tokens)).text_encoder
    how = dict(size=pocket.SIZE, sees_padding=True)
    pipe = LatentDiffusion(unet, vae, pocket.schedule(), encoder, tokens, **how)
    assert (stable_diffusion.save(pipe, tmp_path / "diffusers") / "model_index.json").is_file()
