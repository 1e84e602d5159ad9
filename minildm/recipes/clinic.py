"""The painter of lesson 12: a denoiser over pairs of a nuclei picture and its mask, from one small annotated piece.

Everything here works at half size: four pixels of the micrograph are one. A pair is two maps, the picture and its
signed depth, which turns back into nuclei.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data, samplers
from minildm.data import masks
from minildm.data.augment import Crops
from minildm.denoiser import Denoiser
from minildm.losses import denoising_loss, draw_noise
from minildm.optional import require
from minildm.recipes import RUNS, Job, nuclei
from minildm.schedule import NoiseSchedule
from minildm.segmentation import border_weights, depth, instances, normalise, predict, segmentation_loss
from minildm.tensors import best_device, fast_bfloat16, seeded
from minildm.training import History, Muon, inner_and_rest, train
from minildm.unet import UNet

BATCH, LR, MUON = 16, 2e-3, 0.02  # of a painter; the last for its matrices and kernels
SIZE = 32  # pixels at half size: side of a crop and of a painted pair
SCALE = 4.0  # of the depth, half of lesson 01's
SHARES = {0.1: (70, 70), 0.25: (111, 111), 1.0: (256, 192)}  # of the known columns -> height and width, half size
PIECES = {0.1: 5, 0.25: 1, 1.0: 1}  # share -> places of a piece; each place has a painter, and painters take minutes
STEPS = {0.1: 300, 0.25: 300, 1.0: 400}  # share -> of its painter
DTYPE = torch.float8_e4m3fn  # of the file
SHIPPED = (0.1, 0)  # share and number of the piece of the painter that ships
PAINTED = 128  # pairs that a painter paints, and that are composed by cut and paste
SEGMENTER_STEPS, SEGMENTER_BATCH, SEGMENTER_LR = 100, 8, 5e-3
MADE = 0.5  # share of made pairs in a batch, where there are any

Batch = Callable[[torch.Generator, int], dict[str, Tensor]]


class Pair(NamedTuple):
    """A nuclei picture and its instance mask, at half size."""

    image: np.ndarray  # (h, w) float32, as `segmentation.normalise` makes it
    mask: np.ndarray  # (h, w) int32 labels


def halved(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both at half size: the image by the mean of four pixels, the mask by one of them. (h, w) -> (h / 2, w / 2)"""
    h, w = image.shape
    return image.reshape(h // 2, 2, w // 2, 2).mean((1, 3)), mask[::2, ::2]


def known() -> Pair:
    """The columns of the micrograph that lesson 01 trains on, (256, 192): all that may ever be seen."""
    micrograph = data.nuclei()[0]
    columns = np.s_[:, : nuclei.TRAIN_COLUMNS]
    image, mask = halved(micrograph["image"][columns], micrograph["mask"][columns])
    return Pair(normalise(image), masks.labels(mask))


def unseen() -> tuple[np.ndarray, np.ndarray]:
    """The strip that lesson 01 keeps for the test: its raw image at half size, (256, 64), and its mask, (512, 128)."""
    micrograph = data.nuclei()[0]
    columns = np.s_[:, nuclei.TRAIN_COLUMNS :]
    return halved(micrograph["image"][columns], micrograph["mask"][columns])[0], micrograph["mask"][columns]


def strip() -> Pair:
    """The same strip as a pair: what painted pairs can be compared with that no painter has seen."""
    image, mask = unseen()
    return Pair(normalise(image), masks.labels(mask[::2, ::2]))


def place(share: float, number: int = 0) -> tuple[slice, slice]:
    """Where one clinic annotated this share of the known columns: one of PIECES places, which were drawn at random."""
    if share not in SHARES:
        raise ValueError(f"expected one of the shares {', '.join(map(str, SHARES))}, got {share!r}")
    (h, w), (tall, wide), generator = SHARES[share], SHARES[1.0], np.random.default_rng(number % PIECES[share])
    top, left = int(generator.integers(tall - h + 1)), int(generator.integers(wide - w + 1))
    return np.s_[top : top + h, left : left + w]


def piece(share: float, number: int = 0) -> Pair:
    """The annotated piece of one clinic, as `place` says where."""
    return _cut(known(), place(share, number))


def around(share: float, number: int = 0) -> list[Pair]:
    """The known columns without that piece: the bands above, below, left and right of it that a crop fits into."""
    rows, columns = place(share, number)
    bands = [np.s_[: rows.start, :], np.s_[rows.stop :, :], np.s_[rows, : columns.start], np.s_[rows, columns.stop :]]
    whole = known()
    return [pair for band in bands if min((pair := _cut(whole, band)).image.shape) >= SIZE]


def _cut(pair: Pair, box: tuple[slice, slice]) -> Pair:
    return Pair(pair.image[box], masks.labels(pair.mask[box]) if pair.mask[box].size else pair.mask[box])


def signed_depth(mask: np.ndarray) -> np.ndarray:
    """Signed distance, squashed: tanh(d / 4) inside a nucleus, -tanh(d / 4) outside; d to the nearest other side.

    mask: (h, w) labels.  -> (h, w) float32 between -1 and 1
    """
    mask = masks.labels(mask)
    if not mask.any():
        return np.full(mask.shape, -1, np.float32)
    outside = require("scipy.ndimage").distance_transform_edt(mask == 0)
    return (depth(mask, SCALE) - np.tanh(outside / SCALE)).astype(np.float32)


def outlined(signed: np.ndarray) -> np.ndarray:
    """Back from a signed depth, also a painted one, to nuclei: (h, w) -> labels (h, w) int32, by watershed."""
    large = enlarged(signed[None])[0]
    return masks.labels(np.pad(instances((large + 1) / 2, large.clip(0)), 1)[1:-1:2, 1:-1:2])


def enlarged(maps: np.ndarray) -> np.ndarray:
    """Twice as large, by bilinear interpolation: (c, h, w) -> (c, 2 h, 2 w)."""
    return F.interpolate(torch.from_numpy(maps)[None], scale_factor=2, mode="bilinear")[0].numpy()


def network(seed: int = 0) -> Denoiser:
    """The untrained painter. Four neighbouring pixels of both maps are its 8 channels, so it works at 16×16."""
    with seeded(seed):
        schedule = NoiseSchedule.cosine().predicting("v")
        return Denoiser(8, 8, channels=(32, 48), groups=8, schedule=schedule)


def two_maps(pairs: Sequence[Pair]) -> Callable[[torch.Generator, int], Tensor]:
    """What a painter learns from: `(generator, n)` -> n deformed crops as picture and signed depth, (n, 2, 32, 32)."""
    crops = Crops([{"image": image, "depth": signed_depth(mask)} for image, mask in pairs], SIZE, bend=1.5, light=0)

    def draw_crops(generator: torch.Generator, n: int) -> Tensor:
        drawn = crops(generator, n)
        return torch.cat([drawn["image"], drawn["depth"][:, None]], dim=1)

    return draw_crops


def crops(pairs: Sequence[Pair], n: int, seed: int = 0) -> Tensor:
    """n crops as a painter sees them in training, (n, 2, 32, 32): to find what painted pairs are nearest to."""
    return two_maps(pairs)(torch.Generator().manual_seed(seed), n)


def optimizers(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and kernels within the U-Net, AdamW for its first and last layer, the time and vectors."""
    inner, rest = inner_and_rest(parameters, outer=("stem", "head", "time"))
    return [Muon(inner.values(), MUON), torch.optim.AdamW(rest.values(), LR, weight_decay=0.0)]


def fit(model: Denoiser, pair: Pair, steps: int, seed: int = 0, **options: Any) -> History:
    """Train a painter on crops of one annotated piece; further options go to `minildm.training.train`."""
    crops = two_maps([pair])

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(F.pixel_unshuffle(crops(generator, n), 2), model.schedule, generator)

    settings = dict(steps=steps, batch_size=BATCH, ema=0.98, seed=seed, bfloat16=fast_bfloat16(best_device()))
    settings |= dict(optimizers=optimizers, progress=False)
    return train(model, batch, denoising_loss, **settings | options)


@torch.no_grad()
def draw(model: Denoiser, n: int, seed: int = 0, steps: int = 15) -> Tensor:
    """n pairs from noise as two maps, picture and signed depth: (n, 2, 32, 32)."""
    x_T = torch.randn(n, 8, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(seed))
    parts = [list(samplers.dpm_solver_2m(model, model.schedule, x, steps))[-1].x_t for x in x_T.split(64)]
    return F.pixel_shuffle(torch.cat(parts), 2)


def painted(model: Denoiser, n: int = PAINTED, seed: int = 0, steps: int = 15) -> list[Pair]:
    """n painted pairs, each a picture with the nuclei that its signed depth holds."""
    return [Pair(image, outlined(signed)) for image, signed in draw(model, n, seed, steps).numpy()]


def segmenter(seed: int = 0) -> UNet:
    """The untrained segmenter: lesson 01's outputs, at a quarter of its width."""
    with seeded(seed):
        return UNet(1, 2, channels=(8, 16, 32))


def lessons(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Crops:
    """What a segmenter learns from: deformed crops of annotated pictures, with depth and weight as in lesson 01."""
    pieces = [
        {"image": image, "depth": depth(mask, SCALE), "weight": border_weights(mask, sigma=SCALE / 1.6)}
        for image, mask in pairs
    ]
    return Crops(pieces, SIZE, bend=1.5)


def mixed(real: Batch, made: Batch, share: float = MADE) -> Batch:
    """Batches of one size, of which a share is made: `batch(generator, n)` -> n samples, the real ones first.

    Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}")

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        k = round(share * n)
        parts = [source(generator, m) for source, m in ((real, n - k), (made, k)) if m]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return batch


def fit_segmenter(model: UNet, batch: Batch, steps: int = SEGMENTER_STEPS, seed: int = 0, **options: Any) -> History:
    """Train a segmenter; further options go to `minildm.training.train`."""
    settings = dict(steps=steps, batch_size=SEGMENTER_BATCH, lr=SEGMENTER_LR, ema=0.97, seed=seed, progress=False)
    return train(model, batch, segmentation_loss, **settings | options)


def found(model: UNet, image: np.ndarray) -> np.ndarray:
    """The nuclei in a raw image at half size, outlined at full size: (h, w) -> labels (2 h, 2 w) int32."""
    return instances(*enlarged(predict(model, image)))


def nearest(drawn: Tensor, others: Tensor) -> Tensor:
    """The distance of each pair to the nearest of others: the root of the mean squared difference. -> (n,)

    drawn: (n, 2, h, w).  others: (m, 2, h, w).
    """
    return torch.cdist(drawn.flatten(1), others.flatten(1)).amin(1) / drawn[0].numel() ** 0.5


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train the painter of the shipped piece, write the checkpoint; returns its path."""
    model, job = network(seed), Job("clinic", out, seed, resume, runs)
    share, number = SHIPPED
    history = fit(model, piece(share, number), steps or STEPS[share], seed, checkpoint=job.checkpoint())
    facts = {"data": f"nuclei, piece {number} of {share:.0%} of columns 0–383", "predicts": "v"}
    return job.finish(model, history, dtype=DTYPE, **facts)
