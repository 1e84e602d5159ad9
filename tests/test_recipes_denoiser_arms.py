"""The small denoisers of the evidence of lesson 03: what the arms are, how they are measured, the record that ships."""

import json
import math

import pytest
import torch

from minildm import weights
from minildm.recipes.studies import denoiser_arms as arms
from minildm.tensors import count_parameters

N = len(arms.LEVELS)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


def state(arm, seed=0):
    return arms.network(arm, seed).state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_arm_differs_from_the_base_in_what_it_says():
    base = state("base")
    assert equal(base, state("base")) and not equal(base, state("base", 1))
    assert equal(base, state("untold")) and isinstance(arms.network("untold"), arms.Untold)
    assert equal(state("no skips"), state("no skips, x_0"))
    assert arms.network("no skips, x_0").schedule.predicts == "x_0"
    narrower = [name for name, w in state("no skips").items() if w.shape != base[name].shape]
    assert narrower and all("up" in name for name in narrower)
    for arm in arms.ARMS:
        predicts = "x_0" if "x_0" in arm else "v"
        assert arms.network(arm).schedule == arms.schedule().predicting(predicts)


def test_the_judges_weights_are_carried_over_whole_or_shuffled():
    base, judge, shuffled = (state(arm) for arm in ("base", "judge", "shuffled"))
    theirs = weights.load(arms.JUDGE).state_dict()
    copied = arms.carry_over(arms.network())
    own = set(base) - set(copied)
    assert all(name.startswith(("time.", "head.", "out")) or ".shift." in name for name in own), own
    assert sum(base[name].numel() for name in copied) > 0.9 * sum(w.numel() for w in base.values())
    for name in base:
        if name in own:
            assert torch.equal(judge[name], base[name]) and torch.equal(shuffled[name], base[name])
        else:
            assert torch.equal(judge[name], theirs[name])
            assert torch.equal(shuffled[name].flatten().sort()[0], theirs[name].flatten().sort()[0])
    moved = [name for name in copied if theirs[name].dim() == 4]
    assert moved and not any(torch.equal(shuffled[name], theirs[name]) for name in moved)


def test_untold_hears_no_time():
    x, net = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), arms.network("untold").eval()
    with torch.no_grad():
        assert torch.equal(net(x, torch.tensor([0, 0])), net(x, torch.tensor([999, 40])))


def test_the_exam_is_the_same_pictures_at_each_level():
    paper = arms.unseen()
    assert paper["t"].tolist() == [t for t in arms.LEVELS for _ in range(16)]
    assert torch.equal(paper["x_0"][:16], paper["x_0"][-16:]) and not torch.equal(paper["eps"][:16], paper["eps"][-16:])
    assert not any(torch.equal(x, y) for x in paper["x_0"][:16] for y in arms.drawings())


def test_errors_of_known_answers():
    paper, noise = arms.unseen(), arms.schedule()
    v = noise.velocity(paper["x_0"], paper["eps"], paper["t"])
    assert arms.errors(lambda x_t, t: v, paper, "v") == [0] * N
    assert arms.errors(lambda x_t, t: v + 0.5, paper, "v") == pytest.approx([0.25] * N, rel=1e-5)

    def off(x_t, t):
        return paper["x_0"] + 0.1

    off.schedule = noise.predicting("x_0")  # counted as v, an error of x_0 is divided by the noise's variance
    kept = noise.alphas_cumprod[torch.tensor(arms.LEVELS)]
    assert arms.errors(off, paper) == pytest.approx((0.01 / (1 - kept)).tolist(), rel=1e-3)
    assert arms.errors(off, paper, "x_0") == pytest.approx([0.01] * N, rel=1e-3)


def test_a_lie_reaches_the_network():
    heard = []

    def model(x_t, t):
        heard.append(t)
        return x_t

    for lie in arms.LIES:
        arms.lied_to(model, lie, arms.unseen())
    later, always = (t.view(N, -1)[:, 0].tolist() for t in heard)
    assert later == [160, 250, 350, 500, 650, 800, 950, 999] and always == [500] * N


