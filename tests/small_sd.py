"""A small pipeline of ours, at random, and how the tests of Stable Diffusion's folders change what is in them."""

import json

from compare import randomized

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.text import TextEncoder, train_tokenizer

BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def small():
    """A pipeline of ours, small, with a vocabulary, a schedule and classes of its own."""
    with seeded(0):
        tokenizer = train_tokenizer(["a cat", "a dog"], 260, length=13)
        text = TextEncoder(len(tokenizer), 12, depth=1, heads=2, length=13, hidden_dim=20)
        vae = AutoencoderKL(3, 4, channels=(8, 12), groups=4, scale_factor=0.5)
        unet = Denoiser(4, 4, (8, 16), attention=(1,), heads=2, context_dim=12, groups=8, num_classes=3)
    for module in (unet, vae, text):
        randomized(module)
    settings = dict(predicts="v", size=(8, 12), sees_padding=True)
    return LatentDiffusion(unet, vae, NoiseSchedule.cosine(60), text, tokenizer, **settings)


def vars_of(pipe):
    names = ("unet", "vae", "text_encoder", "tokenizer", "size", "sees_padding", "predicts")
    return {name: getattr(pipe, name) for name in names}


def change(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
