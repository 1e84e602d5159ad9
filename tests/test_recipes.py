import json

import numpy as np
import pytest

from minildm import data, weights
from minildm.recipes import nuclei, openmoji_32, scenes_judge
from minildm.recipes.studies import nuclei_folds


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in; and they learn from little a step."""
    monkeypatch.chdir(tmp_path)
    for module in (nuclei, openmoji_32, scenes_judge):
        monkeypatch.setattr(module, "BATCH", 2)


def test_nuclei_writes_a_checkpoint_with_its_record(tmp_path, capsys):
    path = nuclei.run(tmp_path / "n.safetensors", steps=2, seed=3)
    record = weights.record(path)
    assert record["recipe"] == "nuclei" and record["steps"] == 2 and record["seed"] == 3
    assert set(record["unseen_columns"]) == {"dice", "ap50", "ap75"}
    assert record["cross_validation"] == weights.record("nuclei")["cross_validation"]  # lesson 01 reads it
    assert weights.load(path).config == nuclei.network().config
    assert "unseen columns 384–511: dice 0." in capsys.readouterr().out
    assert list((tmp_path / "runs").iterdir()) == []  # the resumable checkpoint goes when the training is finished


def test_nuclei_never_sees_the_right_quarter(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(nuclei, "fit", lambda model, pairs, *a, **k: seen.extend(pairs) or nuclei.History([1.0]))
    nuclei.run(tmp_path / "n.safetensors", steps=1)
    ((image, mask),) = seen
    whole = data.nuclei()[0]
    assert np.array_equal(image, whole["image"][:, :384]) and np.array_equal(mask, whole["mask"][:, :384])


def test_the_judge_learns_from_scenes_of_another_seed_than_it_is_tested_on(tmp_path, monkeypatch):
    assert scenes_judge.TRAIN_SEED != scenes_judge.TEST_SEED
    monkeypatch.setattr(scenes_judge, "evaluate", lambda model: {"found": 0.0})
    path = scenes_judge.run(tmp_path / "j.safetensors", steps=1)
    assert weights.load(path).head.out_channels == 71
    assert weights.record(path)["fresh_scenes"] == {"found": 0.0}


def test_folds_are_kept_and_read_again(tmp_path):
    first = nuclei_folds.row("U-Net", 3, seed=0, steps=1)
    (file,) = (tmp_path / "runs" / "nuclei-folds").iterdir()
    assert first["arm"] == "U-Net" and first["fold"] == 3 and 0 <= first["dice"] <= 1
    file.write_text(json.dumps(first | {"dice": 7}))
    assert nuclei_folds.row("U-Net", 3, seed=0, steps=1)["dice"] == 7
    assert nuclei_folds.row("U-Net", 3, seed=0, steps=1, resume=False) == pytest.approx(first | {"minutes": 0}, abs=1)


def test_the_baseline_is_tuned_on_the_training_strips(monkeypatch):
    """A setting that is best in training is used on the test strip, whatever it gives there."""
    monkeypatch.setattr(nuclei_folds, "GRID", [{"block": 0}, {"block": 101}])
    monkeypatch.setattr(nuclei_folds, "classical", lambda image, block: np.full(image.shape, block))
    monkeypatch.setattr(
        nuclei, "scores", lambda mask, found: dict.fromkeys(("dice", "ap50", "ap75"), float(found.mean() * mask.mean()))
    )
    ones, minus = np.ones((4, 6)), -np.ones((4, 6))
    assert nuclei_folds.classical_baseline([(ones, ones)], ones, minus)["dice"] == -101
    assert nuclei_folds.classical_baseline([(ones, minus)], ones, minus)["dice"] == 0


def test_the_denoiser_never_sees_a_held_out_picture(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(openmoji_32, "fit", lambda model, x, *a, **k: seen.append(x) or nuclei.History([1.0]))
    monkeypatch.setattr(openmoji_32, "evaluate", lambda model: {"heldout_error": 1.0})
    path = openmoji_32.run(tmp_path / "o.safetensors", steps=1)
    assert weights.load(path).config == openmoji_32.network().config
    assert weights.record(path)["measured"] == {"heldout_error": 1.0} and weights.record(path)["predicts"] == "v"
    heldout = {picture.numpy().tobytes() for picture in openmoji_32.pictures("heldout")}
    assert len(seen[0]) > 1700 and not heldout & {picture.numpy().tobytes() for picture in seen[0]}


def test_the_denoiser_is_measured_against_real_pictures(monkeypatch):
    monkeypatch.setattr(openmoji_32, "error", lambda model, x: float(len(x)))
    monkeypatch.setattr(openmoji_32, "draw", lambda model, n: openmoji_32.pictures("heldout"))
    result = openmoji_32.evaluate(None)
    assert 100 < result["training_error"] < 300 and 100 < result["heldout_error"] < 300
    assert result["samples_to_heldout"] < 0 < result["training_to_heldout"]  # of equal sets, without equal pairs
    assert abs(result["halves"]) < result["training_to_heldout"]


def test_shipped_records_say_what_was_trained_and_measured():
    record = weights.record("nuclei")
    assert record["data"] == "nuclei, columns 0–383"
    rows = [row for row in record["cross_validation"] if row["arm"] == "U-Net"]
    assert len(rows) >= 12 and {row["fold"] for row in rows} == {0, 1, 2, 3}
    assert np.mean([row["dice"] for row in rows]) >= 0.93
    assert weights.record("scenes-judge")["fresh_scenes"]["found"] >= 0.99


def test_the_shipped_segmenter_finds_nuclei_that_it_has_not_seen():
    from minildm.segmentation import segment

    whole = data.nuclei()[0]
    found = segment(weights.load("nuclei"), whole["image"][:, 384:])
    scores = nuclei.scores(whole["mask"][:, 384:], found)
    expected = weights.record("nuclei")["unseen_columns"]
    assert scores == pytest.approx(expected, abs=0.02)


def test_the_shipped_denoiser_draws_like_its_pictures():
    record = weights.record("openmoji-32")
    measured = record["measured"]
    assert record["data"] == "openmoji 32×32, train, one skin tone" and record["steps"] == openmoji_32.STEPS
    assert measured["samples_to_heldout"] < 2 * measured["training_to_heldout"]
    error = openmoji_32.error(weights.load("openmoji-32"), openmoji_32.pictures("heldout")[::9])
    assert error < 0.15  # v's own size is about 1
