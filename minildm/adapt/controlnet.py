"""ControlNet: a picture to follow, such as a mask, steers a frozen denoiser.

The denoiser's encoder is copied. The copy also sees the control picture, and what it finds at each level is added to
the frozen denoiser's skips. Each addition passes a convolution that starts at zero. So at first nothing changes, and
training begins with the denoiser as it was.
Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023), section 3.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from minildm.denoiser import Denoiser
from minildm.layers import conv3x3
from minildm.schedule import NoiseSchedule

HINT = (16, 32, 96, 256)  # widths of the small network that the control picture passes, as in the reference


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """Zero convolution: weight and bias start at 0. It learns all the same, since its input is not 0."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ControlNet(Denoiser):
    """The trained copy: a denoiser without its decoder, which also sees a control picture.

    `net(x_t, t, control, ...)` -> what is added to each skip, from fine to coarse, and last to the bottom of the U.

    control_channels: of the control picture (b, control_channels, H, W), with values in [0, 1], as `images.to_unit` and
        `images.to_masks` make it. It is as large as the finished picture, also where x_t is a latent.
    hint: widths of the convolutions that bring it to the size of x_t; each after the first halves it.
    denoiser: the arguments of the `Denoiser` that it is a copy of.
    Raises ValueError for a denoiser without skips.
    """

    def __init__(self, control_channels: int = 1, hint: Sequence[int] = HINT, **denoiser: object):
        super().__init__(**denoiser)
        if not self.skip or not hint:
            raise ValueError(
                "expected a denoiser with skips, which a ControlNet adds to, and one width or more in hint"
            )
        del self.up, self.norm, self.head  # the decoder is the frozen denoiser's
        self.control_channels, self.factor = control_channels, 2 ** (len(hint) - 1)
        self.config |= dict(control_channels=control_channels, hint=list(hint))

        widths = [self.stem.out_channels]  # of the skips
        for level, width in enumerate(self.config["channels"]):
            widths += [width] * self.config["blocks_per_level"]
            widths += [width] if 2**level < self.multiple else []
        self.hint = nn.ModuleList([conv3x3(control_channels, hint[0])])
        for before, after in zip(hint, hint[1:], strict=False):
            self.hint += [conv3x3(before, before), conv3x3(before, after, stride=2)]
        self.hint.append(zeroed(conv3x3(hint[-1], widths[0])))
        self.zeros = nn.ModuleList([zeroed(nn.Conv2d(width, width, 1)) for width in widths])
        self.zero_middle = zeroed(nn.Conv2d(widths[-1], widths[-1], 1))

    @classmethod
    def copy_of(cls, denoiser: Denoiser, control_channels: int = 1, factor: int = 1) -> "ControlNet":
        """The untrained ControlNet of a denoiser, with the weights of its encoder.

        factor: how many pixels of the picture make one of x_t, along a side: 1 in pixel space; with an autoencoder
            what that divides by, `pipe.vae.multiple`. A power of two, up to 8.
        """
        if not isinstance(denoiser, Denoiser) or isinstance(denoiser, ControlNet):
            raise ValueError(f"expected a Denoiser, whose encoder can be copied, got {type(denoiser).__name__}")
        if factor not in (1, 2, 4, 8):
            raise ValueError(f"expected factor as 1, 2, 4 or 8, pixels to a place of x_t, got {factor!r}")
        copy = cls(control_channels, HINT[: factor.bit_length()], **denoiser.config)
        copy.load_state_dict(denoiser.state_dict(), strict=False)
        return copy.to(next(denoiser.parameters()))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        control: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> list[Tensor]:
        self._check(x_t, t)
        self._check_control(control, x_t)
        cond = self.embed(t, context, mask, y)
        for conv in self.hint[:-1]:
            control = F.silu(conv(control))
        skips = [self.stem(x_t) + self.hint[-1](control)]  # (b, channels[0], h, w)
        for layer in self.down:
            skips.append(layer(skips[-1], cond))
        bottom = self.middle(skips[-1], cond)
        return [zero(skip) for zero, skip in zip(self.zeros, skips, strict=True)] + [self.zero_middle(bottom)]

    def _check_control(self, control, x_t):
        b, (h, w) = len(x_t), (side * self.factor for side in x_t.shape[2:])
        expected = (b, self.control_channels, h, w)
        if not isinstance(control, Tensor) or tuple(control.shape) != expected or not control.is_floating_point():
            found = f"{tuple(control.shape)} of {control.dtype}" if isinstance(control, Tensor) else repr(type(control))
            raise ValueError(
                f"expected control: {expected}, floating-point, one of the finished picture's size for each x_t, got "
                f"{found}; minildm.images.fit(pictures, ({h}, {w}), {self.control_channels}) makes it"
            )


