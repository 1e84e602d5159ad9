"""The small painters of lesson 13."""

import json

import pytest
import torch

from minildm import samplers, weights
from minildm.recipes import beyond
from minildm.schedule import NoiseSchedule
from minildm.tensors import count_parameters


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


def test_the_twins_start_alike_and_the_transformer_is_as_large():
    diffusion, flow, dit = (beyond.network(arm, 3) for arm in ("diffusion", "flow", "dit"))
    assert all(torch.equal(a, b) for a, b in zip(diffusion.parameters(), flow.parameters(), strict=True))
    assert abs(count_parameters(dit) / count_parameters(flow) - 1) < 0.07
    assert diffusion.schedule.predicts == "v" and flow.schedule == dit.schedule == NoiseSchedule.flow()


def test_the_world_is_four_glyphs_at_16_places():
    world = beyond.world()
    assert world.shape == (64, 1, 8, 8) and set(world.unique().tolist()) == {-1, 1}
    assert len({picture.numpy().tobytes() for picture in world}) == 64
    first, right, below = (world[k, 0] for k in (0, 1, 4))
    assert torch.equal(first[:, :-1], right[:, 1:]) and torch.equal(first[:-1], below[1:])
    ink = (world[:, 0] > 0).sum((1, 2)).view(4, 16)
    assert (ink == ink[:, :1]).all() and ink[:, 0].tolist() == [16, 16, 9, 20]


def test_right_is_what_is_near_to_a_right_picture():
    world = beyond.world()
    assert beyond.look(world[[5, 5, 60]]) == {"right": 1, "away": 0, "different": 2, "hits": "111"}
    gap = min(float((one - other).square().mean().sqrt()) for k, one in enumerate(world) for other in world[:k])
    assert beyond.tolerance() == pytest.approx(gap / 2)
    between = (world[[0]] + world[[20]]) / 2  # half a heart, half a house
    assert beyond.look(between)["hits"] == "0" and beyond.look(beyond.start(4))["right"] == 0
    assert beyond.look(0.9 * world[[0]])["hits"] == "1"  # off by 0.1


def test_heun_counts_its_calls_and_has_order_two():
    """On dx/dt = x, where x(0) = x(1) / e."""
    asked = []

    def field(x, t):
        asked.append(t.tolist())
        return x

    x_T = torch.ones(2, 1, 8, 8, dtype=torch.float64)
    ends = [list(beyond.heun(field, x_T, n))[-1] for n in (10, 20)]
    assert len(asked) == 19 + 39 and asked[0] == [999, 999] and asked[18] == [99, 99]
    off = [float((end - torch.e**-1).abs().max()) for end in ends]
    assert 2.5 < off[0] / off[1] < 4.5  # the last step is Euler's


def test_euler_is_ddim_on_the_flow():
    x_T, net = beyond.start(3, seed=1), beyond.network("flow").eval()
    (*_, last) = samplers.ddim(net, NoiseSchedule.flow(), x_T, 4)
    assert torch.allclose(beyond.draw(net, x_T, "euler", 4), last.x_t, atol=1e-5)
    one, three = (beyond.draw(net, x_T, "heun", calls) for calls in (1, 3))
    assert torch.allclose(one, beyond.draw(net, x_T, "euler", 1), atol=1e-5) and one.shape == three.shape


def test_flow_levels_are_those_of_the_flow_by_noise_per_signal():
    cosine, flow = beyond.schedule("diffusion"), NoiseSchedule.flow()
    path = beyond.flow_levels(cosine, 8)
    assert path[0] == 999 and path == sorted(path, reverse=True)
    for mine, theirs in zip(path[1:], samplers.timesteps(flow, 8)[1:], strict=True):
        ratio = cosine.noise[mine] / cosine.signal[mine] / (flow.noise[theirs] / flow.signal[theirs])
        assert 0.97 < ratio < 1.03
    x_T = beyond.start(2)
    assert beyond.draw(beyond.network("diffusion").eval(), x_T, "ddim on flow's levels", 4).shape == x_T.shape


