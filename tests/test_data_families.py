"""Prompts that differ in one respect only, and their pictures."""

import numpy as np
import pytest
import torch

from minildm import data, judge
from minildm.data import Prompt, heldout, parse
from minildm.data.families import FAMILIES, family, meaning
from minildm.data.prompts import generator
from minildm.data.scenes import paint


def draw(seed=0):
    return np.random.default_rng(seed).random


def some(task, split, n=30):
    source = draw(3)
    return [family(task, split, source) for _ in range(n)]


@pytest.mark.parametrize("task", FAMILIES)
def test_training_sees_no_held_out_combination(task):
    assert not any(heldout(prompt) for members in some(task, "train") for prompt in members)
    assert all(any(heldout(prompt) for prompt in members) for members in some(task, "heldout"))


@pytest.mark.parametrize("task", FAMILIES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_no_two_members_say_the_same(task, split):
    for members in some(task, split):
        assert 2 <= len(members) == len(set(map(meaning, members))) <= 4
        for prompt in members:
            assert parse(data.caption(prompt)) == prompt  # the record is whole: its task fits its objects


def test_a_position_is_one_of_four():
    for members in some("position", "train"):
        assert len(members) == 4 and len({frozenset(prompt.objects) for prompt in members}) == 1
        assert len({meaning(prompt).relation for prompt in members}) == 4
    orders = [len({prompt.objects for prompt in members}) for members in some("position", "train")]
    assert set(orders) == {1, 2}  # now one thing is named first, now the other


def test_numbers_differ_and_nothing_else():
    for members in some("counting", "heldout"):
        assert [count for ((_, count),) in (prompt.objects for prompt in members)] == [1, 2, 3, 4]
        assert len({prompt.objects[0][0] for prompt in members}) == 1


def test_colours_change_places():
    for members in some("colour attribution", "heldout"):
        words = [sorted(word for name, _ in prompt.objects for word in name.split()) for prompt in members]
        assert words[0] == words[1] and words[2] == words[3] != words[0]  # the same words, otherwise put together
    for members in some("colour", "heldout"):
        parts = [prompt.objects[0][0].split() for prompt in members]
        assert len({colour for colour, _ in parts}) == len({shape for _, shape in parts}) == 2


def test_pairs_share_a_thing():
    for members in some("two objects", "heldout"):
        one, other, third = ({name for name, _ in prompt.objects} for prompt in members)
        assert len(one & other) == len(other & third) == len(one & third) == 1 and not one & other & third


def test_what_says_the_same_is_one_prompt():
    for one, other in [
        ("a dog right of a cat", "a cat left of a dog"),
        ("a cat below a red heart", "a red heart above a cat"),
        ("a dog and a cat", "一只猫和一只狗"),
    ]:
        assert meaning(parse(one)) == meaning(parse(other))
    assert meaning(parse("a dog left of a cat")) != meaning(parse("a cat left of a dog"))
    prompt = Prompt("counting", (("cat", 3),))
    assert meaning(prompt) == prompt


def test_scenes_of_prompts_are_those_of_the_data_set():
    scenes = data.scene_arrays(12, seed=4, split="all", size=48)
    for i, prompt in enumerate(scenes.prompts):
        (picture,) = paint([prompt], generator(4, i, "all", purpose=1).random, size=48)
        assert np.array_equal(picture, scenes.images[i])


def test_pictures_show_what_is_asked_for():
    prompts = [prompt for task in FAMILIES for prompt in family(task, "heldout", draw(2))]
    pictures = paint(prompts, draw(1))
    assert pictures.shape == (len(prompts), 64, 64, 3) and pictures.dtype == np.uint8
    found = judge.inspect(torch.from_numpy(pictures).movedim(-1, 1) / 255)
    for prompt, seen in zip(prompts, found, strict=True):
        assert sorted(one.name for one in seen) == sorted(name for name, n in prompt.objects for _ in range(n))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="unknown task 'one object'; choose one of 'position', 'counting'"):
        family("one object", "train", draw())
    with pytest.raises(ValueError, match="unknown split 'all'"):
        family("position", "all", draw())
    with pytest.raises(ValueError, match="size must lie between 32 and 128"):
        paint([parse("a cat")], draw(), size=16)
