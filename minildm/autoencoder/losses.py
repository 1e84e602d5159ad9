"""Losses of the autoencoder: reconstruction, Kullback-Leibler divergence, perceptual distance, adversarial loss.

The first two are always there. The others are for what differences of pixels do not see: they would rather blur an
edge than put it in the wrong place. As in all training here, the randomness comes with the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from minildm.autoencoder.network import AutoencoderKL, Gaussian
from minildm.layers import group_norm
from minildm.tensors import check_images

Features = Callable[[Tensor], Sequence[Tensor]]  # pictures (b, c, h, w) -> feature maps (b, d, h', w')


def draw_latent(x: Tensor, model: AutoencoderKL, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise for the latent of each picture: all the randomness of a training step. -> {"x", "eps"}

    x: (b, in_channels, h, w) in [-1, 1].  generator: the noise is drawn on its device, and goes to that of x.
    """
    check_images(x, model.in_channels, model.multiple)
    shape = len(x), model.latent_channels, *(side // model.multiple for side in x.shape[2:])
    eps = torch.randn(shape, generator=generator, dtype=x.dtype, device=generator.device)
    return {"x": x, "eps": eps.to(x.device)}


def perceptual_distance(features: Features, x: Tensor, x_hat: Tensor) -> Tensor:
    """Perceptual distance: how far apart pictures are in a network's features. (b, c, h, w) twice -> (b,), from 0 to 4

    features: feature maps of a frozen network, such as the `encode` of a trained U-Net. In each map the channels of a
        place are scaled to length 1; the squared distance of these vectors is averaged over places, then over maps.
    Gradients flow into x_hat alone.
    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), equation 1,
    with equal weights for all channels.
    """
    with torch.no_grad():
        true = features(x)
    distances = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean((1, 2))
        for a, b in zip(true, features(x_hat), strict=True)
    ]
    return torch.stack(distances).mean(0)


def loss_terms(x: Tensor, x_hat: Tensor, posterior: Gaussian, features: Features | None = None) -> dict[str, Tensor]:
    """The parts of the loss before they are weighted, each a scalar.

    l1, l2: mean absolute and mean squared difference of x and x_hat.  kl: nats per number of the latent.
    perceptual: mean `perceptual_distance`, where features are given.
    """
    difference = x_hat.float() - x.float()
    terms = {"l1": difference.abs().mean(), "l2": difference.square().mean()}
    terms["kl"] = posterior.kl().mean() / posterior.mean[0].numel()
    if features is not None:
        terms["perceptual"] = perceptual_distance(features, x, x_hat).mean()
    return terms


def autoencoder_loss(
    model: AutoencoderKL,
    batch: dict[str, Tensor],
    *,
    l1: float = 1.0,
    l2: float = 1.0,
    kl: float = 1e-4,
    perceptual: float = 1.0,
    features: Features | None = None,
    adversarial: float = 0.5,
    critic: nn.Module | None = None,
) -> Tensor:
    """The training loss: `loss_terms` times their weights, and what a critic adds. -> scalar

    A pure function, as `training.train` wants it: partial(autoencoder_loss, kl=1e-5).
    batch: x and eps, as from `draw_latent`.
    critic: a discriminator, pictures -> logits, such as `PatchDiscriminator`. features, critic: None leaves the
        perceptual and the adversarial term out.
    adversarial: norm of the critic's gradient at the decoder's last layer, as a part of that of all other terms.
        The critic's own loss is in the sum; neither network gets gradients from the other's.
    Sources: Rombach et al. (2022), appendix G; the balance, Esser et al., "Taming Transformers for High-Resolution
    Image Synthesis" (2021), equation 7.
    """
    x, posterior = batch["x"], model.encode(batch["x"])
    x_hat = model.decode(posterior.at(batch["eps"]))
    weights = {"l1": l1, "l2": l2, "kl": kl, "perceptual": perceptual}
    loss = sum(weights[name] * term for name, term in loss_terms(x, x_hat, posterior, features).items())
    if critic is None:
        return loss
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    fooled = -functional_call(critic, frozen, x_hat).float().mean()
    balance = _balance(loss, fooled, model.decoder.head.weight) if torch.is_grad_enabled() else 1.0
    return loss + adversarial * balance * fooled + hinge_loss(critic(x), critic(x_hat.detach()))


def paired_loss(pair: nn.ModuleDict, batch: dict[str, Tensor], **options: Any) -> Tensor:
    """`autoencoder_loss` of an autoencoder and its critic, as one model for one `training.train`. -> scalar

    pair: nn.ModuleDict({"autoencoder": ..., "critic": PatchDiscriminator()}). Begin with an autoencoder that was
        trained without: a critic of poor pictures has learned to reject them before it could teach anything.
    options: further arguments of `autoencoder_loss`.
    """
    return autoencoder_loss(pair["autoencoder"], batch, critic=pair["critic"], **options)


class PatchDiscriminator(nn.Module):
    """A discriminator of patches: (b, in_channels, h, w) -> logits (b, 1, h', w'), high where a patch looks real.

    channels: width of each level; each halves the size. By default it sees patches of 38×38 pixels.
    Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017), section 3.2.2,
    but normalised in groups, so that pictures of a batch are judged one by one.
    """

    def __init__(self, in_channels: int = 3, channels: Sequence[int] = (32, 64, 128)):
        super().__init__()
        layers, width = [], in_channels
        for level, out in enumerate(channels):
            layers.append(nn.Conv2d(width, out, 4, stride=2, padding=1))  # all pixels count alike: the stride divides 4
            layers += [group_norm(out)] if level else []  # a norm of the first would hide the contrast
            layers.append(nn.LeakyReLU(0.2))
            width = out
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator: 0 once logits are above 1 for the real and below -1 for the fake. -> scalar

    Source: Lim and Ye, "Geometric GAN" (2017).
    """
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def _balance(loss, fooled, weight):
    """How many times as long the gradient of `loss` is at a weight as that of `fooled`."""
    ours, theirs = (torch.autograd.grad(term, weight, retain_graph=True)[0].norm() for term in (loss, fooled))
    return (ours / (theirs + 1e-4)).clamp(max=1e4)
