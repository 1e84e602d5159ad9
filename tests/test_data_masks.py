import numpy as np
import pytest
import torch
from PIL import Image

from minildm import metrics, segmentation
from minildm.data.masks import labels

PATTERN = np.array([[0, 1, 1, 0], [2, 2, 0, 3], [2, 0, 3, 3]])

# What the three objects of the pattern may be called: in another type, or by numbers that another type cannot hold.
NAMES = {
    "as they are": np.array([0, 1, 2, 3]),
    "uint8": np.array([0, 7, 9, 255], np.uint8),
    "int8": np.array([0, 1, 2, 127], np.int8),
    "gaps": np.array([0, 5, 90, 181], np.int32),
    "the last of int32": np.array([0, 2**31 - 3, 2**31 - 2, 2**31 - 1], np.int32),
    "beyond int32": np.array([0, 2**31 + 5, 2**32, 2**32 + 1]),
    "multiples of 2**32": np.array([0, 2**32, 2**33, 2**34]),
    "beyond int64": np.array([0, 2**63 + 1, 2**63 + 2, 2**64 - 1], np.uint64),
    "big-endian": np.array([0, 3, 300, 3000], ">u2"),
    "whole floats": np.array([0.0, 1.0, 2.0, 3.0]),
    "half floats": np.array([0, 1, 2, 2048], np.float16),
    "large floats": np.array([0.0, 2.0**40, 2.0**41, 1e300]),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_labels_of_any_type_are_numbered_without_gaps(names):
    found = labels(names[PATTERN])
    assert found.dtype == np.int32 and np.array_equal(found, PATTERN)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_metrics_and_targets_know_no_type_of_label(names):
    mask, plain = np.kron(names[PATTERN], np.ones((5, 5), names.dtype)), np.kron(PATTERN, np.ones((5, 5), int))
    other = np.roll(plain, 1, axis=1)
    for metric in (metrics.dice, metrics.average_precision, metrics.border_f1):
        assert metric(mask, mask) == 1
        assert metric(mask, other) == metric(plain, other) == metric(other, mask)
    for target in (segmentation.depth, segmentation.border_weights):
        assert np.array_equal(target(mask), target(plain)) and target(plain).std() > 0


def test_what_holds_labels_need_be_no_array():
    for mask in (PATTERN.tolist(), torch.from_numpy(PATTERN), torch.from_numpy(PATTERN).byte()):
        assert np.array_equal(labels(mask), PATTERN)
    assert np.array_equal(labels(Image.fromarray(PATTERN.astype(np.uint8))), PATTERN)
    assert np.array_equal(labels(PATTERN > 0), (PATTERN > 0).astype(int))


def test_without_background_all_are_objects():
    assert labels(np.full((2, 3), 9)).tolist() == [[1] * 3] * 2
    assert labels(np.array([[4, 8]])).tolist() == [[1, 2]]
    assert labels(np.zeros((2, 3))).tolist() == [[0] * 3] * 2
    assert labels(np.ones((1, 2), bool)).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "mask, says",
    [
        (np.zeros((2, 3, 4), int), r"got shape \(2, 3, 4\)"),
        (np.zeros((0, 4), int), r"got shape \(0, 4\)"),
        (np.zeros((3, 4), complex), "dtype complex128"),
        (np.full((3, 4), "a"), "dtype <U1"),
        (np.full((3, 4), -1), "got -1"),
        (np.array([[0.0, -2.0]]), "got -2.0"),
        (np.array([[0, 0.5]]), "fractions, NaN or infinity.*mask > 0.5"),
        (np.array([[0, np.nan]]), "fractions, NaN or infinity"),
        (np.array([[0, np.inf]]), "fractions, NaN or infinity"),
    ],
)
def test_what_holds_no_labels_is_refused(mask, says):
    good = np.zeros((3, 4), int)
    for function in (labels, segmentation.depth, segmentation.border_weights, lambda x: metrics.dice(good, x)):
        with pytest.raises(ValueError, match=f"expected labels.*{says}"):
            function(mask)
