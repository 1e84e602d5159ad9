import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from minildm import data


@pytest.fixture(scope="module")
def row():
    return data.nuclei()[0]


def test_raw_image_and_labels_as_stardist_ships_them(row):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing stardist may say is not our concern
        from stardist.data import test_image_nuclei_2d as reference
    image, mask = reference(return_mask=True)
    assert row["image"].shape == row["mask"].shape == (512, 512)
    assert (row["image"].dtype, row["mask"].dtype) == (np.uint16, np.int32)
    np.testing.assert_array_equal(row["image"], image)
    np.testing.assert_array_equal(row["mask"], mask)


def test_there_are_125_nuclei(row):
    assert len(data.nuclei()) == 1
    assert len(set(row["mask"].ravel().tolist()) - {0}) == 125


def test_what_the_card_says_of_the_brightest_pixels(row):
    image, mask = row["image"], row["mask"]
    bright = image > 150
    assert bright.sum() == 1427 and (mask[bright] > 0).all() and bright[:, :128].sum() == 1176
    median = np.median([np.median(image[mask == k]) for k in np.unique(mask)[1:]])
    assert (median, image.max()) == (62, 235)
    card = (Path(__file__).parents[1] / "data" / "nuclei.md").read_text(encoding="utf-8")
    assert "1,427 pixels above 150" in card and "3.8 times" in card and "median nucleus (62)" in card


def test_a_column_alone_and_other_formats(row):
    nuclei = data.nuclei()
    np.testing.assert_array_equal(nuclei["mask"][0], row["mask"])
    tensors = nuclei.with_format("torch")[0]
    np.testing.assert_array_equal(tensors["image"].numpy(), row["image"])


def test_strips_cover_the_image_once_and_share_no_pixel():
    image = np.arange(3 * 20).reshape(3, 20)  # every pixel has a value of its own
    folds = list(data.nuclei_strips(image, image + 100, folds=4))
    assert [len(train) for train, _ in folds] == [1, 2, 2, 1]
    np.testing.assert_array_equal(np.hstack([test[0] for _, test in folds]), image)
    for train, (test, test_mask) in folds:
        assert test.shape == (3, 5)
        np.testing.assert_array_equal(test_mask, test + 100)
        seen = [part for part, _ in train]
        assert not set(np.hstack(seen).ravel()) & set(test.ravel())
        assert set(np.hstack(seen).ravel()) | set(test.ravel()) == set(image.ravel())
        for part, mask in train:
            np.testing.assert_array_equal(mask, part + 100)
            assert (np.diff(part, axis=1) == 1).all()  # a piece never jumps across the test strip


def test_last_fold_trains_on_columns_0_to_383(row):
    *_, (train, test) = data.nuclei_strips(row["image"], row["mask"])
    assert len(train) == 1
    np.testing.assert_array_equal(train[0][0], row["image"][:, :384])
    np.testing.assert_array_equal(test[1], row["mask"][:, 384:])


@pytest.mark.parametrize("folds", [0, 1, 3])
def test_strips_that_cannot_be(folds):
    image = np.zeros((2, 20))
    with pytest.raises(ValueError, match="divide the width 20"):
        list(data.nuclei_strips(image, image, folds=folds))


def test_strips_of_unequal_shapes():
    with pytest.raises(ValueError, match=r"\(2, 20\) and \(2, 24\)"):
        list(data.nuclei_strips(np.zeros((2, 20)), np.zeros((2, 24))))


def test_missing_package_says_how_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "stardist" else find(name))
    monkeypatch.setitem(__import__("sys").modules, "stardist", None)
    with pytest.raises(ImportError, match=r'stardist.*pip install "minildm\[course\]"'):
        data.nuclei()
