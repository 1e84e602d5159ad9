"""The recipe that distils the pocket: what the teacher shows, what the student learns, and what ships."""

import pytest
import torch

from minildm import LatentDiffusion, data, judge, samplers, weights
from minildm.autoencoder import AutoencoderKL
from minildm.data import heldout, prompts
from minildm.denoiser import Denoiser
from minildm.recipes import pocket, pocket_fast, taught
from minildm.recipes.studies import adapters
from minildm.samplers.loop import CLEAN
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer

SCHEDULE = pocket.schedule()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a small pipeline with words, and a recipe that is soon done with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINILDM_CACHE", str(tmp_path / "cache"))
    for name, value in (("PATHS", 10), ("UNSEEN", 6), ("OWN", 5), ("BATCH", 4), ("RANK", 2)):
        monkeypatch.setattr(pocket_fast, name, value)
    monkeypatch.setattr(pocket_fast, "right", lambda found, pipe: found)
    monkeypatch.setattr(pocket, "geneval_summary", lambda pipe, language, seeds, **how: {language: how})
    tokenizer = train_tokenizer([text for language in ("en", "zh") for text in prompts(99, 1, language=language)], 400)
    with seeded(0):
        text = TextEncoder(len(tokenizer), 12, depth=1, heads=2, length=tokenizer.length)
        vae = AutoencoderKL(3, 4, channels=(8, 8, 8, 8), groups=4, scale_factor=0.5)
        sizes = dict(attention=(1,), heads=2, context_dim=12, groups=4, schedule=SCHEDULE)
        unet = Denoiser(4, 4, (8, 8), **sizes)
        torch.nn.init.normal_(unet.head.weight, std=0.1)
    how = dict(size=64, guidance=3.0, guidance_interval=(350, 1000), sees_padding=True)
    return LatentDiffusion(unet, vae, None, text, tokenizer, **how).save_pretrained(tmp_path / "tiny")


def test_each_call_leads_where_the_next_begins():
    places = [(now.t, then.t) for now, then in pocket_fast.jumps(SCHEDULE)]
    assert places == [(999, 749), (749, 499), (499, 249), (249, CLEAN)]
    fine = samplers.timesteps(SCHEDULE, pocket_fast.CALLS * pocket_fast.PARTS)
    assert [t for t, _ in places] == fine[:: pocket_fast.PARTS]
    assert sum(pocket_fast.SHARES) == pytest.approx(1) and len(pocket_fast.SHARES) == pocket_fast.CALLS


@pytest.mark.parametrize(
    "jump, predicts",
    [
        (jump, predicts)
        for jump in pocket_fast.jumps(SCHEDULE)
        for predicts in ("v", "eps", "x_0")
        if predicts != "eps" or jump[0].t != 999  # all noise: eps says nothing about the picture there
    ],
)
def test_who_answers_with_the_pair_arrives_in_one_step_of_ddim(jump, predicts):
    t, t_next = (place.t for place in jump)
    x_t, x_next = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
    x_0, eps = pocket_fast.pair(x_t, x_next, *jump)
    times = torch.full((3,), t)
    assert (SCHEDULE.add_noise(x_0, eps, times) - x_t).abs().max() < 1e-9
    schedule = SCHEDULE.predicting(predicts)

    def model(x, t):
        return schedule.target(x_0, eps, t)

    path = [t] if t_next == CLEAN else [t, t_next]
    arrived = list(samplers.ddim(model, schedule, x_t, timesteps=path))[1]
    assert (arrived.x_t - x_next).abs().max() < 1e-6


