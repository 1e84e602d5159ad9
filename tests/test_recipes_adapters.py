"""What lesson 10 measures, and the study of four ways to teach: on a tiny model, and the record that ships."""

import warnings

import numpy as np
import pytest
import torch
from compare import randomized

from minildm import LatentDiffusion, data, judge, likeness
from minildm.adapt import Controlled
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.recipes import taught
from minildm.recipes.studies import adapters, mask_to_scene
from minildm.schedule import NoiseSchedule
from minildm.text import TextEncoder, train_tokenizer


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a model that paints 64×64 pictures of nothing, quickly."""
    for module, name, value in (
        (taught, "STEPS", 1),
        (adapters, "MEASURED", 6),
        (adapters, "SEEDS", 2),
        (mask_to_scene, "SCENES", 12),
        (mask_to_scene, "HELD", 2),
        (mask_to_scene, "STRENGTHS", (0.5, 1.0)),
    ):
        monkeypatch.setattr(module, name, value)
    tokenizer = train_tokenizer(["a frog", "a red heart"], 265, length=48)
    text = randomized(TextEncoder(len(tokenizer), 12, depth=1, heads=2, length=48))
    vae = randomized(AutoencoderKL(3, 4, channels=(8, 8, 8, 8), groups=4, scale_factor=0.5))
    schedule = NoiseSchedule.cosine().predicting("v")
    unet = randomized(Denoiser(4, 4, (8, 8), attention=(1,), heads=2, context_dim=12, groups=4, schedule=schedule))
    pipe = LatentDiffusion(unet, vae, None, text, tokenizer, size=(64, 64), guidance=2.0)
    return pipe.save_pretrained(tmp_path / "tiny")


def scenes(n, seed=5):
    return data.scene_arrays(n, seed, tasks=("one object", "colour"))


def as_pictures(arrays):
    return torch.from_numpy(arrays).movedim(-1, 1)


def test_new_and_old_are_told_apart():
    assert taught.recognised(taught.examples(20, seed=5)).all()
    assert taught.unexplained(as_pictures(scenes(60).images)).min() > 0.9  # far from likeness.ALIKE
    assert taught.unexplained(taught.examples(2)).max() < 0.1


def test_a_lump_of_its_colours_is_no_new_thing():
    small = torch.nn.functional.avg_pool2d(taught.examples(4), 8)
    blurred = torch.nn.functional.interpolate(small, size=64, mode="bilinear")
    assert not taught.recognised(blurred).any() and taught.unexplained(blurred).max() < 1
    both = torch.cat([taught.examples(1), blurred[:1]])
    assert taught.told(both).startswith("1 of 2 are dinosaurs, median unexplained 0.")


def test_the_old_things_are_those_that_training_shows():
    assert len(taught.NAMES) == 67 and "brown heart" not in taught.NAMES
    assert taught.asked(["cat", "owl", "red heart"]) == ["a cat", "an owl", "a red heart"]
    rehearsed, others = set(adapters.PRIOR), set(adapters.OTHERS)
    assert not rehearsed & others and rehearsed | others == set(taught.NAMES) and set(adapters.SHOWN) <= others


def test_kept_is_what_the_judge_finds():
    names = ["cat", "red heart", "train"]
    real = {name: data.scene_arrays(200, 3, tasks=("one object", "colour")) for name in ("all",)}["all"]
    place = [real.names.index((name,)) for name in ("red heart", "cat", "train")]  # the first two are exchanged
    kept, pictures = taught.kept(lambda prompts, **how: as_pictures(real.images[place]).float() / 255, names)
    assert kept.tolist() == [False, False, True] and pictures.shape == (3, 3, 64, 64)


def test_pictures_are_painted_in_parts_with_their_own_seeds_and_tensors():
    calls = []

    def pipe(prompts, seed, control, **how):
        calls.append((prompts, seed, control.tolist(), how))
        return torch.zeros(len(prompts), 3, 1, 1)

    prompts = [str(i) for i in range(20)]
    assert len(taught.painted(pipe, prompts, seed=3, control=torch.arange(20), guidance=1)) == 20
    assert [call[0] for call in calls] == [prompts[:16], prompts[16:]]
    assert calls[1][1:3] == ([19, 20, 21, 22], [16, 17, 18, 19])
    assert calls[1][3] == dict(steps=taught.STEPS, output="tensor", guidance=1)


def test_the_clock_stops(monkeypatch):
    now = iter([0.0, 60.0, 100.0, 180.0])
    monkeypatch.setattr(taught.time, "process_time", lambda: next(now))
    clock = taught.CoreMinutes()
    with clock, clock.stopped():
        pass
    assert clock.minutes == pytest.approx(3 - 40 / 60)


def test_overlap_of_wanted_and_found_masks():
    real = scenes(4)
    masks = torch.from_numpy(real.masks > 0)[:, None].float()
    pictures = as_pictures(real.images)
    assert mask_to_scene.overlaps(pictures, masks).min() > 0.9
    assert mask_to_scene.overlaps(pictures, 1 - masks).max() < 0.1
    assert mask_to_scene.overlaps(torch.full((1, 3, 64, 64), 0.9), masks[:1]).tolist() == [0.0]


def test_no_tested_mask_stands_in_the_training():
    known = {mask.numpy().tobytes() for mask in mask_to_scene.scenes(mask_to_scene.SCENES, 1_000).masks}
    wanted = mask_to_scene.tested()
    assert len(wanted.masks) == len(wanted.captions) == len(wanted.pictures) == mask_to_scene.TESTED
    assert not known & {mask.numpy().tobytes() for mask in wanted.masks}


def test_zero_convolutions_change_nothing_at_first(tiny):
    pipe = LatentDiffusion.from_pretrained(tiny)
    control, how = torch.ones(1, 1, 64, 64), dict(seed=0, steps=2, output="tensor")
    plain, unet = pipe("a frog", **how), pipe.unet
    for zero in (True, False):
        pipe.unet = unet
        pipe.unet = Controlled(unet, mask_to_scene.untrained(pipe, zero))
        changed = (pipe("a frog", control=control, **how) - plain).abs().max()
        assert (changed == 0) == zero


@pytest.mark.parametrize("way", adapters.WAYS)
def test_a_way_trains_what_it_says_and_nothing_else(tiny, way, tmp_path):
    pipe = LatentDiffusion.from_pretrained(tiny)
    pipe.words = None
    ready = adapters.prepare(pipe, way)
    trained = {name for name, one in ready.parts.named_parameters() if one.requires_grad}
    inside = {"LoRA": "lora_", "textual inversion": "tokens.vector"}.get(way, "unet.")
    assert trained and all(inside in name for name in trained)
    batch = ready.examples(torch.Generator().manual_seed(0), 4)
    assert ("prior" in batch) == (way == "DreamBooth with prior")
    assert ready.save(tmp_path / "learned.safetensors").stat().st_size > 0


def test_the_study_writes_a_table_and_keeps_what_is_finished(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "inspect", lambda images, model=None: [[] for _ in images])  # it paints nothing
    how = dict(model=tiny, steps=2, runs=tmp_path / "runs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = adapters.run(tmp_path / "table.json", **how)
    found = adapters.record(path)
    assert [(row["way"], row.get("seed")) for row in found["rows"]] == [
        ("before", None),
        *[(way, seed) for seed in (0, 1) for way in adapters.WAYS],
    ]
    ways = [row["way"] for row in found["masks"]]
    assert ways[0] == "words alone" and ways[1].startswith("image-to-image")
    assert ways[3:] == 2 * ["ControlNet", "ControlNet without zeros"]
    sizes = {row["way"]: row["parameters"] for row in [*found["rows"][1:], *found["masks"][-2:]]}
    assert (
        sizes["textual inversion"] == 12 < sizes["LoRA"] < sizes["DreamBooth"] < sizes["ControlNet"]
    )  # of whom the hint is large here
    for row in found["rows"]:
        assert 0 <= row["recognised"] <= 1 and row["kept"] == pytest.approx(
            np.average([row["kept_rehearsed"], row["kept_others"]], weights=[34, 33])
        )
        assert row["unexplained"] == pytest.approx(np.median(row["each"])) and len(row["each"]) == adapters.MEASURED
        assert adapters.pictures(found, row["way"]).shape == (8 + len(adapters.SHOWN), 3, 64, 64)
    assert adapters.pictures(found, "ControlNet").shape == (8, 3, 64, 64)
    assert found["model"] == adapters.checksum(tiny)
    monkeypatch.setattr(adapters, "train", None)  # nothing is trained again
    assert adapters.record(adapters.run(tmp_path / "again.json", **how))["rows"] == found["rows"]


def test_the_table_that_ships_is_of_the_pocket_that_ships():
    found = adapters.record()
    assert found["model"] == adapters.checksum("pocket"), "the pocket is another one now: minildm train adapters"
    seeds = {way: [row.get("seed") for row in rows] for way, rows in adapters.trainings(found["rows"]).items()}
    assert seeds == {"before": [None]} | {way: [0, 1] for way in adapters.WAYS}
    (lora, *_) = adapters.trainings(found["rows"])["LoRA"]
    assert lora["bytes"] < 1e6
    for row in found["rows"]:
        assert row["recognised"] == np.mean(np.array(row["each"]) < likeness.ALIKE)
    assert adapters.PLACE.stat().st_size < 1e6
