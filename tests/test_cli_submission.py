"""`minildm evaluate --submission` and `--verify`, on a tiny pipeline that never learned anything."""

import json
import re
from pathlib import Path

import pytest
import torch

from minildm import cli
from minildm.autoencoder import AutoencoderKL
from minildm.cli import _submission as submission
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer

FEW = ["--per-task", "2", "--seeds", "1", "--steps", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with seeded(1):
        vae = AutoencoderKL(3, 4, channels=(4, 4, 4, 8), scale_factor=5.0)
        unet = Denoiser(4, 4, (8, 8), context_dim=8)
        tokenizer = train_tokenizer(["a cat left of a red heart"], 290, length=48)
        encoder = TextEncoder(len(tokenizer), 8, depth=1, heads=2, length=48)
    pipe = LatentDiffusion(unet, vae, NoiseSchedule.cosine(50), encoder, tokenizer, predicts="v", guidance=3.0)
    return str(pipe.save_pretrained(tmp_path_factory.mktemp("pipelines") / "tiny"))


@pytest.fixture(scope="module")
def record(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "tiny.json"
    assert cli.main(["evaluate", "--model", folder, "--split", "heldout", *FEW, "--submission", str(path)]) == 0
    return path


def evaluate(*arguments):
    return cli.main(["evaluate", *map(str, arguments)])


def changed(path, target, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def test_a_record_says_all_that_is_needed_and_nothing_of_the_machine(folder, record):
    found = json.loads(record.read_text(encoding="utf-8"))
    pipe = LatentDiffusion.from_pretrained(folder)
    assert found["model"]["name"] == Path(folder).name and found["model"]["sha256"] == submission.fingerprint(pipe)
    assert found["protocol"] == {"per_task": 2, "seeds": 1, "steps": 2, "guidance": 3.0, "sampler": "ddim"}
    assert found["cost"] == {"calls": 2, "rows": 4}  # guidance asks about two rows in one call
    (result,) = found["results"]
    assert result["split"] == "heldout" and len(result["pictures"]) == 6
    assert all(len(prompts) == 2 and {*prompts[0][1]} <= {*"012"} for prompts in result["pictures"].values())
    assert str(record.parent) not in record.read_text(encoding="utf-8") and folder not in record.read_text()


def test_a_second_run_writes_the_same_and_it_verifies(folder, record, tmp_path, capsys):
    again = tmp_path / "again.json"
    assert evaluate("--model", folder, "--split", "heldout", *FEW, "--submission", again) == 0
    assert again.read_bytes() == record.read_bytes()
    assert evaluate("--model", folder, "--verify", record) == 0
    assert f"equal: {record.name}" in capsys.readouterr().out


def test_a_score_that_was_made_better_is_found_out_with_prompt_and_seed(folder, record, tmp_path, capsys):
    def better(content):
        result = content["results"][0]
        prompt = result["pictures"]["counting"][1]
        prompt[1] = "2"
        result["summary"]["overall"]["strict"] = 0.9

    assert evaluate("--model", folder, "--verify", changed(record, tmp_path / "better.json", better)) == 1
    said = capsys.readouterr().out
    assert "not equal: 2 differences" in said and "seed 1: recorded right and alike, now wrong" in said
    assert "summary: recorded" in said


def test_other_settings_and_missing_pictures_are_told(record):
    content = json.loads(record.read_text(encoding="utf-8"))
    other = json.loads(record.read_text(encoding="utf-8"))
    other["cost"] = {"calls": 1, "rows": 1}
    other["results"][0]["pictures"]["counting"].pop()
    told = list(submission.differences(other, content))
    assert told[0].startswith("cost: recorded {'calls': 1") and "recorded missing, now wrong" in told[1]
    assert len(told) == 2 and list(submission.differences(content, content)) == []


def test_another_model_is_refused(folder, record, tmp_path, capsys):
    pipe = LatentDiffusion.from_pretrained(folder)
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1e-3)
    other = pipe.save_pretrained(tmp_path / "other")
    assert evaluate("--model", other, "--verify", record) == 1
    assert "is not the model of tiny.json" in capsys.readouterr().err
    assert evaluate("--verify", changed(record, tmp_path / "gone.json", lambda content: None)) == 1
    assert "there is no pipeline 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "something else"}', '{"format": "minildm submission 1"}']
)
def test_what_is_no_record_is_refused(tmp_path, capsys, content):
    (tmp_path / "x.json").write_text(content)
    assert evaluate("--verify", tmp_path / "x.json") == 1
    assert "expected a record of `minildm evaluate --submission`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ["--submission", "a.json", "--json", "b.json"],
            "record in place of the file of --json",
        ),
        (["--verify", "a.json", "--split", "both"], "--verify .* with its own settings: leave --split out"),
        (["--verify", "a.json", *FEW], "leave --per-task, --seeds, --steps out"),
        (["--verify", "a.json", "--json", "b.json", "--submission", "c.json"], "leave --json, --submission out"),
        (["--verify", "a.json", "--guidance", "2", "--sampler", "ddim"], "leave --guidance, --sampler out"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, says, folder, record, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_bytes(record.read_bytes())
    assert evaluate("--model", folder, *arguments) == 1
    assert re.search(says, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_wrong_name_is_said_before_the_work(tmp_path, capsys):
    assert evaluate("--submission", tmp_path / "record.txt") == 1
    assert "ending in .json" in capsys.readouterr().err
    assert evaluate("--verify", tmp_path / "gone.json") == 1
    assert "gone.json" in capsys.readouterr().err


def test_the_checksum_hears_values_settings_and_schedule(folder):
    pipe = LatentDiffusion.from_pretrained(folder)
    before = submission.fingerprint(pipe)
    assert submission.fingerprint(LatentDiffusion.from_pretrained(folder)) == before
    assert submission.fingerprint(pipe.to(torch.float64)) == before
    pipe.ends_clean = False
    assert submission.fingerprint(pipe) != before
