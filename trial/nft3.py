"""python nft.py NAME SEED MINUTES MIX: rounds of own pictures from the shipped pocket."""
import sys, time, json, copy
import numpy as np, torch
from torch import nn
torch.set_num_threads(1)
from minildm import data, geneval
from minildm.pipeline import LatentDiffusion
from minildm.recipes import pocket_feedback as pf
from minildm.recipes.pocket_scenes import Batches, latents, draw_timesteps
from minildm.recipes.pocket_loss import TextConditionedLoss
from minildm.losses import draw_noise
from minildm.tensors import in_bfloat16
from minildm import storage
from minildm.data import layout
_drawn_before = layout._drawn
layout._drawn = lambda name, side, angle, mirrored: _drawn_before(name, side, angle, False)  # every thing faces one way

NAME, SEED, MINUTES, MIX = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
OUT = f"trial/nft9/{NAME}"
began = time.time()
pipe = LatentDiffusion.from_pretrained("pocket")
pipe.to(torch.float32)
START = sys.argv[5]
mean = {}
for part in START.split("+"):
    for k, v in storage.read(__import__("pathlib").Path(part))[0].items(): mean[k] = mean.get(k, 0) + v.float() / len(START.split("+"))
storage.fill(storage.state(pipe.unet), mean, __import__("pathlib").Path(START))
unet = pipe.unet.to(memory_format=torch.channels_last).train()
GEN = torch.Generator().manual_seed(SEED)

class Mixed(nn.Module):
    """Padding of some captions drawn towards that of the empty one, or of another caption."""
    def __init__(self, encoder, empty):
        super().__init__()
        self.encoder, self.dim, self.empty, self.share = encoder, encoder.dim, empty, 0.0
    def forward(self, ids, mask=None):
        c = self.encoder(ids, mask)
        if self.share == 0 or len(ids) < 2: return c
        end = (ids == self.encoder.end).int().argmax(1)  # first end token
        pad = torch.arange(ids.shape[1])[None] >= end[:, None]  # the end token itself sums up, too
        empty = end == 1
        some = (torch.rand(len(ids), generator=GEN) < self.share) & ~empty
        a = torch.rand(len(ids), 1, 1, generator=GEN)
        other = torch.where((torch.rand(len(ids), 1, 1, generator=GEN) < 0.5), self.empty, c[torch.randperm(len(ids), generator=GEN), -1:].expand_as(c))
        m = (pad & some[:, None])[..., None]
        return torch.where(m, (1 - a) * c + a * other, c)

with torch.no_grad():
    empty = pipe.text_encoder(pipe.tokenizer([""])[0])
    print("end", pipe.text_encoder.end, pipe.tokenizer(["a cat"])[0], flush=True)
enc = Mixed(pipe.text_encoder.eval().requires_grad_(False), empty)
plain = pipe.text_encoder
dice = np.random.default_rng((SEED, 1))
SH = {"one object": 5, "two objects": 3, "counting": 2, "colour": 1, "position": 3, "colour attribution": 3}
t0 = time.time()
scenes = {task: latents(pipe.vae, task, 2500, seed=17) for task in SH}
print("latents", time.time() - t0, flush=True)
real = Batches(scenes, pipe.tokenizer, SH, pipe.schedule, pf.UNTOLD)
skill = {}
def key(p): return [name for name, _ in p.objects]
def draw(n):
    often = np.array([*SH.values()], float); said = []
    for task in dice.choice(list(SH), n, p=often / often.sum()):
        lang = str(dice.choice(data.LANGUAGES))
        cands = data.prompts(4, int(dice.integers(2**31)), tasks=str(task), language=lang)
        score = [np.mean([skill.get(n, 0.5) for n in key(data.parse(c))]) for c in cands]
        said.append(cands[int(np.argmin(score))] if dice.random() < 0.7 else cands[0])
    return said
old = copy.deepcopy(unet).eval().requires_grad_(False)
ema = copy.deepcopy(unet).eval().requires_grad_(False)
opt = torch.optim.AdamW(unet.parameters(), 2e-4, weight_decay=0.0)
inner = pf.FeedbackLoss(old)
loss_fn = TextConditionedLoss(enc, inner)
PROMPTS, GROUP, STEPS, SPREAD = 24, 8, 24, 0.25
gen = torch.Generator().manual_seed(SEED + 100)
step = rounds = 0
stats = []
from minildm.losses import denoising_loss
warm = TextConditionedLoss(pipe.text_encoder)
WARM = 0
realu = Batches(scenes, pipe.tokenizer, SH, pipe.schedule, 0.1)
for k in range(WARM):
    r = realu(gen_w := globals().setdefault("gen_w", torch.Generator().manual_seed(SEED + 7)), 64)
    r["t"] = draw_timesteps(64, pipe.schedule, gen_w, pf.TIMES)
    for g in opt.param_groups: g["lr"] = 3e-4 * min(1, (k + 1) / 50)
    with torch.autocast("cpu", torch.bfloat16):
        loss = warm(unet, {n: r[n] for n in ("x_0", "eps", "t", "ids")})
    opt.zero_grad(); loss.backward(); nn.utils.clip_grad_norm_(unet.parameters(), 1.0); opt.step()
    with torch.no_grad():
        for a, b in zip(ema.parameters(), unet.parameters()): a.lerp_(b, min(0.02, 1)) 
    if k % 50 == 0: print("warm", k, loss.item(), f"{time.time()-began:.0f}s", flush=True)
