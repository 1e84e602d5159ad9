import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz
from minildm.segmentation import border_weights, depth


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def touching():
    """Two squares side by side, of labels 3 and 7."""
    mask = np.zeros((12, 30), int)
    mask[2:10, 4:14], mask[2:10, 14:26] = 3, 7
    return mask


def test_the_u_of_2015_names_every_part_of_every_level():
    (axis,) = viz.u_2015((4, 8, 16)).axes
    said = [text.get_text() for text in axis.texts]
    for name in ("first", "head", *(f"{part}[{k}]" for part in ("down", "up", "grow") for k in range(2))):
        assert said.count(name) == 1, name
    assert "down[2]" not in said and said.count("cat") == said.count("max pool") == 2
    assert [text for text in said if "channels" in text] == [
        "h × w\n4 channels",
        "h/2 × w/2\n8 channels",
        "h/4 × w/4\n16 channels",
    ]
    assert min(text.get_fontsize() for text in axis.texts) >= 9


def test_targets_are_drawn_along_the_line_with_the_seam_where_it_is():
    mask = touching()
    maps = depth(mask), border_weights(mask)
    figure = viz.targets(mask * 20.0, mask, *maps, line=((4, 5), (25, 5)))
    *pictures, profile = figure.axes
    assert pictures[1].get_title() == f"depth: hills (0 to {maps[0].max():.1f})"
    assert len(pictures) == 3 and all(tuple(axis.lines[0].get_xdata()) == (4, 25) for axis in pictures)
    deep, weight, seam = profile.lines
    assert deep.get_ydata() == pytest.approx(maps[0][5, 4:26])
    assert weight.get_ydata().max() == 1 and weight.get_ydata().argmax() in (9, 10)
    assert seam.get_xdata()[0] == 9.5  # between columns 13 and 14, which are 9 and 10 pixels along the line


def test_what_several_methods_find_is_counted_in_the_same_picture():
    mask = touching()
    figure = viz.found_in(mask, mask, {"joined": (mask > 0).astype(int), "parted": mask}, "one picture")
    said = [axis.get_title() for axis in figure.axes]
    assert said == [
        "joined: found 1 (blue), missed 1 (orange), invented 0 (pink)",
        "parted: found 2 (blue), missed 0 (orange), invented 0 (pink)",
    ]
    assert all({"top", "bottom"} == {text.get_text() for text in axis.texts} for axis in figure.axes)
    assert figure.axes[0].images[0].get_array().shape == (30, 12) and figure.get_suptitle() == "one picture"
