"""A user's own folders: trained, saved, opened and used, from Python and from the command line."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_readme import discs

from minildm import LatentDiffusion, cli, segmentation, stable_diffusion, weights
from minildm.data._arrays import codes
from minildm.recipes import _own, images, masks
from minildm.training import restore

SMALL = dict(size=8, width=8, batch=2)
QUICK = ["--size", "8", "--width", "8", "--batch", "2", "--steps", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and fewer samples than for people."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_own, "SHEETS", 1)
    monkeypatch.setattr(images, "SAMPLES", 2)
    monkeypatch.setattr(masks, "SAMPLES", 1)
    return tmp_path


@pytest.fixture
def pictures(here):
    """24 PNGs in two subfolders, each with a caption."""
    for kind in ("cats", "dogs"):
        (here / "pictures" / kind).mkdir(parents=True)
        for number in range(12):
            picture, _ = discs(number, (20, 24))
            Image.fromarray(picture[::-1] if kind == "dogs" else picture).save(f"pictures/{kind}/{number}.png")
            (here / "pictures" / kind / f"{number}.txt").write_text(f"{kind} in a row")
    return here


def photographs(n, grey=False, size=(40, 44), times=2):
    """n pictures with four discs each, some 5 pixels wide, so many times as large."""
    for folder in ("photos", "outlines"):
        (masks.Path(folder)).mkdir()
    for number in range(n):
        found = discs(number, (size[0] // times, size[1] // times))
        picture, mask = (part.repeat(times, 0).repeat(times, 1) for part in found)
        Image.fromarray(picture.mean(-1).astype(np.uint8) if grey else picture).save(f"photos/{number}.png")
        Image.fromarray(mask).save(f"outlines/{number}.png")


# --- pictures


@pytest.mark.parametrize("labels", [True, False, None])
@pytest.mark.parametrize("captions", [True, False])
def test_a_painter_is_trained_saved_opened_and_used(pictures, labels, captions, capsys):
    path = images.run("pictures", "painter", labels=labels, captions=captions, steps=2, **SMALL)
    said = capsys.readouterr().out
    assert "24 pictures of 8×8, 2 of them held out" in said and ("cats, dogs" in said) == (labels is not False)
    assert "checkpoint: runs/images-pictures/checkpoint.safetensors (new)" in said and "heldout_error" in said
    pipe = LatentDiffusion.from_pretrained(path)
    assert pipe.size == (8, 8) and pipe.schedule.predicts == "v" and pipe.vae is None
    assert pipe.labels == (None if labels is False else ["cats", "dogs"])
    asked = {} if labels is False else {"y": "dogs"}
    if captions:
        assert {"cats", "dogs", "row"} <= pipe.words
        drawn = pipe("cats in a row", seed=0, steps=2, **asked, output="tensor")
        other = pipe("dogs in a row", seed=0, steps=2, **asked, output="tensor")
        assert not torch.equal(drawn, other)  # the words reach the picture, whatever they do there
    else:
        drawn = pipe(seed=0, steps=2, **asked, output="tensor")
    assert drawn.shape == (1, 3, 8, 8)
    record = weights.record(path / "unet.safetensors")
    assert record["recipe"] == "images" and record["steps"] == 2 and record["data"] == "22 pictures of pictures, 8×8"
    assert set(record["measured"]) == {"training_error", "heldout_error"} and str(pictures) not in json.dumps(record)
    (folder,) = (pictures / "runs").iterdir()
    assert [file.name for file in folder.iterdir()] == ["step-000002.png"]  # the checkpoint is gone, the sheet stays
    with Image.open(folder / "step-000002.png") as sheet:
        assert sheet.mode == "RGB" and min(sheet.size) > 8


def test_one_file_grey_and_other_sizes(pictures):
    path = images.run("pictures", "painter.safetensors", grey=True, captions=False, steps=1, size=12, width=8, batch=2)
    pipe = LatentDiffusion.from_pretrained(path)
    assert path.is_file() and pipe.unet.in_channels == 1 and pipe(seed=0, steps=1).size == (12, 12)


@pytest.mark.parametrize(
    "size, levels, attends", [(8, 2, 2), (16, 3, 2), (28, 3, 1), (32, 4, 2), (64, 4, 1), (96, 4, 0)]
)
def test_the_network_fits_the_pictures(size, levels, attends):
    unet = images.network(size).unet
    assert len(unet.config["channels"]) == levels and sum(unet.config["attention"]) == attends
    assert size // unet.multiple >= 4 and size % unet.multiple == 0


@pytest.mark.filterwarnings("ignore:diffusers' pipeline tells its U-Net no class")
@pytest.mark.parametrize("size, width, classes", [(16, 32, 3), (32, 32, 0), (64, 48, 2)])
def test_diffusers_has_networks_like_it(size, width, classes, here):
    unet = images.network(size, width, 3, classes).unet
    path = stable_diffusion.save(LatentDiffusion(unet, size=size), here / "theirs")
    assert (path / "model_index.json").is_file()


def test_what_is_known_and_what_is_held_out_are_parted_at_random():
    known, held = _own.parted(100, 10, seed=3)
    assert sorted(known + held) == list(range(100)) and len(held) == 10 and held != list(range(90, 100))
    assert _own.parted(100, 10, 3) == (known, held) != _own.parted(100, 10, 4)
    assert _own.parted(9, 10, 0) == (list(range(9)), [])  # of few none


def test_labels_and_captions_stay_with_their_pictures_or_are_dropped_together(pictures):
    found = images.read("pictures", 8)
    tokenizer = images.tokenizer_of(found.captions)
    batches = images.Batches(found, images.network(8).unet.schedule, tokenizer, rate=0.3)
    batch = batches(torch.Generator().manual_seed(0), 300)
    dropped = 0
    for x_0, y, ids, mask in zip(*(batch[name] for name in ("x_0", "y", "ids", "mask")), strict=True):
        caption = tokenizer.decode(ids)
        dropped += caption == ""
        if caption:
            matches = (found.x.float() / 127.5 - 1 - x_0).abs().amax((1, 2, 3)) < 1e-5
            assert {(int(found.y[i]), found.captions[i]) for i in matches.nonzero()} >= {(int(y), caption)}
        assert (y == -1) == (caption == "") and mask.sum() == len(tokenizer.encode(caption))
    assert 60 < dropped < 120


def test_the_text_encoder_learns_along(pictures):
    found = images.read("pictures", 8)
    tokenizer = images.tokenizer_of(found.captions)
    painter = images.network(8, 8, 3, 2, tokenizer)
    images.loss(painter, images.Batches(found, painter.unet.schedule, tokenizer)(torch.Generator(), 8)).backward()
    assert all(parameter.grad is not None for parameter in painter.text_encoder.parameters())


def test_a_stopped_run_goes_on_and_another_one_is_refused(pictures, monkeypatch):
    def stop(painter, exam):
        raise KeyboardInterrupt

    whole = images.run("pictures", "whole", steps=3, runs="elsewhere", **SMALL)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(images, "error", stop)
        images.run("pictures", "again", steps=3, **SMALL)
    assert sorted(path.name for path in (pictures / "runs" / "images-pictures").iterdir()) == [
        "checkpoint.safetensors",
        "plan.json",
        "step-000003.png",
    ]
    for other in (dict(steps=4), dict(labels=False), dict(minutes=1, steps=None), dict(batch=3), dict(seed=1)):
        with pytest.raises(ValueError, match="keeps a run that was stopped, with other settings.*--no-resume"):
            images.run("pictures", "again", **dict(steps=3) | SMALL | other)
    again = images.run("pictures", "again", steps=3, **SMALL)
    one, other = (weights.load(path / "unet.safetensors").state_dict() for path in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    images.run("pictures", "again", steps=4, **SMALL)  # finished: another one may follow


def test_a_run_can_start_anew(pictures, monkeypatch):
    seen = []
    train = _own.train
    monkeypatch.setattr(_own, "train", lambda *a, **k: seen.append(k["checkpoint"].exists()) or train(*a, **k))
    run = pictures / "runs" / "images-pictures"
    run.mkdir(parents=True)
    for name in ("checkpoint.safetensors", "plan.json", "mine.txt"):
        (run / name).write_text("{}")
    images.run("pictures", "painter", steps=1, resume=False, **SMALL)
    assert seen == [False] and (run / "mine.txt").exists()


def test_minutes_are_measured_once_for_a_run(pictures, monkeypatch):
    steps = []
    train = _own.train

    def slow(model, batch, loss, *, log, **settings):
        steps.append(settings["steps"])
        if settings["steps"] == 12:  # the measurement: a second a step
            for k in range(12):
                clock[0] += 1
                log(k + 1, {})
            return None
        if len(steps) == 2:
            raise KeyboardInterrupt
        return train(model, batch, loss, log=log, **settings | {"steps": 1})

    clock = [0.0]
    monkeypatch.setattr(_own.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_own, "train", slow)
    with pytest.raises(KeyboardInterrupt):
        images.run("pictures", "painter", minutes=2, **SMALL)
    images.run("pictures", "painter", minutes=2, **SMALL)
    assert steps == [12, 108, 108]  # nine tenths of 120 seconds
    with pytest.raises(ValueError, match="either steps or minutes"):
        images.run("pictures", "painter", minutes=2, steps=3, **SMALL)
    for none in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="minutes above 0"):
            images.run("pictures", "painter", minutes=none, **SMALL)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected steps where several processes train"):
        images.run("pictures", "painter", minutes=2, **SMALL)


@pytest.mark.parametrize("wrong", [dict(size=30), dict(size=4), dict(width=12), dict(width=0)])
def test_what_fits_no_network_is_said_at_once(pictures, wrong):
    with pytest.raises(ValueError, match="expected size from 8 as a multiple of 4, and width as one of 8"):
        images.run("pictures", "painter", steps=1, **wrong)


def test_a_place_that_is_taken_is_said_at_once(pictures):
    (pictures / "taken").mkdir()
    (pictures / "taken" / "letters.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no pipeline.json but letters.txt"):
        images.run("pictures", "taken", steps=1, **SMALL)
    assert not (pictures / "runs").exists()


def test_from_the_command_line(pictures, capsys):
    assert cli.main(["train", "images", "pictures", "--no-captions", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "written: pictures-model\n" in said and "minildm generate --model pictures-model" in said
    draw = ["generate", "--model", "pictures-model", "--label", "dogs", "--steps", "2", "--seed", "1", "-o", "dog.png"]
    assert cli.main(draw) == 0
    with Image.open("dog.png") as picture:
        assert picture.size == (8, 8)
    assert (
        cli.main(["train", "images", "pictures", "-o", "plain.safetensors", "--no-labels", "--no-captions", *QUICK])
        == 0
    )
    assert cli.main(["generate", "--model", "plain.safetensors", "--steps", "2", "--seed", "1", "-o", "plain.png"]) == 0
    assert cli.main(["train", "images", "pictures", "-o", "told", "--no-labels", "--captions", *QUICK]) == 0
    assert (
        cli.main(["generate", "cats in a row", "--model", "told", "--steps", "2", "--seed", "1", "-o", "cats.png"]) == 0
    )


# --- masks


@pytest.mark.parametrize("grey", [True, False])
def test_a_segmenter_is_trained_saved_opened_and_used(here, grey, capsys):
    photographs(5, grey)
    path = masks.run("photos", "outlines", steps=2, batch=1, size=16, width=4)
    assert path.name == "photos-model.safetensors"
    assert "5 pictures with 20 objects, 1 of them held out" in capsys.readouterr().out
    model, record = weights.load(path), weights.record(path)
    assert model.config["in_channels"] == (1 if grey else 3)
    assert set(record["measured"]) == {"dice", "ap50", "ap75"} and record["data"] == "4 pictures of photos"
    picture = discs(9, (30, 34))[0]
    assert segmentation.segment(model, picture.mean(-1) if grey else picture).shape == (30, 34)
    assert [file.name for file in (here / "runs" / "masks-photos").iterdir()] == ["step-000002.png"]


def test_few_pictures_are_all_learned_from(here, capsys):
    photographs(1)
    path = masks.run("photos", "outlines", "one.safetensors", steps=1, batch=1, size=16, width=4)
    assert weights.record(path)["held_out"] == 0 and "training pictures: dice" in capsys.readouterr().out
    with pytest.raises(ValueError, match="ends in .safetensors"):
        masks.run("photos", "outlines", "one", steps=1)
    with pytest.raises(ValueError, match="expected size from 16 as a multiple of 8"):
        masks.run("photos", "outlines", "one.safetensors", size=20)


@pytest.mark.parametrize("times, told", [(1, True), (2, False), (16, True)])
def test_objects_that_will_not_be_found_are_warned_of(here, times, told, recwarn):
    photographs(2, size=(24 * times, 26 * times), times=times)
    masks.run("photos", "outlines", "one.safetensors", steps=1, batch=1, size=16, width=4)
    found = [str(one.message) for one in recwarn if "pixels wide" in str(one.message)]
    assert bool(found) == told and all("8 to 60 are found best: resize" in text for text in found)


def test_a_sheet_shows_picture_mask_and_what_is_found(monkeypatch):
    picture, mask = discs(1, (20, 30))
    monkeypatch.setattr(masks, "segment", lambda model, image: mask.T[:20, :20].repeat(2, 1)[:, :30])
    rows = masks.sheet(None, [(picture, mask), (picture.mean(-1), mask)], side=24)
    assert rows.shape == (6, 3, 24, 24) and rows.min() >= 0 and rows.max() <= 1
    assert rows[1].any(0)[2:22].numpy().astype(int).tolist() == (mask[:, 3:27] > 0).astype(int).tolist()
    assert not rows[:, :, :2].any() and not rows[:, :, 22:].any()  # the picture is lower than the sheet's square
    assert torch.equal(rows[3][0], rows[3][1])  # grey


def test_segmenting_from_the_command_line(here, capsys, monkeypatch):
    photographs(3)
    options = ["--steps", "2", "--batch", "1", "--size", "16", "--width", "4", "--channels", "1"]
    assert cli.main(["train", "masks", "photos", "outlines", "-o", "m.safetensors", *options]) == 0
    assert "minildm segment --model m.safetensors IMAGE -o mask.png" in capsys.readouterr().out
    found = {}
    for n, name in ((3, "a.png"), (300, "b.png"), (300, "b.tif"), (70_000, "c.npy"), (0, "d.png")):
        labels = np.arange(40 * 2000).reshape(40, 2000).clip(max=n).astype(np.int32)
        with monkeypatch.context() as patch:
            patch.setattr(
                segmentation, "segment", lambda model, image, labels=labels: found.update(image=image) or labels
            )
            assert cli.main(["segment", "--model", "m.safetensors", "photos/0.png", "-o", name]) == 0
        assert f"written: {name} ({n} objects)" in capsys.readouterr().out
        assert found["image"].shape == (40, 44)  # made grey, as it was for the training
        assert np.array_equal(codes(here / name), labels), name  # what a training would read
    with Image.open("a.png") as mask:
        assert mask.mode == "P" and mask.getpalette()[:3] == [0, 0, 0] and max(mask.getpalette()[3:6]) > 70
    assert cli.main(["segment", "--model", "m.safetensors", "photos/0.png"]) == 0  # beside the picture, by the network
    assert re.search(r"written: photos/0-mask.png \(\d+ objects\)", capsys.readouterr().out)
    for wrong in (["none.png"], ["photos/0.png", "-o", "x.gif"], ["photos/0.png", "-o", "none/x.png"]):
        assert cli.main(["segment", "--model", "m.safetensors", *wrong]) == 1
        assert capsys.readouterr().err.startswith("minildm: ")


def test_too_many_objects_for_a_picture_are_refused(here, monkeypatch):
    from minildm.cli import _segment

    photographs(1)
    labels = np.arange(70_000).reshape(100, 700).astype(np.int32)
    monkeypatch.setattr(segmentation, "segment", lambda model, image: labels)
    with pytest.raises(ValueError, match="write a .npy file"):
        _segment.segment(masks.Path("photos/0.png"), masks.Path("x.png"))
    assert not (here / "x.png").exists()


def test_checkpoints_of_own_runs_are_ordinary_ones(pictures, monkeypatch):
    monkeypatch.setattr(images, "samples", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        images.run("pictures", "painter", captions=False, steps=2, **SMALL)
    assert restore(images.network(8, 8, 3, 2), "runs/images-pictures/checkpoint.safetensors").step == 0
