"""python measure2.py WEIGHTS LANG: the record's measure, 100 x 1, 25 steps."""
import json, pathlib, sys, torch
torch.set_num_threads(1)
from minildm import storage
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket
w, lang = sys.argv[1:3]
pipe = LatentDiffusion.from_pretrained("pocket")
pipe.to(torch.float32); storage.fill(storage.state(pipe.unet), {k: v.half().float() for k, v in storage.read(pathlib.Path(w))[0].items()}, pathlib.Path(w))
r = pocket.geneval_summary(pipe, lang, seeds=1)
pathlib.Path(f"trial/p9/geneval-{lang}.json").write_text(json.dumps(r))
for s in r: print(lang, s, [(k, round(v["score"]["value"], 3), round(v["strict"]["value"], 3)) for k, v in r[s].items()], flush=True)
