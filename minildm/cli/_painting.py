"""Drawing, and how well pictures follow their prompts: what `minildm generate` and `minildm evaluate` do."""

import io
import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

import minildm
from minildm import geneval, images, stable_diffusion, storage, viz, weights
from minildm.adapt import Controlled
from minildm.cli._course import recipes
from minildm.pipeline import LatentDiffusion
from minildm.tensors import best_device

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}  # the last for films


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(model: str, dtype: str = "float32") -> LatentDiffusion:
    """A pipeline by its name, folder or file, on the fastest device; a folder in the layout of diffusers will do, too.

    dtype: of the networks, one of DTYPES. Raises FileNotFoundError that says what to do where there is none.
    """
    if dtype not in DTYPES:
        raise ValueError(f"expected dtype as one of {', '.join(DTYPES)}, got {dtype!r}")
    if (Path(model) / "model_index.json").is_file():
        return stable_diffusion.load(model, best_device(), DTYPES[dtype])
    try:
        return LatentDiffusion.from_pretrained(model).to(best_device(), DTYPES[dtype])
    except FileNotFoundError as error:
        train = f"train it with `minildm train {model}`, or " if model in recipes() else ""
        raise FileNotFoundError(f"{error}; {train}name another one with --model") from error


@dataclass(frozen=True)
class Additions:
    """What was trained beside a model, as files: LoRAs at one scale, new words, a ControlNet and what it follows."""

    loras: Sequence[Path] = ()
    lora_scale: float = 1.0
    words: Sequence[Path] = ()
    controlnet: Path | None = None
    control: Path | None = None

    def __post_init__(self):
        if (self.controlnet is None) != (self.control is None):
            raise ValueError("expected a ControlNet and the picture it follows: --controlnet FILE --control MASK")

    def put_into(self, pipe: LatentDiffusion) -> LatentDiffusion:
        """The pipeline with all of them."""
        for file in self.words:
            pipe.load_word(file)
        for file in self.loras:
            pipe.load_lora(file, self.lora_scale)
        if self.controlnet is not None:
            own = self.controlnet.is_dir()
            net = stable_diffusion.load_controlnet(self.controlnet) if own else weights.load(self.controlnet)
            pipe.unet = Controlled(pipe.unet, net.to(next(pipe.unet.parameters())))
        return pipe

    def conditions(self, pipe: LatentDiffusion, size: int | Sequence[int]) -> dict[str, Tensor]:
        """What the ControlNet follows, as large as the picture."""
        if self.control is None:
            return {}
        return {"control": images.fit(images.read(self.control), size, pipe.unet.controlnet.control_channels, "black")}


NOTHING_ADDED = Additions()


