"""The pocket's own autoencoder: pictures of 64×64 as latents of 8×8×16 that are easy to predict, not only precise.

A painter's latents are never exact. So noise is added to the latents while the autoencoder learns: whatever a drawing
needs is spread over many numbers, and what a small error would change the decoder learns to ignore.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from minildm import data
from minildm.autoencoder import AutoencoderKL
from minildm.images import to_model
from minildm.recipes.vae_pocket import L2, drawings
from minildm.tensors import best_device, fast_bfloat16, seeded
from minildm.training import History, train

STEPS, DECODER_STEPS, BATCH, LR = 1_800, 900, 32, 2e-3
SEED, DECODER_SEED = 3, 11  # of the scenes
REPAINTED = 0.7  # of a batch, once there is a U-Net to learn from
NOISE = 0.7  # the largest spread of noise, in latents of spread 1, in the training of both parts
DRAWINGS = 0.15  # of a batch; they are no scenes, and keep a little more of their detail: this share of the noise
# What the decoder is finetuned on: most of all single things, which are largest and show every fault.
DECODER_SHARES = {"one object": 14, "colour": 2, "two objects": 6, "counting": 5, "position": 5}


def network(seed: int = 0, **config: Any) -> AutoencoderKL:
    """The untrained autoencoder, one that diffusers has a class for; other sizes by `config`."""
    pocket = dict(latent_channels=16, channels=(16, 48, 64, 96), groups=8, middle_attention=False)
    with seeded(seed):
        return AutoencoderKL(**pocket | config)


def fit(model: AutoencoderKL, steps: int = STEPS, seed: int = 0, noise: float = NOISE, **options: Any) -> History:
    """Train `model` on scenes and some drawings, its latents standardised and then noised up to `noise`.

    Standardised, for otherwise it would learn latents so large that the noise does not count. Afterwards the encoder
    gives standardised latents itself. Source: Zheng et al., "Diffusion Transformers with Representation Autoencoders"
    (2025), noise-augmented decoding, here for both parts.
    """
    flat = drawings()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        few = round(n * DRAWINGS)
        start = int(torch.randint(2**40, (), generator=generator))
        scenes = _scenes(n - few, start)
        drawn = flat[torch.randint(len(flat), (few,), generator=generator)]
        spread = noise * torch.rand(n, 1, 1, 1, generator=generator)
        spread[n - few :] *= DRAWINGS
        x = torch.cat([scenes, to_model(drawn)])
        return {"x": x, "error": spread * torch.randn(_latent_shape(model, n, x), generator=generator)}

    def loss(model: AutoencoderKL, tensors: dict[str, Tensor]) -> Tensor:
        z = standardised(model.encode(tensors["x"]).mean.float()) + tensors["error"]
        return drawing_loss(model.decode(z), tensors["x"])

    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.995, seed=seed, bfloat16=fast_bfloat16(best_device()))
    history = train(model, batch, loss, **settings | options)
    standardise(model)
    return history


def finetune_decoder(
    model: AutoencoderKL,
    steps: int = DECODER_STEPS,
    seed: int = 0,
    noise: float = NOISE,
    repainted: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> History:
    """Train the decoder on, with latents as a painter leaves them; the encoder stays as it is.

    What a U-Net has learned from the encoder's latents stays true. Before there is a U-Net, its errors are taken for
    noise up to `noise`.
    repainted: scenes (m, 3, h, w) in uint8 and what a U-Net left wrong in their latents, (m, c, h / f, w / f), as
        `pocket.repainted` makes them; they take the share REPAINTED of a batch.
    """

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        k = 0 if repainted is None else round(n * REPAINTED)
        x = torch.cat([_scenes(k, s, task, DECODER_SEED) for task, k, s in _shared_out(n - k, generator)])
        spread = noise * torch.rand(n - k, 1, 1, 1, generator=generator)
        error = spread * torch.randn(_latent_shape(model, n - k, x), generator=generator)
        if k:
            scenes, left_wrong = repainted
            some = torch.randint(len(scenes), (k,), generator=generator)
            x, error = torch.cat([x, to_model(scenes[some])]), torch.cat([error, left_wrong[some].float()])
        return {"x": x, "error": error}

    def loss(model: AutoencoderKL, tensors: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            z = model.scale(model.encode(tensors["x"]).mean)
        return drawing_loss(model.decode(model.unscale(z + tensors["error"])), tensors["x"])

    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("decoder.", "post_quant.")))
    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.995, seed=seed, bfloat16=fast_bfloat16(best_device()))
    history = train(model, batch, loss, **settings | options)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(before[name])
    return history


def drawing_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """Errors of pixels, absolute and squared, and of the differences of neighbours, which are a drawing's lines."""
    error = x_hat.float() - x
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + L2 * error.square().mean() + edges


def standardised(z: Tensor) -> Tensor:
    """A batch of latents (b, c, h, w) with mean 0 and spread 1 in each channel."""
    return (z - z.mean((0, 2, 3), keepdim=True)) / (z.std((0, 2, 3), keepdim=True) + 1e-3)


@torch.no_grad()
def standardise(model: AutoencoderKL, n: int = 1000) -> None:
    """Let the encoder give latents of mean 0 and spread 1 in each channel, measured on n scenes; scale_factor is 1.

    `fit` has let the decoder see no others. The posterior becomes narrow and the same everywhere.
    """
    z = torch.cat([model.encode(part).mean for part in _scenes(n, 2**41).split(100)])
    mean, std, c = z.mean((0, 2, 3)), z.std((0, 2, 3)), model.latent_channels
    model.quant.weight[:c] /= std[:, None, None, None]
    model.quant.bias[:c] = (model.quant.bias[:c] - mean) / std
    model.quant.weight[c:] = 0
    model.quant.bias[c:] = 2 * math.log(0.05)
    model.scale_factor = 1.0


def _scenes(n: int, start: int, task: str | None = None, seed: int = SEED) -> Tensor:
    """n scenes on the grid as the network takes them, (n, 3, 64, 64)."""
    images = data.scene_arrays(n, seed, "train", tasks=task, start=start, layout="grid").images
    return to_model(torch.from_numpy(images).movedim(-1, 1))


def _latent_shape(model: AutoencoderKL, n: int, x: Tensor) -> tuple[int, ...]:
    return n, model.latent_channels, x.shape[2] // model.multiple, x.shape[3] // model.multiple


def _shared_out(n: int, generator: torch.Generator, shares: Mapping[str, int] = DECODER_SHARES):
    """(task, how many, start) for n scenes; the first task takes what the shares leave."""
    total, left = sum(shares.values()), n
    for task, share in reversed(shares.items()):
        k = left if task == next(iter(shares)) else n * share // total
        left -= k
        if k:
            yield task, k, int(torch.randint(2**40, (), generator=generator))
