"""Draws the README's pictures from the shipped weights: what a U finds in a micrograph, in scenes, in noise, in words.

.venv/bin/python .ci/picture.py
"""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from minildm import LatentDiffusion, data, judge, samplers, segmentation, viz, weights
from minildm.recipes import openmoji_32

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks" / "images"


def keep(figure, name):
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, dpi=100)
    print((FOLDER / name).relative_to(ROOT), f"{(FOLDER / name).stat().st_size / 1e3:.0f} kB")


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
        axis.text(x, y - 1.5, one.name, fontsize=8, color=viz.RED)
    axis.set_title(f"“{scene['caption']}”", fontsize=7)
    axis.axis("off")
keep(figure, "one_u.png")

x_T = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
denoiser, schedule, dice = weights.load("openmoji-32"), openmoji_32.schedule(), torch.Generator().manual_seed(1)
steps = list(samplers.ddpm(denoiser, schedule, x_T, 50, generator=dice, clip=1))
keep(viz.filmstrip(steps, 10, sample=8, size=1.1), "denoise.png")

pipe = LatentDiffusion.from_pretrained("pocket")
film = list(pipe.steps("a panda above a pizza", seed=0))
film = [step._replace(x_t=2 * pipe.decode(step.x_t, check=False) - 1) for step in film]
wishes = [text for k, task in enumerate(data.TASKS) for text in data.prompts(2, 77 + k, tasks=task)][:10]
pictures = pipe(wishes, seed=0, output="tensor")
figure = plt.figure(figsize=(11, 5.9))
above, below = figure.subfigures(2, 1, height_ratios=(1, 3.6))
for axis, k in zip(above.subplots(1, 10), (0, 2, 4, 6, 8, 11, 14, 17, 21, 25), strict=True):
    axis.imshow(viz.pixels(film[k].x_t[0]))
    axis.set_title(f"after {k} steps", fontsize=8)
    axis.axis("off")
for axis, text, picture in zip(below.subplots(2, 5).flat, wishes, pictures, strict=True):
    axis.imshow(viz.array(picture))
    axis.set_title(textwrap.fill(f"“{text}”", 32), fontsize=9)
    axis.axis("off")
keep(figure, "words.png")