class Brush:
    """Draws one prompt after the other in the same way, and writes each picture to a file.

    model: as `load` takes it; it is loaded when first needed.
    out: the file, by its ending a picture or the film of its becoming; None: named after the prompt and the seed.
    seed: of the first picture, None for any; each further picture has the next one.
    grid: how many pictures stand in one.  gif: write the film beside the picture.
    spacing: where the steps lie, as in `samplers.timesteps`; None: as the model says.
    scale: pixels to a pixel; None: 1, and 4 in films.  dtype: of the networks, as `load` takes it.
    label: the class of what is drawn, by its name or number.
    additions: what was trained beside the model.
    image, mask: files: what to start from, and what of it to paint anew (white); cut and resized to the model's size.
    how: goes to `LatentDiffusion.steps`.
    Raises ValueError for an ending that is no picture's, FileNotFoundError for a folder that is not there.
    """

    def __init__(
        self,
        model: str = "pocket",
        out: Path | None = None,
        *,
        seed: int | None = None,
        grid: int = 1,
        gif: bool = False,
        scale: int | None = None,
        spacing: str | None = None,
        dtype: str = "float32",
        label: str | None = None,
        image: Path | None = None,
        mask: Path | None = None,
        additions: Additions = NOTHING_ADDED,
        **how: object,
    ):
        self.additions = additions
        self.model, self.out, self.gif, self.scale, self.grid, self.dtype = model, out, gif, scale, grid, dtype
        self.label, self.spacing, self.how = label, spacing, how
        self.files = {name: images.read(file) for name, file in (("image", image), ("mask", mask)) if file is not None}
        self.seed = secrets.randbelow(10**6) if seed is None else seed
        if out is not None:
            check_file(out, FORMATS)

    @cached_property
    def pipe(self) -> LatentDiffusion:
        pipe = self.additions.put_into(load(self.model, self.dtype))
        pipe.spacing = pipe.spacing if self.spacing is None else self.spacing
        return pipe

    def draw(self, prompt: str) -> Tensor:
        """Draw it, write it, and say where; returns the picture (3, h, w) in [0, 1].

        Raises ValueError for an empty prompt where the model takes words, and for any other where it takes none.
        """
        if self.pipe.text_encoder is not None and not prompt.strip():
            raise ValueError('the prompt is empty: say what to draw, such as "a cat left of a red heart"')
        if self.pipe.text_encoder is None and prompt.strip():
            names = f", but a --label: {', '.join(self.pipe.labels)}" if self.pipe.labels else ""
            raise ValueError(f"this model takes no words{names}")
        path = Path(f"{_name(prompt or self.label or '')}-{self.seed}.png") if self.out is None else self.out
        paths = list(dict.fromkeys([path, path.with_suffix(".gif")] if self.gif else [path]))
        film = any(each.suffix.lower() == ".gif" for each in paths)
        frames = self._frames(prompt, film)
        for each in paths:
            storage.write_bytes(each, self._bytes(frames, FORMATS[each.suffix.lower()]))
            seeds = f"seed {self.seed}" if self.grid == 1 else f"seeds {self.seed} to {self.seed + self.grid - 1}"
            print(f"written: {each} ({seeds})")
        self.seed += self.grid
        return frames[-1]

    def ask(self, complain: Callable[[Exception], None], read: Callable[[str], str] = input) -> None:
        """Ask for prompts and draw them until an empty line or the end of input; what fails does not end it.

        A terminal shows each picture in coarse blocks. With `out` given, that file always holds the last one.
        """
        print("Say what to draw, in English or Chinese; an empty line ends.")
        _ = self.pipe  # what is wrong with it does not get better by asking on
        while True:
            try:
                prompt = read("> ").strip()
            except EOFError:
                prompt = ""
            if not prompt:
                return
            try:
                drawn = self.draw(prompt)
            except (ValueError, OSError) as error:
                complain(error)
                continue
            if sys.stdout.isatty():
                print(blocks(drawn, shutil.get_terminal_size().columns))

    def _frames(self, prompt, film) -> list[Tensor]:
        """The pictures on the way, all of the grid in one, the finished ones last; without a film these alone."""
        words = self.pipe.text_encoder is not None
        how = dict(self.how)
        if self.label is not None:
            number = self.label.isdigit() and self.label not in (self.pipe.labels or ())
            how["y"] = int(self.label) if number else self.label
        size = how.get("size") or self.pipe.size
        how |= {name: images.fit(file, size, 3 if name == "image" else 1) for name, file in self.files.items()}
        how |= self.additions.conditions(self.pipe, size)
        seeds = range(self.seed, self.seed + self.grid)
        run = self.pipe.steps([prompt] * self.grid if words else None, seed=list(seeds), **how)
        frames = []
        for step in tqdm(run, total=self.how.get("steps", 25) + 1, desc="draw", unit="step", leave=False, disable=None):
            if film or step.t < 0:
                frames.append(images.sheet(self.pipe.decode(step.x_t, check=False)))
        return frames

    def _bytes(self, frames, format) -> bytes:
        if format == "GIF":
            return viz.animation([images.to_model(frame)[0] for frame in frames], scale=self.scale or 4).gif()
        (picture,) = images.to_pil(frames[-1])
        if self.scale:
            picture = picture.resize([side * self.scale for side in picture.size], Image.Resampling.NEAREST)
        file = io.BytesIO()
        picture.save(file, format)
        return file.getvalue()


def evaluate(
    model: str = "pocket",
    split: str = "both",
    language: str = "en",
    *,
    per_task: int = 100,
    seeds: int = 4,
    json_file: Path | None = None,
    **how: object,
) -> list[geneval.Report]:
    """Print `geneval.evaluate` of a model, for each split and language asked for, and write all of it as JSON.

    split: "train", "heldout" or "both".  language: "en", "zh" or "both".  how: goes to the pipeline.
    """
    splits, languages = asked(split, language)
    if json_file is not None:
        check_file(json_file, [".json"])
    pipe = load(model)
    how |= dict(guidance=pipe.guidance) if how.get("guidance") is None else {}
    reports = []
    for each in languages:
        for some in splits:
            reports.append(geneval.evaluate(pipe, some, each, per_task=per_task, seeds=seeds, **how))
            print(reports[-1], end="\n\n")
            if json_file is not None:  # each time: the next one takes a while
                content = {
                    "minildm": minildm.__version__,
                    "model": model,
                    "reports": [one.as_dict() for one in reports],
                }
                storage.write_text(json_file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    if json_file is not None:
        print(f"written: {json_file}")
    return reports


def asked(split: str, language: str) -> tuple[list[str], list[str]]:
    """The splits and the languages that two options of `minildm evaluate` ask for; "both" is one of each."""
    splits = ["train", "heldout"] if split == "both" else [split]
    return splits, ["en", "zh"] if language == "both" else [language]


def check_file(path: Path, endings: Iterable[str]) -> None:
    """Before the work: ValueError for another ending than these, FileNotFoundError where the folder is not there."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"expected a file name ending in {', '.join(endings)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to: make it first")


def blocks(picture: Tensor, width: int) -> str:
    """A picture (3, h, w) in [0, 1] as text for a terminal: "▀" in two colours is two pixels, one above the other."""
    h, w = picture.shape[1:]
    if w > width:
        h, w = round(h * width / w), width
    x = images.to_uint8(F.interpolate(picture[None], (h + h % 2, w), mode="area"))[0].movedim(0, -1).tolist()

    def colours(above, below):
        return "\033[38;2;{};{};{};48;2;{};{};{}m▀".format(*above, *below)

    rows = zip(x[::2], x[1::2], strict=True)
    return "\n".join("".join(map(colours, *row)) + "\033[0m" for row in rows)


def _name(prompt: str) -> str:
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:60] or "picture"
