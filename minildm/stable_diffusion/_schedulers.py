"""Scheduler files of diffusers as our noise schedules: what each of its classes takes for granted, and what we refuse.

Which sampler a file names does not matter here, since a call chooses its own. What matters is what the network was
trained with (betas, prediction), which timesteps are visited, and where the way ends.
"""

import json
import math
from pathlib import Path

import torch

from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion._understood import complain, refuse, understood

PREDICTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
SPACING = ("leading", "linspace", "trailing")

_DEFAULTS = {  # of every class, where the table below does not say
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "clip_sample": False,
    "clip_sample_range": 1.0,
}
_CLIPS = {"clip_sample": True}
_LINSPACE = {"timestep_spacing": "linspace"}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_SCALED = _LATENT | {"beta_schedule": "scaled_linear"}
_SHIFTED = _SCALED | _CLIPS | {"snr_shift_scale": 3.0}
_ENDS_NOISY = _LINSPACE | {"final_sigmas_type": "sigma_min"}  # without a key of that name
CLASSES = {  # what a file leaves unsaid, by the class it names
    "DDIMScheduler": _CLIPS,
    "DDIMParallelScheduler": _CLIPS,
    "DDIMInverseScheduler": _CLIPS,
    "DDPMScheduler": _CLIPS,
    "DDPMParallelScheduler": _CLIPS,
    "PNDMScheduler": {"set_alpha_to_one": False},
    "LCMScheduler": _SCALED,
    "TCDScheduler": _SCALED,
    "CogVideoXDDIMScheduler": _SHIFTED,
    "CogVideoXDPMScheduler": _SHIFTED,
    "DPMSolverMultistepScheduler": _LINSPACE,
    "DPMSolverMultistepInverseScheduler": _LINSPACE,
    "DPMSolverSinglestepScheduler": _LINSPACE,
    "DPMSolverSDEScheduler": _LINSPACE | _LATENT,
    "DEISMultistepScheduler": _ENDS_NOISY,
    "SASolverScheduler": _ENDS_NOISY,
    "UniPCMultistepScheduler": _LINSPACE,
    "EulerDiscreteScheduler": _LINSPACE,
    "EulerAncestralDiscreteScheduler": _LINSPACE,
    "HeunDiscreteScheduler": _LINSPACE | _LATENT,
    "KDPM2DiscreteScheduler": _LINSPACE | _LATENT,
    "KDPM2AncestralDiscreteScheduler": _LINSPACE | _LATENT,
    "LMSDiscreteScheduler": _LINSPACE,
}
_DISTILLED = ("LCMScheduler", "TCDScheduler")
_FLOW = {"num_train_timesteps": 1000, "shift": 1.0}
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")

_FIXED = {  # any other value would be another process
    "thresholding": False,
    "use_flow_sigmas": False,
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "invert_sigmas": False,
}
_OTHER_STEPS = {
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("use_dynamic_shifting", "shift_terminal", "stochastic_sampling"),
}
_SILENT = {  # how a sampler of diffusers works, or nothing while the keys above are as they are
    *("solver_order", "solver_type", "solver_p", "algorithm_type", "predict_x0", "predictor_order", "corrector_order"),
    *("lower_order_final", "euler_at_final", "disable_corrector", "tau_func", "variance_type", "lambda_min_clipped"),
    *("interpolation_type", "skip_prk_steps", "original_inference_steps", "timestep_scaling", "noise_sampler_seed"),
    *("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type"),
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
}


def schedule(config: dict, file: Path, name: str | None = None) -> tuple[NoiseSchedule, dict]:
    """The noise schedule of a scheduler_config.json, and what it says on spacing, the end of DDIM and clipping.

    name: the scheduler's class, where the file does not say. Raises ValueError for a process that minildm does not
    have, and warns of what changes pictures and is not imitated.
    """
    name = config.get("_class_name", name)
    if name is not None and name not in (*CLASSES, *FLOWS):
        refuse(file, "_class_name", name, f"one of {', '.join((*CLASSES, *FLOWS))}")
    defaults = _FLOW if name in FLOWS else _DEFAULTS | CLASSES.get(name, {})
    c = understood(config, file, _FIXED, defaults, _SILENT | _OTHER_STEPS, strict=False)
    for key in sorted(_OTHER_STEPS & config.keys()):
        if config[key]:
            complain(f"{file}: {key} is {json.dumps(config[key])}, but minildm lays its steps out as pipe.spacing says")
    if name in FLOWS:
        if c["shift"] != 1:  # of the steps alone: the network is told the noise itself
            complain(f"{file}: shift is {c['shift']}, but minildm lays its steps out as pipe.spacing says")
        return NoiseSchedule.flow(c["num_train_timesteps"]), dict(
            spacing="linspace", offset=0, ends_clean=True, clip=math.inf
        )
    if name in _DISTILLED:
        complain(f"{file}: {name} is for networks distilled to few steps, minildm has no such sampler")
    for key, names in (
        ("prediction_type", PREDICTS),
        ("timestep_spacing", SPACING),
        ("final_sigmas_type", ("zero", "sigma_min")),
    ):
        if c[key] not in names:
            refuse(file, key, c[key], ", ".join(map(repr, names)))
    said = dict(
        spacing=c["timestep_spacing"],
        offset=c["steps_offset"],
        ends_clean=c["set_alpha_to_one"] and c["final_sigmas_type"] == "zero",
        clip=c["clip_sample_range"] if c["clip_sample"] else math.inf,  # of pixels; diffusers never clips latents
    )
    return _noise(c, file).predicting(PREDICTS[c["prediction_type"]]), said


def _noise(c: dict, file: Path) -> NoiseSchedule:
    n, kind = c["num_train_timesteps"], c["beta_schedule"]
    if c["trained_betas"] is not None:
        if not isinstance(c["trained_betas"], list):
            refuse(file, "trained_betas", c["trained_betas"], "a list of numbers")
        found = NoiseSchedule.from_betas(c["trained_betas"])
        if len(found) != n:
            refuse(file, "num_train_timesteps", n, f"{len(found)}, as many as trained_betas")
    elif kind == "squaredcos_cap_v2":
        found = NoiseSchedule.cosine(n)
    elif kind in ("linear", "scaled_linear"):
        found = getattr(NoiseSchedule, kind)(n, c["beta_start"], c["beta_end"])
    else:
        refuse(file, "beta_schedule", kind, "'linear', 'scaled_linear' or 'squaredcos_cap_v2'")
    if (scale := c["snr_shift_scale"]) != 1:
        kept = found.alphas_cumprod / (scale + (1 - scale) * found.alphas_cumprod)
        found = NoiseSchedule.from_betas(1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]]))
    return found.zero_terminal_snr() if c["rescale_betas_zero_snr"] else found
