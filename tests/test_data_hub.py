"""Streams, on a local folder of parquet files: nothing is fetched."""

import io
import shutil
import warnings

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minildm import storage
from minildm.data.hub import Stream, streamed
from minildm.text import train_tokenizer
from minildm.training import train
from minildm.training._batches import Source, _Drawn

N = 11
CAPTIONS = [f"number {i}" for i in range(N)]


def picture(i):
    """Grey i, twice as wide as high, with a red edge that is cut off."""
    pixels = np.full((10, 20, 3), 10 * i, np.uint8)
    pixels[:, :5] = pixels[:, 15:] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """After each round `datasets` waits five seconds for its threads."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards, of 6 and 5 rows."""
    path = tmp_path_factory.mktemp("shards")
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), rest=datasets.Value("int32"))
    for shard, rows in enumerate((range(6), range(6, N))):
        data = {"image": [picture(i) for i in rows], "text": [CAPTIONS[i] for i in rows], "rest": list(rows)}
        datasets.Dataset.from_dict(data, features).to_parquet(path / f"train-{shard}.parquet")
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS * 2, 300, length=12)


def numbers(tensors):
    """Which pictures these are."""
    return tensors["image"][:, 0, 2, 2].add(1).mul(127.5 / 10).round().int().tolist()


def test_in_order_without_shuffling(folder, tokenizer):
    stream = streamed(folder, tokenizer=tokenizer, size=4, buffer=1)
    one, other, third = (stream(None, 4) for _ in range(3))
    assert one["image"].shape == (4, 3, 4, 4) and one["image"].dtype == torch.float32
    assert numbers(one) + numbers(other) + numbers(third) == [*range(N), 0]  # and round again
    assert torch.equal(one["ids"], tokenizer(CAPTIONS[:4])[0])
    for i, image in enumerate(one["image"]):
        assert torch.allclose(image, torch.tensor(10 * i / 127.5 - 1), atol=1e-6)  # the middle, without the edge


def test_each_round_has_an_order_of_its_own(folder):
    first, second = (streamed(folder, size=4, buffer=4, seed=3) for _ in range(2))
    seen = [numbers(first(None, 1))[0] for _ in range(3 * N)]
    rounds = [seen[:N], seen[N : 2 * N], seen[2 * N :]]
    assert all(sorted(some) == list(range(N)) for some in rounds) and len(set(map(tuple, rounds))) == 3
    assert [numbers(second(None, 1))[0] for _ in range(3 * N)] == seen
    assert numbers(streamed(folder, size=4, buffer=4, seed=4)(None, N)) != rounds[0]


def test_any_place_can_be_sought(folder):
    stream = streamed(folder, size=4, buffer=5)
    seen = numbers(stream(None, 30))
    for place in (17, 4, 4, 25, 0):
        stream.seek(place)
        assert numbers(stream(None, 5)) == seen[place : place + 5]


class Shade(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))


def shade(model, tensors):
    return (model.w - tensors["image"].mean((1, 2, 3))).square().mean()


