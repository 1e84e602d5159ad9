import math

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from minildm.metrics import (
    average_precision,
    border_f1,
    compare,
    dice,
    frechet_distance,
    kernel_distance,
    map_iou,
    paired_interval,
    pointing_game,
    psnr,
    ssim,
)


def square(*corners, shape=(12, 20)):
    """Labels with one square of side 4 for each top left corner."""
    labels = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(corners, start=1):
        labels[y : y + 4, x : x + 4] = label
    return labels


def test_dice_by_hand():
    a, b = square((2, 2)), square((2, 3))  # 16 pixels each, 12 shared
    assert dice(a, b) == pytest.approx(2 * 12 / 32)
    assert dice(a, a * 7) == 1  # labels count as foreground, whatever their numbers
    assert dice(a, square((8, 8))) == 0
    assert dice(a * 0, a * 0) == 1 and dice(a, a * 0) == 0


def test_average_precision_by_hand():
    true = square((0, 0), (0, 8), (6, 14))
    pred = square((0, 1), (0, 8), (7, 2))  # IoU 12/20 with the first, 1 with the second, one invented
    assert average_precision(true, pred, 0.5) == pytest.approx(2 / 4)
    assert average_precision(true, pred, 0.75) == pytest.approx(1 / 5)
    assert average_precision(true, true * 3, 0.9) == 1


def test_border_f1_by_hand():
    a = square((2, 2))
    assert border_f1(a, a) == 1
    assert border_f1(a, square((2, 3))) == 1  # no outline pixel is further than one pixel away
    # moved by 3: the outline of a has 12 pixels, of which the 4 of the right side touch b's left side
    moved = border_f1(a, square((2, 5)), tolerance=0)
    assert moved == pytest.approx(4 / 12)
    assert border_f1(a, a * 0) == 0 and border_f1(a * 0, a * 0) == 1


def test_border_f1_sees_the_line_between_touching_instances():
    one, two = np.zeros((8, 10), int), np.zeros((8, 10), int)
    one[2:6, 1:9] = 1
    two[2:6, 1:5], two[2:6, 5:9] = 1, 2
    assert dice(one, two) == 1
    # one outline has 20 pixels, all of them among the 24 of two
    assert border_f1(two, one, tolerance=0) == pytest.approx(40 / 44)


@pytest.mark.parametrize("metric", [dice, average_precision, border_f1])
def test_refuses_masks_of_two_shapes(metric):
    with pytest.raises(ValueError, match=r"one shape \(h, w\), got \(4, 6\) and \(6, 4\)"):
        metric(np.zeros((4, 6), int), np.zeros((6, 4), int))


@pytest.mark.parametrize("iou", [0.5, 1.0])
def test_empty_and_full_masks(iou):
    none, full, one = np.zeros((12, 20), int), np.ones((12, 20), int), square((2, 2))
    assert average_precision(none, none, iou) == dice(none, none) == border_f1(none, none) == 1
    assert average_precision(full, full, iou) == dice(full, full) == border_f1(full, full * 7) == 1
    for other in (full, one):
        for pair in ((none, other), (other, none)):
            assert average_precision(*pair, iou) == dice(*pair) == border_f1(*pair) == 0
    assert average_precision(one, full, iou) == border_f1(one, full) == border_f1(full, one) == 0
    assert dice(one, full) == pytest.approx(2 * 16 / (16 + 240))


@pytest.mark.parametrize("iou", [0, -0.5, 1.1, math.nan])
def test_average_precision_needs_a_threshold(iou):
    with pytest.raises(ValueError, match="iou must be above 0 and at most 1"):
        average_precision(square((2, 2)), square((2, 2)), iou)


@pytest.mark.parametrize("tolerance", [-1, math.nan])
def test_border_f1_needs_a_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        border_f1(square((2, 2)), square((2, 2)), tolerance)


