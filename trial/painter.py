"""RANK=0/1 python painter.py: A: trained on in the world where things face one way; B: its own pictures. Two processes, averaged."""
import copy, json, os, pathlib, sys, time
import numpy as np, torch
import torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
from minildm import data, geneval, storage
from minildm.data import layout
_before = layout._drawn
layout._drawn = lambda name, side, angle, mirrored: _before(name, side, angle, False)
from minildm.losses import draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket, pocket_feedback as pf
from minildm.recipes.pocket_loss import TextConditionedLoss
from minildm.recipes.pocket_scenes import Batches, latents, draw_timesteps
from minildm.tensors import in_bfloat16
P = pathlib.Path
OUT = P("trial/p9")
START, NA, ALR, LAMBDA, END = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])  # END: epoch seconds
RANK = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{OUT}/{os.environ['MEET']}", rank=RANK, world_size=2)
began = time.time()
def say(*a):
    print(f"{time.time()-began:.0f}s", *a, flush=True)
def sync(*models):
    for m in models:
        flat = torch.cat([p.data.reshape(-1) for p in m.parameters()])
        dist.all_reduce(flat); flat /= 2
        at = 0
        for p in m.parameters():
            p.data.copy_(flat[at:at + p.numel()].view_as(p)); at += p.numel()
def save(model, name, **record):
    if RANK == 0: storage.write(OUT / f"{name}.safetensors", {k: v.contiguous() for k, v in storage.state(model).items()}, {k: str(v) for k, v in record.items()})
pipe = LatentDiffusion.from_pretrained("pocket"); pipe.to(torch.float32)
storage.fill(storage.state(pipe.unet), {k: v.float() for k, v in storage.read(P(START))[0].items()}, P(START))
unet = pipe.unet.to(memory_format=torch.channels_last).train()
N = {"one object": 6000, "two objects": 6000, "counting": 5000, "colour": 1500, "position": 6000, "colour attribution": 4000}
SHA = {"one object": 4, "two objects": 4, "counting": 4, "colour": 1, "position": 4, "colour attribution": 2}
SHB = {"one object": 5, "two objects": 4, "counting": 4, "colour": 1, "position": 4, "colour attribution": 3}
scenes = {task: latents(pipe.vae, task, n, seed=17) for task, n in N.items()}
say("latents")
plain = TextConditionedLoss(pipe.text_encoder.eval().requires_grad_(False))
gen = torch.Generator().manual_seed(1000 + RANK)
ema = copy.deepcopy(unet).eval().requires_grad_(False)
if NA:
    real = Batches(scenes, pipe.tokenizer, SHA, pipe.schedule, 0.1)
    opts = pocket.optimizers({"denoiser." + n: p for n, p in unet.named_parameters()}, ALR)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    for k in range(NA):
        f = min(1, (k + 1) / 40) * (1 - k / NA)
        r = real(gen, 64); r["t"] = draw_timesteps(64, pipe.schedule, gen, pf.TIMES)
        with torch.autocast("cpu", torch.bfloat16):
            loss = plain(unet, {n: r[n] for n in ("x_0", "eps", "t", "ids")})
        for o, bs in zip(opts, base):
            for g, l in zip(o.param_groups, bs): g["lr"] = l * f
            o.zero_grad(set_to_none=True)
        loss.backward()
        for o in opts: o.step()
        if (k + 1) % 25 == 0: sync(unet)
        with torch.no_grad():
            for a, b in zip(ema.parameters(), unet.parameters()): a.lerp_(b, 0.02)
        if (k + 1) % 50 == 0: say("A", k + 1, f"{loss.item():.4f}")
        if (k + 1) % 300 == 0 or k + 1 == NA: save(ema, "A", steps=k + 1)
    del opts
    sync(ema)
    save(ema, "A", steps=NA)
if LAMBDA:
    pre, ship = (storage.read(P(p))[0] for p in ("trial/pre.safetensors", "minildm/weights/pocket/unet.safetensors"))
    mine = storage.state(ema)
    storage.fill(mine, {k: mine[k].detach().clone() + LAMBDA * (ship[k].float() - pre[k].float()) for k in ship}, P(START))
with torch.no_grad():
    for b, e in zip(unet.parameters(), ema.parameters()): b.copy_(e)
