"""What the four ways to adapt a model share: the model, the pictures and prompts of a folder, and what is looked at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minildm import data, images, stable_diffusion
from minildm.adapt import Examples, example_error
from minildm.pipeline import LatentDiffusion
from minildm.recipes._own import OwnJob
from minildm.tensors import best_device
from minildm.training import History

SAMPLES = 8  # pictures on a sheet


class AdaptingJob(OwnJob):
    """A run that adapts a model to a folder.

    name: of the way, as "lora".  model: a name that ships, a saved pipeline, or a folder in the layout of diffusers.
    ending: of what it writes; by default FOLDER-NAME and this. The other arguments as of `OwnJob`.
    """

    def __init__(
        self,
        name: str,
        source: str | Path,
        out: str | Path | None,
        model: str | Path,
        seed: int,
        resume: bool,
        runs: str | Path,
        ending: str = ".safetensors",
    ):
        super().__init__(f"adapt-{name}", source, out, seed, resume, runs)
        self.out = Path(out or f"{self.source.stem}-{name}{ending}")
        if ending and self.out.suffix != ending:
            raise ValueError(f"expected a file name that ends in {ending} for what is learned, got {self.out}")
        self.model = str(model)
        self.pipe = open_pipeline(model)

    def pictures(self, prompt: str | None) -> tuple[Tensor, list[str]]:
        """The folder's pictures (n, 3, h, w) in [0, 1], as large as the model's, and a prompt for each.

        A model that takes no words gets none.

        prompt: for all; None: the captions that lie beside them. ValueError where there are none.
        """
        takes_words = self.pipe.tokenizer is not None
        if prompt is not None and not takes_words:
            raise ValueError("this model takes no words: leave the prompt out")
        rows = data.images(self.source, max(self.pipe.size), labels=False, captions=None if takes_words else False)
        captions = list(rows["text"]) if "text" in rows.features else None
        if takes_words and prompt is None and captions is None:
            raise ValueError(
                f"{self.source} has no captions: say what all its pictures show, --prompt 'a photo of ...', or write a "
                "text file beside each"
            )
        pictures = images.fit(list(rows["image"]), self.pipe.size)
        print(f"{len(pictures)} pictures of {self.pipe.size[0]}×{self.pipe.size[1]}", flush=True)
        prompts = [prompt] * len(pictures) if prompt is not None else captions
        return pictures, prompts if takes_words else []

    def teach(
        self,
        parts: nn.ModuleDict,
        batch: Callable,
        loss: Callable,
        examples: Examples,
        steps: int | None,
        minutes: float | None,
        facts: dict[str, object],
        **settings: Any,
    ) -> History:
        """Train, with ten sheets on the way, and the error on the examples as the figure."""

        def look(parts: nn.ModuleDict, step: int) -> dict[str, float]:
            self.show(f"step-{step:06}", samples(self.pipe, examples.prompts))
            return {"error": error(parts, examples)}

        facts = facts | {"base": self.model}
        return self.train(parts, batch, loss, look, steps, minutes, facts, ema=0.99, **settings)

    def learned(self, history: History, **facts: object) -> dict:
        """What goes into the record of what is written: the run's facts, the base model, the last figures."""
        return self.record(history) | facts | dict(base=self.model, measured=history.validation[-1][1])


def open_pipeline(model: str | Path) -> LatentDiffusion:
    """A pipeline by its name, folder or file, on the fastest device; one in the layout of diffusers will do, too."""
    if (Path(model) / "model_index.json").is_file():
        return stable_diffusion.load(model, best_device())
    return LatentDiffusion.from_pretrained(model).to(best_device())


@torch.no_grad()
def samples(pipe: LatentDiffusion, prompts: Sequence[str], n: int = SAMPLES, **how: object) -> Tensor:
    """n pictures of the first prompts, in turn. -> (n, c, h, w) in [0, 1]"""
    different = list(dict.fromkeys(prompts))
    asked = [different[i % len(different)] for i in range(n)] if different else None
    return pipe(asked, seed=list(range(n)), output="tensor", **how)


@torch.no_grad()
def error(parts: nn.ModuleDict, examples: Examples, most: int = 32, draws: int = 4) -> float:
    """The denoiser's mean squared error over examples, at most so many, each at several noise levels."""
    generator, device = torch.Generator().manual_seed(0), next(parts.parameters()).device
    numbers, found = torch.randperm(len(examples), generator=generator)[:most], []
    for _ in range(draws):
        batch = {name: tensor.to(device) for name, tensor in examples.at(numbers, generator).items()}
        found.append(example_error(parts, batch))
    return float(torch.cat(found).mean())