def draw(n, seed, shift=0.0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def spot(y, x, shape=(5, 7)):
    """A map that is largest at one pixel and falls off with the distance from it."""
    rows, columns = np.indices(shape)
    return torch.from_numpy(10 - np.hypot(rows - y, columns - x))


def test_the_pointing_game_by_hand():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1:3, 2:4] = True
    maps = torch.stack([spot(1, 2), spot(2, 3), spot(0, 2), spot(4, 5), spot(2, 6) - 100])
    masks = mask.expand(5, -1, -1)
    assert pointing_game(maps, masks).tolist() == [True, True, False, False, False]
    assert pointing_game(maps, masks, margin=1).tolist() == [True, True, True, False, False]
    assert pointing_game(maps, masks, margin=2.9).tolist() == [True, True, True, True, False]
    assert pointing_game(maps, masks, margin=3).tolist() == [True] * 5  # three columns to the right


def test_the_iou_of_a_map_by_hand():
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 0, :4], mask[1, 3] = True, True
    map_ = torch.zeros(2, 4, 5)
    map_[:, 0, :2] = torch.tensor([3.0, 2.0])  # the brightest tenth of 20 pixels
    assert map_iou(map_, mask).tolist() == [2 / 4, 0]
    assert map_iou(map_ + 7, mask).tolist() == [2 / 4, 0]
    assert map_iou(map_, mask, quantile=0.95).tolist() == [1 / 4, 0]
    assert map_iou(torch.ones(2, 4, 5), mask).tolist() == [0, 0]


@pytest.mark.parametrize("metric", [pointing_game, map_iou])
def test_maps_need_masks_that_fit_and_hold_something(metric):
    maps, masks = torch.rand(2, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one shape .*\(2, 4, 5\) and \(2, 5, 4\)"):
        metric(maps, masks.mT)
    with pytest.raises(ValueError, match="the masks bool, .* of torch.uint8"):
        metric(maps, masks.byte())
    for value in (math.nan, math.inf, -math.inf):
        broken = maps.clone()
        broken[1, 2, 3] = value
        with pytest.raises(ValueError, match="finite maps, got 1 values that are not"):
            metric(broken, masks)
    assert metric(maps[:0], masks[:0]).shape == (0,)
    masks[1] = False
    with pytest.raises(ValueError, match="masks that hold something"):
        metric(maps, masks)


@pytest.mark.parametrize("quantile", [-0.1, 1.5, math.nan])
def test_the_iou_of_a_map_needs_a_quantile(quantile):
    with pytest.raises(ValueError, match=r"quantile must lie in \[0, 1\]"):
        map_iou(torch.rand(2, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool), quantile)


def test_kernel_distance_equals_the_reference_on_sets_of_one_size():
    made, real = draw(40, 1, 0.5), draw(40, 2)
    real = (real - real.mean(0)) / real.std(0)
    assert kernel_distance(made, real) == pytest.approx(float(poly_mmd(made, real)), rel=1e-9)


def test_kernel_distance_of_two_by_hand():
    # In one dimension, real -1 and 1 are standardised to -r and r, r = 1/sqrt(2); made are 3r and 3r.
    r = 0.5**0.5
    opposite = (1 - r * r) ** 3
    assert kernel_distance(3 * torch.ones(2, 1), torch.tensor([[-1.0], [1.0]])) == pytest.approx(
        (9 * r * r + 1) ** 3 + opposite - (3 * r * r + 1) ** 3 - (1 - 3 * r * r) ** 3
    )


def test_kernel_distance_knows_neither_unit_nor_origin_of_a_feature():
    made, real = draw(30, 1, 0.3), draw(20, 2)
    assert kernel_distance(made * 7 - 4, real * 7 - 4) == pytest.approx(kernel_distance(made, real), rel=1e-9)


def test_kernel_distance_is_about_zero_for_one_distribution_and_grows_with_the_shift():
    same = [kernel_distance(draw(60, k), draw(80, 100 + k)) for k in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20**0.5 and min(same) < 0
    assert kernel_distance(draw(60, 1, 0.5), draw(80, 2)) > 5 * np.std(same)
    assert kernel_distance(draw(60, 1, 1.0), draw(80, 2)) > kernel_distance(draw(60, 1, 0.5), draw(80, 2))


@pytest.mark.parametrize("made, real", [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4, 3)), ((4, 3), (1, 3))])
def test_kernel_distance_refuses_what_it_cannot_compare(made, real):
    with pytest.raises(ValueError, match="at least two pictures each"):
        kernel_distance(torch.zeros(made), torch.zeros(real))


