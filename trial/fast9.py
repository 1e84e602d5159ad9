import sys, json, pathlib, time, torch
torch.set_num_threads(1)
from minildm import data, storage, weights
from minildm.adapt import LoRA
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket, pocket_fast as pf, Job, checksum
from minildm.recipes.pocket_loss import TextConditionedLoss
from minildm.tensors import best_device, fast_bfloat16, seeded
from minildm.training import train
PATHS, OWN, S1, S2 = (int(x) for x in sys.argv[1:5])
began = time.time()
teacher, pipe = (LatentDiffusion.from_pretrained("pocket") for _ in range(2))
known, unseen = pf.walked(teacher, PATHS, 0), pf.walked(teacher, 200, pf.PATHS)
print("paths", len(known["x"]), f"{time.time()-began:.0f}s", flush=True)
lora = LoRA.load(pf.PLACE, pipe.unet)
unet = pipe.unet
for p in lora.parameters(): p.requires_grad_(True)
print("trained", sum(p.numel() for p in lora.parameters()), flush=True)
loss = TextConditionedLoss(pipe.text_encoder, pf.jump_loss)
def validate(unet):
    e = {n: pocket.error(unet, pf.Batches(s, pipe.schedule), pipe.text_encoder, n=300) for n, s in dict(training_error=known, unseen_error=unseen).items()}
    print(e, f"{time.time()-began:.0f}s", flush=True); return e
how = dict(steps=4, guidance=1)
def strict():
    if PATHS < 100: return
    r = pocket.geneval_summary(pipe, "en", seeds=1, **how)
    print({s: (round(r[s]["overall"]["score"]["value"], 3), round(r[s]["overall"]["strict"]["value"], 3)) for s in r}, f"{time.time()-began:.0f}s", flush=True)
def learn(found, steps, lr, place):
    settings = dict(steps=steps, batch_size=64, lr=lr, ema=0.99, seed=9, decay=steps // 2, bfloat16=fast_bfloat16(best_device()), checkpoint=pathlib.Path(place), progress=False)
    return train(unet, pf.Batches(found, pipe.schedule), loss, **settings, validate=validate, validate_every=200)
h1 = learn(known, S1, 7e-4, "trial/runs/fast9a.safetensors")
lora.save("trial/fast9_a.safetensors", dtype=torch.float16)
strict()
t = time.time()
own = pf.walked(teacher, OWN, pf.PATHS + pf.UNSEEN, pipe)
print("own", len(own["x"]), f"{time.time()-t:.0f}s", flush=True)
both = {n: torch.cat([known[n], own[n]]) for n in known}
h2 = learn(both, S2, 5e-4, "trial/runs/fast9b.safetensors")
lora.save("trial/fast9_b.safetensors", dtype=torch.float16)
storage.write(pathlib.Path("trial/fast9_state.safetensors"), {}, {"note": json.dumps(dict(paths=len(known["x"]), own_paths=len(own["x"]), minutes=(h1.seconds + h2.seconds) / 60, measured=h2.validation[-1][1]))})
strict()
print("done", flush=True)
