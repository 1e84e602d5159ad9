"""Four ways to teach the pocket something new, compared: what is trained and stored, how long it takes, what is learned
and what is forgotten.

LoRA, textual inversion and DreamBooth learn a thing that the pocket never saw from eight pictures; a ControlNet learns
to follow masks; each is trained with two seeds. The table is minildm/weights/adapters.json, which lesson 10 reads.
Some half an hour on one idle core; what is finished is kept, so a run that was stopped goes on.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minildm import geneval, images, storage, weights
from minildm.adapt import Examples, LoRA, NewWord, WithPrior, dreambooth_loss, networks, prior_pictures
from minildm.data import newcomer
from minildm.pipeline import LatentDiffusion
from minildm.recipes import RUNS, checksum, measured_once, provenance, read_table, taught, write_table
from minildm.recipes.studies import mask_to_scene
from minildm.tensors import count_parameters, seeded
from minildm.training import train

PLACE = weights.FOLDER / "adapters.json"
NEW_WORD, LIKE = f"<{newcomer.NAME}>", "frog"  # of textual inversion, and the nearest thing that the pocket knows
PRIOR, OTHERS = taught.NAMES[::2], taught.NAMES[1::2]  # what prior preservation rehearses, and what it does not
SHOWN = OTHERS[::4]  # old things whose pictures are kept, none of them rehearsed
UNTOLD = 16  # pictures of the prior that are painted without words
RANK, SEEDS = 4, 2
MEASURED = 24  # pictures of the new thing


class Settings(NamedTuple):
    """How a way is trained: each learns from as many pictures of the new thing a step."""

    steps: int
    batch: int
    lr: float


WAYS = {
    "LoRA": Settings(240, 8, 3e-3),
    "textual inversion": Settings(200, 8, 2e-2),
    "DreamBooth": Settings(300, 8, 2e-4),
    "DreamBooth with prior": Settings(300, 16, 2e-4),
}


def new_lora(unet: nn.Module, seed: int = 0) -> LoRA:
    """An untrained LoRA beside all layers of a denoiser: attention alone hardly learns to draw a new shape."""
    with seeded(seed):
        return LoRA(unet, RANK, layers=lambda name, layer: True, words=[taught.PROMPT])


class Prepared(NamedTuple):
    """What is trained, on what, and how it is stored."""

    parts: nn.ModuleDict
    examples: Callable[..., dict[str, Tensor]]
    prompt: str
    save: Callable[[Path], Path]


def prepare(pipe: LatentDiffusion, way: str, seed: int = 0) -> Prepared:
    """Make a pipeline ready to learn the new thing in one of WAYS: what is to be trained is not frozen."""
    parts, new = networks(pipe), taught.examples()
    parts.requires_grad_(False)
    if way == "textual inversion":
        word = NewWord(pipe.tokenizer, pipe.text_encoder, NEW_WORD, like=LIKE)
        prompt = f"a {NEW_WORD}"
        return Prepared(parts, Examples(pipe, new, prompt), prompt, word.save)
    examples = Examples(pipe, new, taught.PROMPT)
    if way == "LoRA":
        save = partial(new_lora(pipe.unet, seed).save, dtype=torch.float16)
        return Prepared(parts, examples, taught.PROMPT, save)
    if way == "DreamBooth with prior":
        # Guidance also asks for what is painted without words: that is to be kept as well.
        asked = 2 * taught.asked(PRIOR) + UNTOLD * [""]
        painted = prior_pictures(pipe, asked, len(asked), seed, steps=12)
        examples = WithPrior(examples, Examples(pipe, painted, asked))
    pipe.unet.requires_grad_(True)
    return Prepared(parts, examples, taught.PROMPT, lambda path: weights.save(path, pipe.unet, dtype=torch.float16))


def taught_row(way: str, model: str | Path, steps: int | None, seed: int, folder: Path) -> dict[str, Any]:
    """What one of WAYS learns of the new thing, and what is left of the old ones; "before": the model as it is.

    "each": how much of the new thing's drawing each picture leaves unexplained, "unexplained": the median of these.
    Pictures go to `folder`: six of the new thing, two of it beside a red heart, and the old ones of SHOWN.
    """
    pipe, row, prompt = LatentDiffusion.from_pretrained(model), {"way": way}, taught.PROMPT
    pipe.words = None  # no warnings of words that it does not know
    if way != "before":
        how, clock = WAYS[way], taught.CoreMinutes()
        steps = steps or how.steps
        with clock:
            ready = prepare(pipe, way, seed)
            settings = dict(steps=steps, batch_size=how.batch, lr=how.lr, seed=seed, ema=0.9, progress=False)
            train(ready.parts, ready.examples, dreambooth_loss, **settings)
        file, prompt = ready.save(folder / "learned.safetensors"), ready.prompt
        row |= dict(parameters=count_parameters(ready.parts), bytes=file.stat().st_size, minutes=clock.minutes)
        row |= dict(steps=steps, batch=how.batch, lr=how.lr, seed=seed)
        file.unlink()
    new = taught.painted(pipe, [prompt] * MEASURED, seed=100)
    kept, old = taught.kept(pipe)
    pairs = taught.painted(pipe, [f"{prompt} and a red heart"] * 2, seed=300)
    shown = old[[taught.NAMES.index(name) for name in SHOWN]]
    _store(folder / f"{way}.jpg", torch.cat([new[:6], pairs, shown]))
    share = {"kept": kept, "kept_rehearsed": kept[::2], "kept_others": kept[1::2], "recognised": taught.recognised(new)}
    row |= {name: float(np.mean(values)) for name, values in share.items()}
    each = [round(float(one), 3) for one in taught.unexplained(new)]
    return row | {"unexplained": float(np.median(each)), "each": each}


def masks_row(way: str, model: str | Path, steps: int | None, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The figures of a ControlNet, or of all its rivals; eight pictures of each go to `folder`.

    way: "ControlNet", "ControlNet without zeros" or "rivals".
    """
    pipe = LatentDiffusion.from_pretrained(model)
    if way == "rivals":
        found = mask_to_scene.rivals(pipe)
        for name, (_, pictures) in found.items():
            _store(folder / f"{name}.jpg", pictures[:8])
        return [{"way": name} | figures for name, (figures, _) in found.items()]
    zero = way == "ControlNet"
    figures, pictures, net = mask_to_scene.learned(pipe, zero, steps or mask_to_scene.STEPS, seed)
    file = weights.save(folder / "learned.safetensors", net, dtype=torch.float16)
    _store(folder / f"{way}.jpg", pictures[:8])
    row = {"way": way} | figures | dict(bytes=file.stat().st_size, seed=seed)
    row |= dict(batch=mask_to_scene.BATCH, lr=mask_to_scene.LR)
    file.unlink()
    return [row]


