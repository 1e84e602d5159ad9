"""`minildm adapt`: a command for each way to teach a model something of your own."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from minildm.cli._options import given, training_options
from minildm.optional import require

if TYPE_CHECKING:
    import typer


def add(app: "typer.Typer") -> None:
    """Add the command with its four ways."""
    typer = require("typer")
    group = typer.Typer(no_args_is_help=True)
    app.add_typer(group, name="adapt", help="Teach a model something new, from a folder of your own pictures.")

    Folder = Annotated[Path, typer.Argument(help="A folder of pictures, or a zip archive of one.")]
    Out = Annotated[Path | None, typer.Option("--out", "-o", help="What is written; else FOLDER- and the way.")]
    Model = Annotated[str, typer.Option(help="What is adapted: a shipped name, a saved pipeline, a diffusers folder.")]
    Prompt = Annotated[str | None, typer.Option(help="What all pictures show; else the captions beside them.")]
    Text = Annotated[bool, typer.Option("--text-encoder", help="Adapt the text encoder, too.")]
    Steps, Minutes, Batch, Rate, Seed, Resume, Runs = training_options()

    @group.command("lora")
    def lora(
        folder: Folder,
        out: Out = None,
        model: Model = "pocket",
        prompt: Prompt = None,
        rank: Annotated[int, typer.Option(min=1, help="Width of the branches.")] = 2,
        attention_only: Annotated[
            bool, typer.Option("--attention-only", help="Leave convolutions alone: a smaller file that learns less.")
        ] = False,
        text_encoder: Text = False,
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """LoRA: thin layers beside the model's own. Draw with `minildm generate --lora FILE`."""
        how = dict(model=model, prompt=prompt, rank=rank, attention_only=attention_only, text_encoder=text_encoder)
        how |= dict(steps=steps, minutes=minutes, batch=batch, lr=lr, seed=seed, resume=resume, runs=runs)
        path = _run("lora", folder, out, **how)
        print(f"draw with it: minildm generate --model {model} --lora {path}")

    @group.command("inversion")
    def inversion(
        folder: Folder,
        word: Annotated[str, typer.Option(help="The new word, such as '<blorp>'.")],
        like: Annotated[str, typer.Option(help="A word that is near, from which it starts.")],
        out: Out = None,
        model: Model = "pocket",
        prompt: Annotated[str | None, typer.Option(help="What all pictures show, with the new word in it.")] = None,
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """Textual inversion: the vector of a new word. Draw with `minildm generate --word FILE`."""
        how = dict(word=word, like=like, model=model, prompt=prompt, steps=steps, minutes=minutes)
        path = _run("inversion", folder, out, **how, batch=batch, lr=lr, seed=seed, resume=resume, runs=runs)
        print(f"draw with it: minildm generate 'a {word}' --model {model} --word {path}")

    @group.command("dreambooth")
    def dreambooth(
        folder: Folder,
        prompt: Annotated[str, typer.Option(help="What all pictures show, with a rare word: 'a sks dog'.")],
        prior: Annotated[str | None, typer.Option(help="What is to be kept, such as 'a dog'.")] = None,
        priors: Annotated[int, typer.Option(min=1, help="How many pictures of that the model paints before.")] = 64,
        weight: Annotated[float, typer.Option(min=0, help="How much these count.")] = 1.0,
        out: Out = None,
        model: Model = "pocket",
        text_encoder: Text = False,
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """DreamBooth: the whole U-Net learns one thing. It writes a model for `minildm generate --model`."""
        how = dict(prompt=prompt, prior=prior, priors=priors, weight=weight, model=model, text_encoder=text_encoder)
        how |= dict(steps=steps, minutes=minutes, batch=batch, lr=lr, seed=seed, resume=resume, runs=runs)
        path = _run("dreambooth", folder, out, **how)
        print(f"draw with it: minildm generate '{prompt}' --model {path}")

    @group.command("controlnet")
    def controlnet(
        images: Annotated[Path, typer.Argument(help="A folder of pictures.")],
        masks: Annotated[Path, typer.Argument(help="A folder with the mask of each picture, of its name.")],
        out: Out = None,
        model: Model = "pocket",
        prompt: Annotated[str, typer.Option(help="What all pictures show, where the model takes words.")] = "",
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """ControlNet: paint what a mask says. Draw with `minildm generate --controlnet FILE --control MASK`."""
        how = dict(model=model, prompt=prompt, steps=steps, minutes=minutes, batch=batch, lr=lr)
        path = _run("controlnet", images, masks, out, **how, seed=seed, resume=resume, runs=runs)
        print(f"draw with it: minildm generate --model {model} --controlnet {path} --control mask.png")


def _run(way: str, *arguments: object, **settings: object) -> Path:
    """Run it with what was given, for the rest has its own, and say where it wrote to."""
    path = importlib.import_module(f"minildm.recipes.adapting.{way}").run(*arguments, **given(**settings))
    print(f"written: {path}")
    return path
