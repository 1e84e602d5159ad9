"""python trial.py NAME MIRRORED(0/1) STEPS: a controlled trial: the shipped pocket trained on in either world."""
import sys, time, copy, pathlib
import torch
torch.set_num_threads(1)
from minildm import storage, data
from minildm.data import layout
if sys.argv[2] == "0":
    before = layout._drawn
    layout._drawn = lambda name, side, angle, mirrored: before(name, side, angle, False)
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket, pocket_feedback as pf
from minildm.recipes.pocket_scenes import Batches, latents, draw_timesteps
from minildm.recipes.pocket_loss import TextConditionedLoss
began = time.time()
pipe = LatentDiffusion.from_pretrained("pocket"); pipe.to(torch.float32)
unet = pipe.unet.to(memory_format=torch.channels_last).train()
SH = {"one object": 5, "two objects": 3, "counting": 2, "colour": 1, "position": 3, "colour attribution": 3}
scenes = {task: latents(pipe.vae, task, 2500, seed=17) for task in SH}
real = Batches(scenes, pipe.tokenizer, SH, pipe.schedule, 0.1)
gen = torch.Generator().manual_seed(5)
loss_fn = TextConditionedLoss(pipe.text_encoder.eval().requires_grad_(False))
ema = copy.deepcopy(unet)
opts = pocket.optimizers({"denoiser." + n: p for n, p in unet.named_parameters()}, 5e-4)
base = [[g["lr"] for g in o.param_groups] for o in opts]
N = int(sys.argv[3])
for k in range(N):
    f = min(1, (k + 1) / 40) * (1 - k / N)
    r = real(gen, 64); r["t"] = draw_timesteps(64, pipe.schedule, gen, pf.TIMES)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_fn(unet, {n: r[n] for n in ("x_0", "eps", "t", "ids")})
    for o, bs in zip(opts, base):
        for g, l in zip(o.param_groups, bs): g["lr"] = l * f
        o.zero_grad(set_to_none=True)
    loss.backward()
    for o in opts: o.step()
    with torch.no_grad():
        for a, b in zip(ema.parameters(), unet.parameters()): a.lerp_(b, 0.03)
    if k % 50 == 0: print(k, loss.item(), f"{time.time()-began:.0f}s", flush=True)
storage.write(pathlib.Path(f"nft9/trial-{sys.argv[1]}.safetensors"), {k: v.contiguous() for k, v in storage.state(ema).items()}, {})
print("done", flush=True)
