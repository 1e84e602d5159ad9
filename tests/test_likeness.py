"""The second eye: a drawing explains itself, a sketch of it less, another thing hardly at all."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minildm import data, judge, likeness
from minildm.images import to_unit

TASKS = {"one object": 12, "counting": 6}


@pytest.fixture(scope="module", params=["free", "grid"])
def some(request):
    return data.scene_arrays(12, 5, "train", tasks="one object", layout=request.param)


def test_a_scene_is_drawn_like_what_it_shows(some):
    names = [one for (one,) in some.names]
    share = likeness.unexplained(some.images, names)
    assert share.shape == (12,) and share.max() < 0.1  # a ground with a gradient costs a little
    assert likeness.gauge(some.images, names) == {"median": np.median(share), "alike": 1.0, "clean": 1.0}


def test_what_is_blurred_or_something_else_is_not(some):
    names = [one for (one,) in some.names]
    clear = likeness.unexplained(some.images, names)
    x = to_unit(some.images)
    blurred = likeness.unexplained(F.avg_pool2d(x, 5, 1, 2, count_include_pad=False), names)
    assert (blurred > clear + 0.05).all()
    others = likeness.unexplained(x, names[1:] + names[:1])
    different = [mine != other for mine, other in zip(names, names[1:] + names[:1], strict=True)]
    assert np.median(others[different]) > 0.7


def test_each_found_object_is_looked_at_in_its_place():
    scenes = data.scene_arrays(6, 2, "train", tasks="counting", layout="grid")
    found = judge.inspect(scenes.images)
    shares = likeness.drawn_like(scenes.images, found)
    assert [len(one) for one in shares] == [len(one) for one in found] and sum(map(len, shares)) >= 12
    assert np.median(np.concatenate(shares)) < 0.1
    x = to_unit(scenes.images).clone()
    first = found[0][0]
    x0, y0, x1, y1 = first.box
    x[0, :, y0:y1, x0:x1] = x[0, :, y0:y1, x0:x1].mean((1, 2), keepdim=True)  # one of them becomes a plain square
    again = likeness.drawn_like(x, found)
    assert again[0][0] > 0.5 and again[0][1:] == pytest.approx(shares[0][1:], abs=0.05)


def test_what_no_template_fits_is_not_explained():
    mask = np.zeros((64, 64), bool)
    mask[:62] = True
    assert likeness.drawn_like(torch.rand(1, 3, 64, 64), [[judge.Found("cat", (0, 0, 64, 62), mask)]]) == [[1.0]]


@pytest.mark.parametrize(
    "images, names, message",
    [
        (torch.rand(2, 3, 64, 64), ["cat"], "expected 1 pictures of 64×64"),
        (torch.rand(1, 3, 32, 32), ["cat"], "expected 1 pictures of 64×64"),
        (torch.rand(1, 3, 64, 64), ["zebra"], "names of data.VOCABULARY, got zebra"),
    ],
)
def test_bad_input(images, names, message):
    with pytest.raises(ValueError, match=message):
        likeness.unexplained(images, names)