def test_the_spectrum_of_a_wave_and_of_white_noise():
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16).expand(2, 3, 16, 16)
    found = arms.spectrum(wave)
    assert len(found) == 8 and found[2] > 1 and max(found[:2] + found[3:]) < 1e-6
    assert arms.spectrum(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))) == pytest.approx(
        [1] * 8, abs=0.1
    )


def test_what_is_left_of_the_start():
    start = arms.start()
    assert arms.left(start) == pytest.approx(1) and arms.left(start[:5] / 4) == pytest.approx(0.25)
    coarse = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(start, 2), scale_factor=2)
    assert arms.left(coarse) == pytest.approx(0, abs=1e-6)


def test_a_training_is_measured_once_and_kept(tmp_path, monkeypatch):
    paper, draw = arms.exam(arms.drawings("heldout")[:2]), arms.draw
    for name, small in (("EVERY", 2), ("unseen", lambda: paper), ("draw", lambda model: draw(model, steps=2))):
        monkeypatch.setattr(arms, name, small)
    first = arms.row("base", steps=3)
    assert [step for step, *_ in first["exams"]] == [0, 2, 3] and all(len(exam) == 1 + N for exam in first["exams"])
    assert first["exams"][0][1:] == arms.errors(arms.network(), paper)
    assert set(first["lies"]) == set(arms.LIES) and first["lies"]["always told 500"][4] == pytest.approx(
        first["exams"][-1][5]
    )
    assert first["parameters"] == count_parameters(arms.network())
    assert arms.pictures(first).shape == (arms.SHOWN, 3, 16, 16)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.name == "base-0-3.json"
    file.write_text(json.dumps(first | {"left": 7}))
    assert arms.row("base", steps=3)["left"] == 7
    assert arms.row("base", steps=3, resume=False) == first


def test_kept_pictures_are_the_samples(monkeypatch):
    drawn = arms.start().clamp(-1, 1)
    monkeypatch.setattr(arms, "draw", lambda model: drawn)
    monkeypatch.setattr(arms, "fit", lambda *how: [])
    found = arms.row("no skips", steps=1)
    assert "lies" not in found and (arms.pictures(found) - drawn[: arms.SHOWN]).abs().max() < 1 / 127


def test_the_study_writes_a_table_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "row", lambda arm, seed, *how: {"arm": arm, "seed": seed, "pictures": ""})
    found = arms.record(arms.run(tmp_path / "table.json", steps=2, seed=5))
    assert [(row["arm"], row["seed"]) for row in found["rows"]] == [(a, s) for s in (5, 6, 7) for a in arms.ARMS]
    assert [row["seed"] for row in found["rows"] if "pictures" in row] == [5] * len(arms.ARMS)
    assert [row["seed"] for row in arms.trainings(found["rows"], "untold")] == [5, 6, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_the_table_that_ships_is_of_the_judge_that_ships():
    found = arms.record()
    assert found["judge"] == weights.checksum(arms.JUDGE), "the judge is another one: minildm train denoiser-arms"
    assert [found[name] for name in ("batch", "lr", "levels")] == [arms.BATCH, arms.LR, list(arms.LEVELS)]
    steps = list(range(0, arms.STEPS + 1, arms.EVERY))
    for arm in arms.ARMS:
        rows = arms.trainings(found["rows"], arm)
        assert [row["seed"] for row in rows] == list(range(arms.SEEDS)) and "pictures" in rows[0]
        assert rows[0]["parameters"] == count_parameters(arms.network(arm))
        for row in rows:
            numbers = torch.tensor(row["exams"])
            assert row["steps"] == arms.STEPS and numbers[:, 0].tolist() == steps
            assert numbers.isfinite().all() and (numbers[1:, 1:] > 0).all()
            assert (numbers[-1, 1:] < numbers[0, 1:]).all()
            assert torch.tensor([*row["spectrum"], row["left"]]).isfinite().all()
            assert set(row.get("lies", {})) == (set(arms.LIES) if arm == "base" else set())
    assert arms.PLACE.stat().st_size < 3e5
