"""Scheduler files: what each class of diffusers takes for granted, what is honoured, and what is complained about."""

import ast
import inspect
import json
import math
from functools import cache
from pathlib import Path

import diffusers
import pytest
import torch

from minildm import samplers
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion._schedulers import _DEFAULTS, _FLOW, CLASSES, FLOWS, schedule

FILE = Path("scheduler/scheduler_config.json")
DISTILLED = ("LCMScheduler", "TCDScheduler")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* is for networks distilled to few steps"),
    pytest.mark.filterwarnings("ignore:__array.*:DeprecationWarning"),  # numpy 2, inside of diffusers
]


@cache
def sources():
    files = (Path(diffusers.__file__).parent / "schedulers").glob("scheduling_*.py")
    return [file.read_text(encoding="utf-8") for file in files]


@cache
def defaults(name):
    """What a class of diffusers has where a file does not say: from its source, since one needs another package."""
    (node,) = (
        node
        for text in sources()
        if f"class {name}(" in text
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    (init,) = (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
    arguments = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
    values = [ast.unparse(value).replace("float('inf')", "1e999") for value in init.args.defaults]
    return dict(zip(arguments, map(ast.literal_eval, values), strict=True))


def spaced_ones():
    names = (name for name in dir(diffusers) if name.endswith("Scheduler"))
    signatures = {name: inspect.signature(getattr(diffusers, name).__init__).parameters for name in names}
    return [name for name, parameters in signatures.items() if {"beta_schedule", "timestep_spacing"} <= set(parameters)]


def test_the_source_and_the_signature_say_the_same():
    assert len(spaced_ones()) > 15
    for name in spaced_ones():
        signature = inspect.signature(getattr(diffusers, name).__init__).parameters
        expected = {key: value.default for key, value in signature.items() if key not in ("self", "kwargs")}
        assert defaults(name) == expected
    assert set(spaced_ones()) <= set(CLASSES)  # none is missing


@pytest.mark.parametrize("name", [*CLASSES, *FLOWS])
def test_the_defaults_are_those_of_the_class(name):
    theirs, ours = defaults(name), _FLOW if name in FLOWS else _DEFAULTS | CLASSES[name]
    assert ({"shift"} if name in FLOWS else {"beta_start", "beta_end", "beta_schedule"}) <= theirs.keys()
    for key in ours.keys() & theirs.keys():
        assert (key, ours[key]) == (key, theirs[key])


@pytest.mark.parametrize("name", [*CLASSES, *FLOWS])
def test_no_key_of_a_class_is_unknown(name, recwarn):
    """A file that spells all defaults out is the same as one that leaves them out, and nothing complains."""
    spelled = json.loads(json.dumps({"_class_name": name, "_diffusers_version": "0.36.0"} | defaults(name)))
    found, said = schedule(spelled, FILE)
    expected, also = schedule({"_class_name": name}, FILE)
    assert found == expected and said == also
    assert schedule({}, FILE, name)[1] == said  # from model_index.json
    assert name in DISTILLED or not [str(w.message) for w in recwarn]


@pytest.mark.parametrize("name", spaced_ones())
def test_each_class_is_read_as_it_computes(name):
    theirs = getattr(diffusers, name)()
    ours, said = schedule({"_class_name": name}, FILE)
    assert (ours.alphas_cumprod - theirs.alphas_cumprod).abs().max() < 1e-6
    theirs.set_timesteps(12)
    if name.startswith(("DDIM", "DDPM", "Euler", "LMS", "CogVideoX")):  # others visit more, or leave the last one out
        path = samplers.timesteps(ours, 12, said["spacing"], said["offset"])
        found = theirs.timesteps.tolist()
        found = found if "Inverse" not in name else found[::-1]
        assert len(found) == 12 and max(abs(a - b) for a, b in zip(path, found, strict=True)) < 1
    if hasattr(theirs, "final_alpha_cumprod") and "Inverse" not in name:
        assert said["ends_clean"] == (theirs.final_alpha_cumprod == 1)
    elif getattr(theirs, "sigmas", None) is not None and "Inverse" not in name and len(theirs.sigmas) < 999:
        assert said["ends_clean"] == (theirs.sigmas[-1] == 0)


@pytest.mark.parametrize(
    ("config", "spacing", "offset", "clean"),
    [
        (dict(_class_name="PNDMScheduler"), "leading", 0, False),
        (dict(_class_name="PNDMScheduler", set_alpha_to_one=True), "leading", 0, True),
        (dict(_class_name="DDIMScheduler", set_alpha_to_one=False, steps_offset=1), "leading", 1, False),
        (dict(_class_name="UniPCMultistepScheduler", final_sigmas_type="sigma_min"), "linspace", 0, False),
        (dict(_class_name="DEISMultistepScheduler", timestep_spacing="trailing"), "trailing", 0, False),
        (dict(_class_name="KDPM2DiscreteScheduler"), "linspace", 0, True),
    ],
)
def test_spacing_and_end(config, spacing, offset, clean):
    found, said = schedule(config, FILE)
    assert (found.predicts, said["spacing"], said["offset"], said["ends_clean"]) == ("eps", spacing, offset, clean)


@pytest.mark.parametrize(
    ("config", "clip"),
    [
        (dict(_class_name="DDPMScheduler"), 1.0),
        (dict(_class_name="DDIMScheduler", clip_sample_range=2.5), 2.5),
        (dict(_class_name="DDIMScheduler", clip_sample=False), math.inf),
        (dict(_class_name="PNDMScheduler"), math.inf),
        (dict(_class_name="HeunDiscreteScheduler", clip_sample=True), 1.0),
    ],
)
def test_clipping(config, clip):
    assert schedule(config, FILE)[1]["clip"] == clip


@pytest.mark.parametrize(("theirs", "ours"), [("epsilon", "eps"), ("sample", "x_0"), ("v_prediction", "v")])
def test_the_schedule_says_what_the_model_predicts(theirs, ours):
    found = schedule(dict(_class_name="DDIMScheduler", prediction_type=theirs, num_train_timesteps=40), FILE)[0]
    assert found == NoiseSchedule.linear(40).predicting(ours)


def test_betas_of_ones_own_and_rescaled():
    betas = torch.linspace(0.01, 0.2, 7, dtype=torch.float64)
    config = dict(_class_name="DDIMScheduler", num_train_timesteps=7, trained_betas=betas.tolist())
    assert schedule(config, FILE)[0] == NoiseSchedule.from_betas(betas)
    rescaled = schedule(config | dict(rescale_betas_zero_snr=True), FILE)[0]
    theirs = diffusers.DDIMScheduler(num_train_timesteps=7, trained_betas=betas.tolist(), rescale_betas_zero_snr=True)
    assert (rescaled.alphas_cumprod - theirs.alphas_cumprod).abs().max() < 1e-6 and rescaled.alphas_cumprod[-1] == 0
    shifted = schedule(dict(_class_name="CogVideoXDDIMScheduler", snr_shift_scale=2.0), FILE)[0]
    theirs = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=2.0)
    assert (shifted.alphas_cumprod - theirs.alphas_cumprod).abs().max() < 1e-6
    assert (shifted.alphas_cumprod - NoiseSchedule.scaled_linear().alphas_cumprod).abs().max() > 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_lu_lambdas", True),
        ("use_dynamic_shifting", True),
        ("a_key_of_tomorrow", 0.5),
        ("another", "name"),
    ],
)
def test_what_changes_pictures_and_is_not_imitated_is_said(key, value):
    config = {"_class_name": "DPMSolverMultistepScheduler", key: value}
    with pytest.warns(UserWarning, match=f"scheduler_config.json: {key} is ") as said:
        schedule(config, FILE)
    assert len(said) == 1 and said[0].filename == __file__  # it points at the call
    schedule(config | {key: False}, FILE)