def test_a_stopped_training_goes_on_to_the_same_weights(folder, tmp_path):
    def run(stream, name, loss=shade):
        settings = dict(steps=9, batch_size=4, lr=0.1, checkpoint=tmp_path / name, checkpoint_seconds=0)
        model = Shade()
        train(model, stream, loss, progress=False, **settings)
        return model.w.item()

    def new():
        return streamed(folder, size=4, buffer=5)

    def crash(model, tensors, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return shade(model, tensors)

    whole = run(new(), "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(new(), "broken.safetensors", crash)
    assert run(new(), "broken.safetensors") == whole != 0
    history = storage.read(tmp_path / "whole.safetensors")[0]["loss"]
    assert torch.equal(history, storage.read(tmp_path / "broken.safetensors")[0]["loss"])


def test_processes_take_slices_of_one_batch(folder):
    def drawn(rank, world):
        return _Drawn(Source(streamed(folder, size=4, buffer=5), 6, seed=0, rank=rank, world=world))

    alone, joined = drawn(0, 1), [drawn(rank, 2) for rank in (0, 1)]
    for step in (0, 1, 2, 7):
        assert numbers(alone[step]) == sum((numbers(part[step]) for part in joined), [])


def test_columns_by_other_names(folder):
    dataset = datasets.load_dataset(str(folder), split="train", streaming=True)
    dataset = dataset.rename_columns({"image": "jpg", "text": "said"})
    stream = Stream(dataset, lambda texts: (torch.tensor([[len(t)] for t in texts]), None), image="jpg", caption="said")
    assert stream(None, 2)["ids"].shape == (2, 1) and stream(None, 2)["image"].shape == (2, 3, 64, 64)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def only(column, **options):
    """What a stream makes of a data set of one column."""
    return Stream(datasets.Dataset.from_dict({"image": column}), buffer=1, **options)


def red(i):
    return Image.new("RGB", (8, 8), (10 * i, 0, 0))


def reds(tensors):
    return tensors["image"][:, 0, 0, 0].add(1).mul(127.5 / 10).round().int().tolist()


@pytest.mark.parametrize("orientation, corner", [(1, 0), (3, 3), (6, 1), (8, 2)])
@pytest.mark.parametrize("kind, side", [("PNG", 16), ("JPEG", 200), ("PNG", 200)])
def test_pictures_stand_upright(orientation, corner, kind, side):
    array = np.zeros((side, side, 3), np.uint8)
    array[: side // 2, : side // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image,) = only([encoded(Image.fromarray(array), kind, exif=exif)], size=8)(None, 1)["image"]
    corners = image[0, [1, 1, -2, -2], [1, -2, 1, -2]]
    assert corners.argmax() == corner and corners.max() > 0.8 and corners.sort().values[2] < -0.8


@pytest.mark.parametrize(
    "picture, colour",
    [
        (Image.new("L", (9, 8), 90), (90, 90, 90)),
        (Image.new("1", (9, 8), 1), (255, 255, 255)),
        (Image.new("RGBA", (9, 8), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (9, 8), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (9, 8), (0, 0)), (255, 255, 255)),
        (Image.new("I;16", (9, 8), 128 * 257), (128, 128, 128)),
        (Image.new("RGB", (9, 8), (0, 0, 255)).quantize(4), (0, 0, 255)),
    ],
    ids=lambda it: getattr(it, "mode", None),
)
def test_pictures_have_the_colours_that_viewers_show(picture, colour):
    (image,) = only([encoded(picture)], size=4)(None, 1)["image"]
    assert image.shape == (3, 4, 4)
    assert (image.add(1).mul(127.5) - torch.tensor(colour)[:, None, None]).abs().max() < 0.6


@pytest.mark.parametrize("as_zip", ["folder of zips", "zip"])
def test_zips_are_streamed(tmp_path, as_zip):
    (tmp_path / "in").mkdir()
    for i in range(3):
        red(i).save(tmp_path / "in" / f"{i}.png")
    file = shutil.make_archive(str(tmp_path / "out" / "a"), "zip", tmp_path / "in")
    stream = streamed(file if as_zip == "zip" else tmp_path / "out", size=4, buffer=1)
    assert reds(stream(None, 4)) == [0, 1, 2, 0]


def test_a_folder_of_pictures_is_streamed(tmp_path):
    for i in range(3):
        red(i).save(tmp_path / f"{i}.png")
    assert reds(streamed(tmp_path, size=4, buffer=1)(None, 3)) == [0, 1, 2]


def columns(tmp_path):
    for i in range(3):
        red(i).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    some, features = [red(i) for i in range(3)], datasets.Features(image=datasets.Image())
    rows = [{"image": picture} for picture in some]
    yield datasets.Dataset.from_dict({"image": some}, features)
    yield datasets.Dataset.from_dict({"image": some}, features).to_iterable_dataset()
    yield datasets.Dataset.from_dict({"image": [encoded(picture) for picture in some]})
    yield datasets.Dataset.from_dict({"image": paths})
    yield datasets.Dataset.from_dict({"image": [{"bytes": encoded(picture), "path": None} for picture in some]})
    yield datasets.Dataset.from_dict({"image": [np.asarray(picture) for picture in some]})
    yield datasets.IterableDataset.from_generator(lambda: iter(rows))
    yield datasets.IterableDataset.from_generator(lambda: iter([{"image": np.asarray(one)} for one in some]))
    yield datasets.IterableDataset.from_generator(lambda: iter([{"image": path} for path in paths]))


@pytest.mark.parametrize("which", range(9))
def test_columns_of_every_kind(tmp_path, which):
    stream = Stream(list(columns(tmp_path))[which], size=4, buffer=1)
    assert reds(stream(None, 2)) == [0, 1] and reds(stream(None, 4)) == [2, 0, 1, 2]


def test_columns_are_found(tokenizer):
    names = [("image", "text"), ("img", "caption"), ("jpg", "txt"), ("page", "prompt")]
    features = [datasets.Image(), datasets.Value("string")]
    for picture, said in names:
        rows = {"other": ["x"], said: ["number 3"], picture: [red(3)]}
        kinds = datasets.Features({"other": features[1], said: features[1], picture: features[0]})
        tensors = Stream(datasets.Dataset.from_dict(rows, kinds), tokenizer, size=4, buffer=1)(None, 1)
        assert reds(tensors) == [3] and torch.equal(tensors["ids"], tokenizer(["number 3"])[0])
    both = datasets.Features(a=datasets.Image(), b=datasets.Image())
    two = datasets.Dataset.from_dict({"a": [red(1)], "b": [red(2)]}, both)
    with pytest.raises(ValueError, match=r"no 'image', only \['a', 'b'\]"):
        Stream(two)
    assert reds(Stream(two, image="b", size=4, buffer=1)(None, 1)) == [2]


def holes():
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    some = [red(0), None, red(2), red(3), None, red(5)]
    said = ["number 0", "number 1", "number 2", None, "number 4", "number 5"]
    return datasets.Dataset.from_dict({"image": some, "text": said}, features)


def test_rows_without_a_picture_or_a_caption_are_skipped_and_counted(tokenizer):
    stream = Stream(holes(), size=4, buffer=1)
    with pytest.warns(UserWarning, match="no picture or no caption: such rows are skipped and counted") as warned:
        seen = [reds(stream(None, 1))[0] for _ in range(9)]
    assert seen == [0, 2, 3, 5, 0, 2, 3, 5, 0] and stream.skipped == 4 and len(warned) == 1
    with pytest.warns(UserWarning, match="skipped"):
        stream.seek(3)
    assert reds(stream(None, 4)) == [5, 0, 2, 3]
    with pytest.warns(UserWarning, match="skipped"):
        tensors = Stream(holes(), tokenizer, size=4, buffer=1)(None, 4)
    assert reds(tensors) == [0, 2, 5, 0]
    assert torch.equal(tensors["ids"], tokenizer(["number 0", "number 2", "number 5", "number 0"])[0])


@pytest.mark.parametrize(
    "rows", [[{"image": None}] * 2, [{"image": {"bytes": None, "path": None}}], [{"image": b""}], [{"image": ""}]]
)
def test_no_picture_at_all(rows):
    stream = Stream(datasets.IterableDataset.from_generator(lambda: iter(rows)), buffer=1)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="at least one row that has a picture"):
        warnings.simplefilter("ignore")
        stream(None, 1)
    with pytest.raises(ValueError, match="at least one row that has a picture"):
        only([])


def test_others_take_the_place_of_what_cannot_be_read_with_their_captions(tokenizer):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)))
    broken = [whole[:1000], b"no picture", b"\x89PNG\r\n\x1a\n"]
    some = [encoded(red(0)), broken[0], encoded(red(2)), broken[1], broken[2]]
    said = [f"number {i}" for i in range(5)]
    rows = datasets.Dataset.from_dict({"image": some, "text": said})
    stream = Stream(rows, tokenizer, size=4, buffer=1)
    with pytest.warns(UserWarning, match="a picture cannot be read .* others take such pictures' places") as warned:
        tensors = stream(None, 5)
    assert reds(tensors) == [0, 2, 2, 0, 0] and stream.unreadable == 3 and len(warned) == 1
    assert torch.equal(tensors["ids"], tokenizer([f"number {i}" for i in reds(tensors)])[0])
    assert stream.position == 5 and reds(stream(None, 1)) == [0]
    with warnings.catch_warnings(), pytest.raises(ValueError, match="none of 2 pictures can be read"):
        warnings.simplefilter("ignore")
        stream.seek(3)
        stream(None, 2)


def test_captions_must_be_texts(tokenizer):
    rows = datasets.Dataset.from_dict({"image": [encoded(red(1))], "text": [["one", "two"]]})
    with pytest.raises(ValueError, match="expected a text in the column 'text', got list"):
        Stream(rows, tokenizer, buffer=1)(None, 1)


def test_a_split_must_be_chosen():
    both = datasets.DatasetDict(train=holes(), test=holes())
    with pytest.raises(ValueError, match=r"expected one split, got train, test: choose one, as by dataset\['train'\]"):
        Stream(both)


def test_what_cannot_be_is_said(folder, tokenizer):
    with pytest.raises(ValueError, match=r"expected the columns \['picture'\], but there is no 'picture', only \['ima"):
        streamed(folder, image="picture")
    with pytest.raises(ValueError, match="no 'caption'"):
        streamed(folder, tokenizer=tokenizer, caption="caption")
    loader = torch.utils.data.DataLoader(
        _Drawn(Source(streamed(folder), 4, 0)), batch_size=None, sampler=range(2), num_workers=1
    )
    with pytest.raises(ValueError, match="workers=0"):
        next(iter(loader))