def test_paths_are_what_the_teacher_does(tiny):
    found = pocket_fast.paths(tiny, 6, start=3)
    assert found["x"].shape == (6, 5, 4, 8, 8) and found["x"].dtype == torch.float16 and len(found["ids"]) == 6
    x = found["x"].float()
    seeds = [pocket_fast.SEED * 1_000_000 + 3 + i for i in range(6)]
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    assert (x[:, 0] - noise).abs().max() < 2e-3
    tokenizer = LatentDiffusion.from_pretrained(tiny).tokenizer
    assert not any(heldout(tokenizer.decode(ids)) for ids in found["ids"])
    again = pocket_fast.paths(tiny, 6, start=3)
    assert all(torch.equal(again[name], found[name]) for name in found) and not found["first"].any()
    assert not torch.equal(pocket_fast.paths(tiny, 6)["x"], found["x"])


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_student_makes_the_first_calls_and_the_teacher_goes_on(tiny, first):
    teacher, student = (LatentDiffusion.from_pretrained(tiny) for _ in range(2))
    with seeded(first):
        torch.nn.init.normal_(student.unet.head.weight, std=0.3)
    said, seeds = ["a cat", "a dog left of a red heart"], [5, 6]
    x = pocket_fast.walk(teacher, student, said, seeds, first)
    alone = [step.x_t for step in student.steps(said, steps=4, guidance=1, seed=seeds)]
    assert all(torch.equal(x[:, call], alone[call]) for call in range(first + 1))
    fine = samplers.timesteps(SCHEDULE, pocket_fast.CALLS * pocket_fast.PARTS)
    for call in range(first, pocket_fast.CALLS):  # three steps of the teacher, with guidance
        way = teacher.steps(said, x_T=x[:, call], timesteps=fine[call * pocket_fast.PARTS :])
        assert (x[:, call + 1] - [step.x_t for step in way][pocket_fast.PARTS]).abs().max() < 1e-5
    assert (x[:, first + 1] - alone[first + 1]).abs().max() > 0.01
    assert x.shape == (2, 5, 4, 8, 8)


def test_a_students_ways_begin_with_one_call_to_all_but_one(tiny):
    teacher, student = (LatentDiffusion.from_pretrained(tiny) for _ in range(2))
    found = pocket_fast.walked(teacher, 30, 100, student)
    assert found["first"].unique().tolist() == [1, 2, 3]
    assert found["x"].shape == (30, 5, 4, 8, 8) and found["ids"].shape[0] == 30


def test_only_paths_that_end_well_are_kept(monkeypatch):
    """Latents of real scenes as the ends of paths: of what was said, of something else, and of a smudge."""
    pipe = LatentDiffusion.from_pretrained("pocket")
    scenes = data.scene_arrays(8, 3, tasks=("one object", "colour", "position"), layout="grid")
    said = [*scenes.captions, *scenes.captions[1:], scenes.captions[0]]
    z = pipe.encode(list(scenes.images))
    ends = torch.cat([z, z])
    ends[-1] = 0
    found = {"x": ends[:, None].half(), "ids": pipe.tokenizer(said)[0]}
    monkeypatch.setattr(pocket_fast, "BATCH", 5)
    kept = pocket_fast.right(found, pipe)
    assert torch.equal(kept["x"], found["x"][:8]) and torch.equal(kept["ids"], found["ids"][:8])
    with pytest.raises(ValueError, match="none of its paths"):
        pocket_fast.right({name: tensor[8:] for name, tensor in found.items()}, pipe)


def test_batches_lead_along_the_paths(tiny):
    found = pocket_fast.paths(tiny, 10)
    batches = pocket_fast.Batches(found, SCHEDULE)
    seen = set()
    for seed in range(20):
        batch = batches(torch.Generator().manual_seed(seed), 4)
        (t,) = set(batch["t"].tolist())
        seen.add(t)
        x_t = SCHEDULE.add_noise(batch["x_0"], batch["eps"], batch["t"])
        call = [now.t for now, _ in batches.jumps].index(t)
        away = (x_t[:, None] - found["x"][None, :, call].float()).flatten(2).abs().amax(2)  # (4, 10)
        assert (away.min(1).values < 1e-3).all()
        assert torch.equal(found["ids"][away.argmin(1)], batch["ids"])
    assert seen == {999, 749, 499, 249}


