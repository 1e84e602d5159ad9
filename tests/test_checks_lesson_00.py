import numpy as np
import pytest
import torch

from minildm import UNet, checks, data, judge


class Album:
    """Paints real scenes: in place of a painter one whose pictures are known."""

    def __init__(self, count):
        scenes = data.scene_arrays(200, 5, "all", tasks=["one object", "counting"])
        at = next(i for i, prompt in enumerate(scenes.prompts) if prompt.objects[0][1] == count)
        self.words = data.caption(scenes.prompts[at])
        self.picture = torch.from_numpy(scenes.images[at : at + 1]).movedim(-1, 1) / 255
        self.name, self.asked = scenes.prompts[at].objects[0][0], []

    def __call__(self, prompt, *, seed, output):
        self.asked.append((prompt, seed, output))
        return self.picture


def test_three_things_in_the_picture_pass_and_are_named(capsys):
    album = Album(3)
    checks.three_of_a_kind(lambda: (album.words, 7), album)
    assert capsys.readouterr().out == f"✓ three_of_a_kind: the judge sees {', '.join([album.name] * 3)}\n"
    assert album.asked == [(album.words, 7, "tensor")]


@pytest.mark.parametrize("ask", ["four {0}", "two {0}", "a {1}", "three {2}", "{0}"])
def test_three_that_were_not_asked_for_are_a_miscount(ask):
    album = Album(3)
    plural = album.words.split(" ", 1)[1]
    other = "owls" if album.name != "owl" else "cats"
    with pytest.raises(AssertionError, match=f"the judge sees {album.name}.*\nlikely: "):
        checks.three_of_a_kind(lambda: (ask.format(plural, album.name, other), 1), album)


def test_three_of_a_kind_beside_something_else_do_not_pass(monkeypatch):
    stars = [judge.Found("star", (8 * k, 0, 8 * k + 6, 6), np.ones((6, 6), bool)) for k in range(3)]
    moon = judge.Found("moon", (40, 0, 46, 6), np.ones((6, 6), bool))
    monkeypatch.setattr(judge, "inspect", lambda pictures: [[*stars, moon]])
    with pytest.raises(AssertionError, match=r"the judge sees star, star, star, moon\n.*asked for \(not asked for\)"):
        checks.three_of_a_kind(lambda: ("three stars", 1), Album(3))
    monkeypatch.setattr(judge, "inspect", lambda pictures: [stars])
    assert checks.three_of_a_kind(lambda: ("three stars", 1), Album(3))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_does_not_pass(count):
    with pytest.raises(AssertionError, match="the judge sees .*\nlikely: the painter miscounted"):
        checks.three_of_a_kind(lambda: ("three owls", 1), Album(count))


@pytest.mark.parametrize(
    "prompt, hint",
    [
        ("three zebras", "not of it: .*zebras"),
        ("two owls", "does not ask for three"),
        ("a cat and a dog", "does not ask for three"),
        (next(p for p in data.prompts(300, 0, "heldout", "counting") if p.startswith("three")), "on purpose"),
    ],
)
def test_the_likely_reason_is_named(prompt, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        checks.three_of_a_kind(lambda: (prompt, 1), Album(2))


@pytest.mark.parametrize("wish", ["three owls", ("three owls",), (3, "three owls"), ("three owls", "3"), None])
def test_an_answer_of_another_kind_is_told_what_was_expected(wish):
    with pytest.raises(AssertionError, match='return "a cat", 3; got '):
        checks.three_of_a_kind(lambda: wish, Album(3))


def good_size(height, width, levels):
    """By a real U."""
    u = UNet(1, 1, channels=(1,) * levels)
    return tuple(u.encode(torch.zeros(1, 1, height, width))[-1].shape[2:])


def test_the_size_of_a_real_u_passes(capsys):
    checks.bottom_size(good_size)
    assert capsys.readouterr().out.startswith("✓ bottom_size: ")


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (lambda h, w, n: (h // 2**n, w // 2**n), "once too often"),
        (lambda h, w, n: (h // 2, w // 2) if n > 1 else (h, w), "not only once"),
        (lambda h, w, n: (h // (2 * n - 2), w // (2 * n - 2)) if n > 1 else (h, w), "powers of two"),
        (lambda h, w, n: (h // 2 // n, w // 2 // n), "a power of two, no product"),
        (lambda h, w, n: good_size(h, w, n)[::-1], "exchanged"),
        (lambda h, w, n: (h, w), "at the top"),
    ],
)
def test_a_known_mistake_is_named(wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        checks.bottom_size(wrong)
