from dataclasses import replace

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex

from minildm import viz
from minildm.layers import ResidualBlock


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def test_each_layer_stands_under_the_one_before():
    (axis,) = viz.blocks({"2015": viz.CONV_BLOCK}).axes
    assert axis.get_title() == "2015"
    layers = [text for text in axis.texts if text.get_text() in viz.CONV_BLOCK.parts]
    assert [text.get_text() for text in layers] == list(viz.CONV_BLOCK.parts)
    assert [text.get_position()[1] for text in layers] == [-1, -2, -3, -4]


def test_a_residual_block_is_drawn_as_it_is():
    names = {"GroupNorm": "GroupNorm", "Conv2d": "3×3 convolution"}
    parts = [names.get(type(module).__name__) for module in ResidualBlock(8, 8).children()]
    drawn = [part for part in viz.RESIDUAL_BLOCK.parts if part in names.values()]
    assert drawn == [part for part in parts if part]  # the identity of the shortcut is the path around
    (axis,) = viz.blocks({"": viz.RESIDUAL_BLOCK}).axes
    assert words(axis).count("+") == 1 and "shortcut" in words(axis)
    (path,) = axis.lines
    assert path.get_ydata()[0] > -1 and path.get_ydata()[-1] == -7  # from above the first layer to the sum


def test_what_a_lesson_adds_has_a_frame_of_its_own():
    (axis,) = viz.blocks({"": viz.TIME_BLOCK}).axes
    framed = [patch for patch in axis.patches if to_hex(patch.get_edgecolor()).upper() == viz.ORANGE]
    assert len(framed) == 3 and {"digested time", "linear"} < set(words(axis))
    (axis,) = viz.blocks({"": replace(viz.TIME_BLOCK, new=())}).axes
    assert not [patch for patch in axis.patches if to_hex(patch.get_edgecolor()).upper() == viz.ORANGE]


def test_blocks_side_by_side_are_readable_and_do_not_overlap():
    drawn = {"a residual block": viz.RESIDUAL_BLOCK, "a block that is told the time": viz.TIME_BLOCK}
    figure = viz.blocks(drawn | {"attention": viz.TRANSFORMER_BLOCK}, title="three blocks")
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "three blocks"
    boxes = [axis.get_window_extent() for axis in figure.axes]
    assert all(one.x1 <= other.x0 + 1 for one, other in zip(boxes, boxes[1:], strict=False))
    sizes = [text.get_fontsize() for axis in figure.axes for text in [*axis.texts, axis.title]]
    assert min(sizes) >= 9


@pytest.mark.parametrize(
    "wrong",
    [{"new": (4,)}, {"beside": {9: "time"}}, {"around": ((0, -1),)}, {"around": ((5, 1),)}],
)
def test_a_part_that_is_not_there_is_refused(wrong):
    with pytest.raises(ValueError, match="parts from 0 to 3"):
        viz.blocks({"": replace(viz.CONV_BLOCK, **wrong)})


def test_a_path_ends_in_a_joint():
    with pytest.raises(ValueError, match='ends in "\\+" or "concat", got \'ReLU\''):
        viz.blocks({"": replace(viz.CONV_BLOCK, around=((0, 1),))})
