"""The small U-Nets of the evidence of lesson 01: what is compared, how it is measured, the record that ships."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from minildm.data.augment import Crops
from minildm.recipes.studies import skips
from minildm.tensors import count_parameters


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def corner(monkeypatch):
    """A corner of the micrograph, and few, small crops."""
    whole = skips.micrograph
    monkeypatch.setattr(skips, "micrograph", lambda part="train": tuple(x[:64, :96] for x in whole(part)))
    monkeypatch.setattr(skips, "Crops", lambda pieces, size, **how: Crops(pieces, 32, **how))
    monkeypatch.setattr(skips, "EVERY", 2)


class Answers(nn.Module):
    """Always says the same two maps, (2, h, w), whatever it sees."""

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.from_numpy(np.stack(maps).astype(np.float32))[None]

    def forward(self, x):
        return self.maps


def test_all_learn_from_other_columns_than_they_are_scored_on():
    (image, mask), (unseen, other) = skips.micrograph(), skips.micrograph("unseen")
    assert image.shape == mask.shape == (512, 384) and unseen.shape == other.shape == (512, 128)


def test_networks_differ_in_what_they_say():
    for levels in (2, 4):
        one, other = (skips.network(levels, skip) for skip in (True, False))
        assert one.multiple == other.multiple == 2 ** (levels - 1)
        assert count_parameters(one) > count_parameters(other)
        for name, w in one.state_dict().items():
            if "up" not in name:
                assert w.shape == other.state_dict()[name].shape
    for make in (lambda seed: skips.network(seed=seed), skips.larger):
        first, again, another = (make(seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], another[name]) for name in first)


def test_plain_crops_are_straight_and_deformed_ones_are_not():
    ramp = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 64  # as bright as its column's number
    for arm, straight in {"plain": True, "deformed": False}.items():
        crops = Crops([{"image": ramp}], size=16, **skips.CROPS[arm])(torch.Generator().manual_seed(1), 4)["image"]
        assert torch.allclose(crops.diff(dim=3), torch.ones(()), atol=1e-3) is straight
        assert torch.allclose(crops.diff(dim=2), torch.zeros(()), atol=1e-3) is straight


def test_scores_of_known_answers():
    _, mask = skips.micrograph("unseen")
    line = skips.outlines(mask)
    found = skips.measure(Answers([20.0 * (mask > 0) - 10, 20.0 * line - 10]))
    assert found["AP at IoU 0.5"] > 0.5, "nuclei lose their rims, and keep most of themselves"
    found.pop("AP at IoU 0.5")
    assert list(found.values()) == [1, 1, 1]
    assert list(skips.measure(Answers([-np.ones(mask.shape)] * 2)).values()) == [0] * 4


def test_an_outline_that_is_missed_costs_five_times_a_nucleus():
    nothing = torch.zeros(1, 4, 4)
    batch = {"image": nothing[None], "nucleus": nothing, "outline": nothing}
    missed = []
    for name in ("nucleus", "outline"):
        truth = nothing.clone()
        truth[0, 1, 1] = 1
        blind = Answers([np.full((4, 4), -10.0)] * 2)
        missed.append(skips.two_tasks(blind, batch | {name: truth}).item() - skips.two_tasks(blind, batch).item())
    assert missed[1] == pytest.approx(5 * missed[0], rel=1e-3)


def test_a_training_is_measured_once_and_kept(tmp_path, corner):
    first = skips.skip_row(2, "without", 0, 3)
    assert first["before"] == pytest.approx(skips.measure(skips.network(2, False)), abs=1e-6)
    assert first["parameters"] == count_parameters(skips.network(2, False))
    assert len(first["loss"]) == 2 and first["scores"].keys() == first["before"].keys()
    long = skips.crop_row("plain", 0, 3)
    assert long["before"] == pytest.approx(skips.first_loss(skips.larger(), skips.crops_of("plain")), abs=1e-6)
    assert set(long["unseen"]) == set(long["seen"]) == {"dice", "ap50", "ap75"} and len(long["loss"]) == 2
    names = ["2 levels without-0-3.json", "plain crops-0-3.json"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == names
    (tmp_path / "runs" / "skips" / names[0]).write_text(json.dumps(first | {"loss": 7}))
    assert skips.skip_row(2, "without", 0, 3)["loss"] == 7
    assert skips.skip_row(2, "without", 0, 3, resume=False) == first


def test_the_study_writes_a_table_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(skips, "skip_row", lambda *how: [*how[:4]])
    monkeypatch.setattr(skips, "crop_row", lambda *how: [*how[:3]])
    found = skips.record(skips.run(tmp_path / "table.json", steps=2, seed=5))
    trained = [[n, arm, 5 + k, 2] for k in range(skips.SEEDS) for n in (2, 4, 6) for arm in skips.SKIPS]
    assert found["skips"] == trained
    assert found["crops"] == [[arm, 5 + k, 2] for k in range(skips.LONG_SEEDS) for arm in skips.CROPS]
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_the_table_that_ships():
    found = skips.record()
    seeds = {(row["steps"], row["levels"], row["arm"]): [] for row in found["skips"]}
    for row in found["skips"]:
        seeds[row["steps"], row["levels"], row["arm"]].append(row["seed"])
        assert row["parameters"] == count_parameters(skips.network(row["levels"], skips.SKIPS[row["arm"]]))
        assert len(row["loss"]) == math.ceil(row["steps"] / skips.EVERY) and row["loss"][-1] < row["loss"][0]
        assert all(0 <= row["before"][name] <= 1 and 0 <= value <= 1 for name, value in row["scores"].items())
        assert row["scores"]["Dice of nuclei"] > row["before"]["Dice of nuclei"]
    jobs = [(steps, n, arm) for steps, levels in skips.LEVELS.items() for n in levels for arm in skips.SKIPS]
    assert seeds == {job: list(range(skips.SEEDS)) for job in jobs}
    trained = [(row["arm"], row["seed"]) for row in found["crops"]]
    assert trained == [(arm, seed) for seed in range(skips.LONG_SEEDS) for arm in skips.CROPS]
    for row in found["crops"]:
        assert row["steps"] == skips.LONG == skips.EVERY * len(row["loss"]) and row["loss"][-1] < row["loss"][0]
        assert all(0 < value <= 1 for part in ("seen", "unseen") for value in row[part].values())
    assert skips.PLACE.stat().st_size < 6e4
