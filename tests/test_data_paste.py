import numpy as np
import pytest

from minildm.data import paste


def scene():
    """A dim ramp with noise, on it three bright squares; one of them touches the edge, two touch each other."""
    generator = np.random.default_rng(0)
    image = np.linspace(0, 1, 40)[:, None] + 0.01 * generator.standard_normal((40, 50))
    mask = np.zeros((40, 50), int)
    mask[0:6, 10:16], mask[20:27, 20:28], mask[27:33, 20:28] = 3, 7, 9
    return np.where(mask > 0, 5.0, image), mask


def test_only_whole_objects_are_cut_out():
    image, mask = scene()
    whole = paste.cutouts(image, mask)
    assert [cut.image.shape for cut in whole] == [(7, 8), (6, 8)]
    assert all(cut.inside.all() and (cut.image == 5).all() for cut in whole)


def test_a_cutout_knows_its_own_pixels_from_its_neighbours():
    mask = np.zeros((9, 9), int)
    mask[2:7, 2:7], mask[4:7, 4:7] = 1, 2
    first, second = paste.cutouts(np.ones((9, 9)), mask)
    assert first.inside.sum() == 16 and not first.inside[3, 3] and second.inside.all()


def test_the_ground_has_no_objects_and_is_lit_like_its_surroundings():
    image, mask = scene()
    bare = paste.ground(image, mask, np.random.default_rng(1))
    hidden = mask > 0
    assert bare[hidden].max() < 1.5 and image[hidden].min() == 5
    ramp = np.broadcast_to(np.linspace(0, 1, 40)[:, None], image.shape)
    assert np.abs((bare - ramp)[20:33, 20:28]).max() < 0.2
    assert np.array_equal(bare[:, 35:], image[:, 35:])  # far from all objects nothing changes


def test_later_objects_lie_on_top_and_what_reaches_out_is_cut():
    ground = np.zeros((6, 7))
    first = paste.Cutout(np.full((3, 3), 1.0), np.ones((3, 3), bool))
    second = paste.Cutout(np.full((2, 4), 2.0), np.array([[True, True, True, False], [True] * 4]))
    image, mask = paste.compose(ground, [first, second, first], [(1, 1), (2, 2), (-2, 5)])
    assert not ground.any() and image.dtype == ground.dtype
    assert mask.tolist() == [
        [0, 0, 0, 0, 0, 3, 3],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 1, 2, 2, 2, 0, 0],
        [0, 1, 2, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert np.array_equal(image, np.array([0, 1, 2, 1])[mask])


def test_pasted_pairs_repeat_with_their_seed_and_cover_about_as_much():
    image, mask = scene()
    pairs = paste.pasted(image, mask, 60, 24, seed=3)
    again = paste.pasted(image, mask, 60, 24, seed=3)
    assert all(
        np.array_equal(a, b) for one, two in zip(pairs, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not np.array_equal(pairs[0][0], paste.pasted(image, mask, 1, 24, seed=4)[0][0])
    assert {picture.shape for pair in pairs for picture in pair} == {(24, 24)}
    covered = np.mean([(labels > 0).mean() for _, labels in pairs])
    assert covered == pytest.approx((mask > 0).mean(), rel=0.4)
    for picture, labels in pairs:  # every object is bright, and nothing else is
        assert np.array_equal(picture == 5, labels > 0)


def test_objects_are_turned_and_mirrored():
    generator = np.random.default_rng(0)
    cut = paste.Cutout(np.arange(6.0).reshape(2, 3), np.ones((2, 3), bool))
    seen = {paste._turned(cut, generator).image.tobytes() for _ in range(100)}
    assert len(seen) == 8


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda image, mask: paste.cutouts(image[1:], mask), "one shape"),
        (lambda image, mask: paste.cutouts(image[:6], mask[:6]), "found none"),
        (lambda image, mask: paste.ground(image, np.ones_like(mask), np.random.default_rng(0)), "smaller margin"),
        (lambda image, mask: paste.pasted(image, mask, 1, 41), "at least 41×41"),
    ],
)
def test_what_cannot_be_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(*scene())
