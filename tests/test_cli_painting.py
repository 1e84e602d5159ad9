"""`minildm generate` and `minildm evaluate` on a tiny pipeline that never learned anything."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minildm import cli, data, geneval, images, samplers, stable_diffusion, viz, weights
from minildm.autoencoder import AutoencoderKL
from minildm.cli import _painting as painting
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer

PROMPT = "a cat left of a red heart"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved pipeline for pictures of 64×64, that knows the words of a few captions."""
    captions = [PROMPT, "一只猫"]
    with seeded(1):
        vae = AutoencoderKL(3, 4, channels=(4, 4, 4, 8), scale_factor=5.0)
        unet = Denoiser(4, 4, (8, 8), context_dim=8)
        tokenizer = train_tokenizer(captions, 290, length=48)
        encoder = TextEncoder(len(tokenizer), 8, depth=1, heads=2, length=48)
    pipe = LatentDiffusion(
        unet, vae, NoiseSchedule.cosine(50), encoder, tokenizer, predicts="v", guidance=3.0, words=captions
    )
    return str(pipe.save_pretrained(tmp_path_factory.mktemp("pipelines") / "tiny"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generate(folder, *arguments):
    return cli.main(["generate", *arguments, "--model", folder, "--steps", "2"])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_prompt_becomes_the_pipelines_picture(folder, here, capsys):
    assert generate(folder, PROMPT, "--seed", "3", "--guidance", "2", "--negative", "a cat", "-o", "cat.png") == 0
    assert capsys.readouterr().out == "written: cat.png (seed 3)\n"
    pipe = LatentDiffusion.from_pretrained(folder)
    expected = pipe(PROMPT, seed=3, steps=2, guidance=2, negative_prompt="a cat")
    assert np.abs(pixels("cat.png").astype(int) - np.asarray(expected)).max() <= 1
    assert [path.name for path in here.iterdir()] == ["cat.png"]  # nothing half-written is left


def test_where_the_steps_lie(folder):
    how = ["--seed", "3", "--sampler", "dpm_solver_2m"]
    assert generate(folder, PROMPT, *how, "--spacing", "karras", "-o", "cat.png") == 0
    pipe = LatentDiffusion.from_pretrained(folder)
    timesteps = samplers.timesteps(pipe.schedule, 2, "karras")
    expected = pipe(PROMPT, seed=3, timesteps=timesteps, sampler="dpm_solver_2m")
    assert np.abs(pixels("cat.png").astype(int) - np.asarray(expected)).max() <= 1


def test_without_a_file_name_it_is_the_prompt_and_the_seed(folder, here, capsys):
    assert generate(folder, "  A cat, left of a red heart! ", "--seed", "7") == 0
    assert generate(folder, "一只猫", "--seed", "7") == 0
    assert sorted(path.name for path in here.iterdir()) == ["a-cat-left-of-a-red-heart-7.png", "一只猫-7.png"]
    assert generate(folder, "一只猫", "-o", "any.png") == 0  # any seed, and it says which
    seed = capsys.readouterr().out.splitlines()[-1].removeprefix("written: any.png (seed ").removesuffix(")")
    assert generate(folder, "一只猫", "-o", "again.png", "--seed", seed) == 0
    assert np.array_equal(pixels("any.png"), pixels("again.png"))


def test_a_grid_shows_this_seed_and_the_next_ones(folder, capsys):
    assert generate(folder, PROMPT, "--seed", "3", "--grid", "5", "-o", "grid.png") == 0
    assert "written: grid.png (seeds 3 to 7)" in capsys.readouterr().out
    grid = pixels("grid.png")
    assert grid.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert generate(folder, PROMPT, "--seed", "6", "-o", "one.png") == 0
    one = pixels("one.png").astype(int)  # the fourth: in the second row, at the left
    assert np.abs(grid[68 : 68 + 64, 2 : 2 + 64] - one).max() <= 1
    assert grid[68 : 68 + 64, 2 + 2 * 66 :].min() == 255  # nothing stands in the sixth place


def test_a_film_shows_every_step_and_ends_with_the_picture(folder, here, monkeypatch):
    shown, animation = [], viz.animation
    monkeypatch.setattr(viz, "animation", lambda frames, **how: shown.append(frames) or animation(frames, **how))
    assert generate(folder, PROMPT, "--seed", "3", "--gif", "-o", "cat.png") == 0
    assert generate(folder, PROMPT, "--seed", "3", "--scale", "2", "-o", "film.gif") == 0
    assert sorted(path.name for path in here.iterdir()) == ["cat.gif", "cat.png", "film.gif"]
    pipe = LatentDiffusion.from_pretrained(folder)
    steps = list(pipe.steps(PROMPT, seed=3, steps=2))
    assert [len(frames) for frames in shown] == [3, 3]
    for frame, step in zip(shown[0], steps, strict=True):
        assert (frame - pipe.decode(step.x_t, check=False)[0] * 2 + 1).abs().max() < 1e-4
    assert np.abs(viz.pixels(shown[0][-1]).astype(int) - pixels("cat.png")).max() <= 1
    for name, side in (("cat.gif", 256), ("film.gif", 128)):
        with Image.open(name) as film:
            assert film.n_frames == 3 and film.size == (side, side)


def test_scale_enlarges_pixels(folder):
    assert generate(folder, PROMPT, "--seed", "3", "-o", "small.png") == 0
    assert generate(folder, PROMPT, "--seed", "3", "--scale", "3", "-o", "large.png") == 0
    assert np.array_equal(pixels("large.png"), pixels("small.png").repeat(3, 0).repeat(3, 1))


def test_an_old_file_stays_whole_until_the_new_one_is(folder, monkeypatch):
    path, beside = Path("cat.png"), Path("cat.png.part")
    for mine in (path, beside):
        mine.write_bytes(b"old")
    before = sorted(Path().iterdir())

    def full(self, content):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_bytes", full)
        assert generate(folder, PROMPT, "-o", "cat.png") == 1
    assert path.read_bytes() == b"old" and sorted(Path().iterdir()) == before
    assert generate(folder, PROMPT, "-o", "cat.png") == 0
    assert path.read_bytes()[:4] == b"\x89PNG" and beside.read_bytes() == b"old"
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([""], "the prompt is empty: say what to draw"),
        (["  "], "the prompt is empty"),
        ([], "the prompt is empty"),
        ([PROMPT, "-o", "cat.bmp"], "expected a file name ending in .png, .jpg, .jpeg, .webp, .gif, got 'cat.bmp'"),
        ([PROMPT, "-o", "cat"], "expected a file name ending in"),
        ([PROMPT, "-o", "nowhere/cat.png"], "there is no folder 'nowhere' to write 'cat.png' to: make it first"),
        ([PROMPT, "--size", "60"], "divisible by 16, as the networks halve them, got 60×60: ask for 64×64"),
        ([PROMPT, "--sampler", "magic"], "expected sampler as one of ddpm"),
        ([PROMPT, "--spacing", "magic"], 'expected spacing="leading", "linspace", "trailing" or "karras"'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, here, capsys, arguments, says):
    assert generate(folder, *arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("minildm: ") and says in said.err and said.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_missing_pipeline_says_what_to_do(here, monkeypatch, capsys):
    monkeypatch.setattr(weights, "FOLDER", here / "weights")
    monkeypatch.setattr(painting, "recipes", lambda: ["pocket"])
    for command in (["generate", PROMPT], ["evaluate"]):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert "there is no pipeline 'pocket'" in said and "train it with `minildm train pocket`, or name" in said
    assert cli.main(["generate", PROMPT, "--model", "elsewhere"]) == 1
    said = capsys.readouterr().err
    assert "there is no pipeline 'elsewhere'" in said and said.endswith("; name another one with --model\n")


def test_a_folder_of_diffusers_will_do(here, monkeypatch):
    (here / "model_index.json").write_text("{}")
    monkeypatch.setattr(stable_diffusion, "load", lambda *arguments: arguments)
    assert painting.load(str(here))[0] == str(here)


def test_words_it_never_saw_are_named(folder, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert generate(folder, "a zebra left of a red heart", "-o", "zebra.png") == 0
    assert "minildm: warning: this model never saw 'zebra' in training" in capsys.readouterr().err


def test_interactive_asks_until_an_empty_line_and_survives_errors(folder, here, monkeypatch, capsys):
    lines = iter(["一只猫", "a cat", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    brush = painting.Brush(folder, seed=3, steps=2, size=None)
    draw, complaints = brush.draw, []
    brush.draw = lambda prompt: draw(prompt) if prompt != "a cat" else painting.check_file(here / "x.txt", [".png"])
    brush.ask(complaints.append, input)
    assert [path.name for path in here.iterdir()] == ["一只猫-3.png"] and brush.seed == 4
    assert [type(error) for error in complaints] == [ValueError]
    assert "\033" not in capsys.readouterr().out  # blocks are for terminals


def test_interactive_starts_with_the_prompt_given(folder, here, monkeypatch):
    def end(prompt):
        raise EOFError

    monkeypatch.setattr(painting.Brush.ask, "__defaults__", (end,))
    assert generate(folder, PROMPT, "--seed", "3", "--interactive") == 0
    assert [path.name for path in here.iterdir()] == ["a-cat-left-of-a-red-heart-3.png"]
    assert generate(folder, "--interactive") == 0 and len(list(here.iterdir())) == 1


def test_blocks_are_two_pixels_each():
    picture = torch.zeros(3, 4, 2)
    picture[0, 0] = 1  # red above black; then black above black, and black above white
    picture[:, 3, 1] = 1
    block, dark = "\033[38;2;{};0;0;48;2;{}m▀", "0;0;0"
    assert painting.blocks(picture, 80).splitlines() == [
        block.format(255, dark) * 2 + "\033[0m",
        block.format(0, dark) + block.format(0, "255;255;255") + "\033[0m",
    ]
    shrunk = painting.blocks(torch.ones(3, 8, 16), 4).splitlines()
    assert shrunk == ["\033[38;2;255;255;255;48;2;255;255;255m▀" * 4 + "\033[0m"]


def test_evaluate_prints_tables_and_writes_json(folder, here, capsys):
    few = ["--per-task", "2", "--seeds", "2", "--steps", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words that it never saw
        assert cli.main(["evaluate", "--model", folder, *few, "--json", "all.json"]) == 0
        said = capsys.readouterr().out
        assert cli.main(["evaluate", "--model", folder, *few, "--language", "zh", "--split", "train"]) == 0
    assert said.count("Pocket GenEval in English") == 2 and said.endswith("written: all.json\n")
    assert "steps 1, guidance 3.0, sampler ddim" in said
    assert "Pocket GenEval in Chinese, combinations seen in training: 2 prompts" in capsys.readouterr().out
    written = json.loads((here / "all.json").read_text(encoding="utf-8"))
    assert written["model"] == folder and [one["split"] for one in written["reports"]] == ["train", "heldout"]
    for report in written["reports"]:
        assert report["summary"]["overall"]["score"]["value"] < 0.3 < report["summary"]["overall"]["ceiling"]["value"]
        assert len(report["pictures"]) == 6 * 4 and report["settings"]["guidance"] == 3.0
    assert [path.name for path in here.iterdir()] == ["all.json"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--json", "nowhere/all.json"], "there is no folder 'nowhere'"),
        (["--json", "all.txt"], "expected a file name ending in .json, got 'all.txt'"),
        (["--split", "test"], "unknown split 'test'; choose one of 'train', 'heldout', 'all'"),
        (["--language", "fr"], "unknown language 'fr'; choose one of 'en', 'zh'"),
    ],
)
def test_evaluate_says_what_is_wrong_before_it_starts(folder, capsys, arguments, says):
    assert cli.main(["evaluate", "--model", folder, *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_random_model_scores_like_chance(folder):
    """The whole path: the saved pipeline, drawn in batches, judged."""
    pipe = LatentDiffusion.from_pretrained(folder)
    pipe.words = None
    how = dict(per_task=2, seeds=1, steps=1, tasks=["colour", "position"], progress=False)
    report = geneval.evaluate(pipe, language="zh", **how)
    assert report.score().value == 0 and report.ceiling().value == 1
    assert data.parse(report.pictures[0].prompt).task == "colour"
    again = geneval.evaluate(pipe, language="zh", batch=1, **how)
    assert [one.seen for one in again.pictures] == [one.seen for one in report.pictures]


@pytest.fixture(scope="module")
def pixel_model(tmp_path_factory):
    """A saved model of three classes in pixels, without words, in one file."""
    with seeded(1):
        unet = Denoiser(3, 3, (8, 8), num_classes=3, schedule=NoiseSchedule.cosine(50).predicting("v"))
    pipe = LatentDiffusion(unet, size=16, labels=["bee", "cat", "7"], guidance=2.0)
    return str(pipe.save_pretrained(tmp_path_factory.mktemp("pipelines") / "bees.safetensors"))


def test_a_label_becomes_a_picture(pixel_model, here, capsys):
    assert generate(pixel_model, "--label", "cat", "--seed", "3") == 0
    assert capsys.readouterr().out == "written: cat-3.png (seed 3)\n"
    pipe = LatentDiffusion.from_pretrained(pixel_model)
    assert (pixels("cat-3.png") == np.asarray(pipe(y=1, seed=3, steps=2))).all()
    for label, y in [("0", 0), ("7", 2)]:  # by number, unless a class has that for a name
        assert generate(pixel_model, "--label", label, "--seed", "3", "-o", "x.png") == 0
        assert (pixels("x.png") == np.asarray(pipe(y=y, seed=3, steps=2))).all()
    assert generate(pixel_model, "--seed", "3", "--grid", "2", "--gif", "-o", "any.png") == 0
    assert pixels("any.png").shape == (20, 38, 3) and Path("any.gif").is_file()


def test_a_picture_and_a_mask_steer(pixel_model, here):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save("start.png")  # of another size
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 255
    Image.fromarray(mask).save("mask.png")
    start = images.fit("start.png", 16)
    for more, changed in [(["--strength", "0.1"], None), (["--mask", "mask.png"], mask > 0)]:
        assert generate(pixel_model, "--label", "bee", "--seed", "3", "--image", "start.png", *more, "-o", "x.png") == 0
        difference = np.abs(pixels("x.png").astype(int) - start[0].mul(255).round().movedim(0, -1).numpy())
        assert difference.max() > 5
        if changed is not None:
            assert difference[~changed].max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "be"], "no class 'be'; did you mean 'bee'"),
        (["--label", "9"], "expected y from 0 to 2"),
        (["a cat"], "takes no words, but a --label: bee, cat, 7"),
        (["--mask", "mask.png"], "mask.png"),
        (["--strength", "0.5"], "expected an image with a mask or a strength"),
        (["--dtype", "int8"], "dtype as one of float32, float16, bfloat16"),
        (["--image", "nothing.png"], "nothing.png"),
    ],
)
def test_what_a_model_without_words_refuses(pixel_model, arguments, message, here, capsys):
    assert generate(pixel_model, *arguments) != 0
    assert message in capsys.readouterr().err


def test_lower_precision_of_the_networks(pixel_model, here):
    for dtype in ("float32", "bfloat16"):
        assert generate(pixel_model, "--label", "cat", "--seed", "3", "--dtype", dtype, "-o", f"{dtype}.png") == 0
    assert np.abs(pixels("float32.png").astype(int) - pixels("bfloat16.png")).max() <= 12
