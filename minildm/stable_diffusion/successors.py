"""What came after the U-Net: the transformers of Stable Diffusion 3 and FLUX.1, as configurations that can be counted.

No network is built here. A configuration says what a transformer consists of, and `parameters` counts it, part by part,
as diffusers' `SD3Transformer2DModel` and `FluxTransformer2DModel` are made.
Sources: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024); the published
configurations of stable-diffusion-3-medium, FLUX.1-dev and FLUX.1-schnell.
"""

from typing import NamedTuple

TIME_DIM = 256  # of the timestep's cosines and sines


class Successor(NamedTuple):
    """A transformer that reads patches of a latent and words at once.

    heads, head_dim: of the attention; their product is the width of all tokens.
    double: blocks of two streams: patches and words have weights of their own, and meet in one attention.
    single: blocks of one stream, with the same weights for patches and words.
    latent_channels, patch: of the latent, and the side of a patch of it.
    context_dim: width of the words, as T5 makes them.  pooled_dim: of one vector for all words, from CLIP.
    guided: whether it is told a guidance scale, as it is told the time.
    normed: whether each head's queries and keys are normalised, with a weight for each number.
    words_end_early: whether the last block leaves the words as they are, since nobody reads them afterwards.
    shift: of its schedule, `NoiseSchedule.flow(shift=...)`; None where it depends on the size of the picture.
    """

    heads: int
    head_dim: int
    double: int
    single: int
    latent_channels: int
    patch: int
    context_dim: int
    pooled_dim: int
    guided: bool
    normed: bool
    words_end_early: bool
    shift: float | None


SD_3_MEDIUM = Successor(24, 64, 24, 0, 16, 2, 4096, 2048, False, False, True, 3.0)
FLUX_1_DEV = Successor(24, 128, 19, 38, 16, 2, 4096, 768, True, True, False, None)
FLUX_1_SCHNELL = FLUX_1_DEV._replace(guided=False, shift=1.0)

# Parameters of the text encoders whose words they read: CLIP's two text towers, the second one OpenCLIP's bigG, and the
# encoder of T5 v1.1 XXL.
TEXT_ENCODERS = {"CLIP L": 123_060_480, "CLIP bigG": 694_659_840, "T5 XXL": 4_762_310_656}


def parameters(c: Successor) -> dict[str, int]:
    """How many parameters each part has; their sum is the whole transformer's.

    "patches" and "words": the two streams of the double blocks; "both at once": the single blocks; "modulation": the
    layers in all blocks that make shifts, scales and gates of the time; "rest": what leads in and out.
    """
    d = c.heads * c.head_dim
    four, feed_forward = 4 * linear(d, d), linear(d, 4 * d) + linear(4 * d, d)  # queries, keys, values, output
    norms = 2 * c.head_dim if c.normed else 0  # of queries and of keys
    stream = four + norms + feed_forward
    early = linear(d, d) + feed_forward if c.words_end_early else 0  # the last block has no output for words
    inner = linear(d, 4 * d) + linear(5 * d, d) + 3 * linear(d, d) + norms  # attention and feed-forward side by side
    modulation = 2 * c.double * linear(d, 6 * d) + c.single * linear(d, 3 * d)
    if c.words_end_early:
        modulation -= linear(d, 6 * d) - linear(d, 2 * d)
    numbers = c.latent_channels * c.patch**2  # in a patch
    vectors = [TIME_DIM, c.pooled_dim, *([TIME_DIM] if c.guided else [])]  # what becomes one vector beside the tokens
    rest = sum(linear(width, d) + linear(d, d) for width in vectors) + linear(c.context_dim, d)
    rest += linear(numbers, d) + linear(d, 2 * d) + linear(d, numbers)
    return {
        "patches": c.double * stream,
        "words": c.double * stream - early,
        "both at once": c.single * inner,
        "modulation": modulation,
        "rest": rest,
    }


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return inputs * outputs + outputs


def tokens(c: Successor, height: int, width: int, reduction: int = 8) -> int:
    """Patches of a picture of this size; the autoencoder divides its sides by `reduction`.

    Raises ValueError for a size that patches do not fill.
    """
    side = reduction * c.patch
    if min(height, width) < 1 or height % side or width % side:
        raise ValueError(f"expected height and width as multiples of {side}, got {height} and {width}")
    return (height // side) * (width // side)
