"""Textual inversion on your own pictures: a new word, in a file of a kilobyte, for `minildm generate --word`."""

from pathlib import Path

from minildm.adapt import Examples, NewWord, example_loss, networks
from minildm.recipes._frame import RUNS
from minildm.recipes._own import steps_of
from minildm.recipes.adapting._frame import AdaptingJob

STEPS, BATCH, LR = 500, 8, 2e-2


def run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    word: str,
    like: str,
    model: str | Path = "pocket",
    prompt: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Find the vector of a new word from the pictures of a folder; returns the path of its file.

    word: the new one, such as "<blorp>".  like: a word that is near, from whose vector it starts.
    out: by default FOLDER-inversion.safetensors; `load_textual_inversion` of diffusers opens it.
    prompt: what all pictures show, with the word in it; None: "a <blorp>".
    The rest as of `adapting.lora.run`. Raises ValueError for a prompt without the word, and as `NewWord` does.
    """
    job = AdaptingJob("inversion", folder, out, model, seed, resume, runs)
    prompt = f"a {word}" if prompt is None else prompt
    if word not in prompt:
        raise ValueError(f"expected a prompt with the new word {word!r} in it, got {prompt!r}")
    parts = networks(job.pipe)
    parts.requires_grad_(False)
    new = NewWord(job.pipe.tokenizer, job.pipe.text_encoder, word, like=like)
    job.pipe._knows([prompt])
    pictures, prompts = job.pictures(prompt)
    examples = Examples(job.pipe, pictures, prompts)
    facts = dict(pictures=len(pictures), prompt=prompt, word=word, like=like)
    steps = steps_of(steps, minutes, STEPS)
    history = job.teach(parts, examples, example_loss, examples, steps, minutes, facts, batch_size=batch, lr=lr)
    record = job.learned(history, **facts, batch=batch, lr=lr)
    path = new.save(job.out, **record)
    job.end()
    return path
