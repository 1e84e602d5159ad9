import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minildm.layers import Chain, Cond, Downsample, ResidualBlock, Upsample, group_norm


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("channels, groups", [(4, 1), (6, 1), (16, 4), (128, 32), (144, 24), (320, 32), (7, 1), (1, 1)])
def test_group_norm_picks_groups_that_divide(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="20 channels do not split into 8 groups"):
        group_norm(20, groups=8)


@pytest.mark.parametrize("out", [8, 12])
def test_a_block_keeps_the_size_and_reaches_every_parameter(out, generator):
    layer = ResidualBlock(8, out)
    layer(torch.randn(2, 8, 5, 7, generator=generator)).square().sum().backward()
    assert layer(torch.randn(2, 8, 5, 7, generator=generator)).shape == (2, out, 5, 7)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_residual_block_equals_the_reference(generator):
    from diffusers.models.resnet import ResnetBlock2D

    reference = ResnetBlock2D(in_channels=8, out_channels=12, temb_channels=None, groups=2, groups_out=2, eps=1e-5)
    block = ResidualBlock(8, 12, groups=2)
    names = {"shortcut": "conv_shortcut"}
    state = reference.state_dict()
    block.load_state_dict(
        {k: state[names.get(k.split(".")[0], k.split(".")[0]) + "." + k.split(".")[1]] for k in block.state_dict()}
    )
    x = torch.randn(2, 8, 5, 7, generator=generator)
    assert (block(x) - reference(x, None)).abs().max() < 1e-5


def test_residual_block_of_equal_widths_starts_from_its_input():
    block = ResidualBlock(8, 8)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(block(x), x)


def test_residual_block_lets_a_subclass_tell_it_something(generator):
    class Told(ResidualBlock):
        def condition(self, h, cond):
            return h + cond.emb[:, :, None, None]

    block, x = Told(4, 6), torch.randn(2, 4, 3, 5, generator=generator)
    silent, loud = block(x, Cond(emb=torch.zeros(2, 6))), block(x, Cond(emb=torch.arange(12.0).view(2, 6)))
    assert (silent - ResidualBlock.forward(block, x, Cond(emb=torch.zeros(2, 6)))).abs().max() == 0
    assert (silent - loud).abs().max() > 1e-3


def test_down_halves_and_up_doubles(generator):
    x = torch.randn(2, 3, 6, 10, generator=generator)
    down, up = Downsample(3), Upsample(3)
    assert down(x).shape == (2, 3, 3, 5)
    assert (down(x) - F.conv2d(x, down.conv.weight, down.conv.bias, padding=1)[:, :, ::2, ::2]).abs().max() < 1e-6
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert (up(x) - F.conv2d(doubled, up.conv.weight, up.conv.bias, padding=1)).abs().max() < 1e-6


def test_chain_hands_the_same_cond_to_each_block():
    heard = []

    class Listener(nn.Module):
        def forward(self, x, cond):
            heard.append(cond)
            return x + 1

    cond = Cond(emb=torch.ones(1, 2))
    assert Chain([Listener(), Listener()])(torch.zeros(1), cond).item() == 2
    assert heard == [cond, cond] and heard[0] is cond
