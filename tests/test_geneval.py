"""Pocket GenEval with painters whose skill is known."""

import json
import math

import numpy as np
import pytest
import torch

from minildm import data, geneval, judge, likeness
from minildm.data import TASKS
from minildm.geneval import Picture, Report, evaluate, interval
from minildm.images import to_pil, to_uint8

N = 6  # prompts a task, with two pictures each


class Painter:
    """Knows the real scene of each prompt; paints it, or with `off_by` that of another prompt of its task."""

    def __init__(self, split="train", language="en", off_by=0, clumsy=()):
        self.known, self.calls, self.off_by, self.clumsy = {}, [], off_by, clumsy
        for task in TASKS:
            scenes = data.scene_arrays(N, geneval.SEED, split, language, tasks=task)
            self.known[task] = scenes.captions, torch.from_numpy(scenes.images).movedim(-1, 1) / 255

    def __call__(self, prompts, *, seed, output, **how):
        self.calls.append((len(prompts), seed, how))
        assert output == "tensor"
        return torch.stack([self.paint(*one) for one in zip(prompts, seed, strict=True)])

    def paint(self, prompt, seed):
        task, i = data.parse(prompt).task, seed // 2
        captions, images = self.known[task]
        assert captions[i] == prompt
        clumsy = task in self.clumsy and seed % 2
        return torch.full((3, 64, 64), 0.9) if clumsy else images[(i + self.off_by) % N]


def run(painter, split="train", language="en", **how):
    how = dict(per_task=N, seeds=2, batch=7, progress=False) | how
    return evaluate(painter, split, language, **how)


def test_pictures_may_be_of_any_kind():
    painter, how = Painter(), dict(tasks="counting", per_task=2)
    expected = run(painter, **how).as_dict()
    for convert in (lambda x: list(to_uint8(x)), to_pil, lambda x: x.movedim(1, -1).numpy()):
        found = run(lambda *args, convert=convert, **more: convert(painter(*args, **more)), **how)
        assert found.as_dict() == expected


def values(report, figure):
    return [getattr(report, figure)(task).value for task in (*TASKS, None)]


@pytest.mark.parametrize("split, language", [("train", "en"), ("heldout", "zh")])
def test_a_perfect_painter_reaches_the_ceiling_and_another_one_the_floor(split, language):
    report = run(Painter(split, language), split, language)
    assert values(report, "score") == values(report, "ceiling")
    assert report.score().value > 0.95 and report.floor().value < 0.2 and report.lenient().value >= report.score().value
    shuffled = run(Painter(split, language, off_by=1), split, language)
    # what it paints is what the next prompt asks for, so its score is the other's floor, and the other way round
    assert values(shuffled, "floor") == values(report, "score") == values(shuffled, "ceiling")
    assert abs(shuffled.score().value - report.floor().value) < 0.1
    assert [one.prompt for one in report.real] == sum(
        (data.prompts(N, geneval.SEED, split, task, language) for task in TASKS), []
    )


def test_each_task_has_its_own_score_and_its_faults():
    painter = Painter(clumsy=("counting", "position"))  # leaves every second picture blank
    report = run(painter, guidance=3)
    assert values(report, "score") == [1, 1, 0.5, 1, 0.5, 1, pytest.approx(5 / 6)]
    assert report.faults("counting") == {"missing": N, "too many": 0, "not asked for": 0, "elsewhere": 0}
    assert report.faults()["missing"] == 2 * N and report.faults("colour")["missing"] == 0
    assert report.settings == {"guidance": 3} and all(how == {"guidance": 3} for *_, how in painter.calls)
    assert [n for n, *_ in painter.calls] == [7, 5] * 6  # batches, task by task
    assert sum((seeds for _, seeds, _ in painter.calls[:2]), []) == list(range(2 * N))  # no noise twice
    blank = report.pictures[2 * 2 * N + 1]
    assert (blank.task, blank.seed, blank.seen, blank.faults) == ("counting", 1, [], ["missing"])
    assert run(painter, tasks="colour").tasks == ["colour"]


def test_genevals_rule_forgives_what_was_not_asked_for():
    wrong = [["not asked for"], ["too many"], ["too many", "not asked for"], ["missing"], ["elsewhere"], []]
    for task, right in (("counting", 2), ("two objects", 4)):
        pictures = [Picture(task, "", 0, [], faults, False) for faults in wrong]
        report = Report("train", "en", {}, None, pictures, pictures)
        assert report.lenient().value == pytest.approx(right / 6)
        assert report.score().value == pytest.approx(1 / 6)


