"""Checks of lesson 08: captions that find their pictures, and maps of words."""

import torch
import torch.nn.functional as F

from ._check import Exercise, exercise


@exercise
def retrieval() -> Exercise:
    """Exercise 2: `answer(text, image)`, features (b, d) of b pairs -> the share of captions that find theirs."""
    draw = torch.Generator().manual_seed(8)
    cases = []
    for b, d in ((3, 2), (6, 4), (9, 5), (12, 3)):
        image = torch.randn(b, d, generator=draw, dtype=torch.float64)
        text = image + 0.7 * torch.randn(b, d, generator=draw, dtype=torch.float64)
        lengths = torch.rand(2, b, 1, generator=draw, dtype=torch.float64) * 5 + 0.2
        cases.append((text * lengths[0], image * lengths[1]))

    def share(scores, axis=1, finish=lambda hits: hits.double().mean()):
        def apply(text, image):
            return finish(scores(text, image).argmax(axis) == torch.arange(len(text)))

        return apply

    def cosines(text, image):
        return F.normalize(text, dim=1) @ F.normalize(image, dim=1).T

    mistakes = {
        "lengths count: divide each picture's features by their length, or a long one is found by everybody": share(
            lambda text, image: text @ image.T
        ),
        "here each picture finds its caption; asked is the reverse": share(cosines, axis=0),
        "that is how many, not which share of them": share(cosines, finish=lambda hits: hits.sum()),
        "expected the share of all captions, not an answer for each": share(cosines, finish=lambda hits: hits),
        "normalised over the batch (dim=0) instead of over the features": share(
            lambda text, image: F.normalize(text, dim=0) @ F.normalize(image, dim=0).T
        ),
        "that is the mean cosine of the pairs; asked is how often it is the largest": (
            lambda text, image: cosines(text, image).diagonal().mean()
        ),
    }
    return Exercise(share(cosines), cases, mistakes)


@exercise
def share_inside() -> Exercise:
    """Exercise 3: `answer(maps, masks)`, both (b, h, w), masks bool -> (b,) shares of each map that lie in its mask."""
    draw = torch.Generator().manual_seed(9)
    cases = []
    for shape in ((1, 3, 2), (2, 4, 5), (3, 6, 4)):
        maps = torch.rand(shape, generator=draw, dtype=torch.float64) ** 3
        masks = torch.rand(shape, generator=draw) < 0.4
        masks[:, 0, 1] = True
        cases.append((maps, masks))

    def inside(maps, masks):
        return (maps * masks).sum((1, 2))

    mistakes = {
        "divide by all of the map, so that a faint map and a strong one can be compared": inside,
        "a mean over all places has their number below the bar, not the map: sum both, or divide by the map's mean": (
            lambda maps, masks: (maps * masks).mean((1, 2))
        ),
        "a sum divided by a mean: take the same of both": (lambda maps, masks: inside(maps, masks) / maps.mean((1, 2))),
        "a mean divided by a sum: take the same of both": (
            lambda maps, masks: (maps * masks).mean((1, 2)) / maps.sum((1, 2))
        ),
        "divided by the mask's area: that is the mean inside, not the share": (
            lambda maps, masks: inside(maps, masks) / masks.sum((1, 2))
        ),
        "divided by what lies outside; asked is the share of the whole": (
            lambda maps, masks: inside(maps, masks) / inside(maps, ~masks)
        ),
        "that is how much larger the map is inside than on average": (
            lambda maps, masks: inside(maps, masks) / masks.sum((1, 2)) / maps.mean((1, 2))
        ),
        "one share for each map, not for all of them together": (
            lambda maps, masks: (maps * masks).sum() / maps.sum() * torch.ones(len(maps))
        ),
        "that is the share of the places, whatever the map says": (lambda maps, masks: masks.double().mean((1, 2))),
        "that is the share outside the mask": lambda maps, masks: inside(maps, ~masks) / maps.sum((1, 2)),
    }
    return Exercise(lambda maps, masks: inside(maps, masks) / maps.sum((1, 2)), cases, mistakes)
