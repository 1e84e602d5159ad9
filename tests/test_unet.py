import pytest
import torch
from torch import nn

from minildm import UNet
from minildm.layers import Cond, Downsample, ResidualBlock, Upsample
from minildm.tensors import seeded


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("channels, blocks", [((8,), 2), ((8, 12), 1), ((4, 8, 12), 2)])
def test_output_has_the_size_of_the_input_and_every_parameter_a_gradient(channels, blocks, skip):
    u = UNet(2, 5, channels, blocks, skip)
    y = u(images(3, 2, 8, 12))
    assert y.shape == (3, 5, 8, 12)
    y.square().sum().backward()
    assert [n for n, p in u.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_encoder_and_decoder_are_built_as_the_paper_says():
    u = UNet(1, 2, (8, 12, 16), blocks_per_level=2)
    down = [(type(m), m.conv1.in_channels, m.conv1.out_channels) for m in u.down if isinstance(m, ResidualBlock)]
    assert down == [(ResidualBlock, i, o) for i, o in [(8, 8), (8, 8), (8, 12), (12, 12), (12, 16), (16, 16)]]
    up = [(m.conv1.in_channels, m.conv1.out_channels) for m in u.up if isinstance(m, ResidualBlock)]
    assert up == [(32, 16), (32, 16), (28, 16), (28, 12), (24, 12), (20, 12), (20, 8), (16, 8), (16, 8)]
    assert [type(m) for m in u.down].count(Downsample) == [type(m) for m in u.up].count(Upsample) == 2


def test_equals_the_reference_on_the_same_weights():
    """diffusers' UNet2DModel has time; with its time projections at zero it is this U."""
    from diffusers import UNet2DModel

    with seeded(0):
        reference = UNet2DModel(
            in_channels=2,
            out_channels=3,
            block_out_channels=(8, 12, 20),
            layers_per_block=2,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            norm_num_groups=2,
            add_attention=False,
            norm_eps=1e-5,
        ).eval()
    for name, p in reference.named_parameters():
        if "time_emb_proj" in name:
            nn.init.zeros_(p)
    u = UNet(2, 3, (8, 12, 20), 2, groups=2, block=lambda i, o, level: ResidualBlock(i, o, groups=2))
    r = reference
    mine = [u.stem, *u.down, *u.middle, *u.up, u.norm, u.head]
    theirs = [r.conv_in]
    for level in r.down_blocks:
        theirs += [*level.resnets, *(level.downsamplers or [])]
    theirs += [*r.mid_block.resnets]
    for level in r.up_blocks:
        theirs += [*level.resnets, *(level.upsamplers or [])]
    theirs += [r.conv_norm_out, r.conv_out]
    for a, b in zip(mine, theirs, strict=True):
        state = {k.replace("conv_shortcut", "shortcut"): v for k, v in b.state_dict().items() if "time_emb" not in k}
        a.load_state_dict(state)
    x = images(2, 2, 12, 20)
    with torch.no_grad():
        assert (u(x) - reference(x, torch.tensor([3, 7])).sample).abs().max() < 1e-5


def test_without_skips_only_the_middle_reaches_the_decoder():
    for skip in (True, False):
        u = UNet(1, 1, (4, 8), skip=skip)
        x = images(1, 1, 8, 8)
        cut = u.decode(u.middle(u.encode(x)[-1] * 0), [torch.zeros_like(s) for s in u.encode(x)])
        other = u.decode(u.middle(u.encode(x)[-1] * 0), u.encode(x))
        assert torch.equal(cut, other) is not skip


def test_the_factory_is_asked_for_each_block_and_every_block_hears_cond():
    asked, heard = [], []

    class Block(ResidualBlock):
        def forward(self, x, cond):
            heard.append(cond)
            return super().forward(x, cond)

    def factory(in_channels, out_channels, level):
        asked.append((in_channels, out_channels, level))
        return Block(in_channels, out_channels)

    u = UNet(1, 1, (2, 3), block=factory)
    assert asked == [(2, 2, 0), (2, 3, 1), (3, 3, 1), (3, 3, 1), (6, 3, 1), (5, 3, 1), (5, 2, 0), (4, 2, 0)]
    cond = Cond(emb=torch.ones(1, 1))
    u(images(1, 1, 4, 6), cond)
    assert len(heard) == 8 and all(c is cond for c in heard)
    assert u.config is None


def test_config_builds_the_same_network_again():
    u = UNet(2, 5, (4, 8), 2, skip=False, eps=1e-3)
    twin = UNet(**u.config)
    twin.load_state_dict(u.state_dict())
    x = images(1, 2, 6, 4)
    assert torch.equal(u(x), twin(x))


def test_a_middle_of_your_own():
    u = UNet(1, 1, (4, 8), middle=lambda channels: ResidualBlock(channels, channels))
    assert u(images(1, 1, 4, 4)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    "x, says",
    [
        (images(1, 1, 6, 8), "halves the image 2 times; got 6×8: pad or resize it to 8×8"),
        (images(1, 3, 8, 8), "expected 1 channels, got 3"),
        (images(1, 8, 8), r"x\[None\]"),
    ],
)
def test_says_which_input_it_needs(x, says):
    with pytest.raises(ValueError, match=says):
        UNet(1, 1, (4, 8, 8))(x)


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, ()), (1, 1, (4, 0)), (1, 1, (4,), 0)])
def test_refuses_empty_networks(arguments):
    with pytest.raises(ValueError, match="expected at least one level and positive sizes"):
        UNet(*arguments)
