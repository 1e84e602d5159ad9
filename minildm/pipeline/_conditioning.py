"""All that a denoiser is conditioned on: words, embeddings made elsewhere, classes, and whatever else it takes."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from minildm.pipeline import _inputs as inputs

if TYPE_CHECKING:
    from minildm.pipeline.diffusion import LatentDiffusion


class Asked(NamedTuple):
    """What a call asks for, as `LatentDiffusion.steps` takes it."""

    prompt: object
    negative_prompt: object
    y: object
    context: object
    negative_context: object
    others: Mapping[str, Tensor]
    negative_others: Mapping[str, Tensor] | None


def prepare(pipe: "LatentDiffusion", asked: Asked, n: int) -> tuple[dict[str, Tensor], Callable[[], dict[str, Tensor]]]:
    """What the denoiser of a pipeline takes besides x_t and t, and a function for the same where nothing is asked for.

    A function, since what guidance does not need is not computed. Raises ValueError for what the pipeline cannot take.
    """
    prompt, negative_prompt, y, context, negative_context, others, negative_others = asked
    negative_prompt = "" if negative_prompt is None else negative_prompt
    takes_words = pipe.text_encoder is not None and context is None
    if (prompt is None) == takes_words or (not takes_words and negative_context is None and negative_prompt != ""):
        expected = 'a prompt, "" to say nothing' if takes_words else "no prompt: this model takes no words"
        expected = "either a prompt or a context" if prompt is not None and context is not None else expected
        raise ValueError(f"expected {expected}; got {prompt!r}, {negative_prompt=}")
    conditional = _context(pipe, prompt, context, n)
    if pipe.unet.null_class is not None:
        conditional["y"] = inputs.classes(y, n, pipe.labels, pipe.unet).to(pipe.device)
    elif y is not None:
        raise ValueError("got y, but this model knows no classes")
    further = inputs.conditions(others, n, pipe.unet.conditions, pipe.steps)
    conditional |= {name: value.to(pipe.device) for name, value in further.items()}

    def unconditional():
        if context is not None and negative_context is None and pipe.text_encoder is None:
            raise ValueError("expected negative_context with a context, what to move away from; or guidance=1")
        words = _context(pipe, negative_prompt if pipe.text_encoder else None, negative_context, n)
        further = inputs.conditions(negative_others or {}, n, pipe.unet.conditions, pipe.steps)
        return words | {name: value.to(pipe.device) for name, value in further.items()}

    return conditional, unconditional


def _context(pipe, prompt, context, n):
    """Context and mask of prompts, each different one of which passes the text encoder once; or those given."""
    dtype = next(pipe.unet.parameters()).dtype
    if context is not None:
        return inputs.embeddings(context, n, pipe.unet.context_dim, pipe.device, dtype)
    if prompt is None:
        return {}
    texts = inputs.each(prompt, n)
    different = list(dict.fromkeys(texts))
    ids, mask = (part.to(pipe.device) for part in pipe.tokenizer(different))
    if pipe.words is not None:
        inputs.warn_of_unknown(different, pipe.words)
    context = pipe.text_encoder(ids, mask).to(dtype)
    at = [different.index(text) for text in texts]
    return {"context": context[at]} | ({} if pipe.sees_padding else {"mask": mask[at]})
