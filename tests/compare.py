"""What the tests against reference implementations share."""

import math

import torch


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomized(module, seed=0, matrices=1.0, vectors=0.3):
    """All parameters at random: those that start at 0 or 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = matrices / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else vectors
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def assert_equal(ours, theirs):
    assert ours.abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5
