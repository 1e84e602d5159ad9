"""Diffusion, put together: words -> context -> latent -> picture. It prepares what a sampler takes, and no more."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from minildm import images, samplers
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Conditional, schedule_of
from minildm.guidance import guided
from minildm.pipeline import _calls as calls
from minildm.pipeline import _conditioning as conditioning
from minildm.pipeline import _files as files
from minildm.pipeline import _inputs as inputs
from minildm.pipeline import _steering as steering
from minildm.pipeline._adapters import Adaptable
from minildm.pipeline._space import Latents, Pixels
from minildm.samplers import Step
from minildm.samplers.loop import check_timesteps
from minildm.schedule import NoiseSchedule
from minildm.text import Tokenizer

# What a folder keeps besides the networks, by the names of the attributes.
SETTINGS = (
    "size",
    "guidance",
    "guidance_interval",
    "spacing",
    "offset",
    "ends_clean",
    "sees_padding",
    "clip",
    "words",
    "labels",
)


class LatentDiffusion(Adaptable):
    """`pipe("a cat left of a red heart", seed=3)` -> a picture; see `steps` for all that can be asked for.

    unet: the denoiser, as `denoiser.Conditional` describes it, on latents of c channels, or on pixels. One with 2 c + 1
        input channels is for inpainting: beside x_t it sees the mask, and the picture without what the mask covers.
    vae: its scale_factor is known; None: there is none, and the denoiser works on pixels in [-1, 1].
    schedule, predicts: what the denoiser was trained with; None: what it says itself, `unet.schedule`.
    text_encoder, tokenizer: (ids, mask) -> context and texts -> (ids, mask); None where there are no words, or where
        calls bring a context made elsewhere.
    size: of pictures in pixels, one number or (h, w), and guidance: the scale, unless a call says otherwise.
    guidance_interval: the lowest and the highest timestep at which to guide, as in `guidance.guided`; None: at all.
    spacing, offset: how timesteps are laid out, as in `samplers.timesteps`.
    ends_clean: whether DDIM goes all the way to the clean picture. False: only to timestep 0, whose little noise stays
        in, as in Stable Diffusion's own configuration. Samplers without that option always go all the way.
    sees_padding: whether the picture attends to the padding behind a text as well, as in Stable Diffusion.
    clip: how far from 0 x0_hat may be; None: 1 for pixels and no limit for latents (math.inf: none at all).
    words: the training's captions, or the words in them, so that others in a prompt can be warned of; None: not known.
    labels: the names of the classes, in the order of y; None: they have none.

    Each is an attribute of the same name; `predicts` is the schedule's. With `pipe.tile = 512`, larger pictures pass
    the autoencoder in tiles. Raises ValueError for parts that do not fit together.
    """

    def __init__(
        self,
        unet: Conditional,
        vae: AutoencoderKL | None = None,
        schedule: NoiseSchedule | None = None,
        text_encoder: Callable[[Tensor, Tensor], Tensor] | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        predicts: str | None = None,
        size: int | Sequence[int] = 64,
        guidance: float = 4.0,
        guidance_interval: Sequence[float] | None = None,
        spacing: str = "trailing",
        offset: int = 0,
        ends_clean: bool = True,
        sees_padding: bool = False,
        clip: float | None = None,
        words: Iterable[str] | None = None,
        labels: Sequence[str] | None = None,
    ):
        inputs.check_denoiser(unet, self.steps)
        inputs.check_settings(guidance, guidance_interval, clip, spacing, offset)
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        channels = self._space.channels
        if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
            raise ValueError(
                f"expected a U-Net from {channels} channels, those of the latents, or {2 * channels + 1} for "
                f"inpainting, to {channels}, got one from {unet.in_channels} to {unet.out_channels}"
            )
        if (tokenizer is None) != (text_encoder is None) or (text_encoder is not None and unet.context_dim is None):
            raise ValueError("expected a tokenizer and a text_encoder with a U-Net that takes a context, and only then")
        if getattr(text_encoder, "dim", unet.context_dim) != unet.context_dim:
            raise ValueError(f"the U-Net's context_dim is {unet.context_dim}, the text encoder's {text_encoder.dim}")
        self.schedule = schedule_of(unet, schedule, predicts)
        self.spacing, self.offset = spacing, offset
        self.size = inputs.side_lengths(size, self.multiple)
        self.guidance = guidance
        self.guidance_interval = None if guidance_interval is None else tuple(guidance_interval)
        self.ends_clean, self.sees_padding, self.tile = ends_clean, sees_padding, None
        self.clip = self._space.clip if clip is None else clip
        self.words = inputs.vocabulary(words)
        self.labels = inputs.class_names(labels, unet)

    @property
    def _space(self) -> Pixels | Latents:
        """Where the denoiser works."""
        return Pixels(self.unet.out_channels) if self.vae is None else Latents(self.vae)

    @property
    def predicts(self) -> str:
        """What the denoiser predicts: "eps", "x_0", "v" or "flow"."""
        return self.schedule.predicts

    @property
    def scale_factor(self) -> float:
        """What the autoencoder's latents are multiplied by for the U-Net; 1 for pixels."""
        return self._space.scale_factor

    @property
    def multiple(self) -> int:
        """What height and width of a picture must be divisible by."""
        return self._space.multiple * self.unet.multiple

    @property
    def inpaints(self) -> bool:
        """Whether this U-Net was trained for inpainting, and so takes a picture and a mask, always."""
        return self.unet.in_channels > self._space.channels

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return next(self.unet.parameters()).device

    def to(self, *device_or_dtype: torch.device | torch.dtype | str) -> "LatentDiffusion":
        """Move all networks to a device, or to a dtype, as `nn.Module.to` does; returns the pipeline."""
        for module in (self.unet, self.vae, self.text_encoder):
            if isinstance(module, nn.Module):
                module.to(*device_or_dtype)
        return self

    @torch.no_grad()
    def steps(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = "",
        steps: int = 25,
        timesteps: Sequence[int] | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        x_T: Tensor | None = None,
        sampler: str | Callable[..., Iterator[Step]] = "ddim",
        size: int | Sequence[int] | None = None,
        y: int | str | Sequence[int | str] | Tensor | None = None,
        image: images.Images | None = None,
        strength: float | None = None,
        mask: images.Images | None = None,
        context: Tensor | tuple[Tensor, Tensor] | None = None,
        negative_context: Tensor | tuple[Tensor, Tensor] | None = None,
        negative_conditions: Mapping[str, Tensor] | None = None,
        **conditions: Tensor,
    ) -> Iterator[Step]:
        """The way from noise to latents, as a generator of its steps; `decode` shows any of them.

        Whatever may differ between pictures is one thing for all, or a list with one for each, all of one length.

        prompt: what to draw; None where the model takes no words.  negative_prompt: what to move away from.
        steps, timesteps: how many timesteps, laid out as `pipe.spacing` says; or which ones, as descending integers,
            such as `samplers.timesteps(pipe.schedule, 25, "karras")`. strength leaves as many of the last as it says.
        guidance: scale of classifier-free guidance, 1 = off; None: `pipe.guidance`.
        seed: of the noise: a picture depends on its own alone, not on its batch. One number is the first picture's, and
            those after it are the next ones'. None draws from torch's global stream.
        x_T: the noise itself, (b, c, h, w).
        sampler: one of `samplers.SAMPLERS`, or a function that takes the same arguments; its own options by
            `partial(samplers.ddim, eta=1.0)`.
        y: class of each picture, by its number or its name in `pipe.labels`; None: any.
        image: what to start from: PIL pictures, arrays, or a tensor (b, 3, h, w) in [0, 1].
        strength: above 0 and up to 1, how much of the way from noise is gone, so how little of image stays. None: 0.8,
            or 1 with a mask.
        mask: what to paint anew in image, of its size: white in PIL pictures, True or 1 in a tensor (b, 1, h, w).
            Where the U-Net was not trained for that, x0_hat is made to hold what is known.
        context, negative_context: embeddings (b, n, context_dim) made elsewhere, in place of prompt and
            negative_prompt; with a mask of its own as a pair, (context, mask).
        conditions: whatever else the denoiser takes, by its name in `unet.conditions`: tensors (b, ...).
        negative_conditions: the same, by name, of what guidance is to move away from; what is not in it is kept.

        Raises ValueError for arguments that do not fit the model or one another, and warns of unknown words.
        """
        run, own = calls.sampler(sampler)
        given = dict(prompt=prompt, negative_prompt=negative_prompt, seed=seed, x_T=x_T, y=y, image=image, mask=mask)
        given |= dict(context=context, negative_context=negative_context) | conditions
        n = inputs.count(**given) or 1
        if timesteps is None:
            path = samplers.timesteps(self.schedule, steps, self.spacing, self.offset)
        else:
            path = check_timesteps(self.schedule, timesteps)
        sources = inputs.generators(seed, n)
        z = None
        if image is not None:
            known = inputs.pictures(image, n, self._space.picture_channels)
            if size is not None and inputs.side_lengths(size, self.multiple) != known.shape[2:]:
                raise ValueError(f"expected size to be that of the image, {tuple(known.shape[2:])}, got {size}")
            size = tuple(known.shape[2:])
            z = self.encode(known)
        elif mask is not None or strength is not None:
            raise ValueError("expected an image with a mask or a strength: image=..., what is to be changed")
        x_T = inputs.starting_noise(x_T, n, self, size, sources).to(self.device)

        region, beside = None, None
        if mask is not None:
            masked = inputs.regions(mask, n, known.shape[2:])
            region = inputs.at_latents(masked, z.shape[2:]).to(self.device)
            if self.inpaints:
                beside = torch.cat([region, self.encode(known.where(masked == 0, 0.5))], dim=1)
        elif self.inpaints:
            raise ValueError("this U-Net is for inpainting: pass image=... and mask=..., all white to draw all anew")
        how = conditioning.Asked(prompt, negative_prompt, y, context, negative_context, conditions, negative_conditions)
        conditional, unconditional = conditioning.prepare(self, how, n)
        if guidance is None:  # where nothing is asked for there is nothing to exaggerate
            asked = [prompt, context, y, negative_conditions]
            guidance = 1 if all(one is None for one in asked) else self.guidance
        unet = steering.in_its_precision(self.unet, beside)
        without = None if guidance == 1 else unconditional()
        denoise = guided(unet, guidance, conditional, without, interval=self.guidance_interval)
        keep = mask is not None and not self.inpaints
        if z is not None:
            path, x_T = steering.start(self.schedule, path, z, x_T, strength, region, keep)
        predicts = self.predicts
        if keep:
            denoise, predicts = steering.with_known_region(denoise, self.schedule, z, region), "x_0"
        options = dict(timesteps=path, predicts=predicts, generator=sources, clip=self.clip)
        if not self.ends_clean and "ends_clean" in inspect.signature(run).parameters.keys() - own.keys():
            options["ends_clean"] = False
        found = run(denoise, self.schedule, x_T, **options)
        return steering.ending_with(found, z, region) if keep else found

    @calls.arguments_of(steps)
    @torch.no_grad()
    def __call__(
        self, prompt: str | Sequence[str] | None = None, *, output: str = "pil", **how: object
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Pictures for prompts: one for a string, a list for a list. All arguments but one are those of `steps`.

        output: "pil", or "tensor" for (b, 3, h, w) in [0, 1].
        """
        if output not in ("pil", "tensor"):
            raise ValueError(f'expected output="pil" or "tensor", got {output!r}')
        for step in self.steps(prompt, **how):  # noqa: B007 (the last one is wanted)
            pass
        x = self.decode(step.x_t, check=False)
        if output == "tensor":
            return x
        drawn = images.to_pil(x)
        return drawn[0] if inputs.count(prompt=prompt, **how) is None else drawn

    @torch.no_grad()
    def encode(self, pictures: images.Images) -> Tensor:
        """Pictures, as `steps` takes them, to what the denoiser works on: scaled latents, or pixels. -> (b, c, h, w)"""
        x = inputs.pictures(pictures, None, self._space.picture_channels)
        inputs.side_lengths(x.shape[2:], self.multiple)
        return self._space.encode(images.to_model(x, x.shape[1]).to(self.device), self.tile).to(self.device)

    @torch.no_grad()
    def decode(self, z: Tensor, *, check: bool = True) -> Tensor:
        """Scaled latents, or pixels, such as the last x_t, to pictures (b, 3, h, w) in [0, 1].

        check: raise ValueError for latents that look like the autoencoder's own, not scaled. Switch it off for those on
            the way, such as an x0_hat at the start, whose spread says nothing.
        Raises ValueError where numbers are not finite.
        """
        inputs.check_finite(z, "the denoiser", self._space.channels)
        if check:
            self._space.check(z)
        x = self._space.decode(z, self.tile)
        inputs.check_finite(x, "the autoencoder", self._space.picture_channels)
        return images.from_model(x)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> "LatentDiffusion":
        """A pipeline that ships with minildm, such as "pocket", or one written by `save_pretrained`; on the CPU.

        Raises FileNotFoundError where there is none, and ValueError for a damaged file.
        """
        parts, settings = files.read(files.find(name_or_path), SETTINGS)
        return cls(**parts, **settings)

    def save_pretrained(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        shipped: Mapping[str, str] | None = None,
        **record: object,
    ) -> Path:
        """Write all of it to a folder for `from_pretrained`, or, where path ends in .safetensors, to one file to share.

        Returns the path. A folder's older pipeline is replaced; whatever else lies there stays.
        dtype, record: how numbers are stored, and how the networks were made, as in `weights.save`.
        shipped: networks that are not written, because minildm ships them: {"vae": "vae-pocket"} names the weights.
        Raises FileExistsError for a folder that holds something else, ValueError where shipped weights are not this
        pipeline's own or a part is no class of minildm's, and what `weights.save` does.
        """
        parts = {name: getattr(self, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "schedule")}
        settings = {name: getattr(self, name) for name in SETTINGS}
        settings |= dict(size=list(self.size), words=None if self.words is None else sorted(self.words))
        parts = {name: part for name, part in parts.items() if part is not None}
        return files.write(Path(path), parts, settings, dtype, shipped or {}, record)