def record(path: Path = PLACE) -> dict[str, Any]:
    """The table that the last run wrote: "rows" of the new thing, "masks", "pictures" by way, "model", provenance.

    Each training has a row of its own; `trainings` gathers those of a way.
    """
    return read_table(path)


def trainings(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows by way, one for each seed; what needs no training has one."""
    found = {}
    for row in rows:
        found.setdefault(row["way"], []).append(row)
    return found


def mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """The mean of a figure over the trainings of a way."""
    return float(np.mean([row[key] for row in rows]))


def pictures(found: Mapping[str, Any], way: str) -> Tensor:
    """The pictures that a record keeps of a way. (n, 3, 64, 64) in [0, 1]"""
    with Image.open(io.BytesIO(base64.b64decode(found["pictures"][way]))) as row:
        return torch.stack(images.to_unit(row)[0].split(64, dim=2))


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n pictures."""
    found = geneval.interval([np.arange(n)[:, None] < round(share * n)])
    return found.low, found.high


def run(
    out: Path | None = None,
    *,
    model: str | Path = "pocket",
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    runs: Path = RUNS,
) -> Path:
    """Measure all ways on a model, and write the table; returns its path.

    steps: of each training; None: its own.  seed: the first of SEEDS; of its trainings alone pictures are kept.
    """
    home = Path(runs) / "adapters"
    once = [("before", taught_row), ("rivals", masks_row)]
    trained = [(way, taught_row) for way in WAYS]
    trained += [(way, masks_row) for way in ("ControlNet", "ControlNet without zeros")]
    rows, masks = [], []
    for k in range(seed, seed + SEEDS):
        folder = home / f"seed-{k}"
        folder.mkdir(parents=True, exist_ok=True)
        for way, measure in (once if k == seed else []) + trained:
            found = measured_once(folder / f"{way}.json", partial(measure, way, model, steps, k, folder), resume)
            rows += [found] if measure is taught_row else []
            masks += found if measure is masks_row else []
    first = home / f"seed-{seed}"
    names = dict.fromkeys(row["way"] for row in rows + masks)
    drawn = {way: base64.b64encode((first / f"{way}.jpg").read_bytes()).decode() for way in names}
    table = dict(recipe="adapters", model=checksum(model), rows=rows, masks=masks, pictures=drawn, **provenance())
    return write_table(out or PLACE, table)


def _store(path: Path, pictures: Tensor) -> None:
    """Pictures (n, 3, h, w) side by side as one JPEG: with fine colours, a fifth of a PNG."""
    (row,) = images.to_pil(torch.cat(list(pictures), dim=2)[None])
    with storage.file(path) as part:
        row.save(part, "JPEG", quality=92, subsampling=0)
