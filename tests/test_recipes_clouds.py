"""The autoencoders of the evidence of lesson 06: how they differ and are measured, and the record that ships."""

import json
import math

import pytest
import torch

from minildm import metrics, weights
from minildm.autoencoder import Gaussian
from minildm.recipes.studies import clouds
from minildm.recipes.studies import tiny_autoencoder as tiny
from minildm.tensors import count_parameters


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def brief(monkeypatch):
    """Small steps: few pictures to learn from and to be examined with."""
    for name, small in {"SCENES": 4, "EXAM": 2}.items():
        monkeypatch.setattr(clouds, name, small)
    monkeypatch.setattr(clouds, "TINY", clouds.TINY | {"batch_size": 2, "validate_every": 2})
    monkeypatch.setattr(clouds, "SMALL", clouds.SMALL | {"batch_size": 1, "validate_every": 2})
    few = tiny.portraits()[::3]
    monkeypatch.setattr(tiny, "portraits", lambda: few)


def dice(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_arms_begin_with_the_same_network():
    for kind in clouds.ARMS:
        one, again, other = (clouds.network(kind, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)
        noises = [arm.noise for arm in clouds.ARMS[kind].values()]
        weights_of_kl = [arm.weight for arm in clouds.ARMS[kind].values()]
        assert noises == [0, 1, 1, 1] and weights_of_kl[:2] == [0, 0] and 0 < weights_of_kl[2] < weights_of_kl[3]


def test_the_latents_of_both_kinds():
    x = tiny.portraits()
    assert x.shape == (tiny.PORTRAITS, 3, 16, 16) and x.min() >= -1 and x.max() <= 1 and x.std() > 0.3
    net = tiny.Tiny()
    assert net.encode(x[:5]).mean.shape == net.encode(x[:5]).std.shape == (5, 2)
    assert net.decode(torch.zeros(5, 2)).shape == (5, 3, 16, 16)
    small = clouds.network("small")
    assert small.encode(torch.zeros(2, 3, 64, 64)).mean.shape == (2, 4, 16, 16)


class Fixed:
    """An autoencoder that answers the same always."""

    def __init__(self, mean, logvar, picture):
        self.cloud, self.picture, self.seen = Gaussian(mean, logvar), picture, []

    def encode(self, x):
        return self.cloud

    def decode(self, z):
        self.seen.append(z)
        return self.picture


def test_the_loss_is_the_error_and_the_weighted_kl():
    mean, logvar, eps, x = dice(4, 2), dice(4, 2, seed=1), dice(4, 2, seed=2), dice(4, 3, 16, 16, seed=3)
    net = Fixed(mean, logvar, x + 0.5)
    nats = (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean() / 2
    for kl in (0, 0.3):
        expected = 0.25 + kl * nats / 2
        assert tiny.loss(net, {"x": x, "eps": eps}, kl).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(net.seen[0], mean + (logvar / 2).exp() * eps)


def test_the_distance_to_the_nearest_portrait():
    x = tiny.portraits()[:20]
    assert tiny.to_nearest(x) < 1e-3
    assert tiny.to_nearest(x[:1] + 9) == pytest.approx(
        (tiny.portraits() - x[0] - 9).flatten(1).norm(dim=1).min() / 768**0.5
    )
    assert 8 < tiny.to_nearest(x + 9) < 10


def test_the_places_have_the_spread_they_say():
    mean = dice(1500, 2) @ torch.tensor([[3.0, 1.0], [0.0, 0.5]]) + torch.tensor([10.0, -4.0])
    found = tiny.places(mean)
    assert {name: tuple(z.shape) for name, z in found.items()} == dict.fromkeys(found, (400, 2))
    assert torch.equal(found["own"], mean[:400])
    assert found["N(0, 1)"].mean(0).abs().max() < 0.2 and (found["N(0, 1)"].std(0) - 1).abs().max() < 0.1
    assert torch.allclose(torch.cov(found["fitted"].T), torch.cov(mean.T), atol=1.5)
    assert (found["fitted"].mean(0) - mean.mean(0)).abs().max() < 0.5
    ends = 2 * found["halfway"] - mean[:400]
    assert torch.cdist(ends.double(), mean.double()).min(1).values.max() < 1e-4
    assert {name: z.tolist() for name, z in tiny.places(mean).items()} == {
        name: z.tolist() for name, z in found.items()
    }


def test_the_exam_of_known_answers():
    x = tiny.portraits()
    mean, logvar = dice(len(x), 2), torch.full((len(x), 2), 2 * math.log(0.25))

    class Knows(Fixed):
        def decode(self, z):
            return self.picture[: len(z)]

    found = tiny.exam(Knows(mean, logvar, x + 0.1))
    assert found["rebuilt"] == pytest.approx(0.1, rel=1e-4) and found["cloud"] == pytest.approx(0.25)
    assert found["spread"] == pytest.approx(mean.std().item())
    assert all(0 < found[where] < 0.11 for where in ("N(0, 1)", "fitted", "halfway", "own"))


def test_an_error_is_a_part_of_the_latents_spread():
    mean, x = 3 * dice(2, 4, 2, 2), 0.2 * dice(2, 3, 16, 16).clamp(-4, 4)
    net = Fixed(mean, mean, x + 0.02)
    clean, loud = clouds.forgiving(net, x, (0, 0.3))
    shift = net.seen[1] - net.seen[0]
    assert torch.equal(net.seen[0], mean) and (shift.std() / mean.std()).item() == pytest.approx(0.3, rel=0.3)
    assert clean == loud == pytest.approx(metrics.psnr(x / 2 + 0.5, x / 2 + 0.51).mean().item(), abs=1e-3)


def test_the_small_exam(brief):
    found = clouds.small_exam(clouds.network("small"))
    assert set(found) == {*clouds.PARTS, "spread", "cloud", "KL"} and found["KL"] > 0
    assert found["PSNR"] > 3 and found["PSNR"] != found["PSNR, error 30 %"]


@pytest.mark.parametrize("kind", clouds.ARMS)
def test_a_training_is_kept_and_comes_out_the_same(brief, kind, tmp_path):
    arm = list(clouds.ARMS[kind])[2]
    first = clouds.row(kind, arm, steps=3)
    assert first["exams"]["step"] == [2, 3] and all(len(values) == 2 for values in first["exams"].values())
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.name == f"{kind}-{arm}-0-3.json"
    file.write_text(json.dumps(first | {"seed": 7}))
    assert clouds.row(kind, arm, steps=3)["seed"] == 7
    assert clouds.row(kind, arm, steps=3, resume=False) == first


def test_an_arm_changes_the_noise_and_the_weight(brief, monkeypatch):
    batches, weight = [], []

    def train(net, batch, loss, **how):
        batches.append(batch(torch.Generator().manual_seed(5), 2))
        weight.append(loss.keywords["kl"])
        return type("History", (), {"validation": [(1, {"cloud": 0.1234567})]})

    monkeypatch.setattr(clouds, "train", train)
    for kind in clouds.ARMS:
        used = len(batches)
        for arm in (clouds.Arm(0.5, 0), clouds.Arm(0.25)):
            assert clouds.fit(kind, arm) == {"step": [1], "cloud": [0.123457]}
        plain, noisy = batches[used:]
        assert torch.equal(plain["x"], noisy["x"]) and plain["eps"].abs().max() == 0 and noisy["eps"].abs().max() > 0.5
        assert weight[-2:] == [0.5, 0.25]


def test_the_study_writes_a_table_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(
        clouds, "row", lambda kind, arm, seed, *how: dict(kind=kind, arm=arm, seed=seed, exams={"a": [seed]})
    )
    found = clouds.record(clouds.run(tmp_path / "table.json", steps=2, seed=5))
    order = [(kind, arm, 5 + k) for kind in clouds.ARMS for k in range(clouds.SEEDS[kind]) for arm in clouds.ARMS[kind]]
    assert [(row["kind"], row["arm"], row["seed"]) for row in found["rows"]] == order
    assert clouds.exams(found["rows"], "tiny", "KL weight 0", "a").tolist() == [[5], [6], [7]]
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_the_table_that_ships():
    found = clouds.record()
    assert (found["tiny"], found["small"]) == (clouds.TINY, clouds.SMALL)
    assert (found["portraits"], found["scenes"]) == (tiny.PORTRAITS, clouds.SCENES)
    for kind, how in (("tiny", clouds.TINY), ("small", clouds.SMALL)):
        steps = list(range(how["validate_every"], how["steps"] + 1, how["validate_every"]))
        for arm in clouds.ARMS[kind]:
            mine = [row for row in found["rows"] if (row["kind"], row["arm"]) == (kind, arm)]
            assert [row["seed"] for row in mine] == list(range(clouds.SEEDS[kind]))
            for row in mine:
                assert row["steps"] == how["steps"] and row["exams"]["step"] == steps
                assert torch.tensor(list(row["exams"].values())).isfinite().all()
    assert clouds.PLACE == weights.FOLDER / "clouds.json" and clouds.PLACE.stat().st_size < 6e4
    assert count_parameters(clouds.network("small")) == 330_864
