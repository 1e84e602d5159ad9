"""DreamBooth: the whole denoiser learns one thing, bound to a rare word, and keeps the rest by prior preservation.

Trained on a few pictures of "a sks dog" alone, a denoiser forgets other dogs: soon each one looks like these. So before
the training the model paints pictures of its own of "a dog", the prior. In each step it learns from both: the new thing
under its own word, and what it used to paint under the old one.
Source: Ruiz et al., "DreamBooth" (2023), section 3.2, equation 2.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minildm.adapt.examples import Examples, example_error
from minildm.tensors import check_number


def prior_pictures(
    pipe: Callable[..., Tensor], prompts: str | Sequence[str], n: int, seed: int = 0, batch: int = 16, **how: object
) -> Tensor:
    """What a pipeline paints of its own before it is trained: n pictures (n, 3, h, w) in [0, 1].

    prompts: one, or several in turn, which say what is to be kept.  batch: how many are painted at once.
    how: goes to the pipeline, such as steps and guidance.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    painted = []
    for start in range(0, n, batch):
        numbers = range(start, min(n, start + batch))
        asked = [prompts[i % len(prompts)] for i in numbers]
        painted.append(pipe(asked, seed=[seed + i for i in numbers], output="tensor", **how))
    return torch.cat(painted)


class WithPrior:
    """Batches of both: half of each is of the new thing, half of the prior. `prior` (b,) bool says which is which.

    new, prior: their examples.  A batch of an odd number has one more of the new thing.
    """

    def __init__(self, new: Examples, prior: Examples):
        self.new, self.prior = new, prior

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        check_number(n, lambda v: v >= 2, "a batch of 2 samples or more, for one of the new thing and one of the prior")
        new, prior = self.new(generator, n - n // 2), self.prior(generator, n // 2)
        return {name: torch.cat([new[name], prior[name]]) for name in new} | {"prior": torch.arange(n) >= n - n // 2}


def dreambooth_loss(parts: Mapping[str, nn.Module], batch: Mapping[str, Tensor], weight: float = 1.0) -> Tensor:
    """The prior-preservation loss: the error on the new thing, and `weight` times that on the prior. -> scalar

    parts: `examples.networks(pipe)`.  batch: of `WithPrior`; of `Examples` it is all new.
    """
    error = example_error(parts, batch)
    if "prior" not in batch:
        return error.mean()
    return error[~batch["prior"]].mean() + weight * error[batch["prior"]].mean()