@pytest.mark.parametrize("name", DISTILLED)
@pytest.mark.filterwarnings("error")
def test_samplers_of_distilled_networks_are_named(name):
    with pytest.warns(UserWarning, match=f"{name} is for networks distilled to few steps"):
        schedule({"_class_name": name}, FILE)


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("EDMEulerScheduler", "_class_name", "EDMEulerScheduler", "one of DDIMScheduler, "),
        ("VQDiffusionScheduler", "_class_name", "VQDiffusionScheduler", "one of DDIMScheduler, "),
        ("DDPMScheduler", "thresholding", True, "false"),
        ("DDPMScheduler", "beta_schedule", "sigmoid", "'linear', 'scaled_linear' or"),
        ("DDIMScheduler", "num_train_timesteps", 1000.5, "one whole number"),
        ("DDIMScheduler", "trained_betas", 3, "a list of numbers"),
        ("DDIMScheduler", "trained_betas", ["a"], "one whole number|a list"),
        ("EulerDiscreteScheduler", "timestep_type", "continuous", "'discrete'"),
        ("EulerDiscreteScheduler", "sigma_max", 700.0, "null"),
        ("EulerDiscreteScheduler", "final_sigmas_type", "tiny", "'zero', 'sigma_min'"),
        ("UniPCMultistepScheduler", "use_flow_sigmas", True, "false"),
        ("FlowMatchEulerDiscreteScheduler", "invert_sigmas", True, "false"),
        ("FlowMatchEulerDiscreteScheduler", "shift", 0.0, "a number above 0"),
        ("FlowMatchLCMScheduler", "_class_name", "FlowMatchLCMScheduler", "one of DDIMScheduler, "),
        ("LMSDiscreteScheduler", "steps_offset", -1, "one whole number"),
        ("LMSDiscreteScheduler", "prediction_type", None, "a name"),
        ("HeunDiscreteScheduler", "beta_start", "small", "a number above 0"),
    ],
)
def test_another_process_is_refused(name, key, value, expected):
    with pytest.raises(ValueError, match=f"scheduler_config.json: {key} is .* does not support: expected {expected}"):
        schedule({"_class_name": name, key: value}, FILE)


@pytest.mark.parametrize("name", FLOWS)
def test_flows(name):
    theirs = getattr(diffusers, name)(num_train_timesteps=60)
    ours, said = schedule({"_class_name": name, "num_train_timesteps": 60}, FILE)
    assert ours == NoiseSchedule.flow(60) and said["spacing"] == "linspace"
    assert (ours.noise.flip(0) - theirs.sigmas[:60]).abs().max() < 1e-6
    for key, value in [("shift", 3.0), ("stochastic_sampling", True), ("use_dynamic_shifting", True)]:
        with pytest.warns(UserWarning, match=f"{key} is {json.dumps(value)}, but minildm lays its steps out"):
            assert schedule({"_class_name": name, key: value}, FILE)[0] == NoiseSchedule.flow()


def test_as_many_betas_as_steps():
    with pytest.raises(ValueError, match="num_train_timesteps is 1000, .* expected 2, as many as trained_betas"):
        schedule(dict(trained_betas=[0.1, 0.2]), FILE)
