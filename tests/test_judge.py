import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minildm import UNet, data, judge, weights
from minildm.data import RELATIONS, TASKS, VOCABULARY, Prompt
from minildm.judge import Found
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
    rgba = Image.fromarray(np.concatenate([picture, np.full((64, 64, 1), 255, np.uint8)], -1))
    several = (
        tensor,
        [Image.fromarray(picture)],
        tensor.repeat(70, 1, 1, 1),
        picture[None],
        [picture],
        [rgba, tensor[0]],
    )
    for images in several:
        found = judge.inspect(images, Reader())
        assert len(found) == len(images) and all(names(one) == [VOCABULARY[7]] for one in found)
    for image in (picture, tensor[0], tensor[0].mul(255).round().byte(), rgba):
        (found,) = judge.inspect(image, Reader())
        assert names(found) == [VOCABULARY[7]]
    assert judge.inspect([], Reader()) == []


@pytest.mark.parametrize("where", [0, 20, 60])
def test_what_is_transparent_is_seen_on_white(where):
    """Reader sees class 7 where red is 7; all around is transparent black, which on white is no class of its own."""

    class White(Reader):
        def forward(self, x):
            return super().forward(torch.where(x > 0.99, -1, x))

    picture = np.zeros((64, 64, 4), np.uint8)
    picture[where : where + 4, 10:14] = 7, 0, 0, 255
    image = Image.fromarray(picture)
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(image, mask=image.getchannel("A"))
    for given in (image, picture, on_white, torch.from_numpy(picture).movedim(-1, 0)):
        assert [one.box for one in judge.inspect(given, White())[0]] == [(10, where, 14, where + 4)]


@pytest.mark.parametrize(
    "images, says",
    [
        (torch.zeros(1, 3, 64, 64) - 1, r"in \[0, 1\], got values from -1 to -1; \(x \+ 1\) / 2"),
        (torch.full((1, 3, 8, 8), float("nan")), r"in \[0, 1\]"),
        (torch.zeros(1, 5, 64, 64), "expected 3 channels, got 5"),
        (torch.zeros(3, 64, 64, dtype=torch.int64), "int64, which does not say its range"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (32, 64))], "one size"),
    ],
)
def test_inspect_says_what_it_needs(images, says):
    with pytest.raises(ValueError, match=says):
        judge.inspect(images, Reader())


def seen(*objects):
    """Objects of 6×6 pixels by name and top left corner (x, y); a third number is another side."""
    found = []
    for name, x, y, *side in objects:
        w = side[0] if side else 6
        mask = np.zeros((64, 64), bool)
        mask[y : y + w, x : x + w] = True
        found.append(Found(name, (x, y, x + w, y + w), mask))
    return found


def faults(text, *objects):
    return judge.faults(seen(*objects), data.parse(text))


def test_a_picture_shows_the_named_objects_in_their_number_and_nothing_else():
    cat, other_cat, dog = ("cat", 4, 4), ("cat", 40, 40), ("dog", 30, 4)
    assert faults("a cat", cat) == faults("two cats", other_cat, cat) == faults("a dog and a cat", cat, dog) == []
    assert faults("a cat") == faults("three cats", cat, other_cat) == faults("a cat and a dog", cat) == ["missing"]
    assert faults("a cat", cat, other_cat) == ["too many"]
    assert faults("a cat and a dog", cat, dog, other_cat) == ["too many"]
    assert faults("a cat", cat, dog) == ["not asked for"]
    assert faults("a cat and a dog", cat, other_cat) == ["missing", "too many"]


def test_a_colour_belongs_to_its_shape():
    both = ("red heart", 4, 4), ("blue circle", 40, 4)
    assert faults("a red heart and a blue circle", *both) == []
    assert faults("a blue heart and a red circle", *both) == ["missing", "not asked for"]
    assert faults("a blue heart", ("red heart", 4, 4)) == ["missing", "not asked for"]


