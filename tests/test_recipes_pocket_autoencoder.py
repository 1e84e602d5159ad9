"""The pocket's own autoencoder, on a tiny network."""

import pytest
import torch

from minildm.autoencoder import AutoencoderKL
from minildm.recipes import pocket_autoencoder as recipe
from minildm.tensors import seeded

SMALL = dict(latent_channels=3, channels=(8, 8, 8, 8), blocks_per_level=1, groups=4)


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "drawings", lambda: torch.full((3, 3, 64, 64), 200, dtype=torch.uint8))


@pytest.fixture
def model():
    with seeded(1):
        return AutoencoderKL(3, **SMALL).eval()


def test_latents_are_standardised_and_the_decoder_sees_the_same(model):
    with torch.no_grad():
        model.quant.bias[:3] += torch.tensor([5.0, -2.0, 0.0])
        model.quant.weight[:3] *= torch.tensor([0.1, 3.0, 10.0])[:, None, None, None]
        before = model.encode(recipe._scenes(50, 7)).mean
        recipe.standardise(model, 200)
        z = model.encode(recipe._scenes(50, 7)).mean
    assert z.mean((0, 2, 3)).abs().max() < 0.2 and (z.std((0, 2, 3)) - 1).abs().max() < 0.2
    for mine, old in zip(z.unbind(1), before.unbind(1), strict=True):  # a straight line of what it was
        assert torch.corrcoef(torch.stack([mine.flatten(), old.flatten()]))[0, 1] > 0.9999
    std = model.encode(recipe._scenes(2, 0)).std
    assert model.scale_factor == 1 and torch.allclose(std, torch.full_like(std, 0.05))


def test_training_sees_noise_up_to_its_bound(model, monkeypatch):
    seen = []
    monkeypatch.setattr(recipe, "standardise", lambda model: seen.append("standardised"))
    monkeypatch.setattr(
        recipe, "train", lambda model, batch, loss, **how: seen.append(batch(torch.Generator().manual_seed(0), 40))
    )
    recipe.fit(model, noise=0.5)
    assert seen[1:] == ["standardised"]
    x, error = seen[0]["x"], seen[0]["error"]
    assert x.shape == (40, 3, 64, 64) and error.shape == (40, 3, 8, 8)
    spread = error.flatten(1).std(1)
    assert (x[34:] == x[34, 0, 0, 0]).all() and (x[:34] != x[34, 0, 0, 0]).any()  # six drawings of forty
    assert 0.3 < spread[:34].max() < 0.65 and spread[34:].max() < 0.1


def test_two_steps_of_each_part(model):
    how = dict(steps=2, batch_size=8, progress=False, bfloat16=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe.fit(model, **how)
    assert model.scale_factor == 1 and not torch.equal(before["encoder.stem.weight"], model.encoder.stem.weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe.finetune_decoder(model, **how)
    changed = {name.split(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"decoder", "post_quant"} and all(p.requires_grad for p in model.parameters())


def test_the_decoder_learns_from_what_a_painter_leaves(model, monkeypatch):
    seen = []
    monkeypatch.setattr(recipe, "train", lambda model, batch, loss, **how: seen.append((batch, loss)))
    scenes = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 64, 64)
    wrong = torch.arange(7.0)[:, None, None, None].expand(7, 3, 8, 8).half()
    recipe.finetune_decoder(model, repainted=(scenes, wrong))
    batch, loss = seen[0]
    drawn = batch(torch.Generator().manual_seed(0), 10)
    x, error = drawn["x"], drawn["error"]
    assert x.shape == (10, 3, 64, 64) and error.shape == (10, 3, 8, 8) and error.dtype == torch.float32
    number = (x[3:, 0, 0, 0] + 1) * 127.5  # of the scene that stands there
    torch.testing.assert_close(error[3:, 0, 0, 0], number, atol=1e-3, rtol=0)
    assert len(number.unique()) > 2 and all(len(one.unique()) > 50 for one in error[:3])
    model.scale_factor = 1.0
    with torch.no_grad():
        z = model.scale(model.encode(x).mean) + error
        expected = recipe.drawing_loss(model.decode(model.unscale(z)), x)
    torch.testing.assert_close(loss(model, drawn).detach(), expected)


def test_the_loss_by_hand():
    x, x_hat = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    # absolute 1/4; squared 5 * 1/4; of two neighbours in each direction one differs by 1
    assert recipe.drawing_loss(x_hat, x).item() == pytest.approx(0.25 + 5 * 0.25 + 0.5 + 0.5)
    assert recipe.drawing_loss(x + 0.5, x).item() == pytest.approx(0.5 + 5 * 0.25)


@pytest.mark.parametrize("n", [1, 7, 32])
def test_a_batch_is_shared_out_whole(n):
    parts = list(recipe._shared_out(n, torch.Generator().manual_seed(0)))
    assert sum(k for _, k, _ in parts) == n and all(k > 0 for _, k, _ in parts)
    if n == 32:
        assert {task: k for task, k, _ in parts} == recipe.DECODER_SHARES
