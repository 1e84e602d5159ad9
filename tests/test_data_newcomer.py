import numpy as np
import pytest

from minildm import data, likeness
from minildm.data import newcomer
from minildm.data.vocabulary import THINGS


def test_the_new_thing_is_none_that_scenes_show():
    assert newcomer.CODEPOINT not in {thing.codepoint for thing in THINGS.values()}
    assert newcomer.NAME not in " ".join(data.VOCABULARY).split()


def test_a_picture_depends_on_its_number_and_seed_alone():
    few, many, other = data.newcomers(2, seed=3), data.newcomers(5, seed=3), data.newcomers(2, seed=4)
    assert few.images.shape == (2, 64, 64, 3) and few.images.dtype == np.uint8
    assert np.array_equal(few.images, many.images[:2]) and np.array_equal(few.masks, many.masks[:2])
    assert not np.array_equal(few.images, other.images)


def test_the_mask_is_where_the_drawing_is():
    images, masks = data.newcomers(20, seed=1)
    for image, mask in zip(images.astype(int), masks, strict=True):
        ground = np.median(image[~mask], axis=0)
        apart = np.abs(image - ground).max(2)
        assert 100 < mask.sum() < 1500 and not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
        assert np.median(apart[mask]) > 60 > np.percentile(apart[~mask], 95)
    assert len({mask.sum() for mask in masks}) == len(newcomer.SCALES)
    assert len({image[0, 0].tobytes() for image in images}) > 5  # several grounds


def test_another_drawing_can_be_new():
    heart = data.newcomers(1, codepoint="2764").images
    assert not np.array_equal(heart, data.newcomers(1).images)
    with pytest.raises(FileNotFoundError, match="no drawing"):
        data.newcomers(1, codepoint="nothing")


@pytest.mark.parametrize("how", [dict(n=0), dict(n=1, size=32)])
def test_arguments_that_make_no_pictures_are_refused(how):
    with pytest.raises(ValueError, match="expected n from 1"):
        data.newcomers(**how)


def test_likeness_knows_a_drawing_that_the_vocabulary_has_not():
    new = data.newcomers(3).images
    old = data.scene_arrays(3, 0, tasks="one object").images
    own, other = (likeness.unexplained_by(some, newcomer.poses()) for some in (new, old))
    assert own.max() < 0.1 and other.min() > 0.5
    with pytest.raises(ValueError, match="64×64"):
        likeness.unexplained_by(np.zeros((1, 32, 32, 3), np.uint8), newcomer.poses())
