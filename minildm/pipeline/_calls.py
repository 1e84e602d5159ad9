"""How a pipeline is called, and how it calls a sampler: who sets what, and what help() shows of it."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from minildm.samplers.loop import SAMPLERS, Sampler

_PIPELINES = {  # what a pipeline hands to a sampler -> how to ask for it there
    "denoise": "pipe.unet",
    "schedule": "pipe.schedule",
    "x_T": "pipe(..., x_T=...)",
    "steps": "pipe(..., steps=...)",
    "timesteps": "pipe(..., timesteps=...)",
    "spacing": "pipe.spacing",
    "predicts": "pipe.schedule",
    "generator": "pipe(..., seed=...)",
    "clip": "pipe.clip",
}


def arguments_of(called: Callable) -> Callable[[Callable], Callable]:
    """A decorator: a function that hands its keywords on shows in help() what it is handed to takes, and its own."""

    def show(function):
        own, theirs = inspect.signature(function), inspect.signature(called).parameters
        *known, others = theirs.values()
        more = [one for name, one in own.parameters.items() if name not in theirs and one.kind is one.KEYWORD_ONLY]
        function.__signature__ = own.replace(parameters=[*known, *more, others])
        return function

    return show


def sampler(given: str | Sampler) -> tuple[Sampler, Mapping[str, object]]:
    """A sampler by its name, or as it is, and the options it was given beforehand, by `functools.partial`.

    Raises ValueError for an unknown name, and for options that are the pipeline's to set: they would be overruled.
    """
    if not callable(given):
        if given not in SAMPLERS:
            raise ValueError(f"expected sampler as one of {', '.join(SAMPLERS)}, got {given!r}")
        return SAMPLERS[given], {}
    options = given.keywords if isinstance(given, partial) else {}
    if taken := [name for name in _PIPELINES if name in options]:
        instead = ", ".join(dict.fromkeys(_PIPELINES[name] for name in taken))
        raise ValueError(f"expected a sampler without {', '.join(taken)}, which the pipeline sets: use {instead}")
    return given, options
