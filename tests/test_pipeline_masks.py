"""Masks on their way to the latents: as Stable Diffusion was trained with, but nothing that is masked gets lost."""

import pytest
import torch
import torch.nn.functional as F
from test_pipeline import HOW, apart, build

from minildm.pipeline._inputs import at_latents


def masked(*parts, size=(32, 48)):
    mask = torch.zeros(1, 1, *size)
    for rows, columns in parts:
        mask[..., slice(*rows), slice(*columns)] = 1
    return mask


@pytest.mark.parametrize(
    "parts",
    [
        [((21, 23), (21, 23))],
        [((29, 32), (0, 48))],
        [((3, 4), (3, 4))],
        [((0, 32), (47, 48))],
        [((5, 7), (1, 3)), ((29, 31), (45, 47))],
        [((0, 32), (0, 24)), ((13, 15), (41, 43))],  # a speck beside a large region
    ],
    ids=["dot", "line", "corner", "edge", "two dots", "a region and a dot"],
)
@pytest.mark.parametrize("f", [4, 8])
def test_no_part_of_a_mask_is_lost(parts, f):
    size = 32 // f, 48 // f
    whole = at_latents(masked(*parts), size)
    for part in parts:
        alone = F.adaptive_max_pool2d(masked(part), size)
        assert (whole * alone).any()
        assert at_latents(masked(part), size).any()
    assert not (whole * (1 - F.adaptive_max_pool2d(masked(*parts), size))).any()  # and nothing else is painted anew


@pytest.mark.parametrize("rows", [(0, 8), (7, 22), (1, 30), (9, 13)])
@pytest.mark.parametrize("columns", [(0, 48), (9, 40), (3, 26)])
def test_a_region_is_the_first_pixel_of_each_square(rows, columns):
    """As the U-Nets for inpainting were trained with, and as diffusers does it."""
    mask = masked((rows, columns))
    assert torch.equal(at_latents(mask, (8, 12)), F.interpolate(mask, size=(8, 12), mode="nearest"))


def test_each_picture_has_its_own_mask():
    dot, region = masked(((21, 23), (21, 23))), masked(((4, 20), (6, 31)))
    both = at_latents(torch.cat([dot, region]), (8, 12))
    assert torch.equal(both, torch.cat([at_latents(dot, (8, 12)), at_latents(region, (8, 12))]))
    assert not at_latents(masked(), (8, 12)).any() and at_latents(1 - masked(), (8, 12)).all()


@pytest.mark.parametrize("part", [((1, 2), (1, 2)), ((7, 8), (0, 12)), ((0, 8), (11, 12))])
def test_what_is_masked_is_painted_anew(part):
    pipe, picture = build(), torch.full((1, 3, 8, 12), 0.8)
    how = HOW | dict(image=picture)
    assert (
        apart(pipe("a cat", mask=masked(part, size=(8, 12)), **how), pipe("a cat", mask=masked(size=(8, 12)), **how))
        > 1e-3
    )
