"""Tiled encoding and decoding: large pictures through the autoencoder piece by piece, with the result of the whole.

Two things make a tile come out unlike the same place of the whole picture: its neighbours are missing, and its group
normalisations see the statistics of the tile alone. So each tile is computed with all of its surroundings that matter
to it; and the statistics of the whole are gathered beforehand, from all tiles, one normalisation after the other. That
takes time instead of memory, and leaves no seams to blend.
"""

import numbers
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minildm.autoencoder.network import AutoencoderKL, Gaussian
from minildm.layers import Downsample, Upsample


@torch.no_grad()
def tiled_encode(model: AutoencoderKL, x: Tensor, tile: int = 512) -> Gaussian:
    """`model.encode(x)` in less memory and more time: equal up to rounding, everywhere.

    tile: feature maps of up to tile × tile pixels are computed whole, larger ones in tiles of about that size and
        their surroundings, down to the size of the latent, which is never cut: there every pixel sees every other.
        What is cut is computed once for each of its normalisations, as far as that, and once more to the end.

    Raises ValueError for pictures that `encode` refuses, and for a tile below 1.
    """

    def encoder(h):
        layers = nn.Sequential(model.encoder.stem, *model.encoder.down)
        side = model.multiple // model.patch
        large = len(layers) - _whole(reversed(layers), h.shape[2] * h.shape[3] // side**2, tile)
        h = _in_tiles(layers[:large], h, tile)
        return model.encoder[2:](layers[large:](h))

    return model.encode(x, encoder)


@torch.no_grad()
def tiled_decode(model: AutoencoderKL, z: Tensor, tile: int = 512) -> Tensor:
    """`model.decode(z)` in less memory and more time: equal up to rounding.  tile, errors: as in `tiled_encode`."""

    def decoder(h):
        h = model.decoder[:2](h)
        layers = nn.Sequential(*model.decoder.up, *model.decoder[3:])
        small = _whole(layers, h.shape[2] * h.shape[3], tile)
        return _in_tiles(layers[small:], layers[:small](h), tile)

    return model.decode(z, decoder)


def _whole(layers, pixels, tile):
    """How many layers, from the latent's side, have maps of at most tile² pixels; those at its own size all count."""
    if not isinstance(tile, numbers.Integral) or tile < 1:
        raise ValueError(f"expected a whole tile of at least 1 pixel, got {tile!r}")
    for i, layer in enumerate(layers):
        if isinstance(layer, Downsample | Upsample):
            pixels *= 4
            if pixels > tile**2:
                return i
    return i + 1


def _in_tiles(layers, x, tile):
    """layers(x) in tiles, where the layers either halve or double the size, or do neither."""
    into = 2 ** sum(isinstance(layer, Downsample) for layer in layers)  # pixels of x to one of the smallest map
    out = 2 ** sum(isinstance(layer, Upsample) for layer in layers)  # and of the result
    h, w = x.shape[2] // into, x.shape[3] // into
    side, reach = max(1, tile // (into * out)), -(-_reach(layers) // into)
    tiles = list(product(_spans(h, side, reach), _spans(w, side, reach)))
    if len(tiles) == 1 or not len(layers) or not len(x):
        return layers(x)

    def each(part):
        """What part of the layers make of each tile with its surroundings, and where that is."""
        for rows, columns in tiles:
            yield part(x[..., rows.seen(into), columns.seen(into)]), rows, columns

    hooks, whole = [], None
    try:
        for i, layer in enumerate(layers):
            for norm in (module for module in layer.modules() if isinstance(module, nn.GroupNorm)):
                mean, variance = _statistics(norm, each(layers[: i + 1]))
                hooks.append(norm.register_forward_hook(partial(_normalise, mean, variance)))
        for y, rows, columns in each(layers):
            if whole is None:
                whole = y.new_empty(*y.shape[:2], h * out, w * out)
            whole[..., rows.place(out), columns.place(out)] = y[..., rows.core(out), columns.core(out)]
    finally:
        for hook in hooks:
            hook.remove()
    return whole


def _reach(layers):
    """How many pixels away something in the input of the layers can still matter."""
    reach = 0
    for layer in reversed(layers):
        reach += sum(conv.kernel_size[0] // 2 for conv in layer.modules() if isinstance(conv, nn.Conv2d))
        if isinstance(layer, Downsample):
            reach *= 2
        elif isinstance(layer, Upsample):
            reach = -(-reach // 2)
    return reach


class _Span(NamedTuple):
    """A tile along one side, from start to stop, computed from low to high; in pixels of the smallest map."""

    start: int
    stop: int
    low: int
    high: int

    def seen(self, unit):
        return slice(self.low * unit, self.high * unit)

    def place(self, unit):
        return slice(self.start * unit, self.stop * unit)

    def core(self, unit):
        """The tile itself, within what is computed."""
        return slice((self.start - self.low) * unit, (self.stop - self.low) * unit)


def _spans(length, side, reach):
    stops = [(start, min(start + side, length)) for start in range(0, length, side)]
    return [_Span(start, stop, max(start - reach, 0), min(stop + reach, length)) for start, stop in stops]


def _statistics(norm, results):
    """Mean and variance that `norm` would see of the whole, (b, groups) each, put together from those of the tiles."""
    inputs, counts, means, variances = [], [], [], []
    hook = norm.register_forward_pre_hook(lambda norm, args: inputs.append(args[0]))
    try:
        for _, rows, columns in results:
            x = inputs.pop()
            unit = x.shape[2] // (rows.high - rows.low)
            core = x[..., rows.core(unit), columns.core(unit)]  # so that each pixel counts once
            groups = core.float().unflatten(1, (norm.num_groups, -1))  # (b, g, c / g, h, w)
            variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0)
            counts.append(groups.shape[2:].numel())
            means.append(mean)
            variances.append(variance)
    finally:
        hook.remove()
    share = torch.tensor(counts, device=means[0].device)[:, None, None] / sum(counts)
    means, variances = torch.stack(means), torch.stack(variances)  # (tiles, b, g)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _normalise(mean, variance, norm, args, output):
    """A forward hook: what `norm` would give with this mean and variance, (b, groups) each."""
    groups = args[0].float().unflatten(1, (norm.num_groups, -1))  # (b, g, c / g, h, w)
    mean, variance = (v[:, :, None, None, None] for v in (mean, variance))
    normal = ((groups - mean) * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return (normal * norm.weight[:, None, None] + norm.bias[:, None, None]).to(output.dtype)