with torch.no_grad():
    for a, b, e in zip(old.parameters(), unet.parameters(), ema.parameters()): a.copy_(e); b.copy_(e)
storage.write(__import__("pathlib").Path(OUT + "-warm.safetensors"), {k: v.contiguous() for k, v in storage.state(ema).items()}, {})
FALL = 11 * 60
while True:
    left = MINUTES * 60 - (time.time() - began)
    if left <= 0: break
    lr = 2e-4 * min(1, left / FALL)
    texts = draw(PROMPTS)
    said = [t for t in texts for _ in range(GROUP)]
    pipe.unet = old
    z, q = [], []; tp = time.time()
    for at in range(0, len(said), 64):
        some = said[at:at + 64]
        # whole groups are mixed alike: contexts are made here
        uniq = list(dict.fromkeys(some))
        with torch.no_grad():
            enc.share = MIX
            c = enc(pipe.tokenizer(uniq)[0]) ; enc.share = 0.0
            c = c[[uniq.index(s) for s in some]]
            with in_bfloat16(pipe.device):
                *_, last = pipe.steps(context=c, negative_context=empty.expand(len(some), -1, -1), steps=8, guidance=pipe.guidance, seed=[int(s) for s in dice.integers(2**31, size=len(some))])
        z.append(last.x_t.float())
        with torch.no_grad():
            with in_bfloat16(pipe.device): pics = pipe.decode(z[-1])
            q.append(geneval.quality(pics.float(), [data.parse(s) for s in some]))
    tq = time.time()
    z = torch.cat(z); q = torch.from_numpy(np.concatenate(q)).float().view(-1, GROUP)
    for t, row in zip(texts, q):
        p = data.parse(t)
        for n in key(p): skill[n] = 0.7 * skill.get(n, 0.5) + 0.3 * row.mean().item()
    better = q - q.mean(1, keepdim=True)
    good = (0.5 + 0.5 * (better / SPREAD).clamp(-1, 1)).flatten()
    single = [data.parse(t).task == "one object" for t in texts]
    clean = (q > 0.85).float().mean(1)
    stats.append([(q > 0).float().mean().item(), clean[torch.tensor(single)].mean().item()])
    keep = (good - 0.5).abs() > 0.02  # groups all alike teach nothing
    ids = pipe.tokenizer(said)[0]
    at_keep = keep.nonzero().flatten()
    unet.train()
    nsteps = max(1, round(STEPS * len(at_keep) / len(keep) * 1.3))
    total = 0.0
    for g in opt.param_groups: g["lr"] = lr
    for _ in range(min(STEPS, nsteps)):
        r = real(gen, 16)
        at = at_keep[torch.randint(len(at_keep), (48,), generator=gen)]
        own = draw_noise(z[at], pipe.schedule, gen)
        own |= dict(t=draw_timesteps(48, pipe.schedule, gen, pf.TIMES), ids=ids[at], good=good[at])
        r["good"] = torch.ones(16)
        batch = {k: torch.cat([own[k], r[k]]) for k in own}
        enc.share = MIX
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(unet, batch)
        enc.share = 0.0
        opt.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0); opt.step()
        with torch.no_grad():
            for a, b, e in zip(old.parameters(), unet.parameters(), ema.parameters()):
                a.lerp_(b, 0.01); e.lerp_(b, 0.01)
        step += 1; total += loss.item()
    rounds += 1
    m = np.nanmean(np.array(stats[-8:]), 0)
    print(f"{rounds} {time.time()-began:.0f}s step {step} right {m[0]:.3f} clean1 {m[1]:.3f} kept {len(at_keep)} loss {total/max(1,min(STEPS,nsteps)):.4f} lr {lr:.1e} paint {tq-tp:.0f}s learn {time.time()-tq:.0f}s", flush=True)
    if rounds % 10 == 0 or left < 90:
        storage.write(__import__("pathlib").Path(OUT + ".safetensors"), {k: v.contiguous() for k, v in storage.state(ema).items()}, {"rounds": str(rounds), "step": str(step)})
        print("worst", sorted((round(v, 2), k) for k, v in skill.items())[:12], flush=True)
storage.write(__import__("pathlib").Path(OUT + ".safetensors"), {k: v.contiguous() for k, v in storage.state(ema).items()}, {"rounds": str(rounds), "step": str(step), "pictures": str(rounds * PROMPTS * GROUP)})
print("done", rounds, step, flush=True)
