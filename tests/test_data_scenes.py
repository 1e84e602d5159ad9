import sys

import numpy as np
import pytest

from minildm import data
from minildm.data import VOCABULARY, heldout, parse, scene_arrays
from minildm.data.sprites import render
from minildm.data.vocabulary import THINGS


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MINILDM_CACHE", str(folder))
        yield folder


@pytest.fixture(
    scope="module", params=[(32, "free"), (48, "free"), (64, "free"), (128, "free"), (64, "grid"), (100, "grid")]
)
def some(request):
    size, layout = request.param
    return scene_arrays(150, seed=11, split="all", size=size, layout=layout)


@pytest.fixture(scope="module")
def rows():
    return data.scenes(60, seed=2, size=40)


def boxes(mask):
    """(x0, y0, x1, y1) of each instance, worked out pixel by pixel."""
    found = []
    for index in range(1, mask.max() + 1):
        y, x = np.where(mask == index)
        found.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    return found


def test_arrays_have_their_shapes(some):
    size = some.images.shape[1]
    assert some.images.shape == (150, size, size, 3) and some.images.dtype == np.uint8
    assert some.masks.shape == some.classes.shape == (150, size, size)
    assert some.masks.dtype == some.classes.dtype == np.uint8
    assert len(some.names) == len(some.prompts) == len(some.captions) == 150


def test_what_is_asked_for_is_there(some):
    for i, prompt in enumerate(some.prompts):
        assert parse(some.captions[i]) == prompt
        assert some.names[i] == tuple(name for name, count in prompt.objects for _ in range(count))
        assert set(np.unique(some.masks[i])) == set(range(len(some.names[i]) + 1))
        for index, name in enumerate(some.names[i], start=1):
            assert set(some.classes[i][some.masks[i] == index]) == {VOCABULARY.index(name) + 1}
        np.testing.assert_array_equal(some.classes[i] > 0, some.masks[i] > 0)


def test_objects_are_apart_and_inside(some):
    size = some.masks.shape[1]
    for mask in some.masks:
        found = boxes(mask)
        for i, (left, top, right, bottom) in enumerate(found):
            assert min(left, top, size - right, size - bottom) >= 1  # nothing is cut off by the edge
            assert min(right - left, bottom - top) >= 0.1 * size
            for x0, y0, x1, y1 in found[:i]:
                assert max(left - x1, x0 - right, top - y1, y0 - bottom) >= max(2, round(size / 24))


def test_positions_are_true_beyond_doubt(some):
    checked = 0
    for mask, prompt in zip(some.masks, some.prompts, strict=True):
        if prompt.task != "position":
            continue
        (a0, a1, a2, a3), (b0, b1, b2, b3) = boxes(mask)
        assert {"left of": a2 < b0, "right of": b2 < a0, "above": a3 < b1, "below": b3 < a1}[prompt.relation]
        across, down = abs(a0 + a2 - b0 - b2), abs(a1 + a3 - b1 - b3)
        assert across > down if prompt.relation in ("left of", "right of") else down > across
        checked += 1
    assert checked > 10


def test_mask_is_where_the_drawing_is_opaque():
    """The heart of one scene, drawn again by itself and laid over the picture."""
    scenes = scene_arrays(30, seed=1, split="all", tasks="colour", size=64)
    for image, mask, ((name, _),) in zip(
        scenes.images, scenes.masks, [prompt.objects for prompt in scenes.prompts], strict=True
    ):
        ((x0, y0, x1, y1),) = boxes(mask)
        thing = THINGS[name]
        matches = []
        for side in range(20, 60):  # the size was drawn at random: find it again
            drawing = render(thing.codepoint, side, fill=thing.fill)
            alpha = np.asarray(drawing)[..., 3] >= 128
            y, x = np.where(alpha)
            if (x.max() - x.min() + 1, y.max() - y.min() + 1) == (x1 - x0, y1 - y0):
                cut = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
                same = (alpha[cut] == (mask[y0:y1, x0:x1] > 0)).all()
                solid = np.asarray(drawing)[cut][..., 3] == 255
                same &= (image[y0:y1, x0:x1][solid] == np.asarray(drawing)[cut][solid][:, :3]).all()
                matches.append(bool(same))
        assert any(matches), name


def test_picture_shows_its_colour_on_a_pale_ground():
    scenes = scene_arrays(40, seed=4, split="all", tasks="colour")
    for image, mask, prompt in zip(scenes.images, scenes.masks, scenes.prompts, strict=True):
        fill = THINGS[prompt.objects[0][0]].fill
        rgb = [int(fill[i : i + 2], 16) for i in (1, 3, 5)]
        body = np.median(image[mask > 0], axis=0)
        assert np.abs(body - rgb).max() <= 1
        ground = image[mask == 0].astype(int)
        assert np.median(ground, axis=0).min() > 170
        assert np.linalg.norm(np.median(ground, axis=0) - rgb) > 100


def test_same_seed_same_scenes_whatever_n():
    some, again = scene_arrays(20, seed=9, size=32), scene_arrays(20, seed=9, size=32)
    np.testing.assert_array_equal(some.images, again.images)
    np.testing.assert_array_equal(some.masks, again.masks)
    assert some.captions == again.captions
    part = scene_arrays(6, seed=9, size=32, start=8)
    np.testing.assert_array_equal(part.images, some.images[8:14])
    assert part.captions == some.captions[8:14] and part.prompts == some.prompts[8:14]
    assert scene_arrays(20, seed=10, size=32).captions != some.captions


