"""Checks of lesson 11: the names and the sizes of Stable Diffusion."""

import re

import torch

from minildm.reference_names import reference_name
from minildm.text import TextEncoder

from ._check import Exercise, exercise


@exercise
def clip_name() -> Exercise:
    """`answer(name)`: what CLIPTextModel calls a parameter of our TextEncoder, without "text_model." in front."""
    with torch.device("meta"):
        towers = [TextEncoder(9, 4, depth=depth, heads=2, length=5) for depth in (1, 3, 12)]
    theirs = {name: reference_name(towers[-1], name) for name in towers[-1].state_dict()}

    def ask(answer, names):
        given = {name: answer(name) for name in names}
        right = {name: theirs[name] for name in names}
        words = all(isinstance(one, str) for one in given.values())
        unknown = [one for one in given.values() if words and one not in right.values()]
        wrong = [name for name in names if words and not unknown and given[name] != right[name]]
        return {
            "each answer is a name": words,
            "names that CLIPTextModel does not have": _some(unknown),
            "parameters that get the name of another one": _some(wrong),
        }

    def but(*pairs):
        def name(ours):
            found = theirs[ours]
            for old, new in pairs:
                found = found.replace(old, new)
            return found

        return name

    mistakes = {
        "these are our own names: nothing is translated yet": lambda name: name,
        "without text_model. in front, which only some versions put there": lambda name: f"text_model.{theirs[name]}",
        "the very last normalisation is no part of a block, and has a name of its own": [
            but(("final_layer_norm", "layer_norm")),
            but(("final_layer_norm", "norm")),
        ],
        "only the very last normalisation is called final; those in the blocks are not": but(
            (".layer_norm", ".final_layer_norm")
        ),
        "the normalisations in the blocks: compare our norm1 with what theirs is called": but((".layer_norm", ".norm")),
        "the layer behind the heads: ours is to_out": [but(("out_proj", "to_out")), but(("out_proj", "to_out_proj"))],
        "queries, keys and values: ours are to_q, to_k and to_v": [
            but(*((f".{one}_proj", f".to_{one}") for one in "qkv")),
            but(*((f".{one}_proj", f".{one}") for one in "qkv")),
        ],
        "all four layers of the attention have other names there": but(
            *((f".{one}_proj", f".to_{one}") for one in ("q", "k", "v", "out"))
        ),
        "the attention itself has another name": but(("self_attn", "attention")),
        "the two layers of the feed-forward stand in a part of their own there": but((".mlp", "")),
        "the blocks stand in a part of their own there": [but(("encoder.layers", "layers")), but(("encoder.", ""))],
        "the blocks are called layers there": but(("encoder.layers", "encoder.blocks")),
        "the table of tokens has another name": but(("embeddings.token_embedding", "tokens")),
        "the table of positions has another name": but(("embeddings.position_embedding", "positions")),
        "both tables stand in a part of their own there": but(("embeddings.", "")),
        "two normalisations are exchanged: they have one shape, so that no file complains": but(
            ("norm1", "norm0"), ("norm2", "norm1"), ("norm0", "norm2")
        ),
        "queries and keys are exchanged: they have one shape, so that no file complains": but(
            ("q_proj", "x_proj"), ("k_proj", "q_proj"), ("x_proj", "k_proj")
        ),
        "the number of the block is lost, or always the same: it stays as it came": [
            lambda name: re.sub(r"layers\.\d+", "layers", theirs[name]),
            lambda name: re.sub(r"layers\.\d+", "layers.0", theirs[name]),
        ],
        "the end stays: .weight or .bias": lambda name: theirs[name].rpartition(".")[0],
    }
    cases = [(list(tower.state_dict()),) for tower in towers]
    return Exercise(lambda name: theirs[name], cases, mistakes, run=ask, own=[reference_name])


