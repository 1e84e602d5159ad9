"""Latent diffusion, put together: words -> context -> latent -> picture; and the other ways to steer it.

All that happens here is to prepare what a sampler takes: where to start from, and a denoiser that was told everything.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from minildm import samplers
from minildm.autoencoder import AutoencoderKL, tiled_decode, tiled_encode
from minildm.denoiser import Denoiser
from minildm.guidance import guided
from minildm.pipeline import _files as files
from minildm.pipeline import _inputs as inputs
from minildm.pipeline import _steering as steering
from minildm.samplers import Step
from minildm.schedule import NoiseSchedule, check_predicts
from minildm.text import Tokenizer

SAMPLERS = {
    f.__name__: f for f in (samplers.ddpm, samplers.ddim, samplers.euler, samplers.heun, samplers.dpm_solver_2m)
}
_LISTS = ("negative_prompt", "seed", "x_T", "y", "image", "mask")  # may differ from picture to picture


class LatentDiffusion:
    """`pipe("a cat left of a red heart", seed=3)` -> a picture; see `steps` for all that can be asked for.

    unet: on latents of c channels. One with 2 c + 1 input channels is for inpainting: beside x_t it sees the mask, and
        the latent of the picture without what the mask covers.
    vae: its scale_factor is known.  schedule, predicts: what the U-Net was trained with.
    text_encoder, tokenizer: (ids, mask) -> context and texts -> (ids, mask); None where there are no words.
    size: of pictures in pixels, one number or (h, w), and guidance: the scale, unless a call says otherwise.
    spacing, offset: how timesteps are laid out, as in `samplers.spaced`.
    ends_clean: whether DDIM goes all the way to the clean picture. False: only to timestep 0, whose little noise stays
        in, as in Stable Diffusion's own configuration. The other samplers always go all the way.
    sees_padding: whether the picture attends to the padding behind a text as well, as in Stable Diffusion.
    words: the training's captions, or the words in them, so that others in a prompt can be warned of; None: not known.

    Each is an attribute of the same name. With `pipe.tile = 512`, larger pictures pass the autoencoder in tiles.
    Latents are kept in float32, whatever the networks compute in. Raises ValueError for parts that do not fit together.
    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022).
    """

    def __init__(
        self,
        unet: Denoiser,
        vae: AutoencoderKL,
        schedule: NoiseSchedule,
        text_encoder: Callable[[Tensor, Tensor], Tensor] | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        predicts: str = "eps",
        size: int | Sequence[int] = 64,
        guidance: float = 4.0,
        spacing: str = "trailing",
        offset: int = 0,
        ends_clean: bool = True,
        sees_padding: bool = False,
        words: Iterable[str] | None = None,
    ):
        check_predicts(predicts)
        channels = vae.latent_channels
        if unet.in_channels not in (channels, 2 * channels + 1) or unet.head.out_channels != channels:
            raise ValueError(
                f"expected a U-Net from {channels} channels, those of the latents, or {2 * channels + 1} for "
                f"inpainting, to {channels}, got one from {unet.in_channels} to {unet.head.out_channels}"
            )
        if vae.scale_factor is None:
            raise ValueError("the autoencoder's scale factor is not known: call vae.measure_scale(images) once")
        if (unet.context_dim is None) != (text_encoder is None) or (tokenizer is None) != (text_encoder is None):
            raise ValueError("expected a tokenizer and a text_encoder with a U-Net that takes a context, and only then")
        if getattr(text_encoder, "dim", unet.context_dim) != unet.context_dim:
            raise ValueError(f"the U-Net's context_dim is {unet.context_dim}, the text encoder's {text_encoder.dim}")
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.schedule, self.predicts, self.spacing, self.offset = schedule, predicts, spacing, offset
        self.size = inputs.side_lengths(size, self.multiple)
        self.guidance, self.ends_clean, self.sees_padding, self.tile = guidance, ends_clean, sees_padding, None
        self.words = None if words is None else frozenset(word for text in words for word in inputs.words(text))

    @property
    def scale_factor(self) -> float:
        """What the autoencoder's latents are multiplied by for the U-Net."""
        return self.vae.scale_factor

    @property
    def multiple(self) -> int:
        """What height and width of a picture must be divisible by."""
        return self.vae.multiple * self.unet.multiple

    @property
    def inpaints(self) -> bool:
        """Whether this U-Net was trained for inpainting, and so takes a picture and a mask, always."""
        return self.unet.in_channels > self.vae.latent_channels

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return next(self.unet.parameters()).device

    def to(self, *device_or_dtype) -> "LatentDiffusion":
        """Move all networks to a device, or to a dtype, as `nn.Module.to` does; returns the pipeline."""
        for module in (self.unet, self.vae, self.text_encoder):
            if isinstance(module, nn.Module):
                module.to(*device_or_dtype)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] = "",
        steps: int = 25,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        x_T: Tensor | None = None,
        sampler: str | Callable[..., Iterator[Step]] = "ddim",
        output: str = "pil",
        **more,
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Pictures for prompts: one for a string, a list for a list. All arguments but one are those of `steps`.

        output: "pil", or "tensor" for (b, 3, h, w) in [0, 1].
        """
        if output not in ("pil", "tensor"):
            raise ValueError(f'expected output="pil" or "tensor", got {output!r}')
        how = dict(negative_prompt=negative_prompt, steps=steps, guidance=guidance, seed=seed, x_T=x_T, sampler=sampler)
        how |= more
        for step in self.steps(prompt, **how):  # noqa: B007 (the last one is wanted)
            pass
        x = self.decode(step.x_t, check=False)
        if output == "tensor":
            return x
        pixels = x.mul(255).round().byte().movedim(1, -1).cpu().numpy()
        drawn = [Image.fromarray(array) for array in pixels]
        alone = inputs.count(prompt=prompt, **{name: how.get(name) for name in _LISTS}) is None
        return drawn[0] if alone else drawn

    @torch.no_grad()
    def steps(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] = "",
        steps: int = 25,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        x_T: Tensor | None = None,
        sampler: str | Callable[..., Iterator[Step]] = "ddim",
        size: int | Sequence[int] | None = None,
        y: int | Sequence[int] | Tensor | None = None,
        image=None,
        strength: float | None = None,
        mask=None,
    ) -> Iterator[Step]:
        """The way from noise to latents, as a generator of its steps; `decode` shows any of them.

        Whatever may differ between pictures is one thing for all, or a list with one for each, all of one length.

        prompt: what to draw; None where the model takes no words.  negative_prompt: what to move away from.
        guidance: scale of classifier-free guidance, 1 = off; None: `pipe.guidance`.
        seed: of the noise: a picture depends on its own alone, not on its batch. One number is the first picture's, and
            those after it are the next ones'. None draws from torch's global stream.
        x_T: the noise itself, (b, c, h, w).
        sampler: one of SAMPLERS, or a function that takes the same arguments.
        y: class of each picture, where the model knows classes; None: any.
        image: what to start from: PIL pictures, or a tensor (b, 3, h, w) in [0, 1].
        strength: above 0 and up to 1, how much of the way from noise is gone, so how little of image stays. None: 0.8,
            or 1 with a mask.
        mask: what to paint anew in image, of its size: white in PIL pictures, True or 1 in a tensor (b, 1, h, w).
            Where the U-Net was not trained for that, x0_hat is made to hold what is known.

        Raises ValueError for arguments that do not fit the model or one another, and warns of unknown words.
        """
        if not callable(sampler) and sampler not in SAMPLERS:
            raise ValueError(f"expected sampler as one of {', '.join(SAMPLERS)}, got {sampler!r}")
        lists = dict(negative_prompt=negative_prompt, seed=seed, x_T=x_T, y=y, image=image, mask=mask)
        n = inputs.count(prompt=prompt, **lists) or 1
        path = samplers.spaced(self.schedule, steps, self.spacing, self.offset)
        sources = inputs.generators(seed, n)
        z = None
        if image is not None:
            known = inputs.pictures(image, n, self.vae.in_channels)
            if size is not None and inputs.side_lengths(size, self.multiple) != known.shape[2:]:
                raise ValueError(f"expected size to be that of the image, {tuple(known.shape[2:])}, got {size}")
            size = known.shape[2:]
            z = self.encode(known)
        elif mask is not None or strength is not None:
            raise ValueError("expected an image with a mask or a strength: image=..., what is to be changed")
        x_T = self._noise(n, size, x_T, sources)

        new, beside = None, None
        if mask is not None:
            region = inputs.regions(mask, n, known.shape[2:])
            new = inputs.at_latents(region, z.shape[2:]).to(self.device)
            if self.inpaints:
                beside = torch.cat([new, self.encode(known.where(region == 0, 0.5))], dim=1)
        elif self.inpaints:
            raise ValueError("this U-Net is for inpainting: pass image=... and mask=..., all white to draw all anew")
        denoise = self._denoiser(prompt, negative_prompt, y, n, guidance, beside)
        predicts, keep = self.predicts, mask is not None and not self.inpaints
        if z is not None:
            path, x_T = steering.start(self.schedule, path, z, x_T, strength, new, keep)
        run = sampler if callable(sampler) else SAMPLERS[sampler]
        if not self.ends_clean and getattr(run, "func", run) is samplers.ddim:  # also partial(ddim, eta=...)
            denoise, predicts = steering.stopping(denoise, self.schedule, predicts), "x_0"
            path = path if path[-1] == 0 else [*path, 0]
        if keep:
            denoise, predicts = steering.keeping(denoise, self.schedule, predicts, z, new), "x_0"
        return run(denoise, self.schedule, x_T, timesteps=path, predicts=predicts, generator=sources)

    @torch.no_grad()
    def encode(self, images) -> Tensor:
        """Pictures, as `steps` takes them, to scaled latents: the means that the autoencoder gives. -> (b, c, h, w)"""
        x = inputs.pictures(images, None, self.vae.in_channels)
        inputs.side_lengths(x.shape[2:], self.multiple)
        x = x.to(next(self.vae.parameters())).mul(2).sub(1)
        latents = [self._encode(part).mean for part in self._parts(x)]
        return self.vae.scale(torch.cat(latents).float()).to(self.device)

    @torch.no_grad()
    def decode(self, z: Tensor, *, check: bool = True) -> Tensor:
        """Scaled latents, such as the last x_t, to pictures (b, 3, h, w) in [0, 1].

        check: raise ValueError for latents that look as the autoencoder's own, not scaled. Switch it off for those on
            the way, such as an x0_hat at the start, whose spread says nothing.
        """
        if check:
            self.vae.check_scaled(z)
        z = self.vae.unscale(z.float()).to(next(self.vae.parameters()))
        x = torch.cat([self._decode(part) for part in self._parts(z, self.vae.multiple)])
        return x.float().add(1).div(2).clamp(0, 1)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "LatentDiffusion":
        """A pipeline that ships with minildm, such as "pocket", or one written by `save_pretrained`; on the CPU.

        Raises FileNotFoundError where there is none, and ValueError for a damaged file.
        """
        parts, settings = files.read(files.find(name_or_folder))
        return cls(**parts, **settings)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        shipped: Mapping[str, str] | None = None,
        **record,
    ) -> Path:
        """Write all of it to a folder for `from_pretrained`; returns the folder, whose older contents it replaces.

        dtype, record: how numbers are stored, and how the networks were made, as in `weights.save`.
        shipped: networks that are not written, because minildm ships them: {"vae": "vae-pocket"} names the weights.
        Raises FileExistsError for a folder that holds something else, ValueError where shipped weights are not this
        pipeline's own, and what `weights.save` does.
        """
        parts = {name: getattr(self, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
        names = ("predicts", "size", "guidance", "spacing", "offset", "ends_clean", "sees_padding")
        settings = {name: getattr(self, name) for name in names}
        settings |= dict(words=self.words and sorted(self.words), betas=self.schedule.betas.tolist())
        parts = {name: part for name, part in parts.items() if part is not None}
        return files.write(Path(folder), parts, settings, dtype, shipped or {}, record)

    def _noise(self, n, size, x_T, sources):
        """The noise to start from, on the networks' device."""
        c, f = self.vae.latent_channels, self.vae.multiple
        if x_T is None:
            h, w = inputs.side_lengths(self.size if size is None else size, self.multiple)
            return inputs.noise((n, c, h // f, w // f), sources).to(self.device)
        if x_T.ndim != 4 or x_T.shape[1] != c or len(x_T) not in (1, n):
            raise ValueError(f"expected x_T: ({n}, {c}, h, w), got shape {tuple(x_T.shape)}")
        h, w = inputs.side_lengths([f * side for side in x_T.shape[2:]], self.multiple)
        if size is not None and inputs.side_lengths(size, self.multiple) != (h, w):
            raise ValueError(f"x_T of shape {tuple(x_T.shape)} is noise for pictures of {h}×{w}, not of {size}")
        return x_T.expand(n, *x_T.shape[1:]).to(self.device, torch.float32)

    def _denoiser(self, prompt, negative_prompt, y, n, guidance, beside):
        """The denoiser, told everything: (x_t, t) -> prediction."""
        if (prompt is None) != (self.text_encoder is None) or (prompt is None and negative_prompt != ""):
            expected = "no prompt: this model takes no words" if prompt else 'a prompt, "" to say nothing'
            raise ValueError(f"expected {expected}; got {prompt!r}, {negative_prompt=}")
        told = self._told(prompt, y, n)
        if guidance is None:  # where nothing is asked for there is nothing to exaggerate
            guidance = 1 if prompt is None and y is None else self.guidance
        untold = None if guidance == 1 else self._told(negative_prompt, None, n)
        return guided(steering.seeing(self.unet, beside), guidance, told, untold)

    def _told(self, prompt, y, n):
        """What the U-Net takes besides x_t and t."""
        told = {}
        if self.text_encoder is not None:
            told |= self._context(inputs.each(prompt, n))
        if self.unet.null_class is not None:
            told["y"] = inputs.labels(y, n, self.unet.null_class).to(self.device)
        elif y is not None:
            raise ValueError("got y, but this model knows no classes")
        return told

    def _context(self, texts):
        """Each different text passes the text encoder once."""
        different = list(dict.fromkeys(texts))
        ids, mask = (part.to(self.device) for part in self.tokenizer(different))
        if self.words is not None:
            inputs.warn_of_unknown(different, self.words)
        context = self.text_encoder(ids, mask).to(next(self.unet.parameters()).dtype)
        at = [different.index(text) for text in texts]
        return {"context": context[at]} | ({} if self.sees_padding else {"mask": mask[at]})

    def _parts(self, x, multiple=1):
        """Batches for the autoencoder, so that memory does not grow with the number of pictures."""
        pixels = x.shape[2] * x.shape[3] * multiple**2
        return x.split(max(1, 512**2 // pixels))

    def _encode(self, x):
        return self.vae.encode(x) if self.tile is None else tiled_encode(self.vae, x, self.tile)

    def _decode(self, z):
        return self.vae.decode(z) if self.tile is None else tiled_decode(self.vae, z, self.tile)
