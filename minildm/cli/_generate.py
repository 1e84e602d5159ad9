"""`minildm generate` and `minildm evaluate`: their options."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from minildm.cli import _painting as painting
from minildm.cli import _submission as submissions
from minildm.optional import require
from minildm.pipeline import SAMPLERS
from minildm.samplers.loop import SPACINGS

if TYPE_CHECKING:
    import typer


def add(app: "typer.Typer", complain: Callable[[Exception], None]) -> None:
    """Add the two commands.  complain: says what went wrong with one prompt, where others follow."""
    typer = require("typer")
    Model = Annotated[
        str, typer.Option(help="A name that ships with minildm, or a saved pipeline: a folder or one file.")
    ]
    Steps = Annotated[int, typer.Option(min=1, help="How many steps from noise to picture.")]
    Guidance = Annotated[float | None, typer.Option(help="Scale of guidance, 1 = off; by default the model's own.")]
    Sampler = Annotated[str, typer.Option(help=f"One of: {', '.join(SAMPLERS)}.")]

    @app.command("generate")
    def generate_command(
        prompt: Annotated[str, typer.Argument(help='What to draw, such as "a cat left of a red heart".')] = "",
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="File to write: .png, .jpg, .webp, or .gif for the film.")
        ] = None,
        model: Model = "pocket",
        seed: Annotated[int | None, typer.Option(min=0, help="Of the noise; the same seed, the same picture.")] = None,
        steps: Steps = 25,
        guidance: Guidance = None,
        negative: Annotated[str, typer.Option(help="What to move away from.")] = "",
        sampler: Sampler = "ddim",
        spacing: Annotated[
            str | None, typer.Option(help=f"Where the steps lie: {', '.join(SPACINGS)}; by default as the model says.")
        ] = None,
        size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels.")] = None,
        grid: Annotated[
            int, typer.Option(min=1, max=100, help="So many pictures in one, of this seed and the next.")
        ] = 1,
        gif: Annotated[bool, typer.Option("--gif", help="Write the film of its becoming, too.")] = False,
        scale: Annotated[int | None, typer.Option(min=1, help="Pixels to a pixel; by default 1, in a film 4.")] = None,
        label: Annotated[str | None, typer.Option(help="The class to draw, where the model knows classes.")] = None,
        image: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture to start from.")] = None,
        strength: Annotated[
            float | None, typer.Option(help="How much of the picture may change, up to 1; by default 0.8.")
        ] = None,
        mask: Annotated[
            Path | None, typer.Option(metavar="FILE", help="What to paint anew in the picture: white, of its size.")
        ] = None,
        lora: Annotated[
            list[Path] | None,
            typer.Option(metavar="FILE", help="A LoRA, a folder with one, or pocket-fast; may be said again."),
        ] = None,
        lora_scale: Annotated[float, typer.Option(help="How much of them is added.")] = 1.0,
        word: Annotated[
            list[Path] | None, typer.Option(metavar="FILE", help="A new word, of textual inversion; may be said again.")
        ] = None,
        controlnet: Annotated[
            Path | None, typer.Option(metavar="FILE", help="A ControlNet, or a folder of diffusers with one.")
        ] = None,
        control: Annotated[
            Path | None, typer.Option(metavar="FILE", help="The mask or picture that it follows.")
        ] = None,
        dtype: Annotated[str, typer.Option(help="Of the networks: float32, float16 or bfloat16.")] = "float32",
        interactive: Annotated[bool, typer.Option("--interactive", help="Ask for one prompt after the other.")] = False,
    ):
        """Draw a picture: from words, in English or Chinese, from a label, or from another picture."""
        how = dict(steps=steps, guidance=guidance, negative_prompt=negative, sampler=sampler, size=size)
        how |= dict(label=label, image=image, strength=strength, mask=mask, dtype=dtype)
        added = dict(loras=lora or [], lora_scale=lora_scale, words=word or [], controlnet=controlnet, control=control)
        how |= dict(additions=painting.Additions(**added))
        brush = painting.Brush(model, out, seed=seed, grid=grid, gif=gif, scale=scale, spacing=spacing, **how)
        if prompt or not interactive:
            brush.draw(prompt)
        if interactive:
            brush.ask(complain)

    @app.command("evaluate")
    def evaluate_command(
        context: typer.Context,
        model: Annotated[
            str | None,
            typer.Option(
                help="A name that ships with minildm, or a saved pipeline: a folder or one file; else pocket."
            ),
        ] = None,
        split: Annotated[
            str, typer.Option(help="Combinations seen in training, or not: train, heldout, or both.")
        ] = "both",
        language: Annotated[str, typer.Option(help="Of the prompts: en, zh, or both.")] = "en",
        per_task: Annotated[int, typer.Option(min=2, help="Prompts for each of the six tasks.")] = 100,
        seeds: Annotated[int, typer.Option(min=1, help="Pictures for each prompt.")] = 4,
        steps: Steps = 25,
        guidance: Guidance = None,
        sampler: Sampler = "ddim",
        json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all of it to this file.")] = None,
        submission: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write a record of the scores that can be recomputed.")
        ] = None,
        verify: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Compute such a record again, with its own settings.")
        ] = None,
    ):
        """Measure how often the pictures show what was asked for: pocket GenEval, a table with intervals.

        With --submission FILE, a record for a leaderboard: checksum of the model, prompts,
        seeds, calls, and each picture's score. --verify FILE computes it again, on any
        machine, and says equal, or which pictures are not; but for --model it takes no other option.
        """
        said = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
        if verify is not None and (idle := said - {"verify", "model"}):
            names = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in idle))
            raise ValueError(f"--verify computes a record again with its own settings: leave {names} out")
        if submission is not None and json is not None:
            raise ValueError("--submission writes its record in place of the file of --json: choose one of them")
        how = dict(steps=steps, guidance=guidance, sampler=sampler)
        if verify is not None:
            raise typer.Exit(int(bool(submissions.verify(verify, model))))
        if submission is not None:
            submissions.submit(submission, model or "pocket", split, language, per_task=per_task, seeds=seeds, **how)
            return
        painting.evaluate(model or "pocket", split, language, per_task=per_task, seeds=seeds, json_file=json, **how)
