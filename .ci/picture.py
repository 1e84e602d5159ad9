"""Draws the README's pictures from the shipped weights: what a U finds in a micrograph, in scenes, in noise, in words.

.venv/bin/python .ci/picture.py
"""

import textwrap
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patheffects import withStroke

from minildm import LatentDiffusion, data, judge, samplers, segmentation, viz, weights
from minildm.recipes import openmoji_32

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks" / "images"


def keep(figure, name):
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, dpi=100)
    print((FOLDER / name).relative_to(ROOT), f"{(FOLDER / name).stat().st_size / 1e3:.0f} kB")


def telling(pictures, count):
    """The numbers of at most `count` pictures of a film, as much change between any two; first and last are there."""
    changes = [float((after - before).abs().mean()) for before, after in pairwise(pictures)]
    way = np.cumsum([0.0, *changes])
    return np.unique([abs(way - part).argmin() for part in np.linspace(0, way[-1], count)]).tolist()


viz.style()
micrograph = data.nuclei()[0]["image"][128:400, 240:]
scenes = data.scenes(120, seed=11, split="all")
nouns = [s for s in scenes if not any(one["colour"] for one in s["objects"])]  # animals first, shapes where they must
chosen = [next(s for s in nouns + list(scenes) if s["task"] == task) for task in data.TASKS]

figure = plt.figure(figsize=(11, 4.7))
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.35))
found = segmentation.segment(weights.load("nuclei"), micrograph)
viz.outlines(left.subplots(), micrograph, found, viz.ORANGE, f"a micrograph: {found.max()} nuclei found")
right.suptitle("scenes: which object is where", fontsize=11)
for axis, scene in zip(right.subplots(2, 3).flat, chosen, strict=True):
    axis.imshow(scene["image"])
    for one in judge.inspect([scene["image"]])[0]:
        viz.outline(axis, one.mask.astype(int), viz.RED)
        x, y = one.box[0], one.box[1]
        halo = [withStroke(linewidth=3, foreground="white")]
        axis.text(x, max(y - 1.5, 4), one.name, fontsize=9, color=viz.RED, path_effects=halo)
    axis.set_title(textwrap.fill(f"“{scene['caption']}”", 26), fontsize=9)
    axis.axis("off")
keep(figure, "one_u.png")

x_T = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
denoiser, schedule, dice = weights.load("openmoji-32"), openmoji_32.schedule(), torch.Generator().manual_seed(1)
steps = list(samplers.ddpm(denoiser, schedule, x_T, 50, generator=dice, clip=1))
keep(viz.filmstrip(steps, 10, sample=8, size=1.1), "denoise.png")

pipe = LatentDiffusion.from_pretrained("pocket")
latents = [step.x_t for step in pipe.steps("a panda above a pizza", seed=0)]
film = [2 * pipe.decode(z, check=False) - 1 for z in latents]
wishes = [text for k, task in enumerate(data.TASKS) for text in data.prompts(2, 77 + k, tasks=task)][:10]
pictures = pipe(wishes, seed=0, output="tensor")
figure = plt.figure(figsize=(11, 7.2))
above, below = figure.subfigures(2, 1, height_ratios=(1, 1.55))
shown = telling(film, 10)
for (code, unpacked), k in zip(above.subplots(2, len(shown)).T, shown, strict=True):
    code.imshow(viz.pixels(viz.latent_colours(latents[k])[0]))
    unpacked.imshow(viz.pixels(film[k][0]))
    code.set_title(f"after {k} steps" if k else "noise", fontsize=9)
    code.axis("off")
    unpacked.axis("off")
right = judge.score(pictures, wishes)
for axis, text, picture, passed in zip(below.subplots(2, 5).flat, wishes, pictures, right, strict=True):
    axis.imshow(viz.array(picture))
    axis.set_title(textwrap.fill(f"“{text}”" + ("" if passed else " ✗"), 32), fontsize=9)
    axis.axis("off")
keep(figure, "words.png")
print(f"words.png: {sum(right)} of {len(right)} pass the judge")
