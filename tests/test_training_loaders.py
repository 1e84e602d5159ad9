"""A DataLoader, or another iterable of batches, as what a training learns from: the same after a stop, always."""

import math
import os
from itertools import count

import pytest
import torch
from test_training import QUIET, Tiny, copy, cross_entropy, same
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler

from minildm import storage
from minildm.tensors import seeded
from minildm.training import restore, train


class Pictures(Dataset):
    """Ten pictures, each a little brighter or darker whenever it is looked at, by torch's global stream."""

    def __init__(self, returns=dict):
        self.returns = returns
        self.x = torch.randn(10, 1, 7, 5, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        x = self.x[at] + 0.3 * torch.randn(())
        return self.returns({"x": x, "y": (self.x[at] > 0.3).long().squeeze(0)}.items())


class Stream(IterableDataset):
    def __init__(self):
        self.pictures = Pictures()

    def __iter__(self):
        return (self.pictures[at] for at in range(10))


def shuffled():
    return DataLoader(Pictures(), batch_size=3, shuffle=True)  # the last batch of a round has one picture


def own_stream():
    return DataLoader(Pictures(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(5))


def own_sampler():
    return DataLoader(Pictures(), 4, sampler=RandomSampler(Pictures(), generator=torch.Generator()), drop_last=True)


def own_batches():
    return DataLoader(Pictures(), batch_sampler=BatchSampler(RandomSampler(range(10)), 5, drop_last=False))


def with_workers():
    return DataLoader(Pictures(), batch_size=3, shuffle=True, num_workers=2)


def streamed():
    return DataLoader(Stream(), batch_size=4)


def listed():
    with seeded(4):
        return list(DataLoader(Pictures(), batch_size=2))[:3]


class Rounds:
    """Not a list, and no loader: only gone through again and again."""

    def __iter__(self):
        return iter(shuffled())


def interrupt_after(step):
    def log(done, numbers):
        if done == step:
            raise KeyboardInterrupt

    return log


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")  # on one core
@pytest.mark.parametrize("step", [1, 5, 8])
@pytest.mark.parametrize(
    "loader", [shuffled, own_stream, own_sampler, own_batches, with_workers, streamed, listed, Rounds]
)
def test_goes_on_to_identical_weights(loader, step, tmp_path):
    if loader is with_workers and not hasattr(os, "fork"):
        pytest.skip("the data set of a test module needs forked workers")
    path = tmp_path / "c.safetensors"
    settings = dict(steps=9, checkpoint_seconds=0, **QUIET)
    state = torch.get_rng_state()
    expected = train(whole := Tiny(), loader(), cross_entropy, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), loader(), cross_entropy, checkpoint=path, log=interrupt_after(step), **settings)
    assert restore(Tiny(), path).step == step - 1
    history = train(resumed := Tiny(), loader(), cross_entropy, checkpoint=path, **settings)
    assert same(copy(whole), copy(resumed)) and history.loss == expected.loss
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("loader", [shuffled, own_stream, own_sampler, own_batches])
def test_rounds_differ_and_show_each_picture_once(loader):
    seen = []

    def loss(model, tensors):
        seen.extend(tensors["y"].flatten(1).sum(1).tolist())
        return cross_entropy(model, tensors)

    loader = loader()
    rounds = len(loader)
    size = 8 if loader.drop_last else 10
    train(Tiny(), loader, loss, steps=3 * rounds, **QUIET)
    first, second, third = seen[:size], seen[size : 2 * size], seen[2 * size :]
    assert sorted(first) == sorted(second) == sorted(third) or loader.drop_last
    assert first != second and second != third and first != third
    again, seen = seen, []
    train(Tiny(), loader, loss, steps=3 * rounds, **QUIET)
    assert seen == again  # whatever was drawn from the loader before
    seen = []
    train(Tiny(), loader, loss, steps=rounds, seed=1, **QUIET)
    assert seen != again[:size]


def test_whole_rounds_are_skipped_without_loading(tmp_path):
    looked = []

    class Counted(Pictures):
        def __getitem__(self, at):
            looked.append(at)
            return super().__getitem__(at)

    settings = dict(steps=11, checkpoint=tmp_path / "c.safetensors", checkpoint_seconds=0, **QUIET)
    loader = DataLoader(Counted(), batch_size=5, shuffle=True)
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), loader, cross_entropy, log=interrupt_after(10), **settings)
    del looked[:]
    train(Tiny(), loader, cross_entropy, **settings)
    assert len(looked) == 15  # of step 8 the five to be skipped, then those of 9 and of 10


