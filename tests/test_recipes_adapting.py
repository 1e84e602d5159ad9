"""Adapting a small model to a folder, four ways: what is written, that it draws otherwise, and what is in the way."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from compare import randomized
from PIL import Image
from test_readme import discs

from minildm import LatentDiffusion, cli, stable_diffusion, weights
from minildm.adapt import Controlled, ControlNet
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.recipes import _own
from minildm.recipes.adapting import _frame, controlnet, dreambooth, inversion, lora
from minildm.schedule import NoiseSchedule
from minildm.text import TextEncoder, train_tokenizer

QUICK = dict(model="model", steps=2, batch=2)
HOW = dict(seed=0, steps=2, output="tensor")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a model, pictures, and masks of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_own, "SHEETS", 1)
    for module in (_frame, controlnet):
        monkeypatch.setattr(module, "SAMPLES", 2)
    tokenizer = train_tokenizer(["a cat", "a sks dog"], 265, length=16)
    text = randomized(TextEncoder(len(tokenizer), 12, depth=1, heads=2, length=16))
    vae = randomized(AutoencoderKL(3, 4, channels=(8, 12), groups=4, scale_factor=0.5))
    schedule = NoiseSchedule.scaled_linear(60)
    unet = randomized(Denoiser(4, 4, (8, 16), attention=(1,), heads=2, context_dim=12, groups=4, schedule=schedule))
    pipe = LatentDiffusion(unet, vae, None, text, tokenizer, size=(8, 8), words=["a cat dog"], guidance=2.0)
    pipe.save_pretrained("model")
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(11):
        picture, mask = discs(number, (20, 24))
        Image.fromarray(picture).save(f"photos/{number}.png")
        Image.fromarray(mask).save(f"masks/{number}.png")
    return tmp_path


def opened():
    return LatentDiffusion.from_pretrained("model")


def draw(pipe, prompt="a cat", **more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its words are known
        return pipe(prompt, **HOW, **more)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_lora(text_encoder):
    before = {file.name: file.read_bytes() for file in (_frame.Path("model")).iterdir()}
    path = lora.run("photos", prompt="a sks dog", text_encoder=text_encoder, lr=0.1, **QUICK)
    assert str(path) == "photos-lora.safetensors" and path.stat().st_size < 1e6
    pipe = opened()
    plain = draw(pipe)
    added = pipe.load_lora(path)
    assert (draw(pipe) - plain).abs().max() > 1e-3 and draw(pipe, "a sks dog").isfinite().all()
    assert any("text_encoder" in name for name in added.branches) == text_encoder
    assert before == {file.name: file.read_bytes() for file in (_frame.Path("model")).iterdir()}
    assert [file.name for file in (_frame.Path("runs") / "adapt-lora-photos").iterdir()] == ["step-000002.png"]


def test_a_lora_of_all_layers_or_of_attention_alone():
    sizes = []
    for attention_only in (False, True):
        path = lora.run(
            "photos", f"{attention_only}.safetensors", prompt="a cat", attention_only=attention_only, **QUICK
        )
        branches = opened().load_lora(path).branches
        sizes.append(path.stat().st_size)
        assert any(".conv" in name for name in branches) != attention_only
        assert any(name.endswith("to_q") for name in branches)
    assert sizes[0] > sizes[1]


def test_lora_goes_on_after_a_stop(monkeypatch):
    expected = lora.run("photos", "whole.safetensors", prompt="a cat", **QUICK | dict(steps=3)).read_bytes()
    save, calls = _own.OwnJob.show, []

    def interrupt(job, *arguments, **more):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return save(job, *arguments, **more)

    monkeypatch.setattr(_own, "SHEETS", 2)
    monkeypatch.setattr(_own.OwnJob, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lora.run("photos", "parts.safetensors", prompt="a cat", **QUICK | dict(steps=3))
    path = lora.run("photos", "parts.safetensors", prompt="a cat", **QUICK | dict(steps=3))
    from safetensors.torch import load_file

    one, other = load_file("whole.safetensors"), load_file(path)
    assert expected and all(torch.equal(one[name], other[name]) for name in one)


def test_captions_beside_pictures():
    for number in range(11):
        (_frame.Path("photos") / f"{number}.txt").write_text(f"a {'cat' if number % 2 else 'dog'}")
    assert opened().load_lora(lora.run("photos", **QUICK)).words == ["a cat", "a dog"]


def test_inversion():
    path = inversion.run("photos", word="<b>", like="cat", **QUICK)
    assert path.stat().st_size < 3000
    pipe = opened()
    plain = draw(pipe)
    assert pipe.load_word(path) == "<b>" and (draw(pipe, "a <b>") - plain).abs().max() > 1e-4
    with pytest.raises(ValueError, match="new word '<b>' in it"):
        inversion.run("photos", word="<b>", like="cat", prompt="a cat", **QUICK)


@pytest.mark.parametrize("prior", [None, "a dog"])
def test_dreambooth(prior):
    path = dreambooth.run("photos", prompt="a sks dog", prior=prior, priors=3, lr=0.1, **QUICK)
    assert str(path) == "photos-dreambooth"
    assert (draw(LatentDiffusion.from_pretrained(path), "a sks dog") - draw(opened(), "a dog")).abs().max() > 0.01
    with pytest.raises(FileExistsError):
        dreambooth.run("photos", "masks", prompt="a sks dog", **QUICK)


def test_controlnet():
    path = controlnet.run("photos", "masks", prompt="a cat", lr=0.1, **QUICK)
    net = weights.load(path)
    assert isinstance(net, ControlNet) and net.factor == 2 and weights.record(path)["pictures"] == 11
    pipe = opened()
    pipe.unet = Controlled(pipe.unet, net)
    one, two = (draw(pipe, control=torch.full((1, 1, 8, 8), float(v))) for v in (0, 1))
    assert net.hint[-1].weight.abs().max() > 0 and (one - two).abs().max() > 1e-5  # it has begun to look at masks


def test_a_model_of_diffusers(here):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stable_diffusion.save(opened(), here / "sd")
        path = dreambooth.run("photos", prompt="a sks dog", **QUICK | dict(model="sd"))
        assert isinstance(stable_diffusion.load(path), LatentDiffusion)
        assert lora.run("photos", prompt="a cat", **QUICK | dict(model="sd")).is_file()


class TestCommands:
    MODEL = ["--model", "model", "--steps", "2"]
    LEARN = [*MODEL, "--batch", "2"]

    def test_all_four_and_drawing_with_them(self, capsys):
        for words in (
            ["lora", "photos", "--prompt", "a cat", "--lr", "0.1", "--rank", "2"],
            ["inversion", "photos", "--word", "<b>", "--like", "cat"],
            ["dreambooth", "photos", "--prompt", "a sks dog", "--prior", "a dog", "--priors", "2"],
            ["controlnet", "photos", "masks", "--prompt", "a cat"],
        ):
            assert cli.main(["adapt", *words, *self.LEARN]) == 0, capsys.readouterr().err
            assert f"written: photos-{words[0]}" in capsys.readouterr().out
        how = [*self.MODEL, "--seed", "0", "-o"]
        assert cli.main(["generate", "a cat", *how, "plain.png"]) == 0
        drawn = {}
        for name, more in {
            "lora": ["--lora", "photos-lora.safetensors"],
            "half": ["--lora", "photos-lora.safetensors", "--lora-scale", "0"],
            "control": ["--controlnet", "photos-controlnet.safetensors", "--control", "masks/1.png"],
        }.items():
            assert cli.main(["generate", "a cat", *how, f"{name}.png", *more]) == 0, capsys.readouterr().err
            drawn[name] = np.asarray(Image.open(f"{name}.png")).astype(int)
        plain = np.asarray(Image.open("plain.png")).astype(int)
        assert np.abs(drawn["lora"] - plain).max() > 1 and np.array_equal(drawn["half"], plain)
        assert cli.main(["generate", "a <b>", *how, "word.png", "--word", "photos-inversion.safetensors"]) == 0
        assert "never saw" not in capsys.readouterr().err

    def test_what_is_in_the_way(self, here, capsys):
        def said(*words):
            assert cli.main(list(words)) == 1
            return capsys.readouterr().err

        learn = ["--prompt", "a cat", *self.LEARN]
        (here / "empty").mkdir()
        assert "no pictures in" in said("adapt", "lora", "empty", *learn)
        assert "there is no folder" in said("adapt", "lora", "nowhere", *learn)
        assert "has no captions" in said("adapt", "lora", "photos", *self.LEARN)
        assert "no pipeline 'nothing'" in said("adapt", "lora", "photos", "--prompt", "a cat", "--model", "nothing")
        assert "ends in .safetensors" in said("adapt", "lora", "photos", "-o", "l.bin", *learn)
        assert "--controlnet FILE --control MASK" in said("generate", "a cat", "--control", "masks/1.png", *self.MODEL)
        shutil.copy("photos/1.png", "photos/1.webp")
        assert "1.png and 1.webp, which fit the same twin" in said(
            "adapt", "controlnet", "photos", "masks", *self.LEARN
        )
        (here / "photos" / "1.webp").unlink()
        Image.new("L", (9, 9)).save("masks/3.png")
        assert "mask of the size of its picture, got 3.png 20×24 and 3.png 9×9" in said(
            "adapt", "controlnet", "photos", "masks", *self.LEARN
        )
        assert not list(here.glob("*.safetensors"))

    @pytest.mark.filterwarnings("always")
    def test_a_damaged_picture_among_many_is_left_out_by_name(self, here, capsys):
        (here / "photos" / "7.png").write_bytes((here / "photos" / "6.png").read_bytes()[:60])
        assert cli.main(["adapt", "lora", "photos", "--prompt", "a cat", *self.LEARN]) == 0
        said = capsys.readouterr()
        assert "1 of 11 files could not be read: 7.png" in said.err and "10 pictures of 8×8" in said.out
        assert cli.main(["adapt", "controlnet", "photos", "masks", *self.LEARN]) == 0
        assert "1 of 11 pairs could not be read: photos/7.png" in capsys.readouterr().err

    def test_a_lora_of_another_model(self, capsys):
        assert cli.main(["adapt", "lora", "photos", "--prompt", "a cat", *self.LEARN]) == 0
        assert cli.main(["generate", "a cat", "--lora", "photos-lora.safetensors", "--steps", "1"]) == 1
        assert "is a LoRA of another model than this one" in capsys.readouterr().err