def test_a_position_holds_for_the_first_object_seen_from_the_second():
    objects = ("cat", 10, 30), ("dog", 40, 33)
    assert faults("a cat left of a dog", *objects) == faults("一只狗在一只猫的右边", *objects) == []
    for wrong in ("a dog left of a cat", "a cat right of a dog", "a cat above a dog", "a cat below a dog"):
        assert faults(wrong, *objects) == ["elsewhere"]
    assert faults("a cat left of a dog", objects[0]) == ["missing"]  # what is not there has no place
    second = ("cat", 55, 30, 3)  # a smaller one does not decide
    assert faults("a cat left of a dog", *objects, second) == ["too many"]
    assert faults("a dog left of a cat", *objects, second) == ["too many", "elsewhere"]


def test_relations_by_hand():
    # two boxes of side 10: a tenth of both sides is 2
    def at(x, y):
        return judge.relations((x, y, x + 10, y + 10), (30, 30, 40, 40))

    assert at(10, 30) == {"left of"} and at(50, 30) == {"right of"} and at(30, 10) == {"above"}
    assert at(30, 50) == {"below"}
    assert at(10, 10) == {"left of", "above"}  # 20 - 2 is more than half of 28.3
    assert at(10, 19) == {"left of"}  # 11 - 2 is less than half of 22.8
    assert at(10, 15) == {"left of", "above"}  # 15 - 2 is more than half of 25
    assert at(30, 30) == at(28, 30) == set() and at(25, 30) == {"left of"}  # 2 - 2 is nothing, 5 - 2 more than 2.5


def test_score_reads_both_languages_and_one_prompt_for_all():
    picture = painted()
    images = torch.from_numpy(picture).movedim(-1, 0)[None].repeat(2, 1, 1, 1) / 255
    assert VOCABULARY[7] == "owl"
    assert judge.score(images, ["an owl", "一只猫头鹰"], Reader()) == [True, True]
    assert judge.score(images, ["a cat", Prompt("one object", (("owl", 1),))], Reader()) == [False, True]
    assert judge.score([Image.fromarray(picture)] * 3, "an owl", Reader()) == [True] * 3
    assert judge.score([], [], Reader()) == []


@pytest.mark.parametrize(
    "prompts, says", [(["a cat"], "got 1 for 2 pictures"), (["a cat", "a zebra"], "unknown words 'zebra'")]
)
def test_score_says_what_it_needs(prompts, says):
    with pytest.raises(ValueError, match=says):
        judge.score(torch.zeros(2, 3, 64, 64), prompts, Reader())


@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_judge_passes_real_scenes_and_nothing_else(task):
    scenes = data.scene_arrays(30, 77, "heldout", "zh", tasks=task)
    images = torch.from_numpy(scenes.images).movedim(-1, 1) / 255
    assert sum(judge.score(images, scenes.captions)) >= 29
    others = scenes.prompts[1:] + scenes.prompts[:1]
    passed = judge.score(images, others)
    asked = [(sorted(prompt.objects), prompt.relation) for prompt in scenes.prompts]
    same = [one == other for one, other in zip(asked, asked[1:] + asked[:1], strict=True)]
    assert sum(yes and not equal for yes, equal in zip(passed, same, strict=True)) <= 1
    if task == "position":
        opposite = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
        turned = [Prompt(task, prompt.objects, opposite[prompt.relation]) for prompt in scenes.prompts]
        assert not any(judge.score(images, turned))


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


LOOKS = pytest.mark.parametrize("look", [judge.inspect, judge.features, lambda x: judge.score(x, "a cat")])


