"""A diffusion model of your own pictures, in pixels: plain, by class or by captions. `minildm train images FOLDER`

What to expect: 2,500 steps on 300 pictures of 32×32 took eleven minutes on two cores, sheets of samples included. With
a hundred faces, a hundred flags and a hundred hearts, squares and clocks as classes, samples kept to their class from
the first sheets on; in the end most could be recognised, and the finest lines were still blurred. The error on pictures
held out fell to the last; where it rises, the model begins to know its pictures by heart, and more steps do not help.
Twice the size takes some four times as long.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minildm import data, storage
from minildm import images as conversions
from minildm.denoiser import Denoiser
from minildm.losses import denoising_error, denoising_loss, draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.pipeline._files import INDEX
from minildm.recipes._frame import RUNS
from minildm.recipes._own import OwnJob, parted, steps_of
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.text import TextEncoder, Tokenizer, train_tokenizer

STEPS, BATCH, LR, WIDTH, SIZE = 2500, 16, 1e-3, 32, 32
UNCONDITIONAL_RATE = 0.1  # how often label and caption are dropped, for guidance
GUIDANCE = 2.0
HELD_OUT = 10  # one picture in so many
VOCABULARY, DIM, DEPTH = 2048, 128, 2  # of the text encoder
SAMPLES = 16  # pictures on a sheet


class Painter(nn.Module):
    """What learns: the denoiser, and with captions a text encoder beside it."""

    def __init__(self, unet: Denoiser, text_encoder: TextEncoder | None = None):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def conditions(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch as the denoiser takes it: with the context of its ids."""
        rest = {name: tensor for name, tensor in tensors.items() if name != "ids"}
        return rest if self.text_encoder is None else rest | {"context": self.text_encoder(tensors["ids"])}


