import torch; torch.set_num_threads(1)
from minildm.data import layout
_b = layout._drawn
layout._drawn = lambda n, s, a, m: _b(n, s, a, False)
from minildm.pipeline import LatentDiffusion
from minildm.recipes.pocket_scenes import latents
pipe = LatentDiffusion.from_pretrained("pocket"); pipe.to(torch.float32)
for t, n in {"one object": 6000, "two objects": 6000, "counting": 5000, "colour": 1500, "position": 6000, "colour attribution": 4000}.items(): latents(pipe.vae, t, n, seed=17); print(t, flush=True)