def _some(names):
    """The first few of some names, in a line; "none" where there are none."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


@exercise
def map_shape() -> Exercise:
    """Exercise 1: `answer(height, width, level)` -> (heads, places, words) of one cross-attention map."""

    def shape(latent=8, halve=lambda level: 2**level, words=77, order=lambda h, p, w: (h, p, w), area=True):
        def count(height, width, level):
            rows, columns = (side // latent // halve(level) for side in (height, width))
            return order(8, rows * columns if area else rows, words)

        return count

    cases = [(512, 512, 0), (512, 512, 2), (512, 768, 1), (1024, 576, 2), (320, 448, 0), (64, 128, 2)]
    mistakes = {
        "these are the places of the picture: the U-Net works on latents, of 1/8 of the sides": shape(latent=1),
        "each level halves the map once more: at level 2 its sides are 1/4 of the latent's": shape(
            halve=lambda level: 1 if level == 0 else 2
        ),
        "each level halves both sides, so level 0 is the full latent size": shape(halve=lambda level: 2 ** (level + 1)),
        "the map of a *cross*-attention: places look at words, not at places": lambda height, width, level: (
            8,
            *[height * width // 64 // 4**level] * 2,
        ),
        "places and words are exchanged: a row of the map belongs to a place that asks": shape(
            order=lambda h, p, w: (h, w, p)
        ),
        "places are rows times columns of the map": shape(area=False),
        "rows and columns of the map are one axis: places, rows times columns": lambda height, width, level: (
            8,
            *(side // 8 // 2**level for side in (height, width)),
            77,
        ),
        "at each level both sides are halved, so a quarter of the places is left": lambda height, width, level: (
            8,
            height * width // 64 // 2**level,
            77,
        ),
    }
    return Exercise(shape(), cases, mistakes, tolerance=0)


@exercise
def block_parameters() -> Exercise:
    """Exercise 2: `answer(dim, context_dim)`, the parameters of one transformer block."""

    def count(norms=6, context=True, gate=2, bias_out=2, bias_qkv=0, bias_forward=True, values=2, cross=1):
        def total(dim, context_dim):
            seen = context_dim if context else dim
            self_attention = 4 * dim**2
            cross_attention = 2 * dim**2 + values * dim * seen
            forward = gate * 4 * dim**2 + 4 * dim**2
            biases = bias_out * dim + bias_qkv * dim + bias_forward * (gate * 4 * dim + dim)
            return self_attention + cross * cross_attention + forward + biases + norms * dim

        return total

    cases = [(8, 6), (16, 24), (64, 32), (320, 768), (1280, 768), (640, 2048)]
    mistakes = {
        "the keys and values of the cross-attention read the context, of context_dim": count(context=False),
        "the first layer of the feed-forward is 8 dim wide: half of it gates the other half": count(gate=1),
        "the normalisations are missing, three with a scale and a shift for each channel": count(norms=0),
        "a LayerNorm has a scale *and* a shift for each channel": count(norms=3),
        "the biases are missing: those of the attentions' outputs and of the feed-forward": count(
            bias_out=0, bias_forward=False
        ),
        "the biases of the attentions' outputs are missing": count(bias_out=0),
        "the biases of the feed-forward are missing": count(bias_forward=False),
        "queries, keys and values have no bias here": count(bias_qkv=6),
        "both the keys and the values of the cross-attention read the context": count(values=1),
        "there are two attentions, one to the pixels and one to the context": count(cross=0, bias_out=1),
    }
    return Exercise(count(), cases, mistakes, tolerance=0)


@exercise
def training_bytes() -> Exercise:
    """`answer(parameters, trained)`, bytes for training in mixed precision, without activations."""

    def count(frozen=2, master=4, gradient=4, adam=8, average=4):
        def total(parameters, trained):
            return frozen * parameters + (master + gradient + adam + average) * trained

        return total

    cases = [(10, 3), (100, 100), (1000, 0), (1000, 7), (859_520_964, 859_520_964), (1_066_235_307, 797_184)]
    mistakes = {
        "the copies in 16 bits, with which everything is computed, are missing": count(frozen=0),
        "in 16 bits a number takes 2 bytes": count(frozen=4),
        "something of 4 bytes is missing: weights, gradients, the averaged copy, or one of Adam's *two* averages": (
            count(gradient=0)
        ),
        "2 bytes are missing for what is trained: it lies there in 16 bits and in 32, and gradients have 32 here": (
            count(gradient=2)
        ),
        "Adam's averages are missing": count(adam=0),
        "only what is trained has a gradient, averages and copies": lambda parameters, trained: 22 * parameters,
        "these are bits: 8 of them are a byte": lambda parameters, trained: 8 * (2 * parameters + 20 * trained),
        "these are numbers, not bytes": lambda parameters, trained: parameters + 5 * trained,
    }
    return Exercise(count(), cases, mistakes, tolerance=0)
