"""Maps of clouds, and what compressions get wrong in each band."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, Ellipse

from minildm import viz

MEANS = torch.tensor([[0.5, -1.0], [-2.5, 0.25], [1.0, 3.0]])
DEVIATIONS = torch.tensor([[0.1, 0.2], [0.5, 0.3], [0.0, 0.0]])
COLOURS = ["red", "blue", "green"]
PICTURES = torch.linspace(-1, 1, 9)[:, None, None, None].expand(9, 3, 2, 2)  # a lattice of 3×3, ever brighter


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_cloud_is_an_ellipse_of_two_deviations():
    figure = viz.clouds({"a": (MEANS, DEVIATIONS), "b": (MEANS, DEVIATIONS)}, {"a": PICTURES, "b": PICTURES}, COLOURS)
    above = figure.axes[0]
    ellipses = [patch for patch in above.patches if isinstance(patch, Ellipse) and not isinstance(patch, Circle)]
    filled, drawn = ellipses[::2], ellipses[1::2]
    for ellipses in (filled, drawn):
        assert [patch.get_center() for patch in ellipses] == [tuple(mean) for mean in MEANS.tolist()]
        np.testing.assert_allclose([[e.width, e.height] for e in ellipses], 4 * DEVIATIONS)
    (prior,) = [patch for patch in above.patches if isinstance(patch, Circle)]
    assert prior.get_radius() == 2 and prior.get_center() == (0, 0)
    assert above.get_xlim()[0] <= -3.5 and above.get_ylim()[1] >= 3.0  # nothing is cut off
    assert len(figure.axes) == 4 and figure.axes[2].get_title() == "decoded from -2 to 2"


def test_a_lattice_is_laid_out_row_by_row_from_the_top_left():
    figure = viz.clouds(
        {"a": (MEANS, DEVIATIONS)},
        {"a": PICTURES},
        COLOURS,
        marks="osv",
        area=(-1, 5, 0, 6),
        prior=False,
        title="one",
        note="o: a disc",
    )
    above, below = figure.axes
    (shown,) = below.images
    sheet = np.asarray(shown.get_array())
    assert sheet.shape == (6, 6, 3) and (np.diff(sheet[::2, ::2, 0].flatten().astype(int)) > 0).all()
    assert tuple(shown.get_extent()) == (-1, 5, 0, 6) and above.get_xlim() == (-1, 5) and above.get_ylim() == (0, 6)
    assert not [patch for patch in above.patches if isinstance(patch, Circle)]
    assert [line.get_marker() for line in above.lines] == ["o", "s", "v"]
    assert [line.get_marker() for line in below.lines] == ["o", "s", "v"]  # on what is decoded there, too
    assert below.get_xlim() == (-1, 5) and below.get_ylim() == (0, 6)
    assert figure.get_suptitle() == "one" and figure.get_supxlabel() == "o: a disc"


def test_each_map_may_have_an_area_of_its_own():
    areas = {"a": (-4, 4, -4, 4), "b": (-9, 9, -8, 10)}
    maps, drawn = dict.fromkeys(areas, (MEANS, DEVIATIONS)), dict.fromkeys(areas, PICTURES)
    figure = viz.clouds(maps, drawn, COLOURS, area=areas)
    for panel, area in zip(figure.axes, 2 * list(areas.values()), strict=True):
        assert (*panel.get_xlim(), *panel.get_ylim()) == area
    assert [panel.images[0].get_extent() for panel in figure.axes[2:]] == [list(area) for area in areas.values()]
    assert {panel.get_title() for panel in figure.axes[2:]} == {"what is decoded there"}
    with pytest.raises(ValueError, match="area for each of"):
        viz.clouds(maps, drawn, COLOURS, area={"a": areas["a"]})


def test_bands_draws_every_compression_under_its_picture():
    wrong = {"good": [0.001, 0.01, 0.1], "poor": torch.tensor([0.01, 0.5, 1.0])}
    figure = viz.bands(
        ["mean", "1 to 2", "2 to 4"], wrong, {"picture": PICTURES[0], "good": PICTURES[1]}, shares=[0.6, 0.3, 0.1]
    )
    *pictures, axis = figure.axes
    assert [one.get_title() for one in pictures] == ["picture", "good"]
    first, second, dashed = axis.lines
    np.testing.assert_allclose(first.get_ydata(), wrong["good"])
    np.testing.assert_allclose(second.get_ydata(), wrong["poor"])
    assert dashed.get_linestyle() == "--"
    assert {"good", "poor"} <= {text.get_text() for text in axis.texts}
    heights = sorted(text.get_position()[1] for text in axis.texts[:2])
    assert axis.get_ylim()[0] == pytest.approx(1e-4)
    assert heights[1] >= 2.2 * heights[0]  # the names do not lie on each other
    wide = viz.bands(["1 to 2", "2 to 4"], {"one": [1e-6, 1.0], "other": [0.1, 0.9]}, {"picture": PICTURES[0]})
    one, other = wide.axes[-1].texts
    apart = one.get_window_extent().get_points()[:, 1], other.get_window_extent().get_points()[:, 1]
    assert max(bottom for bottom, _ in apart) > min(top for _, top in apart)
    assert min(text.get_fontsize() for text in axis.texts) >= 9


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="a row for each colour"):
        viz.clouds({"a": (MEANS, DEVIATIONS)}, {"a": PICTURES}, COLOURS[:2])
    with pytest.raises(ValueError, match="square lattice, got 8"):
        viz.clouds({"a": (MEANS, DEVIATIONS)}, {"a": PICTURES[:8]}, COLOURS)
    with pytest.raises(ValueError, match="3 numbers for 'good', one for each band"):
        viz.bands(["a", "b", "c"], {"good": [0.1]}, {"picture": PICTURES[0]})
