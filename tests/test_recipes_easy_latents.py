"""The study of latents that are easy to paint: its arms, its measures, and the record that ships."""

import pytest
import torch
import torch.nn.functional as F

from minildm import data, weights
from minildm.recipes import labelled
from minildm.recipes.pocket_autoencoder import drawing_loss
from minildm.recipes.studies import easy_latents


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


def batch(n=3):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (n, 3, 64, 64), "eps": (n, 16, 8, 8), "spread": (n, 1, 1, 1)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def test_scenes_show_one_of_the_nouns_each():
    x, labels = easy_latents.scenes(60)
    assert len(x) == len(labels) > 5 and x.shape[1:] == (3, 64, 64) and x.min() >= -1 and x.max() <= 1
    assert set(labels.tolist()) <= set(easy_latents.LABELS) and len(easy_latents.LABELS) == 16
    assert not any(data.VOCABULARY[label].split()[0] in data.COLOURS for label in easy_latents.LABELS)


def test_arms_begin_with_the_same_networks():
    for make in (easy_latents.network, lambda seed: easy_latents.painter(1.0, seed)):
        one, again, other = (make(seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)
    assert easy_latents.network().encode(torch.zeros(2, 3, 64, 64)).mean.shape == (2, 16, 8, 8)


def test_each_arm_asks_for_what_it_is_called():
    model, some = easy_latents.network().double(), {name: value.double() for name, value in batch().items()}
    with torch.no_grad():
        losses = {
            name: easy_latents.regularised_loss(model, some, arm).item() for name, arm in easy_latents.ARMS.items()
        }
        cloud = model.encode(some["x"])
        z = cloud.at(some["eps"])
        nats = cloud.kl().mean().item() / z[0].numel()
        plain = drawing_loss(model.decode(z), some["x"]).item()
        half = drawing_loss(model.decode(F.avg_pool2d(z, 2)), F.avg_pool2d(some["x"], 2)).item()
    assert losses["plain"] == pytest.approx(plain + 1e-6 * nats, rel=1e-7)
    assert losses["KL 1e-3"] == pytest.approx(plain + 1e-3 * nats, rel=1e-7) and nats > 0.01
    assert losses["half size"] == pytest.approx(plain + 1e-6 * nats + half, rel=1e-5) and half > 0.01
    assert losses["noise"] != pytest.approx(plain, rel=1e-3)


def test_noise_is_added_to_standardised_latents():
    model, some = easy_latents.network(), batch()
    seen = []
    decode = model.decode
    model.decode = lambda z: seen.append(z) or decode(z)
    with torch.no_grad():
        easy_latents.regularised_loss(model, some | {"spread": torch.zeros(3, 1, 1, 1)}, easy_latents.ARMS["noise"])
        easy_latents.regularised_loss(model, some, easy_latents.ARMS["noise"])
    quiet, loud = seen
    assert quiet.mean((0, 2, 3)).abs().max() < 1e-4 and quiet.std((0, 2, 3)).max() < 1.01
    assert torch.allclose(loud - quiet, 0.7 * some["spread"] * some["eps"], atol=1e-5)


def test_a_space_is_standardised_and_can_be_decoded():
    x, _ = easy_latents.scenes(60)
    vae = easy_latents.network().eval()
    space = easy_latents.Standardised(x, vae, easy_latents.ARMS["plain"])
    z = space.take(torch.arange(len(x)), torch.Generator())
    assert z.mean((0, 2, 3)).abs().max() < 1e-4 and (z.std((0, 2, 3)) - 1).abs().max() < 1e-3
    with torch.no_grad():
        again = (vae.decode(vae.encode(x[:4]).mean).clamp(-1, 1) + 1) / 2
    assert (space.pictures(z[:4]) - again).abs().max() < 1e-3
    raw = easy_latents.Standardised(x, vae, easy_latents.ARMS["noise"])
    with torch.no_grad():
        assert (raw.pictures(z[:2]) - (vae.decode(z[:2]).clamp(-1, 1) + 1) / 2).abs().max() < 1e-4


def test_fine_power():
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    slow = torch.cos(torch.arange(8) * torch.pi / 4).expand(8, 8)
    assert easy_latents.fine_power(checkers.expand(2, 3, 8, 8)) == pytest.approx(1)
    assert easy_latents.fine_power(slow.expand(2, 3, 8, 8)) == pytest.approx(0, abs=1e-6)
    noise = torch.randn(400, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert easy_latents.fine_power(noise) == pytest.approx(1 - 49 / 64, abs=0.02)


def test_a_run_measures_each_arm_once(monkeypatch, tmp_path):
    for name, value in (("SCENES", 90), ("EACH", 1), ("SEEDS", 1), ("LABELS", range(0, 46, 23))):
        monkeypatch.setattr(easy_latents, name, value)
    monkeypatch.setattr(easy_latents, "AUTOENCODER", easy_latents.AUTOENCODER | {"batch_size": 2})
    monkeypatch.setattr(easy_latents, "PAINTER", easy_latents.PAINTER | {"batch_size": 2})
    monkeypatch.setattr(easy_latents, "drawn", lambda pictures, labels: {"median": float(len(pictures))})
    monkeypatch.setattr(labelled, "draw", lambda model, space, labels, seed: torch.zeros(len(labels), 3, 64, 64))
    table = easy_latents.record(easy_latents.run(tmp_path / "table.json", steps=2, seed=3))
    assert [(row["arm"], row["seed"]) for row in table["rows"]] == [(arm, 3) for arm in easy_latents.ARMS]
    assert easy_latents.painted(table["rows"], "noise", 3.0, "median") == [2.0]
    monkeypatch.setattr(easy_latents, "fit", lambda *_: pytest.fail("it was measured before"))
    again = easy_latents.record(easy_latents.run(tmp_path / "table.json", steps=2, seed=3))
    assert again["rows"] == table["rows"]


def test_the_record_that_ships():
    found = easy_latents.record()
    assert weights.FOLDER in easy_latents.PLACE.parents and easy_latents.PLACE.stat().st_size < 20_000
    pairs = [(row["arm"], row["seed"]) for row in found["rows"]]
    assert pairs == [(arm, seed) for seed in range(easy_latents.SEEDS) for arm in easy_latents.ARMS]
    assert all(set(row["painted"]) == {f"{shift:g}" for shift in easy_latents.SHIFTS} for row in found["rows"])
