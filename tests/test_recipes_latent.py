"""The recipes of lessons 06 and 07: the pocket autoencoder, and denoisers of pixels and of its latents."""

import copy
import json

import diffusers
import numpy as np
import pytest
import torch

from minildm import LatentDiffusion, data, images, judge, weights
from minildm.data.prompts import HELD_OUT_SHAPES
from minildm.recipes import labelled, pocket_autoencoder, scenes_latent, scenes_pixel, vae_pocket
from minildm.recipes.studies import scenes_latent_brief, scenes_latent_steps, vae_sizes
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion import reference_name
from minildm.tensors import count_parameters, seeded
from minildm.training import History


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in; and they learn from a few pictures a step."""
    monkeypatch.chdir(tmp_path)
    for module in (labelled, pocket_autoencoder, vae_pocket):
        monkeypatch.setattr(module, "BATCH", 8)


@pytest.fixture
def few(monkeypatch):
    """A handful of training pictures instead of ten thousand."""
    scenes = labelled.scenes
    monkeypatch.setattr(labelled, "scenes", lambda n=12, seed=labelled.TRAIN_SEED: scenes(min(n, 40), seed))


@pytest.fixture(scope="module")
def vae():
    with seeded(0):
        model = vae_pocket.network()
    vae_pocket.scale(model, 8)
    return model.eval()


def test_the_autoencoder_is_written_with_its_scale_and_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_pocket, "evaluate", lambda model: {"scenes_psnr": 7.0})
    monkeypatch.setattr(vae_pocket, "scale", lambda model: model.measure_scale(images.to_model(vae_pocket.scenes(4))))
    path = vae_pocket.run(tmp_path / "v.safetensors", steps=2, seed=1)
    record, model = weights.record(path), weights.load(path)
    assert record["recipe"] == "vae-pocket" and record["steps"] == 2 and record["heldout"] == {"scenes_psnr": 7.0}
    assert model.config | {"scale_factor": None} == vae_pocket.network().config
    assert model.scale_factor == pytest.approx(vae_pocket.SCALE, rel=1e-3)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_rescaled_autoencoder_is_the_same_in_another_unit(vae):
    other = copy.deepcopy(vae)
    vae_pocket.rescale_latents(other, 3.0)
    x = images.to_model(vae_pocket.scenes(2))
    with torch.no_grad():
        latent, rescaled = vae.encode(x), other.encode(x)
        assert (rescaled.mean - 3 * latent.mean).abs().max() < 1e-5
        assert (rescaled.std / latent.std - 3).abs().max() < 1e-4
        assert (other.decode(rescaled.mean) - vae.decode(latent.mean)).abs().max() < 1e-4


def test_the_autoencoder_learns_from_what_is_not_held_out(monkeypatch):
    """Of each batch half are training scenes and half training drawings, these mirrored or not."""
    batches = []

    def train(model, batch, loss, **settings):
        batches.extend(batch(torch.Generator().manual_seed(k), 7)["x"] for k in range(3))
        return History([1.0])

    monkeypatch.setattr(vae_pocket, "train", train)
    vae_pocket.fit(vae_pocket.network())
    known = {picture.numpy().tobytes() for picture in vae_pocket.drawings()}
    for x in batches:
        pictures = ((x + 1) * 127.5).round().to(torch.uint8)
        assert x.shape == (7, 3, 64, 64)
        turned = [[p.flip(*axes) if axes else p for axes in ((), (1,), (2,), ((1, 2),))] for p in pictures[3:]]
        assert all(known & {p.numpy().tobytes() for p in views} for views in turned)
    start = int(torch.randint(2**40, (), generator=torch.Generator().manual_seed(0)))
    true = vae_pocket.scenes(3, vae_pocket.TRAIN_SEED, "train", start)
    assert torch.equal(((batches[0][:3] + 1) * 127.5).round().to(torch.uint8), true)


def test_a_finetuned_decoder_sees_through_noise_and_the_encoder_stays(vae):
    finetuned = copy.deepcopy(vae)
    x = images.to_model(vae_pocket.scenes(8))
    z = vae.scale(vae.encode(x).mean).detach()
    noisy = vae.unscale(z + 0.4 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0)))

    def error(model):
        with torch.no_grad():
            return float((model.decode(noisy) - x).abs().mean())

    history = pocket_autoencoder.finetune_decoder(finetuned, steps=12, seed=1, progress=False)
    assert error(finetuned) < 0.9 * error(vae) and history.step == 12
    for (name, before), after in zip(vae.named_parameters(), finetuned.parameters(), strict=True):
        assert torch.equal(before, after) != name.startswith(("decoder.", "post_quant.")), name
        assert after.requires_grad == before.requires_grad


def test_reconstructions_are_measured_by_hand(monkeypatch):
    pictures = torch.full((4, 3, 64, 64), 51, dtype=torch.uint8)  # 0.2
    monkeypatch.setattr(vae_pocket, "scenes", lambda n: pictures)
    monkeypatch.setattr(vae_pocket, "drawings", lambda split: pictures)
    off = torch.tensor([0.1, 0.1, 0.01, 0.01])[:, None, None, None]
    monkeypatch.setattr(vae_pocket, "rebuilt", lambda model, x: x.float() / 255 + off)
    result = vae_pocket.evaluate(None)
    assert result["scenes_psnr"] == pytest.approx(30, abs=1e-3)  # the mean of 20, 20, 40 and 40 dB
    assert result["openmoji_psnr_pooled"] == pytest.approx(-10 * np.log10((0.1**2 + 0.01**2) / 2), abs=1e-3)


@pytest.mark.parametrize("recipe", [scenes_pixel, scenes_latent])
def test_an_arm_writes_its_checkpoint_and_how_good_it_was_on_the_way(recipe, tmp_path, monkeypatch, few, vae):
    monkeypatch.setattr(weights, "load", lambda name, load=weights.load: vae if name == "vae-pocket" else load(name))
    monkeypatch.setattr(labelled, "quality", lambda model, space, **how: {"recognised": 0.5, **how})
    path = recipe.run(tmp_path / "a.safetensors", steps=2)
    record = weights.record(path)
    assert record["quality"] == [[1, {"recognised": 0.5}], [2, {"recognised": 0.5}]]
    assert record["final"] == {"recognised": 0.5, "each": 8, "seed": 1} and record["predicts"] == "v"
    assert weights.load(path).config == recipe.network().config


def test_the_arms_are_about_equally_large():
    pixel, latent = count_parameters(scenes_pixel.network()), count_parameters(scenes_latent.network())
    assert abs(pixel / latent - 1) < 0.05


def test_the_third_arm_is_the_second_on_another_autoencoder(tmp_path, monkeypatch, few):
    second = weights.save(tmp_path / "scenes-latent.safetensors", scenes_latent.network(), kept="this")
    shipped = {"load": weights.load, "record": weights.record}
    for name, function in shipped.items():
        redirect = lambda at, f=function: f(second if at == "scenes-latent" else at)  # noqa: E731
        monkeypatch.setattr(weights, name, redirect)
    monkeypatch.setattr(labelled, "quality", lambda model, space, **how: {"recognised": 0.5})
    monkeypatch.setattr(vae_pocket, "evaluate", lambda model: {"scenes_psnr": 7.0})
    monkeypatch.setattr(vae_pocket, "scale", lambda model: model.measure_scale(images.to_model(vae_pocket.scenes(4))))
    path = scenes_latent_brief.run(tmp_path / "b.safetensors", steps=1)
    record = weights.record(path)
    assert record["kept"] == "this" and weights.load(path).config == scenes_latent.network().config
    assert record["brief"]["vae"] == {"scenes_psnr": 7.0} and record["brief"]["vae_steps"] == 300
    assert record["brief"]["ceiling"] == 0  # after one step nothing is recognised
    assert list((tmp_path / "runs").iterdir()) == []


def test_latents_at_equal_steps_are_trained_on_the_schedule_that_a_row_names(tmp_path, monkeypatch, few, vae):
    second = weights.save(tmp_path / "scenes-latent.safetensors", scenes_latent.network(), kept="this")
    shipped, asked = {"load": weights.load, "record": weights.record}, []
    for name, function in shipped.items():
        redirect = lambda at, f=function: vae if at == "vae-pocket" else f(second if at == "scenes-latent" else at)  # noqa: E731
        monkeypatch.setattr(weights, name, redirect)

    def quality(model, space, **how):
        asked.append((model.schedule.snr(torch.tensor([500])).item(), how))
        return {"recognised": 0.5}

    monkeypatch.setattr(labelled, "quality", quality)
    path = scenes_latent_steps.run(tmp_path / "b.safetensors", steps=1)
    record = weights.record(path)
    assert record["kept"] == "this" and weights.load(path).config == scenes_latent.network().config
    found = [(row["shift"], row["seed"], row["steps"]) for row in record["equal_steps"]]
    assert found == [(shift, seed, 1) for shift, seed in scenes_latent_steps.JOBS]
    plain = labelled.schedule().snr(torch.tensor([500])).item()
    expected = [plain / shift**2 for shift, _ in scenes_latent_steps.JOBS]
    assert [snr for snr, _ in asked] == pytest.approx(expected) and asked[0][1] == {"each": 8, "seed": 1}
    scenes_latent_steps.run(tmp_path / "b.safetensors", steps=1)
    assert len(asked) == len(scenes_latent_steps.JOBS)  # each is measured once


def test_spaces_go_there_and_back(vae):
    pictures, _ = labelled.scenes(5)
    pixels, latents = labelled.Pixels(pictures), labelled.Latents(pictures, vae)
    at, generator = torch.tensor([3, 0]), torch.Generator().manual_seed(0)
    assert (pixels.pictures(pixels.take(at, generator)) - pictures[at].float() / 255).abs().max() < 1e-6
    assert pixels.shape == pictures.shape[1:] and latents.shape == (4, 16, 16)
    decoded = latents.pictures(latents.mean[at])
    assert (decoded - vae_pocket.rebuilt(vae, pictures[at])).abs().max() < 1e-5
    latent = vae.encode(images.to_model(pictures[at]))
    expected = vae.scale(latent.sample(torch.Generator().manual_seed(0))).detach()
    assert (latents.take(at, torch.Generator().manual_seed(0)) - expected).abs().max() < 1e-5


def test_labels_are_those_that_training_shows(monkeypatch):
    pictures, labels = labelled.scenes(300)
    assert set(labels.tolist()) <= set(labelled.LABELS) and len(labelled.LABELS) == 67
    assert not {data.VOCABULARY[label] for label in labelled.LABELS} & set(HELD_OUT_SHAPES)
    seen = judge.inspect(pictures.float() / 255)
    monkeypatch.setattr(judge, "inspect", lambda images: seen)  # of the same pictures twice
    assert labelled.recognised(pictures.float() / 255, labels).mean() > 0.99
    other = labels.roll(1)
    assert not labelled.recognised(pictures.float() / 255, other)[(labels != other).numpy()].any()
    assert not {p.numpy().tobytes() for p in pictures} & {p.numpy().tobytes() for p in labelled.scenes(300, 6)[0]}


def test_two_objects_are_not_the_one_asked_for():
    two = data.scene_arrays(20, tasks="two objects")
    first = torch.tensor([data.VOCABULARY.index(names[0]) for names in two.names])
    assert not labelled.recognised(torch.from_numpy(two.images).movedim(-1, 1).float() / 255, first).any()


def test_the_best_painter_is_as_far_from_real_pictures_as_they_are(monkeypatch):
    real, labels = labelled.scenes(700, 9)
    first = {int(label): k for k, label in reversed(list(enumerate(labels)))}  # a real picture for each label
    monkeypatch.setattr(
        labelled, "draw", lambda model, space, asked, **how: real[[first[y] for y in asked.tolist()]].float() / 255
    )
    monkeypatch.setattr(labelled, "LABELS", sorted(first))
    found = labelled.quality(None, None, each=1)
    assert found["recognised"] > 0.99 and abs(found["kernel"]) < 0.5


def test_label_and_noise_come_from_the_generator(monkeypatch, vae):
    made = {}
    monkeypatch.setattr(labelled, "train", lambda model, batch, loss, **settings: made.update(batch=batch, **settings))
    pictures, labels = labelled.scenes(6)
    model = scenes_pixel.network()
    labelled.fit(model, labelled.Pixels(pictures), labels, 7, lr=3)
    assert made["steps"] == 7 and made["lr"] == 3
    one, again, other = (made["batch"](torch.Generator().manual_seed(k), 400) for k in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one) and not torch.equal(one["y"], other["y"])
    without = one["y"] == model.null_class
    assert 0.05 < without.float().mean() < 0.16
    of = {picture.numpy().tobytes(): label for picture, label in zip(images.to_model(pictures), labels, strict=True)}
    for x, y in zip(one["x_0"][~without], one["y"][~without], strict=True):
        assert of[x.numpy().tobytes()] == y


def test_sizes_are_kept_and_read_again(tmp_path, monkeypatch, few):
    monkeypatch.setattr(vae_pocket, "evaluate", lambda model: {"scenes_psnr": 7.0})
    monkeypatch.setattr(vae_pocket, "scale", lambda model: model.measure_scale(images.to_model(vae_pocket.scenes(4))))
    monkeypatch.setattr(labelled, "quality", lambda model, space, **how: {"recognised": 0.5})
    row = vae_sizes.row("f = 8, 4 channels", steps=1)
    assert (row["f"], row["channels"], row["numbers"], row["scenes_psnr"], row["recognised"]) == (8, 4, 256, 7.0, 0.5)
    (file,) = (tmp_path / "runs" / "vae-sizes").iterdir()
    file.write_text(json.dumps(row | {"recognised": 0.25}))
    assert vae_sizes.row("f = 8, 4 channels", steps=1)["recognised"] == 0.25
    assert vae_sizes.row("f = 8, 4 channels", steps=1, resume=False) == row


def test_the_shipped_autoencoder_is_as_good_as_its_record_says():
    path, record = weights.FOLDER / "vae-pocket.safetensors", weights.record("vae-pocket")
    heldout, model = record["heldout"], weights.load("vae-pocket")
    assert path.stat().st_size <= 6e6 and record["steps"] == vae_pocket.STEPS
    for name, pictures in {"scenes": vae_pocket.scenes(100), "openmoji": vae_pocket.drawings("heldout")[::4]}.items():
        error = (vae_pocket.rebuilt(model, pictures) - pictures.float() / 255).square().mean((1, 2, 3))
        assert (-10 * error.log10()).mean().item() == pytest.approx(heldout[f"{name}_psnr"], abs=1)
    assert [row["name"] for row in record["sizes"]] == list(vae_sizes.SIZES)


def test_diffusers_opens_the_shipped_autoencoder():
    ours = weights.load("vae-pocket")
    theirs = diffusers.AutoencoderKL.from_config(to_configs.vae(ours, [64, 64]))
    theirs.load_state_dict({reference_name(ours, name): tensor for name, tensor in ours.state_dict().items()})
    x = images.to_model(vae_pocket.scenes(2))
    with torch.no_grad():
        latent, their_latent = ours.encode(x), theirs.encode(x).latent_dist
        assert (latent.mean - their_latent.mean).abs().max() < 1e-5 * latent.mean.abs().max()
        assert (ours.decode(latent.mean) - theirs.decode(latent.mean).sample).abs().max() < 1e-5
    assert theirs.config.scaling_factor == pytest.approx(ours.scale_factor)


def test_the_shipped_latent_denoiser_draws_what_is_asked_for_and_an_unscaled_latent_is_caught():
    vae, record = weights.load("vae-pocket"), weights.record("scenes-latent")
    pipe = LatentDiffusion(weights.load("scenes-latent"), vae, labelled.schedule(), predicts="v")
    labels = labelled.LABELS[::3]
    pictures = pipe(y=labels, seed=0, output="tensor")
    share = labelled.recognised(pictures, torch.tensor(labels)).mean()
    assert share == pytest.approx(record["final"]["recognised"], abs=0.3)
    assert all(judge.inspect(pictures[:4]))
    z = vae.encode(images.to_model(vae_pocket.scenes(4))).mean.detach()
    with pytest.raises(ValueError, match="call vae.scale"):
        pipe.decode(z)
    assert pipe.decode(vae.scale(z)).shape == (4, 3, 64, 64)


def test_shipped_arms_were_trained_by_their_recipes():
    for recipe, name in ((scenes_pixel, "scenes-pixel"), (scenes_latent, "scenes-latent")):
        record = weights.record(name)
        assert record["steps"] == recipe.STEPS and len(record["quality"]) >= 8
    assert record["brief"]["vae_steps"] == scenes_latent_brief.VAE_STEPS