old = copy.deepcopy(ema)
save(ema, "B0")
real = Batches(scenes, pipe.tokenizer, SHB, pipe.schedule, pf.UNTOLD)
dice = np.random.default_rng((RANK, int(END)))
skill = {}
names = lambda text: [name for name, _ in data.parse(text).objects]
def draw(n):
    often = np.array([*SHB.values()], float); said = []
    for task in dice.choice(list(SHB), n, p=often / often.sum()):
        some = data.prompts(4, int(dice.integers(2**31)), tasks=str(task), language=str(dice.choice(data.LANGUAGES)))
        worst = int(np.argmin([np.mean([skill.get(name, 0.5) for name in names(one)]) for one in some]))
        said.append(some[worst] if dice.random() < 0.6 else some[0])
    return said
with torch.no_grad(): empty = pipe.text_encoder(pipe.tokenizer([""])[0])
opt = torch.optim.AdamW(unet.parameters(), 3e-4, weight_decay=0.0)
feedback = TextConditionedLoss(pipe.text_encoder, pf.FeedbackLoss(old))
PROMPTS, GROUP, STEPS, SPREAD, LR, FALL = 24, 8, 24, 0.25, 3e-4, 14 * 60
rounds = step = 0; stats = []
B0 = time.time()
while True:
    left = torch.tensor([END - time.time()]); dist.broadcast(left, 0); left = left.item()
    if left <= 0: break
    lr = LR * min(1, left / FALL)
    texts = draw(PROMPTS); said = [t for t in texts for _ in range(GROUP)]
    pipe.unet = old; z, q = [], []; t0 = time.time()
    for at in range(0, len(said), 64):
        some = said[at:at + 64]
        with torch.no_grad(), in_bfloat16(pipe.device):
            *_, last = pipe.steps(some, steps=8, seed=[int(s) for s in dice.integers(2**31, size=len(some))])
            pics = pipe.decode(last.x_t.float())
        z.append(last.x_t.float()); q.append(geneval.quality(pics.float(), [data.parse(s) for s in some]))
    t1 = time.time()
    z = torch.cat(z); q = torch.from_numpy(np.concatenate(q)).float().view(-1, GROUP)
    for text, row in zip(texts, q):
        for name in names(text): skill[name] = 0.7 * skill.get(name, 0.5) + 0.3 * row.mean().item()
    good = (0.5 + 0.5 * ((q - q.mean(1, keepdim=True)) / SPREAD).clamp(-1, 1)).flatten()
    single = torch.tensor([data.parse(t).task == "one object" for t in texts])
    stats.append([(q > 0).float().mean().item(), (q > 0.85).float().mean(1)[single].mean().item()])
    ids = pipe.tokenizer(said)[0]; keep = ((good - 0.5).abs() > 0.02).nonzero().flatten()
    unet.train(); total = 0.0
    for g in opt.param_groups: g["lr"] = lr
    for _ in range(STEPS):
        r = real(gen, 16); at = keep[torch.randint(len(keep), (48,), generator=gen)]
        own = draw_noise(z[at], pipe.schedule, gen)
        own |= dict(t=draw_timesteps(48, pipe.schedule, gen, pf.TIMES), ids=ids[at], good=good[at])
        r["good"] = torch.ones(16)
        batch = {k: torch.cat([own[k], r[k]]) for k in own}
        with torch.autocast("cpu", torch.bfloat16): loss = feedback(unet, batch)
        opt.zero_grad(); loss.backward(); nn.utils.clip_grad_norm_(unet.parameters(), 1.0); opt.step()
        with torch.no_grad():
            for a, b, e in zip(old.parameters(), unet.parameters(), ema.parameters()):
                a.lerp_(b, 0.01); e.lerp_(b, 0.01)
        step += 1; total += loss.item()
    t2 = time.time()
    sync(unet, old, ema); rounds += 1
    m = np.nanmean(np.array(stats[-8:]), 0)
    say(f"B {rounds} step {step} right {m[0]:.3f} clean1 {m[1]:.3f} kept {len(keep)} loss {total/STEPS:.4f} lr {lr:.1e} paint {t1-t0:.0f} learn {t2-t1:.0f} wait {time.time()-t2:.0f}")
    if rounds % 5 == 0: save(ema, "B", rounds=rounds, step=step)
    if rounds % 10 == 0: say("worst", sorted((round(v, 2), k) for k, v in skill.items())[:12])
save(ema, "B", rounds=rounds, step=step, pictures=2 * rounds * PROMPTS * GROUP, minutes=(time.time() - B0) / 60)
say("done", rounds, step)
