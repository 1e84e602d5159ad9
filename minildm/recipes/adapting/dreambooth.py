"""DreamBooth on your own pictures: a whole model that knows one thing more. Prior preservation keeps the rest."""

from functools import partial
from pathlib import Path

import torch

from minildm import stable_diffusion, storage
from minildm.adapt import Examples, WithPrior, dreambooth_loss, networks, prior_pictures
from minildm.pipeline._files import INDEX
from minildm.recipes._frame import RUNS
from minildm.recipes._own import steps_of
from minildm.recipes.adapting._frame import AdaptingJob

# Tried on the pocket with eight pictures of a new thing, see lesson 10. Full-size models want a far lower rate, 5e-6.
STEPS, BATCH, LR, PRIORS = 300, 8, 2e-4, 64


def run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    prompt: str,
    prior: str | None = None,
    priors: int = PRIORS,
    weight: float = 1.0,
    model: str | Path = "pocket",
    text_encoder: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Train the whole U-Net on one thing; returns the path of the new model.

    prompt: what all pictures show, with a rare word for the thing: "a sks dog".
    prior: what is to be kept: "a dog". The model paints `priors` pictures of it before, and trains on them as well,
        with this weight. None: nothing is kept on purpose.
    out: by default the folder FOLDER-dreambooth, for `--model`; a model in the layout of diffusers stays one.
    text_encoder: train that as well.  The rest as of `adapting.lora.run`.
    """
    job = AdaptingJob("dreambooth", folder, out, model, seed, resume, runs, ending="")
    of_diffusers = (Path(model) / "model_index.json").is_file()
    storage.check_folder(job.out, "model_index.json" if of_diffusers else INDEX)
    pictures, prompts = job.pictures(prompt)
    job.pipe._knows(prompts)
    parts = networks(job.pipe)
    parts["unet"].requires_grad_(True)
    if "text_encoder" in parts:
        parts["text_encoder"].requires_grad_(text_encoder)
    examples = batches = Examples(job.pipe, pictures, prompts)
    if prior is not None:
        painted = prior_pictures(job.pipe, prior, priors, seed)
        job.show("prior", painted)
        batches = WithPrior(examples, Examples(job.pipe, painted, prior))
    facts = dict(pictures=len(pictures), prompt=prompt, prior=prior, priors=priors, weight=weight)
    facts["text_encoder"] = text_encoder
    loss, settings = partial(dreambooth_loss, weight=weight), dict(batch_size=batch, lr=lr)
    steps = steps_of(steps, minutes, STEPS)
    history = job.teach(parts, batches, loss, examples, steps, minutes, facts, **settings)
    record = job.learned(history, **facts, batch=batch, lr=lr)
    if of_diffusers:
        path = stable_diffusion.save(job.pipe, job.out)
    else:
        path = job.pipe.save_pretrained(job.out, dtype=torch.float16, **record)
    job.end()
    return path
