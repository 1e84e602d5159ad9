"""`minildm train`: a command for each recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from minildm.cli import _course as course
from minildm.cli._options import given, training_options
from minildm.optional import require

if TYPE_CHECKING:
    import typer

OWN, SHIPPED, STUDIES = "Your own pictures", "What ships with minildm", "Studies, whose tables go into its records"


def add(app: "typer.Typer") -> None:
    """Add the command with all its recipes."""
    typer = require("typer")

    class Recipes(require("typer.core").TyperGroup):
        def get_command(self, context: "typer.Context", name: str) -> object:
            """The command of a recipe; ValueError with the names that exist for any other."""
            found = super().get_command(context, name)
            if found is None:
                course.recipe(name)
            return found

    group = typer.Typer(cls=Recipes, no_args_is_help=True)
    app.add_typer(group, name="train", help="Train a model: on your own pictures, or one that ships, by its recipe.")

    Steps, Minutes, Batch, Rate, Seed, Resume, Runs = training_options()
    Width = Annotated[int | None, typer.Option(min=1, help="Channels of the network's first level.")]

    def register(name: str, sentence: str, panel: str) -> None:
        @group.command(name, help=sentence, rich_help_panel=panel)
        def command(
            out: Annotated[
                Path | None, typer.Option(help="The file to write, instead of the recipe's own place.")
            ] = None,
            steps: Steps = None,
            seed: Seed = 0,
            resume: Resume = True,
            runs: Runs = Path("runs"),
        ):
            _run(name, out, steps=steps, seed=seed, resume=resume, runs=runs)

    @group.command("images", rich_help_panel=OWN)
    def images(
        folder: Annotated[Path, typer.Argument(help="A folder of pictures, or a zip archive of one.")],
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="The model: a folder, or a .safetensors; else FOLDER-model.")
        ] = None,
        labels: Annotated[
            bool | None,
            typer.Option("--labels/--no-labels", help="Subfolders are classes; else if there are two."),
        ] = None,
        captions: Annotated[
            bool | None,
            typer.Option("--captions/--no-captions", help="Pictures have captions; else if any has one."),
        ] = None,
        size: Annotated[int | None, typer.Option(min=8, help="Height and width, pixels: 32 or 64, say.")] = None,
        grey: Annotated[bool, typer.Option("--grey", help="Pictures without colours.")] = False,
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        width: Width = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """A diffusion model of the pictures in a folder, for `minildm generate --model`: plain, by class, by captions.

        Subfolders are classes, 7.txt beside 7.png is its caption. Sheets of samples on the way lie in RUNS.
        2,500 steps at 32×32 take some eleven minutes on two cores.
        """
        how = given(size=size, steps=steps, minutes=minutes, batch=batch, lr=lr, width=width)
        how |= dict(labels=labels, captions=captions, grey=grey, seed=seed, resume=resume, runs=runs)
        path = _run("images", folder, out, **how)
        print(f"draw with it: minildm generate --model {path}")

    @group.command("masks", rich_help_panel=OWN)
    def masks(
        images: Annotated[Path, typer.Argument(help="A folder of pictures.")],
        masks: Annotated[Path, typer.Argument(help="A folder with the mask of each picture, of its name.")],
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="The model, a .safetensors; else IMAGES-model.safetensors.")
        ] = None,
        channels: Annotated[int | None, typer.Option(help="1 makes all pictures grey, 3 all of them colour.")] = None,
        instances: Annotated[
            str | None,
            typer.Option(help="An object is each value of a mask (labels), or each region (connected)."),
        ] = None,
        size: Annotated[int | None, typer.Option(min=16, help="Side of the crops it learns from, pixels.")] = None,
        steps: Steps = None,
        minutes: Minutes = None,
        batch: Batch = None,
        lr: Rate = None,
        width: Width = None,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        """A segmenter, from pictures and their masks, for `minildm segment --model`.

        500 steps take some three minutes on two cores. Sheets on the way, in the runs' folder, show what it finds.
        """
        how = given(size=size, steps=steps, minutes=minutes, batch=batch, lr=lr, width=width)
        how |= dict(channels=channels, instances=instances, seed=seed, resume=resume, runs=runs)
        path = _run("masks", images, masks, out, **how)
        print(f"use it: minildm segment --model {path} IMAGE -o mask.png")

    @group.command("pocket", help=course.described()["pocket"], rich_help_panel=SHIPPED)
    def pocket(
        out: Annotated[Path | None, typer.Option(help="The folder to write, instead of the shipped place.")] = None,
        steps: Steps = None,
        batch: Batch = None,
        lr: Rate = None,
        width: Width = None,
        size: Annotated[int | None, typer.Option(min=16, help="Height and width of the pictures, pixels.")] = None,
        compiled: Annotated[bool, typer.Option("--compiled", help="Compile the U-Net: minutes, then faster.")] = False,
        seed: Seed = 0,
        resume: Resume = True,
        runs: Runs = Path("runs"),
    ):
        how = given(batch=batch, lr=lr, width=width, size=size, compiled=compiled or None)
        _run("pocket", out, **how, steps=steps, seed=seed, resume=resume, runs=runs)

    for kind, panel in (("", SHIPPED), ("studies", STUDIES)):
        for name, sentence in course.described(kind).items():
            if name not in ("images", "masks", "pocket"):
                register(name, sentence, panel)


def _run(name: str, *arguments: object, **settings: object) -> Path:
    """Run a recipe and say where it wrote to."""
    path = course.recipe(name).run(*arguments, **settings)
    print(f"written: {path}")
    return path