@LOOKS
@pytest.mark.parametrize(
    "shape, says",
    [
        ((8, 8), "at least 16×16 pixels, got 8×8: scale them up"),
        ((8, 64), "at least 16×16 pixels, got 8×64"),
        ((64, 8), "at least 16×16 pixels, got 64×8"),
        ((12, 20), "divisible by 8.*got 12×20: pad or resize it to 16×24"),
        ((17, 64), "divisible by 8"),
    ],
)
def test_all_that_looks_refuses_the_same_sizes(look, shape, says):
    with pytest.raises(ValueError, match=says):
        look(torch.rand(2, 3, *shape))


@LOOKS
@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (64, 24)])
def test_all_that_looks_takes_the_same_sizes(look, shape):
    found = look(torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)))
    assert len(found) == 2 and (not isinstance(found, torch.Tensor) or found.isfinite().all())


def test_looking_leaves_each_part_in_its_mode():
    with seeded(0):
        model = UNet(3, 1 + len(VOCABULARY), channels=(4, 8)).train()
    model.middle.eval()
    modes = [part.training for part in model.modules()]
    judge.inspect(torch.rand(1, 3, 8, 8), model)
    judge.features(torch.rand(1, 3, 8, 8), model)
    assert [part.training for part in model.modules()] == modes and len(set(modes)) == 2


def test_a_judge_with_damaged_weights_sees_not_nothing_but_an_error():
    with seeded(0):
        model = UNet(3, 1 + len(VOCABULARY), channels=(4, 8))
    with torch.no_grad():
        model.head.bias[3] = float("nan")
    with pytest.raises(ValueError, match="not finite numbers: its weights are damaged"):
        judge.inspect(torch.rand(1, 3, 8, 8), model)


@pytest.mark.parametrize("outputs", [2, len(VOCABULARY), 2 + len(VOCABULARY)])
def test_a_judge_of_another_vocabulary_is_refused(outputs):
    with pytest.raises(ValueError, match=f"network of 71 outputs.*70 names.*got {outputs}: train it anew"):
        judge.inspect(torch.rand(1, 3, 8, 8), UNet(3, outputs, channels=(4, 8)))


@pytest.mark.parametrize(
    "vocabulary, says",
    [
        (("zebra", *VOCABULARY), "class 1 was 'cat' and is 'zebra' now"),
        (VOCABULARY[:45] + ("zebra",) + VOCABULARY[45:], "class 46 was 'robot' and is 'zebra' now"),
        ((*VOCABULARY, "zebra"), "class 71 was None and is 'zebra' now"),
        (VOCABULARY[1:], "class 1 was 'cat' and is 'dog' now"),
        (VOCABULARY[:-1], "class 70 was 'black heart' and is None now"),
        ((VOCABULARY[1], VOCABULARY[0], *VOCABULARY[2:]), "class 1 was 'cat' and is 'dog' now"),
        (VOCABULARY[:9] + ("shoal",) + VOCABULARY[10:], "class 10 was 'turtle' and is 'shoal' now"),
    ],
)
def test_the_shipped_judge_refuses_a_changed_vocabulary(vocabulary, says, monkeypatch):
    monkeypatch.setattr(judge, "VOCABULARY", vocabulary)
    monkeypatch.setattr(judge, "_shipped", judge._shipped.__wrapped__)  # as in a new program
    with pytest.raises(ValueError, match=f"{says}; train it anew"):
        judge.inspect(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "classes, says",
    [
        (np.full((64, 64), 71), "from 0, the ground, to 70, got 71 to 71"),
        (np.full((64, 64), -1), "got -1 to -1"),
        (np.zeros((64, 64)), "whole numbers, got shape .* dtype float64"),
        (np.zeros((1, 64, 64), int), r"got shape \(1, 64, 64\)"),
        (np.zeros((0, 64), int), "whole numbers, got shape"),
    ],
)
def test_objects_say_what_they_need(classes, says):
    with pytest.raises(ValueError, match=says):
        judge.objects(classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64])
def test_objects_of_any_whole_type(dtype):
    classes = blank().astype(dtype)
    classes[10:20, 30:45] = 70
    assert names(judge.objects(classes)) == [VOCABULARY[69]]