def test_the_loaders_own_stream_is_put_back():
    loader = own_stream()
    before = loader.generator.get_state()
    train(Tiny(), loader, cross_entropy, steps=5, **QUIET)
    assert torch.equal(loader.generator.get_state(), before)


@pytest.mark.parametrize("given, loader", [(None, shuffled), (3, shuffled), (None, listed), (None, own_batches)])
def test_the_size_is_the_loaders(given, loader, tmp_path):
    path = tmp_path / "c.safetensors"
    train(Tiny(), loader(), cross_entropy, steps=2, batch_size=given, checkpoint=path, **QUIET)
    known = "3" if loader is shuffled else "null"
    assert f'"batch_size": {known}' in storage.read(path)[1]["settings"]
    if loader is shuffled:
        with pytest.raises(ValueError, match="batch_size is 4 here but 3 there"):
            train(Tiny(), DataLoader(Pictures(), 4), cross_entropy, steps=2, checkpoint=path, **QUIET)


def pairs(items):
    return tuple(tensor for _, tensor in items)


def words(items):
    return dict(items) | {"caption": "a cat"}


@pytest.mark.parametrize(
    "batch, told",
    [
        (DataLoader(Pictures(pairs), 2), r'got a list of 2: name its parts.*return \{"x": x, "y": y\}'),
        ([(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2))], r'a tuple of 3.*\{"x": x, "y": y, "z": z\}'),
        ([torch.zeros(2, 1, 7, 5)], "dict of tensors, got Tensor"),
        (DataLoader(Pictures(words), 2), "'caption' is a list: make it a tensor, or leave it out"),
        ([{"x": torch.zeros(2, 1), "y": torch.zeros(3)}], r"expected 3 samples in 'x', got shape \(2, 1\)"),
        ([{"x": torch.zeros(2, 1), "y": torch.tensor(1.0)}], r"expected 2 samples in 'y', got shape \(\)"),
        ([{"x": torch.zeros(0, 1)}], r"expected some samples in 'x', got shape \(0, 1\)"),
        ([{}], "empty dict"),
        ([], "ended after 0 of them"),
        (Pictures(), r"got Pictures; wrap it: DataLoader\(dataset, batch_size"),
        (Stream(), "got Stream"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_what_is_no_loader_of_dicts_is_told_what_to_return(batch, told):
    with pytest.raises(ValueError, match=told):
        train(Tiny(), batch, cross_entropy, steps=3, **QUIET)


def test_a_generator_goes_once(tmp_path):
    def batches(n=math.inf):
        for k in count():
            if k == n:
                return
            x = torch.randn(2, 1, 7, 5, generator=torch.Generator().manual_seed(k))
            yield {"x": x, "y": (x > 0.3).long().squeeze(1)}

    settings = dict(steps=6, checkpoint_seconds=0, **QUIET)
    train(whole := Tiny(), batches(), cross_entropy, **settings)
    path = tmp_path / "c.safetensors"
    with pytest.raises(ValueError, match="ended after 4 of them, before the training did: give a DataLoader"):
        train(Tiny(), batches(4), cross_entropy, checkpoint=path, **settings)
    train(resumed := Tiny(), batches(), cross_entropy, checkpoint=path, **settings)
    assert same(copy(whole), copy(resumed))


def test_sizes_and_workers_of_a_loader_are_its_own():
    with pytest.raises(ValueError, match="own size, 3: leave batch_size out"):
        train(Tiny(), shuffled(), cross_entropy, steps=2, batch_size=4, **QUIET)
    with pytest.raises(ValueError, match="own size, which may change"):
        train(Tiny(), listed(), cross_entropy, steps=2, batch_size=2, **QUIET)
    with pytest.raises(ValueError, match="num_workers"):
        train(Tiny(), shuffled(), cross_entropy, steps=2, workers=1, **QUIET)
    with pytest.raises(ValueError, match="expected batch_size, .* with a function"):
        train(Tiny(), lambda generator, n: {}, cross_entropy, steps=2, **QUIET)