def test_only_the_teachers_jumps_are_learned(tiny):
    found = pocket_fast.paths(tiny, 10) | {"first": torch.tensor([0, 1, 2, 3] * 2 + [0, 0])}
    batches = pocket_fast.Batches(found, SCHEDULE)
    for seed in range(20):
        batch = batches(torch.Generator().manual_seed(seed), 8)
        call = [now.t for now, _ in batches.jumps].index(int(batch["t"][0]))
        x_t = SCHEDULE.add_noise(batch["x_0"], batch["eps"], batch["t"])
        away = (x_t[:, None] - found["x"][None, :, call].float()).flatten(2).abs().amax(2)
        assert (found["first"][away.argmin(1)] <= call).all()


def test_a_student_is_a_lora_of_its_teacher(tiny, tmp_path, capsys):
    path = pocket_fast.run(tmp_path / "fast.safetensors", model=tiny, steps=30, seed=1)
    record = pocket_fast.record(path)
    assert record["recipe"] == "pocket-fast" and record["seed"] == 1 and record["steps"] == 60
    assert (record["paths"], record["own_paths"]) == (10, 5)  # all of them, since `right` lets all pass here
    assert record["model"] == adapters.checksum(tiny) and record["how"] == {"steps": 4, "guidance": 1}
    assert record["geneval"]["zh"] == {"zh": {"steps": 4, "guidance": 1}}
    assert list((tmp_path / "runs").iterdir()) == []
    pipe, plain = (LatentDiffusion.from_pretrained(tiny) for _ in range(2))
    error = {}
    batches = pocket_fast.Batches(pocket_fast.paths(tiny, 10), SCHEDULE)
    for name, one in (("before", plain), ("after", pipe)):
        if one is pipe:
            one.load_lora(path)
        error[name] = pocket.error(one.unet, batches, one.text_encoder, n=100)
    assert error["after"] < 0.97 * error["before"]
    assert "unseen_error" in capsys.readouterr().out


class TestWhatShips:
    def test_it_is_for_the_pocket_that_ships(self):
        record = pocket_fast.record()
        assert record["model"] == adapters.checksum("pocket"), "the pocket is another one: minildm train pocket-fast"
        assert pocket_fast.PLACE.stat().st_size < 4e6

    def test_its_strict_score_is_near_the_teachers(self):
        """By the records, of 600 fresh pictures each; the teacher's of 42 calls, its own of 4."""
        fast = pocket_fast.record()["geneval"]
        teacher = weights.record("pocket")["geneval"]
        for language, share in (("en", 0.91), ("zh", 0.91)):
            own, whole = (some[language]["train"]["overall"]["strict"]["value"] for some in (fast, teacher))
            assert own >= share * whole and own >= 0.83  # the teacher became better than it, so both

    def test_four_calls_without_guidance_paint_what_is_asked_for(self):
        pipe, names = LatentDiffusion.from_pretrained("pocket"), ("cat", "frog", "apple", "house", "star", "robot")
        asked, calls = taught.asked(names), []
        pipe.unet.register_forward_hook(lambda *call: calls.append(len(call[2])))
        plain = sum(judge.score(pipe(asked, steps=4, guidance=1, seed=5, output="tensor"), asked))
        pipe.load_lora("pocket-fast").merge()
        calls.clear()
        assert sum(judge.score(pipe(asked, steps=4, guidance=1, seed=5, output="tensor"), asked)) >= max(5, plain)
        assert calls == [6, 6, 6, 6]

    def test_an_unknown_name_is_told_which_ship(self):
        pipe = LatentDiffusion.from_pretrained("pocket")
        with pytest.raises(FileNotFoundError, match="no LoRA pocket-slow.*the name of one that ships: pocket-fast"):
            pipe.load_lora("pocket-slow")
