import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minildm import UNet, data, judge, weights
from minildm.data import VOCABULARY
from minildm.tensors import seeded


def blank(h=64, w=64):
    return np.zeros((h, w), np.int64)


def names(found):
    return [one.name for one in found]


def test_true_class_maps_give_back_every_object():
    scenes = data.scene_arrays(200, seed=5, split="all")
    for classes, mask, truth in zip(scenes.classes, scenes.masks, scenes.names, strict=True):
        found = judge.objects(classes)
        assert sorted(names(found)) == sorted(truth)
        for one in found:  # each covers one instance, up to specks that stand apart from it
            instance = np.bincount(mask[one.mask]).argmax()
            assert (one.mask & (mask == instance)).sum() / (one.mask | (mask == instance)).sum() > 0.9


def test_boxes_and_masks_by_hand():
    classes = blank()
    classes[10:20, 30:45], classes[40:50, 5:12] = 3, 7
    left, right = judge.objects(classes)
    assert (left.name, left.box) == (VOCABULARY[6], (5, 40, 12, 50))
    assert (right.name, right.box) == (VOCABULARY[2], (30, 10, 45, 20))
    assert np.array_equal(right.mask, classes == 3)


def test_the_commonest_name_wins_and_specks_are_nothing():
    classes = blank()
    classes[10:20, 10:20] = 4
    classes[12:14, 12:15] = 9  # 6 of 100 pixels
    classes[60:62, 60:63] = 5  # 6 pixels that stand apart
    (one,) = judge.objects(classes)
    assert one.name == VOCABULARY[3] and one.mask.sum() == 100


def test_two_names_that_touch_are_two_objects():
    classes = blank()
    classes[10:20, 10:20], classes[10:20, 20:30] = 4, 9
    assert names(judge.objects(classes)) == [VOCABULARY[3], VOCABULARY[8]]


def test_the_size_of_a_speck_grows_with_the_picture():
    classes = blank(128, 128)
    classes[10:16, 10:17] = 1  # 42 pixels of 128², as 10 of 64²
    assert judge.objects(classes) == []
    assert judge.objects(blank()) == []


class Reader(nn.Module):
    """Reads the class of a pixel from its red: a judge without learning, to test what stands around it."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        classes = ((x[:, 0] + 1) / 2 * 255).round().long()
        return nn.functional.one_hot(classes, 71).movedim(-1, 1).float()


def painted():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[10:20, 10:20, 0] = 8
    return picture


def test_inspect_takes_tensors_and_pictures():
    picture = painted()
    tensor = torch.from_numpy(picture).movedim(-1, 0)[None] / 255
    for images in (tensor, [Image.fromarray(picture)], tensor.repeat(70, 1, 1, 1)):
        found = judge.inspect(images, Reader())
        assert len(found) == len(images) and all(names(one) == [VOCABULARY[7]] for one in found)
    assert judge.inspect([], Reader()) == []


@pytest.mark.parametrize(
    "images, says",
    [
        (torch.zeros(1, 3, 64, 64) - 1, r"in \[0, 1\], got values from -1 to -1; \(x \+ 1\) / 2"),
        (torch.full((1, 3, 8, 8), float("nan")), r"in \[0, 1\]"),
        (torch.zeros(1, 1, 64, 64), "expected 3 channels, got 1"),
        (torch.zeros(3, 64, 64), r"x\[None\]"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (32, 64))], "one size"),
    ],
)
def test_inspect_says_what_it_needs(images, says):
    with pytest.raises(ValueError, match=says):
        judge.inspect(images, Reader())


def test_the_shipped_judge_knows_fresh_scenes():
    from minildm.recipes.scenes_judge import evaluate

    result = evaluate(weights.load("scenes-judge"), n=100, seed=123)
    assert result["found"] > 0.97 and result["invented"] < 0.03


def test_features_are_the_statistics_of_the_coarsest_map():
    with seeded(0):
        model = UNet(3, 5, channels=(4, 8)).eval()
    images = torch.rand(70, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    found = judge.features(images, model)
    with torch.no_grad():
        coarsest = model.encode(images[66:67] * 2 - 1)[-1][0]  # (8, 4, 3)
    assert found.shape == (70, 16) and coarsest.shape == (8, 4, 3)
    assert torch.allclose(found[66, :8], coarsest.mean((1, 2)), atol=1e-6)
    assert torch.allclose(found[66, 8:], coarsest.flatten(1).std(1), atol=1e-6)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        judge.features(images * 2 - 1, model)
