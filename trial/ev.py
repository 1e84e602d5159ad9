"""python ev.py WEIGHTS [per_task] [guidance] [steps]"""
import sys, pathlib, time
import numpy as np, torch
torch.set_num_threads(1)
from minildm import data, geneval, likeness, storage
from minildm.pipeline import LatentDiffusion
from minildm.recipes import taught
from minildm.tensors import in_bfloat16
w = sys.argv[1]; per = int(sys.argv[2]) if len(sys.argv) > 2 else 40
how = dict(guidance=float(sys.argv[3]) if len(sys.argv) > 3 else None, steps=int(sys.argv[4]) if len(sys.argv) > 4 else 12)
pipe = LatentDiffusion.from_pretrained("pocket"); pipe.to(torch.float32)
if w != "pocket":
    t = {}
    for part in w.split("+"):
        x, _ = storage.read(pathlib.Path(part))
        for k, v in x.items(): t[k] = t.get(k, 0) + v.float() / len(w.split("+"))
    storage.fill(storage.state(pipe.unet), t, pathlib.Path(w.split("+")[0]))
names = [n for n in data.VOCABULARY if " " not in n or True][:46]
from minildm.data.vocabulary import NOUNS
names = [n.name for n in NOUNS]
t0 = time.time()
K = 4
shares = []
for k in range(K):
    with in_bfloat16(pipe.device):
        x = pipe(taught.asked(names), seed=[5000 + 100 * k + i for i in range(len(names))], output="tensor", **how)
    shares.append(likeness.unexplained(x.float(), names))
s = np.stack(shares)
print(w, how, f"singles n={s.size}: median {np.median(s):.3f} alike {(s<.5).mean():.3f} clean {(s<.15).mean():.3f}", flush=True)
print("worst", sorted((round(float(v), 2), n) for n, v in zip(names, (s < .15).mean(0)))[:14], f"{time.time()-t0:.0f}s", flush=True)
def paint(*a, **k):
    with in_bfloat16(pipe.device): return pipe(*a, **k).float()
for split in ("heldout", "train"):
  for lang in ("en",) if per < 60 else ("en", "zh"):
    if not per: continue
    r = geneval.evaluate(paint, split, lang, per_task=per, seeds=1, tasks=data.TASKS[1:], progress=False, **{k: v for k, v in how.items() if v is not None})
    d = r.summary()
    print(split, lang, [(k, round(v["score"]["value"], 3), round(v["strict"]["value"], 3)) for k, v in d.items()], f"{time.time()-t0:.0f}s", flush=True)