def test_language_changes_the_caption_only():
    english, chinese = (scene_arrays(20, language=language, size=32) for language in ("en", "zh"))
    np.testing.assert_array_equal(english.images, chinese.images)
    assert english.prompts == chinese.prompts
    assert data.prompts(20, language="zh") == chinese.captions


def test_splits():
    train, held = (scene_arrays(200, split=split, size=32) for split in ("train", "heldout"))
    assert not any(heldout(prompt) for prompt in train.prompts)
    assert all(heldout(prompt) for prompt in held.prompts)


def test_dataset_says_what_the_arrays_say(rows):
    some = scene_arrays(60, seed=2, size=40)
    assert rows.column_names == ["image", "caption", "task", "relation", "objects", "mask"]
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(np.asarray(row["image"]), some.images[i])
        np.testing.assert_array_equal(np.asarray(row["mask"]), some.masks[i])
        assert row["mask"].mode == "L" and row["image"].mode == "RGB"
        prompt = some.prompts[i]
        assert (row["caption"], row["task"], row["relation"]) == (some.captions[i], prompt.task, prompt.relation)
        assert [item["name"] for item in row["objects"]] == list(some.names[i])
        assert [item["index"] for item in row["objects"]] == list(range(1, len(some.names[i]) + 1))
        assert [tuple(item["box"]) for item in row["objects"]] == boxes(some.masks[i])
        assert all(item["colour"] == THINGS[item["name"]].colour for item in row["objects"])


def test_second_call_reads_the_cache(rows, cache, monkeypatch):
    before = sorted(cache.rglob("*"))
    monkeypatch.setattr(sys.modules["minildm.data.scenes"], "_write", None)
    again = data.scenes(60, seed=2, size=40)
    assert again["caption"][:] == rows["caption"][:]
    np.testing.assert_array_equal(np.asarray(again[59]["image"]), np.asarray(rows[59]["image"]))
    assert sorted(cache.rglob("*")) == before
    assert not [path for path in before if path.name.startswith(".")]  # no unfinished folder stays behind


def test_interrupted_build_leaves_nothing(cache, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["minildm.data.scenes"], "_write", stop)
    before = sorted(cache.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        data.scenes(3, seed=77, size=32)
    assert sorted(cache.rglob("*")) == before


def test_more_scenes_than_one_piece_holds(monkeypatch):
    monkeypatch.setattr(sys.modules["minildm.data.scenes"], "_ROWS", 4)
    rows = data.scenes(10, seed=6, size=32, split="heldout", language="zh")
    some = scene_arrays(10, seed=6, size=32, split="heldout", language="zh")
    assert rows["caption"][:] == some.captions
    np.testing.assert_array_equal(np.asarray(rows[9]["mask"]), some.masks[9])


def test_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINILDM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="MINILDM_CACHE"):
        data.scenes(2)


def test_cache_folder_without_the_variable(tmp_path, monkeypatch):
    from minildm.data._cache import cache_folder

    monkeypatch.delenv("MINILDM_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "minildm"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "minildm"


@pytest.mark.parametrize("make", [data.scenes, scene_arrays])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1, got 0"),
        ({"split": "test"}, "'test'.*'train', 'heldout', 'all'"),
        ({"language": "fr"}, "'fr'.*'en', 'zh'"),
        ({"tasks": ["two object"]}, "'two object'.*'two objects'"),
        ({"size": 31}, "between 32 and 128"),
        ({"size": 129}, "between 32 and 128"),
    ],
)
def test_bad_input(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**{"n": 3} | arguments)


def test_missing_package_says_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'datasets.*pip install "minildm\[course\]"'):
        data.scenes(3)


def test_on_the_grid_a_thing_is_drawn_in_few_ways():
    scenes = scene_arrays(400, seed=6, split="all", tasks="one object", layout="grid")
    ways = {}
    for mask, (name,) in zip(scenes.masks, scenes.names, strict=True):
        ((x0, y0, x1, y1),) = boxes(mask)
        # ... and where its corner stands within a cell of eight pixels
        ways.setdefault(name, set()).add((mask[y0:y1, x0:x1].astype(bool).tobytes(), x0 % 8, y0 % 8))
    assert max(map(len, ways.values())) <= 2  # two sizes, facing one way, always at the same place in the cells
    with pytest.raises(ValueError, match="expected a layout of 'free', 'grid', got 'wild'"):
        scene_arrays(1, layout="wild")
    with pytest.raises(ValueError, match="'grid' needs pictures of at least 64 pixels, got 48"):
        scene_arrays(1, size=48, layout="grid")


@pytest.mark.parametrize("task", ["two objects", "colour attribution"])
def test_on_the_grid_two_things_stand_as_they_are_named_from_the_top_left(task):
    def in_order(layout):
        scenes = scene_arrays(60, seed=8, split="all", tasks=task, layout=layout)
        for mask, names, prompt in zip(scenes.masks, scenes.names, scenes.prompts, strict=True):
            assert [name for name, _ in prompt.objects] == list(names)  # instance 1 is the first named
            first, second = (x0 + y0 + x1 + y1 for x0, y0, x1, y1 in boxes(mask))
            yield first <= second

    assert all(in_order("grid")) and 15 < sum(in_order("free")) < 45
