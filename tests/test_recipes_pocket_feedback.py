"""What the pocket learns from its own pictures, judged."""

import numpy as np
import pytest
import torch
from torch import nn

from minildm import data, geneval
from minildm.autoencoder import AutoencoderKL
from minildm.data import LANGUAGES, TASKS, heldout, prompts
from minildm.denoiser import Denoiser
from minildm.losses import denoising_error, draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.recipes import Job, pocket, pocket_feedback, pocket_scenes
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer

SCHEDULE = pocket.schedule()


@pytest.fixture(scope="module")
def tokens():
    return train_tokenizer([text for language in LANGUAGES for text in prompts(99, 1, language=language)], 400)


@pytest.fixture
def pipe(tokens, tmp_path, monkeypatch):
    """A small pipeline with words that paints something, and a recipe that is soon done with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINILDM_CACHE", str(tmp_path / "cache"))
    for name, value in (("ROUNDS", 3), ("PROMPTS", 4), ("GROUP", 4), ("BATCH", 8), ("CALLS", 2)):
        monkeypatch.setattr(pocket_feedback, name, value)
    with seeded(0):
        text = TextEncoder(len(tokens), 12, depth=1, heads=2, length=tokens.length)
        vae = AutoencoderKL(3, 4, channels=(8, 8, 8, 8), groups=4, scale_factor=0.5)
        unet = Denoiser(4, 4, (8, 8), attention=(1,), heads=2, context_dim=12, groups=4, schedule=SCHEDULE)
        nn.init.normal_(unet.head.weight, std=0.1)
    return LatentDiffusion(unet, vae, None, text, tokens, size=64, guidance=2.0, sees_padding=True)


@pytest.fixture
def scenes(pipe):
    return {task: pocket_scenes.latents(pipe.vae, task, 2) for task in TASKS}


def test_good_is_what_is_better_than_others_of_its_prompt():
    quality = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.9, 0.9, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0], [0.7, 0.5, 0.6, 0.6]])
    good = pocket_feedback.goodness(quality)
    assert good[0].tolist() == [1.0, 0.0, 0.5, 0.5]
    assert good[1:3].flatten().tolist() == pytest.approx([0.5] * 8)
    assert good[3].tolist() == pytest.approx([0.5 + 0.05 / 0.35, 0.5 - 0.05 / 0.35, 0.5, 0.5])


class Line(nn.Module):
    """A denoiser with a single weight."""

    schedule = SCHEDULE

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x_t, t):
        return self.weight * x_t


class TestTheLoss:
    def batch(self, good):
        x_0 = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        return draw_noise(x_0, SCHEDULE, torch.Generator().manual_seed(2)) | {"good": torch.full((64,), good)}

    def test_of_what_is_good_it_is_the_denoising_loss(self):
        batch = self.batch(1.0)
        model = Line(0.3)
        drawn = {name: batch[name] for name in ("x_0", "eps", "t")}
        found = pocket_feedback.FeedbackLoss(Line(-0.4))(model, batch)
        assert found.item() == pytest.approx(denoising_error(model, drawn, SCHEDULE).mean().item(), rel=1e-5)

    @pytest.mark.parametrize("good, way", [(1.0, 1), (0.75, 0.5), (0.5, 0), (0.25, -0.5), (0.0, -1)])
    def test_at_the_old_model_it_leads_towards_the_good_and_away_from_the_bad(self, good, way):
        model = Line(0.3)
        pocket_feedback.FeedbackLoss(Line(0.3))(model, self.batch(good)).backward()
        towards = Line(0.3)
        pocket_feedback.FeedbackLoss(Line(0.3))(towards, self.batch(1.0)).backward()
        assert towards.weight.grad.abs() > 0.1
        assert model.weight.grad.item() == pytest.approx(way * towards.weight.grad.item(), abs=1e-6)

    def test_nothing_runs_away(self):
        """Also of what is bad the loss has a lowest point: as far behind the old model as the good lies before it."""
        old, weights = Line(0.3), {}
        for good in (1.0, 0.0):
            model = Line(0.3)
            descent = torch.optim.SGD(model.parameters(), 0.1)
            for _ in range(300):
                descent.zero_grad()
                pocket_feedback.FeedbackLoss(old)(model, self.batch(good)).backward()
                descent.step()
            weights[good] = model.weight.item()
        assert abs(weights[1.0] - 0.3) > 0.1
        assert weights[0.0] - 0.3 == pytest.approx(0.3 - weights[1.0], abs=1e-3)


def test_attempts_are_judged_each_beside_others_of_its_prompt(pipe, monkeypatch):
    seen = []

    def quality(pictures, asked):
        assert pictures.shape[1:] == (3, 64, 64) and len(asked) == len(pictures)
        seen.extend(asked)
        return pictures.mean((1, 2, 3)).double().numpy()

    monkeypatch.setattr(geneval, "quality", quality)
    found = pocket_feedback.attempts(pipe, 3, 4, np.random.default_rng(5))
    said = [pipe.tokenizer.decode(ids) for ids in found["ids"]]
    assert [data.parse(text) for text in said] == seen and len(seen) == 12
    assert [said[i] == said[i + 1] for i in range(11)] == [True, True, True, False] * 2 + [True] * 3
    assert not any(map(heldout, said))
    pictures = pipe.decode(found["z"])
    assert (pictures.mean((1, 2, 3)) - found["quality"]).abs().max() < 0.01
    assert torch.equal(found["good"], pocket_feedback.goodness(found["quality"].view(3, 4)).flatten())
    assert len({round(value, 6) for value in found["quality"].tolist()}) == 12  # no noise twice
    again = pocket_feedback.attempts(pipe, 3, 4, np.random.default_rng(5))
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_a_batch_is_of_own_pictures_and_of_scenes(pipe, scenes):
    z = torch.arange(6.0)[:, None, None, None].expand(6, 4, 8, 8).contiguous()
    found = {"z": z, "ids": pipe.tokenizer(prompts(6, 1))[0], "good": torch.linspace(0, 0.5, 6)}
    real = pocket_scenes.Batches(scenes, pipe.tokenizer, pocket_feedback.SHARES, SCHEDULE, 0.0)
    batch = pocket_feedback.Attempts(found, real, SCHEDULE)(torch.Generator().manual_seed(1), 16)
    assert batch.keys() == {"x_0", "eps", "t", "ids", "good"} and {len(tensor) for tensor in batch.values()} == {16}
    which = batch["x_0"][:12, 0, 0, 0].long()
    assert torch.equal(batch["x_0"][:12], z[which]) and len(set(which.tolist())) > 2
    assert torch.equal(batch["ids"][:12], found["ids"][which]) and torch.equal(batch["good"][:12], found["good"][which])
    assert batch["good"][12:].tolist() == [1.0] * 4
    known = torch.cat([some.z.float() for some in scenes.values()])
    away = (batch["x_0"][12:, None] - known[None]).flatten(2).abs().amax(2)
    assert (away.min(1).values == 0).all()


def test_it_comes_to_paint_what_is_praised(pipe, scenes, monkeypatch, tmp_path, capsys):
    """Where much of the first channel is praised, latents of the same noise have more of it than where little is."""
    for setting, value in (("LR", 5e-3), ("ROUNDS", 2), ("PROMPTS", 8), ("BATCH", 16)):
        monkeypatch.setattr(pocket_feedback, setting, value)
    monkeypatch.setattr(LatentDiffusion, "decode", lambda self, z: z)
    said, found = prompts(16, 9), {}
    for name, sign in (("much", 1), ("little", -1)):
        monkeypatch.setattr(geneval, "quality", lambda z, asked, sign=sign: sign * 20 * z[:, 0].mean((1, 2)).numpy())
        model = LatentDiffusion.from_pretrained(pipe.save_pretrained(tmp_path / name))
        pocket_feedback.learn(model, scenes, Job("pocket"), steps=25, seed=1)
        (tmp_path / "runs" / "pocket-feedback.safetensors").unlink()
        *_, last = model.steps(said, seed=list(range(16)), steps=2)
        found[name] = last.x_t[:, 0].mean().item()
    assert found["much"] - found["little"] > 0.015, found
    assert "round 2, painted: right" in capsys.readouterr().out


def test_a_stopped_job_goes_on_with_its_round(pipe, scenes, monkeypatch, tmp_path):
    monkeypatch.setattr(geneval, "quality", lambda x, asked: x.mean((1, 2, 3)).numpy())
    whole, parts = (LatentDiffusion.from_pretrained(pipe.save_pretrained(tmp_path / str(i))) for i in range(2))
    pocket_feedback.learn(whole, scenes, Job("pocket", runs=tmp_path / "whole"), steps=2)
    train, calls = pocket_feedback.train, []

    def stopped(*args, **how):
        calls.append(how["lr"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **how)

    monkeypatch.setattr(pocket_feedback, "train", stopped)
    job = Job("pocket", runs=tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        pocket_feedback.learn(parts, scenes, job, steps=2)
    anew = LatentDiffusion.from_pretrained(tmp_path / "1")
    pocket_feedback.learn(anew, scenes, job, steps=2)
    assert calls == pytest.approx([2e-4, 2e-4 * 2 / 3, 2e-4 * 2 / 3, 2e-4 / 3])
    for name, tensor in whole.unet.state_dict().items():
        assert torch.equal(tensor, anew.unet.state_dict()[name]), name
