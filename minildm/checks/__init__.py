"""Checks of the exercises: each tries your function on random cases and, where it fails, hints at the likely mistake.

The exercises of a lesson stand in a file, what learners write of each idea in files by topic; all checks are attributes
here: `checks.dice(your_function)`. A right answer returns a true
`Outcome`. A wrong one raises `CheckFailed`, with the smallest case that fails; the hint is found by trying well-known
mistakes: if your results agree with those of one, that is probably what happened. An answer that is not written yet
says so and returns a false `Outcome`, so that a lesson goes on; for a grader `checks.dice(answer, strict=True)`, or
`with checks.strict():` around several, makes that an error, too.

`checks.check` makes a check of your own, of a right answer, cases and mistakes.
"""

from ._check import check
from ._outcome import CheckFailed, Outcome, strict
from .attending import attention, cross_attention
from .denoising import denoiser_training_step, latent_training_step
from .latents import kl, reparameterise
from .lesson_00 import bottom_size, three_of_a_kind
from .lesson_01 import border_weight, dice, valid_size
from .lesson_02 import half_noise, onward, shifted
from .lesson_03 import eps_from_v, posterior_mean, shift_weights
from .lesson_04 import ddim_inversion, trailing
from .lesson_05 import attention_flops, masked_attention
from .lesson_06 import compression, kl_between, scale_factor
from .lesson_07 import cross_attention_flops, decodable_latent, models_to_pay
from .lesson_08 import retrieval, share_inside
from .lesson_09 import guidance, overwriting, remaining, rescaled
from .lesson_10 import merged, prior_loss
from .lesson_11 import block_parameters, clip_name, map_shape, training_bytes
from .lesson_12 import mixed_batch, paired_interval, pasted_pair
from .lesson_13 import double_block, flow_matching_step, jump_pair, shifted_time
from .lesson_14 import nearest, painter_training, square
from .networks import lora_forward, time_embedding, unet_forward
from .noising import add_noise, ddim_step, heun_step, schedule
from .training import training_loop, training_step

__all__ = [
    "check",
    "strict",
    "CheckFailed",
    "Outcome",
    "three_of_a_kind",
    "bottom_size",
    "border_weight",
    "dice",
    "valid_size",
    "onward",
    "half_noise",
    "shifted",
    "shift_weights",
    "eps_from_v",
    "posterior_mean",
    "trailing",
    "ddim_inversion",
    "masked_attention",
    "attention_flops",
    "compression",
    "kl_between",
    "scale_factor",
    "decodable_latent",
    "models_to_pay",
    "cross_attention_flops",
    "retrieval",
    "share_inside",
    "guidance",
    "remaining",
    "rescaled",
    "overwriting",
    "merged",
    "prior_loss",
    "clip_name",
    "map_shape",
    "block_parameters",
    "training_bytes",
    "pasted_pair",
    "mixed_batch",
    "paired_interval",
    "shifted_time",
    "double_block",
    "square",
    "nearest",
    "painter_training",
    "unet_forward",
    "training_step",
    "training_loop",
    "add_noise",
    "schedule",
    "denoiser_training_step",
    "time_embedding",
    "ddim_step",
    "heun_step",
    "attention",
    "reparameterise",
    "kl",
    "latent_training_step",
    "cross_attention",
    "lora_forward",
    "flow_matching_step",
    "jump_pair",
]
