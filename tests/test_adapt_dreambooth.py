"""DreamBooth and the examples that all fine-tuning learns from: who is in a batch, and how much each counts."""

import pytest
import torch
from compare import randomized
from small_sd import small

from minildm import training
from minildm.adapt import Examples, WithPrior, dreambooth_loss, example_error, example_loss, networks, prior_pictures
from minildm.denoiser import Denoiser
from minildm.losses import denoising_error
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule


def pipeline():
    pipe = small()
    pipe.unet.schedule = pipe.schedule
    return pipe


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PICTURES = torch.rand(3, 3, 8, 12, generator=generator())


class TestExamples:
    def test_by_hand(self):
        pipe = pipeline()
        pipe.sees_padding = False
        examples = Examples(pipe, PICTURES, ["a cat", "a dog", "cat"], y=torch.tensor([0, 1, 2]))
        batch = examples.at(torch.tensor([2, 0]), generator())
        assert torch.equal(batch["x_0"], pipe.encode(PICTURES)[[2, 0]]) and batch["y"].tolist() == [2, 0]
        ids, mask = pipe.tokenizer(["cat", "a cat"])
        assert torch.equal(batch["ids"], ids) and torch.equal(batch["mask"], mask)
        noise = {name: batch[name] for name in ("x_0", "eps", "t", "y", "mask")}
        expected = denoising_error(pipe.unet, noise | {"context": pipe.text_encoder(ids, mask)})
        assert torch.equal(example_error(networks(pipe), batch), expected)
        assert torch.equal(example_loss(networks(pipe), batch), expected.mean())
        seen = torch.cat([examples(generator(i), 8)["y"] for i in range(4)])
        assert set(seen.tolist()) == {0, 1, 2}

    def test_padding_is_seen_where_the_pipeline_shows_it(self):
        assert "mask" not in Examples(pipeline(), PICTURES, "a cat")(generator(), 2)

    def test_without_words(self):
        unet = randomized(Denoiser(3, 3, (8,), num_classes=2))
        pipe = LatentDiffusion(unet, schedule=NoiseSchedule.cosine(20), size=8)
        batch = Examples(pipe, PICTURES)(generator(), 5)
        assert batch["y"].tolist() == [-1] * 5 and batch.keys() == {"x_0", "eps", "t", "y"}
        assert example_error(networks(pipe), batch).shape == (5,)
        with pytest.raises(ValueError, match="takes no words"):
            Examples(pipe, PICTURES, "a cat")

    def test_refused(self):
        with pytest.raises(ValueError, match="expected prompts for 3 pictures, got 0"):
            Examples(pipeline(), PICTURES)
        with pytest.raises(ValueError, match="expected prompts for 3 pictures, got 2"):
            Examples(pipeline(), PICTURES, ["a", "b"])
        with pytest.raises(ValueError, match="y for one picture or 3"):
            Examples(pipeline(), PICTURES, "a", y=torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="divisible"):
            Examples(pipeline(), PICTURES[..., :7], "a")


class TestPrior:
    def test_pictures_are_the_models_own(self):
        pipe = pipeline()
        found = prior_pictures(pipe, ["a cat", "a dog"], 5, seed=3, batch=2, steps=2)
        assert found.shape == (5, 3, 8, 12)
        for i, prompt in enumerate(["a cat", "a dog", "a cat", "a dog", "a cat"]):
            assert (found[i] - pipe(prompt, seed=3 + i, steps=2, output="tensor")[0]).abs().max() <= 1e-5
        assert prior_pictures(pipe, "a cat", 1, steps=1).shape[0] == 1

    def test_batches_hold_both_and_the_loss_weighs_them(self):
        pipe = pipeline()
        both = WithPrior(Examples(pipe, PICTURES, "a dog"), Examples(pipe, 1 - PICTURES, "a cat"))
        batch = both(generator(), 5)
        assert batch["prior"].tolist() == [False, False, False, True, True]
        assert len(batch["ids"].unique(dim=0)) == 2
        error = example_error(networks(pipe), batch)
        found = dreambooth_loss(networks(pipe), batch, weight=0.25)
        torch.testing.assert_close(found, error[:3].mean() + 0.25 * error[3:].mean())
        alone = both.new(generator(), 4)
        assert torch.equal(dreambooth_loss(networks(pipe), alone), example_loss(networks(pipe), alone))
        with pytest.raises(ValueError, match="2 samples"):
            both(generator(), 1)

    def test_the_whole_denoiser_learns_and_the_text_encoder_if_asked(self):
        for frozen in (True, False):
            pipe = pipeline()
            pipe.text_encoder.requires_grad_(not frozen)
            parts = networks(pipe)
            before = {name: p.clone() for name, p in parts.named_parameters()}
            both = WithPrior(Examples(pipe, PICTURES, "a dog"), Examples(pipe, 1 - PICTURES, "a cat"))
            training.train(parts, both, dreambooth_loss, steps=2, batch_size=4, ema=None, progress=False)
            changed = {name.split(".")[0] for name, p in parts.named_parameters() if not torch.equal(p, before[name])}
            assert changed == ({"unet"} if frozen else {"unet", "text_encoder"})
