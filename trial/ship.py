"""python ship.py WEIGHTS+WEIGHTS ROUNDS PICTURES STEPS MINUTES: write the pocket in the worktree (PYTHONPATH), geneval later."""
import sys, pathlib, json, torch
from minildm import storage, weights
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket
parts = sys.argv[1].split("+")
pipe = LatentDiffusion.from_pretrained("pocket"); record = weights.record("pocket")
pipe.to(torch.float32)
mean = {}
for part in parts:
    for k, v in storage.read(pathlib.Path(part))[0].items(): mean[k] = mean.get(k, 0) + v.float() / len(parts)
storage.fill(storage.state(pipe.unet), mean, pathlib.Path(parts[0]))
for k in ("minildm", "torch"): record.pop(k, None)
more = json.loads(pathlib.Path("trial/more.json").read_text())
record["feedback"] |= {"pictures": record["feedback"]["pictures"] + more["pictures"], "steps": record["feedback"]["steps"] + more["steps"], "minutes": record["feedback"]["minutes"] + more["minutes"]}
record["feedback"]["how"] += more["how"]
record["date"] = "2026-11-29"
g = pathlib.Path("trial/geneval9.json")
if g.exists(): record["geneval"] = json.loads(g.read_text())
print(pocket.write(pipe, None, **record))
print(weights.checksum("pocket"))
