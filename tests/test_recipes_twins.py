import json

import pytest
import torch

from minildm import weights
from minildm.attention import Attention
from minildm.recipes import twins
from minildm.recipes.studies import attention
from minildm.tensors import count_parameters


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few(monkeypatch):
    """What is measured is measured on few pictures."""
    draw, errors = twins.draw, twins.errors
    monkeypatch.setattr(twins, "draw", lambda model, n=512, steps=25: draw(model, min(n, 16), steps=2))
    monkeypatch.setattr(twins, "errors", lambda model, n: errors(model, 4))


def pictures(n=60, equal=True):
    return twins.scenes(n, torch.Generator().manual_seed(0), equal)


def test_a_picture_holds_two_equal_mirrored_tiles_where_its_corners_say():
    images, corners = pictures()
    assert images.shape == (60, 1, 10, 10) and (images.abs().sum((1, 2, 3)) == 32).all()
    for image, places in zip(images[:, 0], corners.tolist(), strict=True):
        one, other = (image[y : y + 4, x : x + 4] for y, x in places)
        assert one.abs().all() and torch.equal(one, other) and torch.equal(one, one.flip(1))
    assert {tuple(place) for places in corners.tolist() for place in places} == {
        (y, x) for y in (0, 1, 5, 6) for x in (0, 1, 5, 6)
    }


def test_equal_false_draws_each_tile_anew():
    near, far, good = twins.look(pictures(400, equal=False).images)
    assert good.all() and (near == 1).all()
    assert 0.4 < far.mean() < 0.6 and (far == 1).float().mean() < 0.03


def test_agreement_is_counted_pixel_by_pixel():
    images, corners = pictures(3)
    assert twins.agreement(images) == {"good": 1, "near": 1, "far": 1, "mirrored": 1, "equal": 1}
    y, x = corners[0, 1].tolist()
    images[0, 0, y, x] *= -0.6  # one pixel of 16 differs, and so do it and its mirror image, 2 of 32
    y, x = corners[1, 0].tolist()
    images[1, 0, y : y + 4, x : x + 4] = 0.3  # too pale: this tile is gone
    near, far, good = twins.look(images)
    assert near.tolist() == [30 / 32, 0, 1] and far.tolist() == [15 / 16, 0, 1] and good.tolist() == [True, False, True]
    images[2, 0, :5, :5] = images[2, 0, 5:, 5:] = images[2, 0, :5, 5:] = 1  # nothing but ink
    assert twins.look(images).good.tolist() == [True, False, False]
    assert twins.agreement(images)["good"] == pytest.approx(1 / 3)


def test_who_is_looked_at_is_counted_in_even_shares():
    corners = pictures(5).corners
    even = torch.full((5, 2, 100, 100), 0.01)
    assert torch.allclose(twins.seen(even, corners), torch.ones(5, 2, 4))
    where = torch.zeros(5, 2, 100, 100)
    for i, ((y, x), (v, u)) in enumerate(corners.tolist()):
        for a in range(4):
            for b in range(4):
                where[i, 0, 10 * (y + a) + x + b, 10 * (v + a) + u + b] = 1  # its equal in the twin
                where[i, 1, 10 * (y + a) + x + b, 10 * (y + a) + x + 3 - b] = 1  # its mirror image
    assert twins.seen(where, corners)[0].tolist() == [[0, 50, 0, 0], [50, 0, 0, 0]]


def test_the_arms_differ_in_attention_alone():
    attends, local = (twins.network(3, attention) for attention in (True, False))
    assert not any(isinstance(layer, Attention) for layer in local.modules())
    assert 1 <= count_parameters(local) / count_parameters(attends) < 1.02
    a, b = attends.state_dict(), local.state_dict()
    shared = [name for name in a if name in b and a[name].shape == b[name].shape]
    assert len(shared) > 0.6 * len(a) and all(torch.equal(a[name], b[name]) for name in shared)


def test_every_parameter_of_the_local_arm_gets_a_gradient():
    net = twins.network(attention=False)
    twins.fit(net, 1, progress=False)
    net(pictures(4).images, torch.tensor([0, 300, 600, 999])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_perfect_denoiser_has_no_error():
    images = twins.scenes(8, torch.Generator().manual_seed(1000)).images
    assert twins.errors(lambda x_t, t: images, 8) == [0] * len(twins.LEVELS)


def test_a_training_is_measured_once_and_kept(tmp_path, few):
    first = attention.row("attention", steps=2)
    assert first["parameters"] == count_parameters(twins.network()) and len(first["errors"]) == len(twins.LEVELS)
    assert attention.pictures(first).shape == (8, 1, 10, 10)
    assert [step for step, *_ in first["curve"]] == [1, 2]
    file = tmp_path / "runs" / "attention" / "attention-0-2.json"
    file.write_text(json.dumps(first | {"far": 7}))
    assert attention.row("attention", steps=2)["far"] == 7
    again = attention.row("attention", steps=2, resume=False)
    assert again["errors"] == first["errors"] and again["far"] != 7


def test_the_table_goes_into_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "row", lambda arm, seed, *more: {"arm": arm, "seed": seed})
    path = attention.run(tmp_path / "t.safetensors", seed=5)
    table = weights.record(path)["attention"]
    assert len(table) == 2 * attention.SEEDS and {row["seed"] for row in table} == set(range(5, 5 + attention.SEEDS))
    assert weights.record(path)["recipe"] == "twins"


def test_twins_writes_a_checkpoint_with_its_record(tmp_path, few):
    path = twins.run(tmp_path / "t.safetensors", steps=2)
    assert weights.load(path).schedule == twins.schedule() and weights.record(path)["steps"] == 2
    assert set(weights.record(path)["measured"]) == {"errors", "good", "near", "far", "mirrored", "equal"}
