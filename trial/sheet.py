"""python sheet.py OUT AFTER SEED: 138 pictures of 46 nouns (real, shipped pocket, AFTER; same noise), shuffled on three sheets."""
import sys, random, pathlib, json, numpy as np, torch
torch.set_num_threads(1)
from PIL import Image, ImageDraw
from minildm import data, storage, LatentDiffusion
from minildm.data.vocabulary import NOUNS
from minildm.data.scenes import paint
out, after, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
names = [t.name for t in NOUNS]
said = [("an " if n[0] in "aeiou" else "a ") + n for n in names]
asked = [data.parse(s) for s in said]
pics = []
x = paint(asked, np.random.default_rng(seed).random, layout="grid")
pics += [("real", n, im) for n, im in zip(names, x)]
pipe = LatentDiffusion.from_pretrained("pocket")
for what in ("before", "after"):
    if what == "after":
        pipe.to(torch.float32)
        if after != "pocket": storage.fill(storage.state(pipe.unet), {k: v.float() for k, v in storage.read(pathlib.Path(after))[0].items()}, pathlib.Path(after))
    t = pipe([data.caption(a) for a in asked], seed=seed * 1000, output="tensor")
    pics += [(what, n, im) for n, im in zip(names, (t.movedim(1, -1).float().numpy() * 255).round().astype(np.uint8))]
random.Random(seed).shuffle(pics)
key = []
S, C = 160, 8
for s in range(3):
    some = pics[s * 46:(s + 1) * 46]
    sheet = Image.new("RGB", (C * (S + 8), 6 * (S + 26)), "white"); d = ImageDraw.Draw(sheet)
    for i, (what, n, im) in enumerate(some):
        px, py = i % C * (S + 8), i // C * (S + 26); sheet.paste(Image.fromarray(im).resize((S, S), Image.BICUBIC), (px, py + 20)); d.text((px + 4, py + 4), str(s * 46 + i + 1), fill="black")
        key.append((s * 46 + i + 1, what, n))
    sheet.save(f"{out}-{s + 1}.png")
json.dump(key, open(out + ".key.json", "w"))