def pictures(n=3, h=16, w=20, seed=0):
    """Smooth ones, and the same with noise that grows from picture to picture."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.nn.functional.avg_pool2d(torch.rand(n, 3, h + 4, w + 4, generator=generator), 5, stride=1)
    noise = torch.randn(true.shape, generator=generator) * torch.linspace(0.02, 0.2, n)[:, None, None, None]
    return true, (true + noise).clamp(0, 1)


def test_psnr_by_hand():
    true, pred = torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 5)
    pred[0] = 0.1  # a mean squared error of 0.01
    pred[1, 0] = 1.0  # of 0.5
    found = psnr(true, pred)
    assert found.shape == (3,)
    assert found[0].item() == pytest.approx(20, abs=1e-4)
    assert found[1].item() == pytest.approx(10 * math.log10(2), abs=1e-4)
    assert found[2] == math.inf
    assert psnr(true[:1], pred[:1]).shape == (1,)


def test_ssim_equals_the_reference():
    # in a grey frame, since each mirrors a border in its own way
    true, pred = (torch.nn.functional.pad(x, [6] * 4, value=0.5) for x in pictures())
    how = dict(data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)
    maps = [structural_similarity(a.numpy(), b.numpy(), **how)[1] for a, b in zip(true, pred, strict=True)]
    assert ssim(true, pred).tolist() == pytest.approx([one.mean() for one in maps], abs=1e-5)
    assert ssim(true, true).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    first, *_, last = ssim(true, pred)
    assert first > last + 0.1


def test_ssim_by_hand_where_nothing_varies():
    true, pred = torch.full((1, 1, 12, 12), 0.5), torch.full((1, 1, 12, 12), 0.7)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)  # contrast and pattern agree: both have none
    assert ssim(true, pred).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    "true, pred, says",
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9), r"of one shape \(b, c, h, w\), got \(2, 3, 8, 8\) and"),
        (torch.zeros(1, 8, 8), torch.zeros(3, 8, 8), r"of one shape .* got \(1, 1, 8, 8\) and \(1, 3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8), "of one shape"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8) - 1, r"\(x \+ 1\) / 2"),
    ],
)
def test_likeness_says_what_it_needs(metric, true, pred, says):
    with pytest.raises(ValueError, match=says):
        metric(true, pred)


def test_likeness_of_arrays_and_pil():
    true, pred = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(255).round().byte()
    for metric in (psnr, ssim):
        expected = metric(true / 255, pred / 255)
        arrays = [x.movedim(1, -1).numpy() for x in (true, pred)]
        pil = [[Image.fromarray(one) for one in x] for x in arrays]
        for given in ((true, pred), arrays, pil, (pil[0], pred / 255)):
            torch.testing.assert_close(metric(*given), expected)
        torch.testing.assert_close(metric(true[0] / 255, arrays[1][0]), expected[:1])


def test_ssim_refuses_what_is_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 6×6, half of SSIM's window, got 8×5"):
        ssim(torch.zeros(1, 3, 8, 5), torch.zeros(1, 3, 8, 5))
    assert ssim(torch.zeros(1, 3, 6, 6), torch.zeros(1, 3, 6, 6)) == 1


def test_frechet_distance_by_hand():
    # In each feature alone it is (mean - mean')² + (std - std')². Here: means 0 and 3, stds r and 2r, r = sqrt(2).
    assert frechet_distance(torch.tensor([[2.0], [4.0]]) * 2 - 3, torch.tensor([[-1.0], [1.0]])) == pytest.approx(9 + 2)
    # Two features that go together against two that go apart: C C' = 0, so it is the sum of both traces, 4 + 4.
    together, apart = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert frechet_distance(together, apart) == pytest.approx(8)
    assert frechet_distance(together, together) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n, m", [(200, 300), (4, 3)])
def test_frechet_distance_equals_the_references(n, m):
    mix = torch.randn(5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    made, real = draw(n, 1, 0.5) @ mix, draw(m, 2)
    (mean, a), (other, b) = ((x.mean(0).numpy(), np.cov(x.numpy().T)) for x in (made, real))
    if n > 5:
        by_sqrtm = ((mean - other) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
        assert frechet_distance(made, real) == pytest.approx(by_sqrtm, rel=1e-9)
    features = torch.nn.Identity()
    features.num_features = 5
    reference = FrechetInceptionDistance(features)
    reference.update(made, real=False)
    reference.update(real, real=True)
    assert frechet_distance(made, real) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_frechet_distance_of_one_distribution_shrinks_with_the_number_of_pictures():
    few, many = ([frechet_distance(draw(n, k), draw(n, 100 + k)) for k in range(10)] for n in (20, 200))
    assert min(few) > max(many) > 0
    far = torch.full((40, 5), 1e4, dtype=torch.float64)  # features far from 0: nothing cancels
    assert frechet_distance(draw(40, 1) + far, draw(40, 2) + far) == pytest.approx(
        frechet_distance(draw(40, 1), draw(40, 2)), abs=1e-6
    )


@pytest.mark.parametrize("made, real", [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4, 3)), ((4, 3), (1, 3))])
def test_frechet_distance_refuses_what_it_cannot_compare(made, real):
    with pytest.raises(ValueError, match="at least two pictures each"):
        frechet_distance(torch.zeros(made), torch.zeros(real))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_distances_refuse_what_is_no_number(measure):
    broken = draw(4, 1)
    broken[1, 2] = math.nan
    with pytest.raises(ValueError, match="1 that are not, in real"):
        measure(draw(4, 2), broken)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("scale", [1e200, 1e300])
def test_distances_that_overflow_are_not_zero(measure, scale):
    with pytest.raises(ValueError, match="scale both sets down"):
        measure(draw(5, 1) * scale, draw(5, 2))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_distances_of_constant_features(measure):
    same = torch.ones(4, 3)
    assert measure(same, same) == pytest.approx(0, abs=1e-9) and measure(same + 1, same) > 0.5


def test_compare_measures_samples_and_the_floor_with_the_same_counts():
    made, real = draw(40, 1, 1.0), draw(100, 2)
    found = compare(made, real, "five random features")
    assert (found.made, found.real) == (40, 60)
    assert found.frechet > 5 * found.frechet_floor > 0 and found.kernel > 5 * abs(found.kernel_floor)
    # were the samples the real pictures that the floor is made of, both would be equal
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    same = compare(real[order[:40]], real, "five random features")
    assert (same.frechet, same.kernel) == (same.frechet_floor, same.kernel_floor)
    assert (same.frechet_floor, same.kernel_floor) == (found.frechet_floor, found.kernel_floor)
    assert found.frechet == pytest.approx(frechet_distance(made, real[order[40:]]))
    assert found.kernel == pytest.approx(kernel_distance(made, real[order[40:]]))


def test_a_comparison_prints_all_that_it_means_something_with():
    line = str(compare(draw(4, 1), draw(9, 2), "features of scenes-judge")._replace(frechet=12.3456, kernel=0.05))
    assert line.startswith("Fréchet 12.35 (floor ") and "kernel 0.0500 (floor " in line
    assert line.endswith("): 4 samples against 5 real pictures, features of scenes-judge")


def test_compare_needs_real_pictures_for_the_floor():
    with pytest.raises(ValueError, match="twice as many real pictures as samples, 8 for the floor.*got 11.*measure 5"):
        compare(draw(8, 1), draw(11, 2), "five random features")


def test_the_paired_interval_is_student_s():
    one, other = [0.5, 0.6, 0.9, 0.4], [0.6, 0.6, 1.1, 0.5]
    expected = pytest.importorskip("scipy.stats").ttest_rel(other, one).confidence_interval(0.9)
    mean, low, high = paired_interval(one, other, level=0.9)
    assert mean == pytest.approx(0.1) and (low, high) == pytest.approx((expected.low, expected.high))
    assert paired_interval([1, 2, 3], [2, 3, 4]) == (1, 1, 1)  # equal differences leave no doubt


@pytest.mark.parametrize(
    "one, other", [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0, float("nan")])]
)
def test_a_paired_interval_needs_pairs(one, other):
    with pytest.raises(ValueError, match="expected"):
        paired_interval(one, other)
