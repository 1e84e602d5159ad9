"""Streams, on a local folder of parquet files: nothing is fetched."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minildm import storage
from minildm.data.hub import Stream, streamed
from minildm.text import train_tokenizer
from minildm.training import _Batches, train

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
    alone = _Batches(streamed(folder, size=4, buffer=5), 6, seed=0, rank=0, world=1)
    joined = [_Batches(streamed(folder, size=4, buffer=5), 6, seed=0, rank=rank, world=2) for rank in (0, 1)]
    for step in (0, 1, 2, 7):
        assert numbers(alone[step]) == sum((numbers(part[step]) for part in joined), [])


def test_columns_by_other_names(folder):
    dataset = datasets.load_dataset(str(folder), split="train", streaming=True)
    dataset = dataset.rename_columns({"image": "jpg", "text": "said"})
    stream = Stream(dataset, lambda texts: (torch.tensor([[len(t)] for t in texts]), None), image="jpg", caption="said")
    assert stream(None, 2)["ids"].shape == (2, 1) and stream(None, 2)["image"].shape == (2, 3, 64, 64)


def test_what_cannot_be_is_said(folder, tokenizer):
    with pytest.raises(ValueError, match=r"expected the columns \['picture'\], but there is no 'picture', only \['ima"):
        streamed(folder, image="picture")
    with pytest.raises(ValueError, match="no 'caption'"):
        streamed(folder, tokenizer=tokenizer, caption="caption")
    loader = torch.utils.data.DataLoader(
        _Batches(streamed(folder), 4, 0, 0, 1), batch_size=None, sampler=range(2), num_workers=1
    )
    with pytest.raises(ValueError, match="workers=0"):
        next(iter(loader))
