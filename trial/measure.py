import json, pathlib, torch, sys
torch.set_num_threads(1)
from minildm import data
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket
pipe = LatentDiffusion.from_pretrained("pocket")
r = {lang: pocket.geneval_summary(pipe, lang, seeds=1) for lang in data.LANGUAGES}
pathlib.Path("trial/geneval9.json").write_text(json.dumps(r))
for l in r:
    for s in r[l]: print(l, s, [(k, round(v["score"]["value"], 3), round(v["strict"]["value"], 3)) for k, v in r[l][s].items()])