class Controlled(nn.Module):
    """A frozen denoiser and its ControlNet, as one denoiser with one more condition, `control`.

        pipe.unet = Controlled(pipe.unet, ControlNet.copy_of(pipe.unet, factor=pipe.vae.multiple))
        training.train(pipe.unet, batch, denoising_loss, steps=1000)     # a batch holds "control"
        pipe("a cat", control=masks)                                     # (b, 1, H, W) in [0, 1]

    denoiser, controlnet: the two networks, or their configurations.  scale: how much of the additions counts; it can be
        set at any time. Without `control` the denoiser is what it was.
    Raises ValueError for a ControlNet that is not of such a denoiser.
    """

    def __init__(
        self,
        denoiser: Denoiser | Mapping[str, object],
        controlnet: ControlNet | Mapping[str, object],
        scale: float = 1.0,
    ):
        super().__init__()
        self.denoiser = Denoiser(**denoiser) if isinstance(denoiser, Mapping) else denoiser
        self.controlnet = ControlNet(**controlnet) if isinstance(controlnet, Mapping) else controlnet
        if not isinstance(self.denoiser, Denoiser) or not isinstance(self.controlnet, ControlNet):
            found = f"{type(self.denoiser).__name__} and {type(self.controlnet).__name__}"
            raise ValueError(f"expected a Denoiser and a ControlNet, got {found}")
        copied, own = self.controlnet.config, self.denoiser.config
        differ = [name for name in own if copied[name] != own[name] and name != "out_channels"]
        if differ:
            said = ", ".join(f"{name} is {copied[name]}, not {own[name]}" for name in differ)
            raise ValueError(f"this ControlNet is a copy of another denoiser: its {said}")
        self.denoiser.requires_grad_(False)
        self.scale = scale

    @property
    def config(self) -> dict[str, object]:
        """What `weights` writes to build it again."""
        return dict(denoiser=self.denoiser.config, controlnet=self.controlnet.config, scale=self.scale)

    @property
    def schedule(self) -> NoiseSchedule | None:
        """The denoiser's."""
        return self.denoiser.schedule

    @schedule.setter
    def schedule(self, schedule: NoiseSchedule | None) -> None:
        self.denoiser.schedule = schedule

    @property
    def conditions(self) -> frozenset[str]:
        """The denoiser's, and `control`."""
        return self.denoiser.conditions | {"control"}

    in_channels = property(lambda self: self.denoiser.in_channels)
    out_channels = property(lambda self: self.denoiser.out_channels)
    multiple = property(lambda self: self.denoiser.multiple)
    context_dim = property(lambda self: self.denoiser.context_dim)
    num_classes = property(lambda self: self.denoiser.num_classes)
    null_class = property(lambda self: self.denoiser.null_class)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        y: Tensor | None = None,
        control: Tensor | None = None,
    ) -> Tensor:
        """control: (b, control_channels, H, W) in [0, 1], H: h times `controlnet.factor`; the rest as of `Denoiser`."""
        u = self.denoiser
        if control is None:
            return u(x_t, t, context, mask, y)
        *to_skips, to_bottom = self.controlnet(x_t, t, control, context, mask, y)
        cond = u.embed(t, context, mask, y)
        skips = u.encode(x_t, cond)
        h = u.middle(skips[-1], cond) + self.scale * to_bottom
        skips = [skip + self.scale * more for skip, more in zip(skips, to_skips, strict=True)]
        return u.output(u.decode(h, skips, cond))
