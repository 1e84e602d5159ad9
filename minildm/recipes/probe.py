"""What can be read off a frozen text encoder's tokens: asked as the pixels of a U-Net ask, with attention alone.

Source of the idea: Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data
from minildm.attention import Attention
from minildm.data import RELATIONS, TASKS, VOCABULARY, Prompt
from minildm.data.families import OPPOSITE
from minildm.data.prompts import draw_prompt
from minildm.tensors import seeded
from minildm.text import TextEncoder, Tokenizer
from minildm.training import train

COUNTS = 4
NOBODY = -100  # no answer: such a caption is left out of that question's loss


class Reader(nn.Module):
    """One look at the tokens for each question, and a linear layer that answers. (b, n, dim) -> answers by name

    things: which things there are, a logit for each.  count: how many, 1 to 4.
    left of, right of, above, below: which thing stands there, seen from the other.
    """

    def __init__(self, dim: int, heads: int = 4):
        super().__init__()
        answers = {"things": len(VOCABULARY), "count": COUNTS} | dict.fromkeys(RELATIONS, len(VOCABULARY))
        self.questions = nn.Parameter(torch.randn(len(answers), dim))
        self.attention = Attention(dim, heads=heads, bias=True)
        self.answers = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in answers.items()})

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        seen = self.attention(self.questions.expand(len(context), -1, -1), context)  # (b, questions, dim)
        return {name: answer(h) for (name, answer), h in zip(self.answers.items(), seen.unbind(1), strict=True)}


def truth(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """The right answers of `Reader`: things (n, 70) of 0 and 1, the others (n,) int64."""
    things = torch.zeros(len(prompts), len(VOCABULARY))
    answers = {name: torch.full((len(prompts),), NOBODY) for name in ("count", *RELATIONS)}
    for i, prompt in enumerate(prompts):
        numbers = [VOCABULARY.index(name) for name, _ in prompt.objects]
        things[i, numbers] = 1
        if len(numbers) == 1:
            answers["count"][i] = prompt.objects[0][1] - 1
        if prompt.relation:
            answers[prompt.relation][i], answers[OPPOSITE[prompt.relation]][i] = numbers
    return {"things": things} | answers


@torch.no_grad()
def asked(encoder: TextEncoder, tokens: Tokenizer, n: int, seed: int, split: str, language: str) -> dict[str, Tensor]:
    """What is frozen, the `context` (n, length, dim) of n captions, and the right answers."""
    draw = np.random.default_rng((seed, data.LANGUAGES.index(language))).random
    prompts = [draw_prompt(draw, split, TASKS[split == "heldout" :]) for _ in range(n)]  # one object is never held out
    ids = tokens(data.caption(prompt, language, draw) for prompt in prompts)[0]
    return {"context": torch.cat([encoder(part) for part in ids.split(250)])} | truth(prompts)


def reading_loss(reader: Reader, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of each question, over the captions that answer it."""
    said = reader(tensors["context"])
    total = F.binary_cross_entropy_with_logits(said["things"], tensors["things"]) * len(VOCABULARY)
    for name in ("count", *RELATIONS):
        total = total + F.cross_entropy(said[name], tensors[name], reduction="sum") / len(tensors[name])
    return total


@torch.no_grad()
def scores(reader: Reader, tensors: dict[str, Tensor]) -> dict[str, float]:
    """Shares of captions read right: `things` (all of them), `count`, and `sides` (who stands on either)."""
    said, many = reader(tensors["context"]), tensors["things"].sum(1, keepdim=True).long()
    line = said["things"].sort(descending=True).values.gather(1, many - 1)  # the least sure of as many as there are
    right = {"things": ((said["things"] >= line) == tensors["things"].bool()).all(1)}
    counted = tensors["count"] != NOBODY
    right["count"] = (said["count"].argmax(1) == tensors["count"])[counted]
    sides = [(said[name].argmax(1) == tensors[name])[tensors[name] != NOBODY] for name in RELATIONS]
    right["sides"] = torch.cat(sides)
    return {name: float(hits.float().mean()) for name, hits in right.items()}


def probe(
    encoder: TextEncoder, tokens: Tokenizer, n: int = 6000, steps: int = 600, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train a `Reader` on n captions of each language; by language, `scores` on a sixth as many of held-out ones."""
    seen = [asked(encoder, tokens, n, seed, "train", language) for language in data.LANGUAGES]
    seen = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
    with seeded(seed):
        reader = Reader(encoder.dim)

    def batch(generator, b):
        at = torch.randint(len(seen["context"]), (b,), generator=generator)
        return {name: tensor[at] for name, tensor in seen.items()}

    train(reader, batch, reading_loss, steps=steps, batch_size=256, lr=3e-3, ema=None, seed=seed, progress=False)
    unseen = {
        language: asked(encoder, tokens, max(60, n // 6), seed + 1, "heldout", language) for language in data.LANGUAGES
    }
    return {language: scores(reader, tensors) for language, tensors in unseen.items()}