def test_reflow_trains_each_picture_with_its_own_noise(monkeypatch):
    net, seen = beyond.network("flow").eval(), {}
    known = beyond.pairs(net, 6, seed=2, calls=1)
    with torch.no_grad():
        v = net(known["eps"], torch.full((6,), 999))
    assert torch.allclose(known["x_0"], known["eps"] - v, atol=1e-5)

    def train(model, batch, loss, **settings):
        seen.update(batch(torch.Generator().manual_seed(0), 32))

    monkeypatch.setattr(beyond, "train", train)
    beyond.straighten(net, known, 1)
    for x_0, eps in zip(seen["x_0"], seen["eps"], strict=True):
        (at,) = [k for k in range(6) if torch.equal(known["eps"][k], eps)]
        assert torch.equal(known["x_0"][at], x_0)
    assert len(set(seen["t"].tolist())) > 20


@pytest.fixture
def few(monkeypatch):
    """Few pictures, few measurements, two seeds."""
    for name, value in dict(SAMPLES=8, PAIRS=8, SEEDS=2, DIT_STEPS=1200).items():
        monkeypatch.setattr(beyond, name, value)
    monkeypatch.setattr(beyond, "CELLS", [("diffusion", "ddim", 1), ("reflow", "euler", 2), ("reflow", "euler", 1)])


def test_beyond_writes_four_checkpoints_with_their_records(tmp_path, few):
    path = beyond.run(tmp_path, steps=2)
    assert path.name == "beyond-dit.safetensors"
    found = {arm: weights.record(tmp_path / f"beyond-{arm}.safetensors") for arm in beyond.ARMS}
    assert {arm: found[arm]["steps"] for arm in beyond.ARMS} == {"diffusion": 2, "flow": 2, "reflow": 1, "dit": 4}
    assert [(row["calls"], row["seed"]) for row in found["reflow"]["table"]] == [(2, 0), (1, 0), (2, 1), (1, 1)]
    assert [row["seed"] for row in found["diffusion"]["table"]] == [0, 1] and found["dit"]["table"] == []
    assert all(len(row["hits"]) == 8 for row in found["reflow"]["table"])
    assert [[at for at, _ in curve] for curve in found["dit"]["curves"].values()] == 2 * [[1, 2, 3, 4]]
    assert type(weights.load(tmp_path / "beyond-dit.safetensors")).__name__ == "DiT"
    assert sorted(file.suffix for file in (tmp_path / "runs").rglob("*.*")) == 6 * [".json"]
    file = tmp_path / "runs" / "beyond" / "diffusion-ddim-1-0-2.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"away": 7}))
    beyond.run(tmp_path, steps=2)
    first, second = weights.record(tmp_path / "beyond-diffusion.safetensors")["table"]
    assert first["away"] == 7 != second["away"]  # measured once


def test_the_file_holds_the_weights_of_the_first_seed(tmp_path, few):
    beyond.run(tmp_path, steps=1, seed=3)
    kept, x_T = weights.load(tmp_path / "beyond-diffusion.safetensors"), beyond.start(8)
    first, second = weights.record(tmp_path / "beyond-diffusion.safetensors")["table"]
    assert (first["seed"], second["seed"]) == (3, 4)
    seen = beyond.look(beyond.draw(kept, x_T, "ddim", 1))
    assert seen["away"] == pytest.approx(first["away"], rel=1e-5) != pytest.approx(second["away"], rel=1e-5)


def test_shipped_records_hold_every_measurement_of_every_seed():
    found = [weights.record(f"beyond-{arm}") for arm in beyond.ARMS]
    rows = [(row["arm"], row["solver"], row["calls"], row["seed"]) for record in found for row in record["table"]]
    assert sorted(rows) == sorted((*cell, seed) for cell in beyond.CELLS for seed in range(beyond.SEEDS))
    assert [record["recipe"] for record in found] == 4 * ["beyond"]
    assert [record["steps"] for record in found] == [beyond.STEPS, beyond.STEPS, beyond.REFLOW_STEPS, beyond.DIT_STEPS]
    assert sum((weights.FOLDER / f"beyond-{arm}.safetensors").stat().st_size for arm in beyond.ARMS) < 1.2e6
