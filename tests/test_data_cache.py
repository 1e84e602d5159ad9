import json

import numpy as np
import pytest

from minildm import data
from minildm.data._cache import cached


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Writes two files, one of them in a folder, and counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self, folder):
        self.times += 1
        (folder / "a").write_text("first")
        (folder / "deep").mkdir()
        (folder / "deep" / "b").write_text("second")


def content(folder):
    return [(folder / name).read_text() for name in ("a", "deep/b")]


def test_built_once_and_again_for_another_key(cache):
    build = Builder()
    folder = cached("some", {"n": 1, "of": ["x"]}, build)
    assert cached("some", {"of": ["x"], "n": 1}, build) == folder and build.times == 1
    assert content(folder) == ["first", "second"]
    others = {cached(*other, build) for other in [("some", {"n": 2, "of": ["x"]}), ("more", {"n": 1, "of": ["x"]})]}
    assert len(others | {folder}) == 3 == build.times


def lose(folder):
    (folder / "a").unlink()


def lose_a_deep_one(folder):
    (folder / "deep" / "b").unlink()


def shorten(folder):
    (folder / "a").write_text("fir")


def empty(folder):
    (folder / "deep" / "b").write_bytes(b"")


def lose_the_list(folder):
    (folder / "contents.json").unlink()


def lose_all(folder):
    for name in ("a", "deep/b", "contents.json"):
        (folder / name).unlink()


def damage_the_list(folder):
    (folder / "contents.json").write_text('["a"')


def another_list(folder):
    (folder / "contents.json").write_text(json.dumps({"a": [5]}))


@pytest.mark.parametrize(
    "harm", [lose, lose_a_deep_one, shorten, empty, lose_the_list, lose_all, damage_the_list, another_list]
)
def test_what_was_removed_or_damaged_is_built_again(cache, harm):
    build = Builder()
    folder = cached("some", {}, build)
    harm(folder)
    assert cached("some", {}, build) == folder and build.times == 2
    assert content(folder) == ["first", "second"]
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_faster_process_is_no_error(cache):
    build = Builder()

    def slow(folder):
        build(folder)
        if build.times == 1:
            cached("some", {}, build)

    assert content(cached("some", {}, slow)) == ["first", "second"] and build.times == 2


def test_an_error_while_building_is_what_it_was(cache):
    def build(folder):
        (folder / "a").write_text("first")
        raise OSError("no such drawing")

    with pytest.raises(OSError, match="^no such drawing$"):
        cached("some", {}, build)
    assert not list(cache.iterdir())


def test_a_key_that_json_does_not_know_is_refused():
    with pytest.raises(TypeError):
        cached("some", {"n": np.arange(3)}, Builder())


def test_scenes_whose_file_was_removed(cache):
    before = data.scenes(3, size=32)["caption"][:]
    (file,) = cache.rglob("*.arrow")
    file.unlink()
    assert data.scenes(3, size=32)["caption"][:] == before and file.is_file()


def test_scenes_of_another_vocabulary_are_others(cache, monkeypatch):
    import sys

    data.scenes(2, size=32)
    module = sys.modules["minildm.data.scenes"]
    monkeypatch.setattr(module, "THINGS", module.THINGS | {"zebra": module.THINGS["cat"]})
    data.scenes(2, size=32)
    assert len(list(cache.glob("scenes-*"))) == 2