def network(
    size: int = SIZE,
    width: int = WIDTH,
    channels: int = 3,
    classes: int = 0,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> Painter:
    """The untrained model: a U-Net down to 4 to 8 pixels a side, which attends where there are at most 8 (16 to words).

    size: of the pictures.  width: channels at full size; twice and four times as many below.
    Without captions, and from a width of 32 on, diffusers has networks like it.
    """
    levels = _levels(size)
    widths = [width * min(4, 2**level) for level in range(levels)]
    words = tokenizer is not None
    attends = [level for level in range(levels) if size >> level <= (16 if words else 8)]
    with seeded(seed):
        unet = Denoiser(
            channels,
            channels,
            channels=widths,
            attention=attends,
            heads=[max(1, c // 32) for c in widths],
            groups=math.gcd(8, width),
            context_dim=DIM if words else None,
            num_classes=classes or None,
            schedule=NoiseSchedule.cosine().predicting("v"),
        )
        encoder = TextEncoder(len(tokenizer), DIM, DEPTH, heads=4, length=tokenizer.length) if words else None
    return Painter(unet, encoder)


def tokenizer_of(captions: Sequence[str]) -> Tokenizer:
    """Byte-pair encoding of the captions, as long as the longest of them, up to CLIP's 77 tokens."""
    longest = int(train_tokenizer(captions, VOCABULARY)(captions)[1].sum(1).max())
    return train_tokenizer(captions, VOCABULARY, length=min(77, 8 * math.ceil((longest + 2) / 8)))


class Pictures(NamedTuple):
    """What a folder holds, or a part of it."""

    x: Tensor  # (n, c, h, w) uint8
    y: Tensor | None  # (n,) int64
    names: list[str] | None  # of the classes
    captions: list[str] | None  # n of them

    def part(self, numbers: Sequence[int]) -> "Pictures":
        """Some of them."""
        y = None if self.y is None else self.y[numbers]
        return Pictures(self.x[numbers], y, self.names, self.captions and [self.captions[i] for i in numbers])


def read(
    folder: str | Path, size: int = SIZE, grey: bool = False, labels: bool | None = None, captions: bool | None = None
) -> Pictures:
    """The pictures of a folder with their classes and captions; arguments and errors as of `data.images`."""
    rows = data.images(folder, size, channels=1 if grey else 3, labels=labels, captions=captions)
    names = rows.features["label"].names if "label" in rows.features else None
    return Pictures(
        torch.cat([conversions.to_uint8(picture, None) for picture in rows["image"]]),
        torch.tensor(rows["label"]) if names else None,
        names,
        list(rows["text"]) if "text" in rows.features else None,
    )


class Batches:
    """`batches(generator, n)` -> x_0, eps, t, with `y`, and `ids` and `mask`, where there are labels and captions.

    rate: how often a picture's label and caption are dropped, both at once.
    """

    def __init__(
        self,
        pictures: Pictures,
        schedule: NoiseSchedule,
        tokenizer: Tokenizer | None = None,
        rate: float = UNCONDITIONAL_RATE,
    ):
        self.pictures, self.schedule, self.rate = pictures, schedule, rate
        self.words = tokenizer and tokenizer(pictures.captions)
        self.no_words = tokenizer and tokenizer([""])

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return self.at(torch.randint(len(self.pictures.x), (n,), generator=generator), generator)

    def at(self, numbers: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these pictures."""
        dropped = torch.rand(len(numbers), generator=generator) < self.rate
        x_0 = conversions.to_model(self.pictures.x[numbers], None)
        batch = draw_noise(x_0, self.schedule, generator)
        if self.pictures.y is not None:
            batch["y"] = self.pictures.y[numbers].masked_fill(dropped, -1)
        if self.words:
            for name, full, empty in zip(("ids", "mask"), self.words, self.no_words, strict=True):
                batch[name] = torch.where(dropped[:, None], empty, full[numbers])
        return batch


def loss(painter: Painter, tensors: dict[str, Tensor]) -> Tensor:
    """The mean squared error of v."""
    return denoising_loss(painter.unet, painter.conditions(tensors))


@torch.no_grad()
def error(painter: Painter, batches: Batches, most: int = 64, draws: int = 8) -> float:
    """The mean squared error of v over pictures, at most so many of them, each at several noise levels."""
    generator, device = torch.Generator().manual_seed(0), next(painter.parameters()).device
    numbers, found = torch.randperm(len(batches.pictures.x), generator=generator)[:most], []
    for _ in range(draws):
        tensors = {name: tensor.to(device) for name, tensor in batches.at(numbers, generator).items()}
        found.append(denoising_error(painter.unet, painter.conditions(tensors)))
    return float(torch.cat(found).mean())


def pipeline(painter: Painter, pictures: Pictures, tokenizer: Tokenizer | None = None) -> LatentDiffusion:
    """The trained model as a pipeline in pixels, which knows the names of the classes and the captions' words."""
    words = (painter.text_encoder, tokenizer) if tokenizer else ()
    how = dict(size=tuple(pictures.x.shape[2:]), guidance=GUIDANCE, labels=pictures.names, words=pictures.captions)
    return LatentDiffusion(painter.unet, None, None, *words, **how)


def samples(pipe: LatentDiffusion, pictures: Pictures, n: int = SAMPLES) -> Tensor:
    """n pictures, of all classes in turn and for the first captions. -> (n, c, h, w) in [0, 1]"""
    asked = {}
    if pictures.names:
        asked["y"] = [k % len(pictures.names) for k in range(n)]
    if pictures.captions:
        asked["prompt"] = [pictures.captions[k % len(pictures.captions)] for k in range(n)]
    return pipe(**asked, seed=list(range(n)), output="tensor")


def run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    labels: bool | None = None,
    captions: bool | None = None,
    size: int = SIZE,
    grey: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    width: int = WIDTH,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Train on the pictures of a folder; sheets of samples on the way; a pipeline at the end, whose path is returned.

    folder, labels, captions, size: as in `data.images`.  grey: pictures of one channel.
    out: a folder, or a file that ends in .safetensors; by default FOLDER-model. `LatentDiffusion.from_pretrained` and
        `minildm generate --model` open it.
    steps: how many (2,500); or minutes: as many as take about so long on this machine.
    batch, lr, width: samples of a step, peak of the learning rate, channels of the network's first level.
    resume, runs: as for all recipes; the run's own folder in `runs` keeps the sheets.

    Raises ValueError for a size or width that does not fit the network, and what `data.images` raises.
    """
    if size < 8 or size % 4 or width < 8 or width % 8:
        raise ValueError(f"expected size from 8 as a multiple of 4, and width as one of 8; got {size} and {width}")
    job = OwnJob("images", folder, out, seed, resume, runs)
    if job.out.suffix != ".safetensors":
        storage.check_folder(job.out, INDEX)
    pictures = read(job.source, size, grey, labels, captions)
    tokenizer = tokenizer_of(pictures.captions) if pictures.captions else None
    painter = network(size, width, pictures.x.shape[1], len(pictures.names or ()), tokenizer, seed)
    known, held = (pictures.part(numbers) for numbers in parted(len(pictures.x), HELD_OUT, seed))
    _announce(pictures, held)

    parts = {"training_error": known} | ({"heldout_error": held} if len(held.x) else {})
    batches = Batches(known, painter.unet.schedule, tokenizer)
    exams = {name: Batches(part, painter.unet.schedule, tokenizer, rate=0) for name, part in parts.items()}

    def look(painter: Painter, step: int) -> dict[str, float]:
        job.show(f"step-{step:06}", samples(pipeline(painter, pictures, tokenizer), held if len(held.x) else known))
        return {name: error(painter, exam) for name, exam in exams.items()}

    facts = dict(pictures=len(pictures.x), size=size, grey=grey, width=width, classes=pictures.names)
    history = job.train(
        painter,
        batches,
        loss,
        look,
        steps_of(steps, minutes, STEPS),
        minutes,
        facts | {"captions": bool(tokenizer)},
        batch_size=batch,
        lr=lr,
    )
    record = job.record(history) | dict(data=f"{len(known.x)} pictures of {job.source.name}, {size}×{size}")
    record |= dict(batch=batch, lr=lr, measured=history.validation[-1][1])
    path = pipeline(painter, pictures, tokenizer).save_pretrained(job.out, dtype=torch.float16, **record)
    job.end()
    return path


def _levels(size: int) -> int:
    """How many levels a U-Net for such pictures has: at most four, the lowest of at least 4 pixels."""
    levels = 1
    while levels < 4 and size % 2 == 0 and size // 2 >= 4:
        levels, size = levels + 1, size // 2
    return levels


def _announce(pictures: Pictures, held: Pictures) -> None:
    (n, _, h, w), names = pictures.x.shape, pictures.names or []
    classes = f"classes: {', '.join(names)}" if 0 < len(names) < 9 else f"{len(names) or 'no'} classes"
    captions = "captions" if pictures.captions else "no captions"
    print(f"{n} pictures of {h}×{w}, {len(held.x)} of them held out; {classes}; {captions}", flush=True)