def test_quality_is_nothing_or_what_is_explained_of_the_worst_object():
    """Real scenes, the same beside the next prompt, and the same blurred."""
    scenes = data.scene_arrays(6, 4, tasks=("two objects", "position", "counting"))
    pictures = torch.from_numpy(scenes.images).movedim(-1, 1) / 255
    found = judge.inspect(pictures)
    quality = geneval.quality(pictures, scenes.prompts)
    shares = likeness.drawn_like(pictures, found)
    assert quality.tolist() == pytest.approx([1 - max(some) for some in shares])
    assert quality.min() > 1 - likeness.ALIKE
    assert not geneval.quality(pictures, [*scenes.prompts[1:], scenes.prompts[0]]).any()
    blurred = torch.nn.functional.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False)
    right = np.array(judge.score(blurred, scenes.prompts))
    worse = geneval.quality(blurred, scenes.prompts)
    assert right.any() and (worse[right] < quality[right]).all() and not worse[~right].any()


def test_the_strict_score_asks_both_eyes():
    shares = [[0.1, 0.2], [0.1, 0.9], [], [0.3, 0.4]]
    wrong = [[], [], [], ["missing"]]
    made = [Picture("one object", "", 0, [], w, False, s) for w, s in zip(wrong, shares, strict=True)]
    report = Report("train", "en", {}, None, made, made)
    assert report.score().value == 0.75 and report.strict().value == 0.5
    assert report.summary()["overall"]["strict"]["value"] == 0.5


def test_interval_by_hand():
    # 5 of 10 prompts, one picture each: Wilson's interval of 5 in 10
    once = interval([np.array([[True], [False]] * 5)])
    assert once == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    # four pictures of each prompt that all agree tell no more than one; ones that vary alike tell as much as four
    assert interval([np.array([[True] * 4, [False] * 4] * 5)]) == pytest.approx(once, abs=1e-9)
    alike = interval([np.array([[True, False, True, False]] * 10)])
    assert alike.high - 0.5 == pytest.approx(1.96 * math.sqrt(0.25 / 40 + 1.96**2 / 6400) / (1 + 1.96**2 / 40))
    # all right is no certainty: 10 of 10 leaves 0.72
    assert interval([np.ones((10, 4), bool)]) == (1, pytest.approx(10 / (10 + 1.96**2)), 1)
    # the mean of two groups, each with its own share: 1 and 0.5
    both = interval([np.ones((10, 1), bool), np.array([[True], [False]] * 5)])
    assert both.value == 0.75 and both.low < 0.65 and both.high > 0.84


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):  # prompts of different difficulty, 0.8 in the mean
        difficulty = random.beta(4, 1, (60, 1))
        found = interval([random.random((60, 4)) < difficulty])
        hits += found.low <= 0.8 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_it_prints_a_table_and_fits_json():
    report = run(Painter(), steps=25, guidance=4.0)
    title, _, head, *rows = str(report).splitlines()
    assert title == (
        "Pocket GenEval in English, combinations seen in training: 6 prompts a task × 2 seeds; steps 25, guidance 4.0"
    )
    assert head.split() == ["score", "95", "%", "interval", "strict", "floor", "ceiling", "GenEval", "faults"]
    assert [row[:20].strip() for row in rows[:7]] == [*TASKS, "overall"]
    floor = f"{report.floor('one object').value:.3f}"
    assert rows[0].split()[2:8] == ["1.000", "0.610", "to", "1.000", "1.000", floor]
    assert "The judge on fresh scenes: found " in rows[-1]
    back = json.loads(json.dumps(report.as_dict(), ensure_ascii=False, allow_nan=False))
    assert back["summary"]["overall"]["score"] == report.score()._asdict()
    assert back["summary"]["position"]["faults"] == report.faults("position")
    assert [Picture(**one) for one in back["pictures"]] == report.pictures and len(back["real"]) == 6 * N
    assert back["settings"] == {"steps": 25, "guidance": 4.0} and back["judge"]["found"] > 0.99


@pytest.mark.parametrize(
    "how, says",
    [
        (dict(per_task=1), "2 prompts of each.*per_task=1"),
        (dict(seeds=0), "seeds=0"),
        (dict(tasks=[]), "0 tasks"),
        (dict(tasks="sorting"), "unknown tasks 'sorting'"),
        (dict(split="test"), "unknown split 'test'"),
        (dict(language="fr"), "unknown language 'fr'"),
    ],
)
def test_it_says_what_it_needs(how, says):
    with pytest.raises(ValueError, match=says):
        run(None, **how)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected pictures \(7, 3, 64, 64\).*, got \(7, 3, 32, 32\)"):
        run(lambda prompts, **how: torch.zeros(len(prompts), 3, 32, 32))


def test_faults_are_those_of_the_judge():
    report = run(Painter(off_by=1), tasks="counting")
    assert sum(report.faults().values()) > 0 and set(report.faults()) == set(judge.FAULTS)
