"""Stable Diffusion: what the house has built so far, at full size, from and to the folders of `diffusers`.

What users of diffusers look for:

| diffusers                                       | here                                                          |
|-------------------------------------------------|---------------------------------------------------------------|
| `from_pretrained(name, torch_dtype=, variant=)` | `load(name, dtype=, variant=)`                                |
| `from_single_file(file)`                        | `load_single_file(file, tokenizer)`                           |
| `save_pretrained(folder)`                       | `save(pipe, folder)`                                          |
| `num_inference_steps=50`                        | `steps=50`                                                    |
| `timesteps=[999, 749, 499, 249]`                | the same                                                      |
| `use_karras_sigmas=True` of a scheduler         | `pipe.spacing = "karras"`: the nearest timesteps              |
| `guidance_scale=7.5`, 1 = off                   | `guidance=7.5`, 1 = off                                       |
| `ClassifierFreeGuidance(start=, stop=)`         | `pipe.guidance_interval = (low, high)`, timesteps             |
| `generator=torch.Generator().manual_seed(3)`    | `seed=3`, for one picture from words the same noise           |
| `generator=[...]`, one for each picture         | `seed=[3, 7]`, the same noise for each                        |
| `latents=noise`                                 | `x_T=noise`                                                   |
| `num_images_per_prompt=4`                       | `seed=[0, 1, 2, 3]`, or a list of four prompts                |
| `prompt_embeds=`, `negative_prompt_embeds=`     | `context=`, `negative_context=`                               |
| `height=512, width=768`                         | `size=(512, 768)`                                             |
| `image=`, `mask_image=`, `strength=`            | `image=`, `mask=`, `strength=`                                |
| `class_labels=`                                 | `y=`                                                          |
| `pipe.scheduler = HeunDiscreteScheduler...`     | `sampler="heun"`, in each call                                |
| `eta=1.0`                                       | `sampler=partial(samplers.ddim, eta=1.0)`                     |
| `clip_skip=1`, of the prompt alone              | `del pipe.text_encoder.blocks[-1:]`, once, of both prompts    |
| `callback_on_step_end=f`                        | `for step in pipe.steps(...): f(step.t, step.x_t)`            |
| `output_type="pt"`                              | `output="tensor"`                                             |
| `enable_vae_tiling()`                           | `pipe.tile = 512`                                             |
| `load_lora_weights(file)`                       | `pipe.load_lora(file)`                                        |
| `load_textual_inversion(file)`                  | `pipe.load_word(file)`                                        |
| `ControlNetModel.from_pretrained`               | `pipe.unet = adapt.Controlled(pipe.unet, load_controlnet(f))` |
| `controlnet_conditioning_scale=1`               | `pipe.unet.scale = 1.0`                                       |
| `unet(x, t, encoder_hidden_states=c).sample`    | `unet(x, t, context=c)`, with t: (b,)                         |

One generator of diffusers goes on from picture to picture, and from an image's latents to the noise. So for several
pictures give it a list, and where an image is the start hand the same noise to both: `x_T=` here.
"""

from minildm.reference_names import reference_name
from minildm.stable_diffusion.controlnets import load_controlnet, save_controlnet
from minildm.stable_diffusion.folders import load, save
from minildm.stable_diffusion.full_size import SD_1, SD_1_INPAINTING, SD_2, SD_2_INPAINTING, Configuration
from minildm.stable_diffusion.single_file import load_single_file

__all__ = [
    "load",
    "save",
    "load_single_file",
    "load_controlnet",
    "save_controlnet",
    "reference_name",
    "Configuration",
    "SD_1",
    "SD_1_INPAINTING",
    "SD_2",
    "SD_2_INPAINTING",
]
