"""A tiny autoencoder of portraits, with a plane for a latent, and how near to real portraits it draws."""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data
from minildm.autoencoder import Gaussian
from minildm.data.scenes import bounding_box
from minildm.images import to_model

PORTRAITS = 1_500


@cache
def portraits() -> Tensor:
    """Circles, squares and hearts in several colours, cut out of scenes. (1500, 3, 16, 16) in [-1, 1]"""
    some = data.scene_arrays(PORTRAITS, 6, tasks=["colour"])
    cut = []
    for image, mask in zip(some.images, some.masks, strict=True):
        x0, y0, x1, y1 = bounding_box(mask)
        cut.append(F.interpolate(to_model(image[y0:y1, x0:x1]), (16, 16), mode="area"))
    return torch.cat(cut)


def _mlp(*sizes):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


class Tiny(nn.Module):
    """An autoencoder of portraits, whose latent is a place in the plane."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = _mlp(768, 128, 128, 4), _mlp(2, 128, 128, 768)

    def encode(self, x: Tensor) -> Gaussian:
        """The cloud of each portrait. (b, 3, 16, 16) -> mean and logvar, (b, 2) each"""
        return Gaussian(*self.encoder(x.flatten(1)).chunk(2, dim=1))

    def decode(self, z: Tensor) -> Tensor:
        """What stands at a place. (b, 2) -> (b, 3, 16, 16)"""
        return self.decoder(z).unflatten(1, (3, 16, 16))


def loss(net: Tiny, batch: Mapping[str, Tensor], kl: float) -> Tensor:
    """The mean squared error of pixels, and kl times the nats per number of the latent. batch: x, eps. -> scalar"""
    cloud = net.encode(batch["x"])
    error = (net.decode(cloud.at(batch["eps"])) - batch["x"]).square().mean()
    return error + kl * cloud.kl().mean() / 2


def to_nearest(pictures: Tensor) -> float:
    """The RMS distance of pictures (n, 3, 16, 16) to the nearest of all portraits, mean over the pictures."""
    distance = torch.cdist(pictures.flatten(1), portraits().flatten(1)).min(1).values
    return distance.mean().item() / 768**0.5


def places(mean: Tensor) -> dict[str, Tensor]:
    """Four kinds of places, 400 of each, for the means (n, 2) of portraits: see the evidence of lesson 06."""
    dice = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    fitted = mean.mean(0) + dice @ torch.linalg.cholesky(torch.cov(mean.T)).T
    other = mean[torch.randperm(len(mean), generator=torch.Generator().manual_seed(2))]
    return {"N(0, 1)": dice, "fitted": fitted, "halfway": (mean + other)[:400] / 2, "own": mean[:400]}


@torch.no_grad()
def exam(net: Tiny) -> dict[str, float]:
    """`to_nearest` from each of `places`; the RMS error of rebuilding; the means' spread; a cloud's mean deviation."""
    cloud = net.encode(portraits())
    found = {where: to_nearest(net.decode(z)) for where, z in places(cloud.mean).items()}
    found["rebuilt"] = (net.decode(cloud.mean) - portraits()).square().mean().sqrt().item()
    return found | {"spread": cloud.mean.std().item(), "cloud": cloud.std.mean().item()}
